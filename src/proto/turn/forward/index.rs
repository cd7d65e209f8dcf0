//! Finds allocations by their client's five-tuple and by their relayed transport addresses.

use super::ForwardTable;
use crate::base::address::Family;
use crate::turn::types::RelayedAddr;

impl ForwardTable {
    pub(super) fn index_client(&mut self, index: u32) {
        let Self { flows, hasher, .. } = self;
        let hash = |&i: &u32| hasher.five_tuple(&flows[i as usize].client.five_tuple);
        self.by_client.insert_unique(hash(&index), index, hash);
    }

    pub(super) fn unindex_client(&mut self, index: u32) {
        self.last = u32::MAX;
        let hash = self.hasher.five_tuple(&self.flows[index as usize].client.five_tuple);
        if let Ok(entry) = self.by_client.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
    }

    pub(super) fn index_relayed(&mut self, index: u32, relayed: RelayedAddr) {
        let (family, port) = (Family::of(relayed.0.ip()), relayed.0.port());
        let Self { flows, hasher, .. } = self;
        let rehash = |&(i, f): &(u32, Family)| hasher.relayed(f, flows[i as usize].relayed_port(f));
        self.by_relayed
            .insert_unique(hasher.relayed(family, port), (index, family), rehash);
    }

    pub(super) fn unindex_relayed(&mut self, index: u32, family: Family) {
        let hash = self
            .hasher
            .relayed(family, self.flows[index as usize].relayed_port(family));
        if let Ok(entry) = self.by_relayed.find_entry(hash, |&entry| entry == (index, family)) {
            entry.remove();
        }
    }

    /// Releases memory after a burst: shrinks tables that are at most a quarter full.
    pub(super) fn shrink(&mut self) {
        let Self {
            flows,
            hasher,
            by_client,
            by_relayed,
            ..
        } = self;
        if by_client.capacity() > 1024 && by_client.len() < by_client.capacity() / 4 {
            by_client.shrink_to(by_client.len() * 2, |&i| {
                hasher.five_tuple(&flows[i as usize].client.five_tuple)
            });
            by_relayed.shrink_to(by_relayed.len() * 2, |&(i, f)| {
                hasher.relayed(f, flows[i as usize].relayed_port(f))
            });
        }
        if flows.is_empty() {
            flows.shrink_to_fit();
        }
    }
}
