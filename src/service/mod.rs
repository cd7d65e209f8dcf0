//! What an operator sees: start-up, configuration, front door, credentials API, metrics, health, logs, signals.
//! No protocol logic.

pub mod acme;
pub mod admin;
pub mod api;
mod awaiting;
pub mod backends;
pub mod banner;
pub mod bind;
mod drain;
#[cfg(feature = "dtls")]
mod dtls;
pub mod follow;
pub mod front_door;
pub mod health;
mod http3;
pub mod http_server;
pub mod log;
mod machine;
pub mod metrics;
pub mod reload;
pub mod run;
mod start;
pub mod systemd;
pub mod tls_store;
