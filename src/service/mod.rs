//! What an operator sees: start-up, configuration, front door, credentials API, metrics, health, logs, signals.
//! No protocol logic.

pub mod admin;
pub mod api;
mod awaiting;
pub mod banner;
mod drain;
pub mod follow;
pub mod health;
pub mod http_server;
pub mod log;
mod machine;
pub mod metrics;
pub mod reload;
pub mod run;
mod start;
pub mod systemd;
