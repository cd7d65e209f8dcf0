//! The mobile side of an allocation (RFC 8016).

use super::mobility::ticket::Name;
use super::quota::AddressUnit;
use super::types::Client;
use crate::base::time::Instant;
use crate::wire::message::TransactionId;

/// The mobile side of an allocation: there is one if its Allocate asked for a ticket.
#[derive(Debug)]
pub(super) struct Mobile {
    /// The ticket the client is known to have.
    pub(super) current: Name,
    /// When that is replaced for good, because the allocation has moved by the one behind it.
    pub(super) current_until: Option<Instant>,
    /// The ticket behind it: given out, but perhaps its response was lost.
    pub(super) next: Option<Name>,
    /// The one Refresh that was granted and not followed by data yet.
    pub(super) pending: Option<Pending>,
    /// The Refresh that brought the allocation here, and how long copies of it may come.
    pub(super) moved_by: Option<(TransactionId, Instant)>,
}

impl Mobile {
    /// Of a new allocation.
    pub(super) const fn new(ticket: Name) -> Self {
        Self {
            current: ticket,
            current_until: None,
            next: None,
            pending: None,
            moved_by: None,
        }
    }

    /// The ticket that was given out last.
    pub(super) fn newest(&self) -> &Name {
        self.next.as_ref().unwrap_or(&self.current)
    }
}

/// A client that may move at its next packet of application data.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) visit: Visit,
    /// The share of its new address. `None`: it is the address the allocation is counted for already.
    pub(super) unit: Option<AddressUnit>,
}

/// A new five-tuple at the shard where its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) shard: usize,
    pub(super) client: Client,
    /// Counts the shard's visits: what was meant for an earlier one is known by it.
    pub(super) serial: u64,
}
