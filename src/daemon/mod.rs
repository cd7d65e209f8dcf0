//! The life of the process: start, signals, reload, monitoring, shutdown.

mod awaiting;
pub mod banner;
mod exit;
pub mod external_address;
mod life;
pub mod log;
mod offered;
mod orders;
mod own_address;
mod peer_policy;
pub mod reload;
pub mod run;
mod server;
mod signals;
mod start;
pub mod systemd;
