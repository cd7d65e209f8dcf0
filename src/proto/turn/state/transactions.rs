//! Memory of transactions that outlives the allocation. Over UDP, a late copy of an Allocate must
//! not create a second allocation after the first was released. Nor may a late copy of the Refresh
//! that released it end the next one (RFC 8489 §6.3.1, RFC 8656 §7.2).
//!
//! The memory holds at most [`MOST`] keyed hashes of five-tuple and transaction id, ordered by
//! time.

use core::hash::{Hash, Hasher};
use core::time::Duration;
use std::collections::VecDeque;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;

use crate::base::address::FiveTuple;
use crate::base::time::Instant;
use crate::wire::message::TransactionId;

/// How long a copy of a request may be in flight: longer than a client keeps sending them (39.5 s).
pub(in crate::turn) const RETRANSMISSION: Duration = Duration::from_secs(40);

/// Most transactions remembered; the oldest are forgotten first.
const MOST: usize = 1 << 16;

/// Transactions whose allocations have ended.
#[derive(Debug)]
pub(in crate::turn) struct Transactions {
    seed: (u64, SharedSeed),
    known: HashTable<u64>,
    by_age: VecDeque<(Instant, u64)>,
}

impl Transactions {
    /// An empty memory.
    pub(in crate::turn) fn new(seed: u64) -> Self {
        Self {
            seed: (seed, SharedSeed::from_u64(!seed)),
            known: HashTable::new(),
            by_age: VecDeque::new(),
        }
    }

    /// Remembers a transaction for [`RETRANSMISSION`] from now on.
    pub(in crate::turn) fn remember(&mut self, now: Instant, client: &FiveTuple, id: TransactionId) {
        self.forget(now);
        if self.by_age.len() >= MOST
            && let Some((_, oldest)) = self.by_age.pop_front()
        {
            self.remove(oldest);
        }
        let key = self.key(client, id);
        if !self.knows(key) {
            self.known.insert_unique(key, key, |&key| key);
            self.by_age.push_back((now + RETRANSMISSION, key));
        }
    }

    /// Whether this is a copy of a request whose allocation has ended.
    pub(in crate::turn) fn contains(&mut self, now: Instant, client: &FiveTuple, id: TransactionId) -> bool {
        self.forget(now);
        !self.by_age.is_empty() && self.knows(self.key(client, id))
    }

    /// Forgets transactions that are old enough.
    pub(in crate::turn) fn forget(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.by_age.front()
            && until <= now
        {
            self.by_age.pop_front();
            self.remove(key);
        }
        if self.by_age.is_empty() && self.by_age.capacity() > 64 {
            self.by_age = VecDeque::new();
            self.known = HashTable::new();
        }
    }

    /// When [`Self::forget`] has something to do.
    pub(in crate::turn) fn next(&self) -> Option<Instant> {
        self.by_age.front().map(|&(until, _)| until)
    }

    fn key(&self, client: &FiveTuple, id: TransactionId) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed.0, &self.seed.1);
        (client, id).hash(&mut hasher);
        hasher.finish()
    }

    fn knows(&self, key: u64) -> bool {
        self.known.find(key, |&known| known == key).is_some()
    }

    fn remove(&mut self, key: u64) {
        if let Ok(entry) = self.known.find_entry(key, |&known| known == key) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Transport;

    fn client(port: u16) -> FiveTuple {
        FiveTuple {
            client: ([192, 0, 2, 1], port).into(),
            server: ([198, 51, 100, 1], 3478).into(),
            transport: Transport::Udp,
        }
    }

    fn id(n: u32) -> TransactionId {
        let mut id = [0; 12];
        id[..4].copy_from_slice(&n.to_be_bytes());
        TransactionId(id)
    }

    fn secs(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    //= TURN-ALLOC-05
    #[test]
    fn a_transaction_is_remembered_for_forty_seconds_and_no_longer() {
        let mut transactions = Transactions::new(0x9E37_79B9_7F4A_7C15);
        transactions.remember(secs(100), &client(1), id(1));
        assert!(transactions.contains(Instant::from_nanos(140 * 1_000_000_000 - 1), &client(1), id(1)));
        assert!(!transactions.contains(secs(139), &client(2), id(1)));
        assert!(!transactions.contains(secs(139), &client(1), id(2)));
        assert_eq!(transactions.next(), Some(secs(140)));
        assert!(!transactions.contains(secs(140), &client(1), id(1)));
        assert_eq!(transactions.next(), None);
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_goes_first() {
        let mut transactions = Transactions::new(0x9E37_79B9_7F4A_7C15);
        for n in 0..=MOST as u32 {
            transactions.remember(secs(0), &client(1), id(n));
        }
        assert_eq!((transactions.by_age.len(), transactions.known.len()), (MOST, MOST));
        assert!(!transactions.contains(secs(1), &client(1), id(0)));
        assert!(transactions.contains(secs(1), &client(1), id(1)));
        transactions.forget(secs(40));
        assert_eq!(
            (transactions.by_age.capacity(), transactions.known.len()),
            (0, 0),
            "memory is given back"
        );
    }
}
