//! The terms of RFC 8656 §2 as types, so that a client's side and a peer's side cannot be confused.

use std::net::SocketAddr;

use crate::base::address::{Family, FiveTuple};

/// Where bytes for a client go. Opaque to the core; the shard encodes in it which UDP socket, or
/// which stream and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link(pub u64);

/// A client, with the shard's path to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its identity in the protocol.
    pub five_tuple: FiveTuple,
    /// The path back to it.
    pub link: Link,
}

impl Client {
    /// The same client, as if it had sent from `client` to `server`.
    #[must_use]
    pub const fn seen_at(self, server: SocketAddr, client: SocketAddr) -> Self {
        let FiveTuple { transport, .. } = self.five_tuple;
        Self {
            five_tuple: FiveTuple {
                client,
                server,
                transport,
            },
            ..self
        }
    }
}

/// Identifies one allocation of one shard. A stale id never matches a newer allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllocationId {
    /// Slot in the shard's table.
    pub index: u32,
    /// How often the slot was reused.
    pub generation: u32,
}

/// Identifies one relay socket: an allocation has one per address family (RFC 8656 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayId {
    /// The owner.
    pub allocation: AllocationId,
    /// The family of its relayed transport address.
    pub family: Family,
}

/// CONNECTION-ID (RFC 6062 §6.2.1): identifies one peer data connection. Its shard is `id % shard
/// count`, so a ConnectionBind finds the connection without a shared lookup. Random, so that
/// clients cannot guess each other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// A peer's transport address, canonical (never IPv4-mapped).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// A relayed transport address as announced to clients and peers (XOR-RELAYED-ADDRESS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayedAddr(pub SocketAddr);

/// A channel number in a ChannelData header (RFC 8656 §12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelNumber(pub u16);

/// Which of the server's shards this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    /// 0-based.
    pub index: usize,
    /// Number of shards.
    pub count: usize,
}

impl ShardIndex {
    /// The index of the shard that issued `id`.
    pub const fn owner_of_connection(self, id: ConnectionId) -> usize {
        id.0 as usize % self.count
    }
}

/// The listeners that a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Listeners on which a forced login is valid.
    Forced,
    /// All other listeners.
    Other,
}

impl Path {
    /// Every path, in the order of the metric labels.
    pub const ALL: [Self; 2] = [Self::Forced, Self::Other];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Transport;

    #[test]
    fn a_client_seen_elsewhere_keeps_its_transport_and_its_link() {
        let at = |text: &str| text.parse().unwrap();
        let five_tuple = FiveTuple {
            client: at("192.0.2.1:1"),
            server: at("198.51.100.1:3478"),
            transport: Transport::Dtls,
        };
        let client = Client {
            five_tuple,
            link: Link(7),
        };
        let seen = client.seen_at(at("198.51.100.2:443"), at("192.0.2.2:2"));
        assert_eq!(
            (seen.five_tuple.client, seen.five_tuple.server),
            (at("192.0.2.2:2"), at("198.51.100.2:443"))
        );
        assert_eq!((seen.five_tuple.transport, seen.link), (Transport::Dtls, Link(7)));
    }

    #[test]
    fn paths_are_labelled() {
        assert_eq!(Path::ALL.map(Path::as_str), ["forced", "other"]);
    }
}
