//! Why a login, an allocation, or a request about one is refused: a closed set, finer than the STUN error code.
//!
//! A client learns the code alone. The reason is for the operator: a counter for each, and an event with the facts.
//! Only a client whose nonce is good has its refusal reported: its address is its own, so nobody can write a log in
//! another's name. The first 401 of every client, and 438 (Stale Nonce), are no refusals: healthy clients meet both.
//!
//! Not here: how a reason reads in a log and what to do about it (`shard::refusals`).

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

/// Refusals that wait for `Server::poll_event`; of more only their number is kept. A worker empties the queue every turn.
pub const QUEUED_REFUSALS: usize = 64;

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident $({ $($field:ident: $type:ty),+ })? => $code:literal, $text:literal;)+) => {
        /// Why a request is refused, with the facts an operator needs.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the variant says what its fields are")]
        pub enum Refusal { $($(#[doc = $doc])+ $variant $({ $($field: $type),+ })?,)+ }

        closed_set! {
            /// A [`Refusal`] without its facts: the metric label and the log's `reason`.
            RefusalReason { $($(#[doc = $doc])+ $variant => $text,)+ }
        }

        impl Refusal {
            /// Its member of the closed set.
            pub const fn reason(&self) -> RefusalReason {
                match self { $(Self::$variant { .. } => RefusalReason::$variant,)+ }
            }

            /// The STUN error code; 0: not answered.
            pub const fn code(&self) -> u16 {
                self.reason().code()
            }
        }

        impl RefusalReason {
            /// The STUN error code; 0: not answered.
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $code,)+ }
            }
        }
    };
}

refusals! {
    /// The password is right, and the time in the username has passed, this long ago.
    CredentialExpired { ago: Duration } => 401, "credential_expired";
    /// The password is right, and the time in the username is this far beyond what `max_ttl` allows.
    ExpiryTooFar { beyond: Duration } => 401, "expiry_too_far";
    /// The time in the username has this many digits: milliseconds or less, not seconds.
    ExpiryMilliseconds { digits: usize } => 401, "expiry_milliseconds";
    /// The username is `userid:expiry` instead of `expiry:userid`.
    UsernameReversed => 401, "username_reversed";
    /// The username begins with a Unix time, and is not `expiry[:userid]` all the same.
    UsernameMalformed => 401, "username_malformed";
    /// A time-limited username with a password that none of so many secrets makes.
    WrongPassword { secrets: usize } => 401, "wrong_password";
    /// Another password than this static user's.
    WrongStaticPassword => 401, "wrong_static_password";
    /// No static user of this name, which is not a time-limited one either.
    UnknownUser => 401, "unknown_user";
    /// Signed for another realm than ours.
    WrongRealm => 401, "wrong_realm";
    /// Its address has failed to log in too often lately: not looked at.
    LoginLimited => 0, "login_limited";
    /// An operator has revoked the user's credentials that expire by then, this long from now.
    CredentialRevoked { left: Duration } => 403, "credential_revoked";
    /// PASSWORD-ALGORITHMS came back changed: somebody between us wants a weaker algorithm.
    AlgorithmsChanged => 400, "algorithms_changed";
    /// An attribute is missing, malformed, or not allowed beside another.
    BadRequest => 400, "bad_request";
    /// Comprehension-required attributes this server does not know.
    UnknownAttributes { types: UnknownAttributes } => 420, "unknown_attributes";
    /// A forced login on a port of other listeners.
    ForcedPath { port: u16 } => 403, "forced_path";
    /// Nobody may be a client from such an address.
    ClientDenied { rule: Denied } => 403, "client_denied";
    /// The client's address is a relayed address of this server.
    ClientIsRelayed => 403, "client_is_relayed";
    /// Another server takes new clients.
    Redirected { to: Alternate } => 300, "redirected";
    /// REQUESTED-TRANSPORT is neither UDP nor, where it is switched on, TCP.
    TransportNotSupported { protocol: u8 } => 442, "transport_not_supported";
    /// No relayed addresses of the requested family.
    FamilyNotSupported => 440, "family_not_supported";
    /// A mobility ticket is asked for, and mobility is switched off or the allocation relays TCP.
    MobilityForbidden => 405, "mobility_forbidden";
    /// The user has as many allocations as it may.
    UserQuota { held: u32, limit: u32 } => 486, "user_quota";
    /// The client's address has as many allocations as it may.
    AddressQuota { held: u32, limit: u32 } => 486, "address_quota";
    /// The network of the client's address (IPv4 /24, IPv6 /48) has as many allocations as it may.
    NetworkQuota { held: u32, limit: u32 } => 486, "network_quota";
    /// There are as many allocations as there may be.
    TotalLimit { limit: u32 } => 508, "total_limit";
    /// The user has as many reserved ports as it may.
    ReservationQuota { limit: u32 } => 508, "reservation_quota";
    /// No relay port is free, of so many; with EVEN-PORT: none that will do.
    NoFreePort { family: Family, even: bool, ports: u32 } => 508, "no_free_port";
    /// Other programs have the relay ports that were tried.
    PortsInUse => 508, "ports_in_use";
    /// Out of file descriptors or memory.
    NoDescriptor => 508, "no_descriptor";
    /// A relay socket could not be opened for another reason.
    SocketFailed => 508, "socket_failed";
    /// RESERVATION-TOKEN: not one of ours, used, too old, or another user's.
    ReservationUnknown => 508, "reservation_unknown";
    /// The five-tuple has an allocation already.
    AllocationExists => 437, "allocation_exists";
    /// The five-tuple has no allocation.
    NoAllocation => 437, "no_allocation";
    /// A mobility ticket nobody has, any more.
    TicketUnknown => 437, "ticket_unknown";
    /// The allocation is another user's.
    WrongUser => 441, "wrong_user";
    /// The allocation has no relayed address of the family of this peer, or of the family a Refresh is about.
    FamilyMismatch { peer: Option<SocketAddr> } => 443, "family_mismatch";
    /// The peer policy forbids this peer.
    PeerDenied { peer: SocketAddr, rule: Denied } => 403, "peer_denied";
    /// The peer is the allocation's own relayed address.
    PeerIsItself { peer: SocketAddr } => 403, "peer_is_itself";
    /// TCP peers may not have this port, or the peer is a relayed address that does not relay TCP.
    PeerPortDenied { peer: SocketAddr } => 403, "peer_port_denied";
    /// The channel number is none, or bound to another peer; or the peer to another number.
    ChannelConflict { number: u16 } => 400, "channel_conflict";
    /// The allocation has as many permissions as it may.
    PermissionsFull { limit: u16 } => 508, "permissions_full";
    /// The allocation has as many channels or permissions as it may.
    ChannelsFull { channels: u16, permissions: u16 } => 508, "channels_full";
    /// Over the limit for CreatePermission, ChannelBind and Connect requests of one allocation.
    PermissionLimited => 0, "permission_limited";
    /// Over the limit for requests of one allocation.
    AllocationRate => 0, "allocation_rate";
    /// Over the limit for requests of one user that are about no allocation of its.
    UserRate => 0, "user_rate";
    /// The allocation has a TCP connection with this peer.
    ConnectionExists { peer: SocketAddr } => 446, "connection_exists";
    /// The allocation, or all together, have as many TCP connections with peers as they may.
    ConnectionsFull => 508, "connections_full";
    /// The TCP peer cannot be reached, or does not answer.
    PeerUnreachable { peer: SocketAddr } => 447, "peer_unreachable";
    /// ConnectionBind: no such TCP connection with a peer waits for it.
    ConnectionUnknown => 400, "connection_unknown";
}

impl Refusal {
    /// The peer it is about.
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

    /// What ICE does as a matter of course: it asks for a permission for every candidate of the other side, private
    /// host candidates included.
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
    /// Someone else has the port: another is tried.
    AddressInUse,
    /// Out of file descriptors or memory: 508.
    Exhausted,
    /// Anything else: 508.
    Other,
}

/// One refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was asked for.
    pub method: Method,
    /// The client.
    pub five_tuple: FiveTuple,
    /// USERNAME, cut to [`Self::USERNAME`] bytes; as claimed where the login is what was refused. `None`: USERHASH.
    pub username: Option<Arc<str>>,
    /// Why.
    pub refusal: Refusal,
    /// Nothing an operator need look at: the server counts it, and logs it at debug.
    pub routine: bool,
    /// Only one of the two relayed addresses that were asked for is refused (RFC 8656 §7.2, ADDRESS-ERROR-CODE).
    pub half: bool,
}

impl Refused {
    /// Bytes of a username that are kept.
    pub const USERNAME: usize = 512;

    /// A username as it came from the wire, for the eyes of an operator.
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
