//! How many of something each key has, shared by threads.

use core::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard};

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::lock::lock;

/// Counts by key, behind as many locks as keep shards out of each other's way. A key at zero takes no room, so a map
/// never outgrows the number of units out.
#[derive(Debug)]
pub struct CountMap<K> {
    parts: [Mutex<HashMap<K, u32, FixedState>>; 16],
    hasher: FixedState,
}

impl<K: Hash + Eq + Clone> CountMap<K> {
    /// Nothing counted. `seed` is not to be guessed.
    pub fn new(seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        let part = |_| Mutex::new(HashMap::with_hasher(hasher.clone()));
        Self {
            parts: core::array::from_fn(part),
            hasher,
        }
    }

    /// Adds one to `key` unless it has `limit`. Either way, returns how many it has.
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

    /// Takes one from `key`.
    pub fn give_back(&self, key: &K) {
        let mut part = self.part(key);
        if let Some(count) = part.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                part.remove(key);
            }
        }
    }

    /// How many `key` has.
    pub fn count(&self, key: &K) -> u32 {
        self.part(key).get(key).copied().unwrap_or(0)
    }

    /// How many keys take room.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> usize {
        self.parts.iter().map(|part| lock(part).len()).sum()
    }

    fn part(&self, key: &K) -> MutexGuard<'_, HashMap<K, u32, FixedState>> {
        // The top bits pick the part; the map inside uses others.
        let part = (self.hasher.hash_one(key) >> 60) as usize;
        lock(&self.parts[part])
    }
}
