//! TCP allocations (RFC 6062): sockets that listen for peers, connections with peers, and the pipes between those and the
//! clients' connections.
//!
//! Until a peer connection is bound nothing is read from it: what the peer sends waits in the kernel, whose window tells it
//! when to stop, and is the first the client gets. A client's connection may arrive at any shard; ConnectionBind moves it to
//! the one that has the peer, so that nothing relayed crosses shards.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

use hashbrown::HashMap;

use crate::base::time::Instant;
use crate::net::canonical;
use crate::net::epoll::{Epoll, Interest, ReadyDescriptor};
use crate::net::stream::{Flushed, StreamParts};
use crate::net::tcp::{self, Pipe};
use crate::net::tls::TlsSession;
use crate::shard::stream_intake::{StreamGuard, StreamHandover};
use crate::shard::table::streams::Stream;
use crate::shard::token::Token;
use crate::shard::worker::Worker;
use crate::turn::types::{Client, ConnectionId, Link, RelayId};

/// Peers accepted at one relayed transport address in one turn.
const ACCEPT_BATCH: usize = 16;
/// What a shard has of TCP allocations; nothing where they are off.
pub(in crate::shard) struct TcpRelays {
    /// By token of [`Token::TcpRelay`].
    listeners: HashMap<u64, Listener>,
    peers: HashMap<ConnectionId, Box<Peer>>,
    /// Some listeners are not watched, because there was no descriptor left to accept with.
    starved: bool,
    /// One direction has ended, and in the other nothing comes: so long such a connection is kept.
    half_closed: Duration,
}

struct Listener {
    socket: TcpListener,
    id: RelayId,
    bind: SocketAddr,
    watched: bool,
}

/// One connection with a peer.
struct Peer {
    socket: TcpStream,
    watch: Watch,
    /// The peer has not answered yet.
    connecting: bool,
    /// Once it is bound.
    client: Option<PeerClient>,
    /// When a byte last moved.
    moved_at: Instant,
}

/// The client's side of a bound connection.
struct PeerClient {
    socket: TcpStream,
    watch: Watch,
    pipe: Pipe,
    _guard: Box<dyn StreamGuard>,
}

/// What epoll was told about a socket; `None`: it does not watch it any more.
#[derive(Clone, Copy)]
struct Watch(Option<Interest>);

impl Watch {
    fn set(&mut self, epoll: &Epoll, socket: &TcpStream, token: Token, wanted: Interest) -> io::Result<()> {
        if self.0.is_some_and(|interest| interest != wanted) {
            epoll.modify(socket.as_fd(), token.bits(), wanted)?;
            self.0 = Some(wanted);
        }
        Ok(())
    }

    /// Both directions of a socket are over, which epoll would say again and again.
    fn end(&mut self, epoll: &Epoll, socket: &TcpStream) -> io::Result<()> {
        if self.0.take().is_some() {
            epoll.remove(socket.as_fd())?;
        }
        Ok(())
    }
}

impl TcpRelays {
    /// Nothing; a half-closed connection in which nothing moves is closed after `half_closed`.
    pub(in crate::shard) fn new(half_closed: Duration) -> Self {
        Self {
            listeners: HashMap::new(),
            peers: HashMap::new(),
            starved: false,
            half_closed,
        }
    }

    /// Whether there is anything that has deadlines.
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty() && !self.starved
    }

    fn listen(&mut self, epoll: &Epoll, id: RelayId, bind: SocketAddr) -> io::Result<()> {
        let socket = tcp::listen(bind)?;
        let token = Token::tcp_relay(id).bits();
        epoll.add(socket.as_fd(), token, Interest::Read)?;
        let listener = Listener {
            socket,
            id,
            bind,
            watched: true,
        };
        self.listeners.insert(token, listener);
        Ok(())
    }

    fn add(
        &mut self,
        epoll: &Epoll,
        now: Instant,
        id: ConnectionId,
        socket: TcpStream,
        connecting: bool,
    ) -> io::Result<()> {
        let interest = if connecting { Interest::Write } else { Interest::None };
        epoll.add(socket.as_fd(), Token::Peer(id).bits(), interest)?;
        let peer = Peer {
            socket,
            watch: Watch(Some(interest)),
            connecting,
            client: None,
            moved_at: now,
        };
        self.peers.insert(id, Box::new(peer));
        Ok(())
    }
}

impl Worker {
    /// Opens a relay socket that listens for peers.
    pub(super) fn open_tcp_relay(&mut self, id: RelayId, bind: SocketAddr) {
        let result = self.tcp.listen(&self.epoll, id, bind);
        if result.is_ok() {
            self.stats.relay_sockets.add(1);
        }
        self.relay_opened(id, bind, result);
    }

    /// Closes a relay socket that listens for peers, if `id` names one.
    pub(super) fn close_tcp_relay(&mut self, id: RelayId) {
        if self.tcp.listeners.remove(&Token::tcp_relay(id).bits()).is_some() {
            self.stats.relay_sockets.sub(1);
        }
    }

    /// Peers have connected to a relayed transport address.
    pub(super) fn accept_peers(&mut self, token: Token) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.tcp.listeners.get_mut(&token.bits()) else {
                return;
            };
            match listener.socket.accept() {
                Ok((socket, from)) => {
                    let id = listener.id;
                    self.accepted(id, socket, canonical(from));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_exhausted(&error) => {
                    // It stays readable: watched, it would keep the loop turning for nothing.
                    let fd = listener.socket.as_fd();
                    listener.watched = self.epoll.modify(fd, token.bits(), Interest::None).is_err();
                    self.tcp.starved = true;
                    let bind = listener.bind;
                    self.socket_failed(&error, bind);
                    return;
                }
                // The peer has gone before it was accepted.
                Err(_) => {}
            }
        }
    }

    fn accepted(&mut self, relay: RelayId, socket: TcpStream, from: SocketAddr) {
        let accepted = self
            .server
            .handle_peer_accepted(self.now, relay, from, &mut self.response);
        let Ok((connection, client)) = accepted else {
            // Reset, not merely ended: the peer knows at once, and nothing of it lingers here. The core has counted why.
            let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            return;
        };
        let ready = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true));
        let added = ready.and_then(|()| self.tcp.add(&self.epoll, self.now.mono, connection, socket, false));
        match added {
            Ok(()) => self.respond(&client),
            Err(_) => self.server.handle_peer_closed(connection),
        }
    }

    /// Begins to connect to a peer.
    pub(super) fn connect_peer(&mut self, id: ConnectionId, bind: SocketAddr, peer: SocketAddr) {
        let begun =
            tcp::connect(bind, peer).and_then(|socket| self.tcp.add(&self.epoll, self.now.mono, id, socket, true));
        if let Err(error) = begun {
            if is_exhausted(&error) {
                self.socket_failed(&error, bind);
            }
            self.peer_connected(id, false);
        }
    }

    /// The core has no use for a peer connection any more.
    pub(super) fn close_peer(&mut self, id: ConnectionId) {
        if self.tcp.peers.remove(&id).is_some_and(|peer| peer.connecting) {
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

    /// A peer's socket is ready for something.
    pub(super) fn handle_peer_socket(&mut self, id: ConnectionId, event: ReadyDescriptor) {
        let Some(peer) = self.tcp.peers.get_mut(&id) else {
            return;
        };
        if peer.client.is_some() {
            self.relay_bytes(id, event, false);
        } else if !peer.connecting {
            // Not read, it can only have failed.
            if event.error || event.hangup {
                self.peer_closed(id);
            }
        } else if matches!(peer.socket.take_error(), Ok(None)) && !event.error && !event.hangup {
            peer.connecting = false;
            match peer
                .watch
                .set(&self.epoll, &peer.socket, Token::Peer(id), Interest::None)
            {
                Ok(()) => self.peer_connected(id, true),
                Err(_) => self.connect_failed(id),
            }
        } else {
            self.connect_failed(id);
        }
    }

    fn connect_failed(&mut self, id: ConnectionId) {
        self.tcp.peers.remove(&id);
        self.peer_connected(id, false);
    }

    /// A client's side of a peer connection is ready for something.
    pub(super) fn handle_peer_client(&mut self, id: ConnectionId, event: ReadyDescriptor) {
        self.relay_bytes(id, event, true);
    }

    /// The stream `link` is the client's side of connection `id` from here on. What is queued for it goes first.
    pub(super) fn bind_connection(&mut self, link: Link, id: ConnectionId) {
        let Some(stream) = self.release_stream(link) else {
            self.peer_closed(id);
            return;
        };
        self.stats.stream_closed("moved");
        let (socket, parts, mut guard) = stream.into_parts();
        guard.settle();
        let watched = self
            .epoll
            .add(socket.as_fd(), Token::PeerClient(id).bits(), Interest::Read);
        let Some(peer) = self.tcp.peers.get_mut(&id).filter(|_| watched.is_ok()) else {
            self.peer_closed(id);
            return;
        };
        peer.moved_at = self.now.mono;
        // What stood right behind the ConnectionBind goes to the peer as well.
        let early = parts.received.len() as u64;
        peer.client = Some(PeerClient {
            socket,
            watch: Watch(Some(Interest::Read)),
            pipe: Pipe::new(parts),
            _guard: guard,
        });
        if early > 0 {
            self.server.handle_connection_data(id, early, 0);
        }
        self.pump(id);
    }

    /// The stream of `client` belongs to `shard`, together with the message of it at `packet` in the slab, taken from it last.
    pub(super) fn hand_over(&mut self, client: &Client, shard: usize, packet: Range<usize>) {
        let Some(stream) = self.release_stream(client.link) else {
            return;
        };
        let (socket, parts, guard) = stream.into_parts();
        let StreamParts { tls, received, unsent } = parts;
        let (Some(to), true) = (self.handover_to.get(shard), unsent.is_empty()) else {
            // A client that has not read what it was answered before cannot have known what to bind.
            self.stats.stream_closed("control_queue");
            return;
        };
        let mut early = self.carrier.recv.slab().get(packet).unwrap_or_default().to_vec();
        early.extend_from_slice(&received);
        let handed_over = to.adopt(StreamHandover {
            socket,
            tls: tls.map(TlsSession::into_inner),
            early,
            client: client.five_tuple.client,
            server: client.five_tuple.server,
            transport: client.five_tuple.transport,
            guard,
        });
        if handed_over {
            self.stats.stream_closed("moved");
        } else {
            self.stats.stream_refused();
        }
    }

    /// Lets a stream go, everything queued for it written as far as its socket takes it.
    fn release_stream(&mut self, link: Link) -> Option<Stream> {
        let Token::Stream { slot, generation } = Token::from_link(link) else {
            return None;
        };
        let stream = self.streams.by_name(slot, generation)?;
        if stream.closing.is_some() {
            return None;
        }
        // What is left of it goes along.
        let _: Result<Flushed, _> = stream.flush(self.now.mono);
        self.stats.streams.sub(1);
        let released = self.streams.release(&self.epoll, slot);
        if released.is_none() {
            self.stats.stream_closed("io");
        }
        released
    }

    /// Something has happened at one side of a bound connection.
    fn relay_bytes(&mut self, id: ConnectionId, event: ReadyDescriptor, at_client: bool) {
        let Some(peer) = self.tcp.peers.get_mut(&id) else {
            return;
        };
        let Some(client) = &mut peer.client else { return };
        if event.error {
            self.peer_closed(id);
            return;
        }
        if event.hangup {
            let ended = if at_client {
                client.pipe.client_hung_up();
                client.watch.end(&self.epoll, &client.socket)
            } else {
                client.pipe.peer_hung_up();
                peer.watch.end(&self.epoll, &peer.socket)
            };
            if ended.is_err() {
                self.peer_closed(id);
                return;
            }
        }
        self.pump(id);
    }

    /// Relays what can be relayed, tells the core how much, and waits for what is needed for more.
    fn pump(&mut self, id: ConnectionId) {
        let Some(peer) = self.tcp.peers.get_mut(&id) else {
            return;
        };
        let Some(client) = &mut peer.client else { return };
        let Ok(moved) = client.pipe.pump(&client.socket, &peer.socket) else {
            self.peer_closed(id);
            return;
        };
        if moved.up + moved.down > 0 {
            peer.moved_at = self.now.mono;
            self.server.handle_connection_data(id, moved.up, moved.down);
        }
        let (at_client, at_peer) = client.pipe.interest();
        let watched = client
            .watch
            .set(&self.epoll, &client.socket, Token::PeerClient(id), at_client)
            .and_then(|()| peer.watch.set(&self.epoll, &peer.socket, Token::Peer(id), at_peer));
        if client.pipe.is_done() || watched.is_err() {
            self.peer_closed(id);
        }
    }

    /// Closes both sides of a connection, and tells the core.
    fn peer_closed(&mut self, id: ConnectionId) {
        self.tcp.peers.remove(&id);
        self.server.handle_peer_closed(id);
    }

    /// Closes half-closed connections in which nothing happens, and listens again where descriptors had run out.
    pub(super) fn check_peers(&mut self) {
        let (now, most) = (self.now.mono, self.tcp.half_closed);
        let over = |peer: &Peer| {
            let half_closed = peer.client.as_ref().is_some_and(|client| client.pipe.is_half_closed());
            half_closed && now - peer.moved_at >= most
        };
        let over: Vec<ConnectionId> = self
            .tcp
            .peers
            .iter()
            .filter(|(_, peer)| over(peer))
            .map(|(&id, _)| id)
            .collect();
        for id in over {
            self.peer_closed(id);
        }
        if std::mem::take(&mut self.tcp.starved) {
            for (&token, listener) in self.tcp.listeners.iter_mut().filter(|(_, it)| !it.watched) {
                listener.watched = self
                    .epoll
                    .modify(listener.socket.as_fd(), token, Interest::Read)
                    .is_ok();
                self.tcp.starved |= !listener.watched;
            }
        }
    }
}

/// Out of descriptors or memory.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC)
    )
}

#[cfg(test)]
mod tests;
