//! Clients that wait for their allocations, and the packets they have sent meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use super::message::MigrationGrant;
use crate::base::address::{FiveTuple, Transport};
use crate::turn::login::session::Session;
use crate::turn::state::mobile::Visit;
use crate::turn::types::Client;
use crate::wire::message::{Message, TransactionId};

/// Bounds on the packets held for one client while its allocation is on its way: their number, and
/// their bytes. Enough for what a client sends meanwhile, and no more than a receive slot.
const HELD_PACKETS: usize = 64;
const HELD_BYTES: usize = 64 * 1024;

/// Clients that have presented a ticket here, and whose allocation has not arrived yet.
#[derive(Debug)]
pub(in crate::turn::server) struct Visitors {
    pub(super) by_client: HashMap<FiveTuple, Box<Visitor>, FixedState>,
    serial: u64,
    /// Held packets that are ready to be handled again.
    pub(super) again: VecDeque<(Client, Box<[u8]>)>,
}

#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) visit: Visit,
    pub(super) session: Arc<Session>,
    /// Transaction id of the Refresh.
    pub(super) transaction_id: TransactionId,
    pub(super) fingerprint: bool,
    pub(super) state: State,
    pub(super) held: Vec<Box<[u8]>>,
    pub(super) held_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Asked,
    Granted(MigrationGrant),
    Fetching(MigrationGrant),
}

impl Visitors {
    pub(in crate::turn::server) fn new(seed: u64) -> Self {
        Self {
            by_client: HashMap::with_hasher(FixedState::with_seed(seed)),
            serial: 0,
            again: VecDeque::new(),
        }
    }

    /// Whether this client waits for its allocation.
    pub(in crate::turn::server) fn contains(&self, client: &Client) -> bool {
        !self.by_client.is_empty() && self.at(client).is_some()
    }

    pub(super) fn at(&self, client: &Client) -> Option<&Visitor> {
        let visitor = self.by_client.get(&client.five_tuple)?;
        visitor.is(client).then_some(&**visitor)
    }

    pub(super) fn remove(&mut self, visit: &Visit) -> Option<Box<Visitor>> {
        self.by_client
            .get(&visit.client.five_tuple)
            .filter(|visitor| visitor.visit.serial == visit.serial)?;
        let visitor = self.by_client.remove(&visit.client.five_tuple);
        if self.by_client.is_empty() && self.by_client.capacity() > 64 {
            self.by_client.shrink_to_fit();
        }
        visitor
    }

    /// Forgets all visitors.
    pub(in crate::turn::server) fn clear(&mut self) {
        self.by_client.clear();
        self.again.clear();
    }
}

impl Visitor {
    /// The same addresses on another connection are another client.
    fn is(&self, client: &Client) -> bool {
        client.five_tuple.transport == Transport::Udp || self.visit.client.link == client.link
    }

    /// Keeps `packet` for later; `false` if there is no room.
    pub(super) fn hold(&mut self, packet: &[u8]) -> bool {
        let room = self.held.len() < HELD_PACKETS && self.held_bytes + packet.len() <= HELD_BYTES;
        if room {
            self.held.push(packet.into());
            self.held_bytes += packet.len();
        }
        room
    }

    pub(super) const fn grant(&self) -> Option<&MigrationGrant> {
        match &self.state {
            State::Asked => None,
            State::Granted(grant) | State::Fetching(grant) => Some(grant),
        }
    }
}

impl Visitors {
    pub(super) fn begin(
        &mut self,
        shard: usize,
        client: &Client,
        session: &Arc<Session>,
        message: &Message<'_>,
    ) -> Visit {
        self.serial += 1;
        let visit = Visit {
            shard,
            client: *client,
            serial: self.serial,
        };
        let visitor = Visitor {
            visit,
            session: Arc::clone(session),
            transaction_id: message.transaction_id(),
            fingerprint: message.has_fingerprint(),
            state: State::Asked,
            held: Vec::new(),
            held_bytes: 0,
        };
        self.by_client.insert(client.five_tuple, Box::new(visitor));
        visit
    }
}
