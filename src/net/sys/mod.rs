//! The kernel's socket interface, as safe functions.
//!
//! `unsafe` stands here and in `dtls::ffi` alone, and only around the call itself: addresses and control messages are
//! encoded and decoded as plain bytes (`address`, `control`), so only the lifetime of a few pointers must be trusted.
//! Linux only; kernel ABI as of `socket(7)`, `ip(7)`, `ipv6(7)`, `udp(7)`, `epoll(7)`.
//!
//! Which crate speaks to the kernel: `rustix` wherever it wraps a call (epoll, clocks, files, limits,
//! capabilities); `socket2` to make sockets and set options; `libc` for what neither wraps (`recvmmsg`, `sendmmsg`, the
//! error queue, `TCP_INFO`) and for `eventfd`; `if-addrs` to list interfaces, and `netlink-*` to follow the local routing table.

pub(crate) mod address;
pub(crate) mod control;
pub mod environment;
pub mod epoll;
pub(crate) mod message;
pub(crate) mod options;
pub(crate) mod tcp_info;

use std::io;

/// Turns the C convention "-1 and errno" into a `Result`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
