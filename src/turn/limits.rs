//! Rate limits on what strangers, and users, can make the server do: token buckets in tables of fixed size that never grow.
//!
//! A server that answers whoever asks reflects traffic to forged sources, and one that checks every login invites guessing.
//! Limits are per source: an IPv4 address, or an IPv6 /64 (one host commands a whole one). Sources are hashed into the
//! table; two that meet in one bucket share its budget, which errs on the quiet side. The tables are shared by the shards,
//! or a source that spreads its ports over them would be allowed as many times the rate.

use core::hash::{BuildHasher, Hash};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::net::IpAddr;

use foldhash::quality::FixedState;

use super::config::Limits;
use super::output::DropReason;
use super::user::UserId;
use crate::base::rng::Rng;
use crate::base::time::Instant;

/// So much a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds one event takes from the budget; `None`: no event is ever admitted.
    interval: Option<u64>,
    /// How far the budget may be overdrawn, nanoseconds.
    tolerance: u64,
}

impl Rate {
    /// `per_second` events a second, of which `burst` (at least 1) may come at once. A rate of 0 admits nothing.
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

    /// A second's worth may come at once.
    pub const fn per_second(n: u32) -> Self {
        Self::new(n, n)
    }

    /// The bucket's next state if one more event is admitted.
    ///
    /// This is the generic cell rate algorithm: `until` is the time at which the budget is whole again.
    fn admit(self, until: u64, now: Instant) -> Option<u64> {
        let until = until.max(now.as_nanos());
        (until - now.as_nanos() <= self.tolerance).then_some(until.saturating_add(self.interval?))
    }
}

/// One token bucket, for what belongs to one allocation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    until: u64,
}

impl Bucket {
    /// Takes one token. `false`: there is none.
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

/// What sources are told apart by: the IPv4 address, or the IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An IPv4 address.
    V4(u32),
    /// The upper half of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

impl Source {
    /// The network it is in.
    pub const fn network(self) -> Network {
        match self {
            Self::V4(ip) => Network::V4(ip >> 8),
            Self::V6(net) => Network::V6(net >> 16),
        }
    }
}

/// What one party can have many sources of: an IPv4 /24, an IPv6 /48 (what a site is given).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// The upper 24 bits of an IPv4 address.
    V4(u32),
    /// The upper 48 bits of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        Source::from(ip).network()
    }
}

/// Token buckets for all sources there are, in half a megabyte.
#[derive(Debug)]
pub struct RateTable {
    buckets: Box<[SharedBucket]>,
    hasher: FixedState,
}

impl RateTable {
    /// Number of buckets, of eight bytes each.
    pub const BUCKETS: usize = 1 << 16;

    /// Every budget whole. `seed` makes it unforeseeable which sources share a bucket.
    pub fn new(seed: u64) -> Self {
        Self {
            buckets: (0..Self::BUCKETS).map(|_| SharedBucket::default()).collect(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Takes one token of `source`. `false`: there is none.
    pub fn admit(&self, now: Instant, source: Source, rate: Rate) -> bool {
        self.admit_key(now, source, rate)
    }

    /// The same for what is no source: a user.
    pub fn admit_key(&self, now: Instant, key: impl Hash, rate: Rate) -> bool {
        self.bucket(key).admit(now, rate)
    }

    /// The same for a network; a table is for sources or for networks.
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

/// How often something begins, held to a rate for each source and for each network.
#[derive(Debug)]
pub struct Arrivals {
    sources: RateTable,
    networks: RateTable,
    per_source: Rate,
    per_network: Rate,
}

impl Arrivals {
    /// So many of a source may begin at once, and then `per_second` of them in a second; a network has as many times the
    /// rate as the burst. Who stays is never in the way of others, who comes and goes costs something each time.
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

    /// Whether one more of `client` may begin.
    pub fn admit(&self, now: Instant, client: IpAddr) -> bool {
        let source = Source::from(client);
        // Second, so that no source can use up more of it than its own share.
        self.sources.admit(now, source, self.per_source)
            && self.networks.admit_network(now, source.network(), self.per_network)
    }
}

/// A token bucket that several shards use.
#[derive(Debug, Default)]
pub struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// Takes one token. `false`: there is none.
    pub fn admit(&self, now: Instant, rate: Rate) -> bool {
        self.0
            .fetch_update(Relaxed, Relaxed, |until| rate.admit(until, now))
            .is_ok()
    }
}

impl Limits {
    /// Authenticated requests of one allocation. At once as many as its client needs to renew all it may have twice: when
    /// a nonce has aged every request is sent a second time.
    pub(super) fn allocation_requests(&self) -> Rate {
        let renewed = 2 * (u32::from(self.permissions) + u32::from(self.channels));
        let rate = self.allocation_requests_per_second;
        Rate::new(rate, rate.saturating_add(renewed))
    }

    /// Authenticated requests of one user that are about no allocation of its: Allocates above all. At once as many as
    /// replace all allocations it may have.
    fn user_requests(&self) -> Rate {
        let replaced = self.allocations_per_user.saturating_mul(2);
        let rate = self.user_requests_per_second;
        Rate::new(rate, rate.saturating_add(replaced))
    }
}

/// The limits that hold across allocations, one set per process.
#[derive(Debug)]
pub struct Limiters {
    challenges: RateTable,
    all_challenges: SharedBucket,
    bindings: RateTable,
    logins: RateTable,
    users: RateTable,
}

impl Limiters {
    /// Nothing used up yet.
    pub fn new(rng: &mut Rng) -> Self {
        let mut table = || RateTable::new(rng.next_u64());
        Self {
            challenges: table(),
            all_challenges: SharedBucket::default(),
            bindings: table(),
            logins: table(),
            users: table(),
        }
    }

    /// Whether an error response may go to `source`, which has proved nothing: UDP only, for 400, 401, 420 and 438.
    ///
    /// # Errors
    /// Which limit it is over: its own, or that of all sources together.
    pub fn admit_challenge(&self, now: Instant, source: IpAddr, limits: &Limits) -> Result<(), DropReason> {
        let rate = Rate::new(limits.challenges_per_second, limits.challenge_burst);
        if !self.challenges.admit(now, source.into(), rate) {
            return Err(DropReason::ChallengeLimited);
        }
        // Second, so that no source can use up more of it than its own share.
        let rate = Rate::per_second(limits.all_challenges_per_second);
        if self.all_challenges.admit(now, rate) {
            Ok(())
        } else {
            Err(DropReason::AllChallengesLimited)
        }
    }

    /// Whether a Binding request over UDP may be answered.
    pub fn admit_binding(&self, now: Instant, source: IpAddr, limits: &Limits) -> bool {
        self.bindings
            .admit(now, source.into(), Rate::per_second(limits.bindings_per_second))
    }

    /// Whether `user`, who has logged in, may ask for something that is about no allocation of its.
    pub(super) fn admit_user(&self, now: Instant, user: &UserId, limits: &Limits) -> bool {
        self.users.admit_key(now, user, limits.user_requests())
    }

    /// Whether `source` has failed to log in too often lately: no further try is looked at.
    pub fn logins_exhausted(&self, now: Instant, source: IpAddr, limits: &Limits) -> bool {
        self.logins
            .is_exhausted(now, source.into(), Rate::per_second(limits.login_failures_per_second))
    }

    /// Counts a failed login. `false`: it is one too many (two shards may pass the check above at once).
    pub fn admit_login_failure(&self, now: Instant, source: IpAddr, limits: &Limits) -> bool {
        self.logins
            .admit(now, source.into(), Rate::per_second(limits.login_failures_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
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
    fn the_end_of_the_clock_is_no_trouble() {
        let mut bucket = Bucket::default();
        let end = Instant::from_nanos(u64::MAX);
        assert!(bucket.admit(end, Rate::new(1, 1)));
        assert!(bucket.admit(end, Rate::new(1, u32::MAX)));
    }

    #[test]
    fn sources_are_ipv4_addresses_and_ipv6_64s() {
        let source = |ip: &str| Source::from(ip.parse::<IpAddr>().unwrap());
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
    }

    #[test]
    fn networks_are_ipv4_24s_and_ipv6_48s() {
        let network = |ip: &str| Network::from(ip.parse::<IpAddr>().unwrap());
        assert_eq!(network("192.0.2.1"), network("192.0.2.255"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.2"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:7:1::1"), network("2001:db8:7:ffff:ffff::2"));
        assert_ne!(network("2001:db8:7::1"), network("2001:db8:8::1"));
    }

    #[test]
    fn one_source_using_up_its_budget_leaves_the_others_theirs() {
        let limiters = Limiters::new(&mut Rng::new([3; 32]));
        let limits = Limits {
            challenges_per_second: 20,
            challenge_burst: 60,
            ..Limits::default()
        };
        let admitted = |ip, now| {
            let all = (0..1000).filter(|_| limiters.admit_challenge(now, ip, &limits).is_ok());
            all.count()
        };
        assert_eq!(admitted(v4(1), at(0)), 60);
        assert_eq!(admitted(v4(1), at(1000)), 20);
        assert_eq!(admitted(v4(2), at(1000)), 60);
        assert!(
            limiters.admit_binding(at(0), v4(1), &limits),
            "each limit has its own table"
        );
    }

    #[test]
    fn all_sources_together_have_a_budget_too() {
        let limiters = Limiters::new(&mut Rng::new([3; 32]));
        let limits = Limits {
            all_challenges_per_second: 100,
            ..Limits::default()
        };
        let admit = |ms, last| limiters.admit_challenge(at(ms), v4(last), &limits);
        for source in 0..100 {
            assert_eq!(admit(0, source), Ok(()), "source {source}");
        }
        assert_eq!(admit(9, 200), Err(DropReason::AllChallengesLimited));
        assert_eq!(admit(10, 201), Ok(()), "one is back");
        assert_eq!(admit(10, 202), Err(DropReason::AllChallengesLimited));
    }

    #[test]
    fn failed_logins_are_counted_and_asking_counts_nothing() {
        let limiters = Limiters::new(&mut Rng::new([3; 32]));
        let limits = Limits {
            login_failures_per_second: 2,
            ..Limits::default()
        };
        for _ in 0..100 {
            assert!(!limiters.logins_exhausted(at(0), v4(1), &limits));
        }
        assert!(limiters.admit_login_failure(at(0), v4(1), &limits));
        assert!(limiters.admit_login_failure(at(0), v4(1), &limits));
        assert!(limiters.logins_exhausted(at(499), v4(1), &limits));
        assert!(!limiters.admit_login_failure(at(499), v4(1), &limits));
        assert!(!limiters.logins_exhausted(at(500), v4(1), &limits));
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
