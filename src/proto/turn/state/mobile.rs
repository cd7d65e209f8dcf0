//! The mobility state of an allocation (RFC 8016).

use crate::base::time::Instant;
use crate::turn::shared::quotas::AddressUnit;
use crate::turn::shared::tickets::TicketName;
use crate::turn::types::Client;
use crate::wire::message::TransactionId;

/// The mobility state of an allocation, present if its Allocate requested a ticket.
#[derive(Debug)]
pub(in crate::turn) struct Mobile {
    /// The ticket that the client is known to have.
    pub(in crate::turn) current: TicketName,
    /// When `next` finally replaces it, because the allocation has moved by means of `next`.
    pub(in crate::turn) current_until: Option<Instant>,
    /// The next ticket: issued, but its response may be lost.
    pub(in crate::turn) next: Option<TicketName>,
    /// The one Refresh that was granted and that no data has followed yet.
    pub(in crate::turn) pending: Option<Pending>,
    /// The Refresh that moved the allocation here, and until when copies of it may arrive.
    pub(in crate::turn) moved_by: Option<(TransactionId, Instant)>,
}

impl Mobile {
    /// The state of a new allocation.
    pub(in crate::turn) const fn new(ticket: TicketName) -> Self {
        Self {
            current: ticket,
            current_until: None,
            next: None,
            pending: None,
            moved_by: None,
        }
    }

    /// The ticket that was issued last.
    pub(in crate::turn) fn newest(&self) -> &TicketName {
        self.next.as_ref().unwrap_or(&self.current)
    }
}

/// A client that may move with its next packet of application data.
#[derive(Debug)]
pub(in crate::turn) struct Pending {
    pub(in crate::turn) visit: Visit,
    /// The quota of its new address. `None`: the allocation already counts for that address.
    pub(in crate::turn) unit: Option<AddressUnit>,
}

/// A new five-tuple at the shard where its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::turn) struct Visit {
    pub(in crate::turn) shard: usize,
    pub(in crate::turn) client: Client,
    /// Counts the shard's visits, so that messages about an earlier one are recognised.
    pub(in crate::turn) serial: u64,
}
