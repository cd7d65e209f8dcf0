//! The DTLS clients of one shard: their associations by five-tuple, and how many there may be.
//!
//! A stranger's ClientHello costs a HelloVerifyRequest and leaves nothing behind; an association begins with a good
//! cookie. Handshakes cost hundreds of times what a relayed packet does, so their datagrams wait in a queue and a turn of
//! the worker does one step of one handshake (`io`); media that came meanwhile goes first.

use std::collections::VecDeque;
use std::io as std_io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::base::address::{FiveTuple, Transport};
use crate::base::rate::Arrivals;
use crate::base::shares::{Place, Shares};
use crate::base::time::Instant;
use crate::net::dtls::{Association, Endpoint, MAX_PLAINTEXT, RECORD_OVERHEAD, Random, SharedContext};
use crate::shard::shares::{Caps, Unit};
use crate::shard::token::{Token, next_generation};
use crate::turn::types::Client;

/// Datagrams of one handshake that may wait for their turn: a client's longest flight, and that again.
pub(in crate::shard) const PENDING: usize = 16;
/// IP and UDP headers.
const HEADERS_V4: usize = 20 + 8;
const HEADERS_V6: usize = 40 + 8;

/// How DTLS is served.
#[derive(Clone)]
pub struct DtlsConfig {
    /// The certificates, to be swapped while associations live.
    pub contexts: SharedContext,
    /// Longest IP packet in bytes that carries a record to a client.
    pub mtu: usize,
    /// Associations of all shards together.
    pub associations: u32,
    /// Of these, from one source (IPv4 address, IPv6 /64).
    pub associations_per_ip: u32,
    /// Of these, from one network (IPv4 /24, IPv6 /48).
    pub associations_per_network: u32,
    /// Associations a cookie is good for.
    pub associations_per_cookie: u32,
    /// Associations of a source that may begin in a second, once `associations_per_ip` have begun at once; of a network as
    /// many times that as it may have.
    pub new_associations_per_second: u32,
    /// Handshakes under way in one shard; beyond it the source with the most loses one.
    pub handshakes: usize,
    /// A handshake must be complete within this.
    pub handshake_timeout: Duration,
    /// For tests: lost flights are sent again after 100 ms instead of a second.
    pub quick_retransmission: bool,
}

impl DtlsConfig {
    /// With `contexts`, and the defaults of the configuration file.
    pub fn new(contexts: SharedContext) -> Self {
        Self {
            contexts,
            mtu: 1500,
            associations: 16_384,
            associations_per_ip: 256,
            associations_per_network: 4096,
            associations_per_cookie: 4,
            new_associations_per_second: 20,
            handshakes: 512,
            handshake_timeout: Duration::from_secs(10),
            quick_retransmission: false,
        }
    }
}

/// What the shards share of it.
#[derive(Clone)]
pub(in crate::shard) struct DtlsShared {
    pub(in crate::shard) caps: Caps,
    pub(in crate::shard) arrivals: Arc<Arrivals>,
}

impl DtlsShared {
    /// `seed` is not to be guessed.
    pub(in crate::shard) fn new(config: &DtlsConfig, seed: u64) -> Self {
        let arrivals = Arrivals::new(
            seed,
            config.new_associations_per_second,
            config.associations_per_ip,
            config.associations_per_network,
        );
        Self {
            caps: Caps::new(seed),
            arrivals: Arc::new(arrivals),
        }
    }
}

/// One client.
pub(in crate::shard) struct Peer {
    pub(in crate::shard) association: Association,
    pub(in crate::shard) client: Client,
    /// Listener it came in by.
    pub(in crate::shard) listener: u32,
    /// That of the ClientHello it began with: another one is another handshake.
    pub(in crate::shard) random: Random,
    pub(in crate::shard) established: bool,
    /// When it began; once established, since when it has had no allocation.
    pub(in crate::shard) since: Instant,
    /// Datagrams that wait for their turn, while the handshake lasts.
    pub(in crate::shard) pending: VecDeque<Box<[u8]>>,
    /// It is in `Dtls::todo`.
    pub(in crate::shard) queued: bool,
    /// When its last flight is sent again.
    pub(in crate::shard) retransmit_at: Option<Instant>,
    /// Answers it has had as a stranger since it last was none.
    pub(in crate::shard) strangers_answers: u32,
    pub(in crate::shard) unit: Unit,
    /// Its place among the handshakes under way.
    pub(in crate::shard) half_open: Option<Place>,
    /// Its place among those that give way: it has no allocation, as far as is known.
    pub(in crate::shard) yielding: Option<Place>,
}

#[derive(Default)]
pub(in crate::shard) struct DtlsEntry {
    pub(in crate::shard) generation: u32,
    pub(in crate::shard) peer: Option<Box<Peer>>,
}

/// All associations of a shard.
pub(in crate::shard) struct Dtls {
    pub(in crate::shard) endpoint: Endpoint,
    pub(in crate::shard) config: DtlsConfig,
    pub(in crate::shard) shared: DtlsShared,
    pub(in crate::shard) entries: Vec<DtlsEntry>,
    pub(in crate::shard) free: Vec<u32>,
    pub(in crate::shard) by_five_tuple: HashMap<FiveTuple, u32, FixedState>,
    /// Slots whose handshake is under way.
    pub(in crate::shard) half_open: Shares<u32>,
    /// Slots without an allocation, those included.
    pub(in crate::shard) yielding: Shares<u32>,
    /// Slots with a step of the handshake to be done.
    pub(in crate::shard) todo: VecDeque<u32>,
    /// Not later than the first `Peer::retransmit_at`.
    pub(in crate::shard) next_timer: Option<Instant>,
    /// A message on its way into or out of a record.
    pub(in crate::shard) message: Box<[u8]>,
}

impl Dtls {
    /// No associations. `seed` is from the system's generator.
    ///
    /// # Errors
    /// Out of memory.
    pub(in crate::shard) fn new(config: DtlsConfig, shared: DtlsShared, seed: &[u8; 32]) -> std_io::Result<Self> {
        let mut endpoint = Endpoint::new(Arc::clone(&config.contexts), seed, config.associations_per_cookie)?;
        if config.quick_retransmission {
            endpoint = endpoint.with_quick_retransmission();
        }
        let [a, b, c, d, e, f, g, h, ..] = *seed;
        Ok(Self {
            endpoint,
            config,
            shared,
            entries: Vec::new(),
            free: Vec::new(),
            by_five_tuple: HashMap::with_hasher(FixedState::with_seed(u64::from_be_bytes([a, b, c, d, e, f, g, h]))),
            half_open: Shares::default(),
            yielding: Shares::default(),
            todo: VecDeque::new(),
            next_timer: None,
            message: vec![0; MAX_PLAINTEXT].into_boxed_slice(),
        })
    }

    /// When the worker has something to do here, if no datagram comes: at once, or a flight is to be sent again.
    pub(in crate::shard) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.todo.is_empty() {
            self.next_timer
        } else {
            Some(now)
        }
    }

    /// Whether there is no association at all.
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.by_five_tuple.is_empty()
    }

    /// Whether a client has an association, over UDP as `five_tuple` has it.
    pub(in crate::shard) fn knows(&self, five_tuple: &FiveTuple) -> bool {
        self.by_five_tuple.contains_key(&over_dtls(five_tuple))
    }

    /// Slots are below this.
    pub(in crate::shard) fn slots(&self) -> u32 {
        self.entries.len() as u32
    }

    pub(in crate::shard) fn at(&mut self, slot: u32) -> Option<&mut Peer> {
        self.entries.get_mut(slot as usize)?.peer.as_deref_mut()
    }

    pub(in crate::shard) fn by_name(&mut self, slot: u32, generation: u32) -> Option<&mut Peer> {
        let entry = self.entries.get_mut(slot as usize)?;
        if entry.generation == generation {
            entry.peer.as_deref_mut()
        } else {
            None
        }
    }

    /// The present generation of `slot`.
    pub(in crate::shard) fn generation(&self, slot: u32) -> u32 {
        self.entries.get(slot as usize).map_or(0, |entry| entry.generation)
    }

    /// Keeps a new association, whose handshake has yet to begin. The five-tuple is free.
    pub(in crate::shard) fn insert(&mut self, now: Instant, new: Newcomer) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(DtlsEntry::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[slot as usize];
        let generation = entry.generation;
        let ip = new.five_tuple.client.ip();
        entry.peer = Some(Box::new(Peer {
            association: new.association,
            client: Client {
                five_tuple: new.five_tuple,
                link: Token::Dtls { slot, generation }.link(),
            },
            listener: new.listener,
            random: new.random,
            established: false,
            since: now,
            pending: new.rest.into_iter().collect(),
            queued: true,
            retransmit_at: None,
            strangers_answers: 0,
            unit: new.unit,
            half_open: Some(self.half_open.enter(ip, slot)),
            yielding: Some(self.yielding.enter(ip, slot)),
        }));
        self.by_five_tuple.insert(new.five_tuple, slot);
        self.todo.push_back(slot);
        slot
    }

    /// Forgets an association.
    pub(in crate::shard) fn remove(&mut self, slot: u32) -> Option<Box<Peer>> {
        let entry = self.entries.get_mut(slot as usize)?;
        let peer = entry.peer.take()?;
        entry.generation = next_generation(entry.generation);
        self.free.push(slot);
        self.by_five_tuple.remove(&peer.client.five_tuple);
        if let Some(place) = peer.half_open {
            self.half_open.leave(place);
        }
        if let Some(place) = peer.yielding {
            self.yielding.leave(place);
        }
        if peer.queued {
            self.todo.retain(|&other| other != slot);
        }
        Some(peer)
    }

    /// Lets a datagram of a handshake wait for its turn. `false`: too many do.
    pub(in crate::shard) fn postpone(&mut self, slot: u32, datagram: &[u8]) -> bool {
        let Some(peer) = self.at(slot).filter(|peer| peer.pending.len() < PENDING) else {
            return false;
        };
        peer.pending.push_back(datagram.into());
        self.queue(slot);
        true
    }

    pub(in crate::shard) fn queue(&mut self, slot: u32) {
        if let Some(peer) = self.at(slot)
            && !std::mem::replace(&mut peer.queued, true)
        {
            self.todo.push_back(slot);
        }
    }

    pub(in crate::shard) fn set_established(&mut self, now: Instant, slot: u32) {
        let Some(peer) = self.at(slot) else { return };
        peer.established = true;
        peer.since = now;
        peer.retransmit_at = None;
        if let Some(place) = peer.half_open.take() {
            self.half_open.leave(place);
        }
    }

    /// Notes whether the association in `slot` gives way where there are too many: not while its client has an allocation.
    pub(in crate::shard) fn set_yielding(&mut self, slot: u32, yields: bool) {
        let Some(peer) = self
            .entries
            .get_mut(slot as usize)
            .and_then(|entry| entry.peer.as_deref_mut())
        else {
            return;
        };
        match (peer.yielding, yields) {
            (None, true) => peer.yielding = Some(self.yielding.enter(peer.client.five_tuple.client.ip(), slot)),
            (Some(place), false) => {
                peer.yielding = None;
                self.yielding.leave(place);
            }
            _ => {}
        }
    }

    /// Notes when the handshake's last flight is due again.
    pub(in crate::shard) fn set_timer(&mut self, now: Instant, slot: u32) {
        let Some(peer) = self.at(slot) else { return };
        peer.retransmit_at = peer.association.timeout().map(|left| now + left);
        let at = peer.retransmit_at;
        self.next_timer = self.next_timer.into_iter().chain(at).min();
    }
}

/// The same client, by what it speaks.
pub(in crate::shard) fn over_dtls(five_tuple: &FiveTuple) -> FiveTuple {
    FiveTuple {
        transport: Transport::Dtls,
        ..*five_tuple
    }
}

/// Longest message that fits into a record, and with it into an IP packet of `mtu` bytes, for this client.
pub(in crate::shard) fn longest_message(mtu: usize, client: SocketAddr) -> usize {
    let headers = if client.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
    mtu.saturating_sub(headers + RECORD_OVERHEAD).min(MAX_PLAINTEXT)
}

/// What an association is begun with.
pub(in crate::shard) struct Newcomer {
    pub(in crate::shard) association: Association,
    pub(in crate::shard) five_tuple: FiveTuple,
    pub(in crate::shard) listener: u32,
    pub(in crate::shard) random: Random,
    /// What came behind its ClientHello in the same datagram.
    pub(in crate::shard) rest: Option<Box<[u8]>>,
    pub(in crate::shard) unit: Unit,
}
