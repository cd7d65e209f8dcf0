//! TCP in the simulated kernel: a connection is two byte queues with a window.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::faults::Fault;
use crate::kernel::{Answer, Due, ERR, Fd, HUP, IN, Kernel, OUT, Object};

/// Bytes that fit between writer and reader.
const WINDOW: usize = 128 * 1024;

/// Data in flight to one side.
#[derive(Default)]
pub(crate) struct Half {
    bytes: VecDeque<u8>,
    /// No data follows.
    ended: bool,
    /// The receiving side has closed its socket.
    closed: bool,
    /// Reset by the other side; reported once.
    reset: bool,
    /// Total bytes written and read.
    written: u64,
    read: u64,
}

/// A connection.
#[derive(Default)]
pub(crate) struct Wire {
    to: [Half; 2],
}

#[derive(Default)]
pub(crate) enum State {
    #[default]
    Fresh,
    Listening {
        /// Connections not accepted yet: wire and source.
        waiting: VecDeque<(usize, SocketAddr)>,
        most: usize,
    },
    Connecting {
        serial: u64,
        to: SocketAddr,
    },
    Failed(i32),
    Open {
        wire: usize,
        side: usize,
    },
}

#[derive(Default)]
pub(crate) struct Tcp {
    pub(crate) state: State,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
    /// Closing resets instead of ending.
    pub(crate) resets: bool,
    /// Its connection broke by a fault, not by a close.
    pub(crate) broken: bool,
}

impl Kernel {
    pub(crate) fn tcp(&mut self, fd: Fd) -> Answer<&mut Tcp> {
        match &mut self.file(fd)?.object {
            Object::Tcp(tcp) => Ok(tcp),
            _ => Err(libc::ENOTSOCK),
        }
    }

    fn wire(&mut self, wire: usize) -> &mut Wire {
        self.wires[wire].as_mut().expect("a connection somebody has an end of")
    }

    fn end_of(&mut self, fd: Fd) -> Answer<(usize, usize)> {
        match self.tcp(fd)?.state {
            State::Open { wire, side } => Ok((wire, side)),
            State::Failed(errno) => Err(errno),
            _ => Err(libc::ENOTCONN),
        }
    }

    pub(crate) fn is_connecting(&self, fd: Fd) -> bool {
        let object = self.files.get(&fd).map(|file| &file.object);
        matches!(
            object,
            Some(Object::Tcp(Tcp {
                state: State::Connecting { .. },
                ..
            }))
        )
    }

    pub(crate) fn bind_tcp(&mut self, fd: Fd, mut address: SocketAddr) -> Answer<usize> {
        if self.strikes(Fault::PortTaken) {
            return Err(libc::EADDRINUSE);
        }
        if address.port() == 0 {
            address.set_port(self.free_port());
        }
        self.tcp(fd)?.local = Some(address);
        Ok(0)
    }

    pub(crate) fn listen(&mut self, fd: Fd, most: usize) -> Answer<usize> {
        let tcp = self.tcp(fd)?;
        let local = tcp.local.ok_or(libc::EINVAL)?;
        tcp.state = State::Listening {
            waiting: VecDeque::new(),
            most,
        };
        match self.listening.insert(local, fd) {
            Some(_) => Err(libc::EADDRINUSE),
            None => Ok(0),
        }
    }

    /// For a worker, a connection takes time.
    pub(crate) fn connect_tcp(&mut self, fd: Fd, to: SocketAddr) -> Answer<usize> {
        if self.tcp(fd)?.local.is_none() {
            self.bind_tcp(fd, SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0))?;
        }
        let serial = self.next_serial();
        self.tcp(fd)?.peer = Some(to);
        self.tcp(fd)?.state = State::Connecting { serial, to };
        if self.caller == 0 {
            self.finish_connect(fd, serial);
            return match self.tcp(fd)?.state {
                State::Open { .. } => Ok(0),
                State::Failed(errno) => Err(errno),
                _ => Err(libc::ETIMEDOUT),
            };
        }
        self.note("connects", fd, u64::from(to.port()));
        for (fault, errno) in [
            (Fault::ConnectUnreachable, libc::ENETUNREACH),
            (Fault::ConnectTaken, libc::EADDRNOTAVAIL),
        ] {
            if self.strikes(fault) {
                self.tcp(fd)?.state = State::Fresh;
                return Err(errno);
            }
        }
        if self.strikes(Fault::ConnectedAtOnce) {
            self.finish_connect(fd, serial);
            match self.tcp(fd)?.state {
                State::Open { .. } => return Ok(0),
                State::Failed(errno) => return Err(errno),
                _ => {}
            }
        }
        if self.strikes(Fault::ConnectTimedOut) {
            self.tcp(fd)?.state = State::Failed(libc::ETIMEDOUT);
            return Err(libc::EINPROGRESS);
        }
        if self.strikes(Fault::ConnectLost) {
            return Err(libc::EINPROGRESS);
        }
        let later = self.now + self.dice.between(10_000, 40_000_000);
        self.due.insert((later, serial), Due::Connect(fd, serial));
        Err(libc::EINPROGRESS)
    }

    pub(crate) fn finish_connect(&mut self, fd: Fd, serial: u64) {
        let Ok(tcp) = self.tcp(fd) else { return };
        let State::Connecting { serial: current, to } = tcp.state else {
            return;
        };
        if current != serial {
            return;
        }
        let from = tcp.local.expect("bound before it connects");
        let wire = self.wires.iter().position(Option::is_none).unwrap_or(self.wires.len());
        let state = match self.listening.get(&to).copied().and_then(|fd| self.tcp(fd).ok()) {
            Some(Tcp {
                state: State::Listening { waiting, most },
                ..
            }) => {
                if waiting.len() > *most {
                    // The first packet is lost, and so is every retransmission.
                    return;
                }
                waiting.push_back((wire, from));
                State::Open { wire, side: 0 }
            }
            _ => State::Failed(libc::ECONNREFUSED),
        };
        if let State::Open { .. } = state {
            if wire == self.wires.len() {
                self.wires.push(None);
            }
            self.wires[wire] = Some(Wire::default());
        }
        if let Ok(tcp) = self.tcp(fd) {
            tcp.state = state;
        }
    }

    /// Connections waiting for accept at listeners of this address.
    pub(crate) fn unaccepted(&mut self, ip: IpAddr) -> usize {
        let at_ip = |(address, fd): (&SocketAddr, &Fd)| (address.ip() == ip).then_some(*fd);
        let listeners: Vec<Fd> = self.listening.iter().filter_map(at_ip).collect();
        let waiting = |fd: Fd| match self.tcp(fd) {
            Ok(Tcp {
                state: State::Listening { waiting, .. },
                ..
            }) => waiting.len(),
            _ => 0,
        };
        listeners.into_iter().map(waiting).sum()
    }

    pub(crate) fn accept(&mut self, fd: Fd) -> Answer<(Fd, SocketAddr)> {
        let tcp = self.tcp(fd)?;
        let local = tcp.local;
        let State::Listening { waiting, .. } = &mut tcp.state else {
            return Err(libc::EINVAL);
        };
        if waiting.is_empty() {
            return Err(libc::EAGAIN);
        }
        self.has_descriptor()?;
        if self.strikes(Fault::Interrupted) {
            return Err(libc::EINTR);
        }
        let State::Listening { waiting, .. } = &mut self.tcp(fd)?.state else {
            return Err(libc::EINVAL);
        };
        let (wire, from) = waiting.pop_front().ok_or(libc::EAGAIN)?;
        self.take(fd, "connections");
        if self.strikes(Fault::AcceptAborted) {
            self.drop_end(wire, 1, true);
            return Err(libc::ECONNABORTED);
        }
        self.accepted += u64::from(self.caller > 0);
        let accepted = self.open(Object::Tcp(Tcp {
            state: State::Open { wire, side: 1 },
            local,
            peer: Some(from),
            ..Tcp::default()
        }));
        Ok((accepted, from))
    }

    pub(crate) fn read_tcp(&mut self, fd: Fd, into: &mut [u8]) -> Answer<usize> {
        let (wire, side) = self.end_of(fd)?;
        // A socket that has hung up has data or its end. After an EAGAIN there would be no further
        // wake-up.
        let hung_up = self.wire(wire).to.iter().all(|half| half.ended);
        if !hung_up && self.strikes(Fault::ReadAgain) {
            return Err(libc::EAGAIN);
        }
        if self.strikes(Fault::Interrupted) {
            return Err(libc::EINTR);
        }
        if self.strikes(Fault::Reset) {
            self.break_off(wire, side);
        }
        let short = self.strikes(Fault::ShortRead);
        let part = self.dice.below(64) as usize + 1;
        let half = &mut self.wire(wire).to[side];
        if std::mem::take(&mut half.reset) {
            half.ended = true;
            half.bytes.clear();
            self.take(fd, "reads");
            return Err(libc::ECONNRESET);
        }
        if half.bytes.is_empty() && !half.ended {
            return Err(libc::EAGAIN);
        }
        let mut len = half.bytes.len().min(into.len());
        if short {
            len = len.min(part);
        }
        for (place, byte) in into.iter_mut().zip(half.bytes.drain(..len)) {
            *place = byte;
        }
        half.read += len as u64;
        self.take(fd, "reads");
        self.note("reads", fd, len as u64);
        Ok(len)
    }

    pub(crate) fn write_tcp(&mut self, fd: Fd, bytes: &[u8]) -> Answer<usize> {
        let (wire, side) = self.end_of(fd)?;
        if self.strikes(Fault::WriteAgain) {
            return Err(libc::EAGAIN);
        }
        if self.strikes(Fault::Interrupted) {
            return Err(libc::EINTR);
        }
        if self.strikes(Fault::BrokenPipe) {
            self.break_off(wire, side);
        }
        let short = self.strikes(Fault::ShortWrite);
        let part = self.dice.below(64) as usize + 1;
        let [own, other] = self.halves(wire, side);
        if own.reset || other.ended || other.closed {
            if other.closed && !own.reset {
                own.reset = true;
            }
            return Err(libc::EPIPE);
        }
        let room = WINDOW.saturating_sub(other.bytes.len());
        if room == 0 {
            return Err(libc::EAGAIN);
        }
        let mut len = bytes.len().min(room);
        if short {
            len = len.min(part);
        }
        other.bytes.extend(&bytes[..len]);
        other.written += len as u64;
        self.turn.progress = true;
        self.note("writes", fd, len as u64);
        Ok(len)
    }

    /// The half to `side`, and the other half.
    fn halves(&mut self, wire: usize, side: usize) -> [&mut Half; 2] {
        let [a, b] = &mut self.wire(wire).to;
        if side == 0 { [a, b] } else { [b, a] }
    }

    /// Breaks the connection, which both sides notice.
    fn break_off(&mut self, wire: usize, side: usize) {
        for half in self.halves(wire, side) {
            half.reset = true;
        }
        for file in self.files.values_mut() {
            if let Object::Tcp(tcp) = &mut file.object
                && matches!(tcp.state, State::Open { wire: other, .. } if other == wire)
            {
                tcp.broken = true;
            }
        }
    }

    pub(crate) fn shutdown(&mut self, fd: Fd) -> Answer<usize> {
        let (wire, side) = self.end_of(fd)?;
        let [own, other] = self.halves(wire, side);
        if own.reset {
            return Err(libc::ENOTCONN);
        }
        other.ended = true;
        self.turn.progress = true;
        self.note("ends", fd, 0);
        Ok(0)
    }

    pub(crate) fn closed_tcp(&mut self, fd: Fd, tcp: Tcp) {
        match tcp.state {
            State::Listening { waiting, .. } => {
                if let Some(local) = tcp.local
                    && self.listening.get(&local) == Some(&fd)
                {
                    self.listening.remove(&local);
                }
                for (wire, _) in waiting {
                    self.drop_end(wire, 1, true);
                }
            }
            State::Open { wire, side } => self.drop_end(wire, side, tcp.resets),
            _ => {}
        }
    }

    /// One side has closed. Unread data causes a reset.
    fn drop_end(&mut self, wire: usize, side: usize, reset: bool) {
        let [own, other] = self.halves(wire, side);
        other.reset |= reset || !own.bytes.is_empty();
        other.ended = true;
        own.closed = true;
        if own.closed && other.closed {
            self.wires[wire] = None;
        }
    }

    pub(crate) fn tcp_readiness(&self, tcp: &Tcp) -> u32 {
        match &tcp.state {
            State::Fresh => OUT | HUP,
            State::Listening { waiting, .. } => {
                if waiting.is_empty() {
                    0
                } else {
                    IN
                }
            }
            State::Connecting { .. } => 0,
            State::Failed(_) => IN | OUT | ERR | HUP,
            &State::Open { wire, side } => {
                let Some(wire) = &self.wires[wire] else { return HUP };
                let (own, other) = (&wire.to[side], &wire.to[1 - side]);
                let broken = own.reset;
                let readable = !own.bytes.is_empty() || own.ended || broken;
                let writable = other.bytes.len() <= WINDOW * 2 / 3 || other.ended || other.closed || broken;
                let over = (own.ended && other.ended) || broken;
                (if readable { IN } else { 0 })
                    | (if writable { OUT } else { 0 })
                    | (if over { HUP } else { 0 })
                    | (if broken { ERR } else { 0 })
            }
        }
    }

    /// SO_ERROR.
    pub(crate) fn pending_error(&mut self, fd: Fd) -> Answer<i32> {
        Ok(match self.tcp(fd)?.state {
            State::Failed(errno) => errno,
            _ => 0,
        })
    }

    /// The fields of `struct tcp_info` that are used.
    pub(crate) fn tcp_info(&mut self, fd: Fd) -> Answer<Vec<u8>> {
        if self.strikes(Fault::NoTcpInfo) {
            return Err(libc::ENOPROTOOPT);
        }
        let (wire, side) = self.end_of(fd)?;
        let [_, other] = self.halves(wire, side);
        let (acknowledged, sent) = (other.read, other.written);
        let mut info = vec![0; 232];
        let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
        put(68, &1000_u32.to_ne_bytes());
        put(120, &acknowledged.to_ne_bytes());
        put(148, &1000_u32.to_ne_bytes());
        put(200, &sent.to_ne_bytes());
        put(228, &(WINDOW as u32).to_ne_bytes());
        Ok(info)
    }
}
