//! When to let packets gather before the next drain.
//!
//! At moderate load the main cost of a packet is the wake-up: a thread that sleeps between any two
//! packets pays more for that than for relaying. A short sleep that the next packet does *not* end
//! turns several wake-ups into one. Three cases:
//!
//! - idle or slow: no pause. A lone packet is relayed as soon as the kernel has it.
//! - moderate: at least [`GATHER`] packets are expected within a pause, by the rate of the last
//!   millisecond. Instead of waiting for the next packet, sleep for the configured time, then
//!   drain.
//! - busy: something is ready again as soon as a turn is over, and the next turn follows at once.
//!   There is a pause first in two cases. First, after a short turn of a worker with half of its
//!   time to spare: little has arrived meanwhile, and a turn costs much per packet then. Second,
//!   after reads and writes of streams with few packets each: a read or write of six frames costs
//!   hardly more than one of three. A long turn has no pause behind it, so that a busy worker has
//!   all its time.

use core::time::Duration;

use crate::base::time::Instant;

/// A pause must be expected to gather this many packets.
const GATHER: u64 = 3;
/// A turn of less than this part of a pause is short.
const SHORT_TURN: u32 = 2;
/// A read or write of a stream with fewer packets than this might have had more a little later.
const WELL_FILLED: u64 = 8;
/// A turn as long as this many pauses has gathered enough by itself.
const LONG_TURN: u32 = 4;
/// The rate is measured over at least this long.
const WINDOW: Duration = Duration::from_millis(1);

/// One turn of the loop.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    /// How long it took.
    pub(super) length: Duration,
    /// Packets handled.
    pub(super) packets: u64,
    /// Reads and writes of streams.
    pub(super) stream_calls: u64,
}

/// Decides about pauses from the turns reported to it. Reads no clock.
#[derive(Debug)]
pub(super) struct Pace {
    length: Duration,
    window_start: Instant,
    packets: u64,
    busy: Duration,
    last: Turn,
    moderate: bool,
    /// Half of the time was spent waiting or pausing.
    spare: bool,
}

impl Pace {
    /// `length` is every pause's length; zero: never pause.
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            window_start: Instant::ZERO,
            packets: 0,
            busy: Duration::ZERO,
            last: Turn::default(),
            moderate: false,
            spare: false,
        }
    }

    /// Counts a turn that began at `began`.
    pub(super) fn count(&mut self, began: Instant, turn: Turn) {
        self.last = turn;
        self.packets += turn.packets;
        self.busy += turn.length;
        let elapsed = began - self.window_start;
        if elapsed >= WINDOW {
            // expected = rate * length, compared without dividing.
            let expected = u128::from(self.packets) * self.length.as_nanos();
            self.moderate = expected >= u128::from(GATHER) * elapsed.as_nanos();
            self.spare = self.busy * 2 <= elapsed;
            self.window_start = began;
            self.packets = 0;
            self.busy = Duration::ZERO;
        }
    }

    /// How long to sleep instead of waiting for the next packet.
    pub(super) fn pause(&self) -> Option<Duration> {
        (self.moderate && !self.length.is_zero()).then_some(self.length)
    }

    /// Whether that sleep comes first even if something is ready.
    pub(super) fn insists(&self) -> bool {
        let turn = self.last;
        (self.spare && turn.length < self.length / SHORT_TURN)
            || (turn.packets < turn.stream_calls * WELL_FILLED && turn.length < self.length * LONG_TURN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_micros(100);

    /// A turn of datagrams.
    fn turn(micros: u64, packets: u64) -> Turn {
        Turn {
            length: Duration::from_micros(micros),
            packets,
            stream_calls: 0,
        }
    }

    /// Runs turns of `packets` every `gap` for 10 ms and returns the last decision.
    fn steady(pace: &mut Pace, start: Instant, gap: Duration, packets: u64) -> Option<Duration> {
        let mut now = start;
        while now - start < Duration::from_millis(10) {
            now = now + gap;
            pace.count(now, turn(0, packets));
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
            pace.count(Instant::ZERO + Duration::from_millis(millis), turn(0, 1));
            assert_eq!(pace.pause(), None, "it is handled at once, and no pause is behind it");
        }
    }

    #[test]
    fn a_short_turn_is_followed_by_a_pause_while_half_of_the_time_is_left() {
        let mut pace = Pace::new(LENGTH);
        let mut now = Instant::ZERO;
        for (busy, insists) in [(45, true), (50, false), (120, false)] {
            for _ in 0..20 {
                now = now + Duration::from_micros(200);
                pace.count(now, turn(busy, 14));
            }
            assert_eq!(
                (pace.pause(), pace.insists()),
                (Some(LENGTH), insists),
                "{busy} of 200 µs"
            );
        }
        pace.count(now, turn(10, 2));
        assert!(!pace.insists(), "120 of 200 µs were spent until now");
    }

    #[test]
    fn a_busy_worker_pauses_only_for_streams_that_bring_little_at_a_time() {
        let mut pace = Pace::new(LENGTH);
        let mut insists = |micros, stream_calls, packets| {
            pace.count(
                Instant::ZERO,
                Turn {
                    stream_calls,
                    ..turn(micros, packets)
                },
            );
            pace.insists()
        };
        assert!(insists(50, 10, 10));
        assert!(insists(50, 10, 79));
        assert!(!insists(50, 10, 80), "well filled");
        assert!(!insists(50, 0, 10), "datagrams only");
        assert!(insists(399, 10, 10));
        assert!(!insists(400, 10, 10), "needs all its time");
    }

    #[test]
    fn zero_switches_it_off() {
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(steady(&mut pace, Instant::ZERO, Duration::from_micros(1), 1), None);
    }
}
