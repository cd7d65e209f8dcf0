//! Who sent a request.

pub mod auth;
pub mod credential;
pub mod nonce;
pub mod owner;
pub mod session;
