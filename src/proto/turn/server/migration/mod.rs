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

pub(in crate::turn) mod handoff;
mod home;
mod visited;
pub(super) mod visitors;

use super::Server;
use crate::base::queue::take_first;
use crate::base::time::Now;
use crate::turn::response::Response;
use handoff::{Handled, Handoff, Note};

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
            Note::Arrive(moved) => handled.arrived = self.handle_arrival(now, *moved),
            Note::Gone(visit) => self.handle_gone(visit),
        }
        handled
    }

    fn tell(&mut self, to: usize, note: Note) {
        self.handoffs.push_back(Handoff { to, note });
    }
}
