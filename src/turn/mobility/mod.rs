//! Mobility (RFC 8016): a client that changed networks takes its allocation along to a new five-tuple.
//!
//! The new five-tuple may arrive at another shard than the allocation's, and shards share nothing; so an allocation moves
//! *as a value*: its state here, its sockets in the shard. The shard that has it is its *home*, the one the client has come
//! to is *visited*; both may be the same, and even then they go about it the same way, by [`Handoff`]s, which arrive in
//! the order in which one shard sent them to another, and always.
//!
//! ```text
//! client          visited shard                    home shard
//!   | Refresh, ticket -->| Ask ------------------------>| checks everything, then grants: lifetime, new ticket;
//!   |<------- success ---|<------------------ Answer ---| the old path goes on as before
//!   | ChannelData ------>| holds it; Fetch ------------>|
//!   |                    |<------------------ Arrive ---| the allocation, whole: it is gone there
//!   |                    | takes up what it has held    |
//! ```
//!
//! Until then the client may leave again (`Withdraw`), ask from yet another place (the latest counts, the one before is told
//! `Gone`), or delete the allocation on its old path (`Gone`). Where there is no old path any more, because its stream is
//! closed, `Arrive` follows the `Answer` at once. One that arrives where nobody waits for it any more lives on without a
//! client until its lifetime ends or someone comes with its ticket: an allocation is owned by exactly one shard or handoff.

mod home;
pub(super) mod ticket;
mod visit;

use core::time::Duration;
use std::sync::Arc;

use super::allocation::{Allocation, FAMILIES, Socket};
use super::auth::Session;
use super::forward::Flow;
use super::quota::AddressUnit;
use super::refusal::Refusal;
use super::response::Response;
use super::server::Server;
use super::types::{AllocationId, Client, RelayId};
use crate::base::queue::take_first;
use crate::base::time::{Instant, Now};
use crate::wire::message::TransactionId;

use ticket::Name;
pub(super) use visit::Visitors;

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
    visit: Visit,
    /// The share of its new address. `None`: it is the address the allocation is counted for already.
    unit: Option<AddressUnit>,
}

/// A new five-tuple at the shard where its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Visit {
    shard: usize,
    client: Client,
    /// Counts the shard's visits: what was meant for an earlier one is known by it.
    serial: u64,
}

/// What one shard tells another about an allocation that moves. The worker carries it; none may be lost, and those of one
/// sender stay in order.
#[derive(Debug)]
pub struct Handoff {
    to: usize,
    note: Note,
}

#[derive(Debug)]
enum Note {
    Ask(Box<Ask>),
    Answer(Visit, Decision),
    Fetch(Visit, AllocationId),
    Withdraw(Visit, AllocationId),
    Arrive(Box<Moved>),
    Gone(Visit),
}

/// A Refresh with a ticket, from a five-tuple that has no allocation.
#[derive(Debug)]
struct Ask {
    visit: Visit,
    ticket: Name,
    session: Arc<Session>,
    lifetime: Option<u32>,
    family: Option<u8>,
}

/// What becomes of it.
#[derive(Debug)]
enum Decision {
    Granted(Grant),
    /// LIFETIME was 0.
    Deleted,
    Refused(Refusal),
    /// Over the limit for requests of one allocation.
    Limited,
}

/// The allocation a visit is for.
#[derive(Clone, Copy, Debug)]
struct Grant {
    home: usize,
    id: AllocationId,
    lifetime: Duration,
    until: Instant,
    ticket: Name,
}

/// An allocation on its way.
#[derive(Debug)]
struct Moved {
    visit: Visit,
    /// The shard it comes from.
    home: usize,
    allocation: Box<Allocation>,
    flow: Box<Flow>,
    /// Its client's data called it here; otherwise its old path has closed.
    fetched: bool,
}

/// What is to be done about a handoff that was handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Handled {
    /// The response to this client's Refresh is in the response buffer.
    pub respond: Option<Client>,
    /// An allocation has arrived; its relay sockets, those [`Handoff::sockets`] named, are called so from now on.
    pub arrived: [Option<RelayId>; 2],
}

impl Handoff {
    /// Index of the shard it is for.
    pub const fn to(&self) -> usize {
        self.to
    }

    /// The relay sockets that go with it, by family: those a `DetachRelay` command has named before.
    pub fn sockets(&self) -> [Option<RelayId>; 2] {
        match &self.note {
            Note::Arrive(moved) => open_sockets(&moved.allocation),
            _ => [None; 2],
        }
    }
}

impl Server {
    /// The next handoff to be carried, in order. Commands given before it are carried out before it.
    pub fn poll_handoff(&mut self) -> Option<Handoff> {
        take_first(&mut self.handoffs)
    }

    /// Takes a handoff of another shard, or of this one.
    pub fn handle_handoff(&mut self, now: Now, handoff: Handoff, response: &mut Response) -> Handled {
        let mut handled = Handled::default();
        match handoff.note {
            Note::Ask(ask) => self.handle_ask(now.mono, ask),
            Note::Answer(visit, decision) => handled.respond = self.handle_answer(now.mono, visit, decision, response),
            Note::Fetch(visit, id) => self.handle_fetch(now.mono, visit, id),
            Note::Withdraw(visit, id) => self.handle_withdrawal(visit, id),
            Note::Arrive(moved) => handled.arrived = self.handle_arrival(now.mono, *moved),
            Note::Gone(visit) => self.handle_gone(visit),
        }
        handled
    }

    fn tell(&mut self, to: usize, note: Note) {
        self.handoffs.push_back(Handoff { to, note });
    }
}

fn open_sockets(allocation: &Allocation) -> [Option<RelayId>; 2] {
    FAMILIES.map(|family| {
        let open = matches!(&allocation.sockets[family as usize], Socket::Open { .. });
        open.then_some(RelayId {
            allocation: allocation.id,
            family,
        })
    })
}
