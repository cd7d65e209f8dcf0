//! What the tests of all floors share. It depends only on the protocol, so that unit tests of the
//! floors above can use it too.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]
#![allow(
    missing_docs,
    clippy::new_without_default,
    clippy::unwrap_used,
    reason = "helpers of tests: one that fails is a test that fails"
)]

pub mod dice;
#[cfg(feature = "dtls")]
pub mod dtls_client;
#[cfg(feature = "dtls")]
pub mod dtls_slow;
pub mod folder;
pub mod heap;
pub mod ports;
#[cfg(feature = "tls")]
pub mod tls;
pub mod turn;
pub mod world;
