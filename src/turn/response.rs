//! Responses: the buffer they are written to, and the one place where an error becomes one (RFC 8489 §6.3.1).

use core::fmt;
use std::net::SocketAddr;

use super::auth::{Challenge, Session};
use super::config::Alternate;
use super::quota::QuotaExceeded;
use super::types::ConnectionId;
use crate::wire::attribute::{AttributeError, AttributeType, Icmp};
use crate::wire::classic::{ClassicBinding, ClassicId};
use crate::wire::error_code;
use crate::wire::integrity::{Integrity, Key};
use crate::wire::message::{Class, Message, Method, TransactionId, UnknownAttributes};
use crate::wire::writer::{MessageWriter, WriteError};

/// The reason phrase of [`Reject::ForcedPath`], for logs of clients. Chromium shows the code alone (`icecandidateerror`).
const FORCED_PATH: &str = "Forbidden: not on this port (forced relay)";

/// Room for the largest response: a Binding response with the longest PADDING.
const CAPACITY: usize = 2048;

/// A fixed buffer that holds one response or indication for a client.
#[derive(Clone)]
pub struct Response {
    buffer: [u8; CAPACITY],
    len: usize,
    route: Option<Route>,
}

/// Another way for a response than straight back (RFC 5780): over UDP, by whichever listener is bound there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Local address to send from.
    pub from: SocketAddr,
    /// Where to: the requester's IP address, maybe another port.
    pub to: SocketAddr,
}

impl Response {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            buffer: [0; CAPACITY],
            len: 0,
            route: None,
        }
    }

    /// The message last written.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn written(&mut self, len: Result<usize, WriteError>) -> bool {
        self.route = None;
        self.len = len.unwrap_or(0);
        self.len > 0
    }

    /// How the message last written goes; `None`: the way its request came.
    pub const fn route(&self) -> Option<Route> {
        self.route
    }

    /// Sends the message last written another way.
    pub(super) const fn divert(&mut self, route: Route) {
        self.route = Some(route);
    }

    /// Writes a success response: what `attributes` adds, then what every response has. `false`: it did not fit.
    pub(super) fn success(&mut self, reply: &Reply<'_>, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> bool {
        self.write(Class::Success, reply, attributes)
    }

    /// Writes the error response `reject` stands for. `false`: it did not fit.
    pub(super) fn error(&mut self, reply: &Reply<'_>, reject: &Reject) -> bool {
        self.write(Class::Error, reply, |writer| {
            // Reason phrases would only make reflection over UDP worth more.
            let code = reject.code();
            let reason = match reject {
                // Only who has logged in is told this, so no victim of a forged address is.
                Reject::ForcedPath => FORCED_PATH,
                _ if reply.verbose => error_code::reason(code),
                _ => "",
            };
            writer.error_code(code, reason);
            match reject {
                Reject::UnknownAttributes(unknown) => {
                    writer.unknown_attributes(unknown);
                }
                Reject::Challenge(challenge) => challenge.write(writer),
                Reject::TryAlternate(alternate) => {
                    for server in [Some(alternate.server), alternate.other].into_iter().flatten() {
                        writer.address(AttributeType::ALTERNATE_SERVER, server);
                    }
                    if let Some(domain) = &alternate.domain {
                        writer.attribute(AttributeType::ALTERNATE_DOMAIN, domain.as_bytes());
                    }
                }
                _ => {}
            }
        })
    }

    /// Writes a Data indication that reports an ICMP message about a datagram to `peer` (RFC 8656 §11.5).
    pub(super) fn icmp_indication(&mut self, id: TransactionId, peer: SocketAddr, icmp: Icmp) -> bool {
        let mut writer = MessageWriter::new(&mut self.buffer, Class::Indication, Method::Data, id);
        writer
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .attribute(AttributeType::ICMP, &icmp.encode());
        let written = writer.finish();
        self.written(written)
    }

    /// Writes the response to an RFC 3489 Binding request from `source`, or 420 if it asks for what is not known.
    /// FINGERPRINT, SOFTWARE and reason phrases came after RFC 3489, or only make reflection worth more.
    pub(super) fn classic(&mut self, request: &ClassicBinding, source: SocketAddr) -> bool {
        let unknown = &request.unknown;
        let class = if unknown.is_empty() {
            Class::Success
        } else {
            Class::Error
        };
        let mut writer = MessageWriter::classic(&mut self.buffer, class, Method::Binding, request.id);
        if unknown.is_empty() {
            writer.address(AttributeType::MAPPED_ADDRESS, source);
        } else {
            writer.error_code(420, "").unknown_attributes(unknown);
        }
        let written = writer.finish();
        self.written(written)
    }

    /// Writes 500 (Server Error) for an RFC 3489 request.
    pub(super) fn classic_refusal(&mut self, id: ClassicId) -> bool {
        let mut writer = MessageWriter::classic(&mut self.buffer, Class::Error, Method::Binding, id);
        writer.error_code(500, "");
        self.len = writer.finish().unwrap_or(0);
        self.len > 0
    }

    /// Writes a ConnectionAttempt indication: a peer has connected (RFC 6062 §5.3).
    pub(super) fn connection_attempt(&mut self, id: TransactionId, peer: SocketAddr, connection: ConnectionId) {
        let method = Method::ConnectionAttempt;
        let mut writer = MessageWriter::new(&mut self.buffer, Class::Indication, method, id);
        writer
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .u32(AttributeType::CONNECTION_ID, connection.0);
        self.len = writer.finish().unwrap_or(0);
    }

    fn write(&mut self, class: Class, reply: &Reply<'_>, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> bool {
        let mut writer = MessageWriter::new(&mut self.buffer, class, reply.method, reply.transaction_id);
        attributes(&mut writer);
        if let Some(software) = reply.software {
            writer.attribute(AttributeType::SOFTWARE, software.as_bytes());
        }
        if let Some((key, integrity)) = reply.signer {
            writer.integrity(key, integrity);
        }
        if reply.fingerprint {
            writer.fingerprint();
        }
        let written = writer.finish();
        self.written(written)
    }
}

impl Default for Response {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// What a response takes from its request and from the way it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply<'a> {
    /// Method of the request.
    pub(super) method: Method,
    /// Transaction id of the request.
    pub(super) transaction_id: TransactionId,
    /// The request had a FINGERPRINT, so the response has one.
    pub(super) fingerprint: bool,
    /// Reason phrases are said: not over UDP.
    pub(super) verbose: bool,
    /// SOFTWARE, if it is said at all.
    pub(super) software: Option<&'a str>,
    /// Key and algorithm of the request, once it has passed authentication: every response from then on is signed.
    pub(super) signer: Option<(&'a Key, Integrity)>,
}

impl<'a> Reply<'a> {
    /// The response to `message`, not signed.
    pub(super) fn to(message: &Message<'_>, method: Method, stream: bool, software: Option<&'a str>) -> Self {
        let (id, fingerprint) = (message.transaction_id(), message.has_fingerprint());
        Self::later(method, id, fingerprint, stream, software)
    }

    /// The response to a request that was taken in earlier, not signed.
    pub(super) fn later(
        method: Method,
        transaction_id: TransactionId,
        fingerprint: bool,
        stream: bool,
        software: Option<&'a str>,
    ) -> Self {
        Self {
            method,
            transaction_id,
            fingerprint,
            verbose: stream,
            software: software.filter(|_| stream),
            signer: None,
        }
    }

    /// The same, signed.
    pub(super) fn signed(self, session: &'a Session) -> Self {
        Self {
            signer: Some((&session.key, session.integrity)),
            ..self
        }
    }
}

/// Why a request is refused; each is one STUN error code.
#[derive(Debug)]
pub(super) enum Reject {
    /// 300: another server takes new clients.
    TryAlternate(Alternate),
    /// 401 or 438, with what the client needs to try again.
    Challenge(Challenge),
    /// 400: an attribute is missing, malformed, or not allowed beside another.
    BadRequest,
    /// 403: policy forbids this peer, or this client.
    Forbidden,
    /// 403: the login is good on other listeners only.
    ForcedPath,
    /// 405: mobility is switched off.
    MobilityForbidden,
    /// 420: comprehension-required attributes this server does not know.
    UnknownAttributes(UnknownAttributes),
    /// 437: the five-tuple has an allocation where it must not, or has none where it must.
    AllocationMismatch,
    /// 440: no relayed transport address of this family.
    FamilyNotSupported,
    /// 441: not the user who made the allocation.
    WrongCredentials,
    /// 442: REQUESTED-TRANSPORT is neither UDP nor, where it is switched on, TCP.
    TransportNotSupported,
    /// 443: the peer's family is not the allocation's.
    FamilyMismatch,
    /// 446: there is a connection with this peer.
    ConnectionExists,
    /// 447: the peer cannot be reached, or does not answer.
    ConnectionFailed,
    /// 486: the user, or the client's address, has as many allocations as it may.
    QuotaReached,
    /// 508: ports, or a table, are used up.
    InsufficientCapacity,
}

impl Reject {
    /// The STUN error code.
    pub(super) const fn code(&self) -> u16 {
        match self {
            Self::TryAlternate(_) => 300,
            Self::Challenge(challenge) => challenge.code(),
            Self::BadRequest => 400,
            Self::Forbidden | Self::ForcedPath => 403,
            Self::MobilityForbidden => 405,
            Self::UnknownAttributes(_) => 420,
            Self::AllocationMismatch => 437,
            Self::FamilyNotSupported => 440,
            Self::WrongCredentials => 441,
            Self::TransportNotSupported => 442,
            Self::FamilyMismatch => 443,
            Self::ConnectionExists => 446,
            Self::ConnectionFailed => 447,
            Self::QuotaReached => 486,
            Self::InsufficientCapacity => 508,
        }
    }
}

impl From<AttributeError> for Reject {
    fn from(_: AttributeError) -> Self {
        Self::BadRequest
    }
}

impl From<QuotaExceeded> for Reject {
    fn from(exceeded: QuotaExceeded) -> Self {
        match exceeded {
            QuotaExceeded::User | QuotaExceeded::Address => Self::QuotaReached,
            QuotaExceeded::Total | QuotaExceeded::Reservations => Self::InsufficientCapacity,
        }
    }
}
