//! The TURN protocol (RFC 8656, RFC 8489), sans-IO: packets and time go in, verdicts, commands and events come out.
//!
//! Nothing here reads a clock, a socket, a file, the environment or a global random generator.

pub mod auth;
pub mod config;
pub mod counters;
pub mod credential;
pub mod limits;
pub mod nonce;
pub mod output;
pub mod policy;
pub mod quota;
pub mod rng;
pub mod time;
pub mod types;
