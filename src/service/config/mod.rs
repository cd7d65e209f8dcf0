//! What an operator may set.

pub mod settings;
