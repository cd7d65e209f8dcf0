//! Allocations that relay TCP (RFC 6062), as far as they concern the forward table.
//!
//! They have a lifetime and permissions, but no relayed transport address that a datagram could
//! leave from or arrive at. Send indications and channels have no effect on them, and their relayed
//! data never passes through this table.

use super::super::types::AllocationId;
use super::ForwardTable;
use crate::base::address::Family;
use crate::base::time::Instant;

impl ForwardTable {
    /// The relay socket of a TCP allocation listens; it lives until `until`.
    pub(in crate::turn) fn open_tcp(&mut self, id: AllocationId, family: Family, until: Instant) {
        if let Some(flow) = self.flow_mut(id) {
            flow.until[family as usize] = until;
        }
    }

    /// Counts bytes relayed over an allocation's TCP connections.
    pub(in crate::turn) fn add_tcp_traffic(&mut self, id: AllocationId, up: u64, down: u64) {
        if let Some(flow) = self.flow_mut(id) {
            flow.traffic.up_bytes += up;
            flow.traffic.down_bytes += down;
        }
    }
}
