//! Socket and thread options that neither the standard library nor `socket2` sets.

#![expect(
    unsafe_code,
    reason = "setsockopt, getsockopt and prctl take pointers or variable arguments"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;
use super::control::{UDP_GRO, UDP_SEGMENT};

/// `PR_SET_TIMERSLACK` of `linux/prctl.h`.
const PR_SET_TIMERSLACK: libc::c_int = 29;

fn set(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is an int on this stack frame and its exact size is given; the descriptor
    // is borrowed, so it is open.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

fn get(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `len` is the exact size of `value`.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    check(result).map(|_| value)
}

/// Lets the kernel deliver several datagrams of one flow as one (UDP_GRO).
pub(crate) fn set_gro(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_UDP, UDP_GRO, 1)
}

/// Whether the kernel supports UDP_SEGMENT.
pub(crate) fn knows_gso(fd: BorrowedFd<'_>) -> bool {
    get(fd, libc::SOL_UDP, UDP_SEGMENT).is_ok()
}

/// Reports the local address of each datagram.
pub(crate) fn set_packet_info(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set(fd, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set(fd, libc::SOL_IP, libc::IP_PKTINFO, 1)
    }
}

/// Reports DSCP and ECN of each datagram.
pub(crate) fn set_receive_traffic_class(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set(fd, libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1)
    } else {
        set(fd, libc::SOL_IP, libc::IP_RECVTOS, 1)
    }
}

/// Queues ICMP errors for `message::receive_error`.
pub(crate) fn set_receive_errors(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set(fd, libc::SOL_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set(fd, libc::SOL_IP, libc::IP_RECVERR, 1)
    }
}

/// Whether datagrams leave unfragmented.
///
/// Off is the default state of every socket: DF is clear. For IPv4 this is `OMIT`, not `DONT`.
/// `OMIT` also ignores path MTUs learned from ICMP, which can be forged, and still reports
/// "fragmentation needed" to the error queue, which `DONT` hides. For IPv6 it is `DONT`: datagrams
/// that are too long are fragmented here, because no router would, and the error is reported as
/// well. On: DF is set, nothing is fragmented, and learned path MTUs are ignored (`PROBE`), because
/// a client that requests DONT-FRAGMENT searches the path MTU itself.
pub(crate) fn set_dont_fragment(fd: BorrowedFd<'_>, ipv6: bool, on: bool) -> io::Result<()> {
    if ipv6 {
        let mode = if on {
            libc::IPV6_PMTUDISC_PROBE
        } else {
            libc::IPV6_PMTUDISC_DONT
        };
        set(fd, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, mode)?;
        set(fd, libc::SOL_IPV6, libc::IPV6_DONTFRAG, libc::c_int::from(on))
    } else {
        let mode = if on {
            libc::IP_PMTUDISC_PROBE
        } else {
            libc::IP_PMTUDISC_OMIT
        };
        set(fd, libc::SOL_IP, libc::IP_MTU_DISCOVER, mode)
    }
}

/// Makes this thread's sleeps as exact as the kernel can (by default they end up to 50 µs late).
pub fn set_exact_sleep() -> io::Result<()> {
    // SAFETY: PR_SET_TIMERSLACK takes one unsigned long and accesses no memory of this process.
    check(unsafe { libc::prctl(PR_SET_TIMERSLACK, 1 as libc::c_ulong) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn every_option_is_taken_by_both_families() {
        for (bind, ipv6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let socket = UdpSocket::bind(bind).unwrap();
            let fd = socket.as_fd();
            set_gro(fd).unwrap();
            assert!(knows_gso(fd));
            set_packet_info(fd, ipv6).unwrap();
            set_receive_traffic_class(fd, ipv6).unwrap();
            set_receive_errors(fd, ipv6).unwrap();
            for on in [false, true, false] {
                set_dont_fragment(fd, ipv6, on).unwrap();
                let (level, name, off) = if ipv6 {
                    (libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
                } else {
                    (libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
                };
                assert_eq!(
                    get(fd, level, name).unwrap(),
                    if on { libc::IP_PMTUDISC_PROBE } else { off }
                );
            }
        }
    }

    #[test]
    fn an_option_of_the_wrong_kind_of_socket_is_an_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(set_gro(listener.as_fd()).is_err());
        assert!(!knows_gso(listener.as_fd()));
    }

    #[test]
    fn exact_sleep_is_granted() {
        /// `PR_GET_TIMERSLACK` of `linux/prctl.h`.
        const PR_GET_TIMERSLACK: libc::c_int = 30;
        let slack = std::thread::spawn(|| {
            set_exact_sleep().unwrap();
            // SAFETY: it takes no further argument and accesses no memory of this process.
            unsafe { libc::prctl(PR_GET_TIMERSLACK) }
        });
        assert_eq!(slack.join().unwrap(), 1, "nanosecond");
    }
}
