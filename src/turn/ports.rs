//! The relay ports of one shard and one address family.
//!
//! Ports are handled as pairs (even, odd), because EVEN-PORT asks for an even port and may reserve the odd one behind it
//! (RFC 8656 §7.2 step 8), and because pairs are what is dealt out to shards. Every pick is uniform among all free ports
//! that will do, so the next port cannot be guessed (RFC 6056), and costs O(1).
//!
//! A port is free, live or reserved; `free + live + reserved == total` always.

use core::ops::RangeInclusive;
use std::collections::BTreeMap;

use super::rng::Rng;
use super::types::ShardIndex;

/// What an allocation wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Any port.
    Any,
    /// An even port; its sibling stays where it is.
    Even,
    /// An even port, and its free sibling is reserved.
    EvenAndNext,
}

/// The ports of one shard.
#[derive(Debug)]
pub(super) struct PortPool {
    shard: ShardIndex,
    /// Number (`port / 2`) of the first pair that is ours.
    first: u16,
    pairs: Vec<Pair>,
    /// Pairs by what is free of them, in random order: index is the bit set [`Pair::free`]; 0 is never listed.
    by_free: [Vec<u16>; 4],
    total: usize,
    free: usize,
    reserved: usize,
    /// Ports in use that a change of the range has left outside of it, and whether they are reserved. They count for
    /// nothing, but the range may come back while they are still in use.
    outside: BTreeMap<u16, bool>,
}

/// A port and its sibling. Bit 0 stands for the even port, bit 1 for the odd one.
#[derive(Clone, Copy, Debug)]
struct Pair {
    /// Which belong to the range at all.
    ours: u8,
    free: u8,
    reserved: u8,
    /// Position in the list `by_free[free]`.
    at: u16,
}

const EVEN: u8 = 0b01;
const ODD: u8 = 0b10;
const BOTH: u8 = EVEN | ODD;

const fn bit(port: u16) -> u8 {
    if port.is_multiple_of(2) { EVEN } else { ODD }
}

impl PortPool {
    /// All ports of `range` that belong to `shard`, free.
    pub(super) fn new(range: RangeInclusive<u16>, shard: ShardIndex) -> Self {
        let (start, end) = range.into_inner();
        let ours = |number: u16| (usize::from(number)) % shard.count == shard.index;
        let first = (start / 2..=end / 2).find(|&number| ours(number)).unwrap_or(start / 2);
        let mut pool = Self {
            shard,
            first,
            pairs: Vec::new(),
            by_free: [const { Vec::new() }; 4],
            total: 0,
            free: 0,
            reserved: 0,
            outside: BTreeMap::new(),
        };
        for number in (first..=end / 2)
            .step_by(shard.count)
            .filter(|&number| ours(number) && start <= end)
        {
            let inside = |port: u16| (start..=end).contains(&port);
            let (even, odd) = (number * 2, number * 2 + 1);
            let bits = if inside(even) { EVEN } else { 0 } | if inside(odd) { ODD } else { 0 };
            pool.pairs.push(Pair {
                ours: bits,
                free: 0,
                reserved: 0,
                at: 0,
            });
            pool.total += bits.count_ones() as usize;
            pool.set_free(pool.pairs.len() - 1, bits);
        }
        pool.free = pool.total;
        pool
    }

    /// Goes over to another range. Ports in use stay in use, also those outside the new range.
    pub(super) fn set_range(&mut self, range: RangeInclusive<u16>) {
        let old = core::mem::replace(self, Self::new(range, self.shard));
        for (port, reserved) in old.outside {
            self.claim(port, reserved);
        }
        for (index, pair) in old.pairs.iter().enumerate() {
            let number = old.first + (index * self.shard.count) as u16;
            for (bit, port) in [(EVEN, number * 2), (ODD, number * 2 + 1)] {
                if pair.ours & !pair.free & bit != 0 {
                    self.claim(port, pair.reserved & bit != 0);
                }
            }
        }
    }

    /// Ports in the pool, whatever their state.
    pub(super) const fn total(&self) -> usize {
        self.total
    }

    /// Ports that are live or reserved.
    pub(super) const fn used(&self) -> usize {
        self.total - self.free
    }

    /// Takes a port at random; with [`Want::EvenAndNext`] the port behind it becomes reserved.
    pub(super) fn take(&mut self, want: Want, rng: &mut Rng) -> Option<u16> {
        // A pair of which both are free counts twice where either will do.
        let (evens, odds, both) = (self.list(EVEN).len(), self.list(ODD).len(), self.list(BOTH).len());
        let choices = match want {
            Want::Any => evens + odds + 2 * both,
            Want::Even => evens + both,
            Want::EvenAndNext => both,
        };
        if choices == 0 {
            return None;
        }
        let pick = rng.below(choices as u32) as usize;
        let (index, bit) = match want {
            Want::Any if pick < evens => (self.list(EVEN)[pick], EVEN),
            Want::Any if pick < evens + odds => (self.list(ODD)[pick - evens], ODD),
            Want::Any => {
                let pick = pick - evens - odds;
                (
                    self.list(BOTH)[pick / 2],
                    if pick.is_multiple_of(2) { EVEN } else { ODD },
                )
            }
            Want::Even if pick < evens => (self.list(EVEN)[pick], EVEN),
            Want::Even => (self.list(BOTH)[pick - evens], EVEN),
            Want::EvenAndNext => (self.list(BOTH)[pick], EVEN),
        };
        let index = usize::from(index);
        let taken = if want == Want::EvenAndNext { BOTH } else { bit };
        self.set_free(index, self.pairs[index].free & !taken);
        self.free -= taken.count_ones() as usize;
        if want == Want::EvenAndNext {
            self.pairs[index].reserved |= ODD;
            self.reserved += 1;
        }
        let number = self.first + (index * self.shard.count) as u16;
        Some(number * 2 + u16::from(bit == ODD))
    }

    fn claim(&mut self, port: u16, reserved: bool) {
        let Some(index) = self.index_of(port) else {
            self.outside.insert(port, reserved);
            return;
        };
        let Pair { free, .. } = self.pairs[index];
        if free & bit(port) != 0 {
            self.set_free(index, free & !bit(port));
            self.free -= 1;
            if reserved {
                self.pairs[index].reserved |= bit(port);
                self.reserved += 1;
            }
        }
    }

    /// Makes a reserved port live: its token was used.
    pub(super) fn redeem(&mut self, port: u16) {
        if let Some(reserved) = self.outside.get_mut(&port) {
            *reserved = false;
        } else if let Some(index) = self.index_of(port)
            && self.pairs[index].reserved & bit(port) != 0
        {
            self.pairs[index].reserved &= !bit(port);
            self.reserved -= 1;
        }
    }

    /// Makes a live or reserved port free. A port outside the range (which may have changed meanwhile) is forgotten.
    pub(super) fn release(&mut self, port: u16) {
        if self.outside.remove(&port).is_some() {
            return;
        }
        let Some(index) = self.index_of(port) else { return };
        let pair = self.pairs[index];
        if pair.free & bit(port) != 0 {
            debug_assert!(false, "port {port} is released twice");
            return;
        }
        self.redeem(port);
        self.set_free(index, pair.free | bit(port));
        self.free += 1;
    }

    fn list(&self, free: u8) -> &[u16] {
        &self.by_free[usize::from(free)]
    }

    /// Where `port` is kept, if it is one of ours.
    fn index_of(&self, port: u16) -> Option<usize> {
        if !self.shard.owns(port) {
            return None;
        }
        let index = usize::from((port / 2).checked_sub(self.first)?) / self.shard.count;
        (self.pairs.get(index)?.ours & bit(port) != 0).then_some(index)
    }

    /// Moves a pair from the list it is in to the list for `free`.
    fn set_free(&mut self, index: usize, free: u8) {
        let Pair { free: old, at, .. } = self.pairs[index];
        if old != 0 {
            let list = &mut self.by_free[usize::from(old)];
            list.swap_remove(usize::from(at));
            if let Some(&moved) = list.get(usize::from(at)) {
                self.pairs[usize::from(moved)].at = at;
            }
        }
        self.pairs[index].free = free;
        if free != 0 {
            let list = &mut self.by_free[usize::from(free)];
            self.pairs[index].at = list.len() as u16;
            list.push(index as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    const ONE: ShardIndex = ShardIndex { index: 0, count: 1 };

    fn rng() -> Rng {
        Rng::new([7; 32])
    }

    fn drain(pool: &mut PortPool, want: Want, rng: &mut Rng) -> Vec<u16> {
        core::iter::from_fn(|| pool.take(want, rng)).collect()
    }

    //= TURN-ALLOC-34
    #[test]
    fn every_port_of_the_range_is_given_out_exactly_once() {
        let mut pool = PortPool::new(50_001..=50_010, ONE);
        let ports = drain(&mut pool, Want::Any, &mut rng());
        assert_eq!(ports.len(), 10);
        assert_eq!(ports.into_iter().collect::<BTreeSet<_>>(), (50_001..=50_010).collect());
    }

    #[test]
    fn the_whole_number_range_works_up_to_its_end() {
        let mut pool = PortPool::new(65_534..=65_535, ONE);
        assert_eq!(pool.take(Want::EvenAndNext, &mut rng()), Some(65_534));
        let mut pool = PortPool::new(1024..=65_535, ONE);
        assert_eq!(drain(&mut pool, Want::Any, &mut rng()).len(), 64_512);
    }

    #[test]
    fn shards_share_a_range_without_overlap_or_gap() {
        let mut seen = BTreeSet::new();
        for index in 0..3 {
            let shard = ShardIndex { index, count: 3 };
            for port in drain(&mut PortPool::new(50_001..=50_020, shard), Want::Any, &mut rng()) {
                assert!(shard.owns(port) && seen.insert(port));
            }
        }
        assert_eq!(seen, (50_001..=50_020).collect());
    }

    //= TURN-ALLOC-16
    #[test]
    fn an_even_port_leaves_its_sibling_in_the_pool() {
        let mut pool = PortPool::new(50_000..=50_003, ONE);
        let evens = drain(&mut pool, Want::Even, &mut rng());
        assert_eq!(
            evens.iter().copied().collect::<BTreeSet<_>>(),
            BTreeSet::from([50_000, 50_002])
        );
        assert_eq!(pool.used(), 2);
        let odds = drain(&mut pool, Want::Any, &mut rng());
        assert_eq!(
            odds.into_iter().collect::<BTreeSet<_>>(),
            BTreeSet::from([50_001, 50_003])
        );
    }

    //= TURN-ALLOC-17
    #[test]
    fn a_reserved_port_is_given_to_nobody_else() {
        let mut pool = PortPool::new(50_000..=50_003, ONE);
        let mut rng = rng();
        let even = pool.take(Want::EvenAndNext, &mut rng).expect("free pair");
        let rest = drain(&mut pool, Want::Any, &mut rng);
        assert!(!rest.contains(&(even + 1)) && rest.len() == 2);
        pool.redeem(even + 1);
        pool.release(even + 1);
        assert_eq!(pool.take(Want::Any, &mut rng), Some(even + 1));
    }

    #[test]
    fn a_reserved_port_that_expires_is_free_again() {
        let mut pool = PortPool::new(50_000..=50_001, ONE);
        let mut rng = rng();
        let even = pool.take(Want::EvenAndNext, &mut rng).expect("free pair");
        assert_eq!((pool.used(), pool.reserved), (2, 1));
        pool.release(even + 1);
        assert_eq!((pool.used(), pool.reserved), (1, 0));
    }

    //= TURN-ALLOC-21
    #[test]
    fn a_range_without_a_whole_pair_has_no_pair_to_give() {
        let mut pool = PortPool::new(50_001..=50_002, ONE);
        assert_eq!(pool.take(Want::EvenAndNext, &mut rng()), None);
        assert_eq!(pool.take(Want::Even, &mut rng()), Some(50_002));
        assert_eq!(pool.take(Want::Even, &mut rng()), None);
    }

    #[test]
    fn another_range_keeps_what_is_in_use_in_use() {
        let mut rng = rng();
        let mut pool = PortPool::new(50_000..=50_003, ONE);
        let even = pool.take(Want::EvenAndNext, &mut rng).expect("free pair");
        let other = if even == 50_000 { 50_002 } else { 50_000 };
        pool.set_range(50_000..=50_005);
        assert_eq!((pool.total(), pool.used(), pool.reserved), (6, 2, 1));
        pool.set_range(other..=other + 1);
        assert_eq!((pool.total(), pool.used(), pool.reserved), (2, 0, 0));
        pool.release(even);
        assert_eq!(
            (pool.total(), pool.used()),
            (2, 0),
            "a port of the old range is forgotten"
        );
    }

    //= TURN-ALLOC-34
    #[test]
    fn a_port_in_use_stays_in_use_while_its_range_goes_and_comes_back() {
        let mut rng = rng();
        let mut pool = PortPool::new(50_000..=50_003, ONE);
        let even = pool.take(Want::EvenAndNext, &mut rng).expect("free pair");
        let live = pool.take(Want::Any, &mut rng).expect("free port");
        pool.set_range(60_000..=60_003);
        pool.set_range(61_000..=61_001);
        assert_eq!((pool.used(), drain(&mut pool, Want::Any, &mut rng).len()), (0, 2));
        pool.redeem(even + 1);
        pool.release(live);
        pool.set_range(50_000..=50_003);
        assert_eq!((pool.total(), pool.used(), pool.reserved), (4, 2, 0));
        assert!(!drain(&mut pool, Want::Any, &mut rng).contains(&even));
        for port in 50_000..=50_003 {
            pool.release(port);
        }
        assert_eq!(pool.used(), 0);
    }

    //= TURN-ALLOC-33
    #[test]
    fn ports_are_spread_over_the_range_and_not_in_order() {
        let mut rng = rng();
        let mut pool = PortPool::new(49_152..=65_535, ONE);
        let ports: Vec<f64> = (0..1000)
            .map(|_| f64::from(pool.take(Want::Any, &mut rng).expect("free")))
            .collect();
        let mean = ports.iter().sum::<f64>() / 1000.0;
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (a, b) in ports.iter().zip(&ports[1..]) {
            covariance += (a - mean) * (b - mean);
            variance += (a - mean).powi(2);
        }
        assert!(
            (covariance / variance).abs() < 0.1,
            "serial correlation {}",
            covariance / variance
        );
        assert!((mean - 57_343.5).abs() < 500.0, "mean {mean}");
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Take(Want),
        Release(usize),
        Redeem(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            prop_oneof![Just(Want::Any), Just(Want::Even), Just(Want::EvenAndNext)].prop_map(Op::Take),
            any::<usize>().prop_map(Op::Release),
            any::<usize>().prop_map(Op::Redeem),
        ]
    }

    proptest! {
        #[test]
        fn free_live_and_reserved_are_always_all_there_is(
            start in 50_000u16..50_004, len in 0u16..24, count in 1usize..3,
            ops in proptest::collection::vec(op(), 0..200),
        ) {
            let shard = ShardIndex { index: 0, count };
            let range = start..=start + len;
            let all: BTreeSet<u16> = range.clone().filter(|&port| shard.owns(port)).collect();
            let (mut pool, mut rng) = (PortPool::new(range, shard), rng());
            let (mut live, mut reserved) = (BTreeSet::new(), BTreeSet::new());
            let nth = |set: &BTreeSet<u16>, n: usize| set.iter().nth(n % set.len().max(1)).copied();
            for op in ops {
                match op {
                    Op::Take(want) => {
                        let free = |port: &u16| !live.contains(port) && !reserved.contains(port);
                        let possible = all.iter().filter(|&port| free(port)).any(|port| match want {
                            Want::Any => true,
                            Want::Even => port % 2 == 0,
                            Want::EvenAndNext => port % 2 == 0 && all.contains(&(port + 1)) && free(&(port + 1)),
                        });
                        let port = pool.take(want, &mut rng);
                        prop_assert_eq!(port.is_some(), possible);
                        let Some(port) = port else { continue };
                        prop_assert!(all.contains(&port) && !reserved.contains(&port) && live.insert(port));
                        prop_assert!(want == Want::Any || port % 2 == 0);
                        if want == Want::EvenAndNext {
                            prop_assert!(!live.contains(&(port + 1)) && reserved.insert(port + 1));
                        }
                    }
                    Op::Release(n) => {
                        let used: BTreeSet<u16> = live.union(&reserved).copied().collect();
                        let Some(port) = nth(&used, n) else { continue };
                        pool.release(port);
                        live.remove(&port);
                        reserved.remove(&port);
                    }
                    Op::Redeem(n) => {
                        let Some(port) = nth(&reserved, n) else { continue };
                        pool.redeem(port);
                        reserved.remove(&port);
                        live.insert(port);
                    }
                }
                prop_assert_eq!(pool.total(), all.len());
                prop_assert_eq!(pool.reserved, reserved.len());
                prop_assert_eq!(pool.used(), live.len() + reserved.len());
            }
            for port in live.union(&reserved) {
                pool.release(*port);
            }
            prop_assert_eq!(drain(&mut pool, Want::Any, &mut rng).into_iter().collect::<BTreeSet<_>>(), all);
        }
    }
}
