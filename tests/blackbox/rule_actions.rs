//! Actions and observations of a client, in the vocabulary of `rules.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use relay::base::address::Transport;
use relay::wire::attribute::AttributeType;
use relay::wire::error_code;
use relay::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay::wire::message::{Class, Message, Method, TransactionId};
use relay::wire::writer::MessageWriter;

use crate::client::{Client, Login, PATIENCE};
use crate::harness::EchoPeer;

/// The addresses of the server under test, and its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// UDP and TCP.
    pub(crate) plain: SocketAddr,
    /// TLS.
    pub(crate) tls: SocketAddr,
    /// Two users with passwords, who may reach the address of [`Target::peer`], and not [`DENIED`].
    pub(crate) users: [Login; 2],
    /// An address that peers can bind to.
    pub(crate) peer: String,
}

/// A denied peer.
pub(crate) const DENIED: &str = "10.0.0.1:9";

/// A client of the server under test, of the transport under test.
pub(crate) struct Story<'a> {
    pub(crate) target: &'a Target,
    pub(crate) transport: Transport,
    pub(crate) client: Client,
    /// The content of a challenge.
    pub(crate) realm: String,
    pub(crate) nonce: String,
    next_id: u64,
    /// How long to wait for a response that may not arrive.
    pub(crate) patience: Duration,
}

pub(crate) type Fill<'a> = &'a dyn Fn(&mut MessageWriter<'_>);

impl<'a> Story<'a> {
    pub(crate) fn begin(target: &'a Target, transport: Transport, patience: Duration) -> Self {
        let server = if transport == Transport::Tls {
            target.tls
        } else {
            target.plain
        };
        let client = Client::over_transport(transport, server);
        Self {
            target,
            transport,
            client,
            realm: String::new(),
            nonce: String::new(),
            next_id: 1,
            patience,
        }
    }

    pub(crate) fn id(&mut self) -> TransactionId {
        let mut id = [0xA5; 12];
        id[..8].copy_from_slice(&self.next_id.to_be_bytes());
        self.next_id += 1;
        TransactionId(id)
    }

    pub(crate) fn compose(&mut self, class: Class, method: Method, fill: Fill<'_>) -> Vec<u8> {
        let mut buf = [0; 2048];
        let mut writer = MessageWriter::new(&mut buf, class, method, self.id());
        fill(&mut writer);
        let len = writer.finish().expect("it fits");
        buf[..len].to_vec()
    }

    pub(crate) fn key(&self, user: usize) -> Key {
        let Login { username, password } = &self.target.users[user];
        let algorithm = PasswordAlgorithm::Md5;
        Key::long_term(username.as_bytes(), &self.realm, password.as_bytes(), algorithm)
    }

    /// A request of user `user`, signed; `behind` follows the signature.
    pub(crate) fn signed(&mut self, user: usize, method: Method, fill: Fill<'_>, behind: Fill<'_>) -> Vec<u8> {
        self.challenge();
        let (name, realm, nonce) = (
            self.target.users[user].username.clone(),
            self.realm.clone(),
            self.nonce.clone(),
        );
        let key = self.key(user);
        self.compose(Class::Request, method, &|w| {
            fill(w);
            w.attribute(AttributeType::USERNAME, name.as_bytes());
            w.attribute(AttributeType::REALM, realm.as_bytes());
            w.attribute(AttributeType::NONCE, nonce.as_bytes());
            w.integrity(&key, Integrity::Sha1);
            behind(w);
        })
    }

    /// Gets realm and nonce, once.
    pub(crate) fn challenge(&mut self) {
        if self.nonce.is_empty() {
            let packet = self.compose(Class::Request, Method::Allocate, &udp);
            let answer = self.exchange(&packet).expect("a challenge");
            let text = |kind| String::from_utf8(attribute(&answer, kind).expect("in every challenge")).expect("UTF-8");
            self.realm = text(AttributeType::REALM);
            self.nonce = text(AttributeType::NONCE);
        }
    }

    /// Sends `packet` and waits for its response, or for none.
    pub(crate) fn exchange(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        self.exchange_within(packet, PATIENCE)
    }

    pub(crate) fn exchange_within(&mut self, packet: &[u8], patience: Duration) -> Option<Vec<u8>> {
        self.client.send_raw(packet);
        loop {
            let answer = self.client.receive(patience)?;
            // Checks the transaction id, because an earlier exchange may have left a response.
            if answer.get(8..20) == packet.get(8..20) {
                return Some(answer);
            }
        }
    }

    /// The result of a packet that should be ignored.
    pub(crate) fn ignored(&mut self, packet: &[u8]) -> String {
        match self.exchange_within(packet, self.patience) {
            None => "silent".into(),
            Some(answer) => told(&answer),
        }
    }

    /// The result of an unsigned request.
    pub(crate) fn plain(&mut self, method: Method, fill: Fill<'_>) -> String {
        let packet = self.compose(Class::Request, method, fill);
        self.exchange(&packet)
            .map_or_else(|| "silent".into(), |answer| told(&answer))
    }

    /// The answer to a signed request of the first user.
    pub(crate) fn ask(&mut self, method: Method, fill: Fill<'_>) -> Option<Vec<u8>> {
        let packet = self.signed(0, method, fill, &|_| {});
        self.exchange(&packet)
    }

    /// [`Self::ask`], as one word.
    pub(crate) fn say(&mut self, method: Method, fill: Fill<'_>) -> String {
        self.ask(method, fill)
            .map_or_else(|| "silent".into(), |answer| told(&answer))
    }

    pub(crate) fn allocate(&mut self) -> SocketAddr {
        let answer = self.ask(Method::Allocate, &udp).expect("an answer");
        assert_eq!(told(&answer), "success", "an allocation to go on with");
        relayed(&answer)
    }

    pub(crate) fn permit(&mut self, peer: SocketAddr) -> String {
        self.say(Method::CreatePermission, &|w| {
            w.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
    }

    pub(crate) fn bind(&mut self, number: u16, peer: SocketAddr) -> String {
        self.say(Method::ChannelBind, &|w| {
            w.u32(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            w.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
    }

    pub(crate) fn send(&mut self, peer: SocketAddr, data: &[u8], fill: Fill<'_>) {
        let packet = self.compose(Class::Indication, Method::Send, &|w| {
            w.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
            w.attribute(AttributeType::DATA, data);
            fill(w);
        });
        self.client.send_raw(&packet);
    }

    /// The next message from a peer.
    pub(crate) fn heard(&mut self) -> String {
        match self.client.receive_data(self.patience) {
            None => "silent".into(),
            Some((Ok(number), data)) => format!("channel {number:#06x}: {}", String::from_utf8_lossy(&data)),
            Some((Err(_), data)) => format!("indication: {}", String::from_utf8_lossy(&data)),
        }
    }

    pub(crate) fn peer(&self) -> EchoPeer {
        EchoPeer::start_on(&format!("{}:0", self.target.peer))
    }

    /// An unused address that peers may have.
    pub(crate) fn nobody(&self) -> SocketAddr {
        format!("{}:9", self.target.peer).parse().expect("an address")
    }

    pub(crate) fn lifetime(&mut self, method: Method, seconds: Option<u32>) -> String {
        let answer = self.ask(method, &|w| {
            if method == Method::Allocate {
                udp(w);
            }
            if let Some(seconds) = seconds {
                w.u32(AttributeType::LIFETIME, seconds);
            }
        });
        let answer = answer.expect("an answer");
        match attribute(&answer, AttributeType::LIFETIME).as_deref() {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]).to_string(),
            _ => told(&answer),
        }
    }
}

pub(crate) fn udp(w: &mut MessageWriter<'_>) {
    w.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
}

pub(crate) fn attribute(bytes: &[u8], kind: AttributeType) -> Option<Vec<u8>> {
    Message::parse(bytes).ok()?.attribute(kind).map(<[u8]>::to_vec)
}

pub(crate) fn relayed(bytes: &[u8]) -> SocketAddr {
    let message = Message::parse(bytes).expect("a message");
    let address = message.xor_address(AttributeType::XOR_RELAYED_ADDRESS);
    address.expect("decodable").expect("there")
}

/// `success`, or the error code.
pub(crate) fn told(bytes: &[u8]) -> String {
    let Ok(message) = Message::parse(bytes) else {
        return "garbage".into();
    };
    match (
        message.class(),
        message.attribute(AttributeType::ERROR_CODE).map(error_code::decode),
    ) {
        (Class::Success, _) => "success".into(),
        (Class::Error, Some(Ok(error))) => error.code.to_string(),
        _ => "garbage".into(),
    }
}

/// The attributes of `kinds` that a message has, or `none`.
pub(crate) fn has(bytes: &[u8], kinds: &[AttributeType]) -> String {
    let there: Vec<String> = kinds
        .iter()
        .filter(|kind| match **kind {
            AttributeType::MESSAGE_INTEGRITY => Message::parse(bytes).is_ok_and(|m| m.integrity().is_some()),
            kind => attribute(bytes, kind).is_some(),
        })
        .map(ToString::to_string)
        .collect();
    if there.is_empty() {
        "none".into()
    } else {
        there.join(", ")
    }
}
