//! Workers with real sockets on loopback.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

#[cfg(feature = "dtls")]
#[path = "../support/dtls_client.rs"]
mod dtls_client;
#[cfg(feature = "dtls")]
#[path = "../support/dtls_shard.rs"]
mod dtls_shard;
#[cfg(feature = "dtls")]
#[path = "../support/dtls_slow.rs"]
mod dtls_slow;
#[path = "../support/http3_shard.rs"]
mod http3_shard;
#[path = "../shard_support/mod.rs"]
mod shard_support;

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
