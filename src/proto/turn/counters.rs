//! The counters of one shard. Its thread writes them; the metrics endpoint may read them at any
//! time.

use super::output::{ConnectionEnd, DropReason, EndReason, PeerRefusal};
use super::policy::Denied;
use super::refusal::{Refusal, RefusalReason};
use super::types::Path;
use crate::base::address::Transport;
use crate::base::cell::{Cell, Cells};

/// STUN error codes this server sends, in the order of [`Counters::errors`].
pub const ERROR_CODES: [u16; 17] = [
    300, 400, 401, 403, 405, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 500, 508,
];

/// Request methods, in the order of [`Counters::requests`].
pub const METHODS: [&str; 7] = [
    "binding",
    "allocate",
    "refresh",
    "create_permission",
    "channel_bind",
    "connect",
    "connection_bind",
];

/// One direction of relayed application data.
#[derive(Debug, Default)]
pub struct Direction {
    /// Packets relayed.
    pub packets: Cell,
    /// Bytes of application data relayed.
    pub bytes: Cell,
}

/// All counters of one shard. Aligned so that two shards never write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Packets and messages passed to the core. Each ends in exactly one verdict.
    pub received: Cell,
    /// Of those, relayed (`ToPeer`, `ToClient`, `ToAllocation`).
    pub relayed: Cell,
    /// Of those, answered (`Respond`).
    pub answered: Cell,
    /// Of those, waiting for a relay socket (`Waiting`).
    pub waiting: Cell,
    /// Of those, dropped by the core. Also packets that the shard dropped itself. By
    /// [`DropReason`].
    pub dropped: Cells<{ DropReason::ALL.len() }>,
    /// Client to peer, by the client's [`Path`] and [`Transport`].
    pub up: [[Direction; Transport::ALL.len()]; Path::ALL.len()],
    /// Peer to client, by the client's [`Path`] and [`Transport`].
    pub down: [[Direction; Transport::ALL.len()]; Path::ALL.len()],
    /// Requests by method ([`METHODS`]).
    pub requests: [Cell; METHODS.len()],
    /// Error responses by code ([`ERROR_CODES`]).
    pub errors: [Cell; ERROR_CODES.len()],
    /// Requests refused.
    pub refusals: RefusalCounters,
    /// Allocate requests of forced logins that arrived on another path, by [`Transport`].
    pub forced_refused: [Cell; Transport::ALL.len()],
    /// Allocations started, by [`Transport`].
    pub allocations_started: [Cell; Transport::ALL.len()],
    /// Allocations that ended, by [`EndReason`].
    pub allocations_ended: [Cell; EndReason::ALL.len()],
    /// Live allocations, by [`Transport`] (gauge).
    pub allocations: [Cell; Transport::ALL.len()],
    /// Refreshes with a mobility ticket that succeeded (RFC 8016).
    pub migrations_granted: Cell,
    /// Allocations that moved to their client's new five-tuple, on this shard or another.
    pub allocations_left: Cell,
    /// Allocations that arrived at their client's new five-tuple on this shard.
    pub allocations_arrived: Cell,
    /// Allocations imported from records.
    pub allocations_imported: Cell,
    /// Live allocations whose client is disconnected and may return with its ticket (gauge).
    pub away: Cell,
    /// TCP connections with peers (RFC 6062).
    pub tcp: TcpCounters,
}

/// TCP connections with peers (RFC 6062): connecting, waiting for their ConnectionBind, and bound.
#[derive(Debug, Default)]
pub struct TcpCounters {
    /// Current number (gauge).
    pub connections: Cell,
    /// Requested by Connect.
    pub connecting: Cell,
    /// Accepted from peers.
    pub accepted: Cell,
    /// Closed at once instead of being accepted, by [`PeerRefusal`].
    pub refused: [Cell; PeerRefusal::ALL.len()],
    /// Bound to a client's connection.
    pub bound: Cell,
    /// Ended, by [`ConnectionEnd`].
    pub ended: [Cell; ConnectionEnd::ALL.len()],
    /// Bytes from clients to peers.
    pub up_bytes: Cell,
    /// Bytes from peers to clients.
    pub down_bytes: Cell,
}

/// Refused requests.
#[derive(Debug, Default)]
pub struct RefusalCounters {
    /// All, by [`RefusalReason`].
    pub reasons: Cells<{ RefusalReason::ALL.len() }>,
    /// Refusals because the policy forbids the peer, by its rule.
    pub peer_rules: Cells<{ Denied::ALL.len() }>,
}

impl RefusalCounters {
    /// Counts one refusal.
    pub fn count(&self, refusal: &Refusal) {
        self.reasons[refusal.reason() as usize].add(1);
        if let Refusal::PeerDenied { rule, .. } = refusal {
            self.peer_rules[*rule as usize].add(1);
        }
    }
}

impl Counters {
    /// Counts one dropped packet.
    pub fn drop_packet(&self, reason: DropReason) {
        self.dropped[reason as usize].add(1);
    }

    /// Counts one error response. A code outside [`ERROR_CODES`] is a bug and is not counted.
    pub fn error_response(&self, code: u16) {
        if let Some(i) = ERROR_CODES.iter().position(|&c| c == code) {
            self.errors[i].add(1);
        }
    }
}
