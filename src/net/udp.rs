//! UDP in batches: `recvmmsg` with GRO in, gathered `sendmmsg` with GSO out.
//!
//! A packet costs several microseconds in the kernel's UDP stack and a fraction of one in ours. So
//! the only way to be faster is to pass fewer, larger packets through the stack. Several datagrams
//! of one flow cross it as one (UDP_GRO for receiving, UDP_SEGMENT for sending) if the sender sends
//! them together, as video does.
//!
//! [`RecvBatch`] receives datagrams from any number of sockets into one slab. [`SendBatch`]
//! collects outgoing datagrams as ranges of that slab with small headers in front, and sends them
//! grouped by socket. No byte of application data is copied in between. The order within a flow
//! (socket, destination) is kept. Nothing is retried later: what the kernel refuses is counted and
//! lost, as UDP allows.
//!
//! Deliberately absent: copying the TTL (RFC 8656 §14 leaves it open), and zero-copy sending (it
//! only pays above 10 KB).

mod datagram;
mod queue;
mod receive;
mod send;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub use self::datagram::{Datagram, Full};
pub use self::receive::{Datagrams, RecvBatch, Slot};
pub use self::send::{SendBatch, SendError, SendStats};
use super::sys::{address, options};
use relay_proto::base::time::Instant;

/// How long a socket avoids GSO for sizes that the kernel has refused.
const GSO_RETRY: Duration = Duration::from_secs(10);

/// Whether the kernel supports UDP_SEGMENT.
static GSO: OnceLock<bool> = OnceLock::new();

/// Options of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// SO_RCVBUF in bytes; 0 leaves the system's default.
    pub receive_buffer: usize,
    /// SO_SNDBUF in bytes; 0 leaves the system's default.
    pub send_buffer: usize,
    /// UDP_GRO and UDP_SEGMENT, if the kernel supports them.
    pub offload: bool,
    /// Queue ICMP errors (`IP_RECVERR`), to be read with [`UdpSocket::take_error`].
    pub errors: bool,
    /// Report DSCP and ECN of each datagram.
    pub traffic_class: bool,
}

/// A bound, non-blocking UDP socket with its usable offloads.
///
/// An IPv6 socket is `IPV6_V6ONLY`. DF is only set for a datagram that requests it.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    local: SocketAddr,
    gro: bool,
    gso: Cell<Gso>,
}

/// The segmentation that the kernel supports on a socket.
#[derive(Clone, Copy, Debug)]
struct Gso {
    /// Largest segment to try; 0 disables GSO permanently.
    limit: u16,
    /// When a lowered limit ends.
    retry_at: Option<Instant>,
}

impl UdpSocket {
    /// Binds `addr`; port 0 means any port.
    ///
    /// # Errors
    /// Those of `socket` and `bind`. An unavailable buffer size or offload is not an error.
    pub fn bind(addr: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        Self::open(addr, options, false)
    }

    /// Binds `count` sockets to one address. The kernel distributes the clients between them
    /// (SO_REUSEPORT).
    ///
    /// SO_REUSEPORT would also let a second server of the same user bind the same port and silently
    /// take half of the clients. So the address is first bound exclusively.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_group(addr: SocketAddr, count: usize, options: &UdpOptions) -> io::Result<Vec<Self>> {
        let alone = Self::open(addr, options, false)?;
        if count <= 1 {
            return Ok(vec![alone]);
        }
        let addr = alone.local;
        drop(alone);
        (0..count).map(|_| Self::open(addr, options, true)).collect()
    }

    /// Binds any port of this machine, and from then on receives only from `peer`. Before that,
    /// other hosts may have sent packets, which the caller must recognise by their source.
    ///
    /// # Errors
    /// As [`Self::bind`], and if there is no route to `peer`.
    pub fn connect(peer: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let socket = Self::prepare(peer, options)?;
        socket.connect(&peer.into())?;
        Self::finish(socket, None, options)
    }

    fn open(addr: SocketAddr, wanted: &UdpOptions, shared: bool) -> io::Result<Self> {
        let socket = Self::prepare(addr, wanted)?;
        if shared {
            socket.set_reuse_port(true)?;
        }
        if addr.ip().is_unspecified() {
            options::set_packet_info(socket.as_fd(), addr.is_ipv6())?;
        }
        socket.bind(&addr.into())?;
        // A given port is the bound port. Asking the kernel would cost another system call per
        // allocation.
        Self::finish(socket, (addr.port() != 0).then_some(addr), wanted)
    }

    /// A socket for the family of `addr`, neither bound nor connected.
    fn prepare(addr: SocketAddr, wanted: &UdpOptions) -> io::Result<Socket> {
        let ipv6 = addr.is_ipv6();
        let socket = Socket::new(
            Domain::for_address(addr),
            Type::DGRAM.nonblocking(),
            Some(Protocol::UDP),
        )?;
        if ipv6 {
            socket.set_only_v6(true)?;
        }
        // The system's maximum may reduce these. A smaller buffer is no reason not to serve.
        if wanted.receive_buffer > 0 {
            let _ = socket.set_recv_buffer_size(wanted.receive_buffer);
        }
        if wanted.send_buffer > 0 {
            let _ = socket.set_send_buffer_size(wanted.send_buffer);
        }
        options::set_dont_fragment(socket.as_fd(), ipv6, false)?;
        if wanted.errors {
            options::set_receive_errors(socket.as_fd(), ipv6)?;
        }
        if wanted.traffic_class {
            options::set_receive_traffic_class(socket.as_fd(), ipv6)?;
        }
        Ok(socket)
    }

    /// `local` is the bound address, if it is known.
    fn finish(socket: Socket, local: Option<SocketAddr>, wanted: &UdpOptions) -> io::Result<Self> {
        let local = match local {
            Some(local) => local,
            None => socket
                .local_addr()?
                .as_socket()
                .ok_or_else(|| io::Error::other("no IP socket"))?,
        };
        let gro = wanted.offload && options::set_gro(socket.as_fd()).is_ok();
        // The same for every socket, so the kernel is asked only once.
        let gso = wanted.offload && *GSO.get_or_init(|| options::knows_gso(socket.as_fd()));
        let limit = if gso { u16::MAX } else { 0 };
        Ok(Self {
            fd: socket.into(),
            local: address::canonical(local),
            gro,
            gso: Cell::new(Gso { limit, retry_at: None }),
        })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether it is bound to all local addresses, so that a reply must specify its source.
    pub fn is_wildcard(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// Whether several datagrams may arrive as one.
    pub fn uses_gro(&self) -> bool {
        self.gro
    }

    /// Whether several datagrams may leave as one.
    pub fn uses_gso(&self) -> bool {
        self.gso.get().limit > 0
    }

    /// Takes the pending error of a socket that does not queue errors; `None` if there is none.
    pub fn take_pending(&self) -> Option<io::Error> {
        SockRef::from(&self.fd).take_error().ok()?
    }

    /// Takes one ICMP error from the queue; `None` if there is none. Skips errors of the kernel
    /// itself (a datagram larger than the interface supports).
    pub fn take_error(&self) -> Option<IcmpError> {
        loop {
            let entry = super::sys::message::receive_error(self.as_fd()).ok()?;
            let Some(entry) = entry else { continue };
            let from_network = matches!(entry.error.origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
            if let (true, Some(destination)) = (from_network, entry.destination) {
                return Some(IcmpError {
                    destination,
                    kind: entry.error.kind,
                    code: entry.error.code,
                    info: entry.error.info,
                });
            }
        }
    }

    /// Largest datagram that can be sent as a segment at `now`.
    fn gso_limit(&self, now: Instant) -> usize {
        let gso = self.gso.get();
        if gso.retry_at.is_some_and(|at| now >= at) {
            self.gso.set(Gso {
                limit: u16::MAX,
                retry_at: None,
            });
            return usize::from(u16::MAX);
        }
        usize::from(gso.limit)
    }

    /// Records that the kernel refused to segment: permanently if the device cannot (EIO),
    /// temporarily if the size was the reason. In that case the MTU of the route is smaller, and
    /// these datagrams must be fragmented one by one.
    fn refuse_gso(&self, errno: i32, size: usize, now: Instant) {
        let limit = u16::try_from(size.saturating_sub(1)).unwrap_or(u16::MAX);
        self.gso.set(if errno == libc::EIO || limit == 0 {
            Gso {
                limit: 0,
                retry_at: None,
            }
        } else {
            Gso {
                limit,
                retry_at: Some(now + GSO_RETRY),
            }
        });
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An ICMP error about a datagram sent from here (RFC 8656 §11.5). The family of `destination`
/// determines which ICMP it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// The destination of that datagram, not the sender of the error.
    pub destination: SocketAddr,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The next hop's MTU, if type and code report one.
    pub info: u32,
}

#[cfg(test)]
mod tests;
