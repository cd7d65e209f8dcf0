//! Both sides in memory, time by hand.

mod plain;
mod property;
mod slow_reader;
mod support;
mod tls;
