//! The only place that reads a clock. Everything else is told the time, once per batch.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::time::{Instant, Now, UnixTime};

/// Both clocks. Copies share their origin, so instants of different shards compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            origin: std::time::Instant::now(),
        }
    }

    /// The same clock, monotonic time that much further on: for tests.
    #[must_use]
    pub fn ahead(self, by: core::time::Duration) -> Self {
        Self {
            origin: self.origin - by,
        }
    }

    /// The time. A wall clock set before 1970 counts as 1970.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Now {
            mono: self.mono(),
            unix: UnixTime(unix),
        }
    }

    /// Monotonic time alone.
    pub fn mono(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }
}

/// The wall clock alone.
pub fn unix_now() -> UnixTime {
    Clock::start().now().unix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_agree_and_time_does_not_go_back() {
        let clock = Clock::start();
        let copy = clock;
        let a = clock.now();
        let b = copy.now();
        assert!(b.mono >= a.mono && b.unix >= a.unix);
        assert!(a.unix.0 > 1_700_000_000);
    }
}
