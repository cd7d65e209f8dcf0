//! Responses: the buffer for them, and the only place that turns an error into a response (RFC 8489
//! §6.3.1).

use core::fmt;
use std::net::SocketAddr;

use super::login::auth::ChallengeResponse;
use super::login::session::Session;
use super::reflection;
use super::refusal::Refusal;
use super::types::ConnectionId;
use crate::base::address::FiveTuple;
use crate::wire::attribute::{AttributeType, Icmp};
use crate::wire::classic::{ClassicBinding, ClassicId};
use crate::wire::error_code;
use crate::wire::integrity::{Integrity, Key};
use crate::wire::message::{Class, Message, Method, TransactionId};
use crate::wire::writer::{MessageWriter, WriteError};

/// The reason phrase of [`Refusal::ForcedPath`], for logs of clients. Chromium shows only the code
/// (`icecandidateerror`).
const FORCED_PATH: &str = "Forbidden: not on this port (forced relay)";

/// Space for the largest response: a Binding response with the longest PADDING.
const CAPACITY: usize = 2048;

/// A fixed buffer that holds one response or indication for a client.
#[derive(Clone)]
pub struct Response {
    buffer: [u8; CAPACITY],
    len: usize,
    route: Option<ResponseRoute>,
    to_stranger: bool,
}

/// A path for a response other than straight back (RFC 5780): over UDP, from the listener bound to
/// `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseRoute {
    /// Local address to send from.
    pub from: SocketAddr,
    /// The requester's IP address, possibly with another port.
    pub to: SocketAddr,
}

impl Response {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self {
            buffer: [0; CAPACITY],
            len: 0,
            route: None,
            to_stranger: false,
        }
    }

    /// The last message written.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn written(&mut self, len: Result<usize, WriteError>) -> bool {
        self.route = None;
        self.to_stranger = false;
        self.len = len.unwrap_or(0);
        self.len > 0
    }

    /// The path of the last message; `None`: back the way the request came.
    pub const fn route(&self) -> Option<ResponseRoute> {
        self.route
    }

    /// Whether the last message answers an unauthenticated sender without an allocation.
    pub const fn is_to_stranger(&self) -> bool {
        self.to_stranger
    }

    /// Marks the last message as an answer to an unauthenticated sender.
    pub(super) const fn mark_stranger(&mut self) {
        self.to_stranger = true;
    }

    /// Sends the last message along another path.
    pub(super) const fn divert(&mut self, route: ResponseRoute) {
        self.route = Some(route);
    }

    /// Writes a success response: the attributes from `attributes`, then those of every response.
    /// `false`: it does not fit, or is too long for its request.
    pub(super) fn success(&mut self, reply: &Reply<'_>, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> bool {
        self.write(Class::Success, reply, attributes)
    }

    /// Writes the error response to a refused request. `false`: it does not fit, or is too long for
    /// its request.
    pub(super) fn error(&mut self, reply: &Reply<'_>, refusal: &Refusal) -> bool {
        let reason = match refusal {
            // Sent only after login, so it never goes to a victim of a forged address.
            Refusal::ForcedPath { .. } => FORCED_PATH,
            _ => reply.reason(refusal.code()),
        };
        self.write(Class::Error, reply, |writer| {
            writer.error_code(refusal.code(), reason);
            match refusal {
                Refusal::UnknownAttributes { types } => {
                    writer.unknown_attributes(types);
                }
                Refusal::Redirected { to } => {
                    for server in [Some(to.server), to.other].into_iter().flatten() {
                        writer.address(AttributeType::ALTERNATE_SERVER, server);
                    }
                    if let Some(domain) = &to.domain {
                        writer.attribute(AttributeType::ALTERNATE_DOMAIN, domain.as_bytes());
                    }
                }
                _ => {}
            }
        })
    }

    /// Writes 401 or 438. `false`: it does not fit, or is too long for its request.
    pub(super) fn challenge(&mut self, reply: &Reply<'_>, challenge: &ChallengeResponse) -> bool {
        let code = challenge.code();
        self.write(Class::Error, reply, |writer| {
            writer.error_code(code, reply.reason(code));
            challenge.write(writer);
        })
    }

    /// Writes a Data indication that reports an ICMP message about a datagram to `peer` (RFC 8656
    /// §11.5).
    pub(super) fn icmp_indication(&mut self, id: TransactionId, peer: SocketAddr, icmp: Icmp) -> bool {
        let mut writer = MessageWriter::new(&mut self.buffer, Class::Indication, Method::Data, id);
        writer
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .attribute(AttributeType::ICMP, &icmp.encode());
        let written = writer.finish();
        self.written(written)
    }

    /// Writes the response to an RFC 3489 Binding request from `source`, or 420 for an unknown
    /// attribute. Omits FINGERPRINT, SOFTWARE and reason phrases: they came after RFC 3489, or only
    /// increase the gain of reflection.
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
        let written = writer.finish();
        self.written(written)
    }

    /// Writes a ConnectionAttempt indication: a peer has connected (RFC 6062 §5.3).
    pub(super) fn connection_attempt(&mut self, id: TransactionId, peer: SocketAddr, connection: ConnectionId) {
        let method = Method::ConnectionAttempt;
        let mut writer = MessageWriter::new(&mut self.buffer, Class::Indication, method, id);
        writer
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .u32(AttributeType::CONNECTION_ID, connection.0);
        let written = writer.finish();
        let written = self.written(written);
        debug_assert!(written, "a ConnectionAttempt indication fits its buffer");
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
        let most = match reply.signer {
            // A client that can sign a request has proved its identity.
            Some(_) => usize::MAX,
            None => reply.room,
        };
        let written = writer.finish().ok().filter(|&len| len <= most);
        self.written(written.ok_or(WriteError::Full))
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

/// What a response needs from its request and its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply<'a> {
    /// Method of the request.
    pub(super) method: Method,
    /// Transaction id of the request.
    pub(super) transaction_id: TransactionId,
    /// The request had a FINGERPRINT, so the response has one too.
    pub(super) fingerprint: bool,
    /// Sends reason phrases: on streams only.
    pub(super) verbose: bool,
    /// Most bytes, unless the response is signed ([`reflection`]).
    pub(super) room: usize,
    /// SOFTWARE, if it is sent.
    pub(super) software: Option<&'a str>,
    /// Key and algorithm of the request, once it is authenticated. Every later response is signed.
    pub(super) signer: Option<(&'a Key, Integrity)>,
}

impl<'a> Reply<'a> {
    /// The unsigned response to `message` from `client`.
    pub(super) fn to(message: &Message<'_>, method: Method, client: &FiveTuple, software: Option<&'a str>) -> Self {
        let (id, fingerprint) = (message.transaction_id(), message.has_fingerprint());
        Self {
            room: reflection::room(client, message.bytes().len()),
            ..Self::later(method, id, fingerprint, client.transport.is_stream(), software)
        }
    }

    /// The response to a request that was accepted and authenticated earlier; not signed yet.
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
            room: usize::MAX,
            software: software.filter(|_| stream),
            signer: None,
        }
    }

    /// The reason phrase of `code`. Over UDP it is empty, because it would only increase the gain
    /// of reflection.
    fn reason(&self, code: u16) -> &'static str {
        if self.verbose { error_code::reason(code) } else { "" }
    }

    /// As `self`, signed.
    pub(super) fn signed(self, session: &'a Session) -> Self {
        Self {
            signer: Some((&session.key, session.integrity)),
            ..self
        }
    }
}
