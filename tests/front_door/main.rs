//! The front door on real sockets: who gets in, for what, and how long a stranger may take.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a test that fails")]

mod caps;
mod claims;
mod exhaustion;
mod flood;
mod http;
mod keys;
mod pace;
mod places;
mod proxied;
mod recorder;
mod routed;
mod stages;
mod support;
mod turn;
mod upstream;
