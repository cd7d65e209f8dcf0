//! One worker thread per core: owns a `turn::Server`, its sockets and its clients' streams.

pub mod handover;
