//! Where connections arrive: listening sockets, certificates, the front door that classifies TCP
//! connections, and the servers behind this one.

pub mod backend_addresses;
#[cfg(test)]
mod capture;
pub mod certificates;
pub mod front_door;
pub(crate) mod http3_backend;
pub mod listeners;
