//! A table whose slots are reused. Each use of a slot has a generation of its own, so a token of an
//! earlier use finds nothing.

use crate::shard::token::next_generation;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<Box<T>>,
}

/// Values by slot.
#[derive(Debug)]
pub(in crate::shard) struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    /// No slots.
    pub(in crate::shard) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }

    /// How many slots are in use.
    pub(in crate::shard) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Slots are below this.
    pub(in crate::shard) fn end(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The slot that the next value gets, and its generation. No slot is new while another is free.
    pub(in crate::shard) fn next(&self) -> (u32, u32) {
        let slot = self.free.last().copied().unwrap_or_else(|| self.end());
        (slot, self.generation(slot))
    }

    /// Puts `value` into the slot that [`Self::next`] names.
    pub(in crate::shard) fn insert(&mut self, value: T) {
        let value = Some(Box::new(value));
        match self.free.pop() {
            Some(slot) => self.entries[slot as usize].value = value,
            None => self.entries.push(Entry { generation: 0, value }),
        }
    }

    /// The present generation of `slot`.
    pub(in crate::shard) fn generation(&self, slot: u32) -> u32 {
        self.entries.get(slot as usize).map_or(0, |entry| entry.generation)
    }

    /// The value in `slot`, whatever its generation.
    #[inline]
    pub(in crate::shard) fn at(&mut self, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)?.value.as_deref_mut()
    }

    /// The value this token was given to; `None` if it is gone, even if its slot is in use again.
    #[inline]
    pub(in crate::shard) fn by_token(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        let entry = self.entries.get_mut(slot as usize)?;
        if entry.generation == generation {
            entry.value.as_deref_mut()
        } else {
            None
        }
    }

    /// Frees `slot` and returns what was in it.
    pub(in crate::shard) fn remove(&mut self, slot: u32) -> Option<Box<T>> {
        let entry = self.entries.get_mut(slot as usize)?;
        let value = entry.value.take()?;
        entry.generation = next_generation(entry.generation);
        self.free.push(slot);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(slots: &mut Slots<char>, value: char) -> (u32, u32) {
        let next = slots.next();
        slots.insert(value);
        next
    }

    #[test]
    fn a_value_gets_the_slot_that_was_named_and_is_found_by_its_token_alone() {
        let mut slots = Slots::new();
        let [a, b] = ['a', 'b'].map(|value| insert(&mut slots, value));
        assert_eq!((a, b, slots.len(), slots.end()), ((0, 0), (1, 0), 2, 2));
        assert_eq!(slots.at(0).copied(), Some('a'));
        assert_eq!(slots.by_token(1, 0).copied(), Some('b'));
        assert_eq!(slots.by_token(1, 1), None, "of another generation");
        assert_eq!(slots.at(2), None);
        assert_eq!(slots.by_token(2, 0), None);
    }

    #[test]
    fn a_slot_is_reused_under_another_generation() {
        let mut slots = Slots::new();
        let old = insert(&mut slots, 'a');
        assert_eq!(slots.remove(0).as_deref(), Some(&'a'));
        assert_eq!((slots.remove(0), slots.remove(9)), (None, None));
        assert_eq!((slots.len(), slots.end(), slots.at(0)), (0, 1, None));
        let new = insert(&mut slots, 'b');
        assert_eq!((new, slots.len(), slots.end()), ((0, 1), 1, 1));
        assert_eq!(slots.by_token(old.0, old.1), None);
        assert_eq!(slots.by_token(new.0, new.1).copied(), Some('b'));
    }

    #[test]
    fn no_slot_is_new_while_another_is_free() {
        let mut slots = Slots::new();
        for value in ['a', 'b', 'c'] {
            slots.insert(value);
        }
        assert!(slots.remove(2).is_some() && slots.remove(0).is_some());
        let reused = [insert(&mut slots, 'd').0, insert(&mut slots, 'e').0];
        assert_eq!((reused, slots.next()), ([0, 2], (3, 0)));
        assert_eq!(
            [0, 1, 2].map(|slot| slots.at(slot).copied()),
            [Some('d'), Some('b'), Some('e')]
        );
    }

    #[test]
    fn generations_wrap_with_those_of_tokens() {
        let mut slots = Slots::new();
        slots.insert('a');
        slots.entries[0].generation = (1 << 28) - 1;
        assert!(slots.remove(0).is_some());
        assert_eq!(slots.next(), (0, 0));
    }
}
