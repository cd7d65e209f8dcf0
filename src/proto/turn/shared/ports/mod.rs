//! The relay ports that all shards draw from: one pool per address family, each behind its lock
//! (decision 0009).
//!
//! The locks are taken to draw and to release a port, never for a packet. A port in use is a value,
//! [`RelayPort`]. Exactly one allocation, reservation or command owns it, and dropping it releases
//! the port. So no port can leak, and none can be released twice.

mod pool;

use core::fmt;
use core::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::base::address::Family;
use crate::base::cell::Cell;
use crate::base::lock::lock;
use crate::base::rng::Rng;
use pool::PortPool;
pub(in crate::turn) use pool::Want;

/// How many relay ports exist, and how many of them are in use or reserved. Readable at any time.
#[derive(Debug, Default)]
pub struct PortGauges {
    /// By family.
    pub total: [Cell; 2],
    /// By family.
    pub used: [Cell; 2],
}

impl PortGauges {
    /// Relay ports of both families.
    pub fn total(&self) -> u64 {
        self.total.iter().map(Cell::get).sum()
    }

    /// Relay ports in use or reserved.
    pub fn used(&self) -> u64 {
        self.used.iter().map(Cell::get).sum()
    }
}

/// The relay ports of all shards.
#[derive(Clone, Debug, Default)]
pub(in crate::turn) struct RelayPorts(Arc<Pools>);

#[derive(Debug, Default)]
struct Pools {
    /// By family. The innermost locks: no other lock is taken under them.
    pools: [Mutex<PortPool>; 2],
    gauges: Arc<PortGauges>,
}

impl RelayPorts {
    /// Draws from `range` from now on. Ports in use stay in use, also those outside the range.
    pub(in crate::turn) fn set_range(&self, family: Family, range: RangeInclusive<u16>) {
        self.0.with(family, |pool| pool.set_range(range));
    }

    /// Draws a random port, and with [`Want::EvenAndNext`] the next one too.
    pub(in crate::turn) fn take(
        &self,
        family: Family,
        want: Want,
        rng: &mut Rng,
    ) -> Option<(RelayPort, Option<RelayPort>)> {
        let number = self.0.with(family, |pool| pool.take(want, rng))?;
        let port = |number| RelayPort {
            pools: Arc::clone(&self.0),
            family,
            number,
        };
        Some((port(number), (want == Want::EvenAndNext).then(|| port(number + 1))))
    }

    /// Takes exactly this port, in the range or not. `None`: it is in use.
    pub(in crate::turn) fn claim(&self, family: Family, number: u16) -> Option<RelayPort> {
        let free = self.0.with(family, |pool| pool.take_exactly(number));
        free.then(|| RelayPort {
            pools: Arc::clone(&self.0),
            family,
            number,
        })
    }

    /// For metrics and health.
    pub(in crate::turn) fn gauges(&self) -> Arc<PortGauges> {
        Arc::clone(&self.0.gauges)
    }
}

impl Pools {
    fn with<T>(&self, family: Family, change: impl FnOnce(&mut PortPool) -> T) -> T {
        let mut pool: MutexGuard<'_, PortPool> = lock(&self.pools[family as usize]);
        let result = change(&mut pool);
        // Set under the lock, so each gauge has one writer at a time.
        self.gauges.total[family as usize].set(pool.total() as u64);
        self.gauges.used[family as usize].set(pool.used() as u64);
        result
    }
}

/// A relay port in use or reserved. Dropping it returns it to the pool, and any shard may draw it
/// at once. Its sockets must be closed by then.
pub struct RelayPort {
    pools: Arc<Pools>,
    family: Family,
    number: u16,
}

impl RelayPort {
    /// Address family.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The bound port number.
    pub const fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for RelayPort {
    fn drop(&mut self) {
        self.pools.with(self.family, |pool| pool.release(self.number));
    }
}

impl fmt::Debug for RelayPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayPort({:?} {})", self.family, self.number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::*;

    fn ports(range: RangeInclusive<u16>) -> RelayPorts {
        let ports = RelayPorts::default();
        ports.set_range(Family::V4, range);
        ports
    }

    //= TURN-ALLOC-34
    #[test]
    fn a_port_is_in_use_until_its_value_is_dropped_and_families_do_not_share() {
        let ports = ports(50_000..=50_001);
        ports.set_range(Family::V6, 50_000..=50_001);
        let mut rng = Rng::new([1; 32]);
        let both = ports.take(Family::V4, Want::EvenAndNext, &mut rng).expect("a pair");
        assert!(ports.take(Family::V4, Want::Any, &mut rng).is_none());
        assert!(ports.take(Family::V6, Want::Any, &mut rng).is_some());
        let gauges = ports.gauges();
        assert_eq!((gauges.total(), gauges.used()), (4, 2));
        drop(both.1);
        assert_eq!(gauges.used(), 1);
        let odd = ports.take(Family::V4, Want::Any, &mut rng).expect("the odd one").0;
        assert_eq!((odd.family(), odd.number()), (Family::V4, 50_001));
        drop((both.0, odd));
        assert_eq!(gauges.used(), 0);
    }

    #[test]
    fn a_port_is_claimed_once_in_the_range_or_outside_of_it() {
        let ports = ports(50_000..=50_001);
        for number in [50_000, 40_000] {
            let claimed = ports.claim(Family::V4, number).expect("it is free");
            assert_eq!((claimed.family(), claimed.number()), (Family::V4, number));
            assert!(ports.claim(Family::V4, number).is_none(), "{number} is in use");
            drop(claimed);
            assert!(ports.claim(Family::V4, number).is_some());
        }
        let unserved = ports.claim(Family::V6, 50_000).expect("it is free");
        // The range is set while one of its ports is in use.
        ports.set_range(Family::V6, 50_000..=50_000);
        assert!(ports.take(Family::V6, Want::Any, &mut Rng::new([1; 32])).is_none());
        drop(unserved);
        assert!(ports.take(Family::V6, Want::Any, &mut Rng::new([1; 32])).is_some());
    }

    #[test]
    fn a_family_that_is_not_served_has_no_ports() {
        let ports = ports(50_000..=50_001);
        assert!(ports.take(Family::V6, Want::Any, &mut Rng::new([1; 32])).is_none());
        assert_eq!(ports.gauges().total(), 2);
    }

    //= TURN-ALLOC-34
    #[test]
    fn threads_that_hammer_the_pools_never_share_a_port_and_leave_none_behind() {
        const THREADS: u8 = 8;
        let ports = ports(50_000..=50_063);
        ports.set_range(Family::V6, 50_001..=50_016);
        let owned = [const { Mutex::new(BTreeSet::new()) }; 2];
        let work = |seed: u8| {
            let mut rng = Rng::new([seed; 32]);
            let mut held: Vec<RelayPort> = Vec::new();
            for _ in 0..5000 {
                let family = if rng.below(2) == 0 { Family::V4 } else { Family::V6 };
                let want = [Want::Any, Want::Even, Want::EvenAndNext][rng.below(3) as usize];
                if rng.below(5) == 0 {
                    ports.set_range(Family::V4, 50_000 + rng.below(32) as u16..=50_063);
                } else if rng.below(2) == 0 && !held.is_empty() {
                    let port = held.swap_remove(rng.below(held.len() as u32) as usize);
                    assert!(lock(&owned[port.family() as usize]).remove(&port.number()));
                } else if let Some((port, next)) = ports.take(family, want, &mut rng) {
                    for port in [Some(port), next].into_iter().flatten() {
                        let new = lock(&owned[family as usize]).insert(port.number());
                        assert!(new, "{port:?} was given out twice");
                        held.push(port);
                    }
                }
            }
            for port in held {
                lock(&owned[port.family() as usize]).remove(&port.number());
            }
        };
        thread::scope(|scope| {
            for seed in 0..THREADS {
                scope.spawn(move || work(seed));
            }
        });
        ports.set_range(Family::V4, 50_000..=50_063);
        let gauges = ports.gauges();
        assert_eq!((gauges.total(), gauges.used()), (64 + 16, 0));
        let mut rng = Rng::new([9; 32]);
        let all: Vec<_> = core::iter::from_fn(|| ports.take(Family::V4, Want::Any, &mut rng)).collect();
        assert_eq!(all.len(), 64);
    }
}
