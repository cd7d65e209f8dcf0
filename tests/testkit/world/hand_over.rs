//! Another process continues where this one ends.

use std::sync::Arc;

use relay_proto::base::address::Family;
use relay_proto::base::time::Instant;
use relay_proto::turn::types::ShardIndex;
use relay_proto::turn::{
    AllocationRecord, Exported, Handles, ImportError, ReservationRecord, Server, Shared, SharedKeys,
};

use super::{RELAY_V6, World, ip};

impl World {
    /// The export of a shard.
    pub fn exported(&self, index: usize) -> Vec<Exported> {
        self.shards[index].export(self.now())
    }

    /// Transfers everything to a new process, as text. Migrations must have arrived.
    pub fn hand_over(&mut self) {
        assert!(self.migrations.is_empty() && self.detached.is_empty());
        let written: Vec<(Vec<Exported>, Vec<ReservationRecord>)> = (0..self.shards.len())
            .map(|index| (self.exported(index), self.shards[index].export_reservations(self.now())))
            .collect();
        self.begin_anew(self.shared.keys());
        for (index, (allocations, reservations)) in written.iter().enumerate() {
            for Exported { record, handles, .. } in allocations {
                let record: AllocationRecord = serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap();
                self.take_up(index, &record, handles.clone()).unwrap();
            }
            for record in reservations {
                let record = serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap();
                let now = self.now();
                self.shards[index].import_reservation(now, &record).unwrap();
            }
            let before: Vec<&AllocationRecord> = allocations.iter().map(|it| &it.record).collect();
            let after = self.exported(index);
            assert_eq!(after.iter().map(|it| &it.record).collect::<Vec<_>>(), before);
        }
    }

    /// Replaces every shard with an empty one with new counters, and closes all relay sockets.
    fn begin_anew(&mut self, keys: SharedKeys) {
        self.processes = (self.processes + 1) % 0x80;
        let process = self.processes;
        self.shared = Arc::new(Shared::with_keys([process; 32], keys));
        self.counters = self.counters.iter().map(|_| Arc::default()).collect();
        self.sockets.clear();
        self.halves.clear();
        let count = self.shards.len();
        let server = |index: usize| {
            let (config, shared) = (Arc::new(self.config.clone()), Arc::clone(&self.shared));
            let mut seed = [index as u8 + 1; 32];
            seed[0] = 0x80 + process;
            let place = ShardIndex { index, count };
            Server::new(
                Instant::ZERO + self.now,
                config,
                shared,
                place,
                seed,
                Arc::clone(&self.counters[index]),
            )
        };
        self.shards = (0..count).map(server).collect();
    }

    /// A shard imports one allocation and has its relay sockets.
    pub fn take_up(&mut self, index: usize, record: &AllocationRecord, handles: Handles) -> Result<(), ImportError> {
        let now = self.now();
        let names = self.shards[index].import(now, record, handles)?;
        for id in names.into_iter().flatten() {
            let bind = ip(if id.family == Family::V4 { "10.1.2.3" } else { RELAY_V6 });
            let relayed = record.relayed[id.family as usize].unwrap();
            self.sockets.insert((index, id), (bind, relayed.port).into());
        }
        self.settle(index);
        Ok(())
    }
}
