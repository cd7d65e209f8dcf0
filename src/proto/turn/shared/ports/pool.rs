//! The relay ports of one address family, as data. [`super::RelayPorts`] handles access to it.
//!
//! Ports are handled as pairs (even, odd), because EVEN-PORT requests an even port and may reserve
//! the next, odd one (RFC 8656 §7.2 step 8). Every draw is uniform among all suitable free ports,
//! so the next port is unpredictable (RFC 6056), and costs O(1).

use core::ops::RangeInclusive;
use std::collections::BTreeSet;

use crate::base::rng::Rng;

/// Which port an allocation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::turn) enum Want {
    /// Any port.
    Any,
    /// An even port; the next port stays free.
    Even,
    /// An even port, together with the next one, which is free.
    EvenAndNext,
}

/// The ports of one family.
#[derive(Debug, Default)]
pub(super) struct PortPool {
    /// `None`: this family was never served.
    range: Option<RangeInclusive<u16>>,
    /// Number (`port / 2`) of the first pair.
    first: u16,
    pairs: Vec<Pair>,
    /// Pairs by which of their ports are free, in random order. The index is the bit set
    /// [`Pair::free`]; 0 is never listed.
    by_free: [Vec<u16>; 4],
    total: usize,
    free: usize,
    /// Ports in use that a change of the range has left outside. They do not count, but the range
    /// may return while they are still in use.
    outside: BTreeSet<u16>,
}

/// A port and its sibling. Bit 0 is the even port, bit 1 the odd one.
#[derive(Clone, Copy, Debug)]
struct Pair {
    /// Which of the two belong to the range.
    ours: u8,
    free: u8,
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
    /// All ports of `range`, free.
    fn new(range: RangeInclusive<u16>) -> Self {
        let (first, last) = (range.start() / 2, range.end() / 2);
        let mut pool = Self {
            first,
            ..Self::default()
        };
        for number in (first..=last).filter(|_| !range.is_empty()) {
            let (even, odd) = (number * 2, number * 2 + 1);
            let ours = if range.contains(&even) { EVEN } else { 0 } | if range.contains(&odd) { ODD } else { 0 };
            pool.pairs.push(Pair { ours, free: 0, at: 0 });
            pool.total += ours.count_ones() as usize;
            pool.set_free(pool.pairs.len() - 1, ours);
        }
        pool.free = pool.total;
        pool.range = Some(range);
        pool
    }

    /// Changes the range. Ports in use stay in use, also those outside the new range.
    pub(super) fn set_range(&mut self, range: RangeInclusive<u16>) {
        if self.range.as_ref() == Some(&range) {
            return;
        }
        let old = core::mem::replace(self, Self::new(range));
        for port in old.outside {
            self.take_exactly(port);
        }
        for (number, pair) in (old.first..).zip(&old.pairs) {
            for (bit, port) in [(EVEN, number * 2), (ODD, number * 2 + 1)] {
                if pair.ours & !pair.free & bit != 0 {
                    self.take_exactly(port);
                }
            }
        }
    }

    /// Ports in the pool, whatever their state.
    pub(super) const fn total(&self) -> usize {
        self.total
    }

    /// Ports of the range that are in use.
    pub(super) const fn used(&self) -> usize {
        self.total - self.free
    }

    /// Takes a random port; with [`Want::EvenAndNext`] the next port as well.
    pub(super) fn take(&mut self, want: Want, rng: &mut Rng) -> Option<u16> {
        // If either port is suitable, a pair with both free counts twice.
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
        let number = self.first + index as u16;
        Some(number * 2 + u16::from(bit == ODD))
    }

    /// Takes exactly this port, in the range or not. `false`: it is in use.
    pub(super) fn take_exactly(&mut self, port: u16) -> bool {
        let Some(index) = self.index_of(port) else {
            return self.outside.insert(port);
        };
        let Pair { free, .. } = self.pairs[index];
        let is_free = free & bit(port) != 0;
        if is_free {
            self.set_free(index, free & !bit(port));
            self.free -= 1;
        }
        is_free
    }

    /// Frees a port. One outside the range (which may have changed meanwhile) is forgotten.
    pub(super) fn release(&mut self, port: u16) {
        if self.outside.remove(&port) {
            return;
        }
        let Some(index) = self.index_of(port) else { return };
        let Pair { free, .. } = self.pairs[index];
        if free & bit(port) != 0 {
            debug_assert!(false, "port {port} is released twice");
            return;
        }
        self.set_free(index, free | bit(port));
        self.free += 1;
    }

    fn list(&self, free: u8) -> &[u16] {
        &self.by_free[usize::from(free)]
    }

    /// The index of the pair of `port`, if it is in the range.
    fn index_of(&self, port: u16) -> Option<usize> {
        let index = usize::from((port / 2).checked_sub(self.first)?);
        (self.pairs.get(index)?.ours & bit(port) != 0).then_some(index)
    }

    /// Moves a pair from its current list to the list for `free`.
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

    fn rng() -> Rng {
        Rng::new([7; 32])
    }

    fn drain(pool: &mut PortPool, want: Want, rng: &mut Rng) -> Vec<u16> {
        core::iter::from_fn(|| pool.take(want, rng)).collect()
    }

    //= TURN-ALLOC-34
    #[test]
    fn every_port_of_the_range_is_given_out_exactly_once() {
        let mut pool = PortPool::new(50_001..=50_010);
        let ports = drain(&mut pool, Want::Any, &mut rng());
        assert_eq!(ports.len(), 10);
        assert_eq!(ports.into_iter().collect::<BTreeSet<_>>(), (50_001..=50_010).collect());
    }

    #[test]
    fn the_whole_number_range_works_up_to_its_end() {
        let mut pool = PortPool::new(65_534..=65_535);
        assert_eq!(pool.take(Want::EvenAndNext, &mut rng()), Some(65_534));
        let mut pool = PortPool::new(1024..=65_535);
        assert_eq!(drain(&mut pool, Want::Any, &mut rng()).len(), 64_512);
    }

    //= TURN-ALLOC-16
    #[test]
    fn an_even_port_leaves_its_sibling_in_the_pool() {
        let mut pool = PortPool::new(50_000..=50_003);
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
    fn the_port_behind_an_even_one_is_given_to_nobody_else_until_it_is_released() {
        let mut pool = PortPool::new(50_000..=50_003);
        let mut rng = rng();
        let even = pool.take(Want::EvenAndNext, &mut rng).expect("free pair");
        let rest = drain(&mut pool, Want::Any, &mut rng);
        assert!(!rest.contains(&(even + 1)) && rest.len() == 2);
        assert_eq!(pool.used(), 4);
        pool.release(even + 1);
        assert_eq!(pool.used(), 3);
        assert_eq!(pool.take(Want::Any, &mut rng), Some(even + 1));
    }

    //= TURN-ALLOC-21
    #[test]
    fn a_range_without_a_whole_pair_has_no_pair_to_give() {
        let mut pool = PortPool::new(50_001..=50_002);
        assert_eq!(pool.take(Want::EvenAndNext, &mut rng()), None);
        assert_eq!(pool.take(Want::Even, &mut rng()), Some(50_002));
        assert_eq!(pool.take(Want::Even, &mut rng()), None);
    }

    #[test]
    fn another_range_keeps_what_is_in_use_in_use() {
        let mut rng = rng();
        let mut pool = PortPool::new(50_000..=50_003);
        let even = pool.take(Want::EvenAndNext, &mut rng).expect("free pair");
        let other = if even == 50_000 { 50_002 } else { 50_000 };
        pool.set_range(50_000..=50_005);
        assert_eq!((pool.total(), pool.used()), (6, 2));
        pool.set_range(other..=other + 1);
        assert_eq!((pool.total(), pool.used()), (2, 0));
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
        let mut pool = PortPool::new(50_000..=50_003);
        let even = pool.take(Want::EvenAndNext, &mut rng).expect("free pair");
        let live = pool.take(Want::Any, &mut rng).expect("free port");
        pool.set_range(60_000..=60_003);
        pool.set_range(61_000..=61_001);
        assert_eq!((pool.used(), drain(&mut pool, Want::Any, &mut rng).len()), (0, 2));
        pool.release(live);
        pool.set_range(50_000..=50_003);
        assert_eq!((pool.total(), pool.used()), (4, 2));
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
        let mut pool = PortPool::new(49_152..=65_535);
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
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            prop_oneof![Just(Want::Any), Just(Want::Even), Just(Want::EvenAndNext)].prop_map(Op::Take),
            any::<usize>().prop_map(Op::Release),
        ]
    }

    proptest! {
        #[test]
        fn free_and_used_are_always_all_there_is(
            start in 50_000u16..50_004, len in 0u16..24, ops in proptest::collection::vec(op(), 0..200),
        ) {
            let range = start..=start + len;
            let all: BTreeSet<u16> = range.clone().collect();
            let (mut pool, mut rng) = (PortPool::new(range), rng());
            let mut used = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Take(want) => {
                        let free = |port: u16| all.contains(&port) && !used.contains(&port);
                        let possible = all.iter().any(|&port| free(port) && match want {
                            Want::Any => true,
                            Want::Even => port % 2 == 0,
                            Want::EvenAndNext => port % 2 == 0 && free(port + 1),
                        });
                        let port = pool.take(want, &mut rng);
                        prop_assert_eq!(port.is_some(), possible);
                        let Some(port) = port else { continue };
                        prop_assert!(all.contains(&port) && used.insert(port));
                        prop_assert!(want == Want::Any || port % 2 == 0);
                        prop_assert!(want != Want::EvenAndNext || used.insert(port + 1));
                    }
                    Op::Release(n) => {
                        let Some(&port) = used.iter().nth(n % used.len().max(1)) else { continue };
                        pool.release(port);
                        used.remove(&port);
                    }
                }
                prop_assert_eq!((pool.total(), pool.used()), (all.len(), used.len()));
            }
            for port in used {
                pool.release(port);
            }
            prop_assert_eq!(drain(&mut pool, Want::Any, &mut rng).into_iter().collect::<BTreeSet<_>>(), all);
        }
    }
}
