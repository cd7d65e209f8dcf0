//! The loop of one shard: wait, receive a bounded batch from each ready socket, decide, send, and again.
//!
//! Life of a packet: a slot of the slab is filled by the kernel (`carrier`), the core looks at it and answers with a
//! verdict (`turn`), the verdict becomes an entry of the send batch that points into the slot (`deliver`), and at the end
//! of the turn the batch leaves grouped by socket. Nothing is copied, allocated, locked or logged on this way.

#[cfg_attr(not(feature = "dtls"), path = "dtls_absent.rs")]
mod dtls;
mod http3;
pub(super) mod migration;
mod stream;
pub(super) mod tcp_relay;
mod verdict;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};
use std::time::Duration;

#[cfg(not(feature = "dtls"))]
use self::dtls::Dtls;
use self::migration::Parcel;
use self::tcp_relay::{TcpRelays, is_exhausted};
use super::{hairpin_ring, log};
use crate::base::address::{FiveTuple, Transport};
use crate::base::log_throttle::Seldom;
use crate::base::time::{Instant, Now};
use crate::net;
use crate::net::clock::Clock;
use crate::net::epoll::{Epoll, Interest, ReadyDescriptor, Waker};
use crate::net::udp::UdpSocket;
use crate::shard::counters::ShardCounters;
use crate::shard::log::LogClient;
use crate::shard::pace::{Pace, Turn};
use crate::shard::refusals::RefusalLog;
use crate::shard::stream_intake::{HandoverSender, StreamHandover};
#[cfg(feature = "dtls")]
use crate::shard::table::dtls::Dtls;
use crate::shard::table::http3::Http3;
use crate::shard::table::streams::Streams;
use crate::shard::token::Token;
use crate::shard::udp::Carrier;
use crate::turn::types::{Client, PeerAddr, RelayId};
use crate::turn::{self, Command, Config, Counters, DropReason, OpenError, QuotedIcmp, Response, Server};
use crate::wire::demux::{self, Kind};

/// Messages taken from a listener in one turn; also the most taken from a relay socket.
const LISTENER_BATCH: usize = 32;
/// Messages taken from a relay socket that stays ready when many are: a flood on one must not make the others wait.
const RELAY_BATCH: usize = 8;
/// Packets taken from another shard in one turn.
const MAIL_BATCH: usize = 256;
/// ICMP errors taken from a relay socket in one turn.
const ERROR_BATCH: usize = 16;
/// Events taken from epoll in one turn.
pub(super) const EVENT_BATCH: usize = 256;
/// The loop turns at least this often, to show that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often some of the streams are looked at for passed deadlines; all of them within [`SCAN_PARTS`] of it.
const SCAN: Duration = Duration::from_millis(250);
const SCAN_PARTS: u32 = 4;

/// What the rest of the process tells a shard.
#[derive(Debug)]
pub(super) enum Control {
    /// Go on with this configuration.
    Config(Arc<Config>),
    /// End every allocation and stream, then stop; at the latest after this long.
    Shutdown(Duration),
    /// The front door wants the place of this stream for another one.
    Displace { slot: u32, generation: u32 },
    /// What another shard says about an allocation that moves.
    Handoff(Box<Parcel>),
}

/// The ends of everything that leads to a worker.
pub(super) struct Inlets {
    pub(super) control: mpsc::Receiver<Control>,
    pub(super) handovers: mpsc::Receiver<StreamHandover>,
    pub(super) mail: Vec<hairpin_ring::Receiver>,
    pub(super) waker: Waker,
}

/// One shard.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) clock: Clock,
    pub(super) now: Now,
    pub(super) server: Server,
    pub(super) response: Response,
    pub(super) epoll: Epoll,
    pub(super) carrier: Carrier,
    pub(super) streams: Streams,
    /// `None`: not served.
    pub(super) dtls: Option<Dtls>,
    /// `None`: there is no backend for it.
    pub(super) http3: Option<Http3>,
    pub(super) tcp: TcpRelays,
    /// Streams whose clients are gone; the core has yet to hear of it.
    pub(super) departed: Vec<Client>,
    pub(super) inlets: Inlets,
    /// By shard; none to oneself.
    pub(super) mail_to: Vec<Option<hairpin_ring::Sender>>,
    /// By shard, this one included.
    pub(super) peers: Vec<(mpsc::Sender<Control>, Waker)>,
    /// Relay sockets on their way to another shard.
    pub(super) detached: Vec<(RelayId, UdpSocket)>,
    /// By shard.
    pub(super) handover_to: Vec<HandoverSender>,
    pub(super) counters: Arc<Counters>,
    pub(super) stats: Arc<ShardCounters>,
    pub(super) pace: Pace,
    pub(super) idle_timeout: Duration,
    /// Answers a stream or association has before it logs in.
    pub(super) unauthenticated_requests: u32,
    pub(super) log_client: LogClient,
    pub(super) refusals: Arc<RefusalLog>,
    /// Turns so far.
    pub(super) turns: u64,
    /// Packets handled in this turn.
    pub(super) packets: u64,
    /// Reads and writes of streams in this turn.
    pub(super) visits: u64,
    /// Something has come from an HTTP/3 backend; it waits for everything else of this turn.
    pub(super) backends_wait: bool,
    /// Messages taken from a relay socket in this turn.
    pub(super) relay_batch: usize,
    pub(super) next_scan: Instant,
    pub(super) scan_part: u32,
    /// Lines about sockets for peers that cannot be had.
    pub(super) no_relay_socket: Seldom,
    /// When a shutdown must be over.
    pub(super) stop_at: Option<Instant>,
}

impl Worker {
    /// Turns until told to stop.
    ///
    /// # Errors
    /// The readiness interface itself fails, which nothing but a bug can cause.
    pub(super) fn run(&mut self) -> io::Result<()> {
        // Without it pauses are merely longer.
        let _ = net::set_exact_sleep();
        self.watch_inlets()?;
        while !self.is_stopped() {
            self.turn()?;
        }
        Ok(())
    }

    /// Watches the listeners and what comes from other threads.
    pub(super) fn watch_inlets(&self) -> io::Result<()> {
        self.epoll
            .add(self.inlets.waker.as_fd(), Token::Waker.bits(), Interest::Read)?;
        self.carrier.sockets.register(&self.epoll)?;
        let (gro, gso) = self.carrier.sockets.offloads();
        self.stats.gro.set(u64::from(gro));
        self.stats.gso.set(u64::from(gso));
        Ok(())
    }

    /// Waits until something is ready or due, and does it.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        self.tick();
        self.relay_batch = (LISTENER_BATCH * 2 / ready.max(1)).clamp(RELAY_BATCH, LISTENER_BATCH);
        for i in 0..ready {
            if let Some(event) = self.epoll.event(i) {
                self.handle_event(event);
            }
        }
        if std::mem::take(&mut self.backends_wait) {
            self.receive_backends(ready);
        }
        self.handle_timers();
        self.settle();
        self.turns += 1;
        self.stats.turns.set(self.turns);
        let turn = Turn {
            length: self.clock.mono() - self.now.mono,
            packets: self.packets,
            visits: self.visits,
        };
        self.stats.busy_nanos.add(turn.length.as_nanos() as u64);
        self.pace.count(self.now.mono, turn);
        Ok(())
    }

    /// Waits until something is ready, or due. Returns how many events there are.
    fn wait(&mut self) -> io::Result<usize> {
        if let Some(pause) = self.pace.pause() {
            if !self.pace.insists() {
                let ready = self.epoll.wait(Some(Duration::ZERO))?;
                if ready > 0 {
                    return Ok(ready);
                }
            }
            self.stats.pauses.add(1);
            std::thread::sleep(pause);
        }
        self.epoll.wait(Some(self.time_to_wait()))
    }

    fn is_stopped(&self) -> bool {
        self.stop_at
            .is_some_and(|at| self.streams.len() == 0 || self.now.mono >= at)
    }

    pub(super) fn time_to_wait(&self) -> Duration {
        let now = self.now.mono;
        let mut wait = HEARTBEAT;
        for at in [self.server.poll_timeout(), self.stop_at].into_iter().flatten() {
            wait = wait.min(at - now);
        }
        if self.has_connections() {
            wait = wait.min(self.next_scan - now);
        }
        if let Some(at) = self.dtls.as_ref().and_then(|dtls| dtls.next_due(now)) {
            wait = wait.min(at - now);
        }
        if let Some(at) = self.streams.resume_at() {
            wait = wait.min(at - now);
        }
        wait
    }

    /// Whether anybody has a deadline that is looked for by scanning.
    fn has_connections(&self) -> bool {
        self.streams.len() > 0
            || !self.tcp.is_empty()
            || self.dtls.as_ref().is_some_and(|dtls| !dtls.is_empty())
            || self.http3.as_ref().is_some_and(|http3| !http3.is_empty())
    }

    /// Reads the clock, once per turn.
    fn tick(&mut self) {
        self.now = self.clock.now();
        self.packets = 0;
        self.visits = 0;
        self.stats.heartbeat.set(self.now.mono.as_nanos());
    }

    fn handle_event(&mut self, event: ReadyDescriptor) {
        // A full slab leaves no room for what this socket has.
        if self.carrier.recv.free() == 0 {
            self.settle_datagrams();
        }
        match Token::from_bits(event.token) {
            Token::Listener(index) => self.receive_clients(index),
            Token::Relay { slot, generation } => {
                if event.error {
                    self.receive_errors(slot, generation);
                }
                self.receive_peers(slot, generation);
            }
            Token::Stream { slot, generation } => self.handle_stream(slot, generation, event),
            // It has no descriptor of its own.
            Token::Dtls { .. } => {}
            Token::Waker => self.receive_mail(),
            Token::Peer(id) => self.handle_peer_socket(id, event),
            Token::PeerClient(id) => self.handle_peer_client(id, event),
            token @ Token::TcpRelay { .. } => self.accept_peers(token),
            Token::Http3 { .. } => self.backends_wait = true,
        }
    }

    fn receive_clients(&mut self, index: u32) {
        let Some(listener) = self.carrier.sockets.listener(index) else {
            return;
        };
        let local = listener.socket.local_addr();
        let (plain, dtls) = (listener.plain, listener.dtls && self.dtls.is_some());
        let http3 = listener.http3 && self.http3.is_some();
        for i in self
            .carrier
            .receive(|sockets| sockets.udp_listener(index), LISTENER_BATCH)
        {
            let Some(slot) = self.carrier.recv.slot(i) else {
                continue;
            };
            let mut server = local;
            if let Some(ip) = slot.local {
                server.set_ip(ip);
            }
            let five_tuple = FiveTuple {
                client: slot.source,
                server,
                transport: Transport::Udp,
            };
            let client = Client {
                five_tuple,
                link: Token::Listener(index).link(),
            };
            let mut owner = None;
            for packet in slot.datagrams() {
                self.count_datagram();
                if http3 && self.pass_on(&client, &packet, slot.tos, &mut owner) {
                    continue;
                }
                if dtls && self.is_dtls(&packet) {
                    self.receive_dtls(index, &five_tuple, packet, slot.tos);
                } else if plain {
                    self.handle_client(&client, packet, slot.tos);
                } else {
                    self.counters.received.add(1);
                    self.counters.drop_packet(DropReason::NotTurn);
                }
            }
        }
    }

    /// Whether the datagram at `packet` begins like a DTLS record (RFC 7983).
    fn is_dtls(&self, packet: &Range<usize>) -> bool {
        let first = self.carrier.recv.slab().get(packet.clone()).and_then(<[u8]>::first);
        first.is_some_and(|&first| demux::classify(first) == Kind::Dtls)
    }

    /// One datagram, or one message of a stream or an association, at `packet` in the slab.
    pub(super) fn handle_client(&mut self, client: &Client, packet: Range<usize>, tos: u8) {
        let bytes = self.carrier.recv.slab().get(packet.clone()).unwrap_or_default();
        let verdict = self.server.handle_client(self.now, client, bytes, &mut self.response);
        self.apply(verdict, Some(client), packet, tos);
    }

    fn receive_peers(&mut self, slot: u32, generation: u32) {
        let Some((id, again)) = self.carrier.sockets.visit(slot, generation, self.turns) else {
            return;
        };
        // Mostly there is one message, and asking for more costs the kernel a second look. One that has more is ready
        // again in the next turn.
        let most = if again { self.relay_batch } else { 1 };
        let slots = self
            .carrier
            .receive(|sockets| sockets.relay(slot, generation).map(|(s, _)| s), most);
        for i in slots {
            let Some(slot) = self.carrier.recv.slot(i) else {
                continue;
            };
            for packet in slot.datagrams() {
                self.count_datagram();
                let verdict = self
                    .server
                    .handle_peer(self.now, id, PeerAddr(slot.source), packet.len());
                self.apply(verdict, None, packet, slot.tos);
            }
        }
        // At once, while it is in the nearest cache: what the next relay socket has is mostly for another stream.
        self.flush_streams();
    }

    pub(super) fn count_datagram(&mut self) {
        self.packets += 1;
        self.stats.received_datagrams.add(1);
    }

    /// ICMP errors about datagrams this relay socket has sent (RFC 8656 §11.5). They never harm the socket itself.
    fn receive_errors(&mut self, slot: u32, generation: u32) {
        for _ in 0..ERROR_BATCH {
            let Some((socket, id)) = self.carrier.sockets.relay(slot, generation) else {
                return;
            };
            let Some(error) = socket.take_error() else { return };
            self.stats.icmp_errors.add(1);
            let icmp = QuotedIcmp {
                icmp_type: error.kind,
                code: error.code,
                data: error.info,
            };
            let peer = PeerAddr(error.destination);
            if let Some(client) = self.server.handle_icmp(self.now, id, peer, icmp, &mut self.response) {
                self.respond(&client);
            }
        }
    }

    /// Everything that came by way of other threads.
    fn receive_mail(&mut self) {
        self.inlets.waker.clear();
        // Before the mail: it may be for an allocation that has just come.
        while let Ok(control) = self.inlets.control.try_recv() {
            match control {
                Control::Config(config) => self.server.set_config(self.now, config),
                Control::Shutdown(timeout) => self.begin_shutdown(timeout),
                Control::Displace { slot, generation } => self.displace_stream(slot, generation),
                Control::Handoff(parcel) => self.receive_handoff(*parcel),
            }
        }
        for shard in 0..self.inlets.mail.len() {
            for taken in 0.. {
                if taken == MAIL_BATCH {
                    // The rest is for the next turn; others are waiting too.
                    self.inlets.waker.wake();
                    break;
                }
                match self.inlets.mail[shard].receive(&mut self.carrier.recv) {
                    Ok(Some((letter, data))) => {
                        self.packets += 1;
                        self.stats.mailbox_received.add(1);
                        self.relayed(letter, data);
                    }
                    Ok(None) => break,
                    Err(hairpin_ring::NoRoom) => self.settle_datagrams(),
                }
            }
        }
        while let Ok(handover) = self.inlets.handovers.try_recv() {
            self.adopt(handover);
        }
    }

    fn begin_shutdown(&mut self, timeout: Duration) {
        self.server.shutdown(self.now);
        for slot in 0..self.streams.slots() {
            self.end_stream(slot, "shutdown");
        }
        self.end_dtls();
        self.end_flows();
        self.settle();
        self.carrier.sockets.close_listeners();
        self.stop_at = Some(self.now.mono + timeout);
    }

    fn handle_timers(&mut self) {
        self.advance_dtls();
        if self.server.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            self.server.handle_timeout(self.now);
        }
        self.resume_streams();
        if self.now.mono >= self.next_scan {
            self.next_scan = self.now.mono + SCAN;
            self.scan_part = (self.scan_part + 1) % SCAN_PARTS;
            for slot in (self.scan_part..self.streams.slots()).step_by(SCAN_PARTS as usize) {
                self.check_deadlines(slot);
            }
            let associations = self.dtls.as_ref().map_or(0, Dtls::slots);
            for slot in (self.scan_part..associations).step_by(SCAN_PARTS as usize) {
                self.check_dtls_deadline(slot);
            }
            let flows = self.http3.as_ref().map_or(0, Http3::slots);
            for slot in (self.scan_part..flows).step_by(SCAN_PARTS as usize) {
                self.check_flow(slot);
            }
            if self.scan_part == 0 && !self.tcp.is_empty() {
                self.check_peers();
            }
        }
    }

    /// Sends what was collected, so that the slab is free again in the middle of a turn.
    pub(super) fn settle_datagrams(&mut self) {
        self.carrier.finish(self.now.mono);
    }

    /// The end of a turn: everything decided in it is carried out.
    pub(super) fn settle(&mut self) {
        self.carry_out();
        self.settle_datagrams();
        // Flushing may find streams broken, whose allocations then end.
        self.flush_streams();
        self.carry_out();
        for sender in self.mail_to.iter_mut().flatten() {
            sender.announce();
        }
    }

    /// Commands, departures and events of the core, until there are none.
    fn carry_out(&mut self) {
        loop {
            self.obey();
            // Only now, so that a request before a client's FIN has got its response (RFC 8489 §6.2.2).
            let Some(client) = self.departed.pop() else { break };
            self.server.handle_disconnect(self.now, &client);
        }
        self.tell();
    }

    /// Writes the events of the core to the log.
    fn tell(&mut self) {
        let now = self.now.mono;
        let mut left_out = self.server.take_unreported_refusals();
        while let Some(event) = self.server.poll_event() {
            match &event {
                turn::Event::Refused(refused) if self.refusals.log(now, refused, self.log_client) => {}
                turn::Event::Refused(_) => left_out += 1,
                event => {
                    if self.refusals.allocations.admit(now, event) {
                        log::log(event, self.index, self.log_client);
                    } else {
                        self.stats.allocation_lines_left_out.add(1);
                    }
                    self.refusals.warn_of_hidden_client(now, event);
                }
            }
        }
        if left_out > 0 {
            self.stats.refusals_left_out.add(left_out);
            self.refusals.leave_out(left_out);
        }
        self.refusals.summarise(now);
    }

    /// Carries out what the core wants done, and sends what it has for other shards.
    pub(super) fn obey(&mut self) {
        while let Some(command) = self.server.poll_command() {
            match command {
                Command::OpenRelay { id, bind } => self.open_relay(id, bind),
                Command::OpenTcpRelay { id, bind } => self.open_tcp_relay(id, bind),
                Command::CloseRelay { id } => {
                    self.carrier.close(self.now.mono, id);
                    self.close_tcp_relay(id);
                }
                Command::DetachRelay { id } => self.detach(id),
                Command::ConnectPeer { connection, bind, peer } => self.connect_peer(connection, bind, peer),
                Command::ClosePeer { connection } => self.close_peer(connection),
                Command::FreePort { port } => drop(port),
                Command::CloseStream { link } => self.close_stream(link),
            }
        }
        self.send_handoffs();
    }

    fn open_relay(&mut self, id: RelayId, bind: SocketAddr) {
        let result = self.carrier.open(self.now.mono, &self.epoll, id, bind);
        self.relay_opened(id, bind, result);
    }

    /// Tells the core, and the client what the core says.
    pub(super) fn relay_opened(&mut self, id: RelayId, bind: SocketAddr, result: io::Result<()>) {
        let result = result.map_err(|error| self.classify(&error, bind));
        if let Some(client) = self
            .server
            .handle_relay_opened(self.now, id, result, &mut self.response)
        {
            self.respond(&client);
        }
    }

    fn classify(&mut self, error: &io::Error, bind: SocketAddr) -> OpenError {
        if error.kind() == io::ErrorKind::AddrInUse {
            return OpenError::AddressInUse;
        }
        self.socket_failed(error, bind);
        if is_exhausted(error) {
            OpenError::Exhausted
        } else {
            OpenError::Other
        }
    }

    /// A socket for peers cannot be had: counted, and told now and then.
    pub(super) fn socket_failed(&mut self, error: &io::Error, bind: SocketAddr) {
        if is_exhausted(error) {
            self.stats.relay_exhausted.add(1);
        } else {
            self.stats.relay_open_failed.add(1);
        }
        if self.no_relay_socket.may(self.now.mono) {
            tracing::warn!(target: "relay::shard", shard = self.index, %bind, %error, "cannot open a relay socket");
        }
    }
}

#[cfg(test)]
mod tests;
