//! DTLS associations (RFC 6347, RFC 7350), as datagrams in and datagrams out. OpenSSL does the
//! cryptography; the caller owns sockets, clock and tables.
//!
//! ```text
//! datagram without association -> Endpoint::listen -> HelloVerifyRequest, no state kept
//!                                                  -> Association, if the cookie is valid
//! datagram of an association   -> handshake / next_message -> messages, one per record
//! message                      -> seal                     -> one record, one datagram
//! ```
//! Outgoing datagrams are in the [`Wire`] that all associations of an endpoint share. The caller
//! drains it after each call.
//!
//! Deliberately absent: DTLS 1.3 (OpenSSL 3.0 does not have it), client certificates, resumption.

mod context;
mod cookie;
mod ffi;
mod record;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, ShutdownState, SslStream};

use self::context::Facts;
pub use self::context::{DtlsContext, Identity, SharedContext};
use self::cookie::{CookieSecret, Uses};
use self::ffi as sys;
pub use self::record::{ClientHello, Random, client_hello};
use relay_proto::base::address::FiveTuple;
use relay_proto::base::time::Instant;

/// Longest plaintext of a record (RFC 6347 §4.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// What a record adds to its plaintext: header, nonce and tag.
pub const RECORD_OVERHEAD: usize = record::HEADER + record::SEALED;

/// The datagrams of an endpoint: the one being processed, and those to be sent.
#[derive(Debug, Default)]
pub struct Wire {
    inbound: Vec<u8>,
    unread: bool,
    outbound: Vec<u8>,
    /// The end of each datagram in `outbound`.
    ends: Vec<usize>,
}

impl Wire {
    fn put(&mut self, datagram: &[u8]) {
        let datagram = record::whole(datagram);
        self.inbound.clear();
        self.inbound.extend_from_slice(datagram);
        // An empty datagram would read as the end of the stream.
        self.unread = !datagram.is_empty();
    }

    /// Passes every outgoing datagram to `send` and removes it. Returns their number.
    fn drain(&mut self, mut send: impl FnMut(&[u8])) -> usize {
        let mut start = 0;
        for &end in &self.ends {
            send(&self.outbound[start..end]);
            start = end;
        }
        let count = self.ends.len();
        self.outbound.clear();
        self.ends.clear();
        count
    }
}

/// The [`Wire`] as a stream for OpenSSL.
#[derive(Debug)]
struct Pipe(Rc<RefCell<Wire>>);

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        if !std::mem::take(&mut wire.unread) {
            return Err(ErrorKind::WouldBlock.into());
        }
        // Truncates what does not fit, as a datagram socket does.
        let len = wire.inbound.len().min(buf.len());
        buf[..len].copy_from_slice(&wire.inbound[..len]);
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        wire.outbound.extend_from_slice(buf);
        let end = wire.outbound.len();
        wire.ends.push(end);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why an association has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsError {
    /// The client sent close_notify.
    Closed,
    /// The handshake or a record failed, or the client sent a fatal alert.
    Failed,
}

/// The result of a ClientHello without an association.
#[derive(Debug)]
pub enum Listened {
    /// Its cookie is valid. The handshake has not begun yet.
    Accepted(Association),
    /// It had no valid cookie and was answered with one. No state is kept.
    Asked,
    /// The client has begun as many associations as one cookie allows.
    Spent,
    /// OpenSSL cannot parse it as a ClientHello.
    Refused,
}

/// Creates associations; one per thread.
pub struct Endpoint {
    contexts: SharedContext,
    /// The context that `waiting` was created with.
    context: Arc<DtlsContext>,
    /// The next association.
    waiting: Option<SslStream<Pipe>>,
    secret: CookieSecret,
    uses: Uses,
    scratch: sys::Scratch,
    wire: Rc<RefCell<Wire>>,
    quick: bool,
}

impl core::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Endpoint")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Listens with the current one of `contexts`. `seed` comes from the system's generator and is
    /// for the cookies. A cookie allows `per_cookie` associations.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(contexts: SharedContext, seed: &[u8; 32], per_cookie: u32) -> io::Result<Self> {
        Ok(Self {
            context: contexts.load_full(),
            contexts,
            waiting: None,
            secret: CookieSecret::new(seed),
            uses: Uses::new(per_cookie),
            scratch: sys::Scratch::new().ok_or(ErrorKind::OutOfMemory)?,
            wire: Rc::default(),
            quick: false,
        })
    }

    /// For tests: retransmits flights of the handshake after 100 ms instead of a second.
    #[must_use]
    pub const fn with_quick_retransmission(mut self) -> Self {
        self.quick = true;
        self
    }

    /// Processes the first record of a datagram without an association, a ClientHello. Keeps no
    /// state unless its cookie is valid.
    pub fn listen(&mut self, now: Instant, client: &FiveTuple, hello: &[u8]) -> Listened {
        // Another cookie would be the same one.
        if self.uses.are_spent(now, client) {
            return Listened::Spent;
        }
        let present = self.contexts.load();
        if !Arc::ptr_eq(&present, &self.context) {
            self.context = Arc::clone(&present);
            self.waiting = None;
        }
        // Fails only when out of memory.
        let Ok(stream) = self.waiting.take().map_or_else(|| self.open(), Ok) else {
            return Listened::Refused;
        };
        Facts::expect(stream.ssl(), self.secret.cookies(now, client));
        self.wire.borrow_mut().put(hello);
        let accepted = sys::listen(stream.ssl(), &self.scratch);
        forget_errors();
        if accepted {
            self.uses.note(client);
            return Listened::Accepted(Association {
                stream,
                wire: Rc::clone(&self.wire),
            });
        }
        self.waiting = Some(stream);
        if self.wire.borrow().ends.is_empty() {
            Listened::Refused
        } else {
            Listened::Asked
        }
    }

    fn open(&self) -> Result<SslStream<Pipe>, ErrorStack> {
        let ssl = self.context.open()?;
        if self.quick {
            sys::set_timer(&ssl, sys::soon);
        }
        SslStream::new(ssl, Pipe(Rc::clone(&self.wire)))
    }

    /// Passes every outgoing datagram of the last call to `send`. They go to the client of that
    /// call. Returns their number.
    pub fn drain(&self, send: impl FnMut(&[u8])) -> usize {
        self.wire.borrow_mut().drain(send)
    }
}

/// One client's association.
pub struct Association {
    stream: SslStream<Pipe>,
    wire: Rc<RefCell<Wire>>,
}

impl core::fmt::Debug for Association {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Association")
            .field("state", &self.stream.ssl().state_string_long())
            .finish_non_exhaustive()
    }
}

impl Association {
    /// Continues the handshake, with a datagram from the client if there is one. `true`: the
    /// handshake is complete, and the datagram may already contain messages.
    ///
    /// # Errors
    /// The handshake failed. The alert for the client is among the outgoing datagrams.
    pub fn handshake(&mut self, datagram: Option<&[u8]>) -> Result<bool, DtlsError> {
        match datagram {
            Some(datagram) => self.wire.borrow_mut().put(datagram),
            None => self.wire.borrow_mut().unread = false,
        }
        match self.stream.accept() {
            Ok(()) => Ok(true),
            Err(error) if wants_more(error.code()) => Ok(false),
            Err(_) => Err(DtlsError::Failed),
        }
    }

    /// Accepts a datagram. [`Self::next_message`] returns its messages.
    pub fn receive(&mut self, datagram: &[u8]) {
        self.wire.borrow_mut().put(datagram);
    }

    /// Decrypts the next message into `message`, which is [`MAX_PLAINTEXT`] long, and returns its
    /// length. Silently drops records that fail authentication (RFC 6347 §4.1.2.7).
    ///
    /// # Errors
    /// The association has ended.
    pub fn next_message(&mut self, message: &mut [u8]) -> Result<Option<usize>, DtlsError> {
        match self.stream.ssl_read(message) {
            Ok(len) => Ok(Some(len)),
            Err(error) if wants_more(error.code()) => Ok(None),
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => Err(DtlsError::Closed),
            Err(_) => Err(DtlsError::Failed),
        }
    }

    /// Seals `message` in one record.
    ///
    /// # Errors
    /// The association has ended.
    pub fn seal(&mut self, message: &[u8]) -> Result<(), DtlsError> {
        match self.stream.ssl_write(message) {
            Ok(_) => Ok(()),
            Err(_) => Err(DtlsError::Failed),
        }
    }

    /// Time until [`Self::handle_timeout`] is due; `None` if the handshake has no timer.
    pub fn timeout(&self) -> Option<Duration> {
        sys::timeout(self.stream.ssl())
    }

    /// Retransmits the last flight of the handshake if it is due.
    ///
    /// # Errors
    /// Too many retransmissions.
    pub fn handle_timeout(&mut self) -> Result<(), DtlsError> {
        let goes_on = sys::handle_timeout(self.stream.ssl());
        forget_errors();
        if goes_on { Ok(()) } else { Err(DtlsError::Failed) }
    }

    /// Sends close_notify, once.
    pub fn close(&mut self) {
        if !self.stream.get_shutdown().contains(ShutdownState::SENT) {
            // During a handshake there is nothing to close, and OpenSSL returns an error.
            let _ = self.stream.shutdown();
        }
    }
}

fn wants_more(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::WANT_READ | ErrorCode::WANT_WRITE)
}

/// Clears OpenSSL's error queue of this thread. A later call would take stale errors for its own.
fn forget_errors() {
    let _ = ErrorStack::get();
}
