//! When to let packets gather before the next drain.
//!
//! At moderate load the dearest part of a packet is waking up for it: a thread that sleeps in the kernel between any two
//! packets pays more for that than for relaying. A short sleep that is *not* ended by the next packet turns several
//! wake-ups into one. Three cases, told apart by the packet rate of the last milliseconds:
//!
//! - idle or slow: no pause. A lone packet is relayed as soon as the kernel has it.
//! - moderate: at least [`GATHER`] packets are expected within the longest pause. Pause, for as long as is configured.
//! - busy: the last turn took longer than a pause would, so packets have gathered meanwhile. There is nothing to gain,
//!   and time to lose.

use core::time::Duration;

use crate::turn::time::Instant;

/// A pause must be expected to gather this many packets.
const GATHER: u64 = 3;
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

    /// After a turn that handled `packets` between `began` and `ended`: how long to sleep before the next.
    pub(super) fn after(&mut self, began: Instant, ended: Instant, packets: u64) -> Option<Duration> {
        self.packets += packets;
        let elapsed = began - self.window_start;
        if elapsed >= WINDOW {
            // expected = rate * longest, compared without dividing.
            let expected = u128::from(self.packets) * self.longest.as_nanos();
            self.moderate = expected >= u128::from(GATHER) * elapsed.as_nanos();
            self.window_start = began;
            self.packets = 0;
        }
        (self.moderate && ended - began < self.longest).then_some(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(100);

    /// Runs turns of `packets` every `gap` for 10 ms, each taking `work`, and returns the last decision.
    fn steady(pace: &mut Pace, start: Instant, gap: Duration, packets: u64, work: Duration) -> Option<Duration> {
        let mut now = start;
        let mut last = None;
        while now - start < Duration::from_millis(10) {
            now = now + gap;
            last = pace.after(now, now + work, packets);
        }
        last
    }

    #[test]
    fn a_slow_rate_never_pauses_and_a_moderate_one_does() {
        let mut pace = Pace::new(LONGEST);
        // 3 packets per 100 µs is the edge: 30 000 a second.
        let work = Duration::from_micros(5);
        assert_eq!(
            steady(&mut pace, Instant::ZERO, Duration::from_nanos(33_400), 1, work),
            None
        );
        let later = Instant::ZERO + Duration::from_secs(1);
        assert_eq!(
            steady(&mut pace, later, Duration::from_nanos(33_300), 1, work),
            Some(LONGEST)
        );
    }

    #[test]
    fn a_turn_as_long_as_a_pause_is_not_followed_by_one() {
        let mut pace = Pace::new(LONGEST);
        let just_shorter = LONGEST - Duration::from_nanos(1);
        assert_eq!(
            steady(&mut pace, Instant::ZERO, LONGEST, 20, just_shorter),
            Some(LONGEST)
        );
        assert_eq!(
            steady(&mut pace, Instant::ZERO + Duration::from_secs(1), LONGEST, 20, LONGEST),
            None
        );
    }

    #[test]
    fn a_lone_packet_after_silence_meets_no_pause() {
        let mut pace = Pace::new(LONGEST);
        steady(&mut pace, Instant::ZERO, Duration::from_micros(10), 1, Duration::ZERO);
        for millis in [30, 50] {
            let now = Instant::ZERO + Duration::from_millis(millis);
            assert_eq!(pace.after(now, now, 1), None, "handled at once, and no pause behind it");
        }
    }

    #[test]
    fn zero_switches_it_off() {
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(
            steady(&mut pace, Instant::ZERO, Duration::from_micros(1), 1, Duration::ZERO),
            None
        );
    }
}
