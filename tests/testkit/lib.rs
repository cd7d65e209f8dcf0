//! What tests of every floor share. It stands on the protocol alone, so that unit tests of the floors above may use it too.

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
pub mod heap;
#[cfg(feature = "tls")]
pub mod tls;
pub mod turn;
pub mod world;
