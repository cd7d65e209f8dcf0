//! The kernel's socket interface, as safe functions.
//!
//! Only this module and `dtls::ffi` contain `unsafe`, and only around the call itself. Addresses
//! and control messages are encoded and decoded as plain bytes (`address`, `control`), so only the
//! lifetimes of a few pointers have to be trusted. Linux only; kernel ABI as of `socket(7)`,
//! `ip(7)`, `ipv6(7)`, `udp(7)`, `epoll(7)`.
//!
//! Which crate makes which calls: `rustix` whatever it wraps (epoll, clocks, files, limits,
//! capabilities); `socket2` creates sockets and sets options; `libc` what neither wraps
//! (`recvmmsg`, `sendmmsg`, the error queue, `TCP_INFO`), and `eventfd`; `if-addrs` lists
//! interfaces; `netlink-*` follows the local routing table.

pub(crate) mod address;
pub(crate) mod control;
pub mod environment;
pub mod epoll;
pub(crate) mod message;
pub(crate) mod options;
pub(crate) mod tcp_info;

use std::io;

/// Converts the C convention "-1 and errno" to a `Result`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
