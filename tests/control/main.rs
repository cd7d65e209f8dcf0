//! The control plane in this process: the credentials API, and the admin listener.

mod api;
mod metrics;
