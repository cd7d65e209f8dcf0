//! Counts by key, shared between threads.

use core::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard};

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::lock::lock;

/// Counts by key, spread over enough locks that shards rarely contend. A key whose count is zero
/// takes no memory, so a map never outgrows the number of units taken.
#[derive(Debug)]
pub struct CountMap<K> {
    parts: [Mutex<HashMap<K, u32, FixedState>>; 16],
    hasher: FixedState,
}

impl<K: Hash + Eq + Clone> CountMap<K> {
    /// An empty map. `seed` must be unpredictable.
    pub fn new(seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        let part = |_| Mutex::new(HashMap::with_hasher(hasher.clone()));
        Self {
            parts: core::array::from_fn(part),
            hasher,
        }
    }

    /// Adds one to `key` unless it has reached `limit`. Returns the resulting count, or the
    /// unchanged one as the error.
    pub fn take(&self, key: &K, limit: u32) -> Result<u32, u32> {
        let mut part = self.part(key);
        match part.entry(key.clone()) {
            Entry::Occupied(mut entry) if *entry.get() < limit => {
                *entry.get_mut() += 1;
                Ok(*entry.get())
            }
            Entry::Occupied(entry) => Err(*entry.get()),
            Entry::Vacant(entry) if limit > 0 => Ok(*entry.insert(1)),
            Entry::Vacant(_) => Err(0),
        }
    }

    /// Subtracts one from `key`.
    pub fn give_back(&self, key: &K) {
        let mut part = self.part(key);
        if let Some(count) = part.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                part.remove(key);
            }
        }
    }

    /// The count of `key`.
    pub fn count(&self, key: &K) -> u32 {
        self.part(key).get(key).copied().unwrap_or(0)
    }

    /// How many keys take memory.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> usize {
        self.parts.iter().map(|part| lock(part).len()).sum()
    }

    fn part(&self, key: &K) -> MutexGuard<'_, HashMap<K, u32, FixedState>> {
        // The top bits select the part, because the map inside uses the others.
        let part = (self.hasher.hash_one(key) >> 60) as usize;
        lock(&self.parts[part])
    }
}
