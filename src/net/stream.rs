//! A client's TCP or TLS connection, sans-IO: bytes in and STUN or ChannelData messages out, and a
//! queue of whole frames in the other direction (RFC 8656 §2.1, §12.5; RFC 8489 §6.2.2).
//!
//! Media over a stream suffers from queueing: with a slow reader, every queued byte delays
//! everything after it. So the queue holds whole datagrams. It drops application data by age,
//! oldest first, but never a response and never part of a message. While the client does not keep
//! up, it commits bytes to the socket in small portions.
//!
//! Deliberately absent: sockets, clocks, the meaning of messages, and the idle timeout of a stream
//! without an allocation, which needs knowledge of allocations.

pub(super) mod buffers;
mod inbox;
mod outbox;
mod path;
#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;
use std::io::{self, Read, Write};

use self::inbox::Inbox;
pub use self::outbox::Dropped;
use self::outbox::Outbox;
use self::path::NetworkPath;
pub use self::path::PathState;
use super::tls::TlsSession;
use relay_proto::base::time::Instant;
use relay_proto::wire::framing::{self, Framing, FramingError};

/// How many unsent bytes the socket of a stream holds before it reports itself full
/// (TCP_NOTSENT_LOWAT). Bytes in there can no longer be dropped. Half of it is two or three frames
/// of video, about 16 ms at 2 Mbit/s.
pub const KERNEL_UNSENT: u32 = 8 * 1024;

/// Most bytes read from the socket at once.
const READ: usize = 64 * 1024;
/// Most bytes committed to the socket at once: what fits one TLS record.
const CHUNK: usize = super::tls::MAX_PLAINTEXT;
/// The smallest portion while the client does not keep up, because committed bytes can no longer be
/// dropped.
const SMALLEST_CHUNK: usize = 4 * 1024;
/// If the socket drains a portion faster than this, the next one is larger.
const QUICK: Duration = Duration::from_millis(5);
/// If it takes longer than this, the next one is smaller.
const SLOW: Duration = Duration::from_millis(20);

/// Bounds of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Longest message before authentication, in bytes.
    pub unauthenticated_frame: usize,
    /// Total bytes of messages before authentication.
    pub unauthenticated_bytes: usize,
    /// Longest message after authentication, in bytes.
    pub frame: usize,
    /// Time from the first byte of a message to its last.
    pub frame_timeout: Duration,
    /// While data is waiting, the socket must accept some of it within this time.
    pub write_timeout: Duration,
    /// Most bytes of application data queued.
    pub queue_bytes: usize,
    /// Application data is dropped if, by the best estimate, it would be older than this when the
    /// client reads it.
    pub queue_age: Duration,
    /// Most bytes of queued responses. Above it the client sends requests without reading.
    pub control_bytes: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            unauthenticated_frame: 2 * 1024,
            unauthenticated_bytes: 8 * 1024,
            frame: framing::MAX_FRAME,
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            queue_bytes: 256 * 1024,
            queue_age: Duration::from_millis(150),
            control_bytes: 64 * 1024,
        }
    }
}

/// Whether a frame may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// A STUN response: never dropped.
    Control,
    /// Application data: worthless when late.
    Data,
}

/// The queue of responses is full: the stream must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The result of [`StreamConn::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes read from the socket.
    pub bytes: usize,
    /// The read reached its size limit; there may be more.
    pub more: bool,
    /// The client will send no more (FIN or close_notify). Earlier messages can still be taken and
    /// answered.
    pub closed: bool,
}

/// The result of [`StreamConn::flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flushed {
    /// Everything has been written.
    Done,
    /// Data is left: flush again when the socket is writable, not before.
    Blocked,
    /// Data is left and the socket would accept it, but the queues beyond the socket are already
    /// long: flush again at this time, not before.
    Held(Instant),
}

/// Why a stream must be closed. Every reason is final.
#[derive(Debug)]
pub enum StreamError {
    /// Neither STUN nor ChannelData: the stream cannot be resynchronised.
    Framing(FramingError),
    /// A message longer than allowed.
    FrameTooLong,
    /// More bytes than authentication needs.
    UnauthenticatedBytes,
    /// A message was not complete in time.
    FrameTimeout,
    /// The client accepts no bytes.
    WriteTimeout,
    /// The client violated TLS.
    Tls(rustls::Error),
    /// The socket failed.
    Io(io::Error),
}

impl StreamError {
    /// All values of [`Self::reason`].
    pub const REASONS: [&'static str; 7] = [
        "framing",
        "frame_too_long",
        "unauthenticated_bytes",
        "frame_timeout",
        "write_timeout",
        "tls",
        "io",
    ];

    /// The metric label and log value.
    pub const fn reason(&self) -> &'static str {
        Self::REASONS[match self {
            Self::Framing(_) => 0,
            Self::FrameTooLong => 1,
            Self::UnauthenticatedBytes => 2,
            Self::FrameTimeout => 3,
            Self::WriteTimeout => 4,
            Self::Tls(_) => 5,
            Self::Io(_) => 6,
        }]
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framing(error) => write!(f, "not a TURN stream: {error:?}"),
            Self::FrameTooLong => f.write_str("message longer than allowed"),
            Self::UnauthenticatedBytes => f.write_str("too many bytes without authentication"),
            Self::FrameTimeout => f.write_str("message not completed in time"),
            Self::WriteTimeout => f.write_str("client takes no bytes"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Io(error) => write!(f, "socket: {error}"),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<FramingError> for StreamError {
    fn from(error: FramingError) -> Self {
        Self::Framing(error)
    }
}

/// The parts of a [`StreamConn`].
#[derive(Debug)]
pub struct StreamParts {
    /// The record layer, including records that are sealed but not written.
    pub tls: Option<TlsSession>,
    /// Plaintext received but not yet taken as messages.
    pub received: Vec<u8>,
    /// Plaintext queued but not yet sealed or written.
    pub unsent: Vec<u8>,
}

/// One client's stream.
#[derive(Debug)]
pub struct StreamConn {
    limits: StreamLimits,
    tls: Option<TlsSession>,
    inbox: Inbox,
    outbox: Outbox,
    authenticated: bool,
    unauthenticated_bytes: usize,
    /// When bytes last arrived, which may be the first bytes of an incomplete message.
    received_at: Instant,
    /// When the current incomplete message began.
    partial_since: Option<Instant>,
    /// Consecutive reads with TLS bytes but no plaintext.
    barren_reads: u32,
    /// When the socket last accepted bytes, or first refused them, while data was waiting.
    blocked_since: Option<Instant>,
    /// Portion size while there is a backlog.
    portion: usize,
    /// The path beyond the socket.
    path: NetworkPath,
    /// close_notify must be sent.
    closing: bool,
}

impl StreamConn {
    /// Takes over a connection. `tls` has completed its handshake, and `early` is plaintext already
    /// read from it. Messages may be complete already, so call [`Self::next_message`] before
    /// waiting for the socket.
    pub fn new(now: Instant, limits: StreamLimits, tls: Option<Box<rustls::ServerConnection>>, early: Vec<u8>) -> Self {
        let mut inbox = Inbox::new(early);
        let tls = tls.map(|connection| {
            let mut session = TlsSession::new(connection);
            session.drain(|plaintext| inbox.extend(plaintext));
            session
        });
        Self {
            limits,
            tls,
            inbox,
            outbox: Outbox::default(),
            authenticated: false,
            unauthenticated_bytes: 0,
            received_at: now,
            partial_since: None,
            barren_reads: 0,
            blocked_since: None,
            portion: SMALLEST_CHUNK,
            path: NetworkPath::default(),
            closing: false,
        }
    }

    /// Takes the connection apart, for another use or another thread.
    pub fn into_parts(self) -> StreamParts {
        StreamParts {
            received: self.inbox.bytes().to_vec(),
            unsent: self.outbox.unsent(),
            tls: self.tls,
        }
    }

    /// The client has authenticated: the limits for unauthenticated clients no longer apply.
    pub fn set_authenticated(&mut self) {
        self.authenticated = true;
    }

    /// Reads once, at most 64 KiB. Then call [`Self::next_message`] until `None`.
    ///
    /// # Errors
    /// The socket failed, or the client violated TLS. In the latter case [`Self::flush`] may still
    /// send an alert.
    pub fn receive(&mut self, now: Instant, io: &mut impl Read) -> Result<Received, StreamError> {
        self.received_at = now;
        let Some(tls) = &mut self.tls else {
            let room = self.inbox.room(READ);
            let received = read_once(io, &mut room[..READ]);
            self.inbox
                .filled(received.as_ref().map_or(0, |received| received.bytes));
            if self.inbox.bytes().is_empty() {
                self.inbox.settle();
            }
            return received;
        };
        let mut ciphertext = buffers::take_read_buffer();
        let received = read_once(io, &mut ciphertext[..READ]);
        let opened = match &received {
            Ok(received) => tls.open(&ciphertext[..received.bytes], |plaintext| self.inbox.extend(plaintext)),
            Err(_) => Ok(super::tls::Opened::default()),
        };
        buffers::give_read_buffer(ciphertext);
        let mut received = received?;
        let opened = opened.map_err(StreamError::Tls)?;
        received.closed |= opened.closed;
        received.more &= !received.closed;
        self.watch_records(now, received.bytes, opened.plaintext);
        Ok(received)
    }

    /// A record that arrives byte by byte causes reads without plaintext. A single such read may be
    /// a complete key update or similar, so the timeout starts with the second.
    fn watch_records(&mut self, now: Instant, ciphertext: usize, plaintext: usize) {
        if plaintext > 0 {
            self.barren_reads = 0;
        } else if ciphertext > 0 {
            self.barren_reads = self.barren_reads.saturating_add(1);
            if self.barren_reads == 2 && self.partial_since.is_none() {
                self.partial_since = Some(now);
            }
        }
    }

    /// The next whole message, STUN or ChannelData, including padding. Call until `None`.
    ///
    /// # Errors
    /// The stream is not TURN, or exceeds a limit.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, StreamError> {
        let limit = if self.authenticated {
            self.limits.frame
        } else {
            self.limits.unauthenticated_frame
        };
        match framing::next_frame(self.inbox.bytes())? {
            Framing::Need(len) | Framing::Message(len) if len > limit => return Err(StreamError::FrameTooLong),
            Framing::Message(len) => {
                self.count_message(len)?;
                return Ok(Some(self.inbox.take(len)));
            }
            Framing::Need(_) => {}
        }
        self.inbox.settle();
        if self.inbox.bytes().is_empty() {
            if self.barren_reads < 2 {
                self.partial_since = None;
            }
        } else if self.partial_since.is_none() {
            self.partial_since = Some(self.received_at);
        }
        Ok(None)
    }

    fn count_message(&mut self, len: usize) -> Result<(), StreamError> {
        self.partial_since = None;
        if !self.authenticated {
            self.unauthenticated_bytes += len;
            if self.unauthenticated_bytes > self.limits.unauthenticated_bytes {
                return Err(StreamError::UnauthenticatedBytes);
            }
        }
        Ok(())
    }

    /// Queues one frame: a copy of `header` and `data`, and `padding` (at most 3) zero bytes. If
    /// there is no room, drops the oldest application data.
    ///
    /// # Errors
    /// [`Full`] if unread responses exceed their limit.
    pub fn queue(
        &mut self,
        now: Instant,
        kind: QueueKind,
        header: &[u8],
        data: &[u8],
        padding: usize,
    ) -> Result<(), Full> {
        debug_assert!(padding <= 3);
        match kind {
            QueueKind::Control => {
                let queued = self
                    .outbox
                    .push_control(now, [header, data], padding, self.limits.control_bytes);
                if queued { Ok(()) } else { Err(Full) }
            }
            QueueKind::Data => {
                self.outbox
                    .push_data(now, [header, data], padding, self.limits.queue_bytes);
                Ok(())
            }
        }
    }

    /// Whether [`Self::observe`] is worth its cost before the next [`Self::flush`].
    pub fn wants_observation(&self, now: Instant) -> bool {
        self.blocked_since.is_some() || self.path.is_due(now)
    }

    /// Passes in the socket's measurements of the path to the client.
    pub fn observe(&mut self, now: Instant, state: PathState) {
        self.path.observe(now, state);
    }

    /// Writes the queue, many frames at a time, without what is too old.
    ///
    /// After [`Flushed::Blocked`] the next call writes only one portion. So TCP_NOTSENT_LOWAT
    /// determines how much waits in the kernel, where nothing can be dropped.
    ///
    /// # Errors
    /// The socket failed, or the connection's keys are used up.
    pub fn flush(&mut self, now: Instant, io: &mut impl Write) -> Result<Flushed, StreamError> {
        self.outbox.expire(now, self.age_limit());
        if !self.outbox.is_empty()
            && let Some(wait) = self.path.wait(now, self.limits.queue_age / 2)
        {
            self.blocked_since.get_or_insert(now);
            return Ok(Flushed::Held(now + wait));
        }
        if self.write_all(now, io)? {
            self.blocked_since = None;
            self.outbox.release();
            return Ok(Flushed::Done);
        }
        if self.blocked_since.is_none() {
            self.blocked_since = Some(now);
            self.path.measure_anew();
        }
        Ok(Flushed::Blocked)
    }

    /// The greatest age of application data at the time of writing such that the client reads it
    /// before [`StreamLimits::queue_age`]. Subtracts the time on the path and a margin for what
    /// cannot be measured. Never zero: on a slow path the newest data is still better than none.
    fn age_limit(&self) -> Duration {
        let age = self.limits.queue_age;
        if self.blocked_since.is_none() {
            return age;
        }
        let sealed = self.tls.as_ref().map_or(0, TlsSession::unwritten);
        let way = self.path.time(self.portion + sealed, age / 2);
        way.map_or(age, |way| age - age / 4 - way)
    }

    /// Writes until nothing is left (`true`), the socket is full, or, with a backlog, one portion
    /// is written.
    fn write_all(&mut self, now: Instant, io: &mut impl Write) -> Result<bool, StreamError> {
        let (chunk, mut portions) = match self.blocked_since {
            None => (CHUNK, u32::MAX),
            Some(since) => (self.next_portion(now - since), 1),
        };
        loop {
            if !self.write_records(now, io)? {
                return Ok(false);
            }
            if self.outbox.is_empty() {
                match &mut self.tls {
                    Some(tls) if core::mem::take(&mut self.closing) => tls.close(),
                    _ => return Ok(true),
                }
                continue;
            }
            if portions == 0 {
                return Ok(false);
            }
            portions -= 1;
            let next = self.outbox.next_chunk(chunk);
            let len = next.len();
            let (slices, used) = next.io_slices();
            let slices = &slices[..used];
            let written = match &mut self.tls {
                Some(tls) => tls.seal(slices).map(|()| len).map_err(StreamError::Tls)?,
                None => write_once(|| io.write_vectored(slices))?,
            };
            self.outbox.advance(written);
            if self.tls.is_none() {
                self.progress(now, written);
            }
            if written < len {
                return Ok(false);
            }
        }
    }

    /// The size of the next portion, `pause` after the last one: about what the client accepts in a
    /// few milliseconds.
    fn next_portion(&mut self, pause: Duration) -> usize {
        if pause < QUICK {
            self.portion = (self.portion * 2).min(CHUNK);
        } else if pause > SLOW {
            self.portion = (self.portion / 2).max(SMALLEST_CHUNK);
        }
        self.portion
    }

    /// Writes sealed records; `false` if some are left.
    fn write_records(&mut self, now: Instant, io: &mut impl Write) -> Result<bool, StreamError> {
        while let Some(tls) = &mut self.tls {
            if !tls.wants_write() {
                break;
            }
            let written = write_once(|| tls.write(io))?;
            if written == 0 {
                return Ok(false);
            }
            self.progress(now, written);
        }
        Ok(true)
    }

    fn progress(&mut self, now: Instant, written: usize) {
        if written > 0 && self.blocked_since.is_some() {
            self.blocked_since = Some(now);
        }
    }

    /// Starts an orderly close: over TLS, close_notify follows the queue. Then call [`Self::flush`]
    /// until it is done.
    pub fn close(&mut self) {
        self.closing = self.tls.is_some();
    }

    /// Whether there is anything to [`Self::flush`].
    pub fn wants_write(&self) -> bool {
        self.closing || !self.outbox.is_empty() || self.tls.as_ref().is_some_and(TlsSession::wants_write)
    }

    /// When [`Self::handle_timeout`] is due if nothing else happens.
    pub fn poll_deadline(&self) -> Option<Instant> {
        let frame = self.partial_since.map(|since| since + self.limits.frame_timeout);
        let write = self.blocked_since.map(|since| since + self.limits.write_timeout);
        frame.into_iter().chain(write).min()
    }

    /// Checks the deadlines.
    ///
    /// # Errors
    /// [`StreamError::FrameTimeout`] or [`StreamError::WriteTimeout`]: close the stream.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), StreamError> {
        if self
            .partial_since
            .is_some_and(|since| now >= since + self.limits.frame_timeout)
        {
            return Err(StreamError::FrameTimeout);
        }
        if self
            .blocked_since
            .is_some_and(|since| now >= since + self.limits.write_timeout)
        {
            return Err(StreamError::WriteTimeout);
        }
        Ok(())
    }

    /// Application data dropped since the last call.
    pub fn take_dropped(&mut self) -> Dropped {
        self.outbox.take_dropped()
    }

    /// Bytes queued, and the waiting time of the oldest queued application data.
    pub fn backlog(&self, now: Instant) -> (usize, Duration) {
        (
            self.outbox.bytes(),
            self.outbox
                .oldest_data()
                .map_or(Duration::ZERO, |queued_at| now - queued_at),
        )
    }

    /// Heap memory of the stream itself, in bytes, without that of rustls.
    pub fn memory(&self) -> usize {
        self.inbox.memory() + self.outbox.memory()
    }
}

/// Reads once. `WouldBlock` is not an error.
fn read_once(io: &mut impl Read, buffer: &mut [u8]) -> Result<Received, StreamError> {
    loop {
        return match io.read(buffer) {
            Ok(bytes) => Ok(Received {
                bytes,
                more: bytes == buffer.len(),
                closed: bytes == 0,
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received {
                bytes: 0,
                more: false,
                closed: false,
            }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(StreamError::Io(error)),
        };
    }
}

/// Writes once; 0 if the socket is full.
fn write_once(mut write: impl FnMut() -> io::Result<usize>) -> Result<usize, StreamError> {
    loop {
        return match write() {
            Ok(0) => Err(StreamError::Io(io::ErrorKind::WriteZero.into())),
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(StreamError::Io(error)),
        };
    }
}
