//! One stream of a client without a network: rounds of ChannelData in and out, plain or through TLS.

#[path = "tls_configs.rs"]
mod tls_configs;

use std::io::{self, IoSlice, Read, Write};

use relay_net::stream::{Flushed, QueueKind, StreamConn};
use relay_proto::base::time::Instant;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use tls_configs::tls_configs;

/// Application data of one frame.
pub(crate) const DATA: [u8; 1200] = [7; 1200];
pub(crate) const HEADER: [u8; 4] = [0x40, 0x00, 0x04, 0xB0];
/// Frames of one round.
pub(crate) const FRAMES: usize = 50;

/// Bytes to be read, in pieces as a socket would give them; what is written is thrown away, and taken in pieces too.
pub(crate) struct Socket<'a> {
    pub(crate) incoming: &'a [u8],
    pub(crate) per_read: usize,
    pub(crate) per_write: usize,
}

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.incoming.len().min(self.per_read).min(buf.len());
        let (now, later) = self.incoming.split_at(len);
        buf[..len].copy_from_slice(now);
        self.incoming = later;
        if len == 0 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(len)
        }
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len().min(self.per_write))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(bufs.iter().map(|buf| buf.len()).sum::<usize>().min(self.per_write))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One round: everything in, everything out. Returns messages taken.
pub(crate) fn relay(conn: &mut StreamConn, socket: &mut Socket<'_>) -> usize {
    let mut messages = 0;
    while conn.receive(Instant::ZERO, socket).unwrap().bytes > 0 {
        while conn.next_message().unwrap().is_some() {
            messages += 1;
        }
    }
    for _ in 0..FRAMES {
        conn.queue(Instant::ZERO, QueueKind::Data, &HEADER, &DATA, 0).unwrap();
    }
    while conn.flush(Instant::ZERO, socket).unwrap() == Flushed::Blocked {}
    messages
}

/// A client and a server after their handshake.
pub(crate) fn tls_pair() -> (ClientConnection, Box<ServerConnection>) {
    let (client, server) = tls_configs(rustls::DEFAULT_VERSIONS);
    let mut client = ClientConnection::new(client, ServerName::try_from("relay.test").unwrap()).unwrap();
    let mut server = Box::new(ServerConnection::new(server).unwrap());
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (client, server)
}
