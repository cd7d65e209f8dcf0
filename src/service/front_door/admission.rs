//! How many connections there may be, and which gives way.

use core::hash::BuildHasher as _;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::RandomState;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::proxy::Ends;
use super::{Limits, Outcome};
use crate::shard::clock::Clock;
use crate::turn::limits::{Rate, RateTable};
use crate::turn::time::Instant;

/// Counts connections, and keeps places for those that have not shown yet what they want.
pub(super) struct Admission {
    connections: usize,
    places: usize,
    clock: Clock,
    open: Arc<Mutex<Open>>,
    unproven: Arc<Mutex<Unproven>>,
}

struct Open {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
    /// What proxies have told, and still holds.
    told: HashSet<Ends>,
    most_per_source: usize,
    /// As many as may be open can come at once, and then so many a second: who stays is never in the way of others, who
    /// comes and goes costs a handshake each time.
    rate: Rate,
    arrivals: RateTable,
}

impl Open {
    fn new(limits: &Limits) -> Self {
        let most_per_source = limits.connections_per_source;
        let burst = u32::try_from(most_per_source).unwrap_or(u32::MAX);
        Self {
            total: 0,
            by_source: HashMap::new(),
            told: HashSet::new(),
            most_per_source,
            rate: Rate::new(limits.new_connections_per_second, burst),
            arrivals: RateTable::new(RandomState::new().hash_one(burst)),
        }
    }

    fn add(&mut self, now: Instant, source: IpAddr) -> Result<(), Outcome> {
        let of_source = self.by_source.get(&source).copied().unwrap_or(0);
        if of_source >= self.most_per_source {
            return Err(Outcome::TooManyFromSource);
        }
        if !self.arrivals.admit(now, source.into(), self.rate) {
            return Err(Outcome::TooFast);
        }
        self.by_source.insert(source, of_source + 1);
        Ok(())
    }
}

#[derive(Default)]
struct Unproven {
    next: u64,
    /// By age. Dropping the sender tells the holder to leave.
    holders: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A poisoned lock guards counts that are still whole: nothing between their updates can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Addresses one party can choose from: an IPv4 address, an IPv6 /64.
fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
    }
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            connections: limits.connections,
            places: limits.unproven.max(1),
            clock: Clock::start(),
            open: Arc::new(Mutex::new(Open::new(limits))),
            unproven: Arc::default(),
        }
    }

    /// Counts a connection for as long as the guard lives. That of a proxy has no source yet.
    pub(super) fn admit(&self, ip: Option<IpAddr>) -> Result<ConnectionGuard, Outcome> {
        let source = ip.map(source);
        let mut open = lock(&self.open);
        if open.total >= self.connections {
            return Err(Outcome::TooManyConnections);
        }
        if let Some(source) = source {
            open.add(self.clock.mono(), source)?;
        }
        open.total += 1;
        Ok(ConnectionGuard {
            source,
            told: None,
            clock: self.clock,
            open: self.open.clone(),
        })
    }

    /// Gives a connection a place; if none is free, the oldest holder's.
    pub(super) fn enter(&self) -> Place {
        let mut unproven = lock(&self.unproven);
        if unproven.holders.len() >= self.places {
            unproven.holders.pop_first();
        }
        let id = unproven.next;
        unproven.next += 1;
        let (sender, evicted) = oneshot::channel();
        unproven.holders.insert(id, sender);
        Place {
            id,
            evicted,
            unproven: self.unproven.clone(),
        }
    }

    pub(super) fn open(&self) -> usize {
        lock(&self.open).total
    }

    pub(super) fn unproven(&self) -> usize {
        lock(&self.unproven).holders.len()
    }
}

/// One open connection.
pub(super) struct ConnectionGuard {
    source: Option<IpAddr>,
    told: Option<Ends>,
    clock: Clock,
    open: Arc<Mutex<Open>>,
}

impl ConnectionGuard {
    /// A proxy has told whose connection this is: it counts as that client's from now on. Clients are told apart by
    /// these two addresses, so no two connections may have the same ones at a time.
    pub(super) fn belongs_to(&mut self, ends: Ends) -> Result<(), Outcome> {
        let source = source(ends.client.ip());
        let mut open = lock(&self.open);
        if open.told.contains(&ends) {
            return Err(Outcome::BadProxyHeader);
        }
        open.add(self.clock.mono(), source)?;
        open.told.insert(ends);
        self.source = Some(source);
        self.told = Some(ends);
        Ok(())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        if let Some(ends) = &self.told {
            open.told.remove(ends);
        }
        let Some(source) = &self.source else { return };
        if let Some(count) = open.by_source.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                open.by_source.remove(source);
            }
        }
    }
}

/// The place of a connection that has not shown yet what it wants.
pub(super) struct Place {
    id: u64,
    evicted: oneshot::Receiver<()>,
    unproven: Arc<Mutex<Unproven>>,
}

impl Place {
    /// Returns when a newer connection has taken the place.
    pub(super) async fn lost(&mut self) {
        // Nothing is ever sent: the sender is dropped.
        let _ = (&mut self.evicted).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.unproven).holders.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn limits(connections: usize, per_source: usize, unproven: usize, per_second: u32) -> Limits {
        Limits {
            connections,
            connections_per_source: per_source,
            new_connections_per_second: per_second,
            unproven,
            handshake_timeout: Duration::ZERO,
            http_header_timeout: Duration::ZERO,
            http_lifetime: Duration::ZERO,
            stop_timeout: Duration::ZERO,
        }
    }

    /// Without a bound on how often connections come.
    fn admission(connections: usize, per_source: usize, unproven: usize) -> Admission {
        Admission::new(&limits(connections, per_source, unproven, u32::MAX))
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_total_is_bounded_and_returned() {
        let admission = admission(2, 10, 1);
        let first = admission.admit(ip("192.0.2.1")).ok().unwrap();
        let _second = admission.admit(ip("192.0.2.2")).ok().unwrap();
        assert_eq!(
            admission.admit(ip("192.0.2.3")).err(),
            Some(Outcome::TooManyConnections)
        );
        drop(first);
        assert!(admission.admit(ip("192.0.2.3")).is_ok());
        assert_eq!(admission.open(), 1);
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        let admission = admission(10, 1, 1);
        let _v4 = admission.admit(ip("192.0.2.1")).ok().unwrap();
        assert_eq!(admission.admit(ip("192.0.2.1")).err(), Some(Outcome::TooManyFromSource));
        assert!(admission.admit(ip("192.0.2.2")).is_ok());
        let v6 = admission.admit(ip("2001:db8::1")).ok().unwrap();
        assert_eq!(
            admission.admit(ip("2001:db8::ffff:0:0:1")).err(),
            Some(Outcome::TooManyFromSource)
        );
        assert!(admission.admit(ip("2001:db8:0:1::1")).is_ok());
        drop(v6);
        assert!(admission.admit(ip("2001:db8::2")).is_ok());
        drop(admission.admit(ip("2001:db8::3")));
        assert_eq!(
            lock(&admission.open).by_source.len(),
            1,
            "no source is remembered that has no connection"
        );
    }

    #[test]
    fn a_source_that_comes_and_goes_is_held_to_a_rate_behind_its_first_burst() {
        let mut open = Open::new(&limits(10, 3, 1, 20));
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let [one, other] = [ip("192.0.2.1"), ip("192.0.2.2")].map(Option::unwrap);
        let mut arrive = |ms, source| {
            let added = open.add(at(ms), source);
            // It goes at once.
            open.by_source.remove(&source);
            added.err()
        };
        for _ in 0..3 {
            assert_eq!(arrive(0, one), None);
        }
        assert_eq!(arrive(49, one), Some(Outcome::TooFast));
        assert_eq!(arrive(49, other), None, "others are not concerned");
        assert_eq!(arrive(50, one), None);
        assert_eq!(arrive(99, one), Some(Outcome::TooFast));
        assert_eq!(arrive(100, one), None);
    }

    //= XPORT-19
    #[test]
    fn a_proxied_connection_counts_as_its_clients_and_no_two_are_the_same() {
        let ends = |client: &str| Ends {
            client: client.parse().unwrap(),
            server: "198.51.100.1:443".parse().unwrap(),
        };
        let admission = admission(10, 2, 1);
        let mut proxied: Vec<_> = (0..5).map(|_| admission.admit(None).ok().unwrap()).collect();
        assert!(proxied[0].belongs_to(ends("192.0.2.1:1000")).is_ok());
        assert_eq!(
            proxied[1].belongs_to(ends("192.0.2.1:1000")).err(),
            Some(Outcome::BadProxyHeader)
        );
        assert!(proxied[1].belongs_to(ends("192.0.2.1:1001")).is_ok());
        assert_eq!(
            proxied[2].belongs_to(ends("192.0.2.1:1002")).err(),
            Some(Outcome::TooManyFromSource)
        );
        assert_eq!(admission.admit(ip("192.0.2.1")).err(), Some(Outcome::TooManyFromSource));
        assert!(proxied[3].belongs_to(ends("192.0.2.2:1000")).is_ok());
        assert_eq!(admission.open(), 5);
        proxied.clear();
        let open = lock(&admission.open);
        assert!(open.total == 0 && open.by_source.is_empty() && open.told.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_gives_its_place() {
        let admission = admission(10, 10, 2);
        let mut first = admission.enter();
        let mut second = admission.enter();
        let _third = admission.enter();
        first.lost().await;
        assert_eq!(admission.unproven(), 2);
        drop(first);
        assert_eq!(admission.unproven(), 2, "a lost place is not given back twice");
        tokio::select! {
            biased;
            () = second.lost() => panic!("the second still has its place"),
            () = core::future::ready(()) => {}
        }
        drop(second);
        assert_eq!(admission.unproven(), 1);
    }
}
