//! The worker loop: wait, receive bounded batches, decide, send.
//!
//! Life of a packet: the kernel fills a slot of the slab (`shard::udp`). The core reads it and
//! returns a verdict (`turn`). The verdict becomes an entry of the send batch that points into the
//! slot (`verdict`). At the end of the turn the batch leaves, grouped by socket. Nothing on this
//! path copies, allocates, locks or logs.

#[cfg_attr(not(feature = "dtls"), path = "dtls_absent.rs")]
mod dtls;
mod http3;
mod migration;
mod sessions;
mod stream;
mod tcp_relay;
mod udp;
mod verdict;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

#[cfg(not(feature = "dtls"))]
use self::dtls::Dtls;
use super::config::ShardConfig;
use super::control::{Control, Inlets, Outlets};
use super::counters::ShardCounters;
use super::log::LogClient;
use super::pace::{Pace, Turn};
use super::refusals::RefusalLog;
#[cfg(feature = "dtls")]
use super::table::dtls::{Dtls, DtlsShared};
use super::table::http3::{Http3, Http3Shared};
use super::table::streams::Streams;
use super::table::tcp_relay::TcpRelays;
use super::token::Token;
use super::udp::UdpIo;
use super::udp::sockets::{Listener, Sockets};
use super::{hairpin_ring, log};
use crate::base::log_throttle::LogThrottle;
use crate::base::time::{Instant, Now};
use crate::net;
use crate::net::clock::Clock;
use crate::net::epoll::{Epoll, Interest, ReadyDescriptor};
use crate::net::udp::UdpSocket;
use crate::turn::types::{Client, RelayId, ShardIndex};
use crate::turn::{self, Command, Config, Counters, Response, Server, Shared};

/// Packets taken from another shard in one turn.
const HAIRPIN_BATCH: usize = 256;
/// Events taken from epoll in one turn.
const EVENT_BATCH: usize = 256;
/// The loop turns at least this often, so that its heartbeat stays fresh.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often a part of all streams, associations and flows is checked for passed deadlines.
/// [`SCAN_PARTS`] scans check all.
const SCAN: Duration = Duration::from_millis(250);
const SCAN_PARTS: u32 = 4;

/// One shard.
pub(super) struct Worker {
    index: usize,
    clock: Clock,
    now: Now,
    server: Server,
    response: Response,
    epoll: Epoll,
    udp: UdpIo,
    streams: Streams,
    /// `None`: DTLS is not served.
    dtls: Option<Dtls>,
    /// `None`: no HTTP/3 backend is configured.
    http3: Option<Http3>,
    tcp_relays: TcpRelays,
    /// Clients of closed streams and associations, which the core does not know yet.
    departed: Vec<Client>,
    inlets: Inlets,
    outlets: Outlets,
    /// Relay sockets on their way to another shard.
    detached: Vec<(RelayId, UdpSocket)>,
    counters: Arc<Counters>,
    stats: Arc<ShardCounters>,
    pace: Pace,
    idle_timeout: Duration,
    /// Answers that a stream or association gets before it logs in.
    unauthenticated_requests: u32,
    log_client: LogClient,
    refusals: Arc<RefusalLog>,
    /// Turns so far.
    turns: u64,
    /// Packets handled in this turn.
    packets: u64,
    /// Reads and writes of streams in this turn.
    stream_calls: u64,
    /// An HTTP/3 backend has sent something. It is read after everything else of this turn.
    backends_wait: bool,
    /// Messages taken from a relay socket in this turn.
    relay_batch: usize,
    next_scan: Instant,
    scan_part: u32,
    /// Log lines about relay sockets that cannot be opened.
    no_relay_socket: LogThrottle,
    /// When a shutdown must be complete.
    stop_at: Option<Instant>,
}

/// The parts of a worker. The worker is built in its own thread, because some of its state never
/// leaves that thread.
pub(super) struct WorkerParts {
    pub(super) index: ShardIndex,
    pub(super) config: ShardConfig,
    pub(super) clock: Clock,
    pub(super) turn: Arc<Config>,
    pub(super) shared: Arc<Shared>,
    /// From the system's generator: for the core's own.
    pub(super) random: [u8; 32],
    /// From the system's generator: for DTLS cookies.
    #[cfg(feature = "dtls")]
    pub(super) dtls_random: [u8; 32],
    #[cfg(feature = "dtls")]
    pub(super) dtls_shared: Option<DtlsShared>,
    /// From the system's generator: for the table of HTTP/3 flows.
    pub(super) http3_random: u64,
    pub(super) http3_shared: Http3Shared,
    pub(super) listeners: Vec<Listener>,
    pub(super) inlets: Inlets,
    pub(super) outlets: Outlets,
    pub(super) counters: Arc<Counters>,
    pub(super) stats: Arc<ShardCounters>,
    pub(super) refusals: Arc<RefusalLog>,
}

impl Worker {
    /// A worker that watches nothing yet.
    ///
    /// # Errors
    /// The system has no epoll instance or no memory left.
    pub(super) fn new(parts: WorkerParts) -> io::Result<Self> {
        let WorkerParts {
            config,
            counters,
            stats,
            clock,
            shared,
            ..
        } = parts;
        #[cfg(feature = "dtls")]
        let dtls = match config.dtls.zip(parts.dtls_shared) {
            Some((dtls, shared)) => Some(Dtls::new(dtls, shared, &parts.dtls_random)?),
            None => None,
        };
        #[cfg(not(feature = "dtls"))]
        let dtls = None;
        let http3 = config
            .http3
            .map(|http3| Http3::new(http3, parts.http3_shared, parts.http3_random));
        let most_flows = http3.as_ref().map_or(0, Http3::most_flows);
        let sockets = Sockets::new(parts.listeners, most_flows, config.relay, shared.own_sockets());
        let now = clock.now();
        stats.heartbeat.set(now.mono.as_nanos());
        Ok(Self {
            index: parts.index.index,
            clock,
            now,
            server: Server::new(
                now.mono,
                parts.turn,
                shared,
                parts.index,
                parts.random,
                Arc::clone(&counters),
            ),
            response: Response::new(),
            epoll: Epoll::new(EVENT_BATCH)?,
            udp: UdpIo::new(sockets, config.slots, Arc::clone(&counters), Arc::clone(&stats)),
            tcp_relays: TcpRelays::new(config.stream.write_timeout),
            streams: Streams::new(config.stream),
            dtls,
            http3,
            departed: Vec::new(),
            inlets: parts.inlets,
            outlets: parts.outlets,
            detached: Vec::new(),
            counters,
            stats,
            pace: Pace::new(config.pause),
            idle_timeout: config.idle_timeout,
            unauthenticated_requests: config.unauthenticated_requests,
            log_client: config.log_client,
            refusals: parts.refusals,
            turns: 0,
            packets: 0,
            stream_calls: 0,
            backends_wait: false,
            relay_batch: 0,
            next_scan: now.mono,
            scan_part: 0,
            no_relay_socket: LogThrottle::default(),
            stop_at: None,
        })
    }

    /// Runs until a shutdown is complete.
    ///
    /// # Errors
    /// Epoll itself fails, which only a bug can cause.
    pub(super) fn run(&mut self) -> io::Result<()> {
        // If it fails, pauses are longer.
        let _ = net::set_exact_sleep();
        self.watch_inlets()?;
        while !self.is_stopped() {
            self.turn()?;
        }
        Ok(())
    }

    /// Watches the listeners and the waker of other threads.
    fn watch_inlets(&self) -> io::Result<()> {
        self.epoll
            .add(self.inlets.waker.as_fd(), Token::Waker.bits(), Interest::Read)?;
        self.udp.sockets.register(&self.epoll)?;
        let (gro, gso) = self.udp.sockets.offloads();
        self.stats.gro.set(u64::from(gro));
        self.stats.gso.set(u64::from(gso));
        Ok(())
    }

    /// One turn: waits until something is ready or due, and handles it.
    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        self.tick();
        self.relay_batch = udp::relay_batch(ready);
        for i in 0..ready {
            if let Some(event) = self.epoll.event(i) {
                self.handle_event(event);
            }
        }
        if std::mem::take(&mut self.backends_wait) {
            self.receive_backends(ready);
        }
        self.handle_timers();
        self.end_turn();
        self.turns += 1;
        self.stats.turns.set(self.turns);
        let turn = Turn {
            length: self.clock.mono() - self.now.mono,
            packets: self.packets,
            stream_calls: self.stream_calls,
        };
        self.stats.busy_nanos.add(turn.length.as_nanos() as u64);
        self.pace.count(self.now.mono, turn);
        Ok(())
    }

    /// Waits until something is ready or due. Returns the number of events.
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

    fn time_to_wait(&self) -> Duration {
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

    /// Whether something has a deadline that only a scan finds.
    fn has_connections(&self) -> bool {
        self.streams.len() > 0
            || !self.tcp_relays.is_empty()
            || self.dtls.as_ref().is_some_and(|dtls| !dtls.is_empty())
            || self.http3.as_ref().is_some_and(|http3| !http3.is_empty())
    }

    /// Reads the clock, once per turn.
    fn tick(&mut self) {
        self.now = self.clock.now();
        self.packets = 0;
        self.stream_calls = 0;
        self.stats.heartbeat.set(self.now.mono.as_nanos());
    }

    fn handle_event(&mut self, event: ReadyDescriptor) {
        // A full slab has no room for what this socket holds.
        if self.udp.recv.free() == 0 {
            self.send_datagrams();
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
            // It has no descriptor: its listener receives for it.
            Token::Dtls { .. } => {}
            Token::Waker => self.drain_inlets(),
            Token::Peer(id) => self.handle_peer_socket(id, event),
            Token::PeerClient(id) => self.handle_peer_client(id, event),
            token @ Token::TcpRelay { .. } => self.accept_peers(token),
            Token::Http3 { .. } => self.backends_wait = true,
        }
    }

    /// Drains control messages, hairpin packets and new streams.
    fn drain_inlets(&mut self) {
        self.inlets.waker.clear();
        // Before the hairpin packets: they may be for an allocation that has just arrived.
        while let Ok(control) = self.inlets.control.try_recv() {
            match control {
                Control::Config(config) => self.server.set_config(self.now, config),
                Control::Shutdown(timeout) => self.begin_shutdown(timeout),
                Control::Question(question) => self.answer_question(question),
                Control::Displace { slot, generation } => self.displace_stream(slot, generation),
                Control::Migration(envelope) => self.receive_migration(*envelope),
            }
        }
        for shard in 0..self.inlets.hairpins.len() {
            for taken in 0.. {
                if taken == HAIRPIN_BATCH {
                    // The rest waits for the next turn, so that other sockets get theirs.
                    self.inlets.waker.wake();
                    break;
                }
                match self.inlets.hairpins[shard].receive(&mut self.udp.recv) {
                    Ok(Some((hairpin, data))) => {
                        self.packets += 1;
                        self.stats.mailbox_received.add(1);
                        self.receive_hairpin(hairpin, data);
                    }
                    Ok(None) => break,
                    Err(hairpin_ring::NoRoom) => self.send_datagrams(),
                }
            }
        }
        while let Ok(new_stream) = self.inlets.streams.try_recv() {
            self.add_stream(new_stream);
        }
    }

    fn begin_shutdown(&mut self, timeout: Duration) {
        self.server.shutdown(self.now);
        for slot in 0..self.streams.slots() {
            self.end_stream(slot, "shutdown");
        }
        self.end_dtls();
        self.end_flows();
        self.end_turn();
        self.udp.sockets.close_listeners();
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
            for slot in self.slots_to_scan(self.streams.slots()) {
                self.check_deadlines(slot);
            }
            for slot in self.slots_to_scan(self.dtls.as_ref().map_or(0, Dtls::slots)) {
                self.check_dtls_deadline(slot);
            }
            for slot in self.slots_to_scan(self.http3.as_ref().map_or(0, Http3::slots)) {
                self.check_flow(slot);
            }
            if self.scan_part == 0 && !self.tcp_relays.is_empty() {
                self.check_peer_connections();
            }
        }
    }

    /// The slots below `end` that this part of a scan looks at.
    fn slots_to_scan(&self, end: u32) -> impl Iterator<Item = u32> + use<> {
        (self.scan_part..end).step_by(SCAN_PARTS as usize)
    }

    /// Sends the batch and frees the slab.
    fn send_datagrams(&mut self) {
        self.udp.finish(self.now.mono);
    }

    /// Ends a turn: carries out everything decided in it.
    fn end_turn(&mut self) {
        self.drain_core();
        self.send_datagrams();
        // A flush may find a broken stream, whose allocation then ends.
        self.flush_streams();
        self.drain_core();
        for sender in self.outlets.hairpins.iter_mut().flatten() {
            sender.wake_reader();
        }
    }

    /// Handles commands, departed clients and events of the core until none are left.
    fn drain_core(&mut self) {
        loop {
            self.run_commands();
            // Last, so that a request sent before the client's FIN gets its response (RFC 8489
            // §6.2.2).
            let Some(client) = self.departed.pop() else { break };
            self.server.handle_disconnect(self.now, &client);
        }
        self.log_events();
    }

    /// Writes the events of the core to the log.
    fn log_events(&mut self) {
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

    /// Runs the core's commands, and sends its messages to other shards.
    fn run_commands(&mut self) {
        while let Some(command) = self.server.poll_command() {
            match command {
                Command::OpenRelay { id, bind } => self.open_relay(id, bind),
                Command::OpenTcpRelay { id, bind } => self.open_tcp_relay(id, bind),
                Command::CloseRelay { id } => {
                    self.udp.close(self.now.mono, id);
                    self.close_tcp_relay(id);
                }
                Command::DetachRelay { id } => self.detach(id),
                Command::ConnectPeer { connection, bind, peer } => self.connect_peer(connection, bind, peer),
                Command::ClosePeer { connection } => self.close_peer(connection),
                Command::FreePort { port } => drop(port),
                Command::CloseStream { link } => self.close_stream(link),
            }
        }
        self.send_migrations();
    }
}

#[cfg(test)]
mod tests;
