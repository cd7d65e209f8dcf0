//! Sends packets through allocations. Each packet carries its sending time, so that the receiver
//! knows its latency.

use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use relay_client::{ClientError, ClientSocket, TurnClient};

use super::allocations::UDP;
use super::flow::{TrafficDirection, TrafficShape};
use super::packet::{CHANNEL, Stamp, unwrap, wrap};
use super::process::Usage;
use super::report::{Latencies, Progress, Report};
use super::target::Target;
use super::{Common, Failure, allocations};
use crate::base::time::Instant;
use crate::net::clock::Clock;
use crate::net::epoll::{Epoll, Interest};
use crate::net::udp::{Datagram, RecvBatch, SendBatch, UdpSocket};
use crate::wire::message::Message;

/// Not counted: caches, offload probes and the server's pauses settle.
const WARM_UP: Duration = Duration::from_secs(1);
/// After the last packet: time for packets in flight to arrive.
const DRAIN: Duration = Duration::from_millis(500);
/// Without a rate: packets in flight count as lost when none arrives for this long.
const STALL: Duration = Duration::from_millis(100);
/// Permissions live for 300 s.
const RENEW: Duration = Duration::from_secs(120);
/// A stream client with this many unsent bytes gets no more.
const MOST_UNSENT: usize = 256 * 1024;

/// Creates the allocations, sends for the duration, and counts what arrives.
pub(super) fn measure(target: &Target, wish: &Common, flow: &TrafficShape) -> Result<Report, Failure> {
    let mut engine = Engine::set_up(target, wish, flow)?;
    let usage = || Usage::of(&wish.server_pids);
    let idle = usage()?;
    let start = engine.clock.mono();
    engine.run(start + WARM_UP, None)?;
    engine.reset();
    let before = usage()?;
    let measured_from = engine.clock.mono();
    engine.run(
        measured_from + wish.duration(),
        Some(&Progress::new("relaying", wish.seconds.into())),
    )?;
    let elapsed = engine.clock.mono() - measured_from;
    let after = usage()?;
    engine.drain()?;
    let mut report = engine.report(wish, elapsed);
    if let (Some(idle), Some(before), Some(after)) = (idle, before, after) {
        report.usage(
            "server_cpu_ns_per_packet",
            before,
            after,
            engine.received,
            Duration::from_nanos(1),
        );
        if flow.slow.is_some() {
            let growth = after.resident.saturating_sub(idle.resident) as f64;
            report.number("rss_growth_bytes_per_client", growth / f64::from(wish.allocations), 0);
        }
    }
    engine.release();
    Ok(report)
}

/// One flow of packets, and what its receiver has counted.
struct Lane {
    /// The sending client; for packets from the peer, the receiving one.
    client: usize,
    relayed: SocketAddr,
    peer: SocketAddr,
    next: u32,
    expected: u32,
}

struct Engine<'f> {
    flow: &'f TrafficShape,
    server: SocketAddr,
    clock: Clock,
    clients: Vec<TurnClient>,
    lanes: Vec<Lane>,
    peer: UdpSocket,
    epoll: Epoll,
    recv: RecvBatch,
    send: SendBatch,
    /// Application data of the packets in the batch.
    slab: Vec<u8>,
    /// Bytes each slow client may read now, and since when it counts.
    allowance: f64,
    allowed_at: Instant,
    renewed_at: Instant,
    renew_now: bool,
    /// Bursts sent since the rate began.
    bursts: u64,
    paced_from: Option<Instant>,
    heard_at: Instant,
    under_way: u64,
    counted_from: Instant,
    sent: u64,
    received: u64,
    reordered: u64,
    withheld: u64,
    latencies: Latencies,
}

impl<'f> Engine<'f> {
    fn set_up(target: &Target, wish: &Common, flow: &'f TrafficShape) -> Result<Self, Failure> {
        let clock = Clock::default();
        let mut settings = allocations::settings(target, wish)?;
        settings.receive_buffer = flow.slow.as_ref().map(|slow| slow.receive_buffer);
        let peer = UdpSocket::bind((target.local, 0).into(), &UDP)?;
        let pairs = flow.direction == TrafficDirection::Pair;
        let count = if pairs {
            wish.count().next_multiple_of(2)
        } else {
            wish.count()
        };
        let (mut clients, mut relayed) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let progress = Progress::new("allocating", count as u64);
        for index in 0..count {
            let mut client = TurnClient::connect(&settings, target.credential(index)?)?;
            relayed.push(client.allocate()?);
            clients.push(client);
            progress.at(index as u64);
        }
        let mut lanes = Vec::new();
        for (index, client) in clients.iter_mut().enumerate() {
            let (Some(&own), Some(&other)) = (relayed.get(index), relayed.get(index ^ usize::from(pairs))) else {
                continue;
            };
            let peer = if pairs { other } else { peer.local_addr() };
            permit(client, flow, peer)?;
            if !pairs || index % 2 == 0 {
                lanes.push(Lane {
                    client: index,
                    relayed: own,
                    peer,
                    next: 0,
                    expected: 0,
                });
            }
        }
        let mut epoll = Epoll::new(256)?;
        register(&mut epoll, &clients, &peer, flow)?;
        let now = clock.mono();
        let mut send = SendBatch::new();
        send.reserve_egress(count + 1);
        Ok(Self {
            flow,
            server: target.server,
            clock,
            clients,
            lanes,
            peer,
            epoll,
            recv: RecvBatch::new(64),
            send,
            slab: Vec::new(),
            allowance: 0.0,
            allowed_at: now,
            renewed_at: now,
            renew_now: false,
            bursts: 0,
            paced_from: None,
            heard_at: now,
            under_way: 0,
            counted_from: now,
            sent: 0,
            received: 0,
            reordered: 0,
            withheld: 0,
            latencies: Latencies::new(),
        })
    }

    /// Sends and receives until `end`.
    fn run(&mut self, end: Instant, progress: Option<&Progress>) -> Result<(), Failure> {
        let start = self.clock.mono();
        loop {
            let now = self.clock.mono();
            if now >= end {
                return Ok(());
            }
            if self.renew_now || now - self.renewed_at >= RENEW {
                self.renew(now)?;
            }
            let pause = self.send_due(now)?;
            self.receive(now, pause)?;
            if let Some(progress) = progress {
                progress.at((now - start).as_secs());
            }
        }
    }

    fn drain(&mut self) -> Result<(), Failure> {
        let end = self.clock.mono() + DRAIN;
        while self.clock.mono() < end {
            let now = self.clock.mono();
            self.receive(now, Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Starts to count now. Packets sent earlier are not counted.
    fn reset(&mut self) {
        self.counted_from = self.clock.mono();
        (self.sent, self.received, self.reordered, self.withheld) = (0, 0, 0, 0);
        self.latencies.clear();
        let _ = self.send.take_stats();
    }

    /// Renews allocations, permissions and channels. The responses arrive among the media.
    fn renew(&mut self, now: Instant) -> Result<(), Failure> {
        self.renewed_at = now;
        self.renew_now = false;
        let pairs = self.flow.direction == TrafficDirection::Pair;
        let channel = (!self.flow.indications).then_some(CHANNEL);
        for lane in &self.lanes {
            if let Some(client) = self.clients.get_mut(lane.client) {
                client.renew(channel, lane.peer)?;
            }
            if let Some(other) = self.clients.get_mut(lane.client + 1).filter(|_| pairs) {
                other.renew(channel, lane.relayed)?;
            }
        }
        Ok(())
    }

    /// Sends the due bursts. Returns the time until the next one.
    fn send_due(&mut self, now: Instant) -> Result<Duration, Failure> {
        let burst = u64::from(self.flow.burst);
        let lanes = self.lanes.len() as u64;
        let own = self.flow.shape.rate().map(|rate| rate * lanes as f64);
        let pause = if let Some(rate) = self.flow.rate.or(own) {
            let from = *self.paced_from.get_or_insert(now);
            let due = ((now - from).as_secs_f64() * rate / burst as f64) as u64;
            // After a pause of the generator itself, do not send everything overdue at once.
            self.bursts = self.bursts.max(due.saturating_sub(lanes));
            while self.bursts < due {
                self.send_burst(now, (self.bursts % lanes) as usize);
                self.bursts += 1;
            }
            Duration::from_secs_f64((burst as f64 / rate).min(0.01))
        } else {
            if now - self.heard_at > STALL {
                self.under_way = 0;
                self.heard_at = now;
            }
            while self.under_way + burst <= self.flow.window.max(burst) {
                self.send_burst(now, (self.bursts % lanes) as usize);
                self.bursts += 1;
            }
            Duration::ZERO
        };
        self.flush(now)?;
        Ok(pause)
    }

    fn send_burst(&mut self, now: Instant, lane: usize) {
        for _ in 0..self.flow.burst {
            let start = self.slab.len();
            let Some(lane_now) = self.lanes.get_mut(lane) else {
                return;
            };
            self.slab.extend_from_slice(&now.as_nanos().to_be_bytes());
            self.slab.extend_from_slice(&lane_now.next.to_be_bytes());
            self.slab.extend_from_slice(&(lane as u32).to_be_bytes());
            self.slab.resize(start + self.flow.size, 0x5a);
            lane_now.next = lane_now.next.wrapping_add(1);
            let (client, relayed, peer) = (lane_now.client, lane_now.relayed, lane_now.peer);
            let (mut header, mut header_len, mut padding) = ([0; 48], 0, 0);
            if self.flow.direction != TrafficDirection::Down {
                (header_len, padding) = wrap(self.flow, peer, &mut header);
            }
            let header = header.get(..header_len).unwrap_or_default();
            self.sent += 1;
            self.under_way += 1;
            let (egress, destination) = match self.clients.get_mut(client).map(|client| &mut client.socket) {
                _ if self.flow.direction == TrafficDirection::Down => (self.clients.len(), relayed),
                Some(ClientSocket::Udp(..)) => (client, self.server),
                Some(ClientSocket::Stream(stream)) if stream.backlog() < MOST_UNSENT => {
                    let data = self.slab.get(start..).unwrap_or_default();
                    stream.queue(&[header, data], self.flow.size.next_multiple_of(4) - self.flow.size);
                    continue;
                }
                _ => {
                    self.withheld += 1;
                    continue;
                }
            };
            let datagram = Datagram {
                egress: egress as u32,
                destination,
                source: None,
                tos: 0,
                dont_fragment: false,
                header,
                data: start..self.slab.len(),
                padding,
            };
            if self.send.push(&datagram).is_err() {
                self.flush_datagrams(now);
                let _ = self.send.push(&datagram);
            }
        }
    }

    /// Sends the queue as far as the sockets accept it.
    fn flush(&mut self, now: Instant) -> Result<(), Failure> {
        self.flush_datagrams(now);
        self.slab.clear();
        for client in &mut self.clients {
            if let ClientSocket::Stream(stream) = &mut client.socket {
                stream.flush()?;
            }
        }
        Ok(())
    }

    fn flush_datagrams(&mut self, now: Instant) {
        let (clients, peer) = (&self.clients, &self.peer);
        self.send.flush(&self.slab, now, |egress| {
            match clients.get(egress as usize).map(|c| &c.socket) {
                Some(ClientSocket::Udp(socket, _)) => Some(socket),
                Some(ClientSocket::Stream(_)) => None,
                None => Some(peer),
            }
        });
    }

    /// Receives, and waits at most `pause`. A pause too short for the system's timer is spent in a
    /// loop.
    fn receive(&mut self, now: Instant, pause: Duration) -> Result<(), Failure> {
        if self.flow.slow.is_some() {
            self.read_slowly(now)?;
        }
        let wait = if pause >= Duration::from_millis(2) && !self.flow.spin {
            Duration::from_millis(1)
        } else {
            Duration::ZERO
        };
        for index in 0..self.epoll.wait(Some(wait))? {
            let Some(event) = self.epoll.event(index) else { continue };
            let index = event.token as usize;
            if index < self.clients.len() && matches!(self.clients[index].socket, ClientSocket::Stream(_)) {
                self.read_stream(index, usize::MAX)?;
            } else {
                self.read_datagrams(index);
            }
        }
        Ok(())
    }

    /// Each client reads no more than its rate allows.
    fn read_slowly(&mut self, now: Instant) -> Result<(), Failure> {
        let Some(slow) = &self.flow.slow else { return Ok(()) };
        let earned = (now - self.allowed_at).as_secs_f64() * slow.read;
        // A few milliseconds' worth at a time, as an application would.
        if earned < 1500.0 {
            return Ok(());
        }
        self.allowed_at = now;
        self.allowance = earned;
        for index in 0..self.clients.len() {
            self.read_stream(index, self.allowance as usize)?;
        }
        Ok(())
    }

    fn read_stream(&mut self, index: usize, limit: usize) -> Result<(), Failure> {
        let now = self.clock.mono();
        let Some(client) = self.clients.get_mut(index) else {
            return Ok(());
        };
        let ClientSocket::Stream(stream) = &mut client.socket else {
            return Ok(());
        };
        stream.read(limit)?;
        let (mut packets, mut responses) = (Vec::new(), Vec::new());
        stream.take_frames(usize::MAX, |frame| match unwrap(frame) {
            Some(data) => packets.extend(Stamp::of(data)),
            None => responses.push(frame.to_vec()),
        })?;
        for response in responses {
            if let Ok(message) = Message::parse(&response) {
                self.renew_now |= client.note_response(&message);
            }
        }
        for stamp in packets {
            self.count(now, stamp);
        }
        Ok(())
    }

    fn read_datagrams(&mut self, index: usize) {
        let now = self.clock.mono();
        self.recv.clear();
        let socket = match self.clients.get(index).map(|client| &client.socket) {
            Some(ClientSocket::Udp(socket, _)) => socket,
            Some(ClientSocket::Stream(_)) => return,
            None => &self.peer,
        };
        // An ICMP error of an earlier datagram. The next call reads the packets behind it.
        let Ok(slots) = self.recv.receive(socket, 64) else {
            return;
        };
        let from_relay = index < self.clients.len();
        for slot in slots {
            let Some(slot) = self.recv.slot(slot) else { continue };
            for range in slot.datagrams() {
                let bytes = self.recv.slab().get(range).unwrap_or_default();
                let data = if from_relay { unwrap(bytes) } else { Some(bytes) };
                let stamp = data.and_then(Stamp::of);
                if let (None, Ok(message)) = (stamp, Message::parse(bytes))
                    && let Some(client) = self.clients.get_mut(index)
                {
                    self.renew_now |= client.note_response(&message);
                }
                if let Some(stamp) = stamp {
                    self.count(now, stamp);
                }
            }
        }
    }

    fn count(&mut self, now: Instant, stamp: Stamp) {
        self.heard_at = now;
        self.under_way = self.under_way.saturating_sub(1);
        if stamp.sent_at < self.counted_from {
            return;
        }
        self.received += 1;
        self.latencies.record(now - stamp.sent_at);
        if let Some(lane) = self.lanes.get_mut(stamp.lane as usize) {
            self.reordered += u64::from(stamp.number < lane.expected);
            lane.expected = lane.expected.max(stamp.number.saturating_add(1));
        }
    }

    fn report(&mut self, wish: &Common, elapsed: Duration) -> Report {
        let unsent = self.send.take_stats().failed.iter().sum::<u64>() + self.withheld;
        let lost = self.sent.saturating_sub(self.received) as f64 / self.sent.max(1) as f64;
        let slow = self.flow.slow.is_some();
        let mut report = Report::new();
        report
            .text("mode", if slow { "slow-reader" } else { "media" })
            .text("shape", if slow { "video" } else { self.flow.shape.as_str() })
            .text("direction", self.flow.direction.as_str())
            .text("transport", wish.transport.as_str())
            .text(
                "framing",
                if self.flow.indications {
                    "indications"
                } else {
                    "channels"
                },
            )
            .count("allocations", self.clients.len() as u64)
            .count("bytes", self.flow.size as u64)
            .number("seconds", elapsed.as_secs_f64(), 2)
            .count("sent", self.sent)
            .count("received", self.received)
            .number("loss", lost, 5)
            .number("packets_per_s", self.received as f64 / elapsed.as_secs_f64(), 0)
            .count("reordered", self.reordered)
            .count("not_sent", unsent)
            .latencies(&self.latencies);
        report
    }

    /// Ends the allocations. After an error they expire by themselves.
    fn release(&mut self) {
        for client in &mut self.clients {
            let _ = client.release();
        }
    }
}

/// Installs a permission for `peer`.
fn permit(client: &mut TurnClient, flow: &TrafficShape, peer: SocketAddr) -> Result<(), ClientError> {
    if flow.indications {
        client.create_permission(peer)
    } else {
        client.channel_bind(CHANNEL, peer)
    }
}

/// Watches every socket that is read when readable. Slow readers are read by time.
fn register(epoll: &mut Epoll, clients: &[TurnClient], peer: &UdpSocket, flow: &TrafficShape) -> io::Result<()> {
    for (index, client) in clients.iter().enumerate() {
        if flow.slow.is_none() {
            epoll.add(client.socket.fd(), index as u64, Interest::Read)?;
        }
    }
    epoll.add(peer.as_fd(), clients.len() as u64, Interest::Read)
}
