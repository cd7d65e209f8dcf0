//! Limits the number of connections, and decides which one closes when there are too many.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::{oneshot, watch};

use super::proxy::Ends;
use super::{ConnectionOutcome, FrontDoorLimits};
use crate::base::lock::lock;
use crate::base::rate::Arrivals;
use crate::base::shares::{self, Shares};
use crate::base::source::{Network, Source};
use crate::base::time::Instant;
use crate::config::bounds::LEAVING;
use crate::net::clock::Clock;
use crate::shard::stream_intake::{Displace, StreamGuard};

/// Counts connections, and manages the places of those that are not classified yet.
pub(super) struct Admission {
    places: usize,
    clock: Clock,
    open: Arc<Mutex<Open>>,
    unproven: Arc<Mutex<Shares<oneshot::Sender<()>>>>,
}

struct Open {
    most: usize,
    total: usize,
    /// Of these, those that were asked to close.
    leaving: usize,
    by_source: HashMap<Source, usize>,
    by_network: HashMap<Network, usize>,
    /// Open connections announced by proxies.
    told: HashSet<Ends>,
    most_per_source: usize,
    most_per_network: usize,
    arrivals: Arrivals,
    /// The connections that may be displaced: those whose client is known and has not
    /// authenticated.
    yielding: Shares<Arc<Displacement>>,
    displaced: u64,
}

impl Open {
    fn new(limits: &FrontDoorLimits) -> Self {
        let burst = |connections| u32::try_from(connections).unwrap_or(u32::MAX);
        let (per_source, per_network) = (limits.connections_per_source, limits.connections_per_network);
        Self {
            most: limits.connections,
            total: 0,
            leaving: 0,
            by_source: HashMap::new(),
            by_network: HashMap::new(),
            told: HashSet::new(),
            most_per_source: per_source,
            most_per_network: per_network,
            arrivals: Arrivals::new(
                RandomState::new().hash_one(per_source),
                limits.new_connections_per_second,
                burst(per_source),
                burst(per_network),
            ),
            yielding: Shares::default(),
            displaced: 0,
        }
    }

    /// Counts one more connection of the client at `ip`.
    fn add(&mut self, now: Instant, ip: IpAddr) -> Result<(), ConnectionOutcome> {
        let source = Source::from(ip);
        let held = self.by_source.get(&source).copied().unwrap_or(0);
        if held >= self.most_per_source {
            return Err(ConnectionOutcome::TooManyFromSource);
        }
        let of_network = self.by_network.get(&source.network()).copied().unwrap_or(0);
        if of_network >= self.most_per_network {
            return Err(ConnectionOutcome::TooManyFromNetwork);
        }
        if !self.arrivals.admit(now, ip) {
            return Err(ConnectionOutcome::TooFast);
        }
        self.by_source.insert(source, held + 1);
        self.by_network.insert(source.network(), of_network + 1);
        Ok(())
    }

    fn give_back(&mut self, source: Source) {
        give_back(&mut self.by_source, source);
        give_back(&mut self.by_network, source.network());
    }

    /// Makes room for one more connection of the client, or proxy, at `ip`. If there is none, a
    /// source with more loses one.
    fn make_room(&mut self, ip: IpAddr) -> Result<(), ConnectionOutcome> {
        if self.total - self.leaving < self.most {
            return Ok(());
        }
        if self.leaving >= LEAVING {
            return Err(ConnectionOutcome::TooManyConnections);
        }
        let displaced = self
            .yielding
            .displace_heavier(ip)
            .ok_or(ConnectionOutcome::TooManyConnections)?;
        displaced.tell();
        self.leaving += 1;
        self.displaced += 1;
        Ok(())
    }
}

/// Removes a key at zero, so that it uses no memory.
fn give_back<K: Eq + core::hash::Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

impl Admission {
    pub(super) fn new(limits: &FrontDoorLimits) -> Self {
        Self {
            places: limits.unproven.max(1),
            clock: Clock::default(),
            open: Arc::new(Mutex::new(Open::new(limits))),
            unproven: Arc::default(),
        }
    }

    /// Counts a connection of the client at `ip` while the guard lives.
    pub(super) fn admit(&self, ip: IpAddr) -> Result<ConnectionGuard, ConnectionOutcome> {
        let mut open = lock(&self.open);
        open.add(self.clock.mono(), ip)?;
        if let Err(outcome) = open.make_room(ip) {
            open.give_back(ip.into());
            return Err(outcome);
        }
        open.total += 1;
        let mut guard = self.guard();
        guard.belong(&mut open, ip);
        Ok(guard)
    }

    /// Counts a connection of the proxy at `ip`. Its PROXY header will name the client.
    pub(super) fn admit_proxy(&self, ip: IpAddr) -> Result<ConnectionGuard, ConnectionOutcome> {
        let mut open = lock(&self.open);
        open.make_room(ip)?;
        open.total += 1;
        Ok(self.guard())
    }

    fn guard(&self) -> ConnectionGuard {
        ConnectionGuard {
            source: None,
            told: None,
            clock: self.clock,
            open: Arc::clone(&self.open),
            yielding: None,
            displacement: Arc::default(),
        }
    }

    /// Gives a connection of the client at `ip` a place. If none is free, the source with the most
    /// loses one.
    pub(super) fn enter(&self, ip: IpAddr) -> PendingPlace {
        let mut unproven = lock(&self.unproven);
        if unproven.len() >= self.places {
            // Dropping the sender signals the loss to its holder.
            drop(unproven.displace(ip));
        }
        let (sender, evicted) = oneshot::channel();
        PendingPlace {
            place: unproven.enter(ip, sender),
            evicted,
            unproven: Arc::clone(&self.unproven),
        }
    }

    pub(super) fn open(&self) -> usize {
        lock(&self.open).total
    }

    pub(super) fn displaced(&self) -> u64 {
        lock(&self.open).displaced
    }

    pub(super) fn unproven(&self) -> usize {
        lock(&self.unproven).len()
    }
}

/// Asks a connection to close in favour of another one.
#[derive(Default)]
pub(super) struct Displacement {
    told: watch::Sender<bool>,
    /// Asks the shard that serves it.
    shard: Mutex<Option<Displace>>,
}

impl Displacement {
    pub(super) fn tell(&self) {
        self.told.send_replace(true);
        if let Some(shard) = lock(&self.shard).take() {
            shard();
        }
    }

    /// Returns when the connection is to close.
    pub(super) async fn told(&self) {
        // An error means that the sender is gone, which cannot be while this borrows it.
        let _ = self.told.subscribe().wait_for(|&told| told).await;
    }

    fn is_told(&self) -> bool {
        *self.told.borrow()
    }
}

/// One open connection.
pub(super) struct ConnectionGuard {
    source: Option<Source>,
    told: Option<Ends>,
    clock: Clock,
    open: Arc<Mutex<Open>>,
    /// Its place among those that may be displaced.
    yielding: Option<shares::Place>,
    displacement: Arc<Displacement>,
}

impl ConnectionGuard {
    /// Takes the client from a PROXY header: the connection counts as that client's from now on.
    /// These two addresses identify a client, so no two connections may have the same ones at a
    /// time.
    pub(super) fn belongs_to(&mut self, ends: Ends) -> Result<(), ConnectionOutcome> {
        let clock = self.clock;
        let all = Arc::clone(&self.open);
        let mut open = lock(&all);
        if open.told.contains(&ends) {
            return Err(ConnectionOutcome::BadProxyHeader);
        }
        open.add(clock.mono(), ends.client.ip())?;
        open.told.insert(ends);
        self.belong(&mut open, ends.client.ip());
        self.told = Some(ends);
        Ok(())
    }

    fn belong(&mut self, open: &mut Open, ip: IpAddr) {
        self.source = Some(ip.into());
        self.yielding = Some(open.yielding.enter(ip, Arc::clone(&self.displacement)));
    }

    /// The handle that asks the connection to close early.
    pub(super) fn displacement(&self) -> Arc<Displacement> {
        Arc::clone(&self.displacement)
    }
}

impl StreamGuard for ConnectionGuard {
    fn set_authenticated(&mut self) {
        let Some(place) = self.yielding.take() else { return };
        let mut open = lock(&self.open);
        if open.yielding.leave(place).is_none() {
            // Too late: the connection admitted in its favour is one above the limit.
            open.leaving -= 1;
        }
    }

    fn when_displaced(&mut self, displace: Displace) {
        *lock(&self.displacement.shard) = Some(displace);
        // The request may have come meanwhile. The side that takes the callback out calls it, once.
        if self.displacement.is_told()
            && let Some(displace) = lock(&self.displacement.shard).take()
        {
            displace();
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        if let Some(place) = self.yielding
            && open.yielding.leave(place).is_none()
        {
            open.leaving -= 1;
        }
        if let Some(ends) = &self.told {
            open.told.remove(ends);
        }
        if let Some(source) = self.source {
            open.give_back(source);
        }
    }
}

/// The place of a connection that is not classified yet.
pub(super) struct PendingPlace {
    place: shares::Place,
    evicted: oneshot::Receiver<()>,
    unproven: Arc<Mutex<Shares<oneshot::Sender<()>>>>,
}

impl PendingPlace {
    /// Returns when another connection has taken the place.
    pub(super) async fn lost(&mut self) {
        // The sender never sends; it is dropped.
        let _ = (&mut self.evicted).await;
    }
}

impl Drop for PendingPlace {
    fn drop(&mut self) {
        lock(&self.unproven).leave(self.place);
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn limits(connections: usize, per_source: usize, unproven: usize, per_second: u32) -> FrontDoorLimits {
        FrontDoorLimits {
            connections,
            connections_per_source: per_source,
            connections_per_network: usize::MAX,
            new_connections_per_second: per_second,
            unproven,
            handshake_timeout: Duration::ZERO,
            http_header_timeout: Duration::ZERO,
            http_lifetime: Duration::ZERO,
            stop_timeout: Duration::ZERO,
        }
    }

    /// Without a limit on the rate of connections.
    fn admission(connections: usize, per_source: usize, unproven: usize) -> Admission {
        Admission::new(&limits(connections, per_source, unproven, u32::MAX))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_total_is_bounded_and_returned() {
        let admission = admission(2, 10, 1);
        let first = admission.admit(ip("192.0.2.1")).ok().unwrap();
        let _second = admission.admit(ip("192.0.2.2")).ok().unwrap();
        assert_eq!(
            admission.admit(ip("192.0.2.3")).err(),
            Some(ConnectionOutcome::TooManyConnections)
        );
        drop(first);
        assert!(admission.admit(ip("192.0.2.3")).is_ok());
        assert_eq!(admission.open(), 1);
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        let admission = admission(10, 1, 1);
        let _v4 = admission.admit(ip("192.0.2.1")).ok().unwrap();
        assert_eq!(
            admission.admit(ip("192.0.2.1")).err(),
            Some(ConnectionOutcome::TooManyFromSource)
        );
        assert!(admission.admit(ip("192.0.2.2")).is_ok());
        let v6 = admission.admit(ip("2001:db8::1")).ok().unwrap();
        assert_eq!(
            admission.admit(ip("2001:db8::ffff:0:0:1")).err(),
            Some(ConnectionOutcome::TooManyFromSource)
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
        let [one, other] = [ip("192.0.2.1"), ip("192.0.2.2")];
        let mut arrive = |ms, ip: IpAddr| {
            let added = open.add(at(ms), ip);
            if added.is_ok() {
                // Closed at once.
                open.give_back(ip.into());
            }
            added.err()
        };
        for _ in 0..3 {
            assert_eq!(arrive(0, one), None);
        }
        assert_eq!(arrive(49, one), Some(ConnectionOutcome::TooFast));
        assert_eq!(arrive(49, other), None, "others are not concerned");
        assert_eq!(arrive(50, one), None);
        assert_eq!(arrive(99, one), Some(ConnectionOutcome::TooFast));
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
        let mut proxied: Vec<_> = (0..5)
            .map(|_| admission.admit_proxy(ip("198.51.100.9")).ok().unwrap())
            .collect();
        assert!(proxied[0].belongs_to(ends("192.0.2.1:1000")).is_ok());
        assert_eq!(
            proxied[1].belongs_to(ends("192.0.2.1:1000")).err(),
            Some(ConnectionOutcome::BadProxyHeader)
        );
        assert!(proxied[1].belongs_to(ends("192.0.2.1:1001")).is_ok());
        assert_eq!(
            proxied[2].belongs_to(ends("192.0.2.1:1002")).err(),
            Some(ConnectionOutcome::TooManyFromSource)
        );
        assert_eq!(
            admission.admit(ip("192.0.2.1")).err(),
            Some(ConnectionOutcome::TooManyFromSource)
        );
        assert!(proxied[3].belongs_to(ends("192.0.2.2:1000")).is_ok());
        assert_eq!(admission.open(), 5);
        proxied.clear();
        let open = lock(&admission.open);
        assert!(open.total == 0 && open.by_source.is_empty() && open.by_network.is_empty());
        assert!(open.told.is_empty() && open.yielding.is_empty() && open.leaving == 0);
    }

    /// Does not wait: `true` if the place, or the connection, is lost already.
    fn is_over(lost: impl Future<Output = ()>) -> bool {
        let mut lost = core::pin::pin!(lost);
        let mut context = core::task::Context::from_waker(core::task::Waker::noop());
        lost.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn of_equal_sources_the_oldest_gives_its_place() {
        let admission = admission(10, 10, 2);
        let mut first = admission.enter(ip("192.0.2.1"));
        let mut second = admission.enter(ip("198.51.100.1"));
        let _third = admission.enter(ip("203.0.113.1"));
        assert!(is_over(first.lost()));
        assert_eq!(admission.unproven(), 2);
        drop(first);
        assert_eq!(admission.unproven(), 2, "a lost place is not given back twice");
        assert!(!is_over(second.lost()));
        drop(second);
        assert_eq!(admission.unproven(), 1);
    }

    #[test]
    fn in_a_flood_from_64_addresses_a_client_with_one_place_keeps_it() {
        let admission = admission(10, 10, 256);
        let mut honest = admission.enter(ip("192.0.2.1"));
        let mut flood = std::collections::VecDeque::new();
        for n in 0..10_000_u32 {
            flood.push_back(admission.enter(IpAddr::from([198, 51, (n % 64) as u8, 1])));
            if flood.len() > 1000 {
                flood.pop_front();
            }
        }
        assert!(!is_over(honest.lost()));
        assert_eq!(admission.unproven(), 256);
    }

    #[test]
    fn one_ipv6_48_has_no_more_than_its_share_of_connections_and_comes_no_faster_than_one_network() {
        let bounds = FrontDoorLimits {
            connections_per_network: 8,
            ..limits(100, 2, 1, 2)
        };
        let admission = Admission::new(&bounds);
        let site = |n: u16| IpAddr::from([0x2001, 0xdb8, 7, n, 0, 0, 0, 1]);
        let held: Vec<_> = (0..8).map(|n| admission.admit(site(n)).ok().unwrap()).collect();
        assert_eq!(
            admission.admit(site(8)).err(),
            Some(ConnectionOutcome::TooManyFromNetwork)
        );
        assert!(admission.admit(ip("2001:db8:8::1")).is_ok());
        drop(held);
        // Its burst is eight, its maximum. Then it may open eight per second, four times the rate
        // of a source.
        assert_eq!(admission.admit(site(9)).err(), Some(ConnectionOutcome::TooFast));
        assert!(lock(&admission.open).by_network.is_empty());
    }

    #[test]
    fn where_all_connections_are_used_up_who_has_most_loses_one_unless_it_has_logged_in() {
        let admission = admission(4, 10, 1);
        let [many, lone, other] = [ip("192.0.2.1"), ip("198.51.100.1"), ip("203.0.113.1")];
        let mut held: Vec<_> = (0..4).map(|_| admission.admit(many).ok().unwrap()).collect();
        held[0].set_authenticated();
        let told = |held: &[ConnectionGuard]| {
            held.iter()
                .map(|guard| is_over(guard.displacement().told()))
                .collect::<Vec<_>>()
        };
        assert_eq!(admission.admit(many).err(), Some(ConnectionOutcome::TooManyConnections));
        let (called, calls) = std::sync::mpsc::channel();
        held[1].when_displaced(Box::new(move || called.send(()).unwrap()));
        let _lone = admission.admit(lone).ok().unwrap();
        assert_eq!(told(&held), [false, true, false, false]);
        assert_eq!((calls.try_recv(), admission.open()), (Ok(()), 5));
        // A connection that was displaced on its way to a shard closes nevertheless.
        let _other = admission.admit_proxy(other).ok().unwrap();
        assert_eq!(told(&held), [false, true, true, false]);
        let (called, calls) = std::sync::mpsc::channel();
        held[2].when_displaced(Box::new(move || called.send(()).unwrap()));
        assert_eq!(calls.try_recv(), Ok(()));
        // Each has one left: no more is displaced.
        assert_eq!(
            admission.admit(ip("203.0.113.9")).err(),
            Some(ConnectionOutcome::TooManyConnections)
        );
        assert_eq!(admission.displaced(), 2);
        held.drain(1..3);
        assert_eq!((admission.open(), lock(&admission.open).leaving), (4, 0));
    }

    /// It was on its way to a shard when its place was given away, and stays.
    #[test]
    fn a_connection_that_settles_too_late_is_one_more_and_nothing_is_counted_twice() {
        let admission = admission(2, 9, 9);
        let heavy = ip("192.0.2.1");
        let mut held: Vec<_> = (0..2).map(|_| admission.admit(heavy).expect("room")).collect();
        held.push(admission.admit(ip("192.0.2.2")).expect("the place of one of two"));
        assert_eq!((admission.displaced(), lock(&admission.open).leaving), (1, 1));
        for guard in &mut held {
            guard.set_authenticated();
            guard.set_authenticated();
        }
        assert_eq!((admission.open(), lock(&admission.open).leaving), (3, 0));
        drop(held);
        assert_eq!((admission.open(), lock(&admission.open).leaving), (0, 0));
    }
}
