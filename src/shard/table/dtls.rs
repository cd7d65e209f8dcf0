//! The DTLS clients of one shard: their associations by five-tuple, and how many there may be.
//!
//! A stranger's ClientHello costs a HelloVerifyRequest and leaves nothing behind; an association
//! begins with a good cookie. Handshakes cost hundreds of times what a relayed packet does, so
//! their datagrams wait in a queue and a turn of the worker does one step of one handshake. Media
//! that has arrived meanwhile goes first.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::base::address::{FiveTuple, Transport};
use crate::base::rate::Arrivals;
use crate::base::shares::{Place, Shares};
use crate::base::time::Instant;
use crate::net::dtls::{Association, DtlsError, Endpoint, Listened, MAX_PLAINTEXT, RECORD_OVERHEAD, Random};
use crate::shard::config::DtlsConfig;
use crate::shard::counters::{DtlsClose, DtlsDrop};
use crate::shard::shares::{Bounds, LimitReached, ProcessShares, ProcessUnit, SourceUnit};
use crate::shard::table::slots::Slots;
use crate::shard::token::Token;
use crate::turn::types::Client;

/// Datagrams of one handshake that may wait for their turn: a client's longest flight, and that
/// again.
pub(in crate::shard) const PENDING: usize = 16;
/// IP and UDP headers.
const HEADERS_V4: usize = 20 + 8;
const HEADERS_V6: usize = 40 + 8;

/// What the shards share of it.
#[derive(Clone)]
pub(in crate::shard) struct DtlsShared {
    counts: ProcessShares,
    arrivals: Arc<Arrivals>,
}

impl DtlsShared {
    /// `seed` is not to be guessed.
    pub(in crate::shard) fn new(config: &DtlsConfig, seed: u64) -> Self {
        let arrivals = Arrivals::new(
            seed,
            config.new_associations_per_second,
            config.limits.associations_per_ip,
            config.limits.associations_per_network,
        );
        Self {
            counts: ProcessShares::new(seed),
            arrivals: Arc::new(arrivals),
        }
    }
}

/// One client.
pub(in crate::shard) struct DtlsClient {
    association: Association,
    pub(in crate::shard) client: Client,
    /// Listener it came in by.
    listener: u32,
    /// That of the ClientHello it began with: another one is another handshake.
    random: Random,
    pub(in crate::shard) established: bool,
    /// When it began; once established, since when it has had no allocation.
    pub(in crate::shard) since: Instant,
    /// Datagrams that wait for their step, while the handshake lasts.
    pub(in crate::shard) pending: VecDeque<Box<[u8]>>,
    /// It is in `Dtls::todo`.
    queued: bool,
    /// When its last flight is sent again.
    pub(in crate::shard) retransmit_at: Option<Instant>,
    /// Consecutive answers without a login.
    pub(in crate::shard) unauthenticated_answers: u32,
    pub(in crate::shard) unit: ProcessUnit,
    /// Its place among the handshakes under way.
    half_open: Option<Place>,
    /// Its place among those that may be evicted: it has no allocation, as far as is known.
    pub(in crate::shard) yielding: Option<Place>,
}

/// A new association, whose cookie was good.
pub(in crate::shard) struct NewAssociation {
    pub(in crate::shard) association: Association,
    pub(in crate::shard) five_tuple: FiveTuple,
    pub(in crate::shard) listener: u32,
    pub(in crate::shard) random: Random,
    /// What stood behind its ClientHello in the same datagram.
    pub(in crate::shard) rest: Option<Box<[u8]>>,
    pub(in crate::shard) unit: ProcessUnit,
}

/// What a datagram of a client with an association is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum DtlsReceived {
    /// A ClientHello of another handshake. The old association lives until the cookie is good (RFC
    /// 6347 §4.2.8).
    NewHandshake,
    /// Records of an established association of this generation: [`Dtls::next_message`] has their
    /// messages.
    Records(u32),
    /// A part of the handshake under way; it waits for its step.
    Handshake,
    /// The same, but too many wait.
    QueueFull,
}

/// What one step of a handshake has led to.
#[derive(Debug)]
pub(in crate::shard) enum HandshakeStep {
    /// It is not complete.
    UnderWay,
    /// It is complete. What the client has sent behind it, still encrypted.
    Established(VecDeque<Box<[u8]>>),
    /// It has failed.
    Failed,
}

/// What stands next in a datagram of an established association.
pub(in crate::shard) enum NextMessage<'a> {
    /// A message, and who has sent it.
    Message(&'a [u8], Client),
    /// Nothing more.
    Done,
    /// The client has closed the association, or it is broken.
    Ended(DtlsError),
    /// The association has ended already.
    Gone,
}

/// Why a message did not become a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum SealError {
    /// There is no such association.
    Gone,
    /// It would not fit into a packet.
    TooLong,
    /// The association is broken.
    Failed,
}

/// All associations of a shard.
pub(in crate::shard) struct Dtls {
    endpoint: Endpoint,
    config: DtlsConfig,
    shared: DtlsShared,
    slots: Slots<DtlsClient>,
    by_five_tuple: HashMap<FiveTuple, u32, FixedState>,
    /// Slots whose handshake is under way.
    half_open: Shares<u32>,
    /// Slots without an allocation, those included.
    yielding: Shares<u32>,
    /// Slots with a step of the handshake to be done.
    todo: VecDeque<u32>,
    /// Not later than the first `DtlsClient::retransmit_at`.
    next_timer: Option<Instant>,
    /// A message on its way into or out of a record.
    message: Box<[u8]>,
}

impl Dtls {
    /// No associations. `seed` is from the system's generator.
    ///
    /// # Errors
    /// Out of memory.
    pub(in crate::shard) fn new(config: DtlsConfig, shared: DtlsShared, seed: &[u8; 32]) -> io::Result<Self> {
        let mut endpoint = Endpoint::new(
            Arc::clone(&config.contexts),
            seed,
            config.limits.associations_per_cookie,
        )?;
        if config.quick_retransmission {
            endpoint = endpoint.with_quick_retransmission();
        }
        let [a, b, c, d, e, f, g, h, ..] = *seed;
        Ok(Self {
            endpoint,
            config,
            shared,
            slots: Slots::new(),
            by_five_tuple: HashMap::with_hasher(FixedState::with_seed(u64::from_be_bytes([a, b, c, d, e, f, g, h]))),
            half_open: Shares::default(),
            yielding: Shares::default(),
            todo: VecDeque::new(),
            next_timer: None,
            message: vec![0; MAX_PLAINTEXT].into_boxed_slice(),
        })
    }

    /// When the worker has something to do here, if no datagram comes: at once, or a flight is to
    /// be sent again.
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

    /// Whether a client has an association. `five_tuple` may say UDP: it is the same client.
    pub(in crate::shard) fn has_association(&self, five_tuple: &FiveTuple) -> bool {
        self.find(&over_dtls(five_tuple)).is_some()
    }

    /// The slot of a client's association.
    pub(in crate::shard) fn find(&self, five_tuple: &FiveTuple) -> Option<u32> {
        self.by_five_tuple.get(five_tuple).copied()
    }

    /// Slots are below this.
    pub(in crate::shard) fn slots(&self) -> u32 {
        self.slots.end()
    }

    /// The client in `slot`, whatever its generation.
    pub(in crate::shard) fn at(&mut self, slot: u32) -> Option<&mut DtlsClient> {
        self.slots.at(slot)
    }

    /// The client this token was given to; `None` if it is gone, even if its slot is in use again.
    pub(in crate::shard) fn by_token(&mut self, slot: u32, generation: u32) -> Option<&mut DtlsClient> {
        self.slots.by_token(slot, generation)
    }

    /// What becomes of a ClientHello that belongs to no association; [`Self::drain`] has the answer
    /// to it.
    pub(in crate::shard) fn listen(&mut self, now: Instant, client: &FiveTuple, hello: &[u8]) -> Listened {
        self.endpoint.listen(now, client, hello)
    }

    /// Hands every record that is to be sent to `send`. Returns how many there were.
    pub(in crate::shard) fn drain(&self, send: impl FnMut(&[u8])) -> usize {
        self.endpoint.drain(send)
    }

    /// Gives a datagram to the association in `slot`. `random`: it is a ClientHello. `None`: there
    /// is no association.
    pub(in crate::shard) fn receive(
        &mut self,
        slot: u32,
        random: Option<&Random>,
        datagram: &[u8],
    ) -> Option<DtlsReceived> {
        let generation = self.slots.generation(slot);
        let client = self.slots.at(slot)?;
        Some(if random.is_some_and(|random| *random != client.random) {
            DtlsReceived::NewHandshake
        } else if client.established {
            client.association.receive(datagram);
            DtlsReceived::Records(generation)
        } else if client.pending.len() < PENDING {
            client.pending.push_back(datagram.into());
            self.queue(slot);
            DtlsReceived::Handshake
        } else {
            DtlsReceived::QueueFull
        })
    }

    /// A new association's share of all associations, or what there is of it where all are in use.
    ///
    /// # Errors
    /// Why it may not begin.
    pub(in crate::shard) fn take_share(
        &self,
        now: Instant,
        client: IpAddr,
    ) -> Result<Result<ProcessUnit, SourceUnit>, DtlsDrop> {
        let bounds = Bounds {
            all: self.config.limits.associations,
            per_source: self.config.limits.associations_per_ip,
            per_network: self.config.limits.associations_per_network,
        };
        let unit = match self.shared.counts.take(client, bounds) {
            Ok(unit) => Ok(unit),
            Err(LimitReached::All(unit)) => Err(unit),
            Err(LimitReached::Source) => return Err(DtlsDrop::Limit),
        };
        // Second, so that what is refused anyway is not counted.
        if !self.shared.arrivals.admit(now, client) {
            return Err(DtlsDrop::TooFast);
        }
        Ok(unit)
    }

    /// Where too many handshakes are under way, the one that is evicted for one more of `client`.
    pub(in crate::shard) fn displace_handshake(&mut self, client: IpAddr) -> Option<u32> {
        if self.half_open.len() < self.config.limits.handshakes {
            return None;
        }
        self.half_open.displace(client)
    }

    /// The association that is evicted for one more of `client`, unless it has an allocation by
    /// now.
    pub(in crate::shard) fn displace(&mut self, client: IpAddr) -> Option<(u32, Client)> {
        let slot = self.yielding.displace(client)?;
        let displaced = self.slots.at(slot)?;
        displaced.yielding = None;
        Some((slot, displaced.client))
    }

    /// Keeps a new association, whose handshake has yet to begin. The five-tuple is free.
    pub(in crate::shard) fn insert(&mut self, now: Instant, new: NewAssociation) {
        let (slot, generation) = self.slots.next();
        let ip = new.five_tuple.client.ip();
        self.slots.insert(DtlsClient {
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
            unauthenticated_answers: 0,
            unit: new.unit,
            half_open: Some(self.half_open.enter(ip, slot)),
            yielding: Some(self.yielding.enter(ip, slot)),
        });
        self.by_five_tuple.insert(new.five_tuple, slot);
        self.todo.push_back(slot);
    }

    /// Forgets an association.
    pub(in crate::shard) fn remove(&mut self, slot: u32) -> Option<Box<DtlsClient>> {
        let client = self.slots.remove(slot)?;
        self.by_five_tuple.remove(&client.client.five_tuple);
        if let Some(place) = client.half_open {
            self.half_open.leave(place);
        }
        if let Some(place) = client.yielding {
            self.yielding.leave(place);
        }
        if client.queued {
            self.todo.retain(|&other| other != slot);
        }
        Some(client)
    }

    fn queue(&mut self, slot: u32) {
        if let Some(client) = self.slots.at(slot)
            && !std::mem::replace(&mut client.queued, true)
        {
            self.todo.push_back(slot);
        }
    }

    /// Does one step of one handshake, if one is to be done. Returns slot and generation of its
    /// association, too.
    pub(in crate::shard) fn step(&mut self, now: Instant) -> Option<(u32, u32, HandshakeStep)> {
        let slot = self.todo.pop_front()?;
        let generation = self.slots.generation(slot);
        let client = self.slots.at(slot)?;
        client.queued = false;
        let datagram = client.pending.pop_front();
        let step = match client.association.handshake(datagram.as_deref()) {
            Ok(false) => {
                if !client.pending.is_empty() {
                    self.queue(slot);
                }
                self.set_timer(now, slot);
                HandshakeStep::UnderWay
            }
            Ok(true) => {
                client.established = true;
                client.since = now;
                client.retransmit_at = None;
                if let Some(place) = client.half_open.take() {
                    self.half_open.leave(place);
                }
                HandshakeStep::Established(std::mem::take(&mut client.pending))
            }
            Err(_) => HandshakeStep::Failed,
        };
        Some((slot, generation, step))
    }

    /// Whether a flight may be due to be sent again.
    pub(in crate::shard) fn has_due_flights(&self, now: Instant) -> bool {
        self.next_timer.is_some_and(|at| at <= now)
    }

    /// Begins to send flights again: the slots of all handshakes under way, each for
    /// [`Self::retransmit`].
    pub(in crate::shard) fn begin_retransmission(&mut self) -> Vec<u32> {
        self.next_timer = None;
        self.half_open.iter().copied().collect()
    }

    /// Prepares the last flight of the handshake in `slot` again, if it is due. `false`: it is not.
    ///
    /// # Errors
    /// It has been sent too often.
    pub(in crate::shard) fn retransmit(&mut self, now: Instant, slot: u32) -> Result<bool, DtlsError> {
        let Some(client) = self.slots.at(slot) else {
            return Ok(false);
        };
        let due = client.retransmit_at.is_some_and(|at| at <= now);
        if due {
            client.association.handle_timeout()?;
        }
        self.set_timer(now, slot);
        Ok(due)
    }

    /// Notes when the handshake's last flight is due again.
    fn set_timer(&mut self, now: Instant, slot: u32) {
        let Some(client) = self.slots.at(slot) else { return };
        client.retransmit_at = client.association.timeout().map(|left| now + left);
        let at = client.retransmit_at;
        self.next_timer = self.next_timer.into_iter().chain(at).min();
    }

    /// The next message of the datagram that an association was given last.
    #[inline]
    pub(in crate::shard) fn next_message(&mut self, slot: u32, generation: u32) -> NextMessage<'_> {
        let Some(client) = self.slots.by_token(slot, generation) else {
            return NextMessage::Gone;
        };
        match client.association.next_message(&mut self.message) {
            Ok(Some(len)) => NextMessage::Message(&self.message[..len], client.client),
            Ok(None) => NextMessage::Done,
            Err(error) => NextMessage::Ended(error),
        }
    }

    /// Room for a message of `len` bytes, to be sent by [`Self::seal`]. `None`: there is no record
    /// as long.
    #[inline]
    pub(in crate::shard) fn message_mut(&mut self, len: usize) -> Option<&mut [u8]> {
        self.message.get_mut(..len)
    }

    /// Makes a record of the first `len` bytes of the message, for [`Self::drain`]. Returns where
    /// it goes: by which listener, and to whom.
    ///
    /// # Errors
    /// Why there is none.
    #[inline]
    pub(in crate::shard) fn seal(
        &mut self,
        slot: u32,
        generation: u32,
        len: usize,
    ) -> Result<(u32, Client), SealError> {
        let client = self.slots.by_token(slot, generation).ok_or(SealError::Gone)?;
        if len > longest_message(self.config.limits.mtu, client.client.five_tuple.client) {
            return Err(SealError::TooLong);
        }
        match client.association.seal(&self.message[..len]) {
            Ok(()) => Ok((client.listener, client.client)),
            Err(_) => Err(SealError::Failed),
        }
    }

    /// Why the time of the association in `slot` is up, if it is: its handshake is not complete, or
    /// it has had no allocation for `idle_timeout`. Notes whether it may be evicted, too: not while
    /// its client has an allocation.
    pub(in crate::shard) fn expired(
        &mut self,
        now: Instant,
        slot: u32,
        idle_timeout: Duration,
        has_or_awaits_allocation: impl FnOnce(&Client) -> bool,
    ) -> Option<DtlsClose> {
        let client = self.slots.at(slot)?;
        if !client.established {
            return (now - client.since >= self.config.handshake_timeout).then_some(DtlsClose::HandshakeTimeout);
        }
        if has_or_awaits_allocation(&client.client) {
            client.since = now;
            if let Some(place) = client.yielding.take() {
                self.yielding.leave(place);
            }
            return None;
        }
        if now - client.since >= idle_timeout {
            return Some(DtlsClose::Idle);
        }
        if client.yielding.is_none() {
            client.yielding = Some(self.yielding.enter(client.client.five_tuple.client.ip(), slot));
        }
        None
    }
}

impl DtlsClient {
    /// Where its records go: by which listener, and to whom.
    pub(in crate::shard) const fn path(&self) -> (u32, Client) {
        (self.listener, self.client)
    }

    /// Gives it a datagram that has waited until it was established.
    pub(in crate::shard) fn receive(&mut self, datagram: &[u8]) {
        self.association.receive(datagram);
    }

    /// Sends close_notify.
    pub(in crate::shard) fn close(&mut self) {
        self.association.close();
    }

    /// Counts an answer. Returns how many there were to it without a login since it last had one.
    pub(in crate::shard) const fn count_answer(&mut self, is_unauthenticated: bool) -> u32 {
        self.unauthenticated_answers = if is_unauthenticated {
            self.unauthenticated_answers + 1
        } else {
            0
        };
        self.unauthenticated_answers
    }
}

/// The same client, by what it speaks.
pub(in crate::shard) fn over_dtls(five_tuple: &FiveTuple) -> FiveTuple {
    FiveTuple {
        transport: Transport::Dtls,
        ..*five_tuple
    }
}

/// Longest message that fits into a record, and with it into an IP packet of `mtu` bytes, for this
/// client.
pub(in crate::shard) fn longest_message(mtu: usize, client: SocketAddr) -> usize {
    let headers = if client.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
    mtu.saturating_sub(headers + RECORD_OVERHEAD).min(MAX_PLAINTEXT)
}

/// For tests of the worker.
#[cfg(test)]
impl Dtls {
    /// Associations, handshakes under way, and those that may be evicted.
    pub(in crate::shard) fn sizes(&self) -> [usize; 3] {
        [self.by_five_tuple.len(), self.half_open.len(), self.yielding.len()]
    }

    pub(in crate::shard) fn todo(&self) -> Vec<u32> {
        self.todo.iter().copied().collect()
    }

    pub(in crate::shard) fn next_timer(&self) -> Option<Instant> {
        self.next_timer
    }

    pub(in crate::shard) fn generation(&self, slot: u32) -> u32 {
        self.slots.generation(slot)
    }
}
