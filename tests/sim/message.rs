//! Messages from clients, and their meaning: the oracle gets the meaning, the server only the
//! bytes.

use core::ops::Range;
use std::net::SocketAddr;
use std::rc::Rc;

use relay_proto::base::address::Family;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay_proto::wire::message::{Class, Method, TransactionId};
use relay_proto::wire::writer::MessageWriter;

pub(crate) const REALM: &str = "example.org";

/// A username and a password, not necessarily valid.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) algorithm: PasswordAlgorithm,
    pub(crate) key: Key,
}

impl Login {
    pub(crate) fn new(username: &str, password: &str, algorithm: PasswordAlgorithm) -> Rc<Self> {
        let key = Key::long_term(username.as_bytes(), REALM, password.as_bytes(), algorithm);
        Rc::new(Self {
            username: username.into(),
            password: password.into(),
            algorithm,
            key,
        })
    }

    pub(crate) const fn integrity(&self) -> Integrity {
        match self.algorithm {
            PasswordAlgorithm::Md5 => Integrity::Sha1,
            PasswordAlgorithm::Sha256 => Integrity::Sha256,
        }
    }
}

/// What a request requests.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Binding,
    Allocate(Wanted),
    Refresh {
        lifetime: Option<u32>,
        family: Option<Family>,
    },
    CreatePermission {
        peers: Vec<SocketAddr>,
    },
    ChannelBind {
        number: u16,
        peer: SocketAddr,
    },
}

/// What an Allocate requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) lifetime: Option<u32>,
    pub(crate) family: Option<Family>,
    /// ADDITIONAL-ADDRESS-FAMILY: both.
    pub(crate) dual: bool,
    /// EVEN-PORT, and its R bit.
    pub(crate) even: Option<bool>,
    pub(crate) token: Option<[u8; 8]>,
}

impl Ask {
    pub(crate) const fn method(&self) -> Method {
        match self {
            Self::Binding => Method::Binding,
            Self::Allocate(_) => Method::Allocate,
            Self::Refresh { .. } => Method::Refresh,
            Self::CreatePermission { .. } => Method::CreatePermission,
            Self::ChannelBind { .. } => Method::ChannelBind,
        }
    }
}

/// What is wrong with a request, apart from its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Signed, but without NONCE: 400 before anything else.
    NoNonce,
    /// An unknown comprehension-required attribute, signed: 420.
    Unknown,
    /// An attribute of a wrong length, signed: 400.
    BadLength,
    /// Attributes after MESSAGE-INTEGRITY, as if an attacker had added them on the way: without
    /// effect.
    Tail,
}

/// A request as its sender intended it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: TransactionId,
    pub(crate) ask: Ask,
    pub(crate) login: Option<Rc<Login>>,
    pub(crate) nonce: Vec<u8>,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) fingerprint: bool,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut buffer = vec![0; 1500];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, self.ask.method(), self.id);
        write_ask(&mut writer, &self.ask);
        match self.flaw {
            Some(Flaw::Unknown) => _ = writer.attribute(AttributeType(0x7FFE), b"what?"),
            Some(Flaw::BadLength) if matches!(self.ask, Ask::Allocate(_) | Ask::Refresh { .. }) => {
                writer.attribute(AttributeType::LIFETIME, &[0, 0, 9]);
            }
            _ => {}
        }
        if let Some(login) = &self.login {
            writer.attribute(AttributeType::USERNAME, login.username.as_bytes());
            writer.attribute(AttributeType::REALM, REALM.as_bytes());
            if self.flaw != Some(Flaw::NoNonce) {
                writer.attribute(AttributeType::NONCE, &self.nonce);
            }
            if login.algorithm == PasswordAlgorithm::Sha256 {
                writer.attribute(AttributeType::PASSWORD_ALGORITHMS, &PasswordAlgorithm::OFFER);
                writer.attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 2, 0, 0]);
            }
            writer.integrity(&login.key, login.integrity());
        }
        if self.flaw == Some(Flaw::Tail) {
            // Each of them would change the request if it counted.
            writer.u32(AttributeType::LIFETIME, 0);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, ([93, 184, 216, 99], 9999).into());
            writer.attribute(AttributeType(0x7FFD), b"tail");
        }
        if self.fingerprint {
            writer.fingerprint();
        }
        let len = writer.finish().expect("the request fits");
        buffer.truncate(len);
        buffer
    }
}

fn write_ask(writer: &mut MessageWriter<'_>, ask: &Ask) {
    match ask {
        Ask::Binding => {}
        Ask::Allocate(wanted) => {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            if let Some(lifetime) = wanted.lifetime {
                writer.u32(AttributeType::LIFETIME, lifetime);
            }
            if let Some(family) = wanted.family {
                writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[family_byte(family), 0, 0, 0]);
            }
            if wanted.dual {
                writer.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
            }
            if let Some(reserve) = wanted.even {
                writer.attribute(AttributeType::EVEN_PORT, &[u8::from(reserve) << 7]);
            }
            if let Some(token) = wanted.token {
                writer.attribute(AttributeType::RESERVATION_TOKEN, &token);
            }
        }
        Ask::Refresh { lifetime, family } => {
            if let Some(lifetime) = lifetime {
                writer.u32(AttributeType::LIFETIME, *lifetime);
            }
            if let Some(family) = family {
                writer.attribute(
                    AttributeType::REQUESTED_ADDRESS_FAMILY,
                    &[family_byte(*family), 0, 0, 0],
                );
            }
        }
        Ask::CreatePermission { peers } => {
            for &peer in peers {
                writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
            }
        }
        Ask::ChannelBind { number, peer } => {
            let [high, low] = number.to_be_bytes();
            writer.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer);
        }
    }
}

const fn family_byte(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 2,
    }
}

/// What happened to the bytes on their way, and what the server may make of them.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Request(Rc<Request>),
    Send {
        peer: SocketAddr,
        data: Range<usize>,
        dont_fragment: bool,
    },
    Channel {
        number: u16,
        data: Range<usize>,
    },
    /// Must have no effect: no response, no datagram.
    Nothing,
    /// A request with a bit flipped under its signature: an unsigned error at most.
    Spoiled,
    /// Not TURN: ends a stream.
    Poison,
}

/// Bytes on the way to the server.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Rc<[u8]>,
    pub(crate) told: Told,
}

impl Packet {
    pub(crate) fn request(request: &Rc<Request>) -> Self {
        Self {
            bytes: request.encode().into(),
            told: Told::Request(Rc::clone(request)),
        }
    }

    /// A Send indication.
    pub(crate) fn send(id: TransactionId, peer: SocketAddr, data: &[u8], dont_fragment: bool) -> Self {
        let bytes = indication(id, peer, data, dont_fragment, false);
        let start = 20 + if peer.is_ipv4() { 12 } else { 24 } + if dont_fragment { 4 } else { 0 } + 4;
        let told = Told::Send {
            peer,
            data: start..start + data.len(),
            dont_fragment,
        };
        Self {
            bytes: bytes.into(),
            told,
        }
    }

    /// A Send indication that must be dropped: it has an unknown comprehension-required attribute.
    pub(crate) fn unknown_send(id: TransactionId, peer: SocketAddr, data: &[u8]) -> Self {
        Self {
            bytes: indication(id, peer, data, false, true).into(),
            told: Told::Nothing,
        }
    }

    /// ChannelData, followed by `padding` bytes.
    pub(crate) fn channel(number: u16, data: &[u8], padding: usize) -> Self {
        let mut bytes = Vec::with_capacity(4 + data.len() + padding);
        bytes.extend(number.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        bytes.resize(4 + data.len() + padding, 0);
        let told = Told::Channel {
            number,
            data: 4..4 + data.len(),
        };
        Self {
            bytes: bytes.into(),
            told,
        }
    }

    pub(crate) fn nothing(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
            told: Told::Nothing,
        }
    }

    pub(crate) fn poison(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
            told: Told::Poison,
        }
    }

    /// The application data, if it should be relayed.
    pub(crate) fn payload(&self) -> &[u8] {
        match &self.told {
            Told::Send { data, .. } | Told::Channel { data, .. } => &self.bytes[data.clone()],
            _ => &[],
        }
    }

    pub(crate) fn tell(&self) -> String {
        match &self.told {
            Told::Request(request) => {
                let user = request.login.as_ref().map_or("-", |login| &login.username);
                let flaw = request.flaw.map_or_else(String::new, |flaw| format!(" {flaw:?}"));
                format!("{:?} by {user}{flaw} #{:02x?}", request.ask, &request.id.0[8..])
            }
            Told::Send { peer, data, .. } => format!("Send {} bytes to {peer}", data.len()),
            Told::Channel { number, data } => format!("ChannelData {} bytes on {number:#06x}", data.len()),
            other => format!("{other:?} ({} bytes)", self.bytes.len()),
        }
    }
}

fn indication(id: TransactionId, peer: SocketAddr, data: &[u8], dont_fragment: bool, unknown: bool) -> Vec<u8> {
    let mut buffer = vec![0; data.len() + 100];
    let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::Send, id);
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
    if dont_fragment {
        writer.attribute(AttributeType::DONT_FRAGMENT, &[]);
    }
    if unknown {
        writer.attribute(AttributeType(0x7FFE), &[]);
    }
    writer.attribute(AttributeType::DATA, data);
    let len = writer.finish().expect("the indication fits");
    buffer.truncate(len);
    buffer
}
