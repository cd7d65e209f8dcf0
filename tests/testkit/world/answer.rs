//! The results of packets.

use std::net::SocketAddr;
use std::time::Duration;

use relay_proto::turn::{self, DropReason, Response};
use relay_proto::wire::attribute::{self, AttributeType};
use relay_proto::wire::integrity::{Integrity, Key};
use relay_proto::wire::message::{Class, HEADER_LEN, Message, Method};
use relay_proto::wire::{channel_data, error_code};

/// The result of a client's packet.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// This response.
    Response(Vec<u8>),
    /// A datagram to a peer.
    Sent(Sent),
    /// A datagram to a relayed address of this server.
    Delivered(Delivered),
    /// No response yet.
    Waiting,
    /// A success response; afterwards the stream carries data of this peer connection.
    Bound(turn::types::ConnectionId),
    /// The stream belongs to this shard.
    Elsewhere(u16),
    Dropped(DropReason),
}

/// A datagram that left a relay socket.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The bound address.
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub data: Vec<u8>,
    pub dont_fragment: bool,
}

/// The result of a peer's datagram.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivered {
    /// A ChannelData message for this client.
    Channel {
        client: turn::types::Client,
        number: u16,
        data: Vec<u8>,
        padding: usize,
    },
    /// A Data indication.
    Data {
        client: turn::types::Client,
        peer: SocketAddr,
        data: Vec<u8>,
    },
    Dropped(DropReason),
    /// No socket is bound to that address.
    Unreachable,
}

impl Answer {
    /// Checks what every response must satisfy.
    pub fn of(response: &Response, request: &[u8]) -> Self {
        let bytes = response.bytes().to_vec();
        let (request, message) = (Message::parse(request).unwrap(), Message::parse(&bytes).unwrap());
        assert_eq!(
            (message.method(), message.transaction_id()),
            (request.method(), request.transaction_id())
        );
        assert!(matches!(message.class(), Class::Success | Class::Error));
        assert_eq!(
            message.has_fingerprint(),
            request.has_fingerprint(),
            "FINGERPRINT is mirrored"
        );
        let padded = message.attribute(AttributeType::PADDING).is_some();
        assert!(bytes.len() < 548 || padded, "{} bytes", bytes.len());
        assert_padding_is_zero(&bytes);
        for kind in [AttributeType::USERNAME, AttributeType::USERHASH] {
            assert!(message.attribute(kind).is_none());
        }
        Self::Response(bytes)
    }

    fn message(&self) -> Message<'_> {
        match self {
            Self::Response(bytes) => Message::parse(bytes).unwrap(),
            other => panic!("not a response: {other:?}"),
        }
    }

    /// 0 for success.
    pub fn code(&self) -> u16 {
        let message = self.message();
        let value = message.attribute(AttributeType::ERROR_CODE);
        assert_eq!(value.is_some(), message.class() == Class::Error);
        value.map_or(0, |value| error_code::decode(value).unwrap().code)
    }

    /// 0 for success; `None` where there is no response.
    pub fn code_or_success(&self) -> Option<u16> {
        matches!(self, Self::Response(_)).then(|| self.code())
    }

    pub fn attribute(&self, kind: AttributeType) -> Option<Vec<u8>> {
        self.message().attribute(kind).map(<[u8]>::to_vec)
    }

    /// Types of all attributes, in order.
    pub fn kinds(&self) -> Vec<u16> {
        let Self::Response(bytes) = self else {
            panic!("not a response: {self:?}")
        };
        attributes(bytes).into_iter().map(|(kind, _)| kind).collect()
    }

    pub fn is_signed(&self, key: &Key, integrity: Integrity) -> bool {
        let message = self.message();
        let challenge = [AttributeType::REALM, AttributeType::NONCE]
            .iter()
            .any(|&it| message.attribute(it).is_some());
        !challenge && message.integrity() == Some(integrity) && message.verify(key)
    }

    pub fn relayed(&self) -> Vec<SocketAddr> {
        self.message()
            .xor_addresses(AttributeType::XOR_RELAYED_ADDRESS)
            .map(Result::unwrap)
            .collect()
    }

    pub fn mapped(&self) -> SocketAddr {
        self.message()
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS)
            .unwrap()
            .expect("XOR-MAPPED-ADDRESS")
    }

    pub fn lifetime(&self) -> Duration {
        let value = self
            .message()
            .decode(AttributeType::LIFETIME, attribute::lifetime)
            .unwrap();
        Duration::from_secs(value.expect("LIFETIME").into())
    }

    pub fn token(&self) -> Option<Vec<u8>> {
        self.attribute(AttributeType::RESERVATION_TOKEN)
    }

    pub fn sent(self) -> Sent {
        match self {
            Self::Sent(sent) => sent,
            other => panic!("nothing was sent: {other:?}"),
        }
    }

    pub fn delivered(self) -> Delivered {
        match self {
            Self::Delivered(delivered) => delivered,
            other => panic!("not to a relayed address: {other:?}"),
        }
    }
}

impl Delivered {
    pub fn of(client: turn::types::Client, bytes: Vec<u8>) -> Self {
        if bytes[0] >= 0x40 {
            let (number, data) = channel_data::parse(&bytes).unwrap();
            let padding = bytes.len() - data.end;
            return Self::Channel {
                client,
                number,
                data: bytes[data].to_vec(),
                padding,
            };
        }
        let message = Message::parse(&bytes).expect("a whole message");
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Some(Method::Data))
        );
        assert_eq!(message.integrity(), None, "indications are not signed");
        assert_padding_is_zero(&bytes);
        let peer = message
            .xor_address(AttributeType::XOR_PEER_ADDRESS)
            .unwrap()
            .expect("XOR-PEER-ADDRESS");
        let data = message.attribute(AttributeType::DATA).expect("DATA").to_vec();
        Self::Data { client, peer, data }
    }

    pub fn is_data(&self, from: SocketAddr, payload: &[u8]) -> bool {
        matches!(self, Self::Data { peer, data, .. } if *peer == from && data == payload)
    }

    pub fn is_channel(&self, on: u16, payload: &[u8]) -> bool {
        matches!(self, Self::Channel { number, data, .. } if *number == on && data == payload)
    }
}

fn attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let (mut at, mut all) = (HEADER_LEN, Vec::new());
    while at < bytes.len() {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let len = usize::from(word(at + 2));
        all.push((word(at), &bytes[at + 4..at + 4 + len]));
        at += 4 + len.next_multiple_of(4);
    }
    all
}

fn assert_padding_is_zero(bytes: &[u8]) {
    let mut at = HEADER_LEN;
    for (_, value) in attributes(bytes) {
        let (end, next) = (at + 4 + value.len(), at + 4 + value.len().next_multiple_of(4));
        assert!(bytes[end..next].iter().all(|&byte| byte == 0), "padding in {bytes:?}");
        at = next;
    }
}
