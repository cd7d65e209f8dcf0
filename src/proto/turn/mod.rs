//! The TURN protocol (RFC 8656, RFC 8489), sans-IO: packets and time in; verdicts, commands and
//! events out.
//!
//! ```text
//! server   the handlers of packets, requests and timers: every `impl Server`
//! forward  the forward table: all that a relayed packet needs
//! state    what a shard holds: allocations, connections, timers
//! login    who sent a request: nonces, credentials, logins
//! policy   which peers may be reached
//! shared   what the shards of a process share
//! config   what the operator has decided
//! ```
//!
//! `server` stands on all the others. `config`, `login`, `policy` and the basic types (`types`,
//! `refusal`, `output`) know no state. Nothing here reads a clock, a socket, a file, the
//! environment or a global random generator.

pub mod config;
pub mod counters;
mod forward;
pub mod login;
pub mod output;
pub mod policy;
pub mod reflection;
pub mod refusal;
mod response;
mod server;
pub mod session_id;
pub mod sessions;
pub mod shared;
mod state;
pub mod types;
pub mod user;

pub use config::Config;
pub use counters::Counters;
pub use forward::changes::{ChannelRoute, RouteChange, RouteKey};
pub use output::{Command, DropReason, EndReason, Event, Frame, Verdict};
pub use refusal::{OpenError, Refusal, RefusalReason, Refused};
pub use response::{Response, ResponseRoute};
pub use server::Server;
pub use server::icmp::QuotedIcmp;
pub use server::migration::message::{Handled, Migration};
pub use session_id::SessionId;
pub use shared::own_sockets::{OwnSocket, OwnSockets};
pub use shared::ports::{PortGauges, RelayPort};
pub use shared::{Shared, SharedKeys};
pub use state::record::{
    AllocationRecord, ChannelRecord, Exported, Handles, ImportError, MobileRecord, OwnerRecord, PermissionRecord,
    RECORD_VERSION, RelayedRecord, ReservationRecord, UserRecord,
};
