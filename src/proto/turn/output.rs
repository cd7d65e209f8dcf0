//! What the core answers: verdicts for packets, commands and events for everything slower.

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

/// What becomes of one packet. Holds no bytes: `data` is a range of the packet that was handed in, and headers are
/// written by [`Frame::emit`] at the moment of sending, so a whole batch can be sent by gather I/O without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Send `packet[data]` to `peer` from the relay socket.
    ToPeer {
        /// Socket to send from.
        relay: RelayId,
        /// Where to.
        peer: PeerAddr,
        /// Application data within the packet handed in.
        data: DataRange,
        /// DONT-FRAGMENT was asked for this datagram (RFC 8656 §11.2).
        dont_fragment: bool,
    },
    /// The peer is another relayed address of this server: hand `packet[data]` to the shard named,
    /// to `Server::handle_relayed`.
    ToAllocation {
        /// Index of the shard the receiving allocation lives in.
        shard: u16,
        /// The receiving allocation's relayed transport address.
        to: RelayedAddr,
        /// The sender's relayed transport address: the peer address the receiver sees.
        from: PeerAddr,
        /// Application data within the packet handed in.
        data: DataRange,
    },
    /// Send the whole packet handed in to the allocation's client, behind the header `frame` describes.
    ToClient {
        /// Whose client (`Server::client`).
        allocation: AllocationId,
        /// The header.
        frame: Frame,
    },
    /// A response for the sender is in the response buffer.
    Respond,
    /// Nothing yet: a relay socket, or a connection to a peer, is being opened, and the response comes from
    /// `Server::handle_relay_opened` or `Server::handle_peer_connected`; or another shard is asked for the client's
    /// allocation (RFC 8016), and the response comes from `Server::handle_handoff`, or this very packet again from
    /// `Server::poll_held`.
    Waiting,
    /// A success response is in the response buffer. Behind it, the stream it goes to is no TURN any more but the client's
    /// side of this connection (RFC 6062 §5.4).
    BindConnection(ConnectionId),
    /// The stream belongs to another shard: it goes there, this message first.
    Handover {
        /// Index of that shard.
        shard: u16,
    },
    /// Nothing is sent, and it is counted.
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
    /// As an index.
    pub const fn as_range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Number of bytes.
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// How application data from a peer is wrapped for the client.
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
    /// Room for the longest header: a Data indication with an IPv6 peer.
    pub const MAX_HEADER: usize = 48;

    /// Writes the header for `data_len` bytes of application data into `out` and returns its length.
    /// Behind the data go [`Frame::padding`] zero bytes.
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

    /// Zero bytes to send behind `data_len` bytes of application data: a Data indication is always padded to four,
    /// ChannelData on a stream (RFC 8656 §12.5). Over DTLS the RFC leaves it open, and pion's client waits for it: it
    /// reads DTLS as a stream.
    pub const fn padding(self, data_len: usize, transport: Transport) -> usize {
        match (self, transport) {
            (Self::Channel(_), Transport::Udp) => 0,
            _ => data_len.next_multiple_of(4) - data_len,
        }
    }
}

/// Work for the shard that is not about one packet. Drain with `Server::poll_command` after every call.
#[derive(Debug)]
pub enum Command {
    /// Open and bind a relay socket, then call `Server::handle_relay_opened`.
    OpenRelay {
        /// Its name from now on.
        id: RelayId,
        /// Local address to bind: never port 0.
        bind: SocketAddr,
    },
    /// Close a relay socket.
    CloseRelay {
        /// Which.
        id: RelayId,
    },
    /// Stop watching a relay socket and keep it for the handoff that names it (`Handoff::sockets`).
    DetachRelay {
        /// Which.
        id: RelayId,
    },
    /// Open a relay socket that listens for TCP connections (RFC 6062 §5.1), then call `Server::handle_relay_opened`.
    /// What connects is for `Server::handle_peer_accepted`. Ends with [`Command::CloseRelay`].
    OpenTcpRelay {
        /// Its name from now on.
        id: RelayId,
        /// Local address to listen on: never port 0.
        bind: SocketAddr,
    },
    /// Connect to a peer (RFC 6062 §5.2), then call `Server::handle_peer_connected`.
    ConnectPeer {
        /// Its name from now on.
        connection: ConnectionId,
        /// Local address: that of the relay socket.
        bind: SocketAddr,
        /// Where to.
        peer: SocketAddr,
    },
    /// Close a peer connection, and the client's side of it if there is one. If it was not connected yet, that has failed:
    /// call `Server::handle_peer_connected`.
    ClosePeer {
        /// Which.
        connection: ConnectionId,
    },
    /// Drop this. Until then no shard is given the port, and it comes behind the commands that close its sockets: so whoever
    /// is given it next can bind it.
    FreePort {
        /// Goes back to the pool.
        port: RelayPort,
    },
    /// Close a client's stream: its first bytes were no TURN, or its allocation ended by our decision.
    CloseStream {
        /// Which.
        link: Link,
    },
}

/// News for the operator's log. Drain with `Server::poll_event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An Allocate succeeded.
    AllocationBegan {
        /// Its id, which joins all lines about it.
        id: SessionId,
        /// The client.
        five_tuple: FiveTuple,
        /// Full USERNAME of the Allocate.
        username: Arc<str>,
        /// One relayed transport address per family.
        relayed: [Option<RelayedAddr>; 2],
    },
    /// An allocation has moved to its client's new five-tuple (RFC 8016). Told by the shard it came to.
    AllocationMoved {
        /// Its id.
        id: SessionId,
        /// The shard it was at.
        from: usize,
        /// The five-tuple it had.
        was: FiveTuple,
        /// The one it has now. `None`: the client was gone again before it came.
        client: Option<FiveTuple>,
        /// Full USERNAME of the Allocate.
        username: Arc<str>,
        /// Its relayed transport addresses: they stay.
        relayed: [Option<RelayedAddr>; 2],
    },
    /// An allocation is gone.
    AllocationEnded {
        /// Its id.
        id: SessionId,
        /// The client.
        five_tuple: FiveTuple,
        /// Full USERNAME of the Allocate.
        username: Arc<str>,
        /// What it had been given.
        relayed: [Option<RelayedAddr>; 2],
        /// Client to peers and back.
        traffic: Traffic,
        /// How long it lived.
        age: Duration,
        /// Why it ended.
        why: EndReason,
    },
    /// A request was refused, by a client whose address is proved.
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
        /// It has relayed as many bytes as it may.
        ByteLimit => "byte_limit",
        /// A reload forbids the peer, or TCP allocations as such.
        Policy => "policy",
        /// Its allocation ended.
        Allocation => "allocation",
    }
}

closed_set! {
    /// Why a peer's TCP connection was closed as soon as it was accepted (RFC 6062 §5.3).
    PeerRefusal {
        /// No live permission for the peer, or no allocation any more.
        NoPermission => "no_permission",
        /// The peer policy forbids this peer.
        PeerDenied => "peer_denied",
        /// There are as many connections as there may be.
        TooMany => "too_many",
    }
}

closed_set! {
    /// Why a packet went nowhere. Every reason is a metric label.
    DropReason {
        /// Not STUN, ChannelData or DTLS by its first byte (RFC 7983).
        NotTurn => "not_turn",
        /// A Binding request of RFC 3489 over UDP, which `turn.compat.rfc3489_binding` would answer.
        Rfc3489 => "rfc3489",
        /// A STUN header or attribute that cannot be parsed.
        Malformed => "malformed",
        /// FINGERPRINT is wrong or not last.
        BadFingerprint => "bad_fingerprint",
        /// A response, or a class the method does not allow.
        UnexpectedClass => "unexpected_class",
        /// A Binding indication: keeps a NAT mapping alive and asks for nothing.
        KeepAlive => "keep_alive",
        /// A method this server does not speak.
        UnknownMethod => "unknown_method",
        /// An indication with an unknown comprehension-required attribute.
        UnknownAttribute => "unknown_attribute",
        /// A request over UDP that is shorter than any client's, or too short for its answer (`reflection`).
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
        /// Over the limit for requests of one user that are about no allocation of its.
        UserRate => "user_rate",
        /// Plain Binding is switched off.
        BindingDisabled => "binding_disabled",
        /// An indication or ChannelData without an allocation.
        NoAllocation => "no_allocation",
        /// ChannelData on a number that is not bound, or no longer.
        NoChannel => "no_channel",
        /// No live permission for the peer.
        NoPermission => "no_permission",
        /// The peer policy forbids this peer.
        PeerDenied => "peer_denied",
        /// The allocation has no relayed address of the peer's family.
        FamilyMismatch => "family_mismatch",
        /// A Send indication on an allocation that relays TCP (RFC 6062).
        TcpAllocation => "tcp_allocation",
        /// A peer address of ours at which no allocation lives.
        NoSuchRelay => "no_such_relay",
        /// A retransmission while the first is still being worked on.
        Retransmission => "retransmission",
        /// ChannelData shorter than its header says, or on a reserved number.
        BadChannelData => "bad_channel_data",
        /// Application data too long for the way it would go.
        TooLong => "too_long",
        /// A Send indication without peer address or data.
        IncompleteIndication => "incomplete_indication",
        /// The client's stream is too slow: the oldest data went (never STUN).
        StreamBackpressure => "stream_backpressure",
        /// The mailbox to another shard is full.
        MailboxFull => "mailbox_full",
        /// The kernel refused the datagram; more in `relay_send_errors_total`.
        SendFailed => "send_failed",
        /// The relay socket or stream closed meanwhile.
        Gone => "gone",
        /// The client's stream is closed, and its allocation waits for it with a mobility ticket (RFC 8016).
        ClientAway => "client_away",
        /// The client's allocation is on its way from another worker, and enough packets are held for it already.
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
