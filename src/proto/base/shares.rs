//! A bounded pool of places that remote hosts fill, and the choice of the place to evict when the
//! pool is full.
//!
//! The heaviest source loses a place: the one with most places (a source is an IPv4 address or an
//! IPv6 /64), and of its places the oldest. An attacker with a whole network can hold one place
//! from each of many sources. So a network (an IPv4 /24 or IPv6 /48) weighs as much as one source
//! with a sixteenth of the network's places. A client with one place never loses it to a heavier
//! source, and the clients behind one network may hold sixteen times what a single source may.
//!
//! Choosing, entering and leaving cost O(log n) in the number of places.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::source::{Network, Source};

/// This many places of a network weigh as much as one place of a source.
const PLACES_OF_NETWORK: usize = 16;

/// Identifies one place while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    source: Source,
    /// Increases with each place: a smaller number is older.
    number: u64,
}

/// What a source and its network hold, for comparison. The heaviest source is evicted from first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Weight {
    share: usize,
    /// Places of the source.
    source: usize,
    /// Places of its network.
    network: usize,
}

impl Weight {
    fn new(source: usize, network: usize) -> Self {
        Self {
            share: source.max(network / PLACES_OF_NETWORK),
            source,
            network,
        }
    }
}

/// The sources of one network.
#[derive(Debug, Default)]
struct Members {
    held: usize,
    /// For each source: how many places it holds, its oldest place, and the source itself. The last
    /// entry is evicted from first.
    sources: BTreeSet<(usize, Reverse<u64>, Source)>,
}

impl Members {
    /// The weight and the oldest place of the network's heaviest source.
    fn heaviest(&self) -> Option<(Weight, Reverse<u64>)> {
        let &(held, oldest, _) = self.sources.last()?;
        Some((Weight::new(held, self.held), oldest))
    }
}

/// The places in use, each with its value.
#[derive(Debug)]
pub struct Shares<T> {
    next: u64,
    /// `None` for the trial entry of [`Self::displace`].
    places: BTreeMap<Place, Option<T>>,
    held: BTreeMap<Source, usize>,
    networks: BTreeMap<Network, Members>,
    /// Every network, ordered by its heaviest source.
    order: BTreeSet<(Weight, Reverse<u64>, Network)>,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self {
            next: 0,
            places: BTreeMap::new(),
            held: BTreeMap::new(),
            networks: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<T> Shares<T> {
    /// How many places are in use.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no place is in use.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The values of all places.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.values().flatten()
    }

    /// Gives one more place to the source of `client`. The caller bounds their number.
    pub fn enter(&mut self, client: IpAddr, value: T) -> Place {
        self.insert(client, Some(value))
    }

    /// Frees a place and returns its value; `None` if it was already free.
    pub fn leave(&mut self, place: Place) -> Option<T> {
        if !self.places.contains_key(&place) {
            return None;
        }
        self.change(place.source, |places, held| {
            *held -= 1;
            places.remove(&place).flatten()
        })
    }

    /// Evicts a place to make room for one of `client`: the oldest place of the source that would
    /// be heaviest afterwards. `None` if no place is in use.
    pub fn displace(&mut self, client: IpAddr) -> Option<T> {
        let newcomer = self.insert(client, None);
        let displaced = self.heaviest().and_then(|(_, place)| self.leave(place));
        self.leave(newcomer);
        displaced
    }

    /// As [`Self::displace`], but only if the evicted source is heavier than `client` would be.
    /// Among equals the older entry stays.
    pub fn displace_heavier(&mut self, client: IpAddr) -> Option<T> {
        let source = Source::from(client);
        let held = self.held.get(&source).map_or(0, |&held| held);
        let network = self.networks.get(&source.network()).map_or(0, |members| members.held);
        let (weight, place) = self.heaviest()?;
        if weight > Weight::new(held + 1, network + 1) {
            self.leave(place)
        } else {
            None
        }
    }

    fn insert(&mut self, client: IpAddr, value: Option<T>) -> Place {
        let source = Source::from(client);
        let place = Place {
            source,
            number: self.next,
        };
        self.next += 1;
        self.change(source, |places, held| {
            places.insert(place, value);
            *held += 1;
        });
        place
    }

    fn heaviest(&self) -> Option<(Weight, Place)> {
        let &(weight, _, network) = self.order.last()?;
        let &(_, Reverse(number), source) = self.networks.get(&network)?.sources.last()?;
        Some((weight, Place { source, number }))
    }

    /// Changes what `source` holds and updates the orderings.
    fn change<R>(
        &mut self,
        source: Source,
        change: impl FnOnce(&mut BTreeMap<Place, Option<T>>, &mut usize) -> R,
    ) -> R {
        let network = source.network();
        let members = self.networks.entry(network).or_default();
        if let Some((weight, oldest)) = members.heaviest() {
            self.order.remove(&(weight, oldest, network));
        }
        let held = self.held.entry(source).or_default();
        if let Some(rank) = rank(&self.places, source, *held) {
            members.sources.remove(&rank);
        }
        members.held -= *held;
        let result = change(&mut self.places, held);
        members.held += *held;
        match rank(&self.places, source, *held) {
            Some(rank) => drop(members.sources.insert(rank)),
            None => drop(self.held.remove(&source)),
        }
        match members.heaviest() {
            Some((weight, oldest)) => drop(self.order.insert((weight, oldest, network))),
            None => drop(self.networks.remove(&network)),
        }
        result
    }
}

/// The position of `source` within its network; `None` if it holds nothing.
fn rank<T>(places: &BTreeMap<Place, T>, source: Source, held: usize) -> Option<(usize, Reverse<u64>, Source)> {
    let first = Place { source, number: 0 };
    let (oldest, _) = places
        .range(first..)
        .next()
        .filter(|(place, _)| place.source == source)?;
    Some((held, Reverse(oldest.number), source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(shares: &mut Shares<IpAddr>, client: IpAddr, times: usize) {
        for _ in 0..times {
            shares.enter(client, client);
        }
    }

    #[test]
    fn the_source_with_the_most_places_loses_its_oldest_and_a_client_with_one_keeps_it() {
        let mut shares = Shares::default();
        let lone = shares.enter(ip("192.0.2.1"), 0);
        let many = [1, 2, 3].map(|n| shares.enter(ip("198.51.100.1"), n));
        assert_eq!(shares.displace(ip("203.0.113.77")), Some(1));
        assert_eq!(shares.displace(ip("203.0.113.77")), Some(2));
        // Each holds one place, so the oldest goes.
        assert_eq!(shares.displace(ip("203.0.113.77")), Some(0));
        assert_eq!((shares.leave(lone), shares.leave(many[0])), (None, None));
        assert_eq!(shares.leave(many[2]), Some(3));
        assert!(shares.is_empty() && shares.displace(ip("203.0.113.77")).is_none());
        assert!(shares.held.is_empty() && shares.networks.is_empty() && shares.order.is_empty());
    }

    #[test]
    fn a_network_that_holds_one_place_with_each_of_its_sources_gives_way_to_a_client_with_two() {
        let networks: [fn(u8) -> IpAddr; 2] = [
            |n| IpAddr::from([198, 51, 100, n]),
            |n| format!("2001:db8:7:{n:x}::1").parse().unwrap(),
        ];
        for network in networks {
            let mut shares = Shares::default();
            enter(&mut shares, ip("192.0.2.1"), 2);
            enter(&mut shares, ip("2001:db8:8::1"), 2);
            (0..=255).for_each(|n| enter(&mut shares, network(n), 1));
            for n in 0..=255 - 47 {
                assert_eq!(
                    shares.displace(ip("203.0.113.77")),
                    Some(network(n)),
                    "the oldest of the network"
                );
            }
        }
    }

    #[test]
    fn the_many_of_one_network_give_way_to_no_source_that_holds_more_than_a_sixteenth_of_theirs() {
        let mut shares = Shares::default();
        (0..160).for_each(|n| enter(&mut shares, IpAddr::from([192, 0, 2, n]), 1));
        let attacker = ip("198.51.100.1");
        enter(&mut shares, attacker, 100);
        for _ in 0..91 {
            assert_eq!(shares.displace(ip("203.0.113.77")), Some(attacker));
        }
        assert_eq!(
            shares.displace(ip("203.0.113.77")),
            Some(ip("192.0.2.0")),
            "ten of a source weigh less than 160 of a network"
        );
    }

    #[test]
    fn of_equal_sources_that_of_the_larger_network_gives_way() {
        let mut shares = Shares::default();
        enter(&mut shares, ip("192.0.2.1"), 1);
        (1..=4).for_each(|n| enter(&mut shares, IpAddr::from([198, 51, 100, n]), 1));
        for n in 1..=3 {
            assert_eq!(
                shares.displace(ip("203.0.113.77")),
                Some(IpAddr::from([198, 51, 100, n]))
            );
        }
        assert_eq!(shares.displace(ip("203.0.113.77")), Some(ip("192.0.2.1")));
    }

    #[test]
    fn nobody_gives_way_to_who_holds_as_much() {
        let mut shares = Shares::default();
        enter(&mut shares, ip("192.0.2.1"), 1);
        enter(&mut shares, ip("198.51.100.1"), 2);
        assert_eq!(shares.displace_heavier(ip("198.51.100.1")), None, "not to itself");
        assert_eq!(shares.displace_heavier(ip("192.0.2.1")), None);
        assert_eq!(shares.displace_heavier(ip("203.0.113.1")), Some(ip("198.51.100.1")));
        assert_eq!(shares.displace_heavier(ip("203.0.113.1")), None);
        assert_eq!(shares.len(), 2);
    }

    #[test]
    fn in_a_flood_from_many_sources_a_client_with_one_place_keeps_it() {
        let mut shares = Shares::default();
        let honest = shares.enter(ip("127.0.0.1"), 0);
        for n in 0..100_000_u32 {
            shares.enter(IpAddr::from([127, 0, 1 + (n % 64) as u8, 1]), n + 1);
            if shares.len() > 256 {
                assert_ne!(shares.displace(ip("203.0.113.77")), Some(0));
            }
        }
        assert_eq!(shares.leave(honest), Some(0));
    }

    fn client() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0_u8..3, 0_u8..12).prop_map(|(network, host)| IpAddr::from([192, 0, network, host])),
            (0_u16..2, 0_u16..12).prop_map(|(site, net)| IpAddr::from([0x2001, 0xdb8, site, net, 0, 0, 0, 1])),
        ]
    }

    proptest! {
        /// Compares with a plain list, oldest first.
        #[test]
        fn what_gives_way_agrees_with_a_count_of_every_place(
            steps in prop::collection::vec((client(), 0_u8..4, any::<prop::sample::Index>()), 0..300),
        ) {
            let mut shares = Shares::default();
            let mut list: Vec<(Place, IpAddr)> = Vec::new();
            let weight = |list: &[(Place, IpAddr)], ip: IpAddr, more: usize| {
                let source = Source::from(ip);
                let of = |is: &dyn Fn(Source) -> bool| list.iter().filter(|(_, ip)| is(Source::from(*ip))).count();
                let held = of(&|other| other == source) + more;
                let network = of(&|other| other.network() == source.network()) + more;
                (held.max(network / 16), held, network)
            };
            for (ip, step, index) in steps {
                match step {
                    0 if !list.is_empty() => {
                        let (place, ip) = list.remove(index.index(list.len()));
                        prop_assert_eq!(shares.leave(place), Some(ip));
                    }
                    1 => {
                        let newcomer = Place { source: ip.into(), number: u64::MAX };
                        list.push((newcomer, ip));
                        let heaviest = list.iter().map(|&(_, ip)| weight(&list, ip, 0)).max();
                        let victim = list.iter().position(|&(_, ip)| Some(weight(&list, ip, 0)) == heaviest);
                        let (place, gone) = list.remove(victim.unwrap());
                        prop_assert_eq!(shares.displace(ip), Some(gone).filter(|_| place != newcomer));
                        list.retain(|&(place, _)| place != newcomer);
                    }
                    2 => {
                        let heaviest = list.iter().map(|&(_, ip)| weight(&list, ip, 0)).max();
                        let victim = list.iter().position(|&(_, ip)| Some(weight(&list, ip, 0)) == heaviest);
                        let lighter = Some(weight(&list, ip, 1)) < heaviest;
                        let gone = victim.filter(|_| lighter).map(|at| list.remove(at).1);
                        prop_assert_eq!(shares.displace_heavier(ip), gone);
                    }
                    _ => list.push((shares.enter(ip, ip), ip)),
                }
                prop_assert_eq!(shares.len(), list.len());
            }
        }
    }
}
