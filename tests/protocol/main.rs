//! The protocol as a client and its peers see it: the core in virtual time, without sockets or
//! clocks.
//!
//! Every test is a short story in the language of `world`: clients send requests, peers send
//! datagrams, time passes. After every step the world checks the invariants: at most one response,
//! signed as its request was, zero padding, balanced counters, no timeout in the past.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod allocate;
mod auth;
mod binding;
mod channel;
mod discovery;
mod even_port;
mod every_client;
mod family;
mod forced;
mod forgeries;
mod hairpin;
mod icmp;
mod indications;
mod lifecycle;
mod limits;
mod login;
mod malformed;
mod mobility;
mod nonces;
mod own_machine;
mod permission;
mod precedence;
mod questions_of_the_shard;
mod random_courses;
mod redirect;
mod reflection;
mod refresh;
mod refusals;
mod repeated_requests;
mod reservation;
mod responses;
mod retransmission;
mod routes;
mod sessions;
mod signature;
mod tcp_allocations;
mod tcp_connections;
mod time_limited;
mod transfer;
mod users;
mod whole_exchange;
