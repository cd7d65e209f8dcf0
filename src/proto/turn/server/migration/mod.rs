//! Mobility (RFC 8016): a client that changed networks takes its allocation along to a new
//! five-tuple.
//!
//! The new five-tuple may arrive at another shard than the allocation's, and shards share nothing.
//! So an allocation moves *as a value*: its state here, its sockets in the shard. The shard that
//! owns it is its *home*; the shard that the client has moved to is *visited*. Both may be the
//! same, and even then they use the same messages. These are [`Migration`]s. They are never lost,
//! and those from one shard to another arrive in order.
//!
//! ```text
//! client          visited shard                    home shard
//!   | Refresh, ticket -->| Ask ------------------------>| checks everything, then grants
//!   |                    |                             | lifetime and new ticket; the old
//!   |                    |                             | path still works
//!   |<------- success ---|<------------------ Answer ---|
//!   | ChannelData ------>| holds it; Fetch ------------>|
//!   |                    |<------------------ Arrive ---| the whole allocation, removed here
//!   |                    | handles what it has held     |
//! ```
//!
//! Until then the client may leave again (`Withdraw`), ask from a third five-tuple (the latest
//! counts, and the previous visitor gets `Gone`), or delete the allocation on its old path
//! (`Gone`). If there is no old path because its stream has closed, `Arrive` follows the `Answer`
//! at once. If no client waits when it arrives, the allocation lives on without a client until its
//! lifetime ends or a client presents its ticket. Exactly one shard or migration owns an allocation
//! at any time.

mod home;
pub(in crate::turn) mod message;
mod visited;
pub(super) mod visitors;

use super::Server;
use crate::base::queue::take_first;
use crate::base::time::Now;
use crate::turn::response::Response;
use message::{Handled, Migration, MigrationMessage};

impl Server {
    /// The next migration to deliver, in order. Commands issued before it must be carried out
    /// first.
    pub fn poll_migration(&mut self) -> Option<Migration> {
        take_first(&mut self.migrations)
    }

    /// Handles a migration of another shard, or of this one.
    pub fn handle_migration(&mut self, now: Now, migration: Migration, response: &mut Response) -> Handled {
        let mut handled = Handled::default();
        match migration.message {
            MigrationMessage::Ask(ask) => self.handle_ask(now.mono, ask),
            MigrationMessage::Answer(visit, decision) => {
                handled.respond = self.handle_answer(now.mono, visit, decision, response)
            }
            MigrationMessage::Fetch(visit, id) => self.handle_fetch(now.mono, visit, id),
            MigrationMessage::Withdraw(visit, id) => self.handle_withdrawal(visit, id),
            MigrationMessage::Arrive(moved) => handled.arrived = self.handle_arrival(now, *moved),
            MigrationMessage::Gone(visit) => self.handle_gone(visit),
        }
        handled
    }

    /// Queues a message for shard `to`.
    fn send_migration(&mut self, to: usize, message: MigrationMessage) {
        self.migrations.push_back(Migration { to, message });
    }
}
