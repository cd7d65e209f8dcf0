//! STUN messages as a checked view over borrowed bytes (RFC 8489 §5, §6.3, §14).
//!
//! ```text
//!  0                   1                   2                   3
//! |0 0|     STUN Message Type     |         Message Length        |
//! |                         Magic Cookie                          |
//! |                     Transaction ID (96 bits)                  |
//! |  Attributes: Type (16) | Length (16) | Value, padded to four bytes ...
//! ```
//!
//! [`Message::parse`] walks the attributes once and stores their positions. What follows an
//! integrity attribute is not covered by it and is hidden, so a handler cannot act on it by
//! accident.
//!
//! Deliberately absent: the meaning of methods; messages without the magic cookie
//! ([`super::classic`]).

use core::fmt;
use core::ops::Range;
use std::net::SocketAddr;

use super::attribute::{AttributeError, AttributeType};
use super::integrity::{Integrity, Key};
use super::{address, fingerprint};

pub use super::header::{HEADER_LEN, MAGIC_COOKIE, TransactionId};

/// The class of a message (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Expects a response.
    Request,
    /// Gets no response.
    Indication,
    /// Response to a request that succeeded.
    Success,
    /// Response to a request that failed.
    Error,
}

impl Class {
    const fn of(raw_type: u16) -> Self {
        match (raw_type & 0x0100 != 0, raw_type & 0x0010 != 0) {
            (false, false) => Self::Request,
            (false, true) => Self::Indication,
            (true, false) => Self::Success,
            (true, true) => Self::Error,
        }
    }

    const fn bits(self) -> u16 {
        match self {
            Self::Request => 0,
            Self::Indication => 0x0010,
            Self::Success => 0x0100,
            Self::Error => 0x0110,
        }
    }
}

/// The method of a message (RFC 8489 §18.2, RFC 8656 §17, RFC 6062 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Reports its server-reflexive address to a client.
    Binding = 0x001,
    /// Creates an allocation.
    Allocate = 0x003,
    /// Extends or ends an allocation.
    Refresh = 0x004,
    /// Application data from the client (indication).
    Send = 0x006,
    /// Application data for the client (indication).
    Data = 0x007,
    /// Permits peers.
    CreatePermission = 0x008,
    /// Binds a channel number to a peer.
    ChannelBind = 0x009,
    /// RFC 6062.
    Connect = 0x00A,
    /// RFC 6062.
    ConnectionBind = 0x00B,
    /// RFC 6062 (indication).
    ConnectionAttempt = 0x00C,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 10] = [
        Self::Binding,
        Self::Allocate,
        Self::Refresh,
        Self::Send,
        Self::Data,
        Self::CreatePermission,
        Self::ChannelBind,
        Self::Connect,
        Self::ConnectionBind,
        Self::ConnectionAttempt,
    ];

    const fn of(raw_type: u16) -> Option<Self> {
        Some(match raw_type & !0x0110 {
            0x001 => Self::Binding,
            0x003 => Self::Allocate,
            0x004 => Self::Refresh,
            0x006 => Self::Send,
            0x007 => Self::Data,
            0x008 => Self::CreatePermission,
            0x009 => Self::ChannelBind,
            0x00A => Self::Connect,
            0x00B => Self::ConnectionBind,
            0x00C => Self::ConnectionAttempt,
            _ => return None,
        })
    }
}

/// The first two bytes of a message.
pub const fn message_type(class: Class, method: Method) -> u16 {
    // Every method fits into the four bits below the class bits.
    method as u16 | class.bits()
}

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Fewer than the 20 bytes of a header.
    Short,
    /// The two top bits are not zero.
    NotStun,
    /// No magic cookie.
    BadCookie,
    /// The length is not a multiple of four, or does not match the bytes.
    BadLength,
    /// An attribute runs past the end.
    BadAttribute,
    /// FINGERPRINT is wrong, has a wrong length, or is not the last attribute.
    BadFingerprint,
}

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Class and method as sent.
    pub raw_type: u16,
    /// Bytes after the header; a multiple of four.
    pub length: u16,
    /// Transaction id.
    pub transaction_id: TransactionId,
}

/// A STUN message: borrowed, checked once, cheap to copy.
///
/// It stays under 128 bytes. A larger one is moved by calls to `memcpy`, which cost a third of a
/// Send indication.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    header: Header,
    /// Position of the first trusted attribute of each type that has a slot; zero if there is none.
    first: [Position; SLOTS],
    /// Where the part covered by integrity ends, or where the message ends.
    trusted_end: Position,
    integrity: Option<(Integrity, Position)>,
    unknown: bool,
    fingerprint: bool,
}

/// Types with a slot: all that TURN requests look up, apart from a few optional ones. Others are
/// found by a walk.
const SLOTS: usize = 32;
const FIRST_SLOT: u16 = AttributeType::USERNAME.0;

const fn slot(kind: AttributeType) -> usize {
    kind.0.wrapping_sub(FIRST_SLOT) as usize
}

/// Where an attribute begins, from the start of the message, in units of four bytes, so that every
/// position in the longest message fits. Never zero, because the header is there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position(u16);

impl Position {
    const NONE: Self = Self(0);

    /// `bytes` is a multiple of four and at most 65552, the longest message.
    fn of(bytes: usize) -> Self {
        Self(u16::try_from(bytes / 4).unwrap_or(u16::MAX))
    }

    const fn bytes(self) -> usize {
        self.0 as usize * 4
    }
}

impl<'a> Message<'a> {
    /// Parses `bytes`, which are exactly one message: a datagram, or a frame found by
    /// [`super::framing`].
    ///
    /// Of duplicate attributes the first counts (RFC 8489 §14). Padding may have any value.
    ///
    /// # Errors
    /// See [`ParseError`]. The caller drops such a message without a response (RFC 8489 §6.3).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = Self::peek_header(bytes)?;
        if bytes.len() != HEADER_LEN + usize::from(header.length) {
            return Err(ParseError::BadLength);
        }
        let mut message = Self {
            bytes,
            header,
            first: [Position::NONE; SLOTS],
            trusted_end: Position::of(bytes.len()),
            integrity: None,
            unknown: false,
            fingerprint: false,
        };
        let mut walk = Walk { bytes, at: HEADER_LEN };
        while let Some(attribute) = walk.next()? {
            message.note(attribute)?;
        }
        Ok(message)
    }

    /// Reads the header at the front of `bytes`, whatever follows.
    ///
    /// # Errors
    /// The variants of [`ParseError`] that concern the header.
    pub fn peek_header(bytes: &[u8]) -> Result<Header, ParseError> {
        let Some((&[t0, t1, l0, l1, c0, c1, c2, c3], rest)) = bytes.split_first_chunk() else {
            return Err(ParseError::Short);
        };
        let Some(&id) = rest.first_chunk() else {
            return Err(ParseError::Short);
        };
        if t0 & 0xC0 != 0 {
            return Err(ParseError::NotStun);
        }
        if u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return Err(ParseError::BadCookie);
        }
        if l1 & 0b11 != 0 {
            return Err(ParseError::BadLength);
        }
        Ok(Header {
            raw_type: u16::from_be_bytes([t0, t1]),
            length: u16::from_be_bytes([l0, l1]),
            transaction_id: TransactionId(id),
        })
    }

    /// Records one attribute during the walk.
    fn note(&mut self, attribute: Attribute<'a>) -> Result<(), ParseError> {
        let Attribute { kind, at, value } = attribute;
        match kind {
            AttributeType::FINGERPRINT => {
                let end = at + 4 + fingerprint::LEN;
                let sent = <[u8; fingerprint::LEN]>::try_from(value).map_err(|_| ParseError::BadFingerprint)?;
                let covered = self.bytes.get(..at).unwrap_or_default();
                if end != self.bytes.len() || u32::from_be_bytes(sent) != fingerprint::compute(covered) {
                    return Err(ParseError::BadFingerprint);
                }
                self.fingerprint = true;
            }
            // After MESSAGE-INTEGRITY only these two count, and after MESSAGE-INTEGRITY-SHA256 only
            // FINGERPRINT (RFC 8489 §14.5, §14.6). If both are present, the SHA-256 one is
            // verified. It never covers less.
            AttributeType::MESSAGE_INTEGRITY if self.integrity.is_none() => {
                self.integrity = Some((Integrity::Sha1, Position::of(at)));
                self.trusted_end = Position::of(at);
            }
            AttributeType::MESSAGE_INTEGRITY_SHA256 if !matches!(self.integrity, Some((Integrity::Sha256, _))) => {
                self.integrity = Some((Integrity::Sha256, Position::of(at)));
                self.trusted_end = self.trusted_end.min(Position::of(at));
            }
            _ if self.integrity.is_some() => {}
            _ => {
                match self.first.get_mut(slot(kind)) {
                    Some(first) if *first == Position::NONE => *first = Position::of(at),
                    _ => {}
                }
                self.unknown |= kind.is_unknown_required();
            }
        }
        Ok(())
    }

    /// The whole message.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Class.
    pub const fn class(&self) -> Class {
        Class::of(self.header.raw_type)
    }

    /// Method; `None` if this server does not know it.
    pub const fn method(&self) -> Option<Method> {
        Method::of(self.header.raw_type)
    }

    /// Class and method as sent.
    pub const fn raw_type(&self) -> u16 {
        self.header.raw_type
    }

    /// Transaction id.
    pub const fn transaction_id(&self) -> TransactionId {
        self.header.transaction_id
    }

    /// Whether there is a FINGERPRINT. It is valid, or the message would not have parsed.
    pub const fn has_fingerprint(&self) -> bool {
        self.fingerprint
    }

    /// Value of the first attribute of type `kind` before the integrity attribute. Integrity
    /// attributes and FINGERPRINT themselves are not accessible.
    pub fn attribute(&self, kind: AttributeType) -> Option<&'a [u8]> {
        self.first_of(kind).map(|attribute| attribute.value)
    }

    /// The range of [`Self::attribute`] of `kind` in the message.
    pub fn attribute_range(&self, kind: AttributeType) -> Option<Range<usize>> {
        self.first_of(kind).map(|attribute| attribute.range())
    }

    /// [`Self::attribute`] of type `kind`, decoded; `Ok(None)` if there is none.
    ///
    /// # Errors
    /// Those of `decode`.
    pub fn decode<T>(
        &self,
        kind: AttributeType,
        decode: impl FnOnce(&'a [u8]) -> Result<T, AttributeError>,
    ) -> Result<Option<T>, AttributeError> {
        self.attribute(kind).map(decode).transpose()
    }

    /// Values of all attributes of type `kind` before the integrity attribute, in order.
    pub fn attributes_of(&self, kind: AttributeType) -> impl Iterator<Item = &'a [u8]> {
        self.trusted()
            .filter(move |attribute| attribute.kind == kind)
            .map(|attribute| attribute.value)
    }

    /// Types and values of all attributes before the integrity attribute, in order, duplicates
    /// included.
    pub fn attributes(&self) -> impl Iterator<Item = (AttributeType, &'a [u8])> {
        self.trusted().map(|attribute| (attribute.kind, attribute.value))
    }

    /// The first XOR-encoded address of type `kind`, decoded; `Ok(None)` if there is none.
    ///
    /// # Errors
    /// Those of [`address::decode`].
    pub fn xor_address(&self, kind: AttributeType) -> Result<Option<SocketAddr>, AttributeError> {
        self.decode(kind, |value| address::decode(value, self.transaction_id()))
    }

    /// All XOR-encoded addresses of type `kind`, in order: XOR-PEER-ADDRESS in CreatePermission.
    pub fn xor_addresses(&self, kind: AttributeType) -> impl Iterator<Item = Result<SocketAddr, AttributeError>> {
        let id = self.transaction_id();
        self.attributes_of(kind).map(move |value| address::decode(value, id))
    }

    /// The comprehension-required attributes before the integrity attribute that this server does
    /// not understand (RFC 8489 §6.3.1).
    pub fn unknown_required(&self) -> UnknownAttributes {
        self.unknown_required_but(&[])
    }

    /// [`Self::unknown_required`] without the types in `known`, which belong to a feature that the
    /// caller serves.
    pub fn unknown_required_but(&self, known: &[AttributeType]) -> UnknownAttributes {
        let mut unknown = UnknownAttributes::default();
        if self.unknown {
            let required = self
                .trusted()
                .map(|attribute| attribute.kind)
                .filter(|kind| kind.is_unknown_required() && !known.contains(kind));
            for kind in required {
                if !unknown.push(kind) {
                    break;
                }
            }
        }
        unknown
    }

    /// The integrity attribute to verify, whatever its length; `None` if there is none.
    pub const fn integrity(&self) -> Option<Integrity> {
        match self.integrity {
            Some((integrity, _)) => Some(integrity),
            None => None,
        }
    }

    /// Whether [`Self::integrity`] has an invalid length. [`Self::verify`] is then false.
    pub fn integrity_malformed(&self) -> bool {
        self.integrity.is_some_and(|(integrity, at)| {
            attribute_at(self.bytes, at.bytes()).is_none_or(|found| found.value.len() != integrity.value_len())
        })
    }

    /// Whether the attribute that [`Self::integrity`] names was computed with `key`. Compares in
    /// constant time.
    pub fn verify(&self, key: &Key) -> bool {
        let Some((integrity, at)) = self.integrity else {
            return false;
        };
        match (self.bytes.get(..at.bytes()), attribute_at(self.bytes, at.bytes())) {
            (Some(before), Some(attribute)) if attribute.value.len() == integrity.value_len() => {
                key.verify(integrity, before, attribute.value)
            }
            _ => false,
        }
    }

    fn first_of(&self, kind: AttributeType) -> Option<Attribute<'a>> {
        match self.first.get(slot(kind)) {
            Some(&Position::NONE) => None,
            Some(position) => attribute_at(self.bytes, position.bytes()),
            None => self.trusted().find(|attribute| attribute.kind == kind),
        }
    }

    /// All attributes before the integrity attribute. FINGERPRINT is never among them, because
    /// nothing follows it.
    fn trusted(&self) -> impl Iterator<Item = Attribute<'a>> {
        let mut walk = Walk {
            bytes: self.bytes.get(..self.trusted_end.bytes()).unwrap_or_default(),
            at: HEADER_LEN,
        };
        // `parse` has walked them already, so no error is left.
        core::iter::from_fn(move || walk.next().ok().flatten())
            .filter(|attribute| attribute.kind != AttributeType::FINGERPRINT)
    }
}

impl fmt::Debug for Message<'_> {
    /// Omits the attributes: they hold usernames and addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("class", &self.class())
            .field("method", &self.method())
            .field("transaction_id", &self.transaction_id())
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// One attribute and the position of its header, in bytes from the start of the message.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) kind: AttributeType,
    at: usize,
    pub(super) value: &'a [u8],
}

impl Attribute<'_> {
    const fn range(&self) -> Range<usize> {
        let start = self.at + 4;
        start..start + self.value.len()
    }

    /// Where the next attribute begins.
    const fn end(&self) -> usize {
        self.at + 4 + ((self.value.len() + 3) & !3)
    }
}

/// The attribute that begins at byte `at`; `None` if it does not end within `bytes`.
fn attribute_at(bytes: &[u8], at: usize) -> Option<Attribute<'_>> {
    let (&[t0, t1, l0, l1], rest) = bytes.get(at..)?.split_first_chunk()?;
    let value = rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?;
    Some(Attribute {
        kind: AttributeType(u16::from_be_bytes([t0, t1])),
        at,
        value,
    })
}

/// Iterates over the attributes from byte `at` on.
pub(super) struct Walk<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn next(&mut self) -> Result<Option<Attribute<'a>>, ParseError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let attribute = attribute_at(self.bytes, self.at).ok_or(ParseError::BadAttribute)?;
        // The length of the message is a multiple of four, so the padding of an attribute lies
        // within it too.
        self.at = attribute.end();
        Ok(Some(attribute))
    }
}

/// The types for UNKNOWN-ATTRIBUTES: each once, in order, and at most [`UnknownAttributes::MAX`],
/// so that a request cannot make the response large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnknownAttributes {
    types: [u16; Self::MAX],
    len: usize,
}

impl UnknownAttributes {
    /// The most types kept; further ones are omitted.
    pub const MAX: usize = 32;

    /// Adds a type unless it is present; `false` if there is no room.
    pub fn push(&mut self, kind: AttributeType) -> bool {
        if self.as_slice().contains(&kind.0) {
            return true;
        }
        let Some(slot) = self.types.get_mut(self.len) else {
            return false;
        };
        *slot = kind.0;
        self.len += 1;
        true
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The types, in order of appearance.
    pub fn iter(&self) -> impl Iterator<Item = AttributeType> {
        self.as_slice().iter().copied().map(AttributeType)
    }

    fn as_slice(&self) -> &[u16] {
        self.types.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
