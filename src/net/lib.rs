//! Sockets and transports: how bytes reach the protocol and leave it again.
//!
//! Knows batches, gather I/O, kernel offloads, stream queues and errno. Knows nothing of
//! allocations, users or configuration files.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")
)]

pub mod clock;
#[cfg(feature = "dtls")]
pub mod dtls;
pub mod local;
pub mod stream;
pub(crate) mod sys;
pub mod tcp;
pub mod tls;
pub mod udp;

pub use self::sys::address::canonical;
pub use self::sys::options::set_exact_sleep;
pub use self::sys::tcp_info::path_state;
pub use self::sys::{environment, epoll};
