//! A TURN client: one request at a time, and the challenge before the first.

use std::io;
use std::net::SocketAddr;

use core::time::Duration;

use relay_net::clock::Clock;
use relay_proto::turn::login::credential::MintedCredential;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::error_code;
use relay_proto::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay_proto::wire::message::{Class, Message, Method, TransactionId};
use relay_proto::wire::writer::MessageWriter;

use super::error::{ClientError, ServerRefusal};
use super::settings::ClientSettings;
use super::socket::ClientSocket;
use super::stream::wait_readable;

/// First retransmission; each next one waits twice as long (RFC 8489 §6.2.1).
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(500);
/// Requested lifetime of a renewed allocation, in seconds.
const LIFETIME: u32 = 600;

/// One client of one server.
pub struct TurnClient {
    /// For application data. Responses to [`Self::renew`] arrive there as well.
    pub socket: ClientSocket,
    server: SocketAddr,
    timeout: Duration,
    clock: Clock,
    login: MintedCredential,
    realm: String,
    nonce: Vec<u8>,
    key: Option<Key>,
    id: [u8; 12],
}

impl TurnClient {
    /// Opens the socket. TCP connects, and TLS completes the handshake. Sends no request.
    ///
    /// # Errors
    /// [`ClientError::Io`] and [`ClientError::Tls`].
    pub fn connect(settings: &ClientSettings, login: MintedCredential) -> Result<Self, ClientError> {
        let socket = ClientSocket::open(settings)?;
        let mut id = [0; 12];
        getrandom::fill(&mut id).map_err(|e| ClientError::Io("random bytes", io::Error::other(e.to_string())))?;
        Ok(Self {
            socket,
            server: settings.server,
            timeout: settings.timeout,
            clock: Clock::default(),
            login,
            realm: String::new(),
            nonce: Vec::new(),
            key: None,
            id,
        })
    }

    /// Allocates a relayed transport address of the server's own family (RFC 8656 §7.1), and
    /// returns it.
    ///
    /// # Errors
    /// As for every request here: [`ClientError::Refused`] with the server's error response,
    /// [`ClientError::Timeout`], or the socket's error.
    pub fn allocate(&mut self) -> Result<SocketAddr, ClientError> {
        let family = if self.server.is_ipv4() { 1 } else { 2 };
        let answer = self.request(Method::Allocate, |writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
        })?;
        let message = Message::parse(&answer).map_err(|_| ClientError::Malformed("no STUN message"))?;
        match message.xor_address(AttributeType::XOR_RELAYED_ADDRESS) {
            Ok(Some(relayed)) => Ok(relayed),
            _ => Err(ClientError::Malformed("no relayed transport address")),
        }
    }

    /// Installs a permission for `peer`, for 300 s (RFC 8656 §9).
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub fn create_permission(&mut self, peer: SocketAddr) -> Result<(), ClientError> {
        let answer = self.request(Method::CreatePermission, |writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        answer.map(drop)
    }

    /// Binds a channel to `peer`, for 600 s (RFC 8656 §12).
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub fn channel_bind(&mut self, number: u16, peer: SocketAddr) -> Result<(), ClientError> {
        let answer = self.request(Method::ChannelBind, |writer| {
            writer.u32(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        answer.map(drop)
    }

    /// Ends the allocation: a Refresh with lifetime 0.
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub fn release(&mut self) -> Result<(), ClientError> {
        let answer = self.request(Method::Refresh, |writer| {
            writer.u32(AttributeType::LIFETIME, 0);
        });
        answer.map(drop)
    }

    /// Sends a request and returns its success response. Answers two challenges at most: 401, and
    /// 438 if the nonce is stale.
    fn request(&mut self, method: Method, fill: impl Fn(&mut MessageWriter<'_>)) -> Result<Vec<u8>, ClientError> {
        for attempt in 0.. {
            let answer = self.exchange(method, &fill)?;
            let message = Message::parse(&answer).map_err(|_| ClientError::Malformed("no STUN message"))?;
            if message.class() == Class::Success {
                return Ok(answer);
            }
            let refusal =
                ServerRefusal::of(method, &message).ok_or(ClientError::Malformed("an error without a code"))?;
            let challenged = (refusal.code == 401 && self.key.is_none()) || refusal.code == 438;
            if !challenged || attempt == 2 {
                return Err(ClientError::Refused(refusal));
            }
            let text = |kind| {
                message
                    .attribute(kind)
                    .ok_or(ClientError::Malformed("half a challenge"))
            };
            self.realm = String::from_utf8_lossy(text(AttributeType::REALM)?).into_owned();
            self.nonce = text(AttributeType::NONCE)?.to_vec();
            self.key = Some(Key::long_term(
                self.login.username.as_bytes(),
                &self.realm,
                self.login.password.as_bytes(),
                PasswordAlgorithm::Md5,
            ));
        }
        Err(ClientError::Timeout(method, self.timeout))
    }

    /// One transaction: retransmits over UDP, and skips messages that are not its response.
    fn exchange(&mut self, method: Method, fill: &impl Fn(&mut MessageWriter<'_>)) -> Result<Vec<u8>, ClientError> {
        let (request, id) = self.sign(method, fill)?;
        let start = self.clock.mono();
        let (mut next, mut pause) = (start, FIRST_RETRANSMISSION);
        let is_udp = matches!(self.socket, ClientSocket::Udp(..));
        while self.clock.mono() - start < self.timeout {
            if self.clock.mono() >= next {
                if is_udp || next == start {
                    self.socket.send_request(&request, self.server)?;
                }
                next = self.clock.mono() + pause;
                pause *= 2;
            }
            wait_readable(self.socket.fd(), next - self.clock.mono());
            while let Some(answer) = self.socket.receive_response()? {
                if Message::parse(&answer).is_ok_and(|message| message.transaction_id() == id) {
                    return Ok(answer);
                }
            }
        }
        Err(ClientError::Timeout(method, self.timeout))
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
            .map_err(|_| ClientError::Malformed("a challenge that is too long"))?;
        request.truncate(length);
        Ok((request, id))
    }

    /// Sends requests that renew the allocation and the channel (or, without one, the permission)
    /// to `peer`, and does not wait. The responses arrive among the application data; pass them to
    /// [`Self::note_response`].
    ///
    /// # Errors
    /// The socket's error.
    pub fn renew(&mut self, channel: Option<u16>, peer: SocketAddr) -> Result<(), ClientError> {
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
        self.socket.send_request(&refresh, self.server)?;
        self.socket.send_request(&permit, self.server)
    }

    /// Reads a response that arrived among application data. `true`: the nonce was stale, and
    /// [`Self::renew`] must be called again.
    pub fn note_response(&mut self, message: &Message<'_>) -> bool {
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread;

    use relay_net::udp::UdpOptions;

    use super::*;
    use crate::settings::ClientLink;

    fn client(server: SocketAddr, timeout: Duration) -> TurnClient {
        let settings = ClientSettings {
            server,
            local: [127, 0, 0, 1].into(),
            link: ClientLink::Udp(UdpOptions {
                receive_buffer: 0,
                send_buffer: 0,
                offload: false,
                errors: false,
                traffic_class: false,
            }),
            receive_buffer: None,
            timeout,
        };
        let login = MintedCredential {
            username: "alice".to_owned(),
            password: "correct horse".to_owned(),
        };
        TurnClient::connect(&settings, login).unwrap()
    }

    /// Answers each request with the next of `answers`.
    fn server(answers: Vec<fn(&mut MessageWriter<'_>)>) -> (SocketAddr, thread::JoinHandle<Vec<Vec<u8>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let address = socket.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut buffer, mut out) = ([0; 2048], [0; 2048]);
                let (length, from) = socket.recv_from(&mut buffer).expect("a request");
                let request = Message::parse(&buffer[..length]).unwrap();
                let method = request.method().unwrap();
                let mut writer = MessageWriter::new(&mut out, Class::Error, method, request.transaction_id());
                answer(&mut writer);
                let written = writer.finish().unwrap();
                socket.send_to(&out[..written], from).unwrap();
                requests.push(buffer[..length].to_vec());
            }
            requests
        });
        (address, thread)
    }

    fn challenge(code: u16, nonce: &[u8], writer: &mut MessageWriter<'_>) {
        writer.attribute(AttributeType::ERROR_CODE, &error_code::header(0, code));
        writer.attribute(AttributeType::REALM, b"example.org");
        writer.attribute(AttributeType::NONCE, nonce);
    }

    #[test]
    fn challenges_are_answered_and_a_refusal_says_what_the_server_said() {
        let (address, server) = server(vec![
            |writer| challenge(401, b"first", writer),
            |writer| challenge(438, b"second", writer),
            |writer| {
                writer.attribute(AttributeType::ERROR_CODE, &error_code::header(0, 508));
                writer.attribute(AttributeType::SOFTWARE, b"another server");
            },
        ]);
        let refused = client(address, Duration::from_secs(10)).allocate().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Allocate: 508 Insufficient Capacity (server: another server)"
        );
        let key = Key::long_term(b"alice", "example.org", b"correct horse", PasswordAlgorithm::Md5);
        let requests = server.join().unwrap();
        let nonces: Vec<_> = requests
            .iter()
            .map(|request| {
                let message = Message::parse(request).unwrap();
                let nonce = message.attribute(AttributeType::NONCE);
                assert_eq!(message.verify(&key), nonce.is_some());
                nonce
            })
            .collect();
        assert_eq!(nonces, [None, Some(&b"first"[..]), Some(b"second")]);
    }

    #[test]
    fn a_server_that_does_not_answer_is_reported_in_time() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let patience = Duration::from_secs(1);
        let error = client(silent.local_addr().unwrap(), patience).allocate().unwrap_err();
        assert_eq!(error.to_string(), "Allocate: no answer within 1 s");
        // Retransmitted after 500 ms.
        silent.set_nonblocking(true).unwrap();
        let requests = core::iter::from_fn(|| silent.recv(&mut [0; 2048]).ok());
        assert_eq!(requests.count(), 2);
    }
}
