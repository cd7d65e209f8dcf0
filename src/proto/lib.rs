//! STUN and TURN without a socket: bytes and time in, verdicts out.
//!
//! ```text
//! base     what every floor stands on: time, randomness, addresses, rates.
//! wire     bytes <-> values: STUN, ChannelData, framing. No state, no time.
//! turn     the protocol, sans-IO: (time, packet) -> verdict. No sockets, no clock.
//! ```
//!
//! A package of its own, so that the compiler keeps runtimes, sockets and TLS out of it: none is in its `Cargo.toml`.

pub mod base;
pub mod turn;
pub mod wire;
