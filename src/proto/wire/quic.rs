//! The parts of QUIC that are in the clear in every version (RFC 8999), as far as a port shared
//! with STUN, ChannelData and DTLS needs them (RFC 9443). Nothing is decrypted here.

use super::demux::{Kind, classify};
use super::message::MAGIC_COOKIE;

/// A client's first datagrams are at least this long (RFC 9000 §14.1).
pub const MIN_INITIAL: usize = 1200;
/// The connection ID in a client's first datagrams has at least this many bytes (RFC 9000 §7.2).
const MIN_FIRST_ID: usize = 8;
/// Longest connection ID of the existing versions (RFC 9000 §17.2).
const MAX_ID: usize = 20;
/// An off-path attacker could guess shorter ones. This is the shortest that common servers choose.
const MIN_PROOF: usize = 4;

const HEADER_FORM: u8 = 0x80;
const FIXED_BIT: u8 = 0x40;
const VERSION_1: u32 = 1;
/// RFC 9369.
const VERSION_2: u32 = 0x6b33_43cf;

/// The content of a long header (RFC 8999 §5.1).
struct LongHeader<'a> {
    version: u32,
    destination: &'a [u8],
    source: &'a [u8],
}

impl<'a> LongHeader<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (&first, rest) = datagram.split_first()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (destination, rest) = connection_id(rest)?;
        let (source, _) = connection_id(rest)?;
        (first & HEADER_FORM != 0).then_some(Self {
            version: u32::from_be_bytes(*version),
            destination,
            source,
        })
    }
}

/// A connection ID after its length, and the remaining bytes.
fn connection_id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

/// Whether a client may start a connection with `datagram`. It must have a long header whose fixed
/// bit is set (other first bytes of 0x80–0xFF have no meaning, RFC 9443 §3). If the version is
/// known it must be an Initial packet, with the lengths that RFC 9000 requires.
pub fn may_begin(datagram: &[u8]) -> bool {
    let (Some(&first), Some(header)) = (datagram.first(), LongHeader::parse(datagram)) else {
        return false;
    };
    let kind = (first >> 4) & 3;
    let is_initial = match header.version {
        // Version Negotiation, which only servers send.
        0 => false,
        VERSION_1 => kind == 0,
        VERSION_2 => kind == 1,
        // The server will answer with the versions it supports.
        _ => true,
    };
    is_initial && first & FIXED_BIT != 0 && datagram.len() >= MIN_INITIAL && header.destination.len() >= MIN_FIRST_ID
}

/// Whether `datagram` is STUN or DTLS although it comes from a client that speaks QUIC. Checks more
/// than the first byte: a QUIC packet may start with any value once both ends have agreed on that
/// (RFC 9287).
pub fn is_stun_or_dtls(datagram: &[u8]) -> bool {
    let Some((&first, rest)) = datagram.split_first() else {
        return false;
    };
    match classify(first) {
        Kind::Stun => rest.get(3..7) == Some(&MAGIC_COOKIE.to_be_bytes()),
        // The major version of every supported DTLS.
        Kind::Dtls => rest.first() == Some(&0xFE),
        _ => false,
    }
}

/// A connection ID chosen by a server. A client that sends it has received it, which proves the
/// client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerId {
    len: u8,
    bytes: [u8; MAX_ID],
}

impl ServerId {
    /// The server's connection ID in its `datagram`. `None` if there is none, or if it proves
    /// nothing: in Version Negotiation it is the client's own (RFC 8999 §6).
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let header = LongHeader::parse(datagram).filter(|header| header.version != 0)?;
        let mut bytes = [0; MAX_ID];
        bytes.get_mut(..header.source.len())?.copy_from_slice(header.source);
        let len = u8::try_from(header.source.len()).ok()?;
        (header.source.len() >= MIN_PROOF).then_some(Self { len, bytes })
    }

    /// Whether a client's `datagram` is addressed to this connection ID.
    pub fn is_named_by(&self, datagram: &[u8]) -> bool {
        let id = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        match datagram.split_first() {
            Some((first, _)) if first & HEADER_FORM != 0 => {
                LongHeader::parse(datagram).is_some_and(|header| header.destination == id)
            }
            Some((_, rest)) => rest.starts_with(id),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(first: u8, version: u32, destination: &[u8], source: &[u8], len: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        bytes.extend(version.to_be_bytes());
        for id in [destination, source] {
            bytes.push(u8::try_from(id.len()).unwrap());
            bytes.extend(id);
        }
        bytes.resize(len.max(bytes.len()), 0);
        bytes
    }

    #[test]
    fn only_what_a_client_may_send_first_begins_a_connection() {
        let begins = |first, version, destination: &[u8], len| may_begin(&long(first, version, destination, b"", len));
        let id = [7; 8];
        for first in 0xC0..=0xCF {
            assert!(begins(first, VERSION_1, &id, 1200), "{first:#04x}");
        }
        assert!(begins(0xD0, VERSION_2, &id, 1200));
        assert!(
            begins(0xF3, 0x1a2a_3a4a, &[7; 255], 1452),
            "a version the server knows, or says that it does not"
        );
        assert!(!begins(0xC0, VERSION_1, &id, 1199), "too short to be answered");
        assert!(!begins(0xC0, VERSION_1, &id[1..], 1200), "too short a connection ID");
        assert!(!begins(0xC0, 0, &id, 1200), "Version Negotiation");
        assert!(
            !begins(0xC0, VERSION_2, &id, 1200),
            "0-RTT and the like follow an Initial"
        );
        for first in [0xD0, 0xE0, 0xF0] {
            assert!(!begins(first, VERSION_1, &id, 1200), "{first:#04x}");
        }
        for first in 0..0xC0 {
            assert!(!begins(first, VERSION_1, &id, 1200), "{first:#04x}");
        }
    }

    #[test]
    fn a_header_cut_short_anywhere_is_none() {
        let whole = long(0xC0, VERSION_1, &[1; 8], &[2; 8], 0);
        for len in 0..whole.len() {
            assert!(
                !may_begin(&whole[..len]) && ServerId::of(&whole[..len]).is_none(),
                "{len}"
            );
        }
        let mut lies = vec![0xC0, 0, 0, 0, 1, 255];
        lies.resize(200, 0);
        assert_eq!(ServerId::of(&lies), None);
    }

    #[test]
    fn stun_and_dtls_are_told_from_quic_with_any_first_byte() {
        let mut stun = [0; 20];
        stun[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        for first in 0..=255_u8 {
            stun[0] = first;
            let dtls = [first, 0xFE, 0xFD, 0, 0];
            assert_eq!(is_stun_or_dtls(&stun), first < 4, "{first:#04x}");
            assert_eq!(is_stun_or_dtls(&dtls), (20..64).contains(&first), "{first:#04x}");
            assert!(!is_stun_or_dtls(&[first, 1, 2, 3, 4, 5, 6, 7, 8]), "{first:#04x}");
        }
        assert!(!is_stun_or_dtls(&[]));
    }

    #[test]
    fn a_client_names_the_servers_connection_id_in_long_and_short_headers() {
        let chosen = [9, 8, 7, 6];
        let id = ServerId::of(&long(0xC1, VERSION_1, b"client", &chosen, 0)).unwrap();
        assert!(id.is_named_by(&long(0xE0, VERSION_1, &chosen, b"client", 0)));
        assert!(id.is_named_by(&[0x41, 9, 8, 7, 6, 0xAA]));
        assert!(!id.is_named_by(&long(0xC0, VERSION_1, &[9, 8, 7, 6, 5], b"client", 0)));
        assert!(!id.is_named_by(&[0x41, 9, 8, 7]) && !id.is_named_by(&[0x41]) && !id.is_named_by(&[]));
    }

    #[test]
    fn what_the_client_knows_without_hearing_the_server_proves_nothing() {
        assert_eq!(
            ServerId::of(&long(0xC0, 0, b"client", &[1; 8], 0)),
            None,
            "Version Negotiation"
        );
        assert_eq!(
            ServerId::of(&long(0xC0, VERSION_1, b"client", &[1; 3], 0)),
            None,
            "to be guessed"
        );
        assert_eq!(
            ServerId::of(&long(0xC0, VERSION_1, b"client", &[1; 21], 0)),
            None,
            "too long to be one"
        );
        assert_eq!(ServerId::of(&[0x40; 30]), None, "a short header names no source");
    }
}
