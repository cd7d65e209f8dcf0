//! Routes as plain data: exported, and restored from a record.

use super::ForwardTable;
use super::address::PeerIp;
use super::flow::{CLOSED, Channel, Checked, Flow};
use crate::base::time::Instant;
use crate::turn::output::Traffic;
use crate::turn::state::record::{AllocationRecord, ChannelRecord, PermissionRecord};
use crate::turn::types::{AllocationId, Client, Path, RelayedAddr};

/// What a table knows of an allocation, except its client and its relayed addresses.
#[derive(Debug)]
pub(in crate::turn) struct AllocationRoutes {
    pub(in crate::turn) permissions: Vec<PermissionRecord>,
    pub(in crate::turn) channels: Vec<ChannelRecord>,
    pub(in crate::turn) traffic: Traffic,
}

impl ForwardTable {
    /// The live routes of an allocation.
    pub(in crate::turn) fn routes(&self, now: Instant, id: AllocationId) -> Option<AllocationRoutes> {
        let flow = self.flow(id)?;
        let permissions = flow.permissions.iter().filter(|it| flow.is_live(now, it.ip, it.until));
        let channels = flow.channels.iter().filter(|it| flow.is_live(now, it.ip, it.until));
        Some(AllocationRoutes {
            permissions: permissions
                .map(|it| PermissionRecord {
                    peer: it.ip.with_port(0).ip(),
                    until: it.until,
                })
                .collect(),
            channels: channels
                .map(|it| ChannelRecord {
                    number: it.number,
                    peer: it.ip.with_port(it.port),
                    until: it.until,
                })
                .collect(),
            traffic: flow.traffic,
        })
    }

    /// Restores an allocation from its record, which has been checked. Omits expired entries.
    pub(in crate::turn) fn restore(
        &mut self,
        now: Instant,
        record: &AllocationRecord,
        client: Client,
        path: Path,
        shard: usize,
    ) -> AllocationId {
        let id = self.next_id();
        let relayed = record.relayed.map(|relayed| relayed.filter(|it| it.until > now));
        let live = |ip: PeerIp, until: Instant| until > now && relayed[ip.family() as usize].is_some();
        let mut flow = Flow {
            id,
            client,
            away: record.away,
            path,
            relayed: [None; 2],
            until: [CLOSED; 2],
            traffic: record.traffic,
            channels: Vec::new(),
            by_peer: Vec::new(),
            permissions: Vec::new(),
        };
        for channel in &record.channels {
            let ip = PeerIp::new(channel.peer.ip());
            if live(ip, channel.until) {
                flow.add_channel(Channel {
                    ip,
                    port: channel.peer.port(),
                    number: channel.number,
                    checked: Checked::NEVER,
                    until: channel.until,
                    permitted_until: CLOSED,
                });
            }
        }
        for permission in &record.permissions {
            let ip = PeerIp::new(permission.peer);
            if live(ip, permission.until) {
                // This also updates the channels.
                flow.permit(ip, permission.until);
            }
        }
        self.flows.insert(Box::new(flow));
        if !record.away {
            self.index_client(id.index);
        }
        for relayed in relayed.into_iter().flatten() {
            self.open(id, shard, RelayedAddr(relayed.address), relayed.until);
        }
        id
    }
}
