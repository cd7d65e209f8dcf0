//! The core's outputs: a verdict for each packet, commands and events for everything slower.

use core::ops::Range;
use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::refusal::Refused;
use super::session_id::SessionId;
use super::shared::ports::RelayPort;
use super::types::{AllocationId, ChannelNumber, ConnectionId, Link, PeerAddr, RelayId, RelayedAddr};
use crate::base::address::{FiveTuple, Transport};
use crate::base::closed_set::closed_set;
use crate::wire::{channel_data, message::TransactionId, writer};

/// The outcome of one packet. Holds no bytes: `data` is a range of the input packet, and
/// [`Frame::emit`] writes headers at the moment of sending. So gather I/O sends a whole batch
/// without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Send `packet[data]` to `peer` from the relay socket.
    ToPeer {
        /// Socket to send from.
        relay: RelayId,
        /// The peer.
        peer: PeerAddr,
        /// Application data within the input packet.
        data: DataRange,
        /// The client requested DONT-FRAGMENT for this datagram (RFC 8656 §11.2).
        dont_fragment: bool,
    },
    /// The peer is another relayed address of this server: pass `packet[data]` to
    /// `Server::handle_relayed` of that shard.
    ToAllocation {
        /// Index of the shard that owns the receiving allocation.
        shard: u16,
        /// The receiving allocation's relayed transport address.
        to: RelayedAddr,
        /// The sender's relayed transport address, which the receiver sees as the peer address.
        from: PeerAddr,
        /// Application data within the input packet.
        data: DataRange,
    },
    /// Send the whole input packet to the allocation's client, after the header that `frame`
    /// describes.
    ToClient {
        /// The allocation whose client receives it (`Server::client`).
        allocation: AllocationId,
        /// The header.
        frame: Frame,
    },
    /// A response for the sender is in the response buffer.
    Respond,
    /// No response yet. Either the shard opens a relay socket or a connection to a peer, and the
    /// response comes from `Server::handle_relay_opened` or `Server::handle_peer_connected`. Or
    /// another shard is asked for the client's allocation (RFC 8016). Then the response comes from
    /// `Server::handle_migration`, or this packet comes again from `Server::poll_held`.
    Waiting,
    /// A success response is in the response buffer. After this response the stream stops being
    /// TURN and becomes the client's half of this connection (RFC 6062 §5.4).
    BindConnection(ConnectionId),
    /// Another shard owns the stream: move it there, together with this message.
    MoveStream {
        /// Index of that shard.
        shard: u16,
    },
    /// Send nothing, and count the packet.
    Drop(DropReason),
}

/// A byte range, `Copy` unlike [`Range`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRange {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl From<Range<usize>> for DataRange {
    /// Saturates at 4 GiB, which no packet has.
    fn from(range: Range<usize>) -> Self {
        let narrow = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: narrow(range.start),
            end: narrow(range.end),
        }
    }
}

impl DataRange {
    /// As an index range.
    pub const fn as_range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Length in bytes.
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether the range is empty.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// How to wrap application data from a peer for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A ChannelData message (RFC 8656 §12.4).
    Channel(ChannelNumber),
    /// A Data indication (RFC 8656 §11.3).
    Data {
        /// XOR-PEER-ADDRESS.
        peer: PeerAddr,
        /// Transaction id of the indication.
        transaction_id: TransactionId,
    },
}

impl Frame {
    /// Space for the longest header: a Data indication with an IPv6 peer.
    pub const MAX_HEADER: usize = 48;

    /// Writes the header for `data_len` bytes of application data into `out` and returns its
    /// length. [`Frame::padding`] zero bytes follow the data.
    pub fn emit(self, data_len: usize, out: &mut [u8; Self::MAX_HEADER]) -> usize {
        match self {
            Self::Channel(number) => {
                channel_data::emit_header(number.0, data_len, out);
                channel_data::HEADER_LEN
            }
            Self::Data { peer, transaction_id } => {
                writer::emit_data_indication_header(transaction_id, peer.0, data_len, out)
            }
        }
    }

    /// Zero bytes to send after `data_len` bytes of application data. A Data indication is always
    /// padded to four, ChannelData only on a stream (RFC 8656 §12.5). Over DTLS the RFC leaves it
    /// open. There ChannelData is padded too, because pion's client reads DTLS as a stream and
    /// waits for the padding.
    pub const fn padding(self, data_len: usize, transport: Transport) -> usize {
        match (self, transport) {
            (Self::Channel(_), Transport::Udp) => 0,
            _ => data_len.next_multiple_of(4) - data_len,
        }
    }
}

/// Work for the shard that does not belong to one packet. Drain with `Server::poll_command` after
/// every call.
#[derive(Debug)]
pub enum Command {
    /// Open and bind a relay socket, then call `Server::handle_relay_opened`.
    OpenRelay {
        /// Its id from now on.
        id: RelayId,
        /// Local address to bind: never port 0.
        bind: SocketAddr,
    },
    /// Close a relay socket.
    CloseRelay {
        /// Its id.
        id: RelayId,
    },
    /// Stop watching a relay socket and keep it for the migration that names it
    /// (`Migration::sockets`).
    DetachRelay {
        /// Its id.
        id: RelayId,
    },
    /// Open a relay socket that listens for TCP connections (RFC 6062 §5.1), then call
    /// `Server::handle_relay_opened`. Pass accepted connections to `Server::handle_peer_accepted`.
    /// Ends with [`Command::CloseRelay`].
    OpenTcpRelay {
        /// Its id from now on.
        id: RelayId,
        /// Local address to listen on: never port 0.
        bind: SocketAddr,
    },
    /// Connect to a peer (RFC 6062 §5.2), then call `Server::handle_peer_connected`.
    ConnectPeer {
        /// Its id from now on.
        connection: ConnectionId,
        /// Local address: that of the relay socket.
        bind: SocketAddr,
        /// The peer.
        peer: SocketAddr,
    },
    /// Close a peer connection, and the client's side if there is one. If it was still connecting,
    /// that has failed: call `Server::handle_peer_connected`.
    ClosePeer {
        /// Its id.
        connection: ConnectionId,
    },
    /// Drop this value. Until then no shard gets the port. The command follows those that close the
    /// port's sockets, so the next allocation with this port can bind it.
    FreePort {
        /// Returns to the pool when dropped.
        port: RelayPort,
    },
    /// Close a client's stream: its first bytes were not TURN, or the server ended its allocation.
    CloseStream {
        /// Its id.
        link: Link,
    },
}

/// Events for the operator's log, oldest first. Drain with `Server::poll_event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An Allocate succeeded.
    AllocationBegan {
        /// Its id, which all log lines about it share.
        id: SessionId,
        /// The client.
        five_tuple: FiveTuple,
        /// Full USERNAME of the Allocate.
        username: Arc<str>,
        /// One relayed transport address per family.
        relayed: [Option<RelayedAddr>; 2],
    },
    /// An allocation has moved to its client's new five-tuple (RFC 8016). Reported by the shard
    /// that received it.
    AllocationMoved {
        /// Its id.
        id: SessionId,
        /// The shard it came from.
        from: usize,
        /// Its previous five-tuple.
        was: FiveTuple,
        /// Its new five-tuple. `None`: the client disconnected before the allocation arrived.
        client: Option<FiveTuple>,
        /// Full USERNAME of the Allocate.
        username: Arc<str>,
        /// Its relayed transport addresses, which do not change.
        relayed: [Option<RelayedAddr>; 2],
    },
    /// An allocation has ended.
    AllocationEnded {
        /// Its id.
        id: SessionId,
        /// The client.
        five_tuple: FiveTuple,
        /// Full USERNAME of the Allocate.
        username: Arc<str>,
        /// Its relayed transport addresses.
        relayed: [Option<RelayedAddr>; 2],
        /// Its traffic in both directions.
        traffic: Traffic,
        /// How long it existed.
        age: Duration,
        /// Why it ended.
        why: EndReason,
    },
    /// A request of a client whose address is proved was refused.
    Refused(Box<Refused>),
}

/// Application data relayed for one allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets from the client to peers.
    pub up_packets: u64,
    /// Bytes of application data from the client to peers.
    pub up_bytes: u64,
    /// Packets from peers to the client.
    pub down_packets: u64,
    /// Bytes of application data from peers to the client.
    pub down_bytes: u64,
}

closed_set! {
    /// Why an allocation ended.
    EndReason {
        /// Refresh with LIFETIME 0 (RFC 8656 §8.2).
        Released => "released",
        /// Its lifetime ran out.
        Expired => "expired",
        /// The client's stream closed (design decision D11).
        Disconnected => "disconnected",
        /// The server is stopping.
        Shutdown => "shutdown",
        /// It moved to another worker, which could not watch its relay socket.
        SocketLost => "socket_lost",
        /// An operator ended it.
        Operator => "operator",
        /// Its user's credentials were revoked.
        Revoked => "revoked",
    }
}

closed_set! {
    /// Why a TCP connection with a peer ended (RFC 6062).
    ConnectionEnd {
        /// The client or the peer closed it.
        Closed => "closed",
        /// The peer could not be reached.
        ConnectFailed => "connect_failed",
        /// The peer did not answer within 30 s.
        ConnectTimeout => "connect_timeout",
        /// No ConnectionBind came within 30 s.
        NotBound => "not_bound",
        /// It has relayed as many bytes as allowed.
        ByteLimit => "byte_limit",
        /// A reload forbids the peer, or disabled TCP allocations.
        Policy => "policy",
        /// Its allocation ended.
        Allocation => "allocation",
    }
}

closed_set! {
    /// Why a peer's TCP connection was closed as soon as it was accepted (RFC 6062 §5.3).
    PeerRefusal {
        /// No live permission for the peer, or the allocation has ended.
        NoPermission => "no_permission",
        /// The peer policy forbids this peer.
        PeerDenied => "peer_denied",
        /// The limit of connections is reached.
        TooMany => "too_many",
    }
}

closed_set! {
    /// Why a packet was dropped. Every reason is a metric label.
    DropReason {
        /// Not STUN, ChannelData or DTLS by its first byte (RFC 7983).
        NotTurn => "not_turn",
        /// A Binding request of RFC 3489 over UDP, which `turn.compat.rfc3489_binding` would
        /// enable.
        Rfc3489 => "rfc3489",
        /// A STUN header or attribute that cannot be parsed.
        Malformed => "malformed",
        /// FINGERPRINT is wrong or not last.
        BadFingerprint => "bad_fingerprint",
        /// A response, or a class the method does not allow.
        UnexpectedClass => "unexpected_class",
        /// A Binding indication, which keeps a NAT mapping alive and expects no response.
        KeepAlive => "keep_alive",
        /// A method that this server does not support.
        UnknownMethod => "unknown_method",
        /// An indication with an unknown comprehension-required attribute.
        UnknownAttribute => "unknown_attribute",
        /// A request over UDP that is shorter than that of any real client, or too short for its
        /// response (`reflection`).
        ShortRequest => "short_request",
        /// Over the limit for replies to unauthenticated requests.
        ChallengeLimited => "challenge_limited",
        /// Over the limit for such replies to all sources together.
        AllChallengesLimited => "all_challenges_limited",
        /// Over the limit for Binding responses.
        BindingLimited => "binding_limited",
        /// Over the limit for failed logins.
        LoginLimited => "login_limited",
        /// Over the limit for CreatePermission, ChannelBind and Connect requests of one allocation.
        PermissionLimited => "permission_limited",
        /// Over the limit for requests of one allocation.
        AllocationRate => "allocation_rate",
        /// Over the limit for requests of one user that concern none of its allocations.
        UserRate => "user_rate",
        /// Plain Binding is disabled.
        BindingDisabled => "binding_disabled",
        /// An indication or ChannelData without an allocation.
        NoAllocation => "no_allocation",
        /// ChannelData on a number that is not bound, or no longer bound.
        NoChannel => "no_channel",
        /// No live permission for the peer.
        NoPermission => "no_permission",
        /// The peer policy forbids this peer.
        PeerDenied => "peer_denied",
        /// The allocation has no relayed address of the peer's family.
        FamilyMismatch => "family_mismatch",
        /// A Send indication on an allocation that relays TCP (RFC 6062).
        TcpAllocation => "tcp_allocation",
        /// A peer address of this server without an allocation.
        NoSuchRelay => "no_such_relay",
        /// A retransmission while the first request is still in progress.
        Retransmission => "retransmission",
        /// ChannelData shorter than its header says, or on a reserved number.
        BadChannelData => "bad_channel_data",
        /// Application data too long for its path.
        TooLong => "too_long",
        /// A Send indication without peer address or data.
        IncompleteIndication => "incomplete_indication",
        /// The client's stream is too slow: the oldest data was dropped (never STUN).
        StreamBackpressure => "stream_backpressure",
        /// The mailbox to another shard is full.
        MailboxFull => "mailbox_full",
        /// The kernel refused the datagram; details in `relay_send_errors_total`.
        SendFailed => "send_failed",
        /// The relay socket or stream has closed meanwhile.
        Gone => "gone",
        /// The client's stream is closed, and its allocation waits for it with a mobility ticket
        /// (RFC 8016).
        ClientAway => "client_away",
        /// The client's allocation is moving here from another worker, and the limit of held
        /// packets is reached.
        Moving => "moving",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_without_bytes_is_empty_wherever_it_begins() {
        let range = |start, end| DataRange { start, end };
        assert!(range(0, 0).is_empty() && range(36, 36).is_empty());
        assert!(!range(0, 1).is_empty() && !range(35, 36).is_empty());
    }
}
