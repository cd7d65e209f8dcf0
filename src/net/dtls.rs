//! DTLS associations (RFC 6347, RFC 7350), as datagrams in and datagrams out: OpenSSL does the cryptography, the caller
//! owns sockets, clock and tables.
//!
//! ```text
//! datagram of a stranger -> Endpoint::listen -> HelloVerifyRequest, nothing kept
//!                                            -> Association: the cookie is good
//! datagram of an association -> handshake / next_message -> messages, one a record
//! message                    -> seal                     -> one record, one datagram
//! ```
//! What is to be sent is in the [`Wire`] that all associations of an endpoint share; it is to be emptied after each call.
//! Deliberately absent: DTLS 1.3 (OpenSSL 3.0 has none), client certificates, resumption.

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
/// What a record adds to its plaintext: its header, a nonce and a tag.
pub const RECORD_OVERHEAD: usize = record::HEADER + record::SEALED;

/// The datagrams of an endpoint: the one that is being looked at, and those to be sent.
#[derive(Debug, Default)]
pub struct Wire {
    inbound: Vec<u8>,
    unread: bool,
    outbound: Vec<u8>,
    /// Where each datagram of `outbound` ends.
    ends: Vec<usize>,
}

impl Wire {
    fn put(&mut self, datagram: &[u8]) {
        let datagram = record::whole(datagram);
        self.inbound.clear();
        self.inbound.extend_from_slice(datagram);
        // Nothing to be read would be the end of the stream.
        self.unread = !datagram.is_empty();
    }

    /// Passes on every datagram to be sent, and forgets them. Returns how many.
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

/// OpenSSL's view of the wire.
#[derive(Debug)]
struct Pipe(Rc<RefCell<Wire>>);

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        if !std::mem::take(&mut wire.unread) {
            return Err(ErrorKind::WouldBlock.into());
        }
        // What does not fit is cut off, as a datagram socket does.
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

/// Why an association cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsError {
    /// The client has sent close_notify.
    Closed,
    /// The handshake or a record failed, or the client has sent a fatal alert.
    Failed,
}

/// What became of a stranger's ClientHello.
#[derive(Debug)]
pub enum Listened {
    /// It brings a good cookie. Nothing of the handshake is done yet.
    Accepted(Association),
    /// It was asked to come again with a cookie; nothing is kept of it.
    Asked,
    /// The client has begun as many associations as a cookie is good for.
    Spent,
    /// It is no ClientHello OpenSSL can make sense of.
    Refused,
}

/// Where new associations come from; one for each thread.
pub struct Endpoint {
    contexts: SharedContext,
    /// The context `waiting` was made from.
    context: Arc<DtlsContext>,
    /// Will be the next association.
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
    /// Listens with the present one of `contexts`. `seed`, for the cookies, is from the system's generator; a cookie is good
    /// for `per_cookie` associations.
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

    /// For tests: flights of the handshake are sent again after 100 ms instead of a second.
    #[must_use]
    pub const fn with_quick_retransmission(mut self) -> Self {
        self.quick = true;
        self
    }

    /// Looks at the first record of a stranger's datagram, a ClientHello. Keeps nothing unless it brings a good cookie.
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
        // It fails for want of memory only.
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

    /// Passes on every datagram that is to be sent to whom the last call was about. Returns how many.
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
    /// Goes on with the handshake, with a datagram from the client if there is one. `true`: it is complete, and the
    /// datagram may hold messages already.
    ///
    /// # Errors
    /// It failed; the alert that tells the client is to be sent.
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

    /// Takes a datagram, whose messages come by [`Self::next_message`].
    pub fn receive(&mut self, datagram: &[u8]) {
        self.wire.borrow_mut().put(datagram);
    }

    /// The next message, as long as there is one: its length in `message`, which is [`MAX_PLAINTEXT`] long. What does not
    /// prove to come from the client is dropped without a word (RFC 6347 §4.1.2.7).
    ///
    /// # Errors
    /// The association is over.
    pub fn next_message(&mut self, message: &mut [u8]) -> Result<Option<usize>, DtlsError> {
        match self.stream.ssl_read(message) {
            Ok(len) => Ok(Some(len)),
            Err(error) if wants_more(error.code()) => Ok(None),
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => Err(DtlsError::Closed),
            Err(_) => Err(DtlsError::Failed),
        }
    }

    /// Makes one record of `message`.
    ///
    /// # Errors
    /// The association is over.
    pub fn seal(&mut self, message: &[u8]) -> Result<(), DtlsError> {
        match self.stream.ssl_write(message) {
            Ok(_) => Ok(()),
            Err(_) => Err(DtlsError::Failed),
        }
    }

    /// How long until [`Self::handle_timeout`] is due; `None`: the handshake waits for nothing.
    pub fn timeout(&self) -> Option<Duration> {
        sys::timeout(self.stream.ssl())
    }

    /// Sends the last flight of the handshake again, if it is time.
    ///
    /// # Errors
    /// It was sent too often.
    pub fn handle_timeout(&mut self) -> Result<(), DtlsError> {
        let goes_on = sys::handle_timeout(self.stream.ssl());
        forget_errors();
        if goes_on { Ok(()) } else { Err(DtlsError::Failed) }
    }

    /// Says close_notify, once.
    pub fn close(&mut self) {
        if !self.stream.get_shutdown().contains(ShutdownState::SENT) {
            // In the middle of a handshake there is nothing to close, and OpenSSL says so.
            let _ = self.stream.shutdown();
        }
    }
}

fn wants_more(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::WANT_READ | ErrorCode::WANT_WRITE)
}

/// What OpenSSL has queued for this thread would be taken for the next call's.
fn forget_errors() {
    let _ = ErrorStack::get();
}
