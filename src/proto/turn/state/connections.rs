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

use crate::base::time::Instant;
use crate::turn::login::session::Session;
use crate::turn::shared::quotas::ConnectionUnit;
use crate::turn::types::{AllocationId, ConnectionId, PeerAddr};
use crate::wire::message::TransactionId;

/// How long a peer may take to answer (RFC 6062 §5.2: at least 30 s).
pub(in crate::turn) const CONNECTING: Duration = Duration::from_secs(30);

/// How long a peer connection waits for its ConnectionBind (RFC 6062 §5.2, §5.3).
pub(in crate::turn) const PENDING: Duration = Duration::from_secs(30);

/// What a TCP allocation has beside what every allocation has.
#[derive(Debug, Default)]
pub(in crate::turn) struct TcpRelay {
    /// Local address of each relay socket: connections to peers leave from there.
    pub(in crate::turn) binds: [Option<SocketAddr>; 2],
    /// At most as many as configured: few.
    pub(in crate::turn) connections: Vec<ConnectionId>,
}

/// One connection with a peer.
#[derive(Debug)]
pub(in crate::turn) struct Connection {
    pub(in crate::turn) allocation: AllocationId,
    pub(in crate::turn) peer: PeerAddr,
    pub(in crate::turn) stage: Stage,
    /// Bytes relayed, both ways together.
    relayed: u64,
    /// Counts towards the connections there may be in all.
    _unit: ConnectionUnit,
}

/// How far a connection has come.
#[derive(Debug)]
pub(in crate::turn) enum Stage {
    /// The peer has not answered yet.
    Connecting { asked: Asked, until: Instant },
    /// It stands, and nobody has bound it yet.
    Pending { until: Instant },
    /// It is joined with a connection of the client.
    Bound,
}

/// A Connect request that is still to be answered.
#[derive(Clone, Debug)]
pub(in crate::turn) struct Asked {
    pub(in crate::turn) transaction_id: TransactionId,
    pub(in crate::turn) fingerprint: bool,
    pub(in crate::turn) session: Arc<Session>,
}

/// All connections of one shard.
#[derive(Debug, Default)]
pub(in crate::turn) struct Connections {
    by_id: HashMap<ConnectionId, Connection>,
    /// Of those that are not bound.
    deadlines: BTreeSet<(Instant, ConnectionId)>,
}

impl Connections {
    pub(in crate::turn) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.by_id.get(&id)
    }

    pub(in crate::turn) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.by_id.get_mut(&id)
    }

    pub(in crate::turn) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.by_id.iter().map(|(&id, connection)| (id, connection))
    }

    pub(in crate::turn) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Adds a connection under a name that is free.
    pub(in crate::turn) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        if let Some(until) = connection.stage.until() {
            self.deadlines.insert((until, id));
        }
        self.by_id.insert(id, connection);
    }

    /// One whose time is up, each once.
    pub(in crate::turn) fn pop_due(&mut self, now: Instant) -> Option<ConnectionId> {
        let &(until, id) = self.deadlines.first()?;
        if until > now {
            return None;
        }
        self.deadlines.pop_first();
        Some(id)
    }

    /// When the next one runs out of time.
    pub(in crate::turn) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(until, _)| until)
    }

    /// Moves a connection on to another stage.
    pub(in crate::turn) fn set_stage(&mut self, id: ConnectionId, stage: Stage) {
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

    pub(in crate::turn) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
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
    pub(in crate::turn) const fn new(
        allocation: AllocationId,
        peer: PeerAddr,
        stage: Stage,
        unit: ConnectionUnit,
    ) -> Self {
        Self {
            allocation,
            peer,
            stage,
            relayed: 0,
            _unit: unit,
        }
    }

    /// So many more bytes were relayed; returns how many there are in all.
    pub(in crate::turn) const fn add_relayed(&mut self, up: u64, down: u64) -> u64 {
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
