//! A TURN client over UDP, TCP, TLS or DTLS: blocking, with time limits, strict about what it
//! receives.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::base::address::Transport;
use relay::wire::attribute::AttributeType;
use relay::wire::channel_data;
use relay::wire::framing::{Framing, next_frame};
use relay::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay::wire::message::{Class, Message, Method, TransactionId};
use relay::wire::writer::MessageWriter;
use relay_client::accept_any_certificate;
use relay_testkit::dtls_client::DtlsClient;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

/// How long to wait for anything that must arrive. Generous: it only bounds a failure, on a busy
/// machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait where nothing should arrive.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

pub(crate) enum Carrier {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Dtls(Box<DtlsClient>),
}

/// User name and password.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl Login {
    pub(crate) fn new(username: &str, password: &str) -> Self {
        Self {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }
}

/// The response to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("a well-formed answer")
    }

    /// 0 for success, else the error code.
    pub(crate) fn code(&self) -> u16 {
        let message = self.message();
        match message.class() {
            Class::Success => 0,
            Class::Error => {
                let value = message
                    .attribute(AttributeType::ERROR_CODE)
                    .expect("an error response has its code");
                u16::from(value[2]) * 100 + u16::from(value[3])
            }
            other => panic!("{other:?} is no answer"),
        }
    }

    pub(crate) fn address(&self, kind: AttributeType) -> SocketAddr {
        self.message()
            .xor_address(kind)
            .expect("a decodable address")
            .expect("the address is there")
    }

    pub(crate) fn text(&self, kind: AttributeType) -> String {
        String::from_utf8(self.message().attribute(kind).expect("the attribute is there").to_vec()).expect("UTF-8")
    }
}

/// A request over UDP is repeated after this long (RFC 8489 §6.2.1 begins at 0.5 s). The kernel may
/// drop a request for lack of space, but no test should count one twice because the machine is
/// slow.
const RETRANSMIT: Duration = Duration::from_secs(3);

/// One client: a transport, a login, its realm and its nonce.
pub(crate) struct Client {
    carrier: Carrier,
    inbox: Vec<u8>,
    login: Option<Login>,
    realm: String,
    nonce: String,
    next_id: u64,
    pub(crate) transport: Transport,
}

impl Client {
    pub(crate) fn udp(server: SocketAddr) -> Self {
        let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(local).expect("a free UDP port");
        socket.connect(server).expect("loopback");
        Self::over(Carrier::Udp(socket), Transport::Udp)
    }

    /// From an address in 127.0.0.0/8; each is a separate source.
    pub(crate) fn udp_from(source: std::net::Ipv4Addr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((source, 0)).expect("an address of this machine");
        socket.connect(server).expect("loopback");
        Self::over(Carrier::Udp(socket), Transport::Udp)
    }

    pub(crate) fn tcp(server: SocketAddr) -> Self {
        Self::over(Carrier::Tcp(connect(server)), Transport::Tcp)
    }

    /// Over TCP through a proxy that has accepted the connection of `client`.
    pub(crate) fn tcp_of(client: SocketAddr, server: SocketAddr) -> Self {
        let mut stream = connect(server);
        let (from, to) = ((client.ip(), client.port()), (server.ip(), server.port()));
        let header = format!("PROXY TCP4 {} {} {} {}\r\n", from.0, to.0, from.1, to.1);
        stream.write_all(header.as_bytes()).expect("the header is taken");
        Self::over(Carrier::Tcp(stream), Transport::Tcp)
    }

    /// Over TLS on `stream`, with SNI `name`.
    pub(crate) fn tls_on(stream: TcpStream, name: &'static str) -> Self {
        let name = ServerName::try_from(name).expect("a name");
        let connection = ClientConnection::new(tls_config(&[]), name).expect("a client configuration");
        let mut stream = StreamOwned::new(connection, stream);
        stream.conn.complete_io(&mut stream.sock).expect("TLS handshake");
        Self::over(Carrier::Tls(Box::new(stream)), Transport::Tls)
    }

    pub(crate) fn tls(server: SocketAddr) -> Self {
        Self::tls_on(connect(server), "relay.test")
    }

    pub(crate) fn over_transport(transport: Transport, server: SocketAddr) -> Self {
        match transport {
            Transport::Udp => Self::udp(server),
            Transport::Tcp => Self::tcp(server),
            Transport::Tls => Self::tls(server),
            Transport::Dtls => Self::over(Carrier::Dtls(Box::new(DtlsClient::connect(server))), transport),
        }
    }

    fn over(carrier: Carrier, transport: Transport) -> Self {
        Self {
            carrier,
            inbox: Vec::new(),
            login: None,
            realm: String::new(),
            nonce: String::new(),
            next_id: 1,
            transport,
        }
    }

    /// Its connection, and the bytes received after the last message.
    pub(crate) fn into_parts(self) -> (Carrier, Vec<u8>) {
        (self.carrier, self.inbox)
    }

    pub(crate) fn with_login(mut self, login: &Login) -> Self {
        self.login = Some(login.clone());
        self
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        match &self.carrier {
            Carrier::Udp(socket) => socket.local_addr(),
            Carrier::Tcp(stream) => stream.local_addr(),
            Carrier::Tls(stream) => stream.sock.local_addr(),
            Carrier::Dtls(client) => client.local_addr(),
        }
        .expect("a bound socket")
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        match &mut self.carrier {
            Carrier::Udp(socket) => assert_eq!(socket.send(bytes).expect("send"), bytes.len()),
            Carrier::Tcp(stream) => stream.write_all(bytes).expect("write"),
            Carrier::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()).expect("write"),
            Carrier::Dtls(client) => client.send(bytes).expect("a record"),
        }
    }

    /// The next whole message; `None` after `patience` or when the server has closed.
    pub(crate) fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        let mut chunk = vec![0; 65_536];
        loop {
            if self.transport.is_stream()
                && let Some(message) = self.framed()
            {
                return Some(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let read = match &mut self.carrier {
                Carrier::Udp(socket) => {
                    socket.set_read_timeout(Some(left)).expect("a timeout");
                    socket.recv(&mut chunk)
                }
                Carrier::Tcp(stream) => {
                    stream.set_read_timeout(Some(left)).expect("a timeout");
                    stream.read(&mut chunk)
                }
                Carrier::Tls(stream) => {
                    stream.sock.set_read_timeout(Some(left)).expect("a timeout");
                    stream.read(&mut chunk)
                }
                Carrier::Dtls(client) => client.receive(&mut chunk, left),
            };
            match read {
                Ok(n) if self.transport == Transport::Udp => return Some(chunk[..n].to_vec()),
                Ok(0) => return None,
                Ok(n) if self.transport == Transport::Dtls => return Some(chunk[..n].to_vec()),
                Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => return None,
                // ICMP from an earlier datagram; the next read works.
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
                Err(e) => panic!("receive: {e}"),
            }
        }
    }

    /// Closes in an orderly way, if the transport has one.
    pub(crate) fn close(self) {
        if let Carrier::Dtls(mut client) = self.carrier {
            client.close();
        }
    }

    fn framed(&mut self) -> Option<Vec<u8>> {
        match next_frame(&self.inbox).expect("the server frames its messages") {
            Framing::Message(len) if self.inbox.len() >= len => Some(self.inbox.drain(..len).collect()),
            _ => None,
        }
    }

    fn transaction_id(&mut self) -> TransactionId {
        let mut id = [0x5a; 12];
        id[..8].copy_from_slice(&self.next_id.to_be_bytes());
        self.next_id += 1;
        TransactionId(id)
    }

    /// Sends a request built by `fill`, signed if there is a nonce, and waits for its response;
    /// `None` if there is none.
    pub(crate) fn try_request(&mut self, method: Method, fill: impl Fn(&mut MessageWriter<'_>)) -> Option<Answer> {
        self.try_request_within(PATIENCE, method, fill)
    }

    /// The same, waiting for `patience`.
    pub(crate) fn try_request_within(
        &mut self,
        patience: Duration,
        method: Method,
        fill: impl Fn(&mut MessageWriter<'_>),
    ) -> Option<Answer> {
        let id = self.transaction_id();
        let mut buf = [0; 2048];
        let mut writer = MessageWriter::new(&mut buf, Class::Request, method, id);
        fill(&mut writer);
        if let Some(login) = &self.login
            && !self.nonce.is_empty()
        {
            let key = Key::long_term(
                login.username.as_bytes(),
                &self.realm,
                login.password.as_bytes(),
                PasswordAlgorithm::Md5,
            );
            writer.attribute(AttributeType::USERNAME, login.username.as_bytes());
            writer.attribute(AttributeType::REALM, self.realm.as_bytes());
            writer.attribute(AttributeType::NONCE, self.nonce.as_bytes());
            writer.integrity(&key, Integrity::Sha1);
        }
        let len = writer.finish().expect("the request fits");
        self.send_raw(&buf[..len]);
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = if self.transport == Transport::Udp {
                left.min(RETRANSMIT)
            } else {
                left
            };
            let Some(bytes) = self.receive(wait) else {
                if wait == left {
                    return None;
                }
                self.send_raw(&buf[..len]);
                continue;
            };
            let Ok(message) = Message::parse(&bytes) else { continue };
            if message.transaction_id() == id {
                return Some(Answer { bytes });
            }
        }
    }

    /// As [`Self::try_request`], answering 401 and 438 once each as a client does.
    pub(crate) fn request(&mut self, method: Method, fill: impl Fn(&mut MessageWriter<'_>)) -> Answer {
        let mut answer = self.try_request(method, &fill).expect("an answer");
        for _ in 0..2 {
            let unsigned = self.nonce.is_empty();
            let challenged = (answer.code() == 401 && unsigned) || answer.code() == 438;
            if self.login.is_none() || !challenged {
                break;
            }
            self.realm = answer.text(AttributeType::REALM);
            self.nonce = answer.text(AttributeType::NONCE);
            answer = self.try_request(method, &fill).expect("an answer");
        }
        answer
    }

    pub(crate) fn binding(&mut self) -> Option<SocketAddr> {
        let answer = self.try_request(Method::Binding, |_| {})?;
        Some(answer.address(AttributeType::XOR_MAPPED_ADDRESS))
    }

    /// The relayed transport address, or the error code.
    pub(crate) fn allocate(&mut self) -> Result<SocketAddr, u16> {
        let answer = self.request(Method::Allocate, |w| {
            w.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        });
        match answer.code() {
            0 => Ok(answer.address(AttributeType::XOR_RELAYED_ADDRESS)),
            code => Err(code),
        }
    }

    /// As [`Self::allocate`], an IPv6 relayed transport address.
    pub(crate) fn allocate_v6(&mut self) -> Result<SocketAddr, u16> {
        let answer = self.request(Method::Allocate, |w| {
            w.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            w.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        });
        match answer.code() {
            0 => Ok(answer.address(AttributeType::XOR_RELAYED_ADDRESS)),
            code => Err(code),
        }
    }

    pub(crate) fn refresh(&mut self, lifetime: u32) -> u16 {
        self.request(Method::Refresh, |w| {
            w.u32(AttributeType::LIFETIME, lifetime);
        })
        .code()
    }

    pub(crate) fn create_permission(&mut self, peer: SocketAddr) -> u16 {
        self.request(Method::CreatePermission, |w| {
            w.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
        .code()
    }

    pub(crate) fn channel_bind(&mut self, number: u16, peer: SocketAddr) -> u16 {
        self.request(Method::ChannelBind, |w| {
            w.u32(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            w.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
        .code()
    }

    pub(crate) fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) {
        let id = self.transaction_id();
        let mut buf = vec![0; data.len() + 128];
        let mut writer = MessageWriter::new(&mut buf, Class::Indication, Method::Send, id);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        writer.attribute(AttributeType::DATA, data);
        let len = writer.finish().expect("the indication fits");
        self.send_raw(&buf[..len]);
    }

    pub(crate) fn send_channel(&mut self, number: u16, data: &[u8]) {
        let padding = if self.transport.is_stream() {
            data.len().next_multiple_of(4) - data.len()
        } else {
            0
        };
        let mut bytes = vec![0; channel_data::HEADER_LEN];
        channel_data::emit_header(number, data.len(), &mut bytes);
        bytes.extend_from_slice(data);
        bytes.extend(std::iter::repeat_n(0, padding));
        self.send_raw(&bytes);
    }

    /// The next application data: from a channel its number, from a Data indication its peer.
    pub(crate) fn receive_data(&mut self, patience: Duration) -> Option<(Result<u16, SocketAddr>, Vec<u8>)> {
        let bytes = self.receive(patience)?;
        if let Ok((number, range)) = channel_data::parse(&bytes)
            && bytes[0] & 0xC0 == 0x40
        {
            return Some((Ok(number), bytes[range].to_vec()));
        }
        let message = Message::parse(&bytes).expect("ChannelData or STUN");
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Some(Method::Data))
        );
        let peer = message
            .xor_address(AttributeType::XOR_PEER_ADDRESS)
            .expect("decodable")
            .expect("a peer address");
        Some((
            Err(peer),
            message.attribute(AttributeType::DATA).expect("data").to_vec(),
        ))
    }
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&server, PATIENCE).expect("the listener accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Accepts any certificate, because the server under test has created its own.
pub(crate) fn tls_config(alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let config = accept_any_certificate(alpn).expect("a TLS client");
    Arc::new(config)
}
