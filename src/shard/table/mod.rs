//! What a worker holds: its streams, associations, flows and peer connections.

#[cfg(feature = "dtls")]
pub(super) mod dtls;
pub(super) mod http3;
mod slots;
pub(super) mod streams;
pub(super) mod tcp_relay;
