//! TCP with peers (RFC 6062): the sockets of a TCP allocation, and the pipe between a client's
//! connection and a peer's.
//!
//! Bytes pass through unchanged in both directions and never pile up. A side is read only while
//! nothing read from it before waits to be written to the other. So each direction holds at most
//! one read, the kernel's window stops the sender, and an idle pipe holds nothing. The end of one
//! direction (FIN, close_notify) is forwarded after everything before it. The other direction
//! continues until it ends too.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

use super::stream::{StreamParts, buffers};
use super::sys::epoll::Interest;
use super::tls::TlsSession;

/// Connections that may wait for accept at one relayed transport address.
const BACKLOG: i32 = 32;
/// Most bytes read at once.
const READ: usize = 64 * 1024;
/// Reads per direction and turn, so that other connections get their turn.
const ROUNDS: u32 = 4;
/// Most bytes of capacity that an empty direction keeps.
const KEPT: usize = 4096;

/// Listens at `address`, which it shares with the connections that [`connect`] makes from there.
///
/// # Errors
/// Those of the system.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Starts to connect from `local`, where [`listen`] may be listening, to `peer`. The connection is
/// established when the socket is writable and has no error.
///
/// # Errors
/// Those of the system.
pub fn connect(local: SocketAddr, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(local)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&peer.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// A non-blocking socket. With SO_REUSEPORT, several sockets of this user may share one local
/// address, and one of them may listen.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    /// Read and not yet written, from `start` on.
    pending: Vec<u8>,
    start: usize,
    /// The source has ended.
    ended: bool,
    /// The destination has been informed.
    told: bool,
    /// No more data will arrive at the source, apart from what the kernel already holds.
    last: bool,
}

impl Lane {
    fn is_clear(&self) -> bool {
        self.start == self.pending.len()
    }

    /// Writes pending bytes; `false` if the destination is full.
    fn flush(&mut self, mut to: &TcpStream) -> io::Result<bool> {
        while !self.is_clear() {
            match write_once(&mut to, &self.pending[self.start..])? {
                0 => return Ok(false),
                written => self.start += written,
            }
        }
        self.clear();
        Ok(true)
    }

    fn clear(&mut self) {
        self.start = 0;
        self.pending.clear();
        if self.pending.capacity() > KEPT {
            self.pending = Vec::new();
        }
    }

    const fn rounds(&self) -> u32 {
        if self.last { u32::MAX } else { ROUNDS }
    }
}

/// Bytes read from each side by one [`Pipe::pump`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pumped {
    /// From the client.
    pub up: u64,
    /// From the peer.
    pub down: u64,
}

/// A client's connection, plain or TLS, joined with a peer's.
#[derive(Debug)]
pub struct Pipe {
    tls: Option<TlsSession>,
    up: Lane,
    down: Lane,
    /// close_notify is among the pending bytes.
    closing: bool,
}

impl Pipe {
    /// Joins a former TURN stream with a peer. Bytes received after the last message go to the
    /// peer. Bytes still to be sent go to the client first.
    pub fn new(parts: StreamParts) -> Self {
        let StreamParts {
            mut tls,
            received,
            unsent,
        } = parts;
        let ended = tls.as_mut().is_some_and(TlsSession::has_ended);
        Self {
            tls,
            up: Lane {
                pending: received,
                ended,
                ..Lane::default()
            },
            down: Lane {
                pending: unsent,
                ..Lane::default()
            },
            closing: false,
        }
    }

    /// Moves bytes in both directions, a bounded amount.
    ///
    /// # Errors
    /// One of the sockets failed, or the client violated TLS: close both.
    pub fn pump(&mut self, client: &TcpStream, peer: &TcpStream) -> io::Result<Pumped> {
        let up = self.pump_up(client, peer)?;
        let down = self.pump_down(client, peer)?;
        Ok(Pumped { up, down })
    }

    /// Whether both directions have ended and both sides have been informed.
    pub const fn is_done(&self) -> bool {
        self.up.told && self.down.told
    }

    /// Whether one direction has ended and the other has not.
    pub const fn is_half_closed(&self) -> bool {
        self.up.told != self.down.told
    }

    /// No more data will arrive from the client, apart from what the kernel already holds.
    pub const fn client_hung_up(&mut self) {
        self.up.last = true;
    }

    /// No more data will arrive from the peer, apart from what the kernel already holds.
    pub const fn peer_hung_up(&mut self) {
        self.down.last = true;
    }

    /// The events to wait for on the client's and on the peer's socket.
    pub fn interest(&self) -> (Interest, Interest) {
        let of = |read: bool, write: bool| match (read, write) {
            (true, true) => Interest::ReadWrite,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (false, false) => Interest::None,
        };
        let to_client = !self.down.is_clear() || self.tls.as_ref().is_some_and(TlsSession::wants_write);
        let to_peer = !self.up.is_clear();
        (
            of(!self.up.ended && !to_peer, to_client),
            of(!self.down.ended && !to_client, to_peer),
        )
    }

    /// Bytes read from one side and not yet written to the other, without those in rustls.
    pub const fn held(&self) -> usize {
        self.up.pending.len() + self.down.pending.len()
    }

    fn pump_up(&mut self, client: &TcpStream, peer: &TcpStream) -> io::Result<u64> {
        let mut total = 0;
        let mut rounds = self.up.rounds();
        while self.up.flush(peer)? {
            // Checked after the last read as well, because nothing else would wake this pipe for
            // it.
            if self.up.ended {
                if !self.up.told {
                    peer.shutdown(Shutdown::Write)?;
                    self.up.told = true;
                }
                break;
            }
            if rounds == 0 {
                break;
            }
            rounds -= 1;
            let Some(taken) = with_read(client, |bytes| self.take_from_client(bytes))? else {
                break;
            };
            total += taken?;
        }
        Ok(total)
    }

    /// Converts bytes read from the client to bytes for the peer. No bytes means its end.
    fn take_from_client(&mut self, bytes: &[u8]) -> io::Result<u64> {
        if bytes.is_empty() {
            self.up.ended = true;
            return Ok(0);
        }
        let Some(tls) = &mut self.tls else {
            self.up.pending.extend_from_slice(bytes);
            return Ok(bytes.len() as u64);
        };
        let pending = &mut self.up.pending;
        let opened = tls
            .open(bytes, |plaintext| pending.extend_from_slice(plaintext))
            .map_err(io::Error::other)?;
        self.up.ended |= opened.closed;
        Ok(opened.plaintext as u64)
    }

    fn pump_down(&mut self, client: &TcpStream, peer: &TcpStream) -> io::Result<u64> {
        let mut total = 0;
        let mut rounds = self.down.rounds();
        while self.flush_to_client(client)? {
            if self.down.ended {
                self.tell_client(client)?;
                break;
            }
            if rounds == 0 {
                break;
            }
            rounds -= 1;
            let lane = &mut self.down;
            let Some(taken) = with_read(peer, |bytes| {
                lane.ended = bytes.is_empty();
                lane.pending.extend_from_slice(bytes);
                bytes.len() as u64
            })?
            else {
                break;
            };
            total += taken;
        }
        Ok(total)
    }

    /// Forwards the peer's end to the client.
    fn tell_client(&mut self, client: &TcpStream) -> io::Result<()> {
        if self.down.told {
            return Ok(());
        }
        if let Some(tls) = &mut self.tls
            && !self.closing
        {
            self.closing = true;
            tls.close();
        }
        if self.flush_to_client(client)? {
            client.shutdown(Shutdown::Write)?;
            self.down.told = true;
        }
        Ok(())
    }

    /// Writes pending bytes to the client; `false` if its socket is full.
    fn flush_to_client(&mut self, mut client: &TcpStream) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            return self.down.flush(client);
        };
        if !self.down.is_clear() {
            tls.seal(&[IoSlice::new(&self.down.pending[self.down.start..])])
                .map_err(io::Error::other)?;
            self.down.clear();
        }
        while tls.wants_write() {
            match tls.write(&mut client) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Reads once and passes the bytes to `take`, none at the end of the stream. `None`: nothing to
/// read now.
fn with_read<T>(mut from: &TcpStream, take: impl FnOnce(&[u8]) -> T) -> io::Result<Option<T>> {
    let mut buffer = buffers::take_read_buffer();
    let read = loop {
        match from.read(&mut buffer[..READ]) {
            Ok(len) => break Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    let taken = read.map(|read| read.map(|len| take(&buffer[..len])));
    buffers::give_read_buffer(buffer);
    taken
}

/// Writes once; 0 if the socket is full.
fn write_once(to: &mut &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        return match to.write(bytes) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

#[cfg(test)]
mod tests;
