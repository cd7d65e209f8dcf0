//! How a shard names its sockets: in `turn::types::Link`, and in what epoll hands back.
//!
//! ```text
//! 63..60 kind | 59..32 generation | 31..0 slot
//! ```
//! A slot is reused, and each use has a generation of its own: a token of an earlier use finds
//! nothing. A peer connection is named by its CONNECTION-ID, which is not reused while any state
//! refers to it.

use crate::base::address::Family;
use crate::turn::types::{AllocationId, ConnectionId, Link, RelayId};

const GENERATION_BITS: u32 = 28;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
const KIND_SHIFT: u32 = 32 + GENERATION_BITS;

/// Names a socket, or what shares one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A listener's UDP socket, by index.
    Listener(u32),
    /// A relay socket: slot ([`relay_slot`]) and generation of its allocation.
    Relay {
        /// Slot.
        slot: u32,
        /// Generation.
        generation: u32,
    },
    /// A client's stream.
    Stream {
        /// Slot.
        slot: u32,
        /// Generation.
        generation: u32,
    },
    /// A client's DTLS association. It shares its listener's socket.
    Dtls {
        /// Slot.
        slot: u32,
        /// Generation.
        generation: u32,
    },
    /// The worker's waker.
    Waker,
    /// A relay socket that listens for peers (RFC 6062): slot and generation as of
    /// [`Token::Relay`].
    TcpRelay {
        /// Slot.
        slot: u32,
        /// Generation.
        generation: u32,
    },
    /// A connection with a peer.
    Peer(ConnectionId),
    /// The client's side of one.
    PeerClient(ConnectionId),
    /// The socket of an HTTP/3 flow that leads to the backend.
    Http3 {
        /// Slot.
        slot: u32,
        /// Generation.
        generation: u32,
    },
}

impl Token {
    /// As an epoll token.
    pub(super) const fn bits(self) -> u64 {
        let (kind, generation, slot) = match self {
            Self::Listener(slot) => (0, 0, slot),
            Self::Relay { slot, generation } => (1, generation, slot),
            Self::Stream { slot, generation } => (2, generation, slot),
            Self::Waker => (3, 0, 0),
            Self::Dtls { slot, generation } => (4, generation, slot),
            Self::TcpRelay { slot, generation } => (5, generation, slot),
            Self::Peer(ConnectionId(id)) => (6, 0, id),
            Self::PeerClient(ConnectionId(id)) => (7, 0, id),
            Self::Http3 { slot, generation } => (8, generation, slot),
        };
        (kind << KIND_SHIFT) | (((generation & GENERATION_MASK) as u64) << 32) | slot as u64
    }

    /// From an epoll token.
    pub(super) const fn from_bits(bits: u64) -> Self {
        let slot = bits as u32;
        let generation = (bits >> 32) as u32 & GENERATION_MASK;
        match bits >> KIND_SHIFT {
            0 => Self::Listener(slot),
            1 => Self::Relay { slot, generation },
            2 => Self::Stream { slot, generation },
            4 => Self::Dtls { slot, generation },
            5 => Self::TcpRelay { slot, generation },
            6 => Self::Peer(ConnectionId(slot)),
            7 => Self::PeerClient(ConnectionId(slot)),
            8 => Self::Http3 { slot, generation },
            _ => Self::Waker,
        }
    }

    /// As the way back to a client.
    pub(super) const fn link(self) -> Link {
        Link(self.bits())
    }

    /// From the way back to a client.
    pub(super) const fn from_link(link: Link) -> Self {
        Self::from_bits(link.0)
    }

    /// The token of a relay socket.
    pub(super) const fn relay(id: RelayId) -> Self {
        Self::Relay {
            slot: relay_slot(id),
            generation: id.allocation.generation & GENERATION_MASK,
        }
    }

    /// The token of a relay socket that listens for peers.
    pub(super) const fn tcp_relay(id: RelayId) -> Self {
        Self::TcpRelay {
            slot: relay_slot(id),
            generation: id.allocation.generation & GENERATION_MASK,
        }
    }
}

/// The generation after `generation`; it wraps within the bits of a [`Token`].
pub(super) const fn next_generation(generation: u32) -> u32 {
    (generation + 1) & GENERATION_MASK
}

/// An allocation has at most one relay socket per family.
pub(super) const fn relay_slot(id: RelayId) -> u32 {
    let AllocationId { index, .. } = id.allocation;
    index * 2 + matches!(id.family, Family::V6) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        for token in [
            Token::Listener(0),
            Token::Listener(7),
            Token::Relay { slot: 0, generation: 0 },
            Token::Relay {
                slot: u32::MAX,
                generation: GENERATION_MASK,
            },
            Token::Stream { slot: 3, generation: 5 },
            Token::Dtls { slot: 3, generation: 5 },
            Token::Waker,
            Token::TcpRelay {
                slot: u32::MAX,
                generation: GENERATION_MASK,
            },
            Token::Peer(ConnectionId(u32::MAX)),
            Token::PeerClient(ConnectionId(0)),
            Token::Http3 {
                slot: 1,
                generation: GENERATION_MASK,
            },
        ] {
            assert_eq!(Token::from_bits(token.bits()), token);
            assert_eq!(Token::from_link(token.link()), token);
        }
    }

    #[test]
    fn the_two_families_of_an_allocation_differ_and_so_do_its_generations() {
        let id = |generation, family| RelayId {
            allocation: AllocationId { index: 9, generation },
            family,
        };
        let tokens = [
            Token::relay(id(1, Family::V4)),
            Token::relay(id(1, Family::V6)),
            Token::relay(id(2, Family::V4)),
        ];
        assert!(tokens[0] != tokens[1] && tokens[0] != tokens[2]);
    }

    #[test]
    fn generations_wrap_within_their_bits() {
        assert_eq!(next_generation(GENERATION_MASK), 0);
        assert_eq!(next_generation(4), 5);
    }
}
