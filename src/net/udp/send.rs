//! Sending datagrams: a batch leaves with few system calls. What the kernel refuses is counted,
//! never waited for.

use std::io;
use std::os::fd::AsFd;

use super::UdpSocket;
use super::datagram::{Datagram, Full};
use super::queue::{Cursor, GSO_SEGMENTS, NONE, PIECES_PER_DATAGRAM, Queue};
use crate::sys::message::{Composer, Envelope, SendCall};
use crate::sys::options;
use relay_proto::base::time::Instant;

/// Limits of one system call.
const CALL_MESSAGES: usize = 64;
const CALL_PIECES: usize = 512;

/// Why the kernel did not send a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The socket's send buffer is full (EAGAIN).
    WouldBlock,
    /// The device's queue is full (ENOBUFS, ENOMEM).
    NoBuffers,
    /// Longer than UDP or, with DF, the interface supports (EMSGSIZE).
    TooLong,
    /// ICMP errors kept arriving in between (ECONNREFUSED).
    Refused,
    /// Forbidden by a firewall, or a broadcast (EPERM, EACCES).
    Forbidden,
    /// No route, or the network is down.
    Unreachable,
    /// Destination or source address is unusable (EINVAL, EAFNOSUPPORT, EADDRNOTAVAIL).
    Invalid,
    /// Anything else.
    Other,
}

impl SendError {
    /// Every class, in the order of [`SendStats::failed`].
    pub const ALL: [Self; 8] = [
        Self::WouldBlock,
        Self::NoBuffers,
        Self::TooLong,
        Self::Refused,
        Self::Forbidden,
        Self::Unreachable,
        Self::Invalid,
        Self::Other,
    ];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WouldBlock => "would_block",
            Self::NoBuffers => "no_buffers",
            Self::TooLong => "too_long",
            Self::Refused => "refused",
            Self::Forbidden => "forbidden",
            Self::Unreachable => "unreachable",
            Self::Invalid => "invalid",
            Self::Other => "other",
        }
    }

    /// The class of an errno.
    pub const fn of(errno: i32) -> Self {
        match errno {
            libc::EAGAIN => Self::WouldBlock,
            libc::ENOBUFS | libc::ENOMEM => Self::NoBuffers,
            libc::EMSGSIZE => Self::TooLong,
            libc::ECONNREFUSED => Self::Refused,
            libc::EPERM | libc::EACCES => Self::Forbidden,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ENONET => {
                Self::Unreachable
            }
            libc::EINVAL | libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EDESTADDRREQ => Self::Invalid,
            _ => Self::Other,
        }
    }

    /// How often to try a datagram that fails with this errno. The error may belong to an earlier
    /// datagram: the kernel reports an ICMP error to the next call on the socket, and has then not
    /// processed the datagram of that call. More such errors, which any host can forge, may arrive
    /// before the next try.
    const fn tries(errno: i32) -> u32 {
        match errno {
            libc::ENOBUFS | libc::ENOMEM => 1,
            // Only ICMP causes these.
            libc::ECONNREFUSED
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EHOSTDOWN
            | libc::ENONET => 32,
            // The kernel itself may return these, every time.
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES | libc::EMSGSIZE => 4,
            _ => 2,
        }
    }
}

/// What happened to datagrams since the last [`SendBatch::take_stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendStats {
    /// `sendmmsg` calls.
    pub calls: u64,
    /// Messages that the kernel accepted; a GSO message counts once.
    pub messages: u64,
    /// Datagrams that the kernel accepted.
    pub datagrams: u64,
    /// Messages with several datagrams.
    pub gso_messages: u64,
    /// Datagrams within those.
    pub gso_datagrams: u64,
    /// GSO messages that the kernel refused. Their datagrams were sent one by one.
    pub gso_refused: u64,
    /// Datagrams not sent, by [`SendError`].
    pub failed: [u64; SendError::ALL.len()],
    /// Datagrams whose socket was closed.
    pub gone: u64,
}

/// The content of one `sendmmsg` entry.
#[derive(Clone, Copy)]
struct Unit {
    at: Cursor,
    datagrams: u16,
}

/// Datagrams waiting to be sent, with the arrays to send them. Bounded; never allocates after
/// warm-up.
pub struct SendBatch {
    queue: Queue,
    units: Vec<Unit>,
    call: SendCall,
    stats: SendStats,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self {
            queue: Queue::new(),
            units: Vec::with_capacity(CALL_MESSAGES),
            call: SendCall::new(
                CALL_MESSAGES,
                CALL_PIECES + usize::from(GSO_SEGMENTS) * PIECES_PER_DATAGRAM,
            ),
            stats: SendStats::default(),
        }
    }

    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Reserves space for sockets numbered below `count`, so that [`Self::push`] need not allocate.
    pub fn reserve_egress(&mut self, count: usize) {
        self.queue.reserve_egress(count);
    }

    /// Returns the counts and resets them.
    pub fn take_stats(&mut self) -> SendStats {
        std::mem::take(&mut self.stats)
    }

    /// Adds a datagram after all others of its socket.
    ///
    /// # Errors
    /// [`Full`]: flush first. A header that is too long for an empty batch never fits.
    pub fn push(&mut self, datagram: &Datagram<'_>) -> Result<(), Full> {
        self.queue.push(datagram)
    }

    /// Sends everything and empties the batch. `socket` maps an egress number to its socket.
    pub fn flush<'s>(&mut self, slab: &[u8], now: Instant, socket: impl Fn(u32) -> Option<&'s UdpSocket>) {
        let mut index = 0;
        while let Some(group) = self.queue.group(index) {
            index += 1;
            let mut next = self.queue.cursor(group.first);
            if let Some(socket) = socket(group.egress) {
                while let Some(at) = next {
                    next = self.send_some(socket, slab, now, at);
                }
            } else {
                self.stats.gone += self.count_from(next);
            }
        }
        self.queue.clear();
    }

    /// Sends as much of a group as one call accepts, and returns where to continue.
    fn send_some(&mut self, socket: &UdpSocket, slab: &[u8], now: Instant, from: Cursor) -> Option<Cursor> {
        let dont_fragment = self.queue.message(from.message).dont_fragment;
        let limit = socket.gso_limit(now);
        let ipv6 = socket.local_addr().is_ipv6();
        self.units.clear();
        let mut list = self.call.compose();
        let mut next = Some(from);
        while let Some(at) = next {
            let message = self.queue.message(at.message);
            if message.dont_fragment != dont_fragment || list.len() == CALL_MESSAGES || list.parts() >= CALL_PIECES {
                break;
            }
            let whole = at.piece == message.first_piece && message.datagrams > 1 && message.size <= limit;
            list.message(&Envelope {
                destination: Some(message.destination),
                source: message.source,
                tos: message.tos,
                segment: whole.then_some(message.size as u16),
                ipv6,
            });
            self.units.push(Unit {
                at,
                datagrams: if whole { message.datagrams } else { 1 },
            });
            let piece = compose_pieces(&self.queue, &mut list, slab, at.piece, whole);
            next = if piece == NONE {
                self.queue.cursor(message.next)
            } else {
                Some(Cursor {
                    message: at.message,
                    piece,
                })
            };
        }
        if dont_fragment {
            let _ = options::set_dont_fragment(socket.as_fd(), ipv6, true);
        }
        let mut list = list.seal();
        let send = |from| list.send(socket.as_fd(), from);
        let end = transmit(&self.units, &mut self.stats, send);
        if dont_fragment {
            let _ = options::set_dont_fragment(socket.as_fd(), ipv6, false);
        }
        match end {
            End::Sent => next,
            End::GsoRefused(at, errno) => {
                socket.refuse_gso(errno, self.queue.message(at.message).size, now);
                Some(at)
            }
            End::Blocked => {
                self.stats.failed[SendError::WouldBlock as usize] += self.count_from(next);
                None
            }
        }
    }

    /// Number of datagrams of a group from `next` on.
    fn count_from(&self, mut next: Option<Cursor>) -> u64 {
        let mut count = 0;
        while let Some(at) = next {
            count += self.queue.datagrams_from(at);
            next = self.queue.cursor(self.queue.message(at.message).next);
        }
        count
    }
}

/// Appends the pieces of one datagram, or of the whole message, and returns the next piece.
fn compose_pieces<'a>(queue: &'a Queue, list: &mut Composer<'_, 'a>, slab: &'a [u8], first: u32, whole: bool) -> u32 {
    let mut index = first;
    while index != NONE {
        let piece = queue.piece(index);
        list.part(queue.bytes(piece, slab));
        index = piece.next;
        if piece.last && !whole {
            break;
        }
    }
    index
}

/// How a list of units ended.
enum End {
    Sent,
    /// The kernel refused to segment this message; compose it anew from here. With the errno.
    GsoRefused(Cursor, i32),
    /// The send buffer is full. The caller counts what follows the list.
    Blocked,
}

/// Sends all units, each as often as its error permits.
fn transmit(units: &[Unit], stats: &mut SendStats, mut send: impl FnMut(usize) -> io::Result<usize>) -> End {
    let mut at = 0;
    let mut failures = 0;
    while let Some(unit) = units.get(at) {
        stats.calls += 1;
        let error = match send(at) {
            Ok(sent) => {
                // At least one, because otherwise this loop would not end.
                let end = (at + sent.max(1)).min(units.len());
                units[at..end].iter().for_each(|unit| stats.count(*unit));
                (at, failures) = (end, 0);
                continue;
            }
            Err(error) => error,
        };
        let errno = error.raw_os_error().unwrap_or(0);
        let class = SendError::of(errno);
        if class == SendError::WouldBlock {
            stats.failed[class as usize] += units[at..].iter().map(|unit| u64::from(unit.datagrams)).sum::<u64>();
            return End::Blocked;
        }
        failures += 1;
        if failures < SendError::tries(errno) {
            continue;
        }
        if unit.datagrams > 1 && matches!(errno, libc::EIO | libc::EINVAL | libc::EMSGSIZE) {
            stats.gso_refused += 1;
            return End::GsoRefused(unit.at, errno);
        } else {
            stats.failed[class as usize] += u64::from(unit.datagrams);
            (at, failures) = (at + 1, 0);
        }
    }
    End::Sent
}

impl SendStats {
    fn count(&mut self, unit: Unit) {
        self.messages += 1;
        self.datagrams += u64::from(unit.datagrams);
        if unit.datagrams > 1 {
            self.gso_messages += 1;
            self.gso_datagrams += u64::from(unit.datagrams);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(datagrams: u16) -> Unit {
        Unit {
            at: Cursor { message: 5, piece: 7 },
            datagrams,
        }
    }

    fn errno(e: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(e))
    }

    /// Replays `script` as the kernel's answers. Returns how it ended, the counts, and the start of
    /// each call.
    fn run(units: &[Unit], script: Vec<io::Result<usize>>) -> (End, SendStats, Vec<usize>) {
        let mut stats = SendStats::default();
        let mut calls = Vec::new();
        let mut script = script.into_iter();
        let end = transmit(units, &mut stats, |from| {
            calls.push(from);
            script.next().unwrap()
        });
        assert!(script.next().is_none(), "every answer was asked for");
        (end, stats, calls)
    }

    #[test]
    fn a_pending_error_is_taken_for_what_it_is_and_the_datagram_sent_again() {
        for e in [
            libc::ECONNREFUSED,
            libc::EHOSTUNREACH,
            libc::EMSGSIZE,
            libc::EPROTO,
            libc::EACCES,
        ] {
            let (end, stats, calls) = run(&[unit(1), unit(1)], vec![errno(e), Ok(2)]);
            assert!(matches!(end, End::Sent));
            assert_eq!((stats.datagrams, stats.failed, calls), (2, [0; 8], vec![0, 0]));
        }
    }

    #[test]
    fn an_error_that_stays_costs_its_own_datagram_only() {
        for (e, tries) in [
            (libc::EPERM, 2),
            (libc::ENETUNREACH, 4),
            (libc::EINVAL, 2),
            (libc::EMSGSIZE, 4),
            (libc::EBADF, 2),
            (libc::ECONNREFUSED, 32),
        ] {
            let failures = (0..tries).map(|_| errno(e));
            let script = core::iter::once(Ok(1)).chain(failures).chain([Ok(1)]).collect();
            let (end, stats, calls) = run(&[unit(1), unit(1), unit(1)], script);
            assert!(matches!(end, End::Sent));
            let mut expected = vec![1; tries + 2];
            (expected[0], expected[tries + 1]) = (0, 2);
            assert_eq!((stats.datagrams, calls), (2, expected));
            assert_eq!(stats.failed[SendError::of(e) as usize], 1);
        }
    }

    #[test]
    fn a_full_device_queue_is_not_asked_twice_and_a_full_send_buffer_ends_the_list() {
        let (end, stats, _) = run(&[unit(1), unit(1)], vec![errno(libc::ENOBUFS), Ok(1)]);
        assert!(matches!(end, End::Sent));
        assert_eq!((stats.datagrams, stats.failed[SendError::NoBuffers as usize]), (1, 1));
        let (end, stats, calls) = run(&[unit(1), unit(12), unit(3)], vec![Ok(1), errno(libc::EAGAIN)]);
        assert!(matches!(end, End::Blocked));
        assert_eq!((stats.failed[SendError::WouldBlock as usize], calls), (15, vec![0, 1]));
    }

    #[test]
    fn a_refused_gso_message_is_handed_back_and_a_lone_datagram_never_is() {
        for e in [libc::EIO, libc::EINVAL, libc::EMSGSIZE] {
            let tries = SendError::tries(e) as usize;
            let failures = || (0..tries).map(|_| errno(e));
            let script = core::iter::once(Ok(1)).chain(failures()).collect();
            let (end, stats, calls) = run(&[unit(1), unit(12)], script);
            assert!(matches!(end, End::GsoRefused(Cursor { message: 5, piece: 7 }, x) if x == e));
            assert_eq!((stats.datagrams, stats.gso_refused, stats.failed), (1, 1, [0; 8]));
            assert_eq!(calls.len(), 1 + tries);
            let (end, stats, _) = run(&[unit(1)], failures().collect());
            assert!(matches!(end, End::Sent));
            assert_eq!((stats.gso_refused, stats.failed.iter().sum::<u64>()), (0, 1));
        }
    }

    #[test]
    fn every_class_names_itself_and_the_order_is_that_of_the_counters() {
        for (i, class) in SendError::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, i);
        }
    }
    #[test]
    fn every_error_the_kernel_knows_has_its_class_and_its_name() {
        for (errno, class, name) in [
            (libc::EAGAIN, SendError::WouldBlock, "would_block"),
            (libc::ENOBUFS, SendError::NoBuffers, "no_buffers"),
            (libc::ENOMEM, SendError::NoBuffers, "no_buffers"),
            (libc::EMSGSIZE, SendError::TooLong, "too_long"),
            (libc::ECONNREFUSED, SendError::Refused, "refused"),
            (libc::EPERM, SendError::Forbidden, "forbidden"),
            (libc::EACCES, SendError::Forbidden, "forbidden"),
            (libc::ENETUNREACH, SendError::Unreachable, "unreachable"),
            (libc::EHOSTUNREACH, SendError::Unreachable, "unreachable"),
            (libc::EINVAL, SendError::Invalid, "invalid"),
            (libc::EAFNOSUPPORT, SendError::Invalid, "invalid"),
            (libc::EIO, SendError::Other, "other"),
        ] {
            assert_eq!((SendError::of(errno), class.as_str()), (class, name));
        }
    }

    #[test]
    fn an_answer_of_nothing_sent_does_not_go_on_for_ever() {
        let (end, stats, calls) = run(&[unit(1), unit(4)], vec![Ok(0), Ok(1)]);
        assert!(matches!(end, End::Sent));
        let counted = (stats.messages, stats.datagrams, stats.gso_messages, stats.gso_datagrams);
        assert_eq!((counted, stats.calls, calls), ((2, 5, 1, 4), 2, vec![0, 1]));
    }

    #[test]
    fn the_tries_of_one_datagram_are_not_those_of_the_next() {
        let script = vec![errno(libc::EPERM), Ok(1), errno(libc::EPERM), Ok(1)];
        let (end, stats, calls) = run(&[unit(1), unit(1)], script);
        assert!(matches!(end, End::Sent));
        assert_eq!((stats.datagrams, stats.failed, calls), (2, [0; 8], vec![0, 0, 1, 1]));
        let script = vec![errno(libc::EPERM), errno(libc::EPERM), errno(libc::EPERM), Ok(1)];
        let (_, stats, calls) = run(&[unit(1), unit(1)], script);
        assert_eq!((stats.datagrams, calls), (1, vec![0, 0, 1, 1]));
    }
}
