//! `relay`: a TURN/STUN server for networks where nothing but port 443 is open.
//!
//! The modules are floors, and imports run one way only: each uses only what stands above it in this list.
//!
//! ```text
//! base     what every floor stands on: time, randomness, addresses, rates.
//! wire     bytes <-> values: STUN, ChannelData, framing. No state, no time.
//! turn     the protocol, sans-IO: (time, packet) -> verdict. No sockets, no clock.
//! net      sockets and carriers: batched UDP, streams with their queues, TLS.
//! client   a TURN client over UDP, TCP and TLS, for `relay bench`.
//! shard    one worker thread per core: owns one turn::Server and its sockets.
//! machine  what the process sees of the machine: environment, addresses, files, its own limits.
//! config   what an operator may set: read, checked, resolved. The only place that knows TOML.
//! edge     where connections come in: listeners, certificates, the front door.
//! control  what operators ask: credentials API, metrics, health.
//! daemon   the life of the process: start, reload, what is watched, the end, logs.
//! cli      subcommands
//! ```
//!
//! The first three are the package `relay-proto`, the fourth is `relay-net`, the fifth `relay-client`, so that the compiler
//! holds them to it. The feature `bench` carries `relay bench`, the feature `dtls` TURN over DTLS; both are on by default.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")
)]

pub use relay_net as net;
pub use relay_proto::{base, turn, wire};

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod edge;
pub mod machine;
pub mod shard;
