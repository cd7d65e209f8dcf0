//! Messages between shards about an allocation that moves.

use core::time::Duration;
use std::sync::Arc;

use crate::base::time::Instant;
use crate::turn::forward::Flow;
use crate::turn::login::session::Session;
use crate::turn::refusal::Refusal;
use crate::turn::shared::tickets::TicketName;
use crate::turn::state::allocation::{Allocation, open_sockets};
use crate::turn::state::mobile::Visit;
use crate::turn::types::{AllocationId, Client, RelayId};

/// A message from one shard to another about an allocation that moves. The worker delivers it. None
/// may be lost, and those of one sender stay in order.
#[derive(Debug)]
pub struct Migration {
    pub(super) to: usize,
    pub(super) message: MigrationMessage,
}

#[derive(Debug)]
pub(super) enum MigrationMessage {
    Ask(Box<Ask>),
    Answer(Visit, Decision),
    Fetch(Visit, AllocationId),
    Withdraw(Visit, AllocationId),
    Arrive(Box<ArrivingAllocation>),
    Gone(Visit),
}

/// A Refresh with a ticket, from a five-tuple without an allocation.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) visit: Visit,
    pub(super) ticket: TicketName,
    pub(super) session: Arc<Session>,
    pub(super) lifetime: Option<u32>,
    pub(super) family: Option<u8>,
}

/// The answer to [`Ask`].
#[derive(Debug)]
pub(super) enum Decision {
    Granted(MigrationGrant),
    /// LIFETIME was 0.
    Deleted,
    Refused(Refusal),
    /// Over the limit for requests of one allocation.
    Limited,
}

/// The allocation that a visit was granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct MigrationGrant {
    pub(super) home: usize,
    pub(super) id: AllocationId,
    pub(super) lifetime: Duration,
    pub(super) until: Instant,
    pub(super) ticket: TicketName,
}

/// An allocation in transit.
#[derive(Debug)]
pub(super) struct ArrivingAllocation {
    pub(super) visit: Visit,
    /// The shard that sends it.
    pub(super) home: usize,
    pub(super) allocation: Box<Allocation>,
    pub(super) flow: Box<Flow>,
    /// The client's data on the new path requested it. Otherwise the old path has closed.
    pub(super) fetched: bool,
}

/// What the worker does after a migration was handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Handled {
    /// The response for this client's Refresh is in the response buffer.
    pub respond: Option<Client>,
    /// An allocation has arrived. These are the new ids of its relay sockets, those that
    /// [`Migration::sockets`] named.
    pub arrived: [Option<RelayId>; 2],
}

impl Migration {
    /// Index of the receiving shard.
    pub const fn to(&self) -> usize {
        self.to
    }

    /// The relay sockets that move with it, by family. An earlier `DetachRelay` command named each
    /// of them.
    pub fn sockets(&self) -> [Option<RelayId>; 2] {
        match &self.message {
            MigrationMessage::Arrive(moved) => open_sockets(&moved.allocation),
            _ => [None; 2],
        }
    }
}
