//! A small TURN client over any transport.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket as StdUdpSocket};
use std::time::Duration;

use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::framing::{Framing, next_frame};
use relay_proto::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay_proto::wire::message::{Class, Message, Method, TransactionId};
use relay_proto::wire::writer::MessageWriter;

use super::{PASSWORD, PATIENCE, REALM, SILENCE, USER, tcp};

/// How a client reaches the server.
pub enum Pipe {
    Udp(StdUdpSocket),
    Tcp {
        stream: Box<dyn Stream>,
        buffer: Vec<u8>,
    },
    /// A transport that preserves message boundaries.
    Messages(Box<dyn Messages>),
}

/// An association with the server.
pub trait Messages {
    fn send(&mut self, message: &[u8]);
    /// `None` if no message arrives in time.
    fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>>;
}

/// A byte stream: TCP, or TLS over it.
pub trait Stream: Read + Write {
    fn patience(&self, timeout: Duration);
}

impl Stream for TcpStream {
    fn patience(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).unwrap();
    }
}

impl Pipe {
    pub fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(bytes).unwrap(), bytes.len()),
            Self::Tcp { stream, .. } => stream.write_all(bytes).unwrap(),
            Self::Messages(messages) => messages.send(bytes),
        }
    }

    /// One message; `None` if none arrives in time or the stream ends.
    pub fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        match self {
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(timeout)).unwrap();
                let mut buffer = vec![0; 65_536];
                let len = socket.recv(&mut buffer).ok()?;
                buffer.truncate(len);
                Some(buffer)
            }
            Self::Messages(messages) => messages.recv(timeout),
            Self::Tcp { stream, buffer } => {
                stream.patience(timeout);
                loop {
                    match next_frame(buffer).expect("the server frames its messages") {
                        Framing::Message(len) => return Some(buffer.drain(..len).collect()),
                        Framing::Need(_) => {}
                    }
                    let mut chunk = [0; 65_536];
                    let len = stream.read(&mut chunk).ok().filter(|&len| len > 0)?;
                    buffer.extend_from_slice(&chunk[..len]);
                }
            }
        }
    }
}

/// A message to a client other than a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    Channel {
        number: u16,
        data: Vec<u8>,
    },
    Data {
        peer: SocketAddr,
        data: Vec<u8>,
    },
    Icmp {
        peer: SocketAddr,
        icmp_type: u8,
        code: u16,
    },
    /// ConnectionAttempt (RFC 6062).
    Attempt {
        peer: SocketAddr,
        id: u32,
    },
}

pub struct Client {
    pub pipe: Pipe,
    key: Key,
    pub nonce: Option<Vec<u8>>,
    next_id: u64,
    early: VecDeque<Incoming>,
}

impl Client {
    pub fn new(pipe: Pipe) -> Self {
        let key = Key::long_term(USER.as_bytes(), REALM, PASSWORD.as_bytes(), PasswordAlgorithm::Md5);
        Self {
            pipe,
            key,
            nonce: None,
            next_id: 1,
            early: VecDeque::new(),
        }
    }

    pub fn udp(server: SocketAddr) -> Self {
        let bind = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = StdUdpSocket::bind(bind).unwrap();
        socket.connect(server).unwrap();
        Self::new(Pipe::Udp(socket))
    }

    pub fn tcp(stream: TcpStream) -> Self {
        Self::new(Pipe::Tcp {
            stream: Box::new(stream),
            buffer: Vec::new(),
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        match &self.pipe {
            Pipe::Udp(socket) => socket.local_addr().unwrap(),
            Pipe::Tcp { .. } | Pipe::Messages(_) => panic!("a stream, or an association"),
        }
    }

    fn id(&mut self) -> TransactionId {
        let mut id = [0x5a; 12];
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        self.next_id += 1;
        TransactionId(id)
    }

    /// A request as bytes, signed if a nonce is known.
    pub fn compose(&mut self, method: Method, attributes: &dyn Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let id = self.id();
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, id);
        attributes(&mut writer);
        if let Some(nonce) = &self.nonce {
            writer
                .attribute(AttributeType::USERNAME, USER.as_bytes())
                .attribute(AttributeType::REALM, REALM.as_bytes())
                .attribute(AttributeType::NONCE, nonce)
                .integrity(&self.key, Integrity::Sha1);
        }
        let len = writer.finish().unwrap();
        buffer.truncate(len);
        buffer
    }

    /// Sends a request and returns the final response, after one round of 401 or 438.
    #[track_caller]
    pub fn request(&mut self, method: Method, attributes: &dyn Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        for _ in 0..3 {
            let request = self.compose(method, attributes);
            self.pipe.send(&request);
            let response = self.response(&request);
            let message = Message::parse(&response).unwrap();
            match error_code(&message) {
                Some(401 | 438) => {
                    self.nonce = Some(message.attribute(AttributeType::NONCE).unwrap().to_vec());
                }
                _ => return response,
            }
        }
        panic!("{method:?}: challenged again and again");
    }

    /// The response to `request`. Keeps other messages for [`Self::incoming`].
    #[track_caller]
    pub fn response(&mut self, request: &[u8]) -> Vec<u8> {
        loop {
            let bytes = self.pipe.recv(PATIENCE).expect("a response");
            match Message::parse(&bytes) {
                Ok(message) if message.class() != Class::Indication => {
                    assert_eq!(bytes[8..20], request[8..20], "an answer to something else");
                    return bytes;
                }
                _ => self.early.push_back(decode(&bytes)),
            }
        }
    }

    #[track_caller]
    pub(super) fn succeed(&mut self, method: Method, attributes: &dyn Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        let response = self.request(method, attributes);
        let message = Message::parse(&response).unwrap();
        assert_eq!(
            message.class(),
            Class::Success,
            "{method:?}: {:?}",
            error_code(&message)
        );
        response
    }

    /// Allocates an IPv4 relayed transport address.
    #[track_caller]
    pub fn allocate(&mut self) -> SocketAddr {
        self.allocate_with(&|_| {})
    }

    /// Allocates an IPv6 one.
    #[track_caller]
    pub fn allocate_v6(&mut self) -> SocketAddr {
        self.allocate_with(&|writer| {
            writer.u32(AttributeType::REQUESTED_ADDRESS_FAMILY, 0x0200_0000);
        })
    }

    #[track_caller]
    fn allocate_with(&mut self, more: &dyn Fn(&mut MessageWriter<'_>)) -> SocketAddr {
        self.allocate_over(17, more)
    }

    #[track_caller]
    pub(super) fn allocate_over(&mut self, protocol: u32, more: &dyn Fn(&mut MessageWriter<'_>)) -> SocketAddr {
        let response = self.succeed(Method::Allocate, &|writer| {
            writer.u32(AttributeType::REQUESTED_TRANSPORT, protocol << 24);
            more(writer);
        });
        let message = Message::parse(&response).unwrap();
        message
            .xor_address(AttributeType::XOR_RELAYED_ADDRESS)
            .unwrap()
            .unwrap()
    }

    #[track_caller]
    pub fn permit(&mut self, peer: SocketAddr) {
        self.succeed(Method::CreatePermission, &|writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
    }

    #[track_caller]
    pub fn bind(&mut self, number: u16, peer: SocketAddr) {
        self.succeed(Method::ChannelBind, &|writer| {
            writer.u32(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
    }

    #[track_caller]
    pub fn release(&mut self) {
        self.succeed(Method::Refresh, &|writer| {
            writer.u32(AttributeType::LIFETIME, 0);
        });
    }

    pub fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) {
        let indication = self.indication(peer, data);
        self.pipe.send(&indication);
    }

    /// A Send indication as bytes.
    pub fn indication(&mut self, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
        let id = self.id();
        let mut buffer = vec![0; data.len() + 64];
        let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::Send, id);
        writer
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .attribute(AttributeType::DATA, data);
        let len = writer.finish().unwrap();
        buffer.truncate(len);
        buffer
    }

    pub fn send_channel(&mut self, number: u16, data: &[u8]) {
        let frame = self.channel_frame(number, data);
        self.pipe.send(&frame);
    }

    pub fn channel_frame(&self, number: u16, data: &[u8]) -> Vec<u8> {
        let mut frame = [&number.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat();
        if matches!(self.pipe, Pipe::Tcp { .. }) {
            frame.resize(frame.len().next_multiple_of(4), 0);
        }
        frame
    }

    /// The next message that is not a response.
    #[track_caller]
    pub fn incoming(&mut self) -> Incoming {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        let bytes = self.pipe.recv(PATIENCE).expect("something from a peer");
        decode(&bytes)
    }

    /// The next message that is not a response, if it arrives in time.
    pub fn next(&mut self, timeout: Duration) -> Option<Incoming> {
        self.early
            .pop_front()
            .or_else(|| self.pipe.recv(timeout).map(|bytes| decode(&bytes)))
    }

    pub fn hears_nothing(&mut self) -> bool {
        self.early.is_empty() && self.pipe.recv(SILENCE).is_none()
    }
}

pub fn error_code(message: &Message<'_>) -> Option<u16> {
    let value = message.attribute(AttributeType::ERROR_CODE)?;
    Some(u16::from(value[2]) * 100 + u16::from(value[3]))
}

/// Decodes a message to a client. Strips the padding of ChannelData on a stream, and checks that it
/// is zero.
pub fn decode(bytes: &[u8]) -> Incoming {
    if bytes[0] & 0xc0 == 0x40 {
        let number = u16::from_be_bytes([bytes[0], bytes[1]]);
        let len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let (data, padding) = bytes[4..].split_at(len);
        assert!(
            padding.len() < 4 && padding.iter().all(|&byte| byte == 0),
            "padding {padding:?}"
        );
        return Incoming::Channel {
            number,
            data: data.to_vec(),
        };
    }
    let message = Message::parse(bytes).unwrap();
    assert_eq!(message.class(), Class::Indication);
    let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS).unwrap().unwrap();
    if message.method() == Some(Method::ConnectionAttempt) {
        let id = tcp::connection_id(&message);
        return Incoming::Attempt { peer, id };
    }
    assert_eq!(message.method(), Some(Method::Data));
    if let Some(value) = message.attribute(AttributeType::ICMP) {
        assert!(message.attribute(AttributeType::DATA).is_none());
        let icmp = relay_proto::wire::attribute::Icmp::decode(value).unwrap();
        return Incoming::Icmp {
            peer,
            icmp_type: icmp.icmp_type,
            code: icmp.code,
        };
    }
    Incoming::Data {
        peer,
        data: message.attribute(AttributeType::DATA).unwrap().to_vec(),
    }
}
