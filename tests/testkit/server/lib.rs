//! What tests share and what needs workers: a server of shards on loopback with its clients, and a
//! web site to run behind one. Unit tests of `relay` cannot use it, because for them it links
//! another copy of their own package.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]
#![allow(
    missing_docs,
    clippy::new_without_default,
    clippy::unwrap_used,
    reason = "helpers of tests: one that fails is a test that fails"
)]

#[cfg(feature = "dtls")]
pub mod dtls;
mod gate;
pub mod http3;
pub mod http3_site;
mod server;

pub use gate::Gate;
pub use relay_testkit::turn::*;
pub use relay_testkit_net::{UDP, burst, bursting, bursting_client};
pub use server::{TestServer, tcp_pair};
