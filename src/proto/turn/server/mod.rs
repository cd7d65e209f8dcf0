//! The core's entry points. Each handler has a file named after what it handles; this file
//! dispatches and counts.
//!
//! Every input packet ends in exactly one [`Verdict`], and `received = relayed + answered + waiting
//! + dropped`.

mod allocate;
mod binding;
mod channel_bind;
mod connect;
mod connections;
mod create_permission;
mod discovery;
pub(super) mod icmp;
mod lifecycle;
pub(super) mod migration;
mod refresh;
mod report;
mod request;
mod send;
mod sessions;
mod transfer;

use std::collections::VecDeque;
use std::sync::Arc;

use self::migration::message::Migration;
use self::migration::visitors::Visitors;
use super::config::Config;
use super::counters::Counters;
use super::forward::ForwardTable;
use super::forward::changes::RouteChange;
use super::login::nonce::Nonces;
use super::output::{Command, DataRange, DropReason, EndReason, Event, Verdict};
use super::response::Response;
use super::shared::Shared;
use super::shared::reservations::ReservationToken;
use super::state::allocation::{Allocations, FAMILIES};
use super::state::connections::Connections;
use super::state::timers::Wheel;
use super::state::transactions::Transactions;
use super::types::{AllocationId, Client, PeerAddr, RelayId, RelayedAddr, ShardIndex};
use crate::base::address::FiveTuple;
use crate::base::queue::take_first;
use crate::base::rng::Rng;
use crate::base::time::{Instant, Now};
use crate::wire::channel_data;
use crate::wire::demux::{self, Kind};
use crate::wire::message::{Message, ParseError};

/// The TURN server of one shard.
///
/// Packets and time go in. Each packet gets a verdict, and each call may produce commands and
/// events, which the caller drains with [`Self::poll_command`] and [`Self::poll_event`]. Equal
/// inputs and an equal seed give equal outputs.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    shared: Arc<Shared>,
    shard: ShardIndex,
    counters: Arc<Counters>,
    rng: Rng,
    nonces: Nonces,
    forward: ForwardTable,
    allocations: Allocations,
    /// TCP connections with peers.
    connections: Connections,
    timers: Wheel,
    transactions: Transactions,
    /// Ports reserved here, oldest first. All reservations last equally long.
    reserved: VecDeque<(Instant, ReservationToken)>,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
    /// How many of the events are refusals.
    queued_refusals: usize,
    /// Refusals for which the queue had no room.
    unreported_refusals: u64,
    visitors: Visitors,
    migrations: VecDeque<Migration>,
    /// When `Config::redirect` first named another server.
    redirecting_since: Option<Instant>,
    stopping: bool,
    /// Kept for its capacity.
    due: Vec<u32>,
}

impl Server {
    /// A server without allocations that starts at `now`. `seed` comes from the system's generator
    /// and differs for every shard.
    pub fn new(
        now: Instant,
        config: Arc<Config>,
        shared: Arc<Shared>,
        shard: ShardIndex,
        seed: [u8; 32],
        counters: Arc<Counters>,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let policy = Arc::clone(&config.policy);
        let directory = Arc::clone(&shared.directory);
        let forward = ForwardTable::new(rng.next_u64(), policy, directory, Arc::clone(&counters));
        let server = Self {
            nonces: Nonces::new(config.nonce_keys(), &shared.nonce_key),
            redirecting_since: config.redirect.is_on().then_some(now),
            config,
            shared,
            shard,
            counters,
            forward,
            allocations: Allocations::default(),
            connections: Connections::default(),
            timers: Wheel::new(),
            transactions: Transactions::new(rng.next_u64()),
            reserved: VecDeque::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            queued_refusals: 0,
            unreported_refusals: 0,
            visitors: Visitors::new(rng.next_u64()),
            migrations: VecDeque::new(),
            stopping: false,
            due: Vec::new(),
            rng,
        };
        server.set_ports();
        server
    }

    /// Handles one datagram from a client, or one message from its stream (possibly with padding).
    ///
    /// With [`Verdict::Respond`] the response is in `response`.
    pub fn handle_client(&mut self, now: Now, client: &Client, packet: &[u8], response: &mut Response) -> Verdict {
        let verdict = match packet.first().map(|&first| demux::classify(first)) {
            Some(Kind::ChannelData) => self.handle_channel_data(now, client, packet),
            Some(Kind::ReservedChannel) if self.config.rfc5766_channels => {
                self.handle_channel_data(now, client, packet)
            }
            Some(Kind::ReservedChannel) => Verdict::Drop(DropReason::BadChannelData),
            Some(Kind::Stun) => self.handle_stun(now, client, packet, response),
            Some(Kind::Dtls | Kind::Other) | None => Verdict::Drop(DropReason::NotTurn),
        };
        if let Verdict::Drop(DropReason::NotTurn | DropReason::Malformed) = verdict
            && client.five_tuple.transport.is_stream()
        {
            // The stream has lost framing and cannot be resynchronised.
            self.commands.push_back(Command::CloseStream { link: client.link });
        }
        self.count(verdict)
    }

    /// Handles a datagram with `data_len` bytes of application data that relay socket `relay`
    /// received from a peer.
    pub fn handle_peer(&mut self, now: Now, relay: RelayId, from: PeerAddr, data_len: usize) -> Verdict {
        let verdict = self
            .forward
            .relay_datagram(now.mono, relay, from, data_len, &mut self.rng);
        self.count(verdict)
    }

    /// Handles application data that another allocation of this server, `from`, sent to the relayed
    /// address `to`, as [`Verdict::ToAllocation`] requires. Treated as if it came from a peer.
    pub fn handle_relayed(&mut self, now: Now, to: RelayedAddr, from: PeerAddr, data_len: usize) -> Verdict {
        let verdict = match self.forward.relay_at(to) {
            Some(relay) => self
                .forward
                .relay_datagram(now.mono, relay, from, data_len, &mut self.rng),
            None => self.relayed_elsewhere(to, from, data_len),
        };
        self.count(verdict)
    }

    /// A client's stream has closed. Its allocation ends, because no client can return to it
    /// (design decision D11), unless it has a mobility ticket.
    pub fn handle_disconnect(&mut self, now: Now, client: &Client) {
        if self.visitors.contains(client) {
            self.withdraw(&client.five_tuple);
        }
        if let Some(id) = self.forward.allocation_of(&client.five_tuple)
            && self.forward.client(id).is_some_and(|known| known.link == client.link)
        {
            self.depart(now.mono, id);
        }
    }

    /// Ends everything past its deadline. Call it when [`Self::poll_timeout`] says so. An early or
    /// late call never relays more than the RFC allows.
    pub fn handle_timeout(&mut self, now: Now) {
        let mut due = core::mem::take(&mut self.due);
        self.timers.expire(now.mono, &mut due);
        for index in due.drain(..) {
            self.handle_timer(now.mono, index);
        }
        due.shrink_to(64);
        self.due = due;
        self.end_reservations(now.mono);
        self.transactions.forget(now.mono);
        self.expire_connections(now.mono);
    }

    /// When [`Self::handle_timeout`] should be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let reserved = self.reserved.front().map(|&(until, _)| until);
        let connections = self.connections.next_deadline();
        [self.timers.next(), self.transactions.next(), reserved, connections]
            .into_iter()
            .flatten()
            .min()
    }

    /// Work for the shard, in order.
    pub fn poll_command(&mut self) -> Option<Command> {
        take_first(&mut self.commands)
    }

    /// Events for the operator's log, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = take_first(&mut self.events);
        if let Some(Event::Refused(_)) = event {
            self.queued_refusals -= 1;
        }
        event
    }

    /// With `on`, reports changes of the routes that can be relayed without the core, beginning
    /// with the existing routes. Otherwise stops; the owner of the mirror must empty it.
    pub fn report_routes(&mut self, on: bool) {
        self.forward.report_routes(on);
    }

    /// The next change of those routes, in order. Drain after each call, before relaying the next
    /// packet.
    pub fn poll_route_change(&mut self) -> Option<RouteChange> {
        self.forward.poll_route_change()
    }

    /// The client of a live allocation.
    pub fn client(&self, id: AllocationId) -> Option<&Client> {
        self.forward.client(id)
    }

    /// Whether another layer (DTLS) may send a challenge to this unverified client. Counts against
    /// the same limits as a challenge over UDP.
    ///
    /// # Errors
    /// The limit that is exceeded.
    pub fn may_ask(&self, now: Now, client: &FiveTuple) -> Result<(), DropReason> {
        let limits = &self.config.limits;
        self.shared
            .limiters
            .admit_challenge(now.mono, client.client.ip(), limits)
    }

    /// Whether a client has an allocation or is getting one: a new one, or its own from its
    /// previous five-tuple.
    pub fn has_or_awaits_allocation(&self, client: &Client) -> bool {
        self.forward.allocation_of(&client.five_tuple).is_some() || self.visitors.contains(client)
    }

    /// As [`Self::has_or_awaits_allocation`], for a client that has sent a packet: caches the
    /// lookup for the handling of that packet.
    pub fn find_allocation(&mut self, client: &Client) -> bool {
        self.forward.find(&client.five_tuple).is_some() || self.visitors.contains(client)
    }

    /// Number of allocations, including those being created.
    pub fn allocations(&self) -> usize {
        self.forward.len()
    }

    /// Replaces the configuration. Allocations stay; the new peer policy applies to what they
    /// relay.
    pub fn set_config(&mut self, now: Now, config: Arc<Config>) {
        self.forward.set_policy(Arc::clone(&config.policy));
        self.nonces = Nonces::new(config.nonce_keys(), &self.shared.nonce_key);
        self.config = config;
        self.note_redirect(now.mono);
        self.set_ports();
        self.judge_connections();
    }

    fn note_redirect(&mut self, now: Instant) {
        let since = self.redirecting_since.unwrap_or(now);
        self.redirecting_since = self.config.redirect.is_on().then_some(since);
    }

    /// Ends every allocation, because the server stops.
    pub fn shutdown(&mut self, now: Now) {
        self.stop_mobility();
        for id in self.allocations.ids() {
            self.end(now.mono, id, EndReason::Shutdown);
        }
    }

    fn handle_channel_data(&mut self, now: Now, client: &Client, packet: &[u8]) -> Verdict {
        match channel_data::parse(packet) {
            Ok((number, data)) => {
                let verdict =
                    self.forward
                        .relay_channel_data(now.mono, &client.five_tuple, number, DataRange::from(data));
                self.or_hold(verdict, client, packet)
            }
            Err(_) => Verdict::Drop(DropReason::BadChannelData),
        }
    }

    /// No allocation here has this address: it may have moved to another shard since the packet was
    /// sent (RFC 8016).
    fn relayed_elsewhere(&self, to: RelayedAddr, from: PeerAddr, data_len: usize) -> Verdict {
        match self.shared.directory.owner(to) {
            Some(shard) if usize::from(shard) != self.shard.index => Verdict::ToAllocation {
                shard,
                to,
                from,
                data: DataRange::from(0..data_len),
            },
            _ => Verdict::Drop(DropReason::NoSuchRelay),
        }
    }

    fn handle_stun(&mut self, now: Now, client: &Client, packet: &[u8], response: &mut Response) -> Verdict {
        match Message::parse(packet) {
            Ok(message) => self.handle_message(now, client, &message, response),
            Err(ParseError::BadFingerprint) => Verdict::Drop(DropReason::BadFingerprint),
            Err(ParseError::BadCookie) => self.handle_classic(now, client, packet, response),
            Err(ParseError::NotStun) => Verdict::Drop(DropReason::NotTurn),
            Err(_) => Verdict::Drop(DropReason::Malformed),
        }
    }

    /// Adapts the pools of relay ports to the configuration. The first shard to call this does so
    /// for all. A family that is no longer served keeps its pool, because its allocations still
    /// live.
    fn set_ports(&self) {
        let relay = &self.config.relay;
        for family in FAMILIES.into_iter().filter(|&family| relay.of(family).is_some()) {
            self.shared.ports.set_range(family, relay.ports.clone());
        }
    }

    /// Releases expired reservations.
    fn end_reservations(&mut self, now: Instant) {
        while let Some(&(until, token)) = self.reserved.front()
            && until <= now
        {
            self.reserved.pop_front();
            self.shared.reservations.end(&token);
        }
    }

    fn count(&self, verdict: Verdict) -> Verdict {
        let counters = &self.counters;
        counters.received.add(1);
        match verdict {
            Verdict::ToPeer { .. } | Verdict::ToAllocation { .. } | Verdict::ToClient { .. } => counters.relayed.add(1),
            Verdict::Respond | Verdict::BindConnection(_) => counters.answered.add(1),
            Verdict::Waiting | Verdict::MoveStream { .. } => counters.waiting.add(1),
            Verdict::Drop(reason) => counters.drop_packet(reason),
        }
        verdict
    }
}
