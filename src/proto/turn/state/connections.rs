//! TCP connections between allocations and peers (RFC 6062): their state, and how they end.
//!
//! A Connect request makes a connection, or a peer connects to a relayed transport address. Either
//! way the connection then waits for a ConnectionBind on another connection of the client, and from
//! then on relays bytes. The bytes do not pass through here: the shard joins the two sockets and
//! reports the number of bytes in each direction.
//! here: the shard joins the two sockets, and says how much went which way.
//!
//! ```text
//! Connect ──> Connecting ──ok──┐                 ConnectionBind
//!                              ├──> Pending ─────────────────────> Bound
//! accepted ────────────────────┘   (30 s)
//! ```
//! Deliberately absent: the operations on them (`server::connections`) and the requests
//! (`server::connect`).

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

/// The additional state of a TCP allocation.
#[derive(Debug, Default)]
pub(in crate::turn) struct TcpRelay {
    /// Local address of each relay socket; connections to peers use it as their source.
    pub(in crate::turn) binds: [Option<SocketAddr>; 2],
    /// At most as many as configured, which is few.
    pub(in crate::turn) connections: Vec<ConnectionId>,
}

/// One connection with a peer.
#[derive(Debug)]
pub(in crate::turn) struct Connection {
    pub(in crate::turn) allocation: AllocationId,
    pub(in crate::turn) peer: PeerAddr,
    pub(in crate::turn) stage: Stage,
    /// Bytes relayed, both directions together.
    relayed: u64,
    /// Counts against the limit of all connections.
    _unit: ConnectionUnit,
}

/// The stage of a connection.
#[derive(Debug)]
pub(in crate::turn) enum Stage {
    /// The peer has not answered yet.
    Connecting { asked: Asked, until: Instant },
    /// Connected, and not bound by a client yet.
    Pending { until: Instant },
    /// Joined with a connection of the client.
    Bound,
}

/// A Connect request that has no response yet.
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
    /// Deadlines of connections that are not bound.
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

    /// Adds a connection with an unused id.
    pub(in crate::turn) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        if let Some(until) = connection.stage.until() {
            self.deadlines.insert((until, id));
        }
        self.by_id.insert(id, connection);
    }

    /// The next connection past its deadline; returns each once.
    pub(in crate::turn) fn pop_due(&mut self, now: Instant) -> Option<ConnectionId> {
        let &(until, id) = self.deadlines.first()?;
        if until > now {
            return None;
        }
        self.deadlines.pop_first();
        Some(id)
    }

    /// The earliest deadline.
    pub(in crate::turn) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(until, _)| until)
    }

    /// Moves a connection to another stage.
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

    /// Adds to the bytes relayed, and returns the total.
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
