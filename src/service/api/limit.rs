//! How often credentials may be minted: per client address, per network and per key.
//!
//! The tables have a fixed size, so strangers cannot make them grow; two sources that fall into one slot share its budget.
//! What a source and a network are: [`crate::turn::shared::limiters`].

use core::marker::PhantomData;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::base::source::{Network, Source};

/// Slots for client addresses, and as many for networks: 128 KiB each.
const SLOTS: usize = 16 * 1024;

/// Over the limit; worth trying again after this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) Duration);

type Gcra<K, S, C> = RateLimiter<K, S, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Bounds mints per minute and client address, and per network.
pub(super) struct PerAddress<C: Clock = DefaultClock> {
    sources: Option<Gcra<Source, SlotTable<Source>, C>>,
    networks: Option<Gcra<Network, SlotTable<Network>, C>>,
    clock: C,
}

impl<C: Clock + Clone> PerAddress<C> {
    /// So many mints per minute, that many at once as well; 0 means no bound.
    pub(super) fn new(per_source: u32, per_network: u32, clock: C) -> Self {
        Self {
            sources: limiter(per_source, &clock),
            networks: limiter(per_network, &clock),
            clock,
        }
    }

    /// Takes one from the budgets of `client`.
    pub(super) fn take(&self, client: IpAddr) -> Result<(), TooMany> {
        let source = Source::from(client);
        check(self.sources.as_ref(), &source, &self.clock)?;
        // Second, so that no source can use up more of it than its own share.
        check(self.networks.as_ref(), &source.network(), &self.clock)
    }
}

fn limiter<K: Hash + Eq + Clone, C: Clock + Clone>(per_minute: u32, clock: &C) -> Option<Gcra<K, SlotTable<K>, C>> {
    let quota = Quota::per_minute(NonZeroU32::new(per_minute)?);
    Some(RateLimiter::new(quota, SlotTable::new(), clock.clone()))
}

fn check<K: Hash + Eq + Clone, C: Clock>(
    limiter: Option<&Gcra<K, SlotTable<K>, C>>,
    key: &K,
    clock: &C,
) -> Result<(), TooMany> {
    let Some(limiter) = limiter else { return Ok(()) };
    limiter
        .check_key(key)
        .map_err(|until| TooMany(until.wait_time_from(clock.now())))
}

/// Bounds mints per minute and key.
pub(super) struct PerKey<C: Clock = DefaultClock> {
    limiter: Option<Gcra<NotKeyed, InMemoryState, C>>,
    clock: C,
}

impl<C: Clock + Clone> PerKey<C> {
    /// `per_minute` mints, that many at once as well; 0 means no bound.
    pub(super) fn new(per_minute: u32, clock: C) -> Self {
        let quota = NonZeroU32::new(per_minute).map(Quota::per_minute);
        let limiter = quota.map(|quota| RateLimiter::direct_with_clock(quota, clock.clone()));
        Self { limiter, clock }
    }

    /// Takes one from the budget.
    pub(super) fn take(&self) -> Result<(), TooMany> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter
            .check()
            .map_err(|until| TooMany(until.wait_time_from(self.clock.now())))
    }
}

/// Rate-limiting state by hash of the source; the seed is random, so nobody can aim at a neighbour's slot.
struct SlotTable<K> {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
    keys: PhantomData<fn(K)>,
}

impl<K> SlotTable<K> {
    fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            keys: PhantomData,
        }
    }
}

impl<K: Hash + Eq + Clone> StateStore for SlotTable<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let index = usize::try_from(self.hasher.hash_one(key) % SLOTS as u64).unwrap_or(0);
        let slot = &self.slots[index];
        let mut seen = slot.load(Relaxed);
        loop {
            // A stored time is never 0: it lies at least one interval after the limiter's start.
            let (outcome, next) = decide((seen != 0).then(|| Nanos::new(seen)))?;
            match slot.compare_exchange_weak(seen, next.as_u64(), Relaxed, Relaxed) {
                Ok(_) => return Ok(outcome),
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn an_address_over_its_limit_waits_exactly_as_long_as_it_is_told() {
        let clock = FakeRelativeClock::default();
        let limit = PerAddress::new(6, 0, clock.clone());
        for _ in 0..6 {
            limit.take(ip("192.0.2.1")).expect("within the limit");
        }
        let TooMany(wait) = limit.take(ip("192.0.2.1")).expect_err("over the limit");
        assert_eq!(wait, Duration::from_secs(10));
        clock.advance(wait - Duration::from_nanos(1));
        limit.take(ip("192.0.2.1")).expect_err("one nanosecond early");
        clock.advance(Duration::from_nanos(1));
        limit.take(ip("192.0.2.1")).expect("in time");
    }

    #[test]
    fn one_address_does_not_use_up_the_budget_of_another() {
        let limit = PerAddress::new(1, 0, FakeRelativeClock::default());
        limit.take(ip("192.0.2.1")).expect("first");
        limit.take(ip("192.0.2.1")).expect_err("second");
        // Two addresses share a slot once in 16,384; of a hundred neighbours nearly all must be free.
        let free = (2..102u8)
            .filter(|n| limit.take(IpAddr::from([192, 0, 2, *n])).is_ok())
            .count();
        assert!(free >= 95, "{free} of 100 other addresses were free");
    }

    #[test]
    fn an_ipv6_client_cannot_escape_by_another_address_of_its_64() {
        let limit = PerAddress::new(1, 0, FakeRelativeClock::default());
        limit.take(ip("2001:db8:0:1::1")).expect("first");
        limit
            .take(ip("2001:db8:0:1:ffff:ffff:ffff:ffff"))
            .expect_err("same /64");
    }

    #[test]
    fn one_ipv6_48_or_ipv4_24_mints_no_more_than_a_network_may_however_many_addresses_it_has() {
        let networks: [fn(u16) -> IpAddr; 2] = [
            |n| IpAddr::from([192, 0, 2, n as u8]),
            |n| IpAddr::from([0x2001, 0xdb8, 7, n, 0, 0, 0, 1]),
        ];
        for network in networks {
            let limit = PerAddress::new(2, 16, FakeRelativeClock::default());
            let minted = (0..200).filter(|&n| limit.take(network(n)).is_ok()).count();
            assert_eq!(minted, 16);
            limit.take(ip("198.51.100.1")).expect("another network");
            limit.take(ip("2001:db8:8::1")).expect("another network");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_means() {
        let limit = PerAddress::new(1, 0, FakeRelativeClock::default());
        limit.take(ip("::ffff:192.0.2.1")).expect("first");
        limit.take(ip("192.0.2.1")).expect_err("the same");
    }

    #[test]
    fn a_key_over_its_limit_is_told_to_wait_and_zero_means_no_limit() {
        let clock = FakeRelativeClock::default();
        let limit = PerKey::new(2, clock.clone());
        limit.take().expect("first");
        limit.take().expect("second");
        assert_eq!(limit.take(), Err(TooMany(Duration::from_secs(30))));
        clock.advance(Duration::from_secs(30));
        limit.take().expect("after waiting");
        let unlimited = PerKey::new(0, clock);
        for _ in 0..10_000 {
            unlimited.take().expect("no limit");
        }
    }
}
