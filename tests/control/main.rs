//! The control plane in this process: the credentials API, and the admin listener.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]

mod api;
mod metrics;
mod openapi;
