//! Estimates how long a byte written to the socket now takes to reach the client's program.
//!
//! Beyond our own queue, bytes wait in two places between a peer and a slow client. First, the
//! bytes that the socket has not sent or that are not acknowledged, mostly in the queue of the
//! narrowest link. Then, the bytes that the client's system has received and its program has not
//! read. Both drain at the rate at which the client accepts bytes, so their number and that rate
//! give the time.

use core::time::Duration;

use relay_proto::base::time::Instant;

/// Shortest time of a rate measurement, because a client's system often acknowledges in steps of
/// half its buffer.
const MEASURED: Duration = Duration::from_millis(50);
/// A measurement that took longer than this was interrupted and is discarded.
const STALE: Duration = Duration::from_millis(250);
/// The shortest and longest wait for a path to empty.
const WAIT: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// The socket's measurements of the path to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathState {
    /// Bytes that the client's system has acknowledged, since any fixed time.
    pub acknowledged: u64,
    /// Bytes written to the socket but not yet acknowledged.
    pub outstanding: u64,
    /// The client's receive window in bytes, as last announced.
    pub window: u32,
    /// Recent round-trip time.
    pub round_trip: Duration,
    /// The shortest round-trip time so far: the path without queues.
    pub shortest_round_trip: Duration,
}

/// The path to one client.
#[derive(Debug, Default)]
pub(super) struct NetworkPath {
    state: PathState,
    observed_at: Option<Instant>,
    /// Start of the rate measurement: the time, and the bytes acknowledged by then.
    since: Option<(Instant, u64)>,
    /// Bytes per second; `None` until measured.
    pace: Option<u64>,
    /// The largest receive window so far. The difference from the current one is what the client's
    /// program has not read.
    largest_window: u32,
}

impl NetworkPath {
    /// Whether the last observation is old enough for another one to be worth its cost.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.observed_at.is_none_or(|at| now - at >= MEASURED)
    }

    /// Records an observation.
    pub(super) fn observe(&mut self, now: Instant, state: PathState) {
        self.state = state;
        self.observed_at = Some(now);
        self.largest_window = self.largest_window.max(state.window);
        let measured = self.since.map(|(since, before)| (now - since, before));
        match measured {
            Some((elapsed, _)) if elapsed < MEASURED => {}
            Some((elapsed, before)) if elapsed <= STALE => {
                let taken = u128::from(state.acknowledged.saturating_sub(before)) * 1_000_000_000 / elapsed.as_nanos();
                self.pace = Some(u64::try_from(taken).unwrap_or(u64::MAX));
                self.since = Some((now, state.acknowledged));
            }
            _ => {
                self.pace = None;
                self.since = Some((now, state.acknowledged));
            }
        }
    }

    /// Restarts the measurement: the previous rate was that of the peer, and the next is that of
    /// the client.
    pub(super) fn measure_anew(&mut self) {
        (self.since, self.pace) = (None, None);
    }

    /// How long until the client reads `bytes` written after everything else, at most `most`;
    /// `None` while the rate is unknown.
    pub(super) fn time(&self, bytes: usize, most: Duration) -> Option<Duration> {
        let unread = u64::from(self.largest_window - self.state.window);
        Some(self.time_of(self.state.outstanding + unread + bytes as u64)?.min(most))
    }

    /// How long to write nothing, so that the queues up to the client's system drain to `limit`.
    /// Data in those queues is out of reach, so anything beyond the limit is better kept here,
    /// where it can be dropped.
    ///
    /// Valid only directly after [`Self::observe`], and only if round trips have really become
    /// longer. A burst alone, on a path with capacity to spare, is not a queue.
    pub(super) fn wait(&self, now: Instant, limit: Duration) -> Option<Duration> {
        let queued = self.state.round_trip.saturating_sub(self.state.shortest_round_trip);
        if self.observed_at != Some(now) || queued < limit / 2 {
            return None;
        }
        let excess = self
            .time_of(self.state.outstanding)?
            .checked_sub(self.state.shortest_round_trip + limit)?;
        Some(excess.clamp(WAIT[0], WAIT[1]))
    }

    /// How long `bytes` take at the measured rate.
    fn time_of(&self, bytes: u64) -> Option<Duration> {
        let pace = self.pace?;
        Some(match bytes.saturating_mul(1_000_000).checked_div(pace) {
            Some(micros) => Duration::from_micros(micros),
            None => Duration::MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);
    const LIMIT: Duration = Duration::from_millis(75);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + ms(millis)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A client that accepts 250 bytes per millisecond, at `millis`.
    fn state(millis: u64, outstanding: u64) -> PathState {
        PathState {
            acknowledged: 1_000_000 + 250 * millis,
            outstanding,
            window: 16_000,
            round_trip: ms(100),
            shortest_round_trip: ms(20),
        }
    }

    #[test]
    fn what_is_on_the_way_is_told_in_time_once_the_pace_is_known() {
        let mut path = NetworkPath::default();
        path.observe(at(0), state(0, 5_000));
        path.observe(at(49), state(49, 5_000));
        assert_eq!(path.time(0, MOST), None);
        path.observe(at(50), state(50, 5_000));
        assert_eq!(path.time(0, MOST), Some(ms(20)));
        assert_eq!(path.time(2_500, MOST), Some(ms(30)));
        assert_eq!(path.time(2_500, ms(25)), Some(ms(25)));
        path.measure_anew();
        assert_eq!(path.time(0, MOST), None);
    }

    #[test]
    fn what_the_clients_program_has_not_read_counts_as_well() {
        let mut path = NetworkPath::default();
        for millis in [0, 50] {
            path.observe(at(millis), state(millis, 5_000));
        }
        let window = 6_000;
        path.observe(
            at(60),
            PathState {
                window,
                ..state(60, 5_000)
            },
        );
        assert_eq!(path.time(0, MOST), Some(ms(60)), "5 000 bytes here, 10 000 there");
    }

    #[test]
    fn a_client_that_takes_nothing_takes_for_ever() {
        let mut path = NetworkPath::default();
        for millis in [0, 50] {
            path.observe(at(millis), state(0, 5_000));
        }
        assert_eq!(path.time(0, MOST), Some(MOST));
        assert_eq!(path.wait(at(50), LIMIT), Some(WAIT[1]));
    }

    #[test]
    fn a_measurement_with_a_gap_in_it_is_none() {
        let mut path = NetworkPath::default();
        path.observe(at(0), state(0, 5_000));
        path.observe(at(251), state(251, 5_000));
        assert_eq!(path.time(0, MOST), None);
        path.observe(at(301), state(301, 5_000));
        assert_eq!(path.time(0, MOST), Some(ms(20)));
    }

    #[test]
    fn a_long_queue_is_waited_for_and_a_burst_or_an_old_look_is_not() {
        let mut path = NetworkPath::default();
        path.observe(at(0), state(0, 0));
        // 95 ms of bytes correspond to 75 ms of queue and 20 ms of path.
        for (bytes, wait) in [
            (95 * 250, Some(2)),
            (100 * 250, Some(5)),
            (400 * 250, Some(50)),
            (94 * 250, None),
        ] {
            path.observe(at(50), state(50, bytes));
            assert_eq!(path.wait(at(50), LIMIT), wait.map(ms), "{bytes} bytes");
        }
        let burst = PathState {
            round_trip: ms(57),
            ..state(50, 100 * 250)
        };
        path.observe(at(50), burst);
        assert_eq!(path.wait(at(50), LIMIT), None, "round trips are about as short as ever");
        path.observe(at(50), state(50, 100 * 250));
        assert_eq!(path.wait(at(51), LIMIT), None, "looked at a millisecond ago");
    }

    #[test]
    fn a_look_is_due_every_50_ms() {
        let mut path = NetworkPath::default();
        assert!(path.is_due(at(0)));
        path.observe(at(0), state(0, 0));
        assert!(!path.is_due(at(49)) && path.is_due(at(50)));
    }
}
