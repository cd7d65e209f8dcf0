//! TCP connections between allocations and peers (RFC 6062): what is known of them, and how they end.
//!
//! A connection is made by a Connect request or accepted at a relayed transport address; either way it then waits for a
//! ConnectionBind on another connection of the client, and from there on relays bytes as they come. No byte passes through
//! here: the shard joins the two sockets, and says how much went which way.
//!
//! ```text
//! Connect ──> Connecting ──ok──┐                 ConnectionBind
//!                              ├──> Pending ─────────────────────> Bound
//! accepted ────────────────────┘   (30 s)
//! ```
//! Deliberately absent: the requests themselves (`connect`).

use core::time::Duration;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::auth::Session;
use super::output::{Command, ConnectionEnd};
use super::quota::ConnectionUnit;
use super::server::Server;
use super::types::{AllocationId, ConnectionId, PeerAddr};
use crate::base::address::Family;
use crate::base::time::Instant;
use crate::wire::message::TransactionId;

/// How long a peer may take to answer (RFC 6062 §5.2: at least 30 s).
pub(super) const CONNECTING: Duration = Duration::from_secs(30);

/// How long a peer connection waits for its ConnectionBind (RFC 6062 §5.2, §5.3).
pub(super) const PENDING: Duration = Duration::from_secs(30);

/// What a TCP allocation has beside what every allocation has.
#[derive(Debug, Default)]
pub(super) struct TcpRelay {
    /// Local address of each relay socket: connections to peers leave from there.
    pub(super) binds: [Option<SocketAddr>; 2],
    /// At most as many as configured: few.
    pub(super) connections: Vec<ConnectionId>,
}

/// One connection with a peer.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) allocation: AllocationId,
    pub(super) peer: PeerAddr,
    pub(super) stage: Stage,
    /// Bytes relayed, both ways together.
    relayed: u64,
    /// Counts towards the connections there may be in all.
    _unit: ConnectionUnit,
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// The peer has not answered yet.
    Connecting { asked: Asked, until: Instant },
    /// It stands, and nobody has bound it yet.
    Pending { until: Instant },
    /// It is joined with a connection of the client.
    Bound,
}

/// A Connect request that is still to be answered.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) transaction_id: TransactionId,
    pub(super) fingerprint: bool,
    pub(super) session: Arc<Session>,
}

/// All connections of one shard.
#[derive(Debug, Default)]
pub(super) struct Connections {
    by_id: HashMap<ConnectionId, Connection>,
    /// Of those that are not bound.
    deadlines: BTreeSet<(Instant, ConnectionId)>,
}

impl Connections {
    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.by_id.get(&id)
    }

    /// When the next one runs out of time.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(until, _)| until)
    }

    /// Moves a connection on to another stage.
    pub(super) fn set_stage(&mut self, id: ConnectionId, stage: Stage) {
        let Some(connection) = self.by_id.get_mut(&id) else {
            return;
        };
        if let Some(until) = connection.stage.until() {
            self.deadlines.remove(&(until, id));
        }
        if let Some(until) = stage.until() {
            self.deadlines.insert((until, id));
        }
        connection.stage = stage;
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.by_id.remove(&id)?;
        if let Some(until) = connection.stage.until() {
            self.deadlines.remove(&(until, id));
        }
        if self.by_id.is_empty() {
            self.by_id.shrink_to_fit();
        }
        Some(connection)
    }
}

impl Stage {
    const fn until(&self) -> Option<Instant> {
        match self {
            Self::Connecting { until, .. } | Self::Pending { until } => Some(*until),
            Self::Bound => None,
        }
    }
}

impl Server {
    /// Adds a connection of a TCP allocation; `None` if there are as many as there may be.
    pub(super) fn add_connection(&mut self, id: AllocationId, peer: PeerAddr, stage: Stage) -> Option<ConnectionId> {
        let config = self.config.tcp.as_ref()?;
        let relay = self.allocations.get_mut(id)?.tcp.as_deref_mut()?;
        if relay.connections.len() >= usize::from(config.connections_per_allocation) {
            return None;
        }
        let unit = self.shared.quotas.connection(config.connections)?;
        let name = loop {
            let drawn = self.rng.next_u64() as u32;
            // One of this shard's: the remainder tells whose it is.
            let count = self.shard.count as u32;
            let name = (drawn - drawn % count)
                .checked_add(self.shard.index as u32)
                .map(ConnectionId);
            if let Some(name) = name.filter(|name| !self.connections.by_id.contains_key(name)) {
                break name;
            }
        };
        relay.connections.push(name);
        if let Some(until) = stage.until() {
            self.connections.deadlines.insert((until, name));
        }
        let connection = Connection {
            allocation: id,
            peer,
            stage,
            relayed: 0,
            _unit: unit,
        };
        self.connections.by_id.insert(name, connection);
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

    /// The shard has relayed so many bytes over a bound connection since it last said so.
    pub fn handle_connection_data(&mut self, id: ConnectionId, up: u64, down: u64) {
        let Some(connection) = self.connections.by_id.get_mut(&id) else {
            return;
        };
        connection.relayed = connection.relayed.saturating_add(up).saturating_add(down);
        let used_up = self.config.tcp.as_ref().and_then(|config| config.max_bytes);
        let used_up = used_up.is_some_and(|most| connection.relayed >= most);
        self.forward.add_tcp_traffic(connection.allocation, up, down);
        self.counters.tcp.up_bytes.add(up);
        self.counters.tcp.down_bytes.add(down);
        if used_up {
            self.close_connection(id, ConnectionEnd::ByteLimit);
        }
    }

    /// A peer connection, or the client's side of it, is closed (RFC 6062 §5.5). The shard has closed the other as well.
    pub fn handle_peer_closed(&mut self, id: ConnectionId) {
        self.forget_connection(id, ConnectionEnd::Closed);
    }

    /// Connections of this shard: being made, pending and bound.
    pub fn connections(&self) -> usize {
        self.connections.by_id.len()
    }

    /// Closes those whose time is up.
    pub(super) fn expire_connections(&mut self, now: Instant) {
        while let Some(&(until, id)) = self.connections.deadlines.first()
            && until <= now
        {
            self.connections.deadlines.pop_first();
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

    /// After a reload: closes what the peer policy no longer allows, as it stops datagrams to such peers.
    pub(super) fn judge_connections(&mut self) {
        let forbidden: Vec<ConnectionId> = self
            .connections
            .by_id
            .iter()
            .filter(|(_, connection)| self.tcp_peer(connection.allocation, connection.peer).is_err())
            .map(|(&name, _)| name)
            .collect();
        for name in forbidden {
            self.drop_connection(name, ConnectionEnd::Policy);
        }
    }

    /// Closes a connection whose allocation lives on. One that still is being made is known until the shard says that it has
    /// failed, because the client waits for an answer.
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

    /// What is known of a connection goes; its socket is the shard's.
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
