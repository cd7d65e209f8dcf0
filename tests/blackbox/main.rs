//! The real program on loopback, from outside: clients over UDP, TCP, TLS and DTLS, peers, and
//! attackers.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]

#[cfg(feature = "bench")]
mod bench;
mod client;
mod client_addresses;
mod credentials;
mod descriptors;
mod discovery;
mod drain;
mod dtls_stacks;
mod flood;
mod forced;
mod harness;
mod hostile;
mod http3;
mod log;
mod mobility;
mod operator;
mod other_servers;
mod own_addresses;
mod peers;
mod pion;
mod programs;
mod prosody;
mod recipes;
mod recipes_front;
mod recipes_minting;
mod refusals;
mod relaying;
mod reloads;
mod rule_actions;
mod rules;
mod tcp_allocations;
mod tcp_client;
mod unasked;
