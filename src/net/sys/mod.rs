//! The kernel's socket interface, as safe functions.
//!
//! Only the files of this module may hold `unsafe`, and only around the system call itself: addresses and control
//! messages are encoded and decoded as plain bytes (`address`, `control`), so that nothing but the lifetime of a few
//! pointers has to be believed. Linux only; kernel ABI as of `socket(7)`, `ip(7)`, `ipv6(7)`, `udp(7)`, `epoll(7)`.

pub(crate) mod address;
pub(crate) mod clock;
pub(crate) mod control;
#[cfg(feature = "dtls")]
pub(crate) mod dtls;
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
