//! The real program on loopback, seen from outside: clients over UDP, TCP and TLS, peers, and strangers.

#[path = "../support/any_certificate.rs"]
mod any_certificate;
mod client;
mod credentials;
mod discovery;
mod drain;
mod harness;
mod hostile;
mod mobility;
mod peers;
mod programs;
mod relaying;
