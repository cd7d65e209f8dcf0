//! Clients' TCP connections: real [`StreamConn`]s on the server's side of a byte pipe that splits
//! at random positions.
//!
//! The simulation checks that every message that the server finds in the stream is one that the
//! client sent, in order; that every frame that reaches the client is whole and one that the server
//! queued, in order of its kind; and that only application data is ever missing, exactly as much as
//! was reported as dropped.

use core::time::Duration;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;

use relay_net::stream::{QueueKind, StreamConn, StreamError, StreamLimits};
use relay_proto::base::address::{FiveTuple, Transport};
use relay_proto::turn::types::{Client, Link};
use relay_proto::wire::framing::{self, Framing};

use crate::message::{Packet, Told};
use crate::reply::is_response;
use crate::trace;
use crate::world::{Event, World};

#[derive(Debug)]
pub(crate) enum StreamEvent {
    /// The client's system sends what the client wrote.
    Push,
    /// Bytes arrive at the server.
    Up(Vec<u8>),
    /// The client has closed its side.
    End,
    /// The connection is no more.
    Reset,
    /// Bytes arrive at the client.
    Down(Vec<u8>),
    /// The client reads again.
    Resume,
    Timer,
}

/// Where to split the bytes that a client writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cuts {
    Nowhere,
    Anywhere,
    Everywhere,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) owner: usize,
    pub(crate) client: Client,
    pub(crate) shard: usize,
    stream: StreamConn,
    authenticated: bool,
    /// The stream cannot continue after what was sent.
    poisoned: bool,
    pub(crate) cuts: Cuts,
    /// Written by the client and not yet sent. What was sent must come out in this order.
    outgoing: Vec<u8>,
    sent: VecDeque<Packet>,
    up_at: relay_proto::base::time::Instant,
    /// The client stopped within a message, or its system has forgotten the connection.
    pub(crate) stalled: bool,
    /// Nothing sent arrives any more.
    pub(crate) cut: bool,
    /// Free space of the path back, in bytes.
    room: usize,
    down_at: relay_proto::base::time::Instant,
    pub(crate) reading: bool,
    unread: Vec<u8>,
    assembled: Vec<u8>,
    control: VecDeque<Vec<u8>>,
    data: VecDeque<Vec<u8>>,
    dropped: u64,
    missing: u64,
    timer: Option<relay_proto::base::time::Instant>,
}

/// Bytes that have arrived, and then nothing, which is not the end.
struct Arrived<'a>(&'a [u8]);

impl Read for Arrived<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buffer)
    }
}

/// A socket that accepts `room` bytes in total, and at most `most` per call.
struct Pipe<'a> {
    room: &'a mut usize,
    most: usize,
    taken: Vec<u8>,
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(*self.room).min(self.most);
        if len == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *self.room -= len;
        self.taken.extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl World {
    /// A client connects; for the server, at once.
    pub(crate) fn connect(&mut self, owner: usize) -> u64 {
        self.connected += 1;
        let id = 1000 + self.connected;
        let client = &self.clients[owner];
        let five_tuple = FiveTuple {
            client: client.addr,
            server: client.server,
            transport: Transport::Tcp,
        };
        let conn = Conn {
            owner,
            client: Client {
                five_tuple,
                link: Link(id),
            },
            shard: self.dice.index(self.setup.shards),
            stream: StreamConn::new(self.mono, StreamLimits::default(), None, Vec::new()),
            authenticated: false,
            poisoned: false,
            cuts: *self
                .dice
                .pick(&[Cuts::Nowhere, Cuts::Anywhere, Cuts::Anywhere, Cuts::Everywhere]),
            outgoing: Vec::new(),
            sent: VecDeque::new(),
            up_at: self.mono,
            stalled: false,
            cut: false,
            room: *self.dice.pick(&[3_000, 20_000, 200_000]),
            down_at: self.mono,
            reading: true,
            unread: Vec::new(),
            assembled: Vec::new(),
            control: VecDeque::new(),
            data: VecDeque::new(),
            dropped: 0,
            missing: 0,
            timer: None,
        };
        trace::note(|| {
            format!(
                "client {owner} connects from {} ({id}, shard {})",
                five_tuple.client, conn.shard
            )
        });
        assert!(self.conns.insert(id, conn).is_none());
        id
    }

    /// A client writes a message.
    pub(crate) fn write_stream(&mut self, id: u64, packet: Packet) {
        let delay = self.dice.millis(0, 10);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.poisoned {
            return;
        }
        conn.poisoned = matches!(packet.told, Told::Poison);
        if conn.outgoing.is_empty() {
            self.after(
                delay,
                Event::Stream {
                    conn: id,
                    event: StreamEvent::Push,
                },
            );
        }
        let conn = self.conns.get_mut(&id).expect("it is there");
        conn.outgoing.extend(&*packet.bytes);
        conn.sent.push_back(packet);
    }

    pub(crate) fn stream_event(&mut self, id: u64, event: StreamEvent) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match event {
            StreamEvent::Push => self.push(id),
            StreamEvent::Up(_) if conn.cut => {}
            StreamEvent::Up(bytes) => self.up(id, &bytes),
            StreamEvent::End => self.stream_ended(id),
            StreamEvent::Reset => self.close_stream(id),
            StreamEvent::Down(bytes) if conn.reading || bytes.is_empty() => self.down(id, bytes),
            StreamEvent::Down(bytes) => conn.unread.extend(bytes),
            StreamEvent::Resume => {
                conn.reading = true;
                let unread = core::mem::take(&mut conn.unread);
                self.down(id, unread);
            }
            StreamEvent::Timer => self.stream_timer(id),
        }
    }

    /// Splits what was written, and sends the pieces one after another.
    fn push(&mut self, id: u64) {
        let latency = Duration::from_millis(self.weather.latency);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.stalled {
            return;
        }
        let mut rest = &*core::mem::take(&mut conn.outgoing);
        let mut at = conn.up_at.max(self.mono + latency);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let len = match conn.cuts {
                Cuts::Nowhere => rest.len(),
                Cuts::Anywhere => 1 + self.dice.index(rest.len()),
                // For long messages, single bytes would take too long.
                Cuts::Everywhere => (rest.len() / 200).max(1),
            };
            let (piece, after) = rest.split_at(len);
            rest = after;
            pieces.push((at, piece.to_vec()));
            at = at + self.dice.millis(0, 2);
        }
        conn.up_at = at;
        for (at, piece) in pieces {
            self.at(
                at,
                Event::Stream {
                    conn: id,
                    event: StreamEvent::Up(piece),
                },
            );
        }
    }

    fn up(&mut self, id: u64, bytes: &[u8]) {
        let mono = self.mono;
        let mut arrived = Arrived(bytes);
        while !arrived.0.is_empty() {
            let left = arrived.0.len();
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let received = conn.stream.receive(mono, &mut arrived).expect("the pipe does not fail");
            assert_eq!((received.bytes, received.closed), (left - arrived.0.len(), false));
            assert!(received.more || arrived.0.is_empty(), "more is to be read");
            self.take_messages(id);
        }
        self.flush(id);
    }

    fn take_messages(&mut self, id: u64) {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            match conn.stream.next_message() {
                Ok(None) => return,
                Ok(Some(bytes)) => {
                    let packet = conn
                        .sent
                        .pop_front()
                        .expect("a message nobody sent came out of the stream");
                    assert_eq!(
                        *bytes, *packet.bytes,
                        "another message came out of the stream than went in"
                    );
                    self.message(id, &packet);
                }
                Err(error) => {
                    self.check_error(id, &error);
                    self.close_stream(id);
                    return;
                }
            }
        }
    }

    fn message(&mut self, id: u64, packet: &Packet) {
        let conn = &self.conns[&id];
        let (client, shard) = (conn.client, conn.shard);
        self.hand(shard, client, packet);
        match self.conns.get_mut(&id) {
            Some(conn) if !conn.authenticated && self.site.shards[shard].server.has_or_awaits_allocation(&client) => {
                conn.authenticated = true;
                conn.stream.set_authenticated();
            }
            Some(_) => {}
            None => {
                let meant = matches!(packet.told, Told::Request(_) | Told::Send { .. } | Told::Channel { .. });
                assert!(!meant, "a stream is closed for a message that is in order");
            }
        }
    }

    /// Checks that the stream had to be closed.
    fn check_error(&mut self, id: u64, error: &StreamError) {
        trace::note(|| format!("stream {id}: {error}"));
        let conn = &self.conns[&id];
        let due = match error {
            StreamError::Framing(_) => conn.poisoned,
            StreamError::FrameTooLong | StreamError::UnauthenticatedBytes => conn.poisoned || !conn.authenticated,
            StreamError::FrameTimeout => conn.stalled,
            StreamError::WriteTimeout => !conn.reading,
            StreamError::Tls(_) | StreamError::Io(_) => false,
        };
        assert!(due, "{error}: {conn:?}");
        self.oracle.mark(error.reason());
    }

    /// The client stops in the middle of a message.
    pub(crate) fn stall_stream(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.stalled {
            conn.stalled = true;
            let at = conn.up_at;
            self.at(
                at,
                Event::Stream {
                    conn: id,
                    event: StreamEvent::Up(vec![0, 1, 0]),
                },
            );
        }
    }

    /// Queues a response or application data for the client.
    pub(crate) fn queue_stream(&mut self, id: u64, kind: QueueKind, header: &[u8], data: &[u8], padding: usize) {
        let mono = self.mono;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let frame = [header, data, &[0; 3][..padding]].concat();
        if conn.stream.queue(mono, kind, header, data, padding).is_err() {
            assert!(!conn.reading && kind == QueueKind::Control, "the queue is full");
            self.oracle.mark("responses pile up");
            self.close_stream(id);
            return;
        }
        match kind {
            QueueKind::Control => conn.control.push_back(frame),
            QueueKind::Data => conn.data.push_back(frame),
        }
        self.flush(id);
    }

    fn flush(&mut self, id: u64) {
        let most = if self.dice.percent(30) {
            1 + self.dice.index(1500)
        } else {
            usize::MAX
        };
        let delay = Duration::from_millis(self.weather.latency) + self.dice.millis(0, 2);
        let mono = self.mono;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut pipe = Pipe {
            room: &mut conn.room,
            most,
            taken: Vec::new(),
        };
        let flushed = conn.stream.flush(mono, &mut pipe).expect("the pipe does not fail");
        let taken = pipe.taken;
        if flushed == relay_net::stream::Flushed::Blocked && conn.room > 0 {
            // A short write: the socket is writable again at once.
            self.after(
                Duration::from_micros(100),
                Event::Stream {
                    conn: id,
                    event: StreamEvent::Down(Vec::new()),
                },
            );
        }
        let conn = self.conns.get_mut(&id).expect("it is there");
        let dropped = conn.stream.take_dropped().total();
        conn.dropped += dropped;
        let at = conn.down_at.max(mono + delay);
        let deadline = conn.stream.poll_deadline();
        let timer = deadline.filter(|&due| conn.timer.is_none_or(|planned| planned > due));
        if !taken.is_empty() {
            conn.down_at = at;
        }
        if dropped > 0 {
            self.oracle.mark("application data too late for a slow client");
        }
        let conn = self.conns.get_mut(&id).expect("it is there");
        if let Some(due) = timer {
            conn.timer = Some(due);
            self.at(
                due,
                Event::Stream {
                    conn: id,
                    event: StreamEvent::Timer,
                },
            );
        }
        if !taken.is_empty() {
            self.at(
                at,
                Event::Stream {
                    conn: id,
                    event: StreamEvent::Down(taken),
                },
            );
        }
    }

    /// Bytes arrive at the client, which frees space for others.
    fn down(&mut self, id: u64, bytes: Vec<u8>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.room += bytes.len();
        conn.assembled.extend(bytes);
        let mut frames = Vec::new();
        loop {
            match framing::next_frame(&conn.assembled).expect("the server sends TURN") {
                Framing::Need(_) => break,
                Framing::Message(len) => {
                    let rest = conn.assembled.split_off(len);
                    frames.push(core::mem::replace(&mut conn.assembled, rest));
                }
            }
        }
        for frame in &frames {
            if is_response(frame) {
                assert_eq!(
                    conn.control.pop_front().as_ref(),
                    Some(frame),
                    "a response is lost or changed"
                );
                continue;
            }
            loop {
                let next = conn.data.pop_front().expect("application data nobody queued");
                if next == *frame {
                    break;
                }
                conn.missing += 1;
            }
            assert!(
                conn.missing <= conn.dropped,
                "{} frames are missing, {} dropped",
                conn.missing,
                conn.dropped
            );
        }
        let owner = conn.owner;
        if conn.stream.wants_write() {
            self.flush(id);
        }
        for frame in frames {
            self.bytes_at_client(owner, Rc::from(frame));
        }
    }

    fn stream_timer(&mut self, id: u64) {
        let mono = self.mono;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.timer = None;
        match conn.stream.handle_timeout(mono) {
            Ok(()) => self.flush(id),
            Err(error) => {
                self.check_error(id, &error);
                self.close_stream(id);
            }
        }
    }

    /// The client sends no more, so its shard closes the connection.
    fn stream_ended(&mut self, id: u64) {
        struct End;
        impl Read for End {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Ok(0)
            }
        }
        let mono = self.mono;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let received = conn.stream.receive(mono, &mut End).expect("the end is no error");
        assert!(received.closed && received.bytes == 0);
        self.close_stream(id);
    }

    /// The server closes a connection.
    pub(crate) fn close_stream(&mut self, id: u64) {
        let Some(Conn {
            owner, client, shard, ..
        }) = self.conns.remove(&id)
        else {
            return;
        };
        trace::note(|| format!("shard {shard} closes stream {id}"));
        self.disconnect(shard, &client);
        let delay = Duration::from_millis(self.weather.latency);
        self.after(
            delay,
            Event::Closed {
                client: owner,
                conn: id,
            },
        );
    }

    /// All connections are lost, because their program has ended.
    pub(crate) fn lose_streams(&mut self) {
        for (id, conn) in core::mem::take(&mut self.conns) {
            self.after(
                Duration::from_millis(50),
                Event::Closed {
                    client: conn.owner,
                    conn: id,
                },
            );
        }
    }

    /// Checks with nothing in flight: what was queued has arrived, or was reported as dropped.
    pub(crate) fn check_streams_settled(&self) {
        for (id, conn) in &self.conns {
            assert!(conn.control.is_empty(), "stream {id} has lost responses");
            assert_eq!(
                conn.missing + conn.data.len() as u64,
                conn.dropped,
                "stream {id} has lost application data"
            );
            assert!(conn.stalled || conn.sent.is_empty(), "stream {id} has lost messages");
        }
    }
}
