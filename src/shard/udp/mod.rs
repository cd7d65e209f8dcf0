//! UDP input and output of a shard: sockets, the slab of received datagrams, and the send batch.

pub(in crate::shard) mod sockets;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use self::sockets::Sockets;
use crate::base::time::Instant;
use crate::net::epoll::Epoll;
use crate::net::udp::{Datagram, RecvBatch, SendBatch, UdpSocket};
use crate::shard::counters::ShardCounters;
use crate::shard::token::Token;
use crate::turn::types::{Client, RelayId};
use crate::turn::{Counters, DropReason};

/// Sockets, receive slab and send batch.
pub(in crate::shard) struct UdpIo {
    pub(in crate::shard) sockets: Sockets,
    pub(in crate::shard) recv: RecvBatch,
    send: SendBatch,
    counters: Arc<Counters>,
    stats: Arc<ShardCounters>,
}

impl UdpIo {
    /// `slots` bounds what is received before it must be sent.
    pub(in crate::shard) fn new(
        sockets: Sockets,
        slots: usize,
        counters: Arc<Counters>,
        stats: Arc<ShardCounters>,
    ) -> Self {
        let mut send = SendBatch::new();
        send.reserve_egress(sockets.egress_count());
        Self {
            sockets,
            recv: RecvBatch::new(slots),
            send,
            counters,
            stats,
        }
    }

    /// Receives from one socket; an error pending on it is counted and is no reason to stop.
    pub(in crate::shard) fn receive(
        &mut self,
        socket: impl Fn(&Sockets) -> Option<&UdpSocket>,
        most: usize,
    ) -> Range<usize> {
        let Some(socket) = socket(&self.sockets) else {
            return 0..0;
        };
        let truncated = self.recv.truncated();
        // The error of a datagram sent earlier hides what is there to be read: once more.
        let received = self.recv.receive(socket, most).or_else(|_| {
            self.stats.receive_errors.add(1);
            self.recv.receive(socket, most)
        });
        let slots = received.unwrap_or(0..0);
        if !slots.is_empty() {
            self.stats.receive_calls.add(1);
            self.stats.received_messages.add(slots.len() as u64);
            self.stats.receive_truncated.add(self.recv.truncated() - truncated);
        }
        slots
    }

    /// Adds a datagram to the batch.
    pub(in crate::shard) fn push(&mut self, now: Instant, datagram: &Datagram<'_>) {
        if self.send.push(datagram).is_err() {
            self.flush(now);
            if self.send.push(datagram).is_err() {
                self.counters.drop_packet(DropReason::TooLong);
            }
        }
    }

    /// Adds a datagram to a client that came in by listener `egress`.
    pub(in crate::shard) fn push_to_client(&mut self, now: Instant, client: &Client, datagram: &Datagram<'_>) {
        // A reply leaves from the address the client knows; a socket bound to one address needs no
        // telling.
        let wildcard = self
            .sockets
            .udp_listener(datagram.egress)
            .is_some_and(UdpSocket::is_wildcard);
        let source = wildcard.then_some(client.five_tuple.server.ip());
        self.push(
            now,
            &Datagram {
                source,
                destination: client.five_tuple.client,
                ..datagram.clone()
            },
        );
    }

    /// Sends the batch. What was received stays where it is.
    pub(in crate::shard) fn flush(&mut self, now: Instant) {
        if self.send.is_empty() {
            return;
        }
        let sockets = &self.sockets;
        self.send
            .flush(self.recv.slab(), now, |egress| sockets.by_egress(egress));
        let sent = self.send.take_stats();
        self.stats.sent(&sent);
        let failed = sent.failed.iter().sum::<u64>();
        if failed > 0 {
            self.counters.dropped[DropReason::SendFailed as usize].add(failed);
        }
        if sent.gone > 0 {
            self.counters.dropped[DropReason::Gone as usize].add(sent.gone);
        }
    }

    /// Sends the batch and frees the slab.
    pub(in crate::shard) fn finish(&mut self, now: Instant) {
        self.flush(now);
        self.recv.clear();
    }

    /// Opens a relay socket.
    ///
    /// # Errors
    /// Those of the system.
    pub(in crate::shard) fn open(
        &mut self,
        now: Instant,
        epoll: &Epoll,
        id: RelayId,
        bind: SocketAddr,
    ) -> io::Result<()> {
        self.make_room(now, id);
        self.sockets.open(epoll, id, bind)?;
        self.send.reserve_egress(self.sockets.egress_count());
        self.stats.relay_sockets.add(1);
        Ok(())
    }

    /// Takes over a relay socket that another shard has opened.
    ///
    /// # Errors
    /// Those of the system; the socket is closed then.
    pub(in crate::shard) fn attach(
        &mut self,
        now: Instant,
        epoll: &Epoll,
        id: RelayId,
        socket: UdpSocket,
    ) -> io::Result<()> {
        self.make_room(now, id);
        self.sockets.attach(epoll, id, socket)?;
        self.send.reserve_egress(self.sockets.egress_count());
        self.stats.relay_sockets.add(1);
        Ok(())
    }

    /// Closes the socket that still stands in the place of `id`: its allocation has ended, and the
    /// command to close it comes later than what takes its place.
    fn make_room(&mut self, now: Instant, id: RelayId) {
        if let Some(before) = self.sockets.occupant(id) {
            self.close(now, before);
        }
    }

    /// Gives a relay socket away, after sending what it still has to send.
    pub(in crate::shard) fn detach(&mut self, now: Instant, epoll: &Epoll, id: RelayId) -> Option<UdpSocket> {
        self.flush(now);
        let socket = self.sockets.detach(epoll, id)?;
        self.stats.relay_sockets.sub(1);
        Some(socket)
    }

    /// Opens the socket of an HTTP/3 flow, to be known by `token`.
    ///
    /// # Errors
    /// Those of the system.
    pub(in crate::shard) fn open_flow(
        &mut self,
        epoll: &Epoll,
        slot: u32,
        token: Token,
        backend: SocketAddr,
    ) -> io::Result<()> {
        self.sockets.open_flow(epoll, slot, token, backend)
    }

    /// Closes the socket of an HTTP/3 flow, as [`Self::close`] does a relay socket.
    pub(in crate::shard) fn close_flow(&mut self, now: Instant, slot: u32) {
        self.flush(now);
        self.sockets.close_flow(slot);
    }

    /// Closes a relay socket, after sending what it still has to send: the batch names sockets by
    /// number, and the next socket with this number belongs to another allocation.
    pub(in crate::shard) fn close(&mut self, now: Instant, id: RelayId) {
        self.flush(now);
        if self.sockets.close(id) {
            self.stats.relay_sockets.sub(1);
        }
    }
}

/// A datagram to a client that came in by listener `egress`, with nothing in it but `data`.
pub(in crate::shard) fn to_listener(egress: u32, client: &Client, data: Range<usize>) -> Datagram<'static> {
    Datagram {
        egress,
        destination: client.five_tuple.client,
        source: None,
        tos: 0,
        dont_fragment: false,
        header: &[],
        data,
        padding: 0,
    }
}
