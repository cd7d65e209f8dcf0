//! The simulated kernel: descriptors, epoll, eventfd; `datagrams` and `streams` have the sockets.
//!
//! Level triggered, lowest free descriptor first, closing takes a descriptor out of every epoll: what the code under test
//! believes of the real one. It is loopback without latency; what takes time is drawn by the run.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use crate::datagrams::{Datagram, Udp};
use crate::faults::{Fault, Faults};
use crate::streams::{Tcp, Wire};
use relay_testkit::dice::Dice;

pub(crate) type Fd = i32;

/// What a call returns: a value, or an errno.
pub(crate) type Answer<T> = Result<T, i32>;

/// Descriptors of the simulated kernel are not below this; those of the real one never get there.
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

/// What a descriptor stands for.
pub(crate) struct File {
    pub(crate) object: Object,
    pub(crate) nonblocking: bool,
    /// How long a blocking call waits, in nanoseconds; 0: for ever.
    pub(crate) patience: u64,
}

/// What a worker has done since it was last asked to wait.
#[derive(Default)]
pub(crate) struct TurnRecord {
    /// Something was taken, given, opened, closed or watched, or went wrong on purpose.
    pub(crate) progress: bool,
    /// Events told to it.
    pub(crate) events: usize,
    /// Messages, errors and connections taken, and reads, by descriptor.
    pub(crate) taken: HashMap<(Fd, &'static str), usize>,
}

/// Something that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// A connection is made, or refused: descriptor and what it stood for.
    Connect(Fd, u64),
}

/// How a datagram is lost outside of the program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The network lost it.
    Wire,
    /// Its socket was closed before anybody read it.
    Unread,
    /// A worker sent it to where nobody is.
    Stray,
    /// It came to a socket that hears somebody else.
    WrongSource,
    /// Its socket was full.
    Overflow,
    /// It was cut short on its way to a worker.
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
    /// Things may go wrong: every worker stands.
    pub(crate) armed: bool,
    /// Nanoseconds.
    pub(crate) now: u64,
    pub(crate) due: BTreeMap<(u64, u64), Due>,
    pub(crate) serial: u64,
    next_port: u16,
    /// The thread whose call it is: 0 the test's, workers behind.
    pub(crate) caller: usize,
    pub(crate) turn: TurnRecord,
    /// Datagrams workers have received.
    pub(crate) received: u64,
    /// Datagrams workers have sent.
    pub(crate) sent: u64,
    /// Connections workers have accepted.
    pub(crate) accepted: u64,
    /// Messages cut short by chance.
    pub(crate) truncated: u64,
    /// Datagrams that the world lost, and how.
    pub(crate) lost: Vec<(Loss, Datagram)>,
    /// Of everything a worker did, in order.
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

    /// Takes note of what the caller did: for the digest of the run, and for who looks for its mistake.
    pub(crate) fn note(&mut self, what: &str, fd: Fd, value: u64) {
        // Until every worker stands they begin side by side.
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

    /// Whether this goes wrong, for a worker.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        if self.caller == 0 || !self.armed || !self.faults.strikes(&mut self.dice, fault) {
            return false;
        }
        self.turn.progress = true;
        self.note(fault.name(), BASE, 0);
        true
    }

    /// Whether this happens on the way, whoever has sent it.
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

    /// The lowest descriptor that is free.
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

    /// No descriptor is left for a worker.
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

    /// What `epoll_wait` tells a worker of it, in some order.
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

    /// Something watched that is not ready. Readiness to write is never told of a connection that is being made: there it
    /// is news.
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

    /// Counts what is taken from a descriptor in a turn.
    pub(crate) fn take(&mut self, fd: Fd, what: &'static str) {
        if self.caller > 0 {
            *self.turn.taken.entry((fd, what)).or_default() += 1;
            self.turn.progress = true;
        }
    }

    /// Lets what is due by now happen.
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
