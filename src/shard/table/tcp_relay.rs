//! Sockets of TCP allocations (RFC 6062): those that listen for peers, connections with peers, and
//! the pipes between those and the clients' connections.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use hashbrown::HashMap;

use crate::base::time::Instant;
use crate::net::canonical;
use crate::net::epoll::{Epoll, Interest};
use crate::net::stream::StreamParts;
use crate::net::tcp::{self, Pipe, Pumped};
use crate::shard::stream_intake::StreamGuard;
use crate::shard::token::Token;
use crate::turn::types::{ConnectionId, RelayId};

/// All sockets of a shard's TCP allocations; nothing where they are off.
pub(in crate::shard) struct TcpRelays {
    /// By token of [`Token::TcpRelay`].
    listeners: HashMap<u64, Listener>,
    peers: HashMap<ConnectionId, Box<Peer>>,
    /// Some listeners are not watched, because there was no descriptor left to accept with.
    starved: bool,
    /// A connection with one direction ended is kept this long after the last byte in the other.
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

/// What stage a connection with a peer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum PeerStage {
    /// The peer has not answered yet.
    Connecting,
    /// No client's connection is bound to it. It is not read: what the peer sends waits in the
    /// kernel.
    Unbound,
    /// A client's connection is bound to it.
    Bound,
}

/// What epoll watches a socket for; `None`: nothing any more.
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

    /// Both directions of a socket are shut, which epoll would report again and again.
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

    /// Whether there is nothing with a deadline.
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.peers.is_empty() && !self.starved
    }

    /// Opens a relay socket that listens for peers.
    ///
    /// # Errors
    /// Those of the system; nothing stays open then.
    pub(in crate::shard) fn listen(&mut self, epoll: &Epoll, id: RelayId, bind: SocketAddr) -> io::Result<()> {
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

    /// Closes a relay socket that listens for peers; `false` if there is none of that name.
    pub(in crate::shard) fn close_listener(&mut self, id: RelayId) -> bool {
        self.listeners.remove(&Token::tcp_relay(id).bits()).is_some()
    }

    /// Accepts one connection of a peer. `None`: none waits.
    ///
    /// # Errors
    /// Those of the system; if descriptors or memory have run out, call [`Self::starve`].
    pub(in crate::shard) fn accept(&mut self, token: Token) -> io::Result<Option<(RelayId, TcpStream, SocketAddr)>> {
        let Some(listener) = self.listeners.get(&token.bits()) else {
            return Ok(None);
        };
        match listener.socket.accept() {
            Ok((socket, from)) => Ok(Some((listener.id, socket, canonical(from)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stops watching a listener until [`Self::watch_starved`]: it stays readable, and would keep
    /// the loop turning for nothing. Returns the address it is bound to.
    pub(in crate::shard) fn starve(&mut self, epoll: &Epoll, token: Token) -> Option<SocketAddr> {
        let listener = self.listeners.get_mut(&token.bits())?;
        let fd = listener.socket.as_fd();
        listener.watched = epoll.modify(fd, token.bits(), Interest::None).is_err();
        self.starved = true;
        Some(listener.bind)
    }

    /// Watches the listeners again that were starved.
    pub(in crate::shard) fn watch_starved(&mut self, epoll: &Epoll) {
        if std::mem::take(&mut self.starved) {
            for (&token, listener) in self.listeners.iter_mut().filter(|(_, it)| !it.watched) {
                listener.watched = epoll.modify(listener.socket.as_fd(), token, Interest::Read).is_ok();
                self.starved |= !listener.watched;
            }
        }
    }

    /// Adds a connection with a peer.
    ///
    /// # Errors
    /// It cannot be watched; it is closed then.
    pub(in crate::shard) fn add(
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

    /// What stage connection `id` is in; `None`: there is none of that name.
    pub(in crate::shard) fn stage(&self, id: ConnectionId) -> Option<PeerStage> {
        self.peers.get(&id).map(|peer| peer.stage())
    }

    /// Ends connecting to a peer, whose socket is writable. `false`: it has failed.
    pub(in crate::shard) fn finish_connecting(&mut self, epoll: &Epoll, id: ConnectionId) -> bool {
        self.peers.get_mut(&id).is_some_and(|peer| {
            let connected = matches!(peer.socket.take_error(), Ok(None));
            peer.connecting = !connected;
            let watch = &mut peer.watch;
            connected && watch.set(epoll, &peer.socket, Token::Peer(id), Interest::None).is_ok()
        })
    }

    /// Binds a client's connection to connection `id`. `false`: it cannot be watched, or there is
    /// no such connection.
    pub(in crate::shard) fn bind(
        &mut self,
        epoll: &Epoll,
        now: Instant,
        id: ConnectionId,
        (socket, parts, guard): (TcpStream, StreamParts, Box<dyn StreamGuard>),
    ) -> bool {
        let watched = epoll.add(socket.as_fd(), Token::PeerClient(id).bits(), Interest::Read);
        let Some(peer) = self.peers.get_mut(&id).filter(|_| watched.is_ok()) else {
            return false;
        };
        peer.moved_at = now;
        peer.client = Some(PeerClient {
            socket,
            watch: Watch(Some(Interest::Read)),
            pipe: Pipe::new(parts),
            _guard: guard,
        });
        true
    }

    /// Both directions of one side's socket are shut.
    ///
    /// # Errors
    /// Epoll still watches it.
    pub(in crate::shard) fn hang_up(&mut self, epoll: &Epoll, id: ConnectionId, at_client: bool) -> io::Result<()> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        let Some(client) = &mut peer.client else { return Ok(()) };
        if at_client {
            client.pipe.client_hung_up();
            client.watch.end(epoll, &client.socket)
        } else {
            client.pipe.peer_hung_up();
            peer.watch.end(epoll, &peer.socket)
        }
    }

    /// Relays what can be relayed, and waits for what is needed for more. Returns what has moved,
    /// and whether the connection is over. `None`: connection `id` is not bound.
    pub(in crate::shard) fn pump(&mut self, epoll: &Epoll, now: Instant, id: ConnectionId) -> Option<(Pumped, bool)> {
        let peer = self.peers.get_mut(&id)?;
        let client = peer.client.as_mut()?;
        let Ok(moved) = client.pipe.pump(&client.socket, &peer.socket) else {
            return Some((Pumped::default(), true));
        };
        if moved.up + moved.down > 0 {
            peer.moved_at = now;
        }
        let (at_client, at_peer) = client.pipe.interest();
        let watched = client
            .watch
            .set(epoll, &client.socket, Token::PeerClient(id), at_client)
            .and_then(|()| peer.watch.set(epoll, &peer.socket, Token::Peer(id), at_peer));
        Some((moved, client.pipe.is_done() || watched.is_err()))
    }

    /// Closes both sides of a connection. Returns the stage it was in.
    pub(in crate::shard) fn remove(&mut self, id: ConnectionId) -> Option<PeerStage> {
        self.peers.remove(&id).map(|peer| peer.stage())
    }

    /// Half-closed connections in which nothing has moved for too long.
    pub(in crate::shard) fn idle(&self, now: Instant) -> Vec<ConnectionId> {
        let is_idle = |peer: &Peer| {
            let half_closed = peer.client.as_ref().is_some_and(|client| client.pipe.is_half_closed());
            half_closed && now - peer.moved_at >= self.half_closed
        };
        let idle = self.peers.iter().filter(|(_, peer)| is_idle(peer));
        idle.map(|(&id, _)| id).collect()
    }
}

impl Peer {
    const fn stage(&self) -> PeerStage {
        match (self.connecting, self.client.is_some()) {
            (_, true) => PeerStage::Bound,
            (true, false) => PeerStage::Connecting,
            (false, false) => PeerStage::Unbound,
        }
    }
}

/// For tests of the worker.
#[cfg(test)]
impl TcpRelays {
    pub(in crate::shard) fn peers(&self) -> Vec<ConnectionId> {
        self.peers.keys().copied().collect()
    }

    /// Listeners, and whether all of them are watched.
    pub(in crate::shard) fn listeners(&self) -> (usize, bool) {
        (
            self.listeners.len(),
            !self.starved && self.listeners.values().all(|it| it.watched),
        )
    }

    pub(in crate::shard) fn half_closed(&self) -> Duration {
        self.half_closed
    }

    /// As if descriptors had run out at the listener bound to `bind`.
    pub(in crate::shard) fn starve_at(&mut self, epoll: &Epoll, bind: SocketAddr) {
        let token = self.token(bind);
        self.starve(epoll, token).unwrap();
    }

    /// Puts `socket` in the place of that of the listener bound to `bind`.
    pub(in crate::shard) fn replace_listener(&mut self, bind: SocketAddr, socket: TcpListener) -> (Token, TcpListener) {
        let token = self.token(bind);
        let listener = self.listeners.get_mut(&token.bits()).unwrap();
        (token, std::mem::replace(&mut listener.socket, socket))
    }

    fn token(&self, bind: SocketAddr) -> Token {
        let listener = self.listeners.iter().find(|(_, it)| it.bind == bind);
        Token::from_bits(*listener.unwrap().0)
    }
}
