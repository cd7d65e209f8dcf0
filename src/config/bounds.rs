//! Bounds that no key sets: the open files are divided with these in mind (`resolve::capacity`), and whoever accepts
//! connections keeps to them.

/// Connections of the admin listener at once.
pub const ADMIN_CONNECTIONS: usize = 128;
/// Connections that have been told to go and are still there, beyond which nobody is let in for another: their holders
/// take milliseconds.
pub const LEAVING: usize = 64;
