//! The state of a shard's allocations, beside their routes.

pub(super) mod allocation;
pub(super) mod connections;
pub(super) mod mobile;
pub(super) mod record;
pub(super) mod timers;
pub(super) mod transactions;
