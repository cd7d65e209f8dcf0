//! Messages from clients: requests, indications, ChannelData.

use std::net::SocketAddr;

use relay_proto::base::address::Transport;
use relay_proto::turn::types::Link;
use relay_proto::turn::{self};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay_proto::wire::message::{Class, Method, TransactionId};
use relay_proto::wire::writer::MessageWriter;

use super::{Answer, REALM, World, addr, five_tuple};

/// A client: its addresses, its login, and the nonce it was given.
#[derive(Clone)]
pub struct Client {
    pub client: turn::types::Client,
    /// The shard where its packets arrive.
    pub shard: usize,
    pub username: String,
    pub password: String,
    pub realm: String,
    pub nonce: Option<Vec<u8>>,
    pub integrity: Integrity,
    /// PASSWORD-ALGORITHM in its requests, with PASSWORD-ALGORITHMS as offered.
    pub algorithm: Option<PasswordAlgorithm>,
    pub fingerprint: bool,
    next_id: u64,
}

/// Client `n`, user alice: over UDP and IPv4, unless the whole run uses another transport
/// (`over.rs`).
pub fn client(n: u16) -> Client {
    let (transport, v6) = super::over::way();
    client_of(n, transport, v6)
}

/// Client `n` over `transport` and IPv6 or IPv4, user alice.
pub fn client_of(n: u16, transport: Transport, v6: bool) -> Client {
    let mut client = client_over(n, transport);
    if v6 {
        let host = std::net::Ipv6Addr::new(0x2A00, 0x1450, 2, n % 250, 0, 0, 0, 7);
        client.client.five_tuple.client = SocketAddr::from((host, 40_000 + n));
        client.client.five_tuple.server = addr("[2a00:1450:1::1]:3478");
    }
    client
}

/// Client `n` over `transport`, user alice.
pub fn client_over(n: u16, transport: Transport) -> Client {
    Client {
        client: turn::types::Client {
            five_tuple: five_tuple(n, transport),
            link: Link(n.into()),
        },
        shard: 0,
        username: "alice".into(),
        password: "wonderland".into(),
        realm: REALM.into(),
        nonce: None,
        integrity: Integrity::Sha1,
        algorithm: None,
        fingerprint: false,
        next_id: u64::from(n) << 32,
    }
}

impl Client {
    pub fn user(mut self, username: &str, password: &str) -> Self {
        (self.username, self.password) = (username.into(), password.into());
        self
    }

    pub fn at_shard(mut self, shard: usize) -> Self {
        self.shard = shard;
        self
    }

    pub fn addr(&self) -> SocketAddr {
        self.client.five_tuple.client
    }

    pub fn key(&self) -> Key {
        let algorithm = self.algorithm.unwrap_or(PasswordAlgorithm::Md5);
        Key::long_term(
            self.username.as_bytes(),
            &self.realm,
            self.password.as_bytes(),
            algorithm,
        )
    }

    fn id(&mut self) -> TransactionId {
        self.next_id += 1;
        let mut id = [0xC5; 12];
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        TransactionId(id)
    }

    /// Sends `message` without a login.
    pub fn send_plain(&mut self, world: &mut World, message: &Message) -> Answer {
        let bytes = message.bytes(message.id.unwrap_or_else(|| self.id()), |_| {}, self.fingerprint);
        world.packet(self, &bytes)
    }

    /// The bytes of `message` with this client's login.
    pub fn signed(&mut self, message: &Message) -> Vec<u8> {
        let id = message.id.unwrap_or_else(|| self.id());
        let mut message = message.clone();
        message
            .attributes
            .push((AttributeType::USERNAME, self.username.clone().into_bytes()));
        message
            .attributes
            .push((AttributeType::REALM, self.realm.clone().into_bytes()));
        message
            .attributes
            .push((AttributeType::NONCE, self.nonce.clone().unwrap_or_default()));
        if let Some(algorithm) = self.algorithm {
            let number = algorithm.number().to_be_bytes();
            message
                .attributes
                .push((AttributeType::PASSWORD_ALGORITHMS, PasswordAlgorithm::OFFER.to_vec()));
            message
                .attributes
                .push((AttributeType::PASSWORD_ALGORITHM, vec![number[0], number[1], 0, 0]));
        }
        let (key, integrity) = (self.key(), self.integrity);
        message.bytes(
            id,
            |writer| {
                writer.integrity(&key, integrity);
            },
            self.fingerprint,
        )
    }

    /// Sends a request with this client's login; before the first one it requests a nonce as
    /// clients do. Checks that the response to an authenticated request is signed as the request
    /// was.
    pub fn request(&mut self, world: &mut World, message: &Message) -> Answer {
        if self.nonce.is_none() {
            let challenge = self.send_plain(world, &allocate());
            assert_eq!(challenge.code(), 401);
            self.nonce = Some(challenge.attribute(AttributeType::NONCE).expect("a nonce"));
        }
        let packet = self.signed(message);
        let answer = world.packet(self, &packet);
        match answer.code_or_success() {
            Some(401 | 438) | None => {}
            Some(code) => assert!(answer.is_signed(&self.key(), self.integrity), "{code} is not signed"),
        }
        answer
    }

    /// Creates an allocation with the default request; returns its relayed transport address.
    pub fn allocate(&mut self, world: &mut World) -> SocketAddr {
        let answer = self.request(world, &allocate());
        assert_eq!(answer.code_or_success(), Some(0), "{answer:?}");
        answer.relayed()[0]
    }

    pub fn permit(&mut self, world: &mut World, peers: &[SocketAddr]) {
        assert_eq!(
            self.request(world, &create_permission(peers)).code_or_success(),
            Some(0)
        );
    }

    pub fn bind(&mut self, world: &mut World, number: u16, peer: SocketAddr) {
        assert_eq!(
            self.request(world, &channel_bind(number, peer)).code_or_success(),
            Some(0)
        );
    }

    pub fn send(&mut self, world: &mut World, peer: SocketAddr, data: &[u8]) -> Answer {
        self.send_plain(world, &send_indication(peer, data))
    }

    pub fn channel_data(&mut self, world: &mut World, number: u16, data: &[u8]) -> Answer {
        world.packet(self, &channel_data(number, data))
    }

    pub fn disconnect(&mut self, world: &mut World) {
        let now = world.now();
        world.shards[self.shard].handle_disconnect(now, &self.client);
        world.settle(self.shard);
    }
}

/// A message to send.
#[derive(Clone)]
pub struct Message {
    class: Class,
    method: Method,
    pub id: Option<TransactionId>,
    attributes: Vec<(AttributeType, Vec<u8>)>,
    /// XOR-PEER-ADDRESSes are encoded with the transaction id, so they are added once it is known.
    peers: Vec<SocketAddr>,
}

pub fn message(class: Class, method: Method) -> Message {
    Message {
        class,
        method,
        id: None,
        attributes: Vec::new(),
        peers: Vec::new(),
    }
}

pub fn request(method: Method) -> Message {
    message(Class::Request, method)
}

/// Only REQUESTED-TRANSPORT UDP.
pub fn allocate() -> Message {
    request(Method::Allocate).with(AttributeType::REQUESTED_TRANSPORT, [17, 0, 0, 0])
}

pub fn refresh(lifetime: u32) -> Message {
    request(Method::Refresh).lifetime(lifetime)
}

pub fn create_permission(peers: &[SocketAddr]) -> Message {
    peers
        .iter()
        .fold(request(Method::CreatePermission), |message, &peer| message.peer(peer))
}

pub fn channel_bind(number: u16, peer: SocketAddr) -> Message {
    let [high, low] = number.to_be_bytes();
    request(Method::ChannelBind)
        .with(AttributeType::CHANNEL_NUMBER, [high, low, 0, 0])
        .peer(peer)
}

pub fn send_indication(peer: SocketAddr, data: &[u8]) -> Message {
    message(Class::Indication, Method::Send)
        .peer(peer)
        .with(AttributeType::DATA, data)
}

/// ChannelData as over UDP: without padding.
pub fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u16;
    [&number.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

impl Message {
    pub fn with(mut self, kind: AttributeType, value: impl AsRef<[u8]>) -> Self {
        self.attributes.push((kind, value.as_ref().to_vec()));
        self
    }

    pub fn without(mut self, kind: AttributeType) -> Self {
        self.attributes.retain(|&(other, _)| other != kind);
        self
    }

    pub fn peer(mut self, peer: SocketAddr) -> Self {
        self.peers.push(peer);
        self
    }

    pub fn lifetime(self, seconds: u32) -> Self {
        self.with(AttributeType::LIFETIME, seconds.to_be_bytes())
    }

    /// REQUESTED-ADDRESS-FAMILY.
    pub fn family(self, family: u8) -> Self {
        self.with(AttributeType::REQUESTED_ADDRESS_FAMILY, [family, 0, 0, 0])
    }

    /// ADDITIONAL-ADDRESS-FAMILY.
    pub fn also(self, family: u8) -> Self {
        self.with(AttributeType::ADDITIONAL_ADDRESS_FAMILY, [family, 0, 0, 0])
    }

    pub fn even_port(self, reserve: bool) -> Self {
        self.with(AttributeType::EVEN_PORT, [u8::from(reserve) << 7])
    }

    fn bytes(&self, id: TransactionId, sign: impl FnOnce(&mut MessageWriter<'_>), fingerprint: bool) -> Vec<u8> {
        let mut buffer = vec![0xEE; 70_000];
        let mut writer = MessageWriter::new(&mut buffer, self.class, self.method, id);
        for &peer in &self.peers {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        }
        for (kind, value) in &self.attributes {
            writer.attribute(*kind, value);
        }
        sign(&mut writer);
        if fingerprint {
            writer.fingerprint();
        }
        let len = writer.finish().expect("the message fits");
        buffer.truncate(len);
        buffer
    }

    /// The bytes, without a login.
    pub fn plain(&self) -> Vec<u8> {
        self.bytes(self.id.unwrap_or(TransactionId([9; 12])), |_| {}, false)
    }
}
