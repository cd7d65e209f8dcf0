//! Allocations without a client, and allocations that move between shards (RFC 8016).

use super::flow::{Checked, Flow};
use super::{Client, ForwardTable};
use crate::base::address::Family;
use crate::turn::types::{AllocationId, Path};

impl ForwardTable {
    /// The client has disconnected and its allocation stays. Packets from peers are dropped
    /// meanwhile. `false`: there is no such allocation.
    pub(in crate::turn) fn leave(&mut self, id: AllocationId) -> bool {
        let Some(flow) = self.flow_mut(id) else { return false };
        flow.away = true;
        self.unindex_client(id.index);
        self.changed(id);
        true
    }

    /// Whether its client is disconnected.
    pub(in crate::turn) fn is_away(&self, id: AllocationId) -> bool {
        self.flow(id).is_some_and(Flow::is_away)
    }

    /// Removes an allocation that moves to the table of shard `to`. Packets of other allocations go
    /// there from now on.
    pub(in crate::turn) fn take(&mut self, id: AllocationId, to: usize) -> Option<Box<Flow>> {
        let relayed = self.flow(id)?.relayed;
        for relayed in relayed.into_iter().flatten() {
            self.unindex_relayed(id.index, Family::of(relayed.0.ip()));
            self.directory.set(relayed, Some(to));
        }
        self.unindex_client(id.index);
        let flow = self.flows.remove(id.index as usize);
        self.changed(id);
        self.shrink();
        Some(flow)
    }

    /// Adds an allocation that another table has removed, under a new id. Without a `client` it
    /// waits for one.
    pub(in crate::turn) fn adopt(&mut self, mut flow: Box<Flow>, client: Option<(Client, Path)>) -> AllocationId {
        let id = self.next_id();
        flow.id = id;
        flow.away = client.is_none();
        if let Some((client, path)) = client {
            (flow.client, flow.path) = (client, path);
        }
        // Verdicts of the other table's policy are invalid here.
        flow.channels
            .iter_mut()
            .for_each(|channel| channel.checked = Checked::NEVER);
        flow.permissions
            .iter_mut()
            .for_each(|permission| permission.checked = Checked::NEVER);
        let relayed = flow.relayed;
        self.flows.insert(flow);
        for relayed in relayed.into_iter().flatten() {
            self.index_relayed(id.index, relayed);
        }
        if client.is_some() {
            self.index_client(id.index);
        }
        self.changed(id);
        id
    }
}
