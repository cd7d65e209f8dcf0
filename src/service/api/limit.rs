//! How often credentials may be minted: per client address and per key.
//!
//! The per-address table has a fixed size, so strangers cannot make it grow; two sources that fall into one slot share
//! its budget. An IPv6 client is counted by its /64.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// Slots for client addresses: 128 KiB in all.
const SLOTS: usize = 16 * 1024;

/// Over the limit; worth trying again after this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) Duration);

type Gcra<K, S, C> = RateLimiter<K, S, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Bounds mints per minute and client address.
pub(super) struct PerAddress<C: Clock = DefaultClock> {
    limiter: Option<Gcra<IpAddr, SlotTable, C>>,
    clock: C,
}

impl<C: Clock + Clone> PerAddress<C> {
    /// `per_minute` mints, that many at once as well; 0 means no bound.
    pub(super) fn new(per_minute: u32, clock: C) -> Self {
        let quota = NonZeroU32::new(per_minute).map(Quota::per_minute);
        let limiter = quota.map(|quota| RateLimiter::new(quota, SlotTable::new(), clock.clone()));
        Self { limiter, clock }
    }

    /// Takes one from the budget of `client`.
    pub(super) fn take(&self, client: IpAddr) -> Result<(), TooMany> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter
            .check_key(&prefix(client))
            .map_err(|until| TooMany(until.wait_time_from(self.clock.now())))
    }
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

/// What one source of requests has in common: an IPv4 address, an IPv6 /64.
fn prefix(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Rate-limiting state by hash of the source; the seed is random, so nobody can aim at a neighbour's slot.
struct SlotTable {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl SlotTable {
    fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl StateStore for SlotTable {
    type Key = IpAddr;

    fn measure_and_replace<T, F, E>(&self, key: &IpAddr, decide: F) -> Result<T, E>
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
        let limit = PerAddress::new(6, clock.clone());
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
        let limit = PerAddress::new(1, FakeRelativeClock::default());
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
        let limit = PerAddress::new(1, FakeRelativeClock::default());
        limit.take(ip("2001:db8:0:1::1")).expect("first");
        limit
            .take(ip("2001:db8:0:1:ffff:ffff:ffff:ffff"))
            .expect_err("same /64");
        assert_ne!(prefix(ip("2001:db8:0:1::1")), prefix(ip("2001:db8:0:2::1")));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_means() {
        assert_eq!(prefix(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
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
