//! A DTLS client on a UDP socket: OpenSSL's, blocking, with time limits.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use openssl::ssl::{
    ErrorCode, ShutdownState, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVerifyMode,
};

/// Time limit of a handshake: longer than a lost flight of the client, which is retransmitted after
/// a second.
const PATIENCE: Duration = Duration::from_secs(15);

/// A connected socket, as OpenSSL sees it.
struct Datagrams(UdpSocket);

impl Read for Datagrams {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buf).map_err(|error| match error.kind() {
            // ICMP about an earlier datagram: the next read works.
            ErrorKind::TimedOut | ErrorKind::ConnectionRefused => ErrorKind::WouldBlock.into(),
            _ => error,
        })
    }
}

impl Write for Datagrams {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One association.
pub struct DtlsClient(SslStream<Datagrams>);

impl DtlsClient {
    /// A socket that sends to `server`.
    pub fn socket(server: SocketAddr) -> UdpSocket {
        let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(local).expect("a free UDP port");
        socket.connect(server).expect("loopback");
        socket
    }

    /// Accepts any certificate, because the server under test has created its own.
    pub fn context() -> SslContext {
        let mut context = SslContextBuilder::new(SslMethod::dtls_client()).expect("OpenSSL has DTLS");
        context.set_verify(SslVerifyMode::NONE);
        context.set_options(SslOptions::NO_QUERY_MTU);
        context.build()
    }

    /// Completes a handshake.
    pub fn connect(server: SocketAddr) -> Self {
        Self::on(Self::socket(server), 1200).expect("a DTLS handshake")
    }

    /// Completes a handshake on `socket`, with datagrams of at most `mtu` bytes.
    pub fn on(socket: UdpSocket, mtu: u32) -> Option<Self> {
        Self::offering(socket, mtu, b"")
    }

    /// The same, offering `protocols` (ALPN, in wire format) if there are any.
    pub fn offering(socket: UdpSocket, mtu: u32, protocols: &[u8]) -> Option<Self> {
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout");
        let mut ssl = Ssl::new(&Self::context()).expect("a connection");
        ssl.set_mtu(mtu).expect("an MTU");
        if !protocols.is_empty() {
            ssl.set_alpn_protos(protocols).expect("well-formed");
        }
        let mut stream = SslStream::new(ssl, Datagrams(socket)).expect("a stream");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match stream.connect() {
                Ok(()) => return Some(Self(stream)),
                Err(error) if error.code() == ErrorCode::WANT_READ => {}
                Err(_) => return None,
            }
        }
        None
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().0.local_addr()
    }

    /// The underlying socket.
    pub fn datagrams(&self) -> &UdpSocket {
        &self.0.get_ref().0
    }

    /// Sends `message` in a record of its own.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self.0.ssl_write(message) {
            Ok(sent) if sent == message.len() => Ok(()),
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) => Err(error.into_io_error().unwrap_or_else(io::Error::other)),
        }
    }

    /// The next message, waiting at most `patience`; 0 after close_notify.
    pub fn receive(&mut self, buf: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.datagrams().set_read_timeout(Some(patience))?;
        match self.0.ssl_read(buf) {
            Ok(len) => Ok(len),
            Err(error) if error.code() == ErrorCode::WANT_READ => Err(ErrorKind::WouldBlock.into()),
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(0),
            Err(error) => Err(error.into_io_error().unwrap_or_else(io::Error::other)),
        }
    }

    /// Names in the server's certificate.
    pub fn certificate_names(&self) -> Vec<String> {
        let certificate = self.0.ssl().peer_certificate().expect("a server has one");
        let names = certificate.subject_alt_names().expect("it names the server");
        names
            .iter()
            .filter_map(|name| name.dnsname().map(ToOwned::to_owned))
            .collect()
    }

    /// Sends close_notify.
    pub fn close(&mut self) {
        let _ = self.0.shutdown();
        assert!(self.0.get_shutdown().contains(ShutdownState::SENT));
    }
}
