//! Workers with real sockets on loopback.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]
#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod displaced;
#[cfg(feature = "dtls")]
mod dtls;
mod http3;
mod ip_header;
mod longest;
mod mobility;
mod ports;
mod strangers;
mod stream;
mod tcp;
mod turn;
mod udp;
