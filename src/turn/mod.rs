//! The TURN protocol (RFC 8656, RFC 8489), sans-IO: packets and time go in, verdicts, commands and events come out.
//!
//! Nothing here reads a clock, a socket, a file, the environment or a global random generator.

mod allocate;
mod allocation;
pub mod auth;
mod binding;
mod channel;
pub mod config;
mod connect;
pub mod counters;
pub mod credential;
pub mod discovery;
pub mod forced;
mod forward;
mod icmp;
mod indication;
pub mod limits;
mod mobile;
mod mobility;
pub mod nonce;
pub mod output;
mod own;
pub mod owner;
mod permission;
pub mod policy;
mod ports;
pub mod quota;
pub mod reflection;
mod refresh;
pub mod refusal;
mod request;
mod response;
mod server;
pub mod session;
mod shared;
mod tcp;
mod timers;
mod transactions;
pub mod types;
pub mod user;

pub use config::Config;
pub use counters::Counters;
pub use icmp::Icmp;
pub use mobility::handoff::{Handled, Handoff};
pub use output::{Command, DropReason, EndReason, Event, Frame, Verdict};
pub use own::{OwnSocket, OwnSockets};
pub use ports::{PortGauges, RelayPort};
pub use refusal::{OpenError, Refusal, RefusalReason, Refused};
pub use response::{Response, Route};
pub use server::Server;
pub use shared::Shared;
