//! The first bytes of a connection. They are read here and stay until its destination takes them.

use std::io::Read;

use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::ConnectionOutcome;
use super::classify::{FirstBytes, classify};
use super::proxy::{self, Ends, ProxyHeader};

/// Bytes per read: more than a usual ClientHello.
const READ: usize = 2048;
/// Longest ClientHello, in bytes. With post-quantum key shares it takes about 2 KB.
const MOST_HELLO: usize = 16 * 1024;

/// The socket, and the bytes read from it.
pub(super) struct Preface {
    pub(super) socket: TcpStream,
    pub(super) read: Vec<u8>,
}

impl Preface {
    pub(super) const fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            read: Vec::new(),
        }
    }

    /// Waits for more bytes.
    async fn read_more(&mut self, deadline: Instant) -> Result<(), Missed> {
        self.read.reserve(READ);
        match timeout_at(deadline, self.socket.read_buf(&mut self.read)).await {
            Err(_) => Err(Missed::Late),
            Ok(Err(_) | Ok(0)) => Err(Missed::Closed),
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// Reads and removes a PROXY header.
    pub(super) async fn proxy_header(&mut self, deadline: Instant) -> Result<Option<Ends>, HeaderError> {
        loop {
            // No byte at all is a health check that only tests the port.
            if !self.read.is_empty() {
                match proxy::parse(&self.read) {
                    ProxyHeader::Incomplete => {}
                    ProxyHeader::Malformed(why) => return Err(HeaderError::Bad(why)),
                    ProxyHeader::Complete { len, ends } => {
                        self.read.drain(..len);
                        return Ok(ends);
                    }
                }
            }
            self.read_more(deadline)
                .await
                .map_err(|missed| HeaderError::Missed(missed.before_it_is_known()))?;
        }
    }

    /// Classifies by as many bytes as necessary.
    pub(super) async fn first_bytes(&mut self, deadline: Instant) -> Result<FirstBytes, ConnectionOutcome> {
        loop {
            match classify(&self.read) {
                FirstBytes::More => {}
                first_bytes => return Ok(first_bytes),
            }
            self.read_more(deadline).await.map_err(Missed::before_it_is_known)?;
        }
    }

    /// Reads the ClientHello, which also stays in `read` unchanged. An invalid one is answered with
    /// an alert.
    pub(super) async fn client_hello(&mut self, deadline: Instant) -> Result<Accepted, ConnectionOutcome> {
        let mut acceptor = Acceptor::default();
        let mut seen = 0;
        loop {
            let mut unseen = &self.read[seen..];
            while !unseen.is_empty() {
                let before = unseen.len();
                // It can only fail for lack of room, and there is room for a whole record.
                if acceptor.read_tls(&mut unseen as &mut dyn Read).is_err() {
                    return Err(ConnectionOutcome::HandshakeFailed);
                }
                seen += before - unseen.len();
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) if self.read.len() <= MOST_HELLO => {}
                Ok(None) => return Err(ConnectionOutcome::HandshakeFailed),
                Err((error, mut alert)) => {
                    tracing::debug!(%error, "TLS handshake failed");
                    let mut bytes = Vec::new();
                    if alert.write_all(&mut bytes).is_ok() {
                        let _ = timeout_at(deadline, self.socket.write_all(&bytes)).await;
                    }
                    return Err(ConnectionOutcome::HandshakeFailed);
                }
            }
            self.read_more(deadline).await.map_err(|missed| match missed {
                Missed::Late => ConnectionOutcome::HandshakeTimeout,
                Missed::Closed => ConnectionOutcome::HandshakeFailed,
            })?;
        }
    }
}

/// Why no more bytes arrived.
enum Missed {
    Late,
    Closed,
}

impl Missed {
    const fn before_it_is_known(self) -> ConnectionOutcome {
        match self {
            Self::Late => ConnectionOutcome::Silent,
            Self::Closed => ConnectionOutcome::ClientClosed,
        }
    }
}

/// Why there is no PROXY header.
pub(super) enum HeaderError {
    /// It is invalid.
    Bad(&'static str),
    /// It did not arrive.
    Missed(ConnectionOutcome),
}
