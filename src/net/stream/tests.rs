//! Tests with both sides in memory and a simulated clock.

mod plain;
mod property;
mod slow_reader;
mod support;
mod tls;
