//! What operators and their programs use of a running server: the credentials API, the admin
//! listener with metrics and health, the control socket. It never touches a packet.

pub mod admin;
pub mod api;
mod drain;
pub mod health;
pub mod http_server;
pub mod metrics;
pub mod operator;
pub mod phase;
pub mod process_counters;
