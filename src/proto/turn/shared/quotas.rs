//! Quotas: how much of the server one user, one address, and all together may hold.
//!
//! An Allocate takes a unit, which the resource then owns. Dropping the [`QuotaUnit`] is the only
//! way to release it, so nothing can release it early or forget it. All shards share the quotas;
//! only Allocate and the end of an allocation use them. Users are identified as in [`UserId`] and
//! addresses as in [`Source`]; addresses are also counted by [`Network`].

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::counts::CountMap;
use crate::base::rng::Rng;
use crate::base::source::{Network, Source};
use crate::turn::config::limits::Limits;
use crate::turn::user::UserId;

/// The limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaExceeded {
    /// Allocations of this user: 486 (Allocation Quota Reached).
    User {
        /// Current number.
        held: u32,
        /// Limit.
        limit: u32,
    },
    /// Allocations from this client address: 486.
    Address {
        /// Current number.
        held: u32,
        /// Limit.
        limit: u32,
    },
    /// Allocations from the network of this client address: 486.
    Network {
        /// Current number.
        held: u32,
        /// Limit.
        limit: u32,
    },
    /// Allocations in total: 508 (Insufficient Capacity).
    Total {
        /// Limit.
        limit: u32,
    },
    /// Port reservations of this user: 508.
    Reservations {
        /// Limit.
        limit: u32,
    },
}

/// The quotas of the whole process.
#[derive(Debug)]
pub struct Quotas(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    users: CountMap<UserId>,
    addresses: CountMap<Source>,
    networks: CountMap<Network>,
    reservations: CountMap<UserId>,
    total: AtomicU32,
    connections: AtomicU32,
}

impl Quotas {
    /// Empty counts.
    pub fn new(rng: &mut Rng) -> Self {
        Self(Arc::new(Counts {
            users: CountMap::new(rng.next_u64()),
            addresses: CountMap::new(rng.next_u64()),
            networks: CountMap::new(rng.next_u64()),
            reservations: CountMap::new(rng.next_u64()),
            total: AtomicU32::new(0),
            connections: AtomicU32::new(0),
        }))
    }

    /// Takes the unit for one allocation, completely or not at all.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn allocation(&self, user: &UserId, client: IpAddr, limits: &Limits) -> Result<QuotaUnit, QuotaExceeded> {
        // The unit exists from the first step on, so a later failure releases what was taken.
        let below = |limit| move |n: u32| (n < limit).then_some(n + 1);
        let counts = &self.0;
        counts
            .total
            .fetch_update(Relaxed, Relaxed, below(limits.allocations))
            .map_err(|_| QuotaExceeded::Total {
                limit: limits.allocations,
            })?;
        let mut unit = QuotaUnit {
            counts: Arc::clone(counts),
            user: None,
            address: None,
        };
        counts
            .users
            .take(user, limits.allocations_per_user)
            .map_err(|held| QuotaExceeded::User {
                held,
                limit: limits.allocations_per_user,
            })?;
        unit.user = Some(user.clone());
        unit.address = Some(self.address(client, limits)?);
        Ok(unit)
    }

    /// Takes the unit of an allocation that was granted before, by another process or under other
    /// limits. No limit applies.
    pub(in crate::turn) fn readmit(&self, user: &UserId, client: IpAddr) -> Result<QuotaUnit, QuotaExceeded> {
        self.allocation(user, client, &no_limits())
    }

    /// As [`Self::readmit`], for a port reservation.
    pub(in crate::turn) fn readmit_reservation(&self, user: &UserId) -> Result<ReservationUnit, QuotaExceeded> {
        self.reservation(user, &no_limits())
    }

    /// Takes only the unit of one client address, for an allocation that moves there (RFC 8016).
    ///
    /// # Errors
    /// If the address, or its network, has reached its limit.
    pub fn address(&self, client: IpAddr, limits: &Limits) -> Result<AddressUnit, QuotaExceeded> {
        let source = Source::from(client);
        let Counts {
            addresses, networks, ..
        } = &*self.0;
        addresses
            .take(&source, limits.allocations_per_ip)
            .map_err(|held| QuotaExceeded::Address {
                held,
                limit: limits.allocations_per_ip,
            })?;
        networks
            .take(&source.network(), limits.allocations_per_network)
            .map_err(|held| {
                addresses.give_back(&source);
                QuotaExceeded::Network {
                    held,
                    limit: limits.allocations_per_network,
                }
            })?;
        Ok(AddressUnit {
            counts: Arc::clone(&self.0),
            source,
        })
    }

    /// Takes the unit for one port reservation (EVEN-PORT with R, RFC 8656 §7.2).
    ///
    /// # Errors
    /// If `user` has reached its limit.
    pub fn reservation(&self, user: &UserId, limits: &Limits) -> Result<ReservationUnit, QuotaExceeded> {
        self.0
            .reservations
            .take(user, limits.reservations_per_user)
            .map_err(|_| QuotaExceeded::Reservations {
                limit: limits.reservations_per_user,
            })?;
        Ok(ReservationUnit {
            counts: Arc::clone(&self.0),
            user: user.clone(),
        })
    }

    /// Takes the unit for one TCP connection with a peer (RFC 6062); at most `limit` exist.
    pub(in crate::turn) fn connection(&self, limit: u32) -> Option<ConnectionUnit> {
        let below = |n: u32| (n < limit).then_some(n + 1);
        self.0.connections.fetch_update(Relaxed, Relaxed, below).ok()?;
        Some(ConnectionUnit(Arc::clone(&self.0)))
    }

    /// Allocations in total.
    pub fn allocations(&self) -> u32 {
        self.0.total.load(Relaxed)
    }

    /// Allocations of `user`.
    pub fn allocations_of(&self, user: &UserId) -> u32 {
        self.0.users.count(user)
    }
}

/// Limits that are never reached.
fn no_limits() -> Limits {
    Limits {
        allocations_per_user: u32::MAX,
        allocations_per_ip: u32::MAX,
        allocations_per_network: u32::MAX,
        allocations: u32::MAX,
        reservations_per_user: u32::MAX,
        ..Limits::default()
    }
}

/// The quota of one allocation, released when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the share back"]
pub struct QuotaUnit {
    counts: Arc<Counts>,
    user: Option<UserId>,
    /// `None` only while the unit is being taken.
    address: Option<AddressUnit>,
}

impl QuotaUnit {
    /// Whether the allocation counts for the source of `client`.
    pub fn covers(&self, client: IpAddr) -> bool {
        self.address.as_ref().is_some_and(|address| address.covers(client))
    }

    /// Counts the allocation for another client address, and releases the unit of the previous one.
    pub fn move_to(&mut self, address: AddressUnit) {
        self.address = Some(address);
    }
}

impl Drop for QuotaUnit {
    fn drop(&mut self) {
        if let Some(user) = &self.user {
            self.counts.users.give_back(user);
        }
        self.counts.total.fetch_sub(1, Relaxed);
    }
}

/// The unit of one client address and its network, released when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the share back"]
pub struct AddressUnit {
    counts: Arc<Counts>,
    source: Source,
}

impl AddressUnit {
    /// Whether it is the unit of the source of `client`.
    pub fn covers(&self, client: IpAddr) -> bool {
        self.source == Source::from(client)
    }
}

impl Drop for AddressUnit {
    fn drop(&mut self) {
        self.counts.addresses.give_back(&self.source);
        self.counts.networks.give_back(&self.source.network());
    }
}

/// The unit of one port reservation, released when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the share back"]
pub struct ReservationUnit {
    counts: Arc<Counts>,
    user: UserId,
}

impl Drop for ReservationUnit {
    fn drop(&mut self) {
        self.counts.reservations.give_back(&self.user);
    }
}

/// The unit of one peer connection, released when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the share back"]
pub(in crate::turn) struct ConnectionUnit(Arc<Counts>);

impl Drop for ConnectionUnit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use proptest::prelude::*;
    use std::thread;

    fn quotas() -> Quotas {
        Quotas::new(&mut Rng::new([5; 32]))
    }

    fn user(name: &str) -> UserId {
        UserId::of_time_limited(name)
    }

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn limits(user: u32, ip: u32, total: u32, reservations: u32) -> Limits {
        Limits {
            allocations_per_user: user,
            allocations_per_ip: ip,
            allocations: total,
            reservations_per_user: reservations,
            ..Limits::default()
        }
    }

    impl Quotas {
        fn keys(&self) -> usize {
            let counts = &self.0;
            counts.users.keys() + counts.addresses.keys() + counts.networks.keys() + counts.reservations.keys()
        }
    }

    //= TURN-ALLOC-25
    #[test]
    fn the_quota_counts_users_wherever_they_come_from() {
        let quotas = quotas();
        let limits = limits(2, 100, 100, 0);
        let _a = quotas.allocation(&user("alice"), ip(1), &limits).unwrap();
        let b = quotas.allocation(&user("alice"), ip(2), &limits).unwrap();
        let refused = quotas.allocation(&user("alice"), ip(3), &limits).unwrap_err();
        assert_eq!(refused, QuotaExceeded::User { held: 2, limit: 2 });
        assert!(quotas.allocation(&user("bob"), ip(1), &limits).is_ok());
        drop(b);
        assert!(quotas.allocation(&user("alice"), ip(3), &limits).is_ok());
    }

    #[test]
    fn an_allocation_that_moves_is_counted_where_it_is() {
        let (quotas, limits) = (quotas(), limits(9, 1, 100, 0));
        let mut unit = quotas.allocation(&user("alice"), ip(1), &limits).unwrap();
        assert!(unit.covers(ip(1)) && !unit.covers(ip(2)));
        unit.move_to(quotas.address(ip(2), &limits).unwrap());
        assert!(unit.covers(ip(2)) && !unit.covers(ip(1)));
        assert!(quotas.address(ip(2), &limits).is_err());
        assert!(quotas.address(ip(1), &limits).is_ok());
    }

    #[test]
    fn what_was_granted_before_is_taken_up_whatever_the_limits_are() {
        let quotas = quotas();
        let limits = Limits::default();
        let from: IpAddr = "2001:db8::1".parse().unwrap();
        let units: Vec<_> = (0..=limits.allocations)
            .map(|_| quotas.readmit(&user("alice"), from).unwrap())
            .collect();
        assert_eq!(quotas.allocations_of(&user("alice")), limits.allocations + 1);
        let reservations: Vec<_> = (0..=limits.reservations_per_user)
            .map(|_| quotas.readmit_reservation(&user("alice")).unwrap())
            .collect();
        drop((units, reservations));
        assert_eq!(quotas.keys(), 0);
    }

    #[test]
    fn one_address_or_ipv6_64_cannot_take_everything_under_many_names() {
        let quotas = quotas();
        let limits = limits(9, 1, 100, 0);
        let _a = quotas
            .allocation(&user("a"), "2001:db8::1".parse().unwrap(), &limits)
            .unwrap();
        let refused = quotas
            .allocation(&user("b"), "2001:db8::2".parse().unwrap(), &limits)
            .unwrap_err();
        assert_eq!(refused, QuotaExceeded::Address { held: 1, limit: 1 });
        assert!(
            quotas
                .allocation(&user("b"), "2001:db8:0:1::2".parse().unwrap(), &limits)
                .is_ok()
        );
    }

    //= TURN-ALLOC-25
    #[test]
    fn one_ipv6_48_or_ipv4_24_cannot_take_everything_by_many_addresses() {
        let networks: [fn(u16) -> IpAddr; 2] = [
            |n| IpAddr::from([192, 0, 2, n as u8]),
            |n| IpAddr::from([0x2001, 0xdb8, 7, n, 0, 0, 0, 1]),
        ];
        let quotas = quotas();
        let limits = Limits {
            allocations_per_network: 8,
            ..limits(9, 2, 100, 0)
        };
        for network in networks {
            let take = |n: u16| quotas.allocation(&user(&n.to_string()), network(n), &limits);
            let held: Vec<_> = (0..8).map(|n| take(n).unwrap()).collect();
            let refused = take(8).unwrap_err();
            assert_eq!(refused, QuotaExceeded::Network { held: 8, limit: 8 });
            assert!(
                quotas
                    .allocation(&user("x"), IpAddr::from([198, 51, 100, 1]), &limits)
                    .is_ok()
            );
            drop(held);
            assert!(take(8).is_ok());
        }
        assert_eq!((quotas.allocations(), quotas.keys()), (0, 0));
    }

    //= TURN-ALLOC-26
    #[test]
    fn the_total_is_a_matter_of_capacity() {
        let quotas = quotas();
        let limits = limits(9, 9, 1, 0);
        let _a = quotas.allocation(&user("a"), ip(1), &limits).unwrap();
        let refused = quotas.allocation(&user("b"), ip(2), &limits).unwrap_err();
        assert_eq!(refused, QuotaExceeded::Total { limit: 1 });
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let quotas = quotas();
        for limits in [limits(0, 9, 9, 0), limits(9, 0, 9, 0), limits(9, 9, 0, 0)] {
            assert!(quotas.allocation(&user("a"), ip(1), &limits).is_err());
            assert!(quotas.reservation(&user("a"), &limits).is_err());
        }
        assert_eq!((quotas.allocations(), quotas.keys()), (0, 0));
    }

    //= TURN-ALLOC-19
    #[test]
    fn reservations_are_counted_on_their_own() {
        let quotas = quotas();
        let limits = limits(1, 1, 1, 1);
        let held = quotas.reservation(&user("a"), &limits).unwrap();
        let refused = quotas.reservation(&user("a"), &limits).unwrap_err();
        assert_eq!(refused, QuotaExceeded::Reservations { limit: 1 });
        assert!(quotas.allocation(&user("a"), ip(1), &limits).is_ok());
        drop(held);
        assert!(quotas.reservation(&user("a"), &limits).is_ok());
    }

    #[test]
    fn a_lowered_limit_keeps_what_is_held_and_admits_no_more() {
        let quotas = quotas();
        let held: Vec<_> = (0..3)
            .map(|_| quotas.allocation(&user("a"), ip(1), &limits(3, 9, 9, 0)).unwrap())
            .collect();
        assert!(quotas.allocation(&user("a"), ip(1), &limits(2, 9, 9, 0)).is_err());
        assert_eq!(quotas.allocations_of(&user("a")), 3);
        drop(held);
        assert_eq!((quotas.allocations_of(&user("a")), quotas.keys()), (0, 0));
    }

    #[test]
    fn shards_taking_at_once_never_exceed_a_limit_and_leave_nothing_behind() {
        let quotas = quotas();
        let limits = limits(10, 20, 30, 0);
        let held: Vec<Vec<QuotaUnit>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|n| {
                    let (quotas, limits) = (&quotas, &limits);
                    scope.spawn(move || {
                        let mut held = Vec::new();
                        for _ in 0..2000 {
                            held.extend(quotas.allocation(&user("a"), ip(n), limits));
                            if held.len() > 2 {
                                held.pop();
                            }
                            assert!(quotas.allocations_of(&user("a")) <= 10);
                        }
                        held
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert!(held.iter().map(Vec::len).sum::<usize>() <= 10);
        drop(held);
        assert_eq!((quotas.allocations(), quotas.keys()), (0, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u8, u8),
        Reserve(u8),
        DropAllocation(usize),
        DropReservation(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u8..4, 0_u8..4).prop_map(|(user, ip)| Step::Allocate(user, ip)),
            1 => (0_u8..4).prop_map(Step::Reserve),
            2 => any::<usize>().prop_map(Step::DropAllocation),
            1 => any::<usize>().prop_map(Step::DropReservation),
        ]
    }

    proptest! {
        /// Compares with two plain lists of units in use. The results agree, and nothing is left
        /// when all are dropped.
        #[test]
        fn quotas_agree_with_a_list_of_what_is_held(steps in prop::collection::vec(step(), 0..200)) {
            let quotas = quotas();
            let limits = limits(3, 4, 8, 2);
            let mut allocations: Vec<(u8, u8, QuotaUnit)> = Vec::new();
            let mut reservations: Vec<(u8, ReservationUnit)> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(who, from) => {
                        let expected = if allocations.len() >= 8 {
                            Some(QuotaExceeded::Total { limit: 8 })
                        } else if allocations.iter().filter(|held| held.0 == who).count() >= 3 {
                            Some(QuotaExceeded::User { held: 3, limit: 3 })
                        } else if allocations.iter().filter(|held| held.1 == from).count() >= 4 {
                            Some(QuotaExceeded::Address { held: 4, limit: 4 })
                        } else {
                            None
                        };
                        let taken = quotas.allocation(&user(&who.to_string()), ip(from), &limits);
                        prop_assert_eq!(taken.as_ref().err().copied(), expected);
                        allocations.extend(taken.ok().map(|unit| (who, from, unit)));
                    }
                    Step::Reserve(who) => {
                        let free = reservations.iter().filter(|held| held.0 == who).count() < 2;
                        let taken = quotas.reservation(&user(&who.to_string()), &limits);
                        prop_assert_eq!(taken.is_ok(), free);
                        reservations.extend(taken.ok().map(|unit| (who, unit)));
                    }
                    Step::DropAllocation(i) if !allocations.is_empty() => {
                        let _ = allocations.swap_remove(i % allocations.len());
                    }
                    Step::DropReservation(i) if !reservations.is_empty() => {
                        let _ = reservations.swap_remove(i % reservations.len());
                    }
                    Step::DropAllocation(_) | Step::DropReservation(_) => {}
                }
                prop_assert_eq!(quotas.allocations() as usize, allocations.len());
            }
            drop(allocations);
            drop(reservations);
            prop_assert_eq!((quotas.allocations(), quotas.keys()), (0, 0));
        }
    }
}
