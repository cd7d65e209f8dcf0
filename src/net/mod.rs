//! Sockets and carriers: what brings bytes in and out. Knows nothing of allocations, users or configuration files.

pub mod stream;
pub mod tls;
