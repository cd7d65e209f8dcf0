//! The only place that reads a clock. All other code receives the time as a value, once per batch.

use core::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use relay_proto::base::time::{Instant, Now, UnixTime};

use rustix::time::{ClockId, clock_gettime};

/// The monotonic and the wall clock.
///
/// Instants count from the origin of `CLOCK_MONOTONIC`. So instants of different workers are
/// comparable, and so are those of different processes on one machine until it reboots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    ahead: Duration,
}

impl Clock {
    /// The same clock with its monotonic time advanced by `by`, for tests.
    #[must_use]
    pub fn ahead(self, by: Duration) -> Self {
        Self { ahead: self.ahead + by }
    }

    /// Both times. A wall clock set before 1970 counts as 1970.
    pub fn now(&self) -> Now {
        Now {
            mono: self.mono(),
            unix: unix_now(),
        }
    }

    /// The monotonic time.
    pub fn mono(&self) -> Instant {
        let time = clock_gettime(ClockId::Monotonic);
        // Neither is negative: the clock starts at boot, and nanoseconds are less than a second.
        let since = Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32);
        Instant::ZERO + (since + self.ahead)
    }
}

/// The wall-clock time.
#[expect(clippy::disallowed_methods, reason = "this is the one clock")]
pub fn unix_now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(since.map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_and_time_does_not_go_back() {
        let (one, other) = (Clock::default(), Clock::default());
        let a = one.now();
        let b = other.now();
        assert!(b.mono >= a.mono && b.unix >= a.unix);
        assert!(a.unix.0 > 1_700_000_000);
    }

    #[test]
    fn instants_count_from_the_origin_of_the_systems_monotonic_clock() {
        // Uptime has hundredths of a second, and includes the time in which the machine was
        // suspended.
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let ours = Duration::from_nanos(Clock::default().mono().as_nanos());
        // An origin at the start of the process would give milliseconds here.
        assert!(
            (1.0..uptime + 10.0).contains(&ours.as_secs_f64()),
            "{ours:?}, uptime {uptime} s"
        );
    }

    #[test]
    fn a_clock_set_ahead_is_ahead() {
        let now = Clock::default().mono();
        let ahead = Clock::default().ahead(Duration::from_secs(3600)).mono();
        assert!(ahead.saturating_since(now) >= Duration::from_secs(3600));
    }
}
