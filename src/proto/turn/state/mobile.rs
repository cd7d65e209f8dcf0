//! The mobile side of an allocation (RFC 8016).

use crate::base::time::Instant;
use crate::turn::shared::quotas::AddressUnit;
use crate::turn::shared::tickets::TicketName;
use crate::turn::types::Client;
use crate::wire::message::TransactionId;

/// The mobile side of an allocation: there is one if its Allocate asked for a ticket.
#[derive(Debug)]
pub(in crate::turn) struct Mobile {
    /// The ticket the client is known to have.
    pub(in crate::turn) current: TicketName,
    /// When that is replaced for good, because the allocation has moved by the one behind it.
    pub(in crate::turn) current_until: Option<Instant>,
    /// The ticket behind it: given out, but perhaps its response was lost.
    pub(in crate::turn) next: Option<TicketName>,
    /// The one Refresh that was granted and not followed by data yet.
    pub(in crate::turn) pending: Option<Pending>,
    /// The Refresh that brought the allocation here, and how long copies of it may come.
    pub(in crate::turn) moved_by: Option<(TransactionId, Instant)>,
}

impl Mobile {
    /// Of a new allocation.
    pub(in crate::turn) const fn new(ticket: TicketName) -> Self {
        Self {
            current: ticket,
            current_until: None,
            next: None,
            pending: None,
            moved_by: None,
        }
    }

    /// The ticket that was given out last.
    pub(in crate::turn) fn newest(&self) -> &TicketName {
        self.next.as_ref().unwrap_or(&self.current)
    }
}

/// A client that may move at its next packet of application data.
#[derive(Debug)]
pub(in crate::turn) struct Pending {
    pub(in crate::turn) visit: Visit,
    /// The share of its new address. `None`: it is the address the allocation is counted for already.
    pub(in crate::turn) unit: Option<AddressUnit>,
}

/// A new five-tuple at the shard where its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::turn) struct Visit {
    pub(in crate::turn) shard: usize,
    pub(in crate::turn) client: Client,
    /// Counts the shard's visits: what was meant for an earlier one is known by it.
    pub(in crate::turn) serial: u64,
}
