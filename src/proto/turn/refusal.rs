//! Why a login, an allocation, or a request about one is refused: a closed set, finer than the STUN
//! error code.
//!
//! The client gets only the code. The reason is for the operator: a counter for each, and an event
//! with the facts. A refusal is reported only if the client's nonce is valid, because then its
//! address is not forged and no attacker can cause log lines about other addresses. The first 401
//! of every client and 438 (Stale Nonce) are not refusals: healthy clients get both.
//!
//! Not here: the log text of a reason and what the operator does about it (`shard::refusals`).

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use super::config::redirect::Alternate;
use super::policy::Denied;
use super::shared::quotas::QuotaExceeded;
use crate::base::address::{Family, FiveTuple};
use crate::base::closed_set::closed_set;
use crate::wire::attribute::AttributeError;
use crate::wire::message::{Method, UnknownAttributes};

/// Capacity of the queue of refusals for `Server::poll_event`. Further ones are only counted. A
/// worker drains the queue every turn.
pub const QUEUED_REFUSALS: usize = 64;

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident $({ $($field:ident: $type:ty),+ })? => $code:literal, $text:literal;)+) => {
        /// Why a request is refused, with the facts that an operator needs.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the variant says what its fields are")]
        pub enum Refusal { $($(#[doc = $doc])+ $variant $({ $($field: $type),+ })?,)+ }

        closed_set! {
            /// A [`Refusal`] without its facts: the metric label and the `reason` in the log.
            RefusalReason { $($(#[doc = $doc])+ $variant => $text,)+ }
        }

        impl Refusal {
            /// Its reason, without the facts.
            pub const fn reason(&self) -> RefusalReason {
                match self { $(Self::$variant { .. } => RefusalReason::$variant,)+ }
            }

            /// The STUN error code; 0 if there is no response.
            pub const fn code(&self) -> u16 {
                self.reason().code()
            }
        }

        impl RefusalReason {
            /// The STUN error code; 0 if there is no response.
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $code,)+ }
            }
        }
    };
}

refusals! {
    /// The password is right, but the username expired this long ago.
    CredentialExpired { ago: Duration } => 401, "credential_expired";
    /// The password is right, but the expiry is this far beyond what `max_ttl` allows.
    ExpiryTooFar { beyond: Duration } => 401, "expiry_too_far";
    /// The expiry has this many digits: milliseconds or smaller units instead of seconds.
    ExpiryMilliseconds { digits: usize } => 401, "expiry_milliseconds";
    /// The username is `userid:expiry` instead of `expiry:userid`.
    UsernameReversed => 401, "username_reversed";
    /// The username begins with a Unix time but is not `expiry[:userid]`.
    UsernameMalformed => 401, "username_malformed";
    /// A time-limited username whose password matches none of this many secrets.
    WrongPassword { secrets: usize } => 401, "wrong_password";
    /// The password is not this static user's.
    WrongStaticPassword => 401, "wrong_static_password";
    /// No static user has this name, and it is not time-limited either.
    UnknownUser => 401, "unknown_user";
    /// Signed for another realm than ours.
    WrongRealm => 401, "wrong_realm";
    /// Too many recent logins from this address have failed: not checked.
    LoginLimited => 0, "login_limited";
    /// The operator has revoked the user's credentials up to an expiry that is this far ahead.
    CredentialRevoked { left: Duration } => 403, "credential_revoked";
    /// PASSWORD-ALGORITHMS came back changed: an attacker on the path wants a weaker algorithm.
    AlgorithmsChanged => 400, "algorithms_changed";
    /// An attribute is missing, malformed, or not allowed beside another.
    BadRequest => 400, "bad_request";
    /// Comprehension-required attributes that this server does not know.
    UnknownAttributes { types: UnknownAttributes } => 420, "unknown_attributes";
    /// A forced login on a port outside the forced path.
    ForcedPath { port: u16 } => 403, "forced_path";
    /// The policy forbids clients at this address.
    ClientDenied { rule: Denied } => 403, "client_denied";
    /// The client's address is a relayed address of this server.
    ClientIsRelayed => 403, "client_is_relayed";
    /// Another server takes new clients.
    Redirected { to: Alternate } => 300, "redirected";
    /// The server takes no new clients, and the client cannot follow to another one.
    Draining => 508, "draining";
    /// REQUESTED-TRANSPORT is neither UDP nor, if enabled, TCP.
    TransportNotSupported { protocol: u8 } => 442, "transport_not_supported";
    /// No relayed addresses of the requested family.
    FamilyNotSupported => 440, "family_not_supported";
    /// The client requests a mobility ticket, but mobility is disabled or the allocation relays
    /// TCP.
    MobilityForbidden => 405, "mobility_forbidden";
    /// The user has reached its limit of allocations.
    UserQuota { held: u32, limit: u32 } => 486, "user_quota";
    /// The client's address has reached its limit of allocations.
    AddressQuota { held: u32, limit: u32 } => 486, "address_quota";
    /// The network of the client's address (IPv4 /24, IPv6 /48) has reached its limit of
    /// allocations.
    NetworkQuota { held: u32, limit: u32 } => 486, "network_quota";
    /// The server has reached its limit of allocations.
    TotalLimit { limit: u32 } => 508, "total_limit";
    /// The user has reached its limit of reserved ports.
    ReservationQuota { limit: u32 } => 508, "reservation_quota";
    /// None of this many relay ports is free; with EVEN-PORT, no suitable one.
    NoFreePort { family: Family, even: bool, ports: u32 } => 508, "no_free_port";
    /// Other programs use the relay ports that were tried.
    PortsInUse => 508, "ports_in_use";
    /// Out of file descriptors or memory.
    NoDescriptor => 508, "no_descriptor";
    /// A relay socket could not be opened, for another reason.
    SocketFailed => 508, "socket_failed";
    /// RESERVATION-TOKEN is not ours, used, expired, or another user's.
    ReservationUnknown => 508, "reservation_unknown";
    /// The five-tuple already has an allocation.
    AllocationExists => 437, "allocation_exists";
    /// The five-tuple has no allocation.
    NoAllocation => 437, "no_allocation";
    /// A mobility ticket of no allocation, or of none any more.
    TicketUnknown => 437, "ticket_unknown";
    /// The allocation belongs to another user.
    WrongUser => 441, "wrong_user";
    /// The allocation has no relayed address of the family of this peer, or of the family of a
    /// Refresh.
    FamilyMismatch { peer: Option<SocketAddr> } => 443, "family_mismatch";
    /// The peer policy forbids this peer.
    PeerDenied { peer: SocketAddr, rule: Denied } => 403, "peer_denied";
    /// The peer is the allocation's own relayed address.
    PeerIsItself { peer: SocketAddr } => 403, "peer_is_itself";
    /// TCP peers may not have this port, or the peer is a relayed address that does not relay TCP.
    PeerPortDenied { peer: SocketAddr } => 403, "peer_port_denied";
    /// The channel number is invalid or bound to another peer, or the peer is bound to another
    /// number.
    ChannelConflict { number: u16 } => 400, "channel_conflict";
    /// The allocation has reached its limit of permissions.
    PermissionsFull { limit: u16 } => 508, "permissions_full";
    /// The allocation has reached its limit of channels or permissions.
    ChannelsFull { channels: u16, permissions: u16 } => 508, "channels_full";
    /// Over the limit for CreatePermission, ChannelBind and Connect requests of one allocation.
    PermissionLimited => 0, "permission_limited";
    /// Over the limit for requests of one allocation.
    AllocationRate => 0, "allocation_rate";
    /// Over the limit for requests of one user that concern none of its allocations.
    UserRate => 0, "user_rate";
    /// The allocation already has a TCP connection with this peer.
    ConnectionExists { peer: SocketAddr } => 446, "connection_exists";
    /// The allocation or the server has reached its limit of TCP connections with peers.
    ConnectionsFull => 508, "connections_full";
    /// The TCP peer is unreachable or does not answer.
    PeerUnreachable { peer: SocketAddr } => 447, "peer_unreachable";
    /// ConnectionBind: no such TCP connection with a peer is waiting.
    ConnectionUnknown => 400, "connection_unknown";
}

impl Refusal {
    /// The peer that the refusal concerns.
    pub const fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::PeerDenied { peer, .. }
            | Self::PeerIsItself { peer }
            | Self::PeerPortDenied { peer }
            | Self::ConnectionExists { peer }
            | Self::PeerUnreachable { peer } => Some(*peer),
            Self::FamilyMismatch { peer } => *peer,
            _ => None,
        }
    }

    /// Whether ICE causes this routinely: it requests a permission for every candidate of the other
    /// side, private host candidates included.
    pub(super) const fn is_about_a_candidate(&self) -> bool {
        matches!(self, Self::PeerDenied { .. } | Self::FamilyMismatch { peer: Some(_) })
    }
}

impl From<AttributeError> for Refusal {
    fn from(_: AttributeError) -> Self {
        Self::BadRequest
    }
}

impl From<QuotaExceeded> for Refusal {
    fn from(exceeded: QuotaExceeded) -> Self {
        match exceeded {
            QuotaExceeded::User { held, limit } => Self::UserQuota { held, limit },
            QuotaExceeded::Address { held, limit } => Self::AddressQuota { held, limit },
            QuotaExceeded::Network { held, limit } => Self::NetworkQuota { held, limit },
            QuotaExceeded::Total { limit } => Self::TotalLimit { limit },
            QuotaExceeded::Reservations { limit } => Self::ReservationQuota { limit },
        }
    }
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::AddressInUse => Self::PortsInUse,
            OpenError::Exhausted => Self::NoDescriptor,
            OpenError::Other => Self::SocketFailed,
        }
    }
}

/// Why a relay socket could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Another program uses the port; try another one.
    AddressInUse,
    /// Out of file descriptors or memory: 508.
    Exhausted,
    /// Anything else: 508.
    Other,
}

/// One refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The method of the request.
    pub method: Method,
    /// The client.
    pub five_tuple: FiveTuple,
    /// USERNAME, truncated to [`Self::USERNAME`] bytes. Only claimed, if the login was refused.
    /// `None`: USERHASH.
    pub username: Option<Arc<str>>,
    /// The reason.
    pub refusal: Refusal,
    /// Needs no attention: the server counts it and logs it at debug level.
    pub routine: bool,
    /// Only one of the two requested relayed addresses is refused (RFC 8656 §7.2,
    /// ADDRESS-ERROR-CODE).
    pub half: bool,
}

impl Refused {
    /// Most bytes of a username that are kept.
    pub const USERNAME: usize = 512;

    /// A username from the wire, in printable form for the operator.
    pub(super) fn username(bytes: &[u8]) -> Arc<str> {
        let kept = bytes.get(..Self::USERNAME).unwrap_or(bytes);
        Arc::from(String::from_utf8_lossy(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_of_the_wrong_family_is_named_where_it_is_known() {
        let peer = "192.0.2.1:7000".parse().unwrap();
        assert_eq!(Refusal::FamilyMismatch { peer: Some(peer) }.peer(), Some(peer));
        assert_eq!(Refusal::FamilyMismatch { peer: None }.peer(), None);
        assert_eq!(Refusal::PeerIsItself { peer }.peer(), Some(peer));
        assert_eq!(Refusal::BadRequest.peer(), None);
    }
}
