//! QUIC for a web server behind the front door: which clients speak it, and how many may.
//!
//! QUIC's short headers begin with the bytes of ChannelData (0x40–0x4F), so the sender decides, not
//! the first byte:
//!
//! ```text
//! datagram -> the five-tuple has an allocation ----------------------------------> TURN
//!             it has a flow ----> STUN (magic cookie), DTLS (record version) ----> TURN
//!                            '--> anything else --> the flow's own socket -------> backend
//!             neither ----------> a client's first Initial: a flow begins, if it may
//!                            '--> anything else ---------------------------------> TURN (DTLS, or a counted drop)
//! ```
//!
//! The backend sees our address and not the client's, so a token it has given to one client is good
//! for all. Hence the shard itself keeps the rule against amplification (RFC 9000 §8.1), per flow.
//! A client proves its address by naming a connection ID that only the backend's answer contains.
//! Until then it gets at most three times as many bytes as it has sent, its flow ends soon, and at
//! the limit its flow may be evicted: the source with the most such flows loses its oldest. None of
//! that needs a key ([`crate::wire::quic`]).
//!
//! Pure bookkeeping: no sockets, no clock. `worker::http3` performs the effects.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::base::address::FiveTuple;
use crate::base::log_throttle::LogThrottle;
use crate::base::rate::{Rate, SharedBucket};
use crate::base::shares::{Place, Shares};
use crate::base::time::Instant;
use crate::shard::config::{Http3Config, Http3Limits};
use crate::shard::counters::{Http3Drop, Http3End};
use crate::shard::shares::{Bounds, LimitReached, ProcessShares, ProcessUnit};
use crate::shard::table::slots::Slots;
use crate::turn::types::Client;
use crate::wire::quic::ServerId;

/// Bytes to a client that has proved nothing, for each byte from it (RFC 9000 §8.1).
const AMPLIFICATION: u64 = 3;

/// What the shards share of it.
#[derive(Clone, Debug)]
pub(in crate::shard) struct Http3Shared {
    counts: ProcessShares,
    begun: Arc<SharedBucket>,
}

impl Http3Shared {
    /// `seed` is not to be guessed.
    pub(in crate::shard) fn new(seed: u64) -> Self {
        Self {
            counts: ProcessShares::new(seed),
            begun: Arc::default(),
        }
    }
}

/// What is known of a client's address.
#[derive(Clone, Copy, Debug)]
enum Proof {
    /// It may be forged.
    None {
        /// The connection ID to be named.
        chosen: Option<ServerId>,
        /// Bytes that may still go to it.
        credit: u64,
    },
    /// It has received from the backend.
    Given,
}

/// One client.
#[derive(Debug)]
pub(in crate::shard) struct Http3Flow {
    pub(in crate::shard) client: Client,
    pub(in crate::shard) backend: SocketAddr,
    proof: Proof,
    begun: Instant,
    /// When something last came, from either side.
    last: Instant,
    pub(in crate::shard) to_backend: u64,
    pub(in crate::shard) to_client: u64,
    /// Its place among those without proof.
    place: Option<Place>,
}

/// A flow, and its share of all flows.
#[derive(Debug)]
struct Held {
    flow: Http3Flow,
    unit: ProcessUnit,
}

/// A flow that has just begun.
#[derive(Debug)]
pub(in crate::shard) struct Begun {
    pub(in crate::shard) slot: u32,
    pub(in crate::shard) generation: u32,
    /// The flow that has ended for it, and its slot, which may be the same.
    pub(in crate::shard) displaced: Option<(u32, Http3Flow)>,
}

/// All flows of a shard.
#[derive(Debug)]
pub(in crate::shard) struct Http3 {
    config: Http3Config,
    shared: Http3Shared,
    slots: Slots<Held>,
    by_five_tuple: HashMap<FiveTuple, u32, FixedState>,
    /// Slots of flows without proof.
    unproven: Shares<u32>,
    /// Lines about sockets that cannot be had, and about a backend that cannot be reached.
    no_socket: LogThrottle,
    unreachable: LogThrottle,
}

impl Http3 {
    /// No flows. `seed` is from the system's generator.
    pub(in crate::shard) fn new(config: Http3Config, shared: Http3Shared, seed: u64) -> Self {
        Self {
            config,
            shared,
            slots: Slots::new(),
            by_five_tuple: HashMap::with_hasher(FixedState::with_seed(seed)),
            unproven: Shares::default(),
            no_socket: LogThrottle::default(),
            unreachable: LogThrottle::default(),
        }
    }

    /// No slot is as high: none is new while another is free, and no shard has more flows than all
    /// may have.
    pub(in crate::shard) fn most_flows(&self) -> usize {
        self.config.limits.flows.min(Http3Limits::MOST_FLOWS) as usize
    }

    /// Whether there is no flow at all.
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.by_five_tuple.is_empty()
    }

    /// Slots are below this.
    pub(in crate::shard) fn slots(&self) -> u32 {
        self.slots.end()
    }

    /// Where new flows go; `None`: that is not known.
    pub(in crate::shard) fn backend(&self) -> Option<SocketAddr> {
        self.config.backend.load().as_deref().copied()
    }

    /// Whether a line about a socket that cannot be had may be written.
    pub(in crate::shard) fn may_warn_of_no_socket(&mut self, now: Instant) -> bool {
        self.no_socket.allows(now)
    }

    /// Whether a line about a backend that cannot be reached may be written.
    pub(in crate::shard) fn may_warn_of_unreachable(&mut self, now: Instant) -> bool {
        self.unreachable.allows(now)
    }

    /// The slot of a client's flow.
    pub(in crate::shard) fn find(&self, client: &FiveTuple) -> Option<u32> {
        self.by_five_tuple.get(client).copied()
    }

    /// The flow in `slot`, whatever its generation.
    pub(in crate::shard) fn at(&mut self, slot: u32) -> Option<&mut Http3Flow> {
        self.slots.at(slot).map(|held| &mut held.flow)
    }

    /// The flow this token was given to; `None` if it is gone, even if its slot is in use again.
    pub(in crate::shard) fn by_token(&mut self, slot: u32, generation: u32) -> Option<&mut Http3Flow> {
        self.slots.by_token(slot, generation).map(|held| &mut held.flow)
    }

    /// Begins the flow of a client that has none. Where they are used up, one of those that have
    /// proved nothing ends: of the source that has the most of them, the oldest.
    ///
    /// # Errors
    /// Why it may not begin.
    pub(in crate::shard) fn begin(
        &mut self,
        now: Instant,
        client: Client,
        backend: SocketAddr,
    ) -> Result<Begun, Http3Drop> {
        let ip = client.five_tuple.client.ip();
        let bounds = Bounds {
            all: self.config.limits.flows,
            per_source: self.config.limits.flows_per_ip,
            per_network: self.config.limits.flows_per_network,
        };
        let (unit, is_first) = match self.shared.counts.take(ip, bounds) {
            Ok(unit) => {
                let is_first = unit.is_first();
                (Ok(unit), is_first)
            }
            Err(LimitReached::All(share)) => {
                let is_first = share.is_first;
                (Err(share), is_first)
            }
            Err(LimitReached::Source) => return Err(Http3Drop::TooManyFromSource),
        };
        // Second, so that no source can use up more of it than its own share. Whoever has a flow
        // leaves half of what may come at once to those that have none.
        let most = self.config.limits.new_flows_per_second;
        let rate = Rate::new(most, if is_first { most } else { most / 2 });
        if !self.shared.begun.admit(now, rate) {
            return Err(Http3Drop::TooFast);
        }
        let (unit, displaced) = match unit {
            Ok(unit) => (unit, None),
            Err(share) => {
                let slot = self.unproven.displace(ip).ok_or(Http3Drop::TooMany)?;
                let (flow, unit) = self.remove(slot).ok_or(Http3Drop::TooMany)?;
                (unit.transfer(share), Some((slot, flow)))
            }
        };
        Ok(Begun {
            displaced,
            ..self.insert(now, client, backend, unit)
        })
    }

    /// Keeps a new flow. The five-tuple is free.
    fn insert(&mut self, now: Instant, client: Client, backend: SocketAddr, unit: ProcessUnit) -> Begun {
        let (slot, generation) = self.slots.next();
        let flow = Http3Flow {
            client,
            backend,
            proof: Proof::None {
                chosen: None,
                credit: 0,
            },
            begun: now,
            last: now,
            to_backend: 0,
            to_client: 0,
            place: Some(self.unproven.enter(client.five_tuple.client.ip(), slot)),
        };
        self.slots.insert(Held { flow, unit });
        self.by_five_tuple.insert(client.five_tuple, slot);
        Begun {
            slot,
            generation,
            displaced: None,
        }
    }

    /// Forgets a flow.
    pub(in crate::shard) fn remove(&mut self, slot: u32) -> Option<(Http3Flow, ProcessUnit)> {
        let Held { flow, unit } = *self.slots.remove(slot)?;
        self.by_five_tuple.remove(&flow.client.five_tuple);
        if let Some(place) = flow.place {
            self.unproven.leave(place);
        }
        Some((flow, unit))
    }

    /// Takes note of a datagram from the client in `slot`. `true`: it has proved its address just
    /// now.
    pub(in crate::shard) fn receive_from_client(&mut self, now: Instant, slot: u32, datagram: &[u8]) -> bool {
        let Some(flow) = self.at(slot) else { return false };
        let is_proof = flow.receive_from_client(now, datagram);
        if is_proof && let Some(place) = flow.place.take() {
            self.unproven.leave(place);
        }
        is_proof
    }

    /// Why the time of the flow in `slot` is up, if it is.
    pub(in crate::shard) fn expired(&mut self, now: Instant, slot: u32) -> Option<Http3End> {
        let (handshake, idle) = (self.config.handshake_timeout, self.config.limits.idle_timeout);
        let flow = self.at(slot)?;
        match flow.proof {
            Proof::None { .. } => (now - flow.begun >= handshake).then_some(Http3End::Unproven),
            Proof::Given => (now - flow.last >= idle).then_some(Http3End::Idle),
        }
    }
}

impl Http3Flow {
    /// Whether the client has proved its address.
    pub(in crate::shard) fn is_proven(&self) -> bool {
        matches!(self.proof, Proof::Given)
    }

    /// Takes note of a datagram from the client. `true`: it has proved its address just now.
    pub(in crate::shard) fn receive_from_client(&mut self, now: Instant, datagram: &[u8]) -> bool {
        self.last = now;
        self.to_backend += datagram.len() as u64;
        if let Proof::None { chosen, credit } = &mut self.proof {
            if chosen.is_some_and(|id| id.is_named_by(datagram)) {
                self.proof = Proof::Given;
                return true;
            }
            *credit = credit.saturating_add(AMPLIFICATION * datagram.len() as u64);
        }
        false
    }

    /// Takes note of a datagram from the backend. `false`: it may not go to the client.
    pub(in crate::shard) fn receive_from_backend(&mut self, now: Instant, datagram: &[u8]) -> bool {
        if let Proof::None { chosen, credit } = &mut self.proof {
            *chosen = ServerId::of(datagram).or(*chosen);
            let Some(left) = credit.checked_sub(datagram.len() as u64) else {
                return false;
            };
            *credit = left;
        }
        self.last = now;
        self.to_client += datagram.len() as u64;
        true
    }
}

#[cfg(test)]
mod tests;
