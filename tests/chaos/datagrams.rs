//! UDP in the simulated kernel: GRO, GSO, error queues, groups of sockets at one address.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::bytes::{control, encode_address, put_control};
use crate::faults::Fault;
use crate::kernel::{Answer, ERR, Fd, IN, Kernel, Loss, OUT, Object};
use crate::sealed::is_record;

const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
/// Most segments that the kernel accepts.
const MAX_SEGMENTS: usize = 64;
/// Datagrams that a socket holds for its reader; further ones are lost, as with SO_RCVBUF.
const ROOM: usize = 4096;

/// A datagram at its destination.
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) tos: u8,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Udp {
    pub(crate) local: Option<SocketAddr>,
    pub(crate) connected: Option<SocketAddr>,
    pub(crate) shares_port: bool,
    pub(crate) inbox: VecDeque<Datagram>,
    /// Destinations of datagrams that caused ICMP errors.
    pub(crate) errors: VecDeque<SocketAddr>,
    pub(crate) queues_errors: bool,
    pub(crate) pending: i32,
    pub(crate) gro: bool,
    pub(crate) tells_tos: bool,
    pub(crate) tells_local: bool,
    /// Why it does not segment.
    gso_refused: Option<i32>,
}

/// The result of `recvmsg`.
pub(crate) struct Got {
    pub(crate) len: usize,
    pub(crate) from: Option<SocketAddr>,
    pub(crate) control: Vec<u8>,
    pub(crate) flags: i32,
}

impl Udp {
    pub(crate) fn readiness(&self) -> u32 {
        let error = self.pending != 0 || !self.errors.is_empty();
        let readable = !self.inbox.is_empty() || self.pending != 0;
        OUT | if readable { IN } else { 0 } | if error { ERR } else { 0 }
    }
}

impl Kernel {
    pub(crate) fn udp(&mut self, fd: Fd) -> Answer<&mut Udp> {
        match &mut self.file(fd)?.object {
            Object::Udp(udp) => Ok(udp),
            _ => Err(libc::ENOTSOCK),
        }
    }

    pub(crate) fn bind_udp(&mut self, fd: Fd, mut address: SocketAddr) -> Answer<usize> {
        if self.strikes(Fault::PortTaken) {
            return Err(libc::EADDRINUSE);
        }
        if address.port() == 0 {
            address.set_port(self.free_port());
        }
        let shares = self.udp(fd)?.shares_port;
        let others = self.bound.get(&address).cloned().unwrap_or_default();
        for other in others {
            if !shares || !self.udp(other)?.shares_port {
                return Err(libc::EADDRINUSE);
            }
        }
        self.udp(fd)?.local = Some(address);
        self.bound.entry(address).or_default().push(fd);
        Ok(0)
    }

    pub(crate) fn connect_udp(&mut self, fd: Fd, address: SocketAddr) -> Answer<usize> {
        if self.udp(fd)?.local.is_none() {
            let any = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0);
            self.bind_udp(fd, any)?;
        }
        self.udp(fd)?.connected = Some(address);
        Ok(0)
    }

    pub(crate) fn closed_udp(&mut self, fd: Fd, udp: Udp) {
        if let Some(local) = udp.local
            && let Some(sockets) = self.bound.get_mut(&local)
        {
            sockets.retain(|&other| other != fd);
            if sockets.is_empty() {
                self.bound.remove(&local);
            }
        }
        self.lost
            .extend(udp.inbox.into_iter().map(|datagram| (Loss::Unread, datagram)));
    }

    /// The receiving socket: of several at one address, always the same one for a sender.
    fn destination(&self, from: SocketAddr, to: SocketAddr) -> Option<Fd> {
        let everywhere = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), to.port());
        let sockets = self.bound.get(&to).or_else(|| self.bound.get(&everywhere))?;
        let hash = encode_address(from)
            .iter()
            .fold(7_usize, |hash, &byte| hash * 31 % 65_521 + usize::from(byte));
        sockets.get(hash % sockets.len()).copied()
    }

    fn send_fault(&mut self, fd: Fd, segmented: bool) -> Answer<()> {
        let pending = std::mem::take(&mut self.udp(fd)?.pending);
        if pending != 0 {
            self.turn.progress = true;
            return Err(pending);
        }
        if segmented {
            if self.strikes(Fault::GsoRefused) {
                let errno = *self.dice.pick(&[libc::EIO, libc::EINVAL, libc::EMSGSIZE]);
                self.udp(fd)?.gso_refused = Some(errno);
            }
            if let Some(errno) = self.udp(fd)?.gso_refused {
                self.turn.progress = true;
                return Err(errno);
            }
        }
        for (fault, errno) in [
            (Fault::SendAgain, libc::EAGAIN),
            (Fault::SendNoBuffers, libc::ENOBUFS),
            (Fault::SendRefused, libc::ECONNREFUSED),
            (Fault::SendUnreachable, libc::ENETUNREACH),
            (Fault::SendTooLong, libc::EMSGSIZE),
            (Fault::SendForbidden, libc::EPERM),
            (Fault::SendInterrupted, libc::EINTR),
        ] {
            if self.strikes(fault) {
                return Err(errno);
            }
        }
        Ok(())
    }

    pub(crate) fn send_datagram(
        &mut self,
        fd: Fd,
        to: Option<SocketAddr>,
        controls: &[u8],
        bytes: Vec<u8>,
    ) -> Answer<usize> {
        let segment = control(controls, libc::SOL_UDP, UDP_SEGMENT)
            .and_then(|data| data.first_chunk())
            .map(|&size| usize::from(u16::from_ne_bytes(size)));
        self.send_fault(fd, segment.is_some())?;
        let udp = self.udp(fd)?;
        let to = to.or(udp.connected).ok_or(libc::EDESTADDRREQ)?;
        let mut from = udp.local.ok_or(libc::EINVAL)?;
        if let Some(source) = control(controls, libc::SOL_IP, libc::IP_PKTINFO) {
            let source: [u8; 4] = *source[4..].first_chunk().ok_or(libc::EINVAL)?;
            from.set_ip(IpAddr::from(source));
        }
        let tos = control(controls, libc::SOL_IP, libc::IP_TOS).map_or(0, |data| data[0]);
        let len = bytes.len();
        let size = segment.unwrap_or(len).max(1);
        let count = len.div_ceil(size).max(1);
        if len > 65_507 || count > MAX_SEGMENTS {
            return Err(libc::EMSGSIZE);
        }
        if self.caller > 0 {
            self.sent += count as u64;
            self.turn.progress = true;
            self.note("sends", fd, len as u64);
        }
        let mut rest = bytes;
        for _ in 0..count {
            let tail = rest.split_off(size.min(rest.len()));
            let datagram = std::mem::replace(&mut rest, tail);
            self.deliver(
                fd,
                Datagram {
                    from,
                    to,
                    tos,
                    bytes: datagram,
                },
            )?;
        }
        Ok(len)
    }

    fn deliver(&mut self, sender: Fd, datagram: Datagram) -> Answer<()> {
        let (from, to) = (datagram.from, datagram.to);
        let Some(fd) = self.destination(from, to) else {
            self.lost.push((Loss::Stray, datagram));
            let udp = self.udp(sender)?;
            if udp.queues_errors {
                udp.errors.push_back(to);
                udp.pending = libc::ECONNREFUSED;
            }
            return Ok(());
        };
        // What is not encrypted must not arrive twice or out of order: the ledger could not
        // distinguish that from a fault.
        let record = is_record(&datagram.bytes);
        if record && self.happens(Fault::RecordLost) {
            self.lost.push((Loss::Wire, datagram));
            return Ok(());
        }
        let twice = record && self.happens(Fault::RecordDoubled);
        let late = record && self.happens(Fault::RecordLate);
        let udp = self.udp(fd)?;
        if udp.connected.is_some_and(|peer| peer != from) {
            self.lost.push((Loss::WrongSource, datagram));
        } else if udp.inbox.len() >= ROOM {
            self.lost.push((Loss::Overflow, datagram));
        } else {
            let mut again = Datagram {
                bytes: Vec::new(),
                ..datagram
            };
            if twice {
                again.bytes.clone_from(&datagram.bytes);
            }
            // Only ahead of other DTLS records.
            let before = udp.inbox.iter().rev().take(if late { 3 } else { 0 });
            let passed = before.take_while(|other| is_record(&other.bytes)).count();
            udp.inbox.insert(udp.inbox.len() - passed, datagram);
            if twice {
                udp.inbox.push_back(again);
            }
        }
        Ok(())
    }

    /// Several datagrams of one flow and size as one, if the socket has GRO.
    fn coalesced(&mut self, fd: Fd) -> Answer<Option<(Datagram, Option<usize>)>> {
        let most = if self.dice.percent(30) {
            1
        } else {
            self.dice.between(1, MAX_SEGMENTS as u64) as usize
        };
        let udp = self.udp(fd)?;
        let Some(mut first) = udp.inbox.pop_front() else {
            return Ok(None);
        };
        let size = first.bytes.len();
        if !udp.gro || size == 0 {
            return Ok(Some((first, None)));
        }
        let mut segments = 1;
        while segments < most
            && let Some(next) = udp.inbox.front()
            && (next.from, next.tos) == (first.from, first.tos)
            && (1..=size).contains(&next.bytes.len())
            && first.bytes.len() + next.bytes.len() <= 65_000
        {
            let last = next.bytes.len() < size;
            let next = udp.inbox.pop_front().ok_or(libc::EAGAIN)?;
            first.bytes.extend(next.bytes);
            segments += 1;
            if last {
                break;
            }
        }
        Ok(Some((first, (segments > 1).then_some(size))))
    }

    pub(crate) fn receive_datagram(&mut self, fd: Fd, into: &mut [u8]) -> Answer<Got> {
        let pending = std::mem::take(&mut self.udp(fd)?.pending);
        if pending != 0 {
            self.turn.progress = true;
            return Err(pending);
        }
        if self.strikes(Fault::ReceiveAgain) {
            return Err(libc::EAGAIN);
        }
        if self.strikes(Fault::ReceiveInterrupted) {
            return Err(libc::EINTR);
        }
        if self.strikes(Fault::ReceiveError) {
            return Err(libc::EHOSTUNREACH);
        }
        let Some((datagram, segment)) = self.coalesced(fd)? else {
            return Err(libc::EAGAIN);
        };
        let mut controls = Vec::new();
        let udp = self.udp(fd)?;
        if let Some(size) = segment {
            put_control(&mut controls, libc::SOL_UDP, UDP_GRO, &(size as i32).to_ne_bytes());
        }
        if udp.tells_tos {
            put_control(&mut controls, libc::SOL_IP, libc::IP_TOS, &[datagram.tos]);
        }
        if udp.tells_local
            && let IpAddr::V4(ip) = datagram.to.ip()
        {
            let info = [[0; 4], ip.octets(), ip.octets()].concat();
            put_control(&mut controls, libc::SOL_IP, libc::IP_PKTINFO, &info);
        }
        let len = datagram.bytes.len().min(into.len());
        into[..len].copy_from_slice(&datagram.bytes[..len]);
        let count = segment.map_or(1, |size| datagram.bytes.len().div_ceil(size)) as u64;
        let mut flags = 0;
        if self.caller > 0 {
            self.take(fd, "messages");
            self.note("receives", fd, len as u64);
            if self.strikes(Fault::Truncated) {
                flags = libc::MSG_CTRUNC;
                self.truncated += 1;
                let (from, to, tos) = (datagram.from, datagram.to, datagram.tos);
                let parts = datagram.bytes.chunks(segment.unwrap_or(len).max(1)).map(<[u8]>::to_vec);
                let part = |bytes| (Loss::Truncated, Datagram { from, to, tos, bytes });
                self.lost.extend(parts.map(part));
            } else {
                self.received += count;
            }
        }
        Ok(Got {
            len,
            from: Some(datagram.from),
            control: controls,
            flags,
        })
    }

    pub(crate) fn receive_error(&mut self, fd: Fd) -> Answer<Got> {
        let to = self.udp(fd)?.errors.pop_front().ok_or(libc::EAGAIN)?;
        self.take(fd, "errors");
        self.note("takes an error of", fd, u64::from(to.port()));
        // struct sock_extended_err: errno, origin ICMP, type 3, code 3.
        let mut report = libc::ECONNREFUSED.to_ne_bytes().to_vec();
        report.extend([libc::SO_EE_ORIGIN_ICMP, 3, 3, 0]);
        report.extend([0; 8]);
        let mut controls = Vec::new();
        put_control(&mut controls, libc::SOL_IP, libc::IP_RECVERR, &report);
        Ok(Got {
            len: 0,
            from: Some(to),
            control: controls,
            flags: libc::MSG_ERRQUEUE,
        })
    }
}
