//! An in-memory socket, handmade frames, and a TLS client.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};

use relay_testkit::tls::tls_pair;
use rustls::{ClientConnection, ServerConnection};

use super::super::*;

/// `millis` milliseconds after the origin of time.
pub(super) fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

/// A non-blocking socket: the bytes from the client, and the capacity to the client.
#[derive(Debug, Default)]
pub(super) struct Socket {
    pub(super) incoming: VecDeque<u8>,
    pub(super) fin: bool,
    pub(super) outgoing: Vec<u8>,
    /// Bytes that the socket accepts before it is full.
    pub(super) window: usize,
    /// Bytes that it accepts per call.
    pub(super) per_write: usize,
    pub(super) writes: usize,
}

impl Socket {
    pub(super) fn open() -> Self {
        Self {
            window: usize::MAX,
            per_write: usize::MAX,
            ..Self::default()
        }
    }

    pub(super) fn sent(bytes: &[u8]) -> Self {
        Self {
            incoming: bytes.iter().copied().collect(),
            ..Self::open()
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return if self.fin {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        self.incoming.read(buf)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = self.window.min(self.per_write);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.writes += 1;
        let before = self.outgoing.len();
        for buf in bufs {
            let part = &buf[..taken.min(buf.len())];
            self.outgoing.extend_from_slice(part);
            taken -= part.len();
        }
        let written = self.outgoing.len() - before;
        self.window -= if self.window == usize::MAX { 0 } else { written };
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A STUN message of `20 + len` bytes; `len` is a multiple of four.
pub(super) fn stun(id: u8, len: u16) -> Vec<u8> {
    let mut bytes = vec![0x00, 0x01];
    bytes.extend(len.to_be_bytes());
    bytes.extend([0x21, 0x12, 0xA4, 0x42]);
    bytes.extend([id; 12]);
    bytes.resize(20 + usize::from(len), id);
    bytes
}

/// A padded ChannelData message on `number`.
pub(super) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes.resize(4 + data.len().next_multiple_of(4), 0);
    bytes
}

/// Every complete message.
pub(super) fn messages(conn: &mut StreamConn) -> Result<Vec<Vec<u8>>, StreamError> {
    let mut all = Vec::new();
    while let Some(message) = conn.next_message()? {
        all.push(message.to_vec());
    }
    Ok(all)
}

/// Reads and takes messages until the socket has no more.
pub(super) fn receive_all(conn: &mut StreamConn, now: Instant, io: &mut Socket) -> Result<Vec<Vec<u8>>, StreamError> {
    let mut all = messages(conn)?;
    while !io.incoming.is_empty() {
        let _ = conn.receive(now, io)?;
        all.extend(messages(conn)?);
    }
    Ok(all)
}

/// Splits a stream of frames into messages.
pub(super) fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let Framing::Message(len) = framing::next_frame(bytes).expect("frames only") else {
            panic!("half a message of {} bytes at the end", bytes.len());
        };
        all.push(bytes[..len].to_vec());
        bytes = &bytes[len..];
    }
    all
}

/// A client and a server with their handshake complete.
pub(super) struct TlsPair {
    pub(super) client: ClientConnection,
    pub(super) server: Box<ServerConnection>,
}

impl TlsPair {
    pub(super) fn new() -> Self {
        Self::with_version(&rustls::version::TLS13)
    }

    pub(super) fn with_version(version: &'static rustls::SupportedProtocolVersion) -> Self {
        let (client, server) = tls_pair(&[version]);
        Self { client, server }
    }
}

pub(super) fn feed_server(server: &mut ServerConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        server.process_new_packets().unwrap();
    }
}

/// Ciphertext of one record that holds `plaintext`.
pub(super) fn client_writes(client: &mut ClientConnection, plaintext: &[u8]) -> Vec<u8> {
    client.writer().write_all(plaintext).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Plaintext the client finds in `bytes`.
pub(super) fn client_reads(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plaintext = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        let _ = client.reader().read_to_end(&mut plaintext);
    }
    plaintext
}
