//! A connection to the server, plain or with TLS. It reads and writes whole frames (RFC 8656 §12.5
//! pads ChannelData there).

use core::time::Duration;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use relay_net::clock::Clock;
use relay_proto::wire::framing::{Framing, next_frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Socket, Type};

use super::error::ClientError;
use super::settings::ClientSettings;

/// The longest frame (a STUN header and a 16-bit length), and room for a second one behind it.
pub(crate) const READ: usize = 128 * 1024;

/// A TCP connection, plain or with TLS.
pub struct ClientStream {
    socket: TcpStream,
    tls: Option<ClientConnection>,
    /// Received bytes of incomplete frames.
    incoming: Vec<u8>,
    /// Plain bytes to send. With TLS they wait here only until the next flush.
    outgoing: Vec<u8>,
    chunk: Box<[u8]>,
}

impl ClientStream {
    /// Connects, and completes the handshake if TLS is used.
    pub(crate) fn connect(settings: &ClientSettings, tls: Option<&Arc<ClientConfig>>) -> Result<Self, ClientError> {
        let io = |action| move |error| ClientError::Io(action, error);
        let socket = Socket::new(Domain::for_address(settings.server), Type::STREAM, None).map_err(io("socket"))?;
        if let Some(size) = settings.receive_buffer {
            socket.set_recv_buffer_size(size).map_err(io("SO_RCVBUF"))?;
        }
        socket
            .connect_timeout(&settings.server.into(), settings.timeout)
            .map_err(io("connect"))?;
        socket.set_tcp_nodelay(true).map_err(io("TCP_NODELAY"))?;
        socket.set_nonblocking(true).map_err(io("O_NONBLOCK"))?;
        let tls = match tls {
            Some(config) => {
                let name = ServerName::IpAddress(settings.server.ip().into());
                let mut connection = ClientConnection::new(Arc::clone(config), name)?;
                connection.set_buffer_limit(None);
                Some(connection)
            }
            None => None,
        };
        let mut stream = Self {
            socket: socket.into(),
            tls,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            chunk: vec![0; READ].into_boxed_slice(),
        };
        stream.shake_hands(settings.timeout)?;
        Ok(stream)
    }

    /// Without TLS there is nothing to do.
    fn shake_hands(&mut self, timeout: Duration) -> Result<(), ClientError> {
        let clock = Clock::default();
        let start = clock.mono();
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            if clock.mono() - start > timeout {
                return Err(ClientError::Io("TLS handshake", ErrorKind::TimedOut.into()));
            }
            self.flush()?;
            self.read(READ)?;
            wait_readable(self.fd(), Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Unsent bytes.
    pub fn backlog(&self) -> usize {
        self.outgoing.len()
    }

    /// Appends one frame, given in parts, and `padding` zeroes.
    pub fn queue(&mut self, parts: &[&[u8]], padding: usize) {
        for part in parts {
            self.outgoing.extend_from_slice(part);
        }
        self.outgoing.resize(self.outgoing.len() + padding, 0);
    }

    /// Writes as much as the socket accepts. The rest waits for the next call.
    ///
    /// # Errors
    /// [`ClientError::Io`] and [`ClientError::Tls`]: the connection is lost.
    pub fn flush(&mut self) -> Result<(), ClientError> {
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

    /// Reads at most `limit` bytes that have arrived, before decryption. Returns their number; 0:
    /// none.
    ///
    /// # Errors
    /// [`ClientError::Io`], also at the end of the connection, and [`ClientError::Tls`].
    pub fn read(&mut self, limit: usize) -> Result<usize, ClientError> {
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

    /// Calls `frame` with whole frames, at most `most`.
    ///
    /// # Errors
    /// [`ClientError::Malformed`]: the stream has lost framing.
    pub fn take_frames(&mut self, most: usize, mut frame: impl FnMut(&[u8])) -> Result<(), ClientError> {
        let mut taken = 0;
        for _ in 0..most {
            let rest = self.incoming.get(taken..).unwrap_or_default();
            match next_frame(rest).map_err(|_| ClientError::Malformed("a stream that is not TURN"))? {
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

pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Waits until the socket is readable, at most `limit`.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) {
    // The timeout fits a timespec: it is a few seconds at most. An error shows at the read that
    // follows.
    if let Ok(limit) = Timespec::try_from(limit) {
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit));
    }
}
