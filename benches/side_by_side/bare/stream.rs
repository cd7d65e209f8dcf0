//! A client's connection, plain or TLS, and the bytes that arrived on it.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use relay::net::tls::TlsSession;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};

/// Most bytes read at once, as the relay does.
const READ: usize = 64 * 1024;

/// For any name, with a certificate that the client need not trust.
pub(super) fn tls_config() -> io::Result<Arc<ServerConfig>> {
    let certified = rcgen::generate_simple_self_signed(vec!["bench.test".to_owned()]).map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certified.cert.der().clone()], key)
        });
    Ok(Arc::new(config.map_err(io::Error::other)?))
}

pub(super) struct Stream {
    socket: TcpStream,
    tls: Option<TlsSession>,
    /// The first `held` bytes are read and not processed yet.
    buffer: Box<[u8]>,
    held: usize,
    /// Ciphertext for TLS to decrypt.
    ciphertext: Box<[u8]>,
}

impl Stream {
    /// Takes a connection over, after a handshake if it begins with one.
    pub(super) fn new(socket: TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let mut stream = Self {
            tls: None,
            buffer: vec![0; 3 * READ].into(),
            held: 0,
            ciphertext: vec![0; if tls.is_some() { READ } else { 0 }].into(),
            socket,
        };
        if let Some(config) = tls {
            let mut connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
            connection.complete_io(&mut stream.socket)?;
            let mut session = TlsSession::new(Box::new(connection));
            // Bytes that followed the handshake directly.
            session.drain(|plaintext| keep(&mut stream.buffer, &mut stream.held, plaintext));
            stream.tls = Some(session);
        }
        stream.socket.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Bytes that are not processed yet.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.held]
    }

    /// Reads once; `false` at the end.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        let (buffer, held) = (&mut self.buffer, &mut self.held);
        let Some(tls) = &mut self.tls else {
            let read = read_once(&mut self.socket, &mut buffer[*held..*held + READ])?;
            *held += read.unwrap_or(0);
            return Ok(read != Some(0));
        };
        let Some(read) = read_once(&mut self.socket, &mut self.ciphertext)? else {
            return Ok(true);
        };
        let opened = tls
            .open(&self.ciphertext[..read], |plaintext| keep(buffer, held, plaintext))
            .map_err(io::Error::other)?;
        Ok(read > 0 && !opened.closed)
    }

    /// The first `taken` bytes are processed.
    pub(super) fn take(&mut self, taken: usize) {
        self.buffer.copy_within(taken..self.held, 0);
        self.held -= taken;
    }

    /// Writes everything. Blocks while the client does not read, which the generator always does.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.seal(&[IoSlice::new(bytes)]).map_err(io::Error::other)?;
            while tls.wants_write() {
                wait_or(tls.write(&mut self.socket))?;
            }
            return Ok(());
        }
        let mut left = bytes;
        while !left.is_empty() {
            let written = wait_or(self.socket.write(left))?;
            left = &left[written..];
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn keep(buffer: &mut [u8], held: &mut usize, bytes: &[u8]) {
    buffer[*held..*held + bytes.len()].copy_from_slice(bytes);
    *held += bytes.len();
}

/// `None`: nothing to read now.
fn read_once(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match socket.read(buffer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

fn wait_or(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            std::hint::spin_loop();
            Ok(0)
        }
        other => other,
    }
}
