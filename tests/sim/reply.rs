//! Messages from the server to clients, parsed.

use std::net::SocketAddr;

use relay_proto::wire::attribute::{self, AttributeType};
use relay_proto::wire::error_code;
use relay_proto::wire::integrity::{Integrity, Key};
use relay_proto::wire::message::{Class, Message, Method, TransactionId};

/// A response.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) id: TransactionId,
    pub(crate) method: Method,
    /// 0 for success.
    pub(crate) code: u16,
    pub(crate) nonce: Option<Vec<u8>>,
    /// Has PASSWORD-ALGORITHMS.
    pub(crate) algorithms: bool,
    pub(crate) lifetime: Option<u32>,
    pub(crate) relayed: Vec<SocketAddr>,
    pub(crate) mapped: Option<SocketAddr>,
    pub(crate) token: Option<[u8; 8]>,
    /// Has ADDRESS-ERROR-CODE.
    pub(crate) half_refused: bool,
    pub(crate) integrity: Option<Integrity>,
    pub(crate) fingerprint: bool,
    /// Has USERNAME, USERHASH or, outside a challenge, REALM or NONCE.
    pub(crate) says_too_much: bool,
}

impl Reply {
    /// Parses a response; panics if a client could not parse it.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let message = Message::parse(bytes).expect("the server writes messages that parse");
        let code = match message.class() {
            Class::Success => 0,
            Class::Error => {
                let value = message
                    .attribute(AttributeType::ERROR_CODE)
                    .expect("an error response has its code");
                error_code::decode(value).expect("a code that decodes").code
            }
            other => panic!("not a response: {other:?}"),
        };
        let has = |kind| message.attribute(kind).is_some();
        let challenge = matches!(code, 401 | 438);
        let addresses = message.xor_addresses(AttributeType::XOR_RELAYED_ADDRESS);
        Self {
            id: message.transaction_id(),
            method: message.method().expect("a method this server knows"),
            code,
            nonce: message.attribute(AttributeType::NONCE).map(<[u8]>::to_vec),
            algorithms: has(AttributeType::PASSWORD_ALGORITHMS),
            lifetime: message
                .decode(AttributeType::LIFETIME, attribute::lifetime)
                .expect("LIFETIME decodes"),
            relayed: addresses.collect::<Result<_, _>>().expect("relayed addresses decode"),
            mapped: message
                .xor_address(AttributeType::XOR_MAPPED_ADDRESS)
                .expect("mapped address decodes"),
            token: message
                .decode(AttributeType::RESERVATION_TOKEN, attribute::reservation_token)
                .expect("RESERVATION-TOKEN decodes"),
            half_refused: has(AttributeType::ADDRESS_ERROR_CODE),
            integrity: message.integrity(),
            fingerprint: message.has_fingerprint(),
            says_too_much: has(AttributeType::USERNAME)
                || has(AttributeType::USERHASH)
                || (!challenge && (has(AttributeType::REALM) || has(AttributeType::NONCE))),
            bytes: bytes.to_vec(),
        }
    }

    pub(crate) fn is_signed_with(&self, key: &Key) -> bool {
        Message::parse(&self.bytes).is_ok_and(|message| message.verify(key))
    }
}

/// What a client receives besides responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromPeer {
    Channel {
        number: u16,
        data: Vec<u8>,
    },
    Data {
        peer: SocketAddr,
        data: Vec<u8>,
    },
    /// A Data indication with ICMP instead of DATA.
    Icmp {
        peer: SocketAddr,
    },
}

impl FromPeer {
    /// Parses ChannelData or a Data indication; panics on anything else.
    pub(crate) fn parse(bytes: &[u8], stream: bool) -> Self {
        if bytes[0] & 0xC0 == 0x40 {
            let number = u16::from_be_bytes([bytes[0], bytes[1]]);
            let len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            let padded = if stream { len.next_multiple_of(4) } else { len };
            assert_eq!(bytes.len(), 4 + padded, "ChannelData is as long as it says");
            assert!(
                bytes[4 + len..].iter().all(|&byte| byte == 0),
                "ChannelData is padded with zeros"
            );
            return Self::Channel {
                number,
                data: bytes[4..4 + len].to_vec(),
            };
        }
        let message = Message::parse(bytes).expect("the server writes messages that parse");
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Some(Method::Data))
        );
        assert_eq!(message.integrity(), None, "a Data indication is not signed");
        let peer = message
            .xor_address(AttributeType::XOR_PEER_ADDRESS)
            .expect("it decodes")
            .expect("a peer address");
        match message.attribute(AttributeType::DATA) {
            Some(data) => Self::Data {
                peer,
                data: data.to_vec(),
            },
            None => {
                assert!(message.attribute(AttributeType::ICMP).is_some(), "DATA or ICMP");
                Self::Icmp { peer }
            }
        }
    }
}

/// Whether bytes for a client are a response.
pub(crate) fn is_response(bytes: &[u8]) -> bool {
    // Class bits: 0x0100 is set in both classes of responses.
    bytes[0] & 0xC1 == 0x01
}
