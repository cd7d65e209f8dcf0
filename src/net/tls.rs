//! One TLS connection after its handshake, as bytes in and bytes out (RFC 8446, RFC 5246).
//!
//! A thin layer over [`rustls::ServerConnection`] for a caller that owns the socket and the
//! buffers. rustls allocates once per record that it opens and once per record that it seals. All
//! other code reuses memory, and each record holds many frames, which share that cost.
//!
//! Deliberately absent: the handshake, certificates, and when to write.

use std::io::{self, BufRead, IoSlice, Write};

use rustls::ServerConnection;

/// Most plaintext in one record (RFC 8446 §5.1).
pub const MAX_PLAINTEXT: usize = 16 * 1024;

/// The record layer of one client.
pub struct TlsSession {
    connection: Box<ServerConnection>,
    /// Plaintext sealed, minus ciphertext written since all of it was.
    unwritten: usize,
}

/// The content of a piece of ciphertext.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of plaintext.
    pub plaintext: usize,
    /// The client has sent close_notify.
    pub closed: bool,
}

impl TlsSession {
    /// Takes over a connection whose handshake is complete. It may already hold plaintext: see
    /// [`Self::drain`].
    pub fn new(mut connection: Box<ServerConnection>) -> Self {
        // The caller bounds what is sealed: it seals only what it is about to write.
        connection.set_buffer_limit(None);
        Self {
            connection,
            unwritten: 0,
        }
    }

    /// Opens all records in `ciphertext`, and passes the plaintext on. Keeps an incomplete record.
    ///
    /// # Errors
    /// The client violated the protocol. The alert is among the bytes to [`Self::write`].
    pub fn open(&mut self, mut ciphertext: &[u8], mut plaintext: impl FnMut(&[u8])) -> Result<Opened, rustls::Error> {
        let mut opened = Opened::default();
        while !ciphertext.is_empty() {
            let taken = self
                .connection
                .read_tls(&mut ciphertext)
                .map_err(|error| rustls::Error::General(format!("TLS input refused: {error}")))?;
            let state = self.connection.process_new_packets()?;
            opened.plaintext += self.drain(&mut plaintext);
            if state.peer_has_closed() || taken == 0 {
                opened.closed = true;
                break;
            }
        }
        Ok(opened)
    }

    /// Passes on plaintext that is already decrypted, and returns its length.
    pub fn drain(&mut self, mut plaintext: impl FnMut(&[u8])) -> usize {
        let mut total = 0;
        let mut reader = self.connection.reader();
        // An error only means that there is no more: WouldBlock, or the end of the stream.
        while let Ok(chunk @ [_, ..]) = reader.fill_buf() {
            plaintext(chunk);
            let len = chunk.len();
            reader.consume(len);
            total += len;
        }
        total
    }

    /// Seals `plaintext` into as few records as it fits in: one, up to [`MAX_PLAINTEXT`].
    ///
    /// # Errors
    /// The connection has failed before, or has used up its keys (TLS 1.2).
    pub fn seal(&mut self, plaintext: &[IoSlice<'_>]) -> Result<(), rustls::Error> {
        let len = plaintext.iter().map(|slice| slice.len()).sum::<usize>();
        match self.connection.writer().write_vectored(plaintext) {
            Ok(written) if written == len => {
                self.unwritten += len;
                Ok(())
            }
            Ok(_) => Err(rustls::Error::EncryptError),
            Err(error) => Err(rustls::Error::General(format!("TLS output refused: {error}"))),
        }
    }

    /// Whether the client has sent close_notify.
    pub fn has_ended(&mut self) -> bool {
        self.connection
            .process_new_packets()
            .is_ok_and(|state| state.peer_has_closed())
    }

    /// Returns the connection with everything it holds.
    pub fn into_inner(self) -> Box<ServerConnection> {
        self.connection
    }

    /// Whether ciphertext waits to be written.
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Writes ciphertext; returns how many bytes `io` took.
    ///
    /// # Errors
    /// Those of `io`.
    pub fn write(&mut self, io: &mut dyn Write) -> io::Result<usize> {
        let written = self.connection.write_tls(io)?;
        self.unwritten = if self.wants_write() {
            self.unwritten.saturating_sub(written)
        } else {
            0
        };
        Ok(written)
    }

    /// About how many sealed bytes wait to be written.
    pub fn unwritten(&self) -> usize {
        self.unwritten
    }

    /// Adds close_notify to the ciphertext, once.
    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }
}

impl core::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TlsSession")
            .field("version", &self.connection.protocol_version())
            .finish_non_exhaustive()
    }
}
