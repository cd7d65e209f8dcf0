//! A TURN client that is fast enough to measure with: sockets never block, requests are waited for one at a time, and
//! media goes out in batches.

use core::fmt;
use core::time::Duration;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Socket, Type};

use super::ClientTransport;
use crate::net::udp::{UdpOptions, UdpSocket};
use crate::turn::login::credential::MintedCredential;
use crate::wire::attribute::AttributeType;
use crate::wire::error_code;
use crate::wire::framing::{Framing, next_frame};
use crate::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use crate::wire::message::{Class, Message, Method, TransactionId};
use crate::wire::writer::MessageWriter;

/// A request is sent again after this, and after twice as long, and so on (RFC 8489 §6.2.1).
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(500);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// What an allocation is asked to live, in seconds; it is renewed long before.
const LIFETIME: u32 = 600;
/// Longest frame: a STUN header and as much as 16 bits count.
const READ: usize = 128 * 1024;
/// What the clients' sockets hold: a measurement must not lose packets in its own buffers.
pub(super) const UDP: UdpOptions = UdpOptions {
    receive_buffer: 4 << 20,
    send_buffer: 4 << 20,
    offload: true,
    errors: false,
    traffic_class: false,
};

/// What went wrong between client and server.
#[derive(Debug)]
pub(super) enum ClientError {
    /// The socket.
    Io(&'static str, io::Error),
    /// TLS.
    Tls(rustls::Error),
    /// No answer to a request.
    Silence(Method),
    /// An error response.
    Refused(Method, u16, String),
    /// Something that is no STUN, or not an answer to what was asked.
    Nonsense(&'static str),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Silence(method) => write!(
                f,
                "{method:?}: no answer within {} s. Is a TURN server there? If it answers some of the clients, its limit on \
                 answers to strangers (relay: limits.challenges_per_second) is lower than what is asked here",
                PATIENCE.as_secs()
            ),
            Self::Refused(method, code, reason) => {
                write!(f, "{method:?}: {code} {reason}")?;
                f.write_str(match code {
                    401 => ": the server does not take this login",
                    403 => {
                        ": allow our address as a peer (relay: peers.allow), or measure client to client with --pair"
                    }
                    486 => {
                        ": raise the quotas for the measurement (relay: limits.allocations_per_ip, \
                         limits.allocations_per_user), or ask for less with -n"
                    }
                    508 => ": the server has no relay ports, or no room, left",
                    _ => "",
                })
            }
            Self::Nonsense(what) => write!(f, "the server answers with {what}"),
        }
    }
}

impl From<rustls::Error> for ClientError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

/// What all clients of a measurement share.
pub(super) struct BenchSettings {
    pub(super) server: SocketAddr,
    pub(super) local: std::net::IpAddr,
    pub(super) carrier: ClientTransport,
    pub(super) tls: Arc<ClientConfig>,
    /// SO_RCVBUF of streams; `None`: the system's choice.
    pub(super) receive_buffer: Option<usize>,
}

/// One client.
pub(super) struct BenchClient {
    pub(super) link: ClientSocket,
    server: SocketAddr,
    login: MintedCredential,
    realm: String,
    nonce: Vec<u8>,
    key: Option<Key>,
    id: [u8; 12],
}

/// The client's side of a five-tuple.
pub(super) enum ClientSocket {
    /// The same socket twice: batches go through the first, single requests through the second.
    Udp(UdpSocket, std::net::UdpSocket),
    Stream(Box<ClientStream>),
}

impl BenchClient {
    /// Opens the socket, and for TLS shakes hands.
    pub(super) fn connect(settings: &BenchSettings, login: MintedCredential) -> Result<Self, ClientError> {
        let link = match settings.carrier {
            ClientTransport::Udp => {
                let socket =
                    UdpSocket::bind((settings.local, 0).into(), &UDP).map_err(|e| ClientError::Io("bind", e))?;
                let other = socket.as_fd().try_clone_to_owned();
                ClientSocket::Udp(socket, other.map_err(|e| ClientError::Io("dup", e))?.into())
            }
            ClientTransport::Tcp | ClientTransport::Tls => {
                ClientSocket::Stream(Box::new(ClientStream::connect(settings)?))
            }
        };
        let mut id = [0; 12];
        getrandom::fill(&mut id).map_err(|e| ClientError::Io("random bytes", io::Error::other(e.to_string())))?;
        Ok(Self {
            link,
            server: settings.server,
            login,
            realm: String::new(),
            nonce: Vec::new(),
            key: None,
            id,
        })
    }

    /// 401, then Allocate: the relayed transport address.
    pub(super) fn allocate(&mut self) -> Result<SocketAddr, ClientError> {
        let family = if self.server.is_ipv4() { 1 } else { 2 };
        let answer = self.request(Method::Allocate, |writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
        })?;
        let message = Message::parse(&answer).map_err(|_| ClientError::Nonsense("no STUN message"))?;
        match message.xor_address(AttributeType::XOR_RELAYED_ADDRESS) {
            Ok(Some(relayed)) => Ok(relayed),
            _ => Err(ClientError::Nonsense("no relayed transport address")),
        }
    }

    pub(super) fn create_permission(&mut self, peer: SocketAddr) -> Result<(), ClientError> {
        let answer = self.request(Method::CreatePermission, |writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        answer.map(drop)
    }

    pub(super) fn channel_bind(&mut self, number: u16, peer: SocketAddr) -> Result<(), ClientError> {
        let answer = self.request(Method::ChannelBind, |writer| {
            writer.u32(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        answer.map(drop)
    }

    /// Ends the allocation.
    pub(super) fn release(&mut self) -> Result<(), ClientError> {
        let answer = self.request(Method::Refresh, |writer| {
            writer.u32(AttributeType::LIFETIME, 0);
        });
        answer.map(drop)
    }

    /// A request with its success response. A challenge is answered, twice at most: 401, and 438 if the nonce is stale.
    fn request(&mut self, method: Method, fill: impl Fn(&mut MessageWriter<'_>)) -> Result<Vec<u8>, ClientError> {
        for attempt in 0.. {
            let answer = self.exchange(method, &fill)?;
            let message = Message::parse(&answer).map_err(|_| ClientError::Nonsense("no STUN message"))?;
            if message.class() == Class::Success {
                return Ok(answer);
            }
            let error = message
                .attribute(AttributeType::ERROR_CODE)
                .and_then(|value| error_code::decode(value).ok())
                .ok_or(ClientError::Nonsense("an error without a code"))?;
            let challenged = (error.code == 401 && self.key.is_none()) || error.code == 438;
            if !challenged || attempt == 2 {
                return Err(ClientError::Refused(
                    method,
                    error.code,
                    error_code::reason(error.code).to_owned(),
                ));
            }
            let text = |kind| message.attribute(kind).ok_or(ClientError::Nonsense("half a challenge"));
            self.realm = String::from_utf8_lossy(text(AttributeType::REALM)?).into_owned();
            self.nonce = text(AttributeType::NONCE)?.to_vec();
            self.key = Some(Key::long_term(
                self.login.username.as_bytes(),
                &self.realm,
                self.login.password.as_bytes(),
                PasswordAlgorithm::Md5,
            ));
        }
        Err(ClientError::Silence(method))
    }

    /// One transaction: retransmits over UDP, passes over what is not its response.
    fn exchange(&mut self, method: Method, fill: &impl Fn(&mut MessageWriter<'_>)) -> Result<Vec<u8>, ClientError> {
        let (request, id) = self.sign(method, fill)?;
        let start = Instant::now();
        let (mut next, mut pause) = (start, FIRST_RETRANSMISSION);
        let is_udp = matches!(self.link, ClientSocket::Udp(..));
        while start.elapsed() < PATIENCE {
            if Instant::now() >= next {
                if is_udp || next == start {
                    self.link.send_request(&request, self.server)?;
                }
                next = Instant::now() + pause;
                pause *= 2;
            }
            wait_readable(self.link.fd(), next.saturating_duration_since(Instant::now()));
            while let Some(answer) = self.link.receive_response()? {
                if Message::parse(&answer).is_ok_and(|message| message.transaction_id() == id) {
                    return Ok(answer);
                }
            }
        }
        Err(ClientError::Silence(method))
    }

    /// A request, signed once there is a key.
    fn sign(
        &mut self,
        method: Method,
        fill: &impl Fn(&mut MessageWriter<'_>),
    ) -> Result<(Vec<u8>, TransactionId), ClientError> {
        let id = self.next_id();
        let mut request = vec![0; 2048];
        let mut writer = MessageWriter::new(&mut request, Class::Request, method, id);
        fill(&mut writer);
        if let Some(key) = &self.key {
            writer.attribute(AttributeType::USERNAME, self.login.username.as_bytes());
            writer.attribute(AttributeType::REALM, self.realm.as_bytes());
            writer.attribute(AttributeType::NONCE, &self.nonce);
            writer.integrity(key, Integrity::Sha1);
        }
        let length = writer
            .finish()
            .map_err(|_| ClientError::Nonsense("a challenge that is too long"))?;
        request.truncate(length);
        Ok((request, id))
    }

    /// Renews allocation and channel (or, without one, the permission) for as long as there is; the responses come
    /// among the media and go to [`Self::note_response`].
    pub(super) fn renew(&mut self, channel: Option<u16>, peer: SocketAddr) -> Result<(), ClientError> {
        let (refresh, _) = self.sign(Method::Refresh, &|writer| {
            writer.u32(AttributeType::LIFETIME, LIFETIME);
        })?;
        let method = channel.map_or(Method::CreatePermission, |_| Method::ChannelBind);
        let (permit, _) = self.sign(method, &|writer| {
            if let Some(number) = channel {
                writer.u32(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            }
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })?;
        self.link.send_request(&refresh, self.server)?;
        self.link.send_request(&permit, self.server)
    }

    /// Takes a response that came among the media. `true`: the nonce was stale, and the renewal must be sent again.
    pub(super) fn note_response(&mut self, message: &Message<'_>) -> bool {
        let code = message.attribute(AttributeType::ERROR_CODE).map(error_code::decode);
        let nonce = message.attribute(AttributeType::NONCE);
        match (code, nonce) {
            (Some(Ok(error)), Some(nonce)) if error.code == 438 && nonce != self.nonce => {
                self.nonce = nonce.to_vec();
                true
            }
            _ => false,
        }
    }

    fn next_id(&mut self) -> TransactionId {
        if let Some(last) = self.id.last_chunk_mut::<4>() {
            *last = u32::from_be_bytes(*last).wrapping_add(1).to_be_bytes();
        }
        TransactionId(self.id)
    }
}

impl ClientSocket {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(socket, _) => socket.as_fd(),
            Self::Stream(stream) => stream.socket.as_fd(),
        }
    }

    fn send_request(&mut self, request: &[u8], server: SocketAddr) -> Result<(), ClientError> {
        match self {
            Self::Udp(_, socket) => match socket.send_to(request, server) {
                // Lost, like any datagram; it is sent again.
                Err(error) if error.kind() != ErrorKind::ConnectionRefused && !would_block(&error) => {
                    Err(ClientError::Io("send", error))
                }
                _ => Ok(()),
            },
            Self::Stream(stream) => {
                stream.queue(&[request], 0);
                stream.flush()
            }
        }
    }

    fn receive_response(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match self {
            Self::Udp(_, socket) => {
                let mut buf = [0; 2048];
                match socket.recv(&mut buf) {
                    Ok(length) => Ok(Some(buf.get(..length).unwrap_or_default().to_vec())),
                    Err(error) if would_block(&error) => Ok(None),
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
                    Err(error) => Err(ClientError::Io("receive", error)),
                }
            }
            Self::Stream(stream) => {
                stream.flush()?;
                stream.read(READ)?;
                let mut first = None;
                stream.take_frames(1, |frame| first = Some(frame.to_vec()))?;
                Ok(first)
            }
        }
    }
}

/// A TCP connection, plain or with TLS.
pub(super) struct ClientStream {
    socket: TcpStream,
    tls: Option<ClientConnection>,
    /// Frames on their way in.
    incoming: Vec<u8>,
    /// Plain bytes on their way out; of TLS they wait here only until the next flush.
    outgoing: Vec<u8>,
    chunk: Box<[u8]>,
}

impl ClientStream {
    fn connect(settings: &BenchSettings) -> Result<Self, ClientError> {
        let io = |what| move |error| ClientError::Io(what, error);
        let socket = Socket::new(Domain::for_address(settings.server), Type::STREAM, None).map_err(io("socket"))?;
        if let Some(size) = settings.receive_buffer {
            socket.set_recv_buffer_size(size).map_err(io("SO_RCVBUF"))?;
        }
        socket
            .connect_timeout(&settings.server.into(), PATIENCE)
            .map_err(io("connect"))?;
        socket.set_tcp_nodelay(true).map_err(io("TCP_NODELAY"))?;
        socket.set_nonblocking(true).map_err(io("O_NONBLOCK"))?;
        let tls = match settings.carrier {
            ClientTransport::Tls => {
                let name = ServerName::IpAddress(settings.server.ip().into());
                let mut connection = ClientConnection::new(Arc::clone(&settings.tls), name)?;
                connection.set_buffer_limit(None);
                Some(connection)
            }
            ClientTransport::Tcp | ClientTransport::Udp => None,
        };
        let mut stream = Self {
            socket: socket.into(),
            tls,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            chunk: vec![0; READ].into_boxed_slice(),
        };
        let start = Instant::now();
        while stream.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            if start.elapsed() > PATIENCE {
                return Err(ClientError::Io("TLS handshake", ErrorKind::TimedOut.into()));
            }
            stream.flush()?;
            stream.read(READ)?;
            wait_readable(stream.socket.as_fd(), Duration::from_millis(50));
        }
        Ok(stream)
    }

    /// Bytes that wait to be written.
    pub(super) fn backlog(&self) -> usize {
        self.outgoing.len()
    }

    /// Puts one frame behind the others.
    pub(super) fn queue(&mut self, parts: &[&[u8]], padding: usize) {
        for part in parts {
            self.outgoing.extend_from_slice(part);
        }
        self.outgoing.resize(self.outgoing.len() + padding, 0);
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) -> Result<(), ClientError> {
        let failed = |error| ClientError::Io("write", error);
        if let Some(tls) = &mut self.tls {
            if !tls.is_handshaking() && !self.outgoing.is_empty() && !tls.wants_write() {
                tls.writer().write_all(&self.outgoing).map_err(failed)?;
                self.outgoing.clear();
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(error) if would_block(&error) => break,
                    Err(error) => return Err(failed(error)),
                }
            }
            return Ok(());
        }
        let mut written = 0;
        while let Some(rest @ [_, ..]) = self.outgoing.get(written..) {
            match self.socket.write(rest) {
                Ok(length) => written += length,
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(failed(error)),
            }
        }
        self.outgoing.drain(..written);
        Ok(())
    }

    /// Reads at most `limit` bytes of what there is, and tells how many there were.
    pub(super) fn read(&mut self, limit: usize) -> Result<usize, ClientError> {
        let end = limit.min(self.chunk.len());
        let Some(chunk) = self.chunk.get_mut(..end) else {
            return Ok(0);
        };
        let length = match self.socket.read(chunk) {
            Ok(0) => return Err(ClientError::Io("read", ErrorKind::UnexpectedEof.into())),
            Ok(length) => length,
            Err(error) if would_block(&error) => return Ok(0),
            Err(error) => return Err(ClientError::Io("read", error)),
        };
        let mut bytes = chunk.get(..length).unwrap_or_default();
        let Some(tls) = &mut self.tls else {
            self.incoming.extend_from_slice(bytes);
            return Ok(length);
        };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).map_err(|e| ClientError::Io("read", e))?;
            tls.process_new_packets()?;
            match tls.reader().read_to_end(&mut self.incoming) {
                Err(error) if !would_block(&error) => return Err(ClientError::Io("read", error)),
                _ => {}
            }
        }
        Ok(length)
    }

    /// Hands out whole frames, `most` of them.
    pub(super) fn take_frames(&mut self, most: usize, mut frame: impl FnMut(&[u8])) -> Result<(), ClientError> {
        let mut taken = 0;
        for _ in 0..most {
            let rest = self.incoming.get(taken..).unwrap_or_default();
            match next_frame(rest).map_err(|_| ClientError::Nonsense("a stream that is not TURN"))? {
                Framing::Message(length) if length <= rest.len() => {
                    frame(rest.get(..length).unwrap_or_default());
                    taken += length;
                }
                Framing::Message(_) | Framing::Need(_) => break,
            }
        }
        self.incoming.drain(..taken);
        Ok(())
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Waits until there is something to read, at most `limit`.
fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) {
    // Too long for a timespec cannot be: a few seconds at most. An error shows at the read that follows.
    if let Ok(limit) = Timespec::try_from(limit) {
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit));
    }
}
