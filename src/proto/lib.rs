//! STUN and TURN without a socket: bytes and time in, verdicts out.
//!
//! ```text
//! base     what every floor stands on: time, randomness, addresses, rates.
//! wire     bytes <-> values: STUN, ChannelData, framing. No state, no time.
//! turn     the protocol, sans-IO: (time, packet) -> verdict. No sockets, no clock.
//! ```
//!
//! This is a package of its own, so that the compiler keeps runtimes, sockets and TLS out: its
//! `Cargo.toml` names none of them.

pub mod base;
pub mod turn;
pub mod wire;
