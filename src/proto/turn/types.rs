//! The nouns of RFC 8656 §2 as types, so that a client's side and a peer's side cannot be mixed up.

use std::net::SocketAddr;

use crate::base::address::{Family, FiveTuple};

/// Where bytes for a client go: opaque to the core, given meaning by the shard
/// (which UDP socket, which stream and which of its generations).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link(pub u64);

/// A client as the shard names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Identity in the protocol.
    pub five_tuple: FiveTuple,
    /// Way back to it.
    pub link: Link,
}

impl Client {
    /// The same client as if it had sent from `client` to `server`.
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

/// Names one allocation of one shard; a stale id never names a newer allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllocationId {
    /// Slot in the shard's table.
    pub index: u32,
    /// How often the slot was reused.
    pub generation: u32,
}

/// Names one relay socket: an allocation has one per address family (RFC 8656 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayId {
    /// The owner.
    pub allocation: AllocationId,
    /// Which of its relayed transport addresses.
    pub family: Family,
}

/// CONNECTION-ID (RFC 6062 §6.2.1): names one peer data connection of one shard, which is `id % shard count`, so that a
/// ConnectionBind finds its way without a lookup that shards share. Drawn at random: nobody guesses another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// A peer's transport address, canonical (never IPv4-mapped).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// A relayed transport address as peers and clients are told it (XOR-RELAYED-ADDRESS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayedAddr(pub SocketAddr);

/// A channel number as it stands in a ChannelData header (RFC 8656 §12).
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
    /// The index of the shard that gave out `id`.
    pub const fn owner_of_connection(self, id: ConnectionId) -> usize {
        id.0 as usize % self.count
    }
}

/// By which listeners a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Those a forced login is good on.
    Forced,
    /// All others.
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
