//! When to let packets gather before the next drain.
//!
//! At moderate load the dearest part of a packet is waking up for it: a thread that falls asleep between any two packets
//! pays more for that than for relaying. A short sleep that is *not* ended by the next packet turns several wake-ups into
//! one. Three cases:
//!
//! - idle or slow: no pause. A lone packet is relayed as soon as the kernel has it.
//! - moderate: at least [`GATHER`] packets are expected within a pause, by the rate of the last millisecond. Instead of
//!   waiting for the next packet, sleep for the configured time, then drain.
//! - busy: something is ready again as soon as a turn is over, and the next turn follows at once. Only where streams were
//!   visited for a packet or two each is there a pause first: a read, and a write, of three frames costs hardly more than of
//!   one. A datagram gains nothing from that. Nor is there a pause after a long turn, so that a worker that needs all its
//!   time has it.

use core::time::Duration;

use crate::turn::time::Instant;

/// A pause must be expected to gather this many packets.
const GATHER: u64 = 3;
/// A stream visited for fewer packets than this might have had more a little later.
const WELL_FILLED: u64 = 4;
/// A turn of so many pauses has gathered enough by itself.
const LONG_TURN: u32 = 4;
/// The rate is measured over at least this long.
const WINDOW: Duration = Duration::from_millis(1);

/// Decides about pauses from the rate it is told. Reads no clock.
#[derive(Debug)]
pub(super) struct Pace {
    length: Duration,
    window_start: Instant,
    packets: u64,
    moderate: bool,
}

impl Pace {
    /// `length` is every pause's length; zero: never pause.
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            window_start: Instant::ZERO,
            packets: 0,
            moderate: false,
        }
    }

    /// Takes note of a turn that began at `began` and handled `packets`.
    pub(super) fn count(&mut self, began: Instant, packets: u64) {
        self.packets += packets;
        let elapsed = began - self.window_start;
        if elapsed >= WINDOW {
            // expected = rate * length, compared without dividing.
            let expected = u128::from(self.packets) * self.length.as_nanos();
            self.moderate = expected >= u128::from(GATHER) * elapsed.as_nanos();
            self.window_start = began;
            self.packets = 0;
        }
    }

    /// How long to sleep instead of waiting for the next packet.
    pub(super) fn pause(&self) -> Option<Duration> {
        (self.moderate && !self.length.is_zero()).then_some(self.length)
    }

    /// How long to sleep although something is ready, after a turn of `turn` that visited streams, to read or to write,
    /// `visits` times and handled `packets`.
    pub(super) fn rest(&self, turn: Duration, visits: u64, packets: u64) -> Option<Duration> {
        let pause = self.pause()?;
        (packets < visits * WELL_FILLED && turn < pause * LONG_TURN).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_micros(100);

    /// Runs turns of `packets` every `gap` for 10 ms and returns the last decision.
    fn steady(pace: &mut Pace, start: Instant, gap: Duration, packets: u64) -> Option<Duration> {
        let mut now = start;
        while now - start < Duration::from_millis(10) {
            now = now + gap;
            pace.count(now, packets);
        }
        pace.pause()
    }

    #[test]
    fn a_slow_rate_never_pauses_and_a_moderate_one_does() {
        let mut pace = Pace::new(LENGTH);
        // 3 packets per 100 µs is the edge: 30 000 a second.
        assert_eq!(steady(&mut pace, Instant::ZERO, Duration::from_nanos(33_400), 1), None);
        let later = Instant::ZERO + Duration::from_secs(1);
        assert_eq!(steady(&mut pace, later, Duration::from_nanos(33_300), 1), Some(LENGTH));
        let batches = later + Duration::from_secs(1);
        assert_eq!(steady(&mut pace, batches, LENGTH, 3), Some(LENGTH));
    }

    #[test]
    fn a_lone_packet_after_silence_meets_no_pause() {
        let mut pace = Pace::new(LENGTH);
        steady(&mut pace, Instant::ZERO, Duration::from_micros(10), 1);
        for millis in [30, 50] {
            pace.count(Instant::ZERO + Duration::from_millis(millis), 1);
            assert_eq!(pace.pause(), None, "it is handled at once, and no pause is behind it");
        }
    }

    #[test]
    fn a_busy_worker_pauses_only_for_streams_that_bring_little_at_a_time() {
        let mut pace = Pace::new(LENGTH);
        let short = Duration::from_micros(50);
        assert_eq!(pace.rest(short, 10, 10), None, "idle");
        steady(&mut pace, Instant::ZERO, Duration::from_micros(10), 1);
        assert_eq!(pace.rest(short, 10, 10), Some(LENGTH));
        assert_eq!(pace.rest(short, 10, 39), Some(LENGTH));
        assert_eq!(pace.rest(short, 10, 40), None, "well filled");
        assert_eq!(pace.rest(short, 0, 10), None, "datagrams only");
        assert_eq!(pace.rest(Duration::from_micros(399), 10, 10), Some(LENGTH));
        assert_eq!(
            pace.rest(Duration::from_micros(400), 10, 10),
            None,
            "needs all its time"
        );
    }

    #[test]
    fn zero_switches_it_off() {
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(steady(&mut pace, Instant::ZERO, Duration::from_micros(1), 1), None);
        assert_eq!(pace.rest(Duration::ZERO, 1, 1), None);
    }
}
