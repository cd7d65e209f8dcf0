//! A server of shards on loopback, and a small TURN client to talk to it, over UDP and TCP.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "helpers of tests; each test binary uses its part"
)]

mod peer;
mod tcp;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use peer::Peer;
use relay::base::address::Transport;
use relay::net::stream::KERNEL_UNSENT;
use relay::net::udp::{UdpOptions, UdpSocket};
use relay::shard::{ShardConfig, Shards, StreamHandover};
use relay::turn::config::limits::Limits;
use relay::turn::config::{Challenge, RelayAddress, RelayConfig, TcpConfig};
use relay::turn::login::credential::{Credentials, CredentialsConfig, StaticUser};
use relay::turn::policy::{PeerPolicy, PolicyConfig};
use relay::turn::{Config, Shared};
use relay::wire::attribute::AttributeType;
use relay::wire::framing::{Framing, next_frame};
use relay::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay::wire::message::{Class, Message, Method, TransactionId};
use relay::wire::writer::MessageWriter;
pub use tcp::accept;

pub const REALM: &str = "example.org";
pub const USER: &str = "alice";
pub const PASSWORD: &str = "correct horse battery staple";
/// Where relay sockets are bound; peers of the tests are on 127.0.0.1.
pub const RELAY_IP: &str = "127.0.0.2";

/// Long enough for a busy machine, short enough to fail.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing is to come: how long that is believed.
pub const SILENCE: Duration = Duration::from_millis(100);

pub const UDP: UdpOptions = UdpOptions {
    receive_buffer: 4 << 20,
    send_buffer: 4 << 20,
    offload: true,
    errors: false,
    traffic_class: true,
};

pub fn turn_config() -> Config {
    let credentials = Credentials::new(CredentialsConfig {
        realm: REALM.into(),
        users: vec![StaticUser {
            name: USER.into(),
            password: PASSWORD.to_owned().into(),
            forced: false,
        }],
        ..CredentialsConfig::default()
    })
    .unwrap();
    let relay_ip: IpAddr = RELAY_IP.parse().unwrap();
    let v6: IpAddr = "::1".parse().unwrap();
    // Below the kernel's ephemeral ports, so that no peer of a test looks like a relayed address.
    let ports = 10_240..=32_767;
    let policy = PeerPolicy::new(PolicyConfig {
        allow: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        relay_ips: vec![relay_ip, v6],
        relay_ports: ports.clone(),
        ..PolicyConfig::default()
    })
    .unwrap();
    let relay = RelayConfig {
        ipv4: Some(RelayAddress {
            bind: relay_ip,
            announced: relay_ip,
        }),
        ipv6: Some(RelayAddress {
            bind: v6,
            announced: v6,
        }),
        ports,
        port_shift: 0,
    };
    Config {
        challenge: Challenge::Compact,
        nonce_lifetime: Duration::from_secs(3600),
        tcp: Some(TcpConfig {
            peer_ports: vec![1024..=65_535],
            connections_per_allocation: 8,
            connections: 1000,
            max_bytes: None,
        }),
        limits: Limits {
            allocations_per_user: 10_000,
            allocations_per_ip: 10_000,
            challenges_per_second: 10_000,
            challenge_burst: 10_000,
            bindings_per_second: 10_000,
            permission_requests_per_second: 10_000,
            ..Limits::default()
        },
        ..Config::new(REALM.into(), Arc::new(credentials), Arc::new(policy), relay)
    }
}

/// A running server.
pub struct TestServer {
    pub shards: Shards,
    pub udp: SocketAddr,
}

impl TestServer {
    pub fn start(workers: usize) -> Self {
        Self::start_with(workers, "127.0.0.1:0", ShardConfig::default(), turn_config())
    }

    pub fn start_with(workers: usize, listen: &str, config: ShardConfig, turn: Config) -> Self {
        let group = UdpSocket::bind_group(listen.parse().unwrap(), workers, &UDP).unwrap();
        let udp = group[0].local_addr();
        let sockets = group.into_iter().map(|socket| vec![socket]).collect();
        let shards = Shards::start(config, Arc::new(turn), Arc::new(Shared::new([7; 32])), sockets).unwrap();
        Self { shards, udp }
    }

    pub fn client(&self) -> Client {
        Client::udp(self.udp)
    }

    /// A client on a TCP connection, accepted here and handed over as the front door does.
    pub fn tcp_client(&self) -> Client {
        let (stream, handover) = tcp_pair(Vec::new());
        self.shards.adopt(handover);
        Client::tcp(stream)
    }

    /// A client with an allocation on a shard that had none.
    pub fn client_elsewhere(&self) -> (Client, SocketAddr) {
        let idle = |counters: &&relay::turn::Counters| counters.allocations.iter().all(|live| live.get() == 0);
        let empty: Vec<_> = self.shards.counters().iter().map(|it| &**it).filter(idle).collect();
        // The kernel deals clients out by hash: some client soon lands elsewhere.
        (0..500)
            .map(|_| {
                let mut client = self.client();
                let relayed = client.allocate();
                (client, relayed)
            })
            // Counted before the client was answered.
            .find(|_| !empty.iter().all(idle))
            .expect("a client on another shard")
    }

    /// Sum over the shards.
    pub fn stat(&self, of: impl Fn(&relay::shard::ShardCounters) -> u64) -> u64 {
        self.shards.shard_counters().iter().map(|counters| of(counters)).sum()
    }

    /// Sum over the shards.
    pub fn count(&self, of: impl Fn(&relay::turn::Counters) -> u64) -> u64 {
        self.shards.counters().iter().map(|counters| of(counters)).sum()
    }

    /// How often the busiest worker turns in a second, over more than one of them. A worker without traffic turns once.
    pub fn turns_per_second(&self) -> f64 {
        let seen = |stats: &relay::shard::ShardCounters| (stats.turns.get(), stats.heartbeat.get());
        let all = || self.shards.shard_counters().iter();
        let before: Vec<_> = all().map(|stats| seen(stats)).collect();
        let nanos = |stats, before: &(u64, u64)| seen(stats).1 - before.1;
        self.eventually("every worker turns", |_| {
            all()
                .zip(&before)
                .all(|(stats, before)| nanos(stats, before) >= 1_500_000_000)
        });
        let rates = all().zip(&before).map(|(stats, before)| {
            let turns = seen(stats).0 - before.0;
            turns as f64 * 1e9 / nanos(stats, before) as f64
        });
        rates.fold(0.0, f64::max)
    }

    /// Waits until `what` is `expected`: a worker counts what it did after a client has seen it.
    pub fn becomes<T: PartialEq + std::fmt::Debug>(&self, text: &str, expected: T, what: impl Fn(&Self) -> T) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is = what(self);
            if is == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{text}: waited for {expected:?}, and it is {is:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until `what` holds.
    pub fn eventually(&self, text: &str, what: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !what(self) {
            assert!(Instant::now() < deadline, "never: {text}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Both ends of a TCP connection: the client's, and the server's as it is handed to a shard.
pub fn tcp_pair(early: Vec<u8>) -> (TcpStream, StreamHandover) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
    stream.set_nodelay(true).unwrap();
    // No test waits longer for a server that has stopped reading, or that says nothing.
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (socket, client) = accept(&listener);
    let options = socket2::SockRef::from(&socket);
    options.set_tcp_nodelay(true).unwrap();
    options.set_tcp_notsent_lowat(KERNEL_UNSENT).unwrap();
    let server = socket.local_addr().unwrap();
    let handover = StreamHandover {
        socket,
        tls: None,
        early,
        client,
        server,
        transport: Transport::Tcp,
        guard: Box::new(Arc::new(())),
    };
    (stream, handover)
}

/// How a client reaches the server.
pub enum Pipe {
    Udp(StdUdpSocket),
    Tcp {
        stream: Box<dyn Stream>,
        buffer: Vec<u8>,
    },
    /// Whatever keeps messages apart by itself.
    Messages(Box<dyn Messages>),
}

/// An association with the server.
pub trait Messages {
    fn send(&mut self, message: &[u8]);
    /// `None` if none comes in time.
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

    /// One message; `None` if none comes in time or the stream ends.
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

/// What a client got that is no response to a request.
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

    /// The response to `request`; anything else that comes is kept for [`Self::incoming`].
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
    fn succeed(&mut self, method: Method, attributes: &dyn Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
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
    fn allocate_over(&mut self, protocol: u32, more: &dyn Fn(&mut MessageWriter<'_>)) -> SocketAddr {
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
        let message = self.indication(peer, data);
        self.pipe.send(&message);
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

    /// The next thing that is no response.
    #[track_caller]
    pub fn incoming(&mut self) -> Incoming {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        let bytes = self.pipe.recv(PATIENCE).expect("something from a peer");
        decode(&bytes)
    }

    /// The next thing that is no response, if it comes in time.
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

/// What a client received. ChannelData from a stream has its padding stripped, and it must be zeroes.
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
        let icmp = relay::wire::attribute::Icmp::decode(value).unwrap();
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

pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 17) as u8).collect()
}
