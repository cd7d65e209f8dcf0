//! Real clients against the real program, through a real firewall: browsers, an SFU and coturn's
//! client in network namespaces. `docs/testing.md`, "End-to-end lab", describes the layout and how
//! to investigate a failure.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]

mod agent;
mod calls;
mod certificates;
mod certs;
mod chromium;
mod clients;
mod coturn;
mod dns;
mod drain;
mod firefox;
mod forced;
mod fronts;
mod host_firewall;
mod http;
mod janus;
mod lab;
mod mapping;
mod messages;
mod open_api;
mod page;
mod pebble;
mod process;
mod proxies;
mod relay;
mod reloads;
mod requirements;
mod selftest;
mod server;
mod unasked;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by every test: a browser that encodes and decodes video uses all processors of a small
/// machine.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LAB: Mutex<()> = Mutex::new(());
    LAB.lock().unwrap_or_else(PoisonError::into_inner)
}
