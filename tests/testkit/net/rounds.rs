//! One stream of a client without a network: rounds of ChannelData in and out, plain or through
//! TLS.

use std::io::{self, IoSlice, Read, Write};

use relay_net::stream::{Flushed, QueueKind, StreamConn};
use relay_proto::base::time::Instant;

/// Application data of one frame.
pub const DATA: [u8; 1200] = [7; 1200];
pub const HEADER: [u8; 4] = [0x40, 0x00, 0x04, 0xB0];
/// Frames of one round.
pub const FRAMES: usize = 50;

/// Bytes to be read, in pieces like those of a socket. What is written is accepted in pieces too,
/// and discarded.
pub struct Socket<'a> {
    pub incoming: &'a [u8],
    pub per_read: usize,
    pub per_write: usize,
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

/// One round: reads everything and writes everything. Returns the number of messages.
pub fn relay(conn: &mut StreamConn, socket: &mut Socket<'_>) -> usize {
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
