//! When to let packets gather before the next drain.
//!
//! At moderate load the dearest part of a packet is waking up for it: a thread that sleeps in the kernel between any two
//! packets pays more for that than for relaying. A short sleep that is *not* ended by the next packet turns several
//! wake-ups into one. Three cases, told apart by the packet rate of the last milliseconds:
//!
//! - idle or slow: no pause. A lone packet is relayed as soon as the kernel has it.
//! - moderate: at least [`GATHER`] packets are expected within the longest pause. Pause, for as long as is configured.
//! - busy: the last turn already brought many packets at once. There is nothing to gain, and time to lose.

use core::time::Duration;

use crate::turn::time::Instant;

/// A pause must be expected to gather this many packets.
const GATHER: u64 = 3;
/// A turn of this many packets is a batch already.
const BUSY: u64 = 64;
/// The rate is measured over at least this long.
const WINDOW: Duration = Duration::from_millis(1);

/// Decides about pauses from the rate it is told. Reads no clock.
#[derive(Debug)]
pub(super) struct Pace {
    longest: Duration,
    window_start: Instant,
    packets: u64,
    moderate: bool,
}

impl Pace {
    /// `longest` is every pause's length; zero: never pause.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            window_start: Instant::ZERO,
            packets: 0,
            moderate: false,
        }
    }

    /// After a turn that began at `now` and handled `packets`: how long to sleep before the next.
    pub(super) fn after(&mut self, now: Instant, packets: u64) -> Option<Duration> {
        self.packets += packets;
        let elapsed = now - self.window_start;
        if elapsed >= WINDOW {
            // expected = rate * longest, compared without dividing.
            let expected = u128::from(self.packets) * self.longest.as_nanos();
            self.moderate = expected >= u128::from(GATHER) * elapsed.as_nanos();
            self.window_start = now;
            self.packets = 0;
        }
        (self.moderate && packets < BUSY && !self.longest.is_zero()).then_some(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(100);

    /// Runs turns of `packets` every `gap` for 10 ms and returns the last decision.
    fn steady(pace: &mut Pace, start: Instant, gap: Duration, packets: u64) -> Option<Duration> {
        let mut now = start;
        let mut last = None;
        while now - start < Duration::from_millis(10) {
            now = now + gap;
            last = pace.after(now, packets);
        }
        last
    }

    #[test]
    fn a_slow_rate_never_pauses_and_a_moderate_one_does() {
        let mut pace = Pace::new(LONGEST);
        // 3 packets per 100 µs is the edge: 30 000 a second.
        assert_eq!(steady(&mut pace, Instant::ZERO, Duration::from_nanos(33_400), 1), None);
        let later = Instant::ZERO + Duration::from_secs(1);
        assert_eq!(steady(&mut pace, later, Duration::from_nanos(33_300), 1), Some(LONGEST));
    }

    #[test]
    fn a_batch_that_is_large_already_is_not_delayed() {
        let mut pace = Pace::new(LONGEST);
        assert_eq!(steady(&mut pace, Instant::ZERO, LONGEST, 63), Some(LONGEST));
        assert_eq!(
            steady(&mut pace, Instant::ZERO + Duration::from_secs(1), LONGEST, 64),
            None
        );
    }

    #[test]
    fn a_lone_packet_after_silence_meets_no_pause() {
        let mut pace = Pace::new(LONGEST);
        steady(&mut pace, Instant::ZERO, Duration::from_micros(10), 1);
        let later = Instant::ZERO + Duration::from_millis(30);
        assert_eq!(
            pace.after(later, 1),
            None,
            "the first packet is handled at once and the pause is off behind it"
        );
        assert_eq!(pace.after(later + Duration::from_millis(20), 1), None);
    }

    #[test]
    fn zero_switches_it_off() {
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(steady(&mut pace, Instant::ZERO, Duration::from_micros(1), 1), None);
    }
}
