//! The simulated kernel: descriptors, epoll, eventfd; `datagrams` and `streams` have the sockets.
//!
//! Level triggered, lowest free descriptor first, and closing removes a descriptor from every
//! epoll: the properties of the real kernel that the code under test relies on. It is loopback
//! without latency; the run draws what takes time.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use crate::datagrams::{Datagram, Udp};
use crate::faults::{Fault, Faults};
use crate::streams::{Tcp, Wire};
use relay_testkit::dice::Dice;

pub(crate) type Fd = i32;

/// The result of a call: a value, or an errno.
pub(crate) type Answer<T> = Result<T, i32>;

/// Descriptors of the simulated kernel start here, which those of the real one never reach.
pub(crate) const BASE: Fd = 1 << 20;

pub(crate) const IN: u32 = libc::EPOLLIN as u32;
pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
pub(crate) const ERR: u32 = libc::EPOLLERR as u32;
pub(crate) const HUP: u32 = libc::EPOLLHUP as u32;

pub(crate) enum Object {
    Event(u64),
    /// By descriptor: token and interest.
    Epoll(BTreeMap<Fd, (u64, u32)>),
    Udp(Udp),
    Tcp(Tcp),
}

/// What a descriptor refers to.
pub(crate) struct File {
    pub(crate) object: Object,
    pub(crate) nonblocking: bool,
    /// How long a blocking call waits, in nanoseconds; 0: forever.
    pub(crate) patience: u64,
}

/// What a worker has done since its last wait.
#[derive(Default)]
pub(crate) struct TurnRecord {
    /// It received, sent, opened, closed or watched something, or a fault occurred.
    pub(crate) progress: bool,
    /// Events reported to it.
    pub(crate) events: usize,
    /// Messages, errors and connections received, and reads, by descriptor.
    pub(crate) taken: HashMap<(Fd, &'static str), usize>,
}

/// A pending event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// A connection succeeds or is refused: descriptor and what it referred to.
    Connect(Fd, u64),
}

/// How a datagram is lost outside of the program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Lost by the network.
    Wire,
    /// Its socket closed before it was read.
    Unread,
    /// A worker sent it to an unused address.
    Stray,
    /// Its socket is connected to another address.
    WrongSource,
    /// Its socket was full.
    Overflow,
    /// It was truncated on its way to a worker.
    Truncated,
}

pub(crate) struct Kernel {
    pub(crate) files: BTreeMap<Fd, File>,
    /// UDP sockets by address.
    pub(crate) bound: HashMap<SocketAddr, Vec<Fd>>,
    /// TCP listeners by address.
    pub(crate) listening: HashMap<SocketAddr, Fd>,
    pub(crate) wires: Vec<Option<Wire>>,
    pub(crate) dice: Dice,
    pub(crate) faults: Faults,
    /// Faults may occur: every worker runs.
    pub(crate) armed: bool,
    /// Nanoseconds.
    pub(crate) now: u64,
    pub(crate) due: BTreeMap<(u64, u64), Due>,
    pub(crate) serial: u64,
    next_port: u16,
    /// The thread of the current call: 0 for the test, then the workers.
    pub(crate) caller: usize,
    pub(crate) turn: TurnRecord,
    /// Datagrams received by workers.
    pub(crate) received: u64,
    /// Datagrams sent by workers.
    pub(crate) sent: u64,
    /// Connections accepted by workers.
    pub(crate) accepted: u64,
    /// Messages truncated by faults.
    pub(crate) truncated: u64,
    /// Datagrams that the simulated world lost, and how.
    pub(crate) lost: Vec<(Loss, Datagram)>,
    /// Hash of everything that workers did, in order.
    pub(crate) digest: u64,
    pub(crate) trace: Option<Vec<String>>,
}

impl Kernel {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            files: BTreeMap::new(),
            bound: HashMap::new(),
            listening: HashMap::new(),
            wires: Vec::new(),
            dice: Dice::new(seed),
            faults,
            armed: false,
            now: 1_000_000_000_000,
            due: BTreeMap::new(),
            serial: 0,
            next_port: 40_000,
            caller: 0,
            turn: TurnRecord::default(),
            received: 0,
            sent: 0,
            accepted: 0,
            truncated: 0,
            lost: Vec::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            trace: None,
        }
    }

    /// Records an action of the caller, for the digest of the run and for debugging.
    pub(crate) fn note(&mut self, what: &str, fd: Fd, value: u64) {
        // Until every worker runs, they start concurrently.
        if self.caller == 0 || !self.armed {
            return;
        }
        let word = |digest: u64, value: u64| (digest ^ value).wrapping_mul(0x0100_0000_01b3);
        let mut digest = what
            .bytes()
            .fold(self.digest, |digest, byte| word(digest, u64::from(byte)));
        for value in [self.caller as u64, fd as u64, value] {
            digest = word(digest, value);
        }
        self.digest = digest;
        let (now, caller) = (self.now, self.caller);
        self.tell(|| format!("{:>12} worker {} {what} {} {value}", now / 1000, caller - 1, fd - BASE));
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Whether this fault occurs, for a worker.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        if self.caller == 0 || !self.armed || !self.faults.strikes(&mut self.dice, fault) {
            return false;
        }
        self.turn.progress = true;
        self.note(fault.name(), BASE, 0);
        true
    }

    /// Whether this fault occurs on the network, whoever sent the packet.
    pub(crate) fn happens(&mut self, fault: Fault) -> bool {
        self.armed && self.faults.strikes(&mut self.dice, fault)
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn free_port(&mut self) -> u16 {
        self.next_port = if self.next_port == 65_000 {
            40_000
        } else {
            self.next_port + 1
        };
        self.next_port
    }

    /// Opens the lowest free descriptor.
    pub(crate) fn open(&mut self, object: Object) -> Fd {
        let mut fd = BASE;
        while self.files.contains_key(&fd) {
            fd += 1;
        }
        let file = File {
            object,
            nonblocking: false,
            patience: 0,
        };
        self.files.insert(fd, file);
        self.turn.progress = true;
        self.note("opens", fd, 0);
        fd
    }

    pub(crate) fn file(&mut self, fd: Fd) -> Answer<&mut File> {
        self.files.get_mut(&fd).ok_or(libc::EBADF)
    }

    /// Fails if a worker gets no descriptor.
    pub(crate) fn has_descriptor(&mut self) -> Answer<()> {
        if self.strikes(Fault::NoDescriptor) {
            Err(libc::EMFILE)
        } else if self.strikes(Fault::NoFile) {
            Err(libc::ENFILE)
        } else {
            Ok(())
        }
    }

    pub(crate) fn socket(&mut self, kind: i32) -> Answer<usize> {
        self.has_descriptor()?;
        let object = if kind & 0xf == libc::SOCK_DGRAM {
            Object::Udp(Udp::default())
        } else {
            Object::Tcp(Tcp::default())
        };
        let fd = self.open(object);
        self.file(fd)?.nonblocking = kind & libc::SOCK_NONBLOCK != 0;
        Ok(fd as usize)
    }

    pub(crate) fn close(&mut self, fd: Fd) -> Answer<usize> {
        let file = self.files.remove(&fd).ok_or(libc::EBADF)?;
        for other in self.files.values_mut() {
            if let Object::Epoll(watched) = &mut other.object {
                watched.remove(&fd);
            }
        }
        self.turn.progress = true;
        self.note("closes", fd, 0);
        match file.object {
            Object::Udp(udp) => self.closed_udp(fd, udp),
            Object::Tcp(tcp) => self.closed_tcp(fd, tcp),
            Object::Event(_) | Object::Epoll(_) => {}
        }
        Ok(0)
    }

    pub(crate) fn watch(&mut self, epoll: Fd, operation: i32, fd: Fd, event: (u32, u64)) -> Answer<usize> {
        if !self.files.contains_key(&fd) {
            return Err(libc::EBADF);
        }
        if operation == libc::EPOLL_CTL_ADD && self.strikes(Fault::WatchFailed) {
            return Err(libc::ENOSPC);
        }
        self.turn.progress = true;
        self.note("watches", fd, u64::from(event.0));
        let Object::Epoll(watched) = &mut self.file(epoll)?.object else {
            return Err(libc::EINVAL);
        };
        let (interest, token) = event;
        match operation {
            libc::EPOLL_CTL_ADD if watched.contains_key(&fd) => Err(libc::EEXIST),
            libc::EPOLL_CTL_ADD => {
                watched.insert(fd, (token, interest));
                Ok(0)
            }
            libc::EPOLL_CTL_DEL => watched.remove(&fd).map(|_| 0).ok_or(libc::ENOENT),
            _ => {
                *watched.get_mut(&fd).ok_or(libc::ENOENT)? = (token, interest);
                Ok(0)
            }
        }
    }

    /// What is ready at an epoll instance: bits and token.
    pub(crate) fn ready(&self, epoll: Fd) -> Vec<(u32, u64)> {
        let Some(Object::Epoll(watched)) = self.files.get(&epoll).map(|file| &file.object) else {
            return Vec::new();
        };
        let bits = |(&fd, &(token, interest)): (&Fd, &(u64, u32))| {
            let bits = self.readiness(fd) & (interest | ERR | HUP);
            (bits != 0).then_some((bits, token))
        };
        watched.iter().filter_map(bits).collect()
    }

    /// What `epoll_wait` reports of it to a worker, in some order.
    pub(crate) fn tell_ready(&mut self, epoll: Fd, most: usize) -> Vec<(u32, u64)> {
        let mut ready = self.ready(epoll);
        for i in (1..ready.len()).rev() {
            let other = self.dice.index(i + 1);
            ready.swap(i, other);
        }
        if ready.len() > 1 && self.strikes(Fault::Partial) {
            let part = self.dice.between(1, ready.len() as u64 - 1) as usize;
            ready.truncate(part);
        }
        if self.strikes(Fault::Spurious)
            && let Some(event) = self.spurious(epoll)
            && ready.iter().all(|&(_, token)| token != event.1)
        {
            ready.push(event);
        }
        ready.truncate(most);
        self.turn.events = ready.len();
        self.note("wakes", epoll, ready.len() as u64);
        ready
    }

    /// A watched descriptor that is not ready. Never writability of a connection in progress, where
    /// it has a meaning.
    fn spurious(&mut self, epoll: Fd) -> Option<(u32, u64)> {
        let Object::Epoll(watched) = &self.files.get(&epoll)?.object else {
            return None;
        };
        let all: Vec<(u32, u64)> = watched
            .iter()
            .filter(|&(fd, _)| !self.is_connecting(*fd))
            .map(|(_, &(token, interest))| (interest & (IN | OUT), token))
            .filter(|&(bits, _)| bits != 0)
            .collect();
        self.dice.maybe_pick(&all)
    }

    fn readiness(&self, fd: Fd) -> u32 {
        match self.files.get(&fd).map(|file| &file.object) {
            Some(Object::Event(count)) => {
                if *count > 0 {
                    IN | OUT
                } else {
                    OUT
                }
            }
            Some(Object::Udp(udp)) => udp.readiness(),
            Some(Object::Tcp(tcp)) => self.tcp_readiness(tcp),
            Some(Object::Epoll(_)) | None => 0,
        }
    }

    pub(crate) fn read(&mut self, fd: Fd, into: &mut [u8]) -> Answer<usize> {
        if let Object::Event(count) = &mut self.file(fd)?.object {
            if *count == 0 {
                return Err(libc::EAGAIN);
            }
            into[..8].copy_from_slice(&std::mem::take(count).to_ne_bytes());
            self.turn.progress = true;
            self.note("clears", fd, 0);
            return Ok(8);
        }
        self.read_tcp(fd, into)
    }

    pub(crate) fn write(&mut self, fd: Fd, bytes: &[u8]) -> Answer<usize> {
        if let Object::Event(count) = &mut self.file(fd)?.object {
            *count += 1;
            self.note("wakes up", fd, 0);
            return Ok(8);
        }
        self.write_tcp(fd, bytes)
    }

    /// Counts what is received from a descriptor in a turn.
    pub(crate) fn take(&mut self, fd: Fd, what: &'static str) {
        if self.caller > 0 {
            *self.turn.taken.entry((fd, what)).or_default() += 1;
            self.turn.progress = true;
        }
    }

    /// Performs everything that is due.
    pub(crate) fn fire(&mut self) {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            match entry.remove() {
                Due::Connect(fd, serial) => self.finish_connect(fd, serial),
            }
        }
    }
}
