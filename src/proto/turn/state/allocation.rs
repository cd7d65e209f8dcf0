//! Allocations (RFC 8656 §6): the state of one beside its routes.
//!
//! An [`Allocation`] is a plain value. Together with its routes in the forward table and its relay
//! sockets in the shard it is the complete state. Relayed packets use none of it.

use core::ops::Bound;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use super::connections::TcpRelay;
use super::mobile::Mobile;
use crate::base::address::Family;
use crate::base::rate::Bucket;
use crate::base::time::Instant;
use crate::turn::login::owner::Owner;
use crate::turn::login::session::Session;
use crate::turn::refusal::{OpenError, Refusal};
use crate::turn::session_id::SessionId;
use crate::turn::sessions::SessionCursor;
use crate::turn::shared::ports::{RelayPort, Want};
use crate::turn::shared::quotas::{QuotaUnit, ReservationUnit};
use crate::turn::shared::reservations::ReservationToken;
use crate::turn::types::{AllocationId, RelayId, RelayedAddr};
use crate::wire::message::TransactionId;

/// Lifetime of a permission (RFC 8656 §9); not negotiable.
pub(in crate::turn) const PERMISSION: Duration = Duration::from_secs(300);

/// Lifetime of a channel binding (RFC 8656 §12).
pub(in crate::turn) const CHANNEL: Duration = Duration::from_secs(600);

/// How long a reserved port is kept: the minimum of the RFC (§7.2).
pub(in crate::turn) const RESERVATION: Duration = Duration::from_secs(30);

/// Both families, in the order of all arrays by family.
pub(in crate::turn) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One allocation, without its routes.
#[derive(Debug)]
pub(in crate::turn) struct Allocation {
    pub(in crate::turn) id: AllocationId,
    /// Its id outside this shard.
    pub(in crate::turn) session_id: SessionId,
    /// The login of the Allocate. Every other request must come from the same user.
    pub(in crate::turn) session: Arc<Session>,
    pub(in crate::turn) sockets: [Socket; 2],
    /// The relayed addresses it was granted, including one that has ended.
    pub(in crate::turn) relayed: [Option<RelayedAddr>; 2],
    /// Transaction id of the Allocate, to recognise a retransmission.
    pub(in crate::turn) transaction_id: TransactionId,
    /// When the Allocate arrived.
    pub(in crate::turn) requested: Instant,
    /// RESERVATION-TOKEN in the success response.
    pub(in crate::turn) token: Option<ReservationToken>,
    /// ADDRESS-ERROR-CODE in the success response.
    pub(in crate::turn) unavailable: Option<(Family, u16)>,
    /// `Some` until the relay sockets are open.
    pub(in crate::turn) opening: Option<Box<PendingAllocate>>,
    /// For a TCP allocation (RFC 6062): its connections with peers.
    pub(in crate::turn) tcp: Option<Box<TcpRelay>>,
    /// Distinguishes requests of its client from those of other senders.
    pub(in crate::turn) owner: Owner,
    /// Rate of CreatePermission, ChannelBind and Connect requests.
    pub(in crate::turn) requests: Bucket,
    /// Rate of ICMP reports.
    pub(in crate::turn) reports: Bucket,
    /// A peer was granted, or one was refused and reported. Further refused candidates are not
    /// reported.
    pub(in crate::turn) judged_a_peer: bool,
    /// The quota of this allocation, released when it is dropped.
    pub(in crate::turn) quota: QuotaUnit,
    /// Present if its client requested a mobility ticket.
    pub(in crate::turn) mobile: Option<Box<Mobile>>,
}

impl Allocation {
    /// Its place in the order of sessions.
    const fn cursor(&self) -> SessionCursor {
        SessionCursor {
            requested: self.requested,
            id: self.session_id,
        }
    }
}

/// A relay socket.
#[derive(Debug)]
pub(in crate::turn) enum Socket {
    /// Not requested, not available, or closed.
    Absent,
    /// Being opened.
    Opening { port: RelayPort, relayed: RelayedAddr },
    /// Bound.
    Open { port: RelayPort, relayed: RelayedAddr },
}

impl Socket {
    pub(in crate::turn) const NONE: [Self; 2] = [Self::Absent, Self::Absent];
}

/// An Allocate whose relay sockets are being opened.
#[derive(Debug)]
pub(in crate::turn) struct PendingAllocate {
    /// What to take instead if another program uses a port. `None`: only that port is acceptable.
    pub(in crate::turn) want: Option<Want>,
    /// Kept, so that they are not tried twice.
    pub(in crate::turn) failed: Vec<RelayPort>,
    pub(in crate::turn) lifetime: Duration,
    /// The port after an even one.
    pub(in crate::turn) reserved: Option<RelayPort>,
    /// The user's quota for it.
    pub(in crate::turn) reservation: Option<ReservationUnit>,
    /// The request had a FINGERPRINT.
    pub(in crate::turn) fingerprint: bool,
    /// Why the last socket that failed could not be opened.
    pub(in crate::turn) error: Option<OpenError>,
    /// Why one of the two requested relayed addresses is not granted.
    pub(in crate::turn) half: Option<Refusal>,
}

/// Allocations by slot of the forward table.
#[derive(Debug, Default)]
pub(in crate::turn) struct Allocations {
    slots: Vec<Option<Box<Allocation>>>,
    /// The oldest first, to be listed in pieces.
    by_age: BTreeMap<SessionCursor, AllocationId>,
    by_session: HashMap<SessionId, AllocationId>,
}

impl Allocations {
    pub(in crate::turn) fn insert(&mut self, allocation: Allocation) {
        let index = allocation.id.index as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.by_age.insert(allocation.cursor(), allocation.id);
        self.by_session.insert(allocation.session_id, allocation.id);
        self.slots[index] = Some(Box::new(allocation));
    }

    pub(in crate::turn) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.at(id.index).filter(|allocation| allocation.id == id)
    }

    pub(in crate::turn) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.slots
            .get_mut(id.index as usize)?
            .as_deref_mut()
            .filter(|allocation| allocation.id == id)
    }

    /// The allocation in this slot, of any generation.
    pub(in crate::turn) fn at(&self, index: u32) -> Option<&Allocation> {
        self.slots.get(index as usize)?.as_deref()
    }

    pub(in crate::turn) fn ids(&self) -> Vec<AllocationId> {
        self.slots.iter().flatten().map(|allocation| allocation.id).collect()
    }

    /// Removes an allocation. Its routes and its timer stay.
    pub(in crate::turn) fn remove(&mut self, id: AllocationId) -> Option<Box<Allocation>> {
        self.get(id)?;
        let removed = self.slots.get_mut(id.index as usize)?.take()?;
        self.by_age.remove(&removed.cursor());
        self.by_session.remove(&removed.session_id);
        while let Some(None) = self.slots.last() {
            self.slots.pop();
        }
        if self.slots.is_empty() {
            self.slots.shrink_to_fit();
            self.by_session.shrink_to_fit();
        }
        Some(removed)
    }

    /// The allocation of this name.
    pub(in crate::turn) fn by_session(&self, id: SessionId) -> Option<AllocationId> {
        self.by_session.get(&id).copied()
    }

    /// Those behind `after`, the oldest first.
    pub(in crate::turn) fn after(
        &self,
        after: Option<SessionCursor>,
    ) -> impl Iterator<Item = (SessionCursor, AllocationId)> + '_ {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.by_age.range((from, Bound::Unbounded));
        range.map(|(&cursor, &id)| (cursor, id))
    }
}

/// The relay sockets of an allocation, by family.
pub(in crate::turn) fn open_sockets(allocation: &Allocation) -> [Option<RelayId>; 2] {
    FAMILIES.map(|family| {
        let open = matches!(&allocation.sockets[family as usize], Socket::Open { .. });
        open.then_some(RelayId {
            allocation: allocation.id,
            family,
        })
    })
}
