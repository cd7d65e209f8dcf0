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
//! Deliberately absent: what is done with them (`server::connections`), and the requests (`server::connect`).

use core::time::Duration;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::quota::ConnectionUnit;
use super::session::Session;
use super::types::{AllocationId, ConnectionId, PeerAddr};
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

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.by_id.iter().map(|(&id, connection)| (id, connection))
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Adds a connection under a name that is free.
    pub(super) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        if let Some(until) = connection.stage.until() {
            self.deadlines.insert((until, id));
        }
        self.by_id.insert(id, connection);
    }

    /// One whose time is up, each once.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<ConnectionId> {
        let &(until, id) = self.deadlines.first()?;
        if until > now {
            return None;
        }
        self.deadlines.pop_first();
        Some(id)
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

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
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

impl Connection {
    pub(super) const fn new(allocation: AllocationId, peer: PeerAddr, stage: Stage, unit: ConnectionUnit) -> Self {
        Self {
            allocation,
            peer,
            stage,
            relayed: 0,
            _unit: unit,
        }
    }

    /// So many more bytes were relayed; returns how many there are in all.
    pub(super) const fn add_relayed(&mut self, up: u64, down: u64) -> u64 {
        self.relayed = self.relayed.saturating_add(up).saturating_add(down);
        self.relayed
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
