//! What every floor stands on: time, randomness, addresses, rates, counts. Each small mechanism
//! exists once.
//!
//! Nothing here knows a protocol, or reads a clock, socket, file or the environment.

pub mod address;
pub mod cell;
pub mod closed_set;
pub mod counts;
pub mod lock;
pub mod log_throttle;
pub mod queue;
pub mod rate;
pub mod rng;
pub mod shares;
pub mod source;
pub mod time;
