//! TCP connections between allocations and peers (RFC 6062): how they are counted and how they end.

use super::Server;
use crate::base::address::Family;
use crate::base::time::Instant;
use crate::turn::output::{Command, ConnectionEnd};
use crate::turn::state::connections::{Connection, Stage};
use crate::turn::types::{AllocationId, ConnectionId, PeerAddr};

impl Server {
    /// Adds a connection of a TCP allocation; `None` if a limit is reached.
    pub(super) fn add_connection(&mut self, id: AllocationId, peer: PeerAddr, stage: Stage) -> Option<ConnectionId> {
        let config = self.config.tcp.as_ref()?;
        let relay = self.allocations.get_mut(id)?.tcp.as_deref_mut()?;
        if relay.connections.len() >= usize::from(config.connections_per_allocation) {
            return None;
        }
        let unit = self.shared.quotas.connection(config.connections)?;
        let name = loop {
            let drawn = self.rng.next_u64() as u32;
            // An id of this shard: the remainder identifies the shard.
            let count = self.shard.count as u32;
            let name = (drawn - drawn % count)
                .checked_add(self.shard.index as u32)
                .map(ConnectionId);
            if let Some(name) = name.filter(|name| self.connections.get(*name).is_none()) {
                break name;
            }
        };
        relay.connections.push(name);
        self.connections.insert(name, Connection::new(id, peer, stage, unit));
        self.counters.tcp.connections.add(1);
        Some(name)
    }

    /// The connection an allocation has with a peer, if any.
    pub(super) fn has_connection(&self, id: AllocationId, peer: PeerAddr) -> bool {
        let relay = self.allocations.get(id).and_then(|it| it.tcp.as_deref());
        relay.is_some_and(|relay| {
            let mut all = relay.connections.iter().filter_map(|&name| self.connections.get(name));
            all.any(|connection| connection.peer == peer)
        })
    }

    /// The shard has relayed this many bytes over a bound connection since its last report.
    pub fn handle_connection_data(&mut self, id: ConnectionId, up: u64, down: u64) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let relayed = connection.add_relayed(up, down);
        let used_up = self.config.tcp.as_ref().and_then(|config| config.max_bytes);
        let used_up = used_up.is_some_and(|most| relayed >= most);
        self.forward.add_tcp_traffic(connection.allocation, up, down);
        self.counters.tcp.up_bytes.add(up);
        self.counters.tcp.down_bytes.add(down);
        if used_up {
            self.close_connection(id, ConnectionEnd::ByteLimit);
        }
    }

    /// A peer connection, or the client's side of it, has closed (RFC 6062 §5.5). The shard has
    /// closed the other side as well.
    pub fn handle_peer_closed(&mut self, id: ConnectionId) {
        self.forget_connection(id, ConnectionEnd::Closed);
    }

    /// Connections of this shard: connecting, pending and bound.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Closes connections past their deadline.
    pub(super) fn expire_connections(&mut self, now: Instant) {
        while let Some(id) = self.connections.pop_due(now) {
            self.drop_connection(id, ConnectionEnd::NotBound);
        }
    }

    /// Closes every connection of an allocation with peers of one family.
    pub(super) fn close_connections(&mut self, id: AllocationId, family: Family) {
        let relay = self.allocations.get(id).and_then(|it| it.tcp.as_deref());
        for name in relay.map(|relay| relay.connections.clone()).unwrap_or_default() {
            let peer = self.connections.get(name).map(|connection| connection.peer);
            if peer.is_some_and(|peer| Family::of(peer.0.ip()) == family) {
                self.close_connection(name, ConnectionEnd::Allocation);
            }
        }
    }

    /// After a reload, closes connections that the peer policy no longer allows, just as it stops
    /// datagrams to such peers.
    pub(super) fn judge_connections(&mut self) {
        let forbidden: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| self.tcp_peer(connection.allocation, connection.peer).is_err())
            .map(|(name, _)| name)
            .collect();
        for name in forbidden {
            self.drop_connection(name, ConnectionEnd::Policy);
        }
    }

    /// Closes a connection whose allocation lives on. A connection that is still connecting stays
    /// known until the shard reports its failure, because the client waits for a response.
    fn drop_connection(&mut self, id: ConnectionId, why: ConnectionEnd) {
        match self.connections.get(id).map(|connection| &connection.stage) {
            Some(Stage::Connecting { .. }) => self.commands.push_back(Command::ClosePeer { connection: id }),
            Some(_) => self.close_connection(id, why),
            None => {}
        }
    }

    fn close_connection(&mut self, id: ConnectionId, why: ConnectionEnd) {
        self.commands.push_back(Command::ClosePeer { connection: id });
        self.forget_connection(id, why);
    }

    /// Removes the state of a connection. The shard owns its socket.
    pub(super) fn forget_connection(&mut self, id: ConnectionId, why: ConnectionEnd) {
        let Some(connection) = self.connections.remove(id) else {
            return;
        };
        if let Some(relay) = self
            .allocations
            .get_mut(connection.allocation)
            .and_then(|it| it.tcp.as_deref_mut())
        {
            relay.connections.retain(|&other| other != id);
        }
        self.counters.tcp.connections.sub(1);
        self.counters.tcp.ended[why as usize].add(1);
    }
}
