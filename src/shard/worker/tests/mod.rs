//! One worker by itself, in the thread of a test that turns it by hand and sets its clock: what it
//! counts, and what its sockets get, is there when a turn is over, and nobody waits for a deadline.

mod turn;

use core::fmt;
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket as StdUdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_testkit::turn::{Client, Messages, PATIENCE, Pipe, Stream, turn_config};
use relay_testkit_net::UDP;

use super::*;
use crate::net::udp::UdpSocket;
use crate::shard::control::ShardHandle;
use crate::shard::counters::STREAM_CLOSE_REASONS;
use crate::shard::spawn;
use crate::shard::tests::tcp_pair;

/// A worker, the only one of its server, with one listener.
#[derive(Clone)]
pub(in crate::shard) struct Alone {
    pub(in crate::shard) worker: Rc<RefCell<Worker>>,
    control: ShardHandle,
    udp: SocketAddr,
}

impl Alone {
    pub(in crate::shard) fn new() -> Self {
        Self::with(ShardConfig::default(), turn_config())
    }

    pub(in crate::shard) fn with(config: ShardConfig, turn: Config) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UDP).unwrap();
        Self::at(socket.into(), config, turn)
    }

    pub(in crate::shard) fn at(listener: Listener, config: ShardConfig, turn: Config) -> Self {
        Self::several(vec![listener], config, turn).remove(0)
    }

    /// Several workers of one server, each with a listener, and so a port, of its own.
    pub(in crate::shard) fn several(listeners: Vec<Listener>, config: ShardConfig, turn: Config) -> Vec<Self> {
        let sockets: Vec<_> = listeners.into_iter().map(|listener| vec![listener]).collect();
        let shared = Arc::new(Shared::new([7; 32]));
        let parts = spawn::parts(&config, &Arc::new(turn), &shared, sockets, 4).unwrap();
        let alone = parts.into_iter().map(|mut parts| {
            parts.random = [3 + parts.index.index as u8; 32];
            let udp = parts.listeners[0].socket.local_addr();
            let control = parts.outlets.shards[parts.index.index].clone();
            let worker = Worker::new(parts).unwrap();
            worker.watch_inlets().unwrap();
            Self {
                worker: Rc::new(RefCell::new(worker)),
                control,
                udp,
            }
        });
        alone.collect()
    }

    /// A turn for what is there.
    pub(in crate::shard) fn turn(&self) {
        let mut worker = self.worker.borrow_mut();
        worker.inlets.waker.wake();
        worker.turn().unwrap();
    }

    /// Turns until `what` holds: the kernel has its own pace.
    #[track_caller]
    pub(in crate::shard) fn until(&self, text: &str, mut what: impl FnMut(&mut Worker) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !what(&mut self.worker.borrow_mut()) {
            assert!(Instant::now() < deadline, "never: {text}");
            self.turn();
        }
    }

    /// That much later.
    pub(in crate::shard) fn later(&self, by: Duration) {
        let mut worker = self.worker.borrow_mut();
        worker.clock = worker.clock.ahead(by);
    }

    /// Turns often enough for every stream, association and connection to have been looked at.
    pub(in crate::shard) fn look_at_all(&self) {
        for _ in 0..4 {
            self.later(Duration::from_millis(250));
            self.turn();
        }
    }

    pub(in crate::shard) fn control(&self, control: Control) {
        self.control.send(control);
        self.turn();
    }

    pub(in crate::shard) fn look<T>(&self, at: impl FnOnce(&Worker) -> T) -> T {
        at(&self.worker.borrow())
    }

    pub(in crate::shard) fn stat(&self, of: impl Fn(&ShardCounters) -> u64) -> u64 {
        of(&self.worker.borrow().stats)
    }

    pub(in crate::shard) fn count(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        of(&self.worker.borrow().counters)
    }

    /// Streams closed for this reason.
    pub(in crate::shard) fn closed(&self, reason: &str) -> u64 {
        let at = STREAM_CLOSE_REASONS.iter().position(|&it| it == reason).unwrap();
        self.stat(|s| s.streams_closed[at].get())
    }

    /// A client over UDP.
    pub(in crate::shard) fn client(&self) -> Client {
        Client::new(Pipe::Messages(Box::new(self.socket())))
    }

    /// A client's socket.
    pub(in crate::shard) fn socket(&self) -> Turning<StdUdpSocket> {
        let socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.udp).unwrap();
        socket.set_nonblocking(true).unwrap();
        Turning {
            socket,
            alone: self.clone(),
        }
    }

    /// A client over TCP, and its end of the connection.
    pub(in crate::shard) fn tcp_client(&self) -> (Client, TcpStream) {
        let (stream, new_stream) = tcp_pair(Vec::new());
        self.worker.borrow_mut().add_stream(new_stream);
        let same = stream.try_clone().unwrap();
        (self.over(stream), same)
    }

    /// A client over this stream.
    pub(in crate::shard) fn over(&self, stream: TcpStream) -> Client {
        stream.set_nonblocking(true).unwrap();
        let stream = Turning {
            socket: stream,
            alone: self.clone(),
        };
        Client::new(Pipe::Tcp {
            stream: Box::new(stream),
            buffer: Vec::new(),
        })
    }
}

/// A client's socket: who waits for it turns the worker.
pub(in crate::shard) struct Turning<S> {
    pub(in crate::shard) socket: S,
    alone: Alone,
}

impl<S> fmt::Debug for Turning<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turning")
    }
}

impl<S> Turning<S> {
    /// Turns the worker until `ready` says something else than that it would block.
    fn wait<T>(&mut self, mut ready: impl FnMut(&mut S) -> io::Result<T>) -> io::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ready(&mut self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => self.alone.turn(),
                done => return done,
            }
        }
    }
}

impl Messages for Turning<StdUdpSocket> {
    fn send(&mut self, message: &[u8]) {
        assert_eq!(self.socket.send(message).unwrap(), message.len());
    }

    fn recv(&mut self, _: Duration) -> Option<Vec<u8>> {
        let mut message = vec![0; 65_536];
        let len = self.wait(|socket| socket.recv(&mut message)).ok()?;
        message.truncate(len);
        Some(message)
    }
}

impl Read for Turning<StdUdpSocket> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait(|socket| socket.recv(into))
    }
}

impl Write for Turning<StdUdpSocket> {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.socket.send(datagram)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Turning<TcpStream> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait(|socket| socket.read(into))
    }
}

impl Write for Turning<TcpStream> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Turning<TcpStream> {
    fn patience(&self, _: Duration) {}
}
