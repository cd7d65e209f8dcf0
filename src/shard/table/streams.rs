//! The TCP and TLS clients of one shard: their streams, which of them to flush, and what epoll
//! reports of them.

use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::base::address::FiveTuple;
use crate::base::time::Instant;
use crate::net::epoll::{Epoll, Interest};
use crate::net::path_state;
use crate::net::stream::{Flushed, StreamConn, StreamError, StreamLimits, StreamParts};
use crate::shard::stream_intake::{Displace, NewStream, StreamGuard};
use crate::shard::table::slots::Slots;
use crate::shard::token::Token;
use crate::turn::types::Client;

/// One client's stream.
pub(in crate::shard) struct Stream {
    /// Its messages and queue.
    pub(in crate::shard) conn: StreamConn,
    /// Its client, as the core names it.
    pub(in crate::shard) client: Client,
    /// The limits for clients without a login are lifted.
    pub(in crate::shard) authenticated: bool,
    /// Consecutive answers without a login.
    unauthenticated_answers: u32,
    /// Since when it has had no allocation.
    pub(in crate::shard) idle_since: Instant,
    /// The reason why it closes: it is not read any more, and closes once its queue is written.
    pub(in crate::shard) closing: Option<&'static str>,
    /// The last flush left something.
    pub(in crate::shard) blocked: bool,
    /// It is flushed again at this time, whether or not the socket is writable.
    pub(in crate::shard) held_until: Option<Instant>,
    socket: TcpStream,
    interest: Interest,
    dirty: bool,
    guard: Box<dyn StreamGuard>,
}

impl Stream {
    /// Reads once.
    pub(in crate::shard) fn receive(&mut self, now: Instant) -> Result<crate::net::stream::Received, StreamError> {
        self.conn.receive(now, &mut &self.socket)
    }

    /// Writes what is queued, as far as the socket takes it.
    pub(in crate::shard) fn flush(&mut self, now: Instant) -> Result<Flushed, StreamError> {
        // Where the kernel does not report it, the age of the queue decides alone.
        if self.conn.wants_observation(now)
            && let Ok(state) = path_state(self.socket.as_fd())
        {
            self.conn.observe(now, state);
        }
        let flushed = self.conn.flush(now, &mut Outlet(&self.socket))?;
        self.blocked = flushed != Flushed::Done;
        self.held_until = match flushed {
            Flushed::Held(until) => Some(until),
            Flushed::Done | Flushed::Blocked => None,
        };
        Ok(flushed)
    }

    /// The kernel's estimate of the round trip to the client.
    pub(in crate::shard) fn round_trip(&self) -> Option<Duration> {
        let state = path_state(self.socket.as_fd()).ok()?;
        Some(state.round_trip).filter(|it| !it.is_zero())
    }

    /// Takes it apart, no longer watched: socket, state, and what is dropped when the socket
    /// closes.
    pub(in crate::shard) fn into_parts(self) -> (TcpStream, StreamParts, Box<dyn StreamGuard>) {
        (self.socket, self.conn.into_parts(), self.guard)
    }

    /// Its client has an allocation: lifts the limits for clients without a login, and protects it
    /// from eviction.
    pub(in crate::shard) fn set_authenticated(&mut self) {
        self.authenticated = true;
        self.conn.set_authenticated();
        self.guard.set_authenticated();
    }

    /// Sets the function to call when it is evicted in favour of another connection.
    pub(in crate::shard) fn when_displaced(&mut self, displace: Displace) {
        self.guard.when_displaced(displace);
    }

    /// Counts an answer. Returns the number of consecutive answers without a login.
    pub(in crate::shard) const fn count_answer(&mut self, to_stranger: bool) -> u32 {
        self.unauthenticated_answers = if to_stranger {
            self.unauthenticated_answers + 1
        } else {
            0
        };
        self.unauthenticated_answers
    }

    const fn wanted_interest(&self) -> Interest {
        match (self.closing.is_some(), self.blocked && self.held_until.is_none()) {
            (false, false) => Interest::Read,
            (false, true) => Interest::ReadWrite,
            (true, true) => Interest::Write,
            (true, false) => Interest::None,
        }
    }
}

/// A socket as it is written to: what is in one piece, as nearly everything is, without a list of
/// pieces, which the kernel would have to copy in and check.
struct Outlet<'a>(&'a TcpStream);

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces {
            [piece] => self.0.write(piece),
            pieces => self.0.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// All streams of a shard.
pub(in crate::shard) struct Streams {
    slots: Slots<Stream>,
    /// Slots with something new to flush.
    dirty: Vec<u32>,
    /// Slots to be flushed at a time of their own, and the first of those times.
    held: Vec<u32>,
    resume_at: Option<Instant>,
    /// How many of `held` [`Self::next_due`] has found not to be due.
    looked_at: usize,
    limits: StreamLimits,
}

impl Streams {
    /// No streams; `limits` apply to each.
    pub(in crate::shard) fn new(limits: StreamLimits) -> Self {
        Self {
            slots: Slots::new(),
            dirty: Vec::new(),
            held: Vec::new(),
            resume_at: None,
            looked_at: 0,
            limits,
        }
    }

    /// How many are open.
    pub(in crate::shard) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Slots are below this.
    pub(in crate::shard) fn slots(&self) -> u32 {
        self.slots.end()
    }

    /// Takes a stream over and returns its slot. It may hold messages already.
    ///
    /// # Errors
    /// The socket cannot be set up or watched; it is closed then.
    pub(in crate::shard) fn add(&mut self, now: Instant, epoll: &Epoll, new_stream: NewStream) -> io::Result<u32> {
        let NewStream {
            socket,
            tls,
            early,
            client,
            server,
            transport,
            guard,
        } = new_stream;
        // It is non-blocking by contract. If it were not, one client could stop all others.
        socket.set_nonblocking(true)?;
        let (slot, generation) = self.slots.next();
        let token = Token::Stream { slot, generation };
        epoll.add(socket.as_fd(), token.bits(), Interest::Read)?;
        self.slots.insert(Stream {
            conn: StreamConn::new(now, self.limits.clone(), tls, early),
            client: Client {
                five_tuple: FiveTuple {
                    client,
                    server,
                    transport,
                },
                link: token.link(),
            },
            authenticated: false,
            unauthenticated_answers: 0,
            idle_since: now,
            closing: None,
            blocked: false,
            held_until: None,
            socket,
            interest: Interest::Read,
            dirty: false,
            guard,
        });
        Ok(slot)
    }

    /// The stream in `slot`, whatever its generation.
    pub(in crate::shard) fn at(&mut self, slot: u32) -> Option<&mut Stream> {
        self.slots.at(slot)
    }

    /// The stream this token was given to; `None` if it is gone, even if its slot is in use again.
    #[inline]
    pub(in crate::shard) fn by_token(&mut self, slot: u32, generation: u32) -> Option<&mut Stream> {
        self.slots.by_token(slot, generation)
    }

    /// Notes that something is to be flushed.
    pub(in crate::shard) fn mark_dirty(&mut self, slot: u32) {
        if let Some(stream) = self.slots.at(slot)
            && !stream.dirty
        {
            stream.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Takes one slot off the list of those to be flushed.
    pub(in crate::shard) fn next_dirty(&mut self) -> Option<u32> {
        let slot = self.dirty.pop()?;
        if let Some(stream) = self.at(slot) {
            stream.dirty = false;
        }
        Some(slot)
    }

    /// Notes that a stream is to be flushed at `until`.
    pub(in crate::shard) fn hold(&mut self, slot: u32, until: Instant) {
        self.held.push(slot);
        self.resume_at = Some(self.resume_at.map_or(until, |at| at.min(until)));
    }

    /// When [`Self::next_due`] has something.
    pub(in crate::shard) fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// Takes one slot off the list of those held whose time has come. Call until `None`.
    pub(in crate::shard) fn next_due(&mut self, now: Instant) -> Option<u32> {
        if self.resume_at.is_none_or(|at| at > now) {
            return None;
        }
        while let Some(&slot) = self.held.get(self.looked_at) {
            // A stream that has ended meanwhile counts as due, so that it leaves the list.
            match self.at(slot).and_then(|stream| stream.held_until) {
                Some(until) if until > now => self.looked_at += 1,
                _ => return Some(self.held.swap_remove(self.looked_at)),
            }
        }
        self.looked_at = 0;
        let slots = &mut self.slots;
        let until = |&slot: &u32| slots.at(slot)?.held_until;
        self.resume_at = self.held.iter().filter_map(until).min();
        None
    }

    /// Has epoll watch for what the stream waits for, if that has changed.
    pub(in crate::shard) fn update_interest(&mut self, epoll: &Epoll, slot: u32) -> io::Result<()> {
        let generation = self.slots.generation(slot);
        let Some(stream) = self.slots.at(slot) else {
            return Ok(());
        };
        let wanted = stream.wanted_interest();
        if stream.interest != wanted {
            let token = Token::Stream { slot, generation };
            epoll.modify(stream.socket.as_fd(), token.bits(), wanted)?;
            stream.interest = wanted;
        }
        Ok(())
    }

    /// Closes the stream in `slot`. Returns its client.
    pub(in crate::shard) fn remove(&mut self, slot: u32) -> Option<Client> {
        self.slots.remove(slot).map(|stream| stream.client)
    }

    /// Takes the stream in `slot` out of the table, still open, and stops watching it.
    pub(in crate::shard) fn release(&mut self, epoll: &Epoll, slot: u32) -> Option<Stream> {
        let stream = self.slots.remove(slot)?;
        epoll.remove(stream.socket.as_fd()).ok()?;
        Some(*stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Transport;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::Duration;

    fn new_stream(guard: Arc<()>) -> (TcpStream, NewStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, from) = listener.accept().unwrap();
        let server = socket.local_addr().unwrap();
        let transport = Transport::Tcp;
        (
            client,
            NewStream {
                socket,
                tls: None,
                early: Vec::new(),
                client: from,
                server,
                transport,
                guard: Box::new(guard),
            },
        )
    }

    #[test]
    fn a_slot_is_reused_under_another_generation_and_the_guard_goes_with_the_stream() {
        let epoll = Epoll::new(4).unwrap();
        let mut streams = Streams::new(StreamLimits::default());
        let guard = Arc::new(());
        let (_a, first) = new_stream(Arc::clone(&guard));
        let slot = streams.add(Instant::ZERO, &epoll, first).unwrap();
        let token = Token::from_link(streams.at(slot).unwrap().client.link);
        let Token::Stream { generation, .. } = token else {
            panic!("{token:?}")
        };
        assert_eq!((streams.len(), Arc::strong_count(&guard)), (1, 2));
        assert!(streams.remove(slot).is_some());
        assert!(streams.remove(slot).is_none());
        assert_eq!((streams.len(), Arc::strong_count(&guard)), (0, 1));
        let (_b, second) = new_stream(guard);
        assert_eq!(streams.add(Instant::ZERO, &epoll, second).unwrap(), slot);
        assert!(streams.by_token(slot, generation).is_none());
        assert!(streams.by_token(slot, generation + 1).is_some());
    }

    #[test]
    fn a_stream_is_flushed_once_however_often_it_was_marked() {
        let epoll = Epoll::new(4).unwrap();
        let mut streams = Streams::new(StreamLimits::default());
        let (_a, one) = new_stream(Arc::new(()));
        let slot = streams.add(Instant::ZERO, &epoll, one).unwrap();
        for _ in 0..3 {
            streams.mark_dirty(slot);
        }
        streams.mark_dirty(99);
        assert_eq!(streams.next_dirty(), Some(slot));
        assert_eq!(streams.next_dirty(), None);
        streams.mark_dirty(slot);
        assert_eq!(streams.next_dirty(), Some(slot));
    }

    #[test]
    fn a_stream_held_comes_up_when_its_time_has_come_and_one_that_has_ended_holds_nobody_up() {
        let epoll = Epoll::new(4).unwrap();
        let mut streams = Streams::new(StreamLimits::default());
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let mut clients = Vec::new();
        let [early, late, ended] = [5, 9, 7].map(|until| {
            let (client, new_stream) = new_stream(Arc::new(()));
            clients.push(client);
            let slot = streams.add(at(0), &epoll, new_stream).unwrap();
            streams.at(slot).unwrap().held_until = Some(at(until));
            streams.hold(slot, at(until));
            slot
        });
        assert!(streams.remove(ended).is_some());
        assert_eq!((streams.resume_at(), streams.next_due(at(4))), (Some(at(5)), None));
        let mut due: Vec<_> = std::iter::from_fn(|| streams.next_due(at(5))).collect();
        due.sort_unstable();
        assert_eq!(due, [early, ended]);
        assert_eq!((streams.resume_at(), streams.next_due(at(8))), (Some(at(9)), None));
        assert_eq!(streams.next_due(at(9)), Some(late));
        assert_eq!((streams.next_due(at(9)), streams.resume_at()), (None, None));
    }
    #[test]
    fn a_stream_that_closes_reads_no_more_and_one_that_is_blocked_waits_for_room_unless_it_is_held() {
        let epoll = Epoll::new(4).unwrap();
        let mut streams = Streams::new(StreamLimits::default());
        let (_client, new_stream) = new_stream(Arc::new(()));
        let slot = streams.add(Instant::ZERO, &epoll, new_stream).unwrap();
        for (closing, blocked, held, wanted) in [
            (false, false, false, Interest::Read),
            (false, true, false, Interest::ReadWrite),
            (false, true, true, Interest::Read),
            (true, false, false, Interest::None),
            (true, true, false, Interest::Write),
            (true, true, true, Interest::None),
        ] {
            let stream = streams.at(slot).unwrap();
            stream.closing = closing.then_some("client");
            stream.blocked = blocked;
            stream.held_until = held.then_some(Instant::ZERO);
            streams.update_interest(&epoll, slot).unwrap();
            assert_eq!(streams.at(slot).unwrap().interest, wanted, "{closing} {blocked} {held}");
        }
    }

    #[test]
    fn answers_to_a_stranger_are_counted_until_it_is_none() {
        let epoll = Epoll::new(4).unwrap();
        let mut streams = Streams::new(StreamLimits::default());
        let (_client, new_stream) = new_stream(Arc::new(()));
        let slot = streams.add(Instant::ZERO, &epoll, new_stream).unwrap();
        let stream = streams.at(slot).unwrap();
        let counts = [true, true, true, false, true].map(|stranger| stream.count_answer(stranger));
        assert_eq!(counts, [1, 2, 3, 0, 1]);
    }

    #[test]
    fn a_stream_held_again_comes_up_at_the_earliest_time() {
        let epoll = Epoll::new(4).unwrap();
        let mut streams = Streams::new(StreamLimits::default());
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let (_client, new_stream) = new_stream(Arc::new(()));
        let slot = streams.add(at(0), &epoll, new_stream).unwrap();
        streams.hold(slot, at(9));
        streams.hold(slot, at(5));
        streams.hold(slot, at(7));
        assert_eq!(streams.resume_at(), Some(at(5)));
    }

    #[test]
    fn a_name_finds_its_stream_and_no_other() {
        let epoll = Epoll::new(4).unwrap();
        let mut streams = Streams::new(StreamLimits::default());
        let (_a, one) = new_stream(Arc::new(()));
        let (_b, two) = new_stream(Arc::new(()));
        let [one, two] = [one, two].map(|it| streams.add(Instant::ZERO, &epoll, it).unwrap());
        assert_eq!((one, two, streams.slots(), streams.len()), (0, 1, 2, 2));
        assert!(
            streams.by_token(1, 0).is_some() && streams.by_token(1, 1).is_none() && streams.by_token(2, 0).is_none()
        );
        let released = streams.release(&epoll, one).unwrap();
        assert_eq!((streams.len(), streams.slots()), (1, 2));
        drop(released);
        assert!(streams.release(&epoll, one).is_none());
    }
}
