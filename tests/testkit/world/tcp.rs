//! TCP allocations (RFC 6062): the shard's part.

use std::net::SocketAddr;

use relay_proto::turn::types::{ConnectionId, RelayId};
use relay_proto::turn::{self, Response};
use relay_proto::wire::attribute::{self, AttributeType};
use relay_proto::wire::message::{Class, Message, Method};

use super::World;

/// TCP sockets and their state.
#[derive(Default)]
pub struct Tcp {
    /// Listening relay sockets.
    pub listening: Vec<RelayId>,
    /// Peers that have not answered yet.
    pub connecting: Vec<Connecting>,
    /// Connections with peers: shard and id.
    pub open: Vec<(usize, ConnectionId)>,
    /// Responses to Connect requests that came later.
    pub late: Vec<(turn::types::Client, Vec<u8>)>,
}

/// A connection in progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Connecting {
    pub shard: usize,
    pub id: ConnectionId,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// A ConnectionAttempt indication.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attempt {
    pub client: turn::types::Client,
    pub peer: SocketAddr,
    pub id: ConnectionId,
}

impl World {
    pub(super) fn begin_connect(&mut self, shard: usize, id: ConnectionId, from: SocketAddr, to: SocketAddr) {
        self.tcp.connecting.push(Connecting { shard, id, from, to });
    }

    pub(super) fn close_peer(&mut self, shard: usize, id: ConnectionId) {
        let before = self.tcp.connecting.len();
        self.tcp.connecting.retain(|it| (it.shard, it.id) != (shard, id));
        if self.tcp.connecting.len() < before {
            self.tell_connected(shard, id, false);
        }
        self.tcp.open.retain(|&open| open != (shard, id));
    }

    /// The peer of the oldest request answers or refuses.
    pub fn peer_answers(&mut self, connected: bool) -> Connecting {
        let it = self.tcp.connecting.remove(0);
        if connected {
            self.tcp.open.push((it.shard, it.id));
        }
        self.tell_connected(it.shard, it.id, connected);
        self.settle(it.shard);
        it
    }

    fn tell_connected(&mut self, shard: usize, id: ConnectionId, connected: bool) {
        let (now, mut response) = (self.now(), Response::new());
        if let Some(client) = self.shards[shard].handle_peer_connected(now, id, connected, &mut response) {
            self.tcp.late.push((client, response.bytes().to_vec()));
        }
    }

    /// A peer connects to a relayed transport address (as announced); returns what its client
    /// receives.
    pub fn peer_connects(&mut self, from: SocketAddr, to: SocketAddr) -> Result<Attempt, turn::output::PeerRefusal> {
        let found = self
            .sockets
            .iter()
            .find(|((_, id), bound)| bound.port() == to.port() && self.tcp.listening.contains(id));
        let (&(shard, relay), _) = found.expect("somebody listens there");
        let (now, mut response) = (self.now(), Response::new());
        let accepted = self.shards[shard].handle_peer_accepted(now, relay, from, &mut response);
        self.settle(shard);
        let (id, client) = accepted?;
        self.tcp.open.push((shard, id));
        let message = Message::parse(response.bytes()).expect("an indication");
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Some(Method::ConnectionAttempt))
        );
        let told = message.decode(AttributeType::CONNECTION_ID, attribute::connection_id);
        assert_eq!(told, Ok(Some(id.0)));
        let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS).unwrap();
        Ok(Attempt {
            client,
            peer: peer.expect("XOR-PEER-ADDRESS"),
            id,
        })
    }

    /// A side of a connection closes.
    pub fn peer_closes(&mut self, shard: usize, id: ConnectionId) {
        self.tcp.open.retain(|&open| open != (shard, id));
        self.shards[shard].handle_peer_closed(id);
        self.settle(shard);
    }

    /// Bytes have been relayed over a bound connection.
    pub fn relayed_bytes(&mut self, shard: usize, id: ConnectionId, up: u64, down: u64) {
        self.shards[shard].handle_connection_data(id, up, down);
        self.settle(shard);
    }

    pub(super) fn assert_no_connections(&self) {
        let tcp = &self.tcp;
        assert!(
            tcp.listening.is_empty() && tcp.connecting.is_empty() && tcp.open.is_empty(),
            "{:?} {:?} {:?}",
            tcp.listening,
            tcp.connecting,
            tcp.open
        );
        for (server, counters) in self.shards.iter().zip(&self.counters) {
            assert_eq!((server.connections(), counters.tcp.connections.get()), (0, 0));
        }
    }
}
