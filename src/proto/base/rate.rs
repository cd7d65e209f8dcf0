//! Rates: token buckets, alone or in tables of fixed size that never grow.
//!
//! The tables hash sources into buckets. Two sources that share a bucket share its budget, so a
//! collision admits too few events and never too many.

use core::hash::{BuildHasher, Hash};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::net::IpAddr;

use foldhash::quality::FixedState;

use super::source::{Network, Source};
use super::time::Instant;

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds of budget that one event costs; `None` admits no event.
    interval: Option<u64>,
    /// How far the budget may be overdrawn, in nanoseconds.
    tolerance: u64,
}

impl Rate {
    /// `per_second` events per second, of which `burst` (at least 1) may come at once. A rate of 0
    /// admits nothing.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let Some(interval) = 1_000_000_000_u64.checked_div(per_second as u64) else {
            return Self {
                interval: None,
                tolerance: 0,
            };
        };
        Self {
            interval: Some(interval),
            tolerance: interval * (burst.saturating_sub(1)) as u64,
        }
    }

    /// One event every `interval`, of which `burst` (at least 1) may come at once.
    pub const fn every(interval: Duration, burst: u32) -> Self {
        let interval = interval.as_nanos() as u64;
        Self {
            interval: Some(interval),
            tolerance: interval * (burst.saturating_sub(1)) as u64,
        }
    }

    /// `n` events per second, all of which may come at once.
    pub const fn per_second(n: u32) -> Self {
        Self::new(n, n)
    }

    /// The bucket's next state if it admits one more event.
    ///
    /// This is the generic cell rate algorithm: `until` is the time at which the budget is full
    /// again.
    fn admit(self, until: u64, now: Instant) -> Option<u64> {
        let until = until.max(now.as_nanos());
        (until - now.as_nanos() <= self.tolerance).then_some(until.saturating_add(self.interval?))
    }

    /// How long after `now` a refused event would be admitted; [`Duration::MAX`] if never.
    fn wait(self, until: u64, now: Instant) -> Duration {
        if self.interval.is_none() {
            return Duration::MAX;
        }
        Duration::from_nanos(until.saturating_sub(now.as_nanos()).saturating_sub(self.tolerance))
    }
}

/// One token bucket, for use by one allocation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    until: u64,
}

impl Bucket {
    /// Takes one token; `false` if there is none.
    pub fn admit(&mut self, now: Instant, rate: Rate) -> bool {
        match rate.admit(self.until, now) {
            Some(until) => {
                self.until = until;
                true
            }
            None => false,
        }
    }
}

/// Token buckets for all sources, in 512 KiB.
#[derive(Debug)]
pub struct RateTable {
    buckets: Box<[SharedBucket]>,
    hasher: FixedState,
}

impl RateTable {
    /// Number of buckets, of eight bytes each.
    pub const BUCKETS: usize = 1 << 16;

    /// All buckets full. `seed` must be unpredictable: it determines which sources share a bucket.
    pub fn new(seed: u64) -> Self {
        Self {
            buckets: (0..Self::BUCKETS).map(|_| SharedBucket::default()).collect(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Takes one token of `source`; `false` if there is none.
    pub fn admit(&self, now: Instant, source: Source, rate: Rate) -> bool {
        self.admit_key(now, source, rate)
    }

    /// As [`Self::admit`], for a key that is not a source, such as a user.
    pub fn admit_key(&self, now: Instant, key: impl Hash, rate: Rate) -> bool {
        self.bucket(key).admit(now, rate)
    }

    /// Takes one token of `key`.
    ///
    /// # Errors
    /// There is none. The value is the time until there is one.
    pub fn take(&self, now: Instant, key: impl Hash, rate: Rate) -> Result<(), Duration> {
        self.bucket(key).take(now, rate)
    }

    /// As [`Self::admit`], for a network. A table holds either sources or networks.
    pub fn admit_network(&self, now: Instant, network: Network, rate: Rate) -> bool {
        self.bucket(network).admit(now, rate)
    }

    /// Whether [`Self::admit`] would refuse.
    pub fn is_exhausted(&self, now: Instant, source: Source, rate: Rate) -> bool {
        rate.admit(self.bucket(source).0.load(Relaxed), now).is_none()
    }

    fn bucket(&self, key: impl Hash) -> &SharedBucket {
        &self.buckets[self.hasher.hash_one(key) as usize % Self::BUCKETS]
    }
}

/// Limits how often something starts: a rate per source and a rate per network.
#[derive(Debug)]
pub struct Arrivals {
    sources: RateTable,
    networks: RateTable,
    per_source: Rate,
    per_network: Rate,
}

impl Arrivals {
    /// A source may start `source_burst` at once and then `per_second` per second. A network gets
    /// `network_burst` at once, and a rate that is larger by the same factor. What stays open costs
    /// no further tokens; only repeated starts do.
    pub fn new(seed: u64, per_second: u32, source_burst: u32, network_burst: u32) -> Self {
        let times = u64::from(network_burst) * u64::from(per_second) / u64::from(source_burst.max(1));
        let network_rate = u32::try_from(times).unwrap_or(u32::MAX).max(per_second);
        Self {
            sources: RateTable::new(seed),
            networks: RateTable::new(!seed),
            per_source: Rate::new(per_second, source_burst),
            per_network: Rate::new(network_rate, network_burst),
        }
    }

    /// Whether `client` may start one more.
    pub fn admit(&self, now: Instant, client: IpAddr) -> bool {
        let source = Source::from(client);
        // The network's budget comes second, so that no source takes more of it than its own share.
        self.sources.admit(now, source, self.per_source)
            && self.networks.admit_network(now, source.network(), self.per_network)
    }
}

/// A token bucket that several shards share.
#[derive(Debug, Default)]
pub struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// Takes one token; `false` if there is none.
    pub fn admit(&self, now: Instant, rate: Rate) -> bool {
        self.take(now, rate).is_ok()
    }

    /// Takes one token.
    ///
    /// # Errors
    /// There is none. The value is the time until there is one.
    pub fn take(&self, now: Instant, rate: Rate) -> Result<(), Duration> {
        let taken = self.0.fetch_update(Relaxed, Relaxed, |until| rate.admit(until, now));
        taken.map(|_| ()).map_err(|until| rate.wait(until, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_passes_and_then_one_event_per_interval() {
        let rate = Rate::new(10, 3);
        let mut bucket = Bucket::default();
        assert!((0..3).all(|_| bucket.admit(at(0), rate)));
        assert!(!bucket.admit(at(99), rate), "just before the first token is back");
        assert!(bucket.admit(at(100), rate), "just as it is");
        assert!(!bucket.admit(at(100), rate));
    }

    #[test]
    fn an_idle_bucket_never_holds_more_than_the_burst() {
        let rate = Rate::new(10, 3);
        let mut bucket = Bucket::default();
        assert_eq!((0..100).filter(|_| bucket.admit(at(3_600_000), rate)).count(), 3);
    }

    #[test]
    fn a_rate_of_zero_admits_nothing_and_a_burst_of_zero_is_one() {
        assert!(!Bucket::default().admit(at(5), Rate::new(0, 10)));
        let mut bucket = Bucket::default();
        assert!(bucket.admit(at(5), Rate::new(1, 0)));
        assert!(!bucket.admit(at(1004), Rate::new(1, 0)));
        assert!(bucket.admit(at(1005), Rate::new(1, 0)));
    }

    #[test]
    fn who_is_refused_is_admitted_exactly_after_the_time_it_is_given() {
        let bucket = SharedBucket::default();
        let rate = Rate::every(Duration::from_secs(10), 2);
        assert_eq!(bucket.take(at(3), rate), Ok(()));
        assert_eq!(bucket.take(at(3), rate), Ok(()));
        let wait = bucket.take(at(1003), rate).unwrap_err();
        assert_eq!(wait, Duration::from_secs(9));
        let then = at(1003) + wait;
        let early = Instant::from_nanos(then.as_nanos() - 1);
        assert_eq!(bucket.take(early, rate), Err(Duration::from_nanos(1)));
        assert_eq!(bucket.take(then, rate), Ok(()));
        assert_eq!(bucket.take(then, Rate::new(0, 1)), Err(Duration::MAX));
    }

    #[test]
    fn the_end_of_the_clock_is_no_trouble() {
        let mut bucket = Bucket::default();
        let end = Instant::from_nanos(u64::MAX);
        assert!(bucket.admit(end, Rate::new(1, 1)));
        assert!(bucket.admit(end, Rate::new(1, u32::MAX)));
    }

    #[test]
    fn a_hundred_thousand_sources_find_the_table_no_larger_and_mostly_are_answered() {
        let table = RateTable::new(1);
        let rate = Rate::new(20, 60);
        let refused = (0..100_000_u32)
            .flat_map(|source| [source; 10])
            .filter(|&source| !table.admit(at(0), Source::V4(source), rate))
            .count();
        assert_eq!(size_of_val(&*table.buckets), 512 * 1024);
        assert!(refused < 10_000, "{refused} of 1,000,000 refused");
    }

    proptest! {
        /// Over any span a bucket admits at most `burst` plus the rate's share of the span.
        #[test]
        fn no_schedule_of_events_beats_the_rate(
            per_second in 1_u32..1000, burst in 1_u32..50, gaps in prop::collection::vec(0_u64..50_000_000, 1..200),
        ) {
            let rate = Rate::new(per_second, burst);
            let mut bucket = Bucket::default();
            let (mut now, mut admitted) = (0, 0_u64);
            for gap in gaps {
                now += gap;
                admitted += u64::from(bucket.admit(Instant::from_nanos(now), rate));
                prop_assert!(admitted <= u64::from(burst) + now / (1_000_000_000 / u64::from(per_second)));
            }
        }
    }
}
