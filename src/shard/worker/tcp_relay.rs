//! A worker's TCP allocations (RFC 6062): it accepts and connects peers, and relays between them
//! and clients' connections.
//!
//! The worker does not read a peer connection until it is bound. What the peer sends waits in the
//! kernel, whose window stops the peer, and reaches the client first. A client's connection may
//! arrive at any shard. ConnectionBind moves it to the shard that has the peer, so that no relayed
//! byte crosses shards.

use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use super::Worker;
use super::udp::is_exhausted;
use crate::net::epoll::ReadyDescriptor;
use crate::net::stream::{Flushed, StreamParts};
use crate::net::tcp;
use crate::net::tls::TlsSession;
use crate::shard::stream_intake::NewStream;
use crate::shard::table::streams::Stream;
use crate::shard::table::tcp_relay::PeerStage;
use crate::shard::token::Token;
use crate::turn::types::{Client, ConnectionId, Link, RelayId};

/// Most peers accepted at one relayed transport address in one turn.
const ACCEPT_BATCH: usize = 16;

impl Worker {
    /// Opens a relay socket that listens for peers.
    pub(super) fn open_tcp_relay(&mut self, id: RelayId, bind: SocketAddr) {
        let result = self.tcp_relays.listen(&self.epoll, id, bind);
        if result.is_ok() {
            self.stats.relay_sockets.add(1);
        }
        self.relay_opened(id, bind, result);
    }

    /// Closes a relay socket that listens for peers, if `id` names one.
    pub(super) fn close_tcp_relay(&mut self, id: RelayId) {
        if self.tcp_relays.close_listener(id) {
            self.stats.relay_sockets.sub(1);
        }
    }

    /// Accepts peers at a relayed transport address.
    pub(super) fn accept_peers(&mut self, token: Token) {
        for _ in 0..ACCEPT_BATCH {
            match self.tcp_relays.accept(token) {
                Ok(Some((id, socket, from))) => self.accepted(id, socket, from),
                Ok(None) => return,
                Err(error) if is_exhausted(&error) => {
                    if let Some(bind) = self.tcp_relays.starve(&self.epoll, token) {
                        self.socket_failed(&error, bind);
                    }
                    return;
                }
                // The peer has closed before it was accepted.
                Err(_) => {}
            }
        }
    }

    fn accepted(&mut self, relay: RelayId, socket: TcpStream, from: SocketAddr) {
        let accepted = self
            .server
            .handle_peer_accepted(self.now, relay, from, &mut self.response);
        let Ok((connection, client)) = accepted else {
            // Reset, not closed: the peer learns it at once, and no state lingers here. The core
            // has counted the reason.
            let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            return;
        };
        let ready = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true));
        let added = ready.and_then(|()| {
            self.tcp_relays
                .add(&self.epoll, self.now.mono, connection, socket, false)
        });
        match added {
            Ok(()) => self.respond(&client),
            Err(_) => self.server.handle_peer_closed(connection),
        }
    }

    /// Begins to connect to a peer.
    pub(super) fn connect_peer(&mut self, id: ConnectionId, bind: SocketAddr, peer: SocketAddr) {
        let begun = tcp::connect(bind, peer)
            .and_then(|socket| self.tcp_relays.add(&self.epoll, self.now.mono, id, socket, true));
        if let Err(error) = begun {
            if is_exhausted(&error) {
                self.socket_failed(&error, bind);
            }
            self.peer_connected(id, false);
        }
    }

    /// Closes a peer connection for the core.
    pub(super) fn close_peer(&mut self, id: ConnectionId) {
        if self.tcp_relays.remove(id) == Some(PeerStage::Connecting) {
            self.peer_connected(id, false);
        }
    }

    fn peer_connected(&mut self, id: ConnectionId, connected: bool) {
        if let Some(client) = self
            .server
            .handle_peer_connected(self.now, id, connected, &mut self.response)
        {
            self.respond(&client);
        }
    }

    /// Handles a peer's ready socket.
    pub(super) fn handle_peer_socket(&mut self, id: ConnectionId, event: ReadyDescriptor) {
        let failed = event.error || event.hangup;
        match self.tcp_relays.stage(id) {
            Some(PeerStage::Bound) => self.relay_bytes(id, event, false),
            // It is not read, so an event means failure.
            Some(PeerStage::Unbound) if failed => self.peer_closed(id),
            Some(PeerStage::Connecting) if !failed && self.tcp_relays.finish_connecting(&self.epoll, id) => {
                self.peer_connected(id, true);
            }
            Some(PeerStage::Connecting) => self.connect_failed(id),
            Some(PeerStage::Unbound) | None => {}
        }
    }

    fn connect_failed(&mut self, id: ConnectionId) {
        self.tcp_relays.remove(id);
        self.peer_connected(id, false);
    }

    /// Handles the ready socket of a client's side of a peer connection.
    pub(super) fn handle_peer_client(&mut self, id: ConnectionId, event: ReadyDescriptor) {
        self.relay_bytes(id, event, true);
    }

    /// Makes the stream `link` the client's side of connection `id`. What is queued for it goes
    /// first.
    pub(super) fn bind_connection(&mut self, link: Link, id: ConnectionId) {
        let Some(stream) = self.release_stream(link) else {
            self.peer_closed(id);
            return;
        };
        self.stats.stream_closed("moved");
        let (socket, parts, mut guard) = stream.into_parts();
        guard.set_authenticated();
        // Bytes right behind the ConnectionBind are for the peer.
        let early = parts.received.len() as u64;
        if !self
            .tcp_relays
            .bind(&self.epoll, self.now.mono, id, (socket, parts, guard))
        {
            self.peer_closed(id);
            return;
        }
        if early > 0 {
            self.server.handle_connection_data(id, early, 0);
        }
        self.pump(id);
    }

    /// Moves the stream of `client` to `shard`, with its latest message, which is at `packet` in
    /// the slab.
    pub(super) fn move_stream(&mut self, client: &Client, shard: usize, packet: Range<usize>) {
        let Some(stream) = self.release_stream(client.link) else {
            return;
        };
        let (socket, parts, guard) = stream.into_parts();
        let StreamParts { tls, received, unsent } = parts;
        let (Some(to), true) = (self.outlets.shards.get(shard), unsent.is_empty()) else {
            // A client that has not read the response to its Connect cannot know what to bind.
            self.stats.stream_closed("control_queue");
            return;
        };
        let mut early = self.udp.recv.slab().get(packet).unwrap_or_default().to_vec();
        early.extend_from_slice(&received);
        let is_sent = to.add_stream(NewStream {
            socket,
            tls: tls.map(TlsSession::into_inner),
            early,
            client: client.five_tuple.client,
            server: client.five_tuple.server,
            transport: client.five_tuple.transport,
            guard,
        });
        if is_sent {
            self.stats.stream_closed("moved");
        } else {
            self.stats.stream_refused();
        }
    }

    /// Takes a stream out of the table, after writing as much of its queue as the socket takes.
    fn release_stream(&mut self, link: Link) -> Option<Stream> {
        let Token::Stream { slot, generation } = Token::from_link(link) else {
            return None;
        };
        let stream = self.streams.by_token(slot, generation)?;
        if stream.closing.is_some() {
            return None;
        }
        // The rest of the queue goes along.
        let _: Result<Flushed, _> = stream.flush(self.now.mono);
        self.stats.streams.sub(1);
        let released = self.streams.release(&self.epoll, slot);
        if released.is_none() {
            self.stats.stream_closed("io");
        }
        released
    }

    /// Handles an event at one side of a bound connection.
    fn relay_bytes(&mut self, id: ConnectionId, event: ReadyDescriptor, at_client: bool) {
        if self.tcp_relays.stage(id) != Some(PeerStage::Bound) {
            return;
        }
        if event.error || event.hangup && self.tcp_relays.hang_up(&self.epoll, id, at_client).is_err() {
            self.peer_closed(id);
            return;
        }
        self.pump(id);
    }

    /// Relays what can be relayed, and reports the number of bytes to the core.
    fn pump(&mut self, id: ConnectionId) {
        let Some((moved, is_over)) = self.tcp_relays.pump(&self.epoll, self.now.mono, id) else {
            return;
        };
        if moved.up + moved.down > 0 {
            self.server.handle_connection_data(id, moved.up, moved.down);
        }
        if is_over {
            self.peer_closed(id);
        }
    }

    /// Closes both sides of a connection, and reports it to the core.
    fn peer_closed(&mut self, id: ConnectionId) {
        self.tcp_relays.remove(id);
        self.server.handle_peer_closed(id);
    }

    /// Closes idle half-closed connections, and watches listeners again for which descriptors had
    /// run out.
    pub(super) fn check_peer_connections(&mut self) {
        for id in self.tcp_relays.idle(self.now.mono) {
            self.peer_closed(id);
        }
        self.tcp_relays.watch_starved(&self.epoll);
    }
}

#[cfg(test)]
mod tests;
