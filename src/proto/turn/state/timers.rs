//! A hashed timing wheel: one timer per key, every operation O(1).
//!
//! Lifetimes are minutes long, so a tick is one second: a timer fires within one second after its
//! deadline. Relaying never depends on that, because the forward table tests deadlines itself. The
//! wheel only releases resources.
//!
//! Keys are small integers (slots of the allocation table). The timers of one wheel slot form a
//! list through an array indexed by key, so re-arming moves one entry and leaves nothing behind. A
//! deadline more than one turn of the wheel ahead stays in its slot until its turn comes.

use core::time::Duration;

use crate::base::time::Instant;

/// Length of a tick.
pub(in crate::turn) const TICK: Duration = Duration::from_secs(1);

/// Ticks per turn: more than the longest recommended lifetime (3600 s), so that normally no timer
/// waits for a second turn.
const SLOTS: usize = 4096;
const WORDS: usize = SLOTS / 64;
const _: () = assert!(WORDS == 64, "the summary of occupied words is one u64");

const NONE: u32 = u32::MAX;
const UNARMED: u64 = u64::MAX;

/// Timers by key.
#[derive(Debug)]
pub(in crate::turn) struct Wheel {
    /// First key of each slot's list.
    heads: Box<[u32]>,
    /// Which slots have a list: one bit per slot, and one bit per word of those.
    occupied: [u64; WORDS],
    summary: u64,
    nodes: Vec<Node>,
    /// Last tick that was examined.
    cursor: u64,
    armed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    next: u32,
    previous: u32,
    tick: u64,
}

impl Node {
    const IDLE: Self = Self {
        next: NONE,
        previous: NONE,
        tick: UNARMED,
    };
}

impl Wheel {
    /// A wheel without timers.
    pub(in crate::turn) fn new() -> Self {
        Self {
            heads: vec![NONE; SLOTS].into_boxed_slice(),
            occupied: [0; WORDS],
            summary: 0,
            nodes: Vec::new(),
            cursor: 0,
            armed: 0,
        }
    }

    /// Sets or replaces the timer of `key`. Keys should be small, because they index an array.
    pub(in crate::turn) fn arm(&mut self, now: Instant, key: u32, deadline: Instant) {
        let index = key as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node::IDLE);
        }
        self.cancel(key);
        if self.armed == 0 {
            // No timer is armed, so skip the idle time.
            self.cursor = self.cursor.max(tick_before(now));
        }
        let tick = tick_after(deadline).max(self.cursor + 1);
        let slot = slot_of(tick);
        let head = self.heads[slot];
        self.nodes[index] = Node {
            next: head,
            previous: NONE,
            tick,
        };
        if head != NONE {
            self.nodes[head as usize].previous = key;
        }
        self.heads[slot] = key;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.summary |= 1 << (slot / 64);
        self.armed += 1;
    }

    /// Cancels the timer of `key`, if it has one.
    pub(in crate::turn) fn cancel(&mut self, key: u32) {
        let Some(node) = self.nodes.get_mut(key as usize) else {
            return;
        };
        if node.tick == UNARMED {
            return;
        }
        let Node { next, previous, tick } = core::mem::replace(node, Node::IDLE);
        let slot = slot_of(tick);
        match previous {
            NONE => self.heads[slot] = next,
            previous => self.nodes[previous as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if self.heads[slot] == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            if self.occupied[slot / 64] == 0 {
                self.summary &= !(1 << (slot / 64));
            }
        }
        self.armed -= 1;
    }

    /// Moves every key past its deadline into `due` and removes its timer.
    pub(in crate::turn) fn expire(&mut self, now: Instant, due: &mut Vec<u32>) {
        let last = tick_before(now);
        while let Some(tick) = self.next_tick() {
            if tick > last {
                break;
            }
            let mut key = self.heads[slot_of(tick)];
            while key != NONE {
                let Node { next, tick, .. } = self.nodes[key as usize];
                if tick <= last {
                    self.cancel(key);
                    due.push(key);
                }
                key = next;
            }
            self.cursor = tick;
        }
        self.cursor = self.cursor.max(last);
    }

    /// When to call [`Self::expire`] next. Never late; early only for deadlines more than a turn
    /// ahead.
    pub(in crate::turn) fn next(&self) -> Option<Instant> {
        self.next_tick()
            .map(|tick| Instant::from_nanos(tick.saturating_mul(NANOS)))
    }

    /// The next tick whose slot is occupied, at most one turn ahead.
    fn next_tick(&self) -> Option<u64> {
        if self.summary == 0 {
            return None;
        }
        let start = slot_of(self.cursor + 1);
        let (word, bit) = (start / 64, start % 64);
        let here = self.occupied[word] >> bit;
        let slot = if here != 0 {
            start + here.trailing_zeros() as usize
        } else {
            // The first occupied word after this one. This one comes last: its low bits are a turn
            // away.
            let turned = self.summary.rotate_right(word as u32 + 1);
            let next = (word + 1 + turned.trailing_zeros() as usize) % WORDS;
            next * 64 + self.occupied[next].trailing_zeros() as usize
        };
        Some(self.cursor + 1 + ((slot + SLOTS - start) % SLOTS) as u64)
    }
}

const NANOS: u64 = TICK.as_nanos() as u64;

const fn tick_before(at: Instant) -> u64 {
    at.as_nanos() / NANOS
}

const fn tick_after(at: Instant) -> u64 {
    at.as_nanos().div_ceil(NANOS)
}

const fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn secs(s: u64) -> Instant {
        Instant::from_nanos(s * NANOS)
    }

    fn expired(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn fires_within_a_tick_after_the_deadline_and_never_before() {
        let mut wheel = Wheel::new();
        wheel.arm(secs(1_000_000), 7, Instant::from_nanos(1_000_600 * NANOS + 1));
        assert_eq!(wheel.next(), Some(secs(1_000_601)));
        assert!(expired(&mut wheel, Instant::from_nanos(1_000_601 * NANOS - 1)).is_empty());
        assert_eq!(expired(&mut wheel, secs(1_000_601)), [7]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn arming_again_moves_the_timer_in_both_directions() {
        let mut wheel = Wheel::new();
        wheel.arm(secs(0), 1, secs(3600));
        wheel.arm(secs(0), 1, secs(600));
        assert_eq!(expired(&mut wheel, secs(600)), [1]);
        wheel.arm(secs(600), 1, secs(700));
        wheel.arm(secs(600), 1, secs(800));
        assert!(expired(&mut wheel, secs(799)).is_empty());
        assert_eq!(expired(&mut wheel, secs(800)), [1]);
        assert!(expired(&mut wheel, secs(4000)).is_empty());
    }

    #[test]
    fn a_deadline_beyond_one_turn_waits_for_its_own_turn() {
        let mut wheel = Wheel::new();
        let day = 86_400;
        wheel.arm(secs(0), 1, secs(day));
        let mut woken = 0;
        while let Some(at) = wheel.next() {
            let due = expired(&mut wheel, at);
            woken += 1;
            assert_eq!(due.is_empty(), at < secs(day), "at {at:?}");
        }
        assert!(woken <= day / SLOTS as u64 + 1);
    }

    #[test]
    fn a_deadline_that_has_passed_already_fires_at_the_next_tick() {
        let mut wheel = Wheel::new();
        wheel.arm(secs(5000), 1, secs(9000));
        assert!(expired(&mut wheel, secs(6000)).is_empty());
        for past in [0, 5999, 6000] {
            wheel.arm(secs(6000), 2, secs(past));
            assert_eq!(wheel.next(), Some(secs(6001)), "{past}");
        }
        assert_eq!(expired(&mut wheel, secs(6001)), [2]);
    }

    #[test]
    fn a_long_silence_costs_one_pass() {
        let mut wheel = Wheel::new();
        for key in 0..100 {
            wheel.arm(secs(0), key, secs(u64::from(key) * 40));
        }
        assert_eq!(expired(&mut wheel, secs(1_000_000)).len(), 100);
        assert_eq!(wheel.next(), None);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u32..40, 0u64..10_000_000).prop_map(|(key, ms)| Op::Arm(key, ms)),
            (0u32..40).prop_map(Op::Cancel),
            (0u64..2_000_000).prop_map(Op::Advance),
        ]
    }

    proptest! {
        /// The model is a sorted map of deadlines. A timer fires at the first tick that is not
        /// before its deadline.
        #[test]
        fn agrees_with_a_sorted_list(ops in proptest::collection::vec(op(), 1..200)) {
            let (mut wheel, mut model, mut now) = (Wheel::new(), BTreeMap::new(), 0u64);
            let ms = |ms: u64| Instant::from_nanos(ms * 1_000_000);
            for op in ops {
                match op {
                    Op::Arm(key, after) => {
                        wheel.arm(ms(now), key, ms(now + after));
                        // Ticks in the past fire at the next one.
                        model.insert(key, (now + after).div_ceil(1000).max(now / 1000 + 1));
                    }
                    Op::Cancel(key) => {
                        wheel.cancel(key);
                        model.remove(&key);
                    }
                    Op::Advance(by) => {
                        now += by;
                        let mut due: Vec<u32> = Vec::new();
                        model.retain(|&key, &mut tick| {
                            let stays = tick > now / 1000;
                            if !stays {
                                due.push(key);
                            }
                            stays
                        });
                        prop_assert_eq!(expired(&mut wheel, ms(now)), due);
                        prop_assert!(wheel.next().is_none_or(|at| at > ms(now)));
                    }
                }
                let earliest = model.values().min().copied();
                prop_assert_eq!(wheel.next().is_some(), earliest.is_some());
                if let (Some(next), Some(earliest)) = (wheel.next(), earliest) {
                    prop_assert!(next <= secs(earliest), "{next:?} is later than tick {earliest}");
                }
            }
        }
    }
}
