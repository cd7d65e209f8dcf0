//! Counts what the admin listener refused.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why the admin listener refused a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminRefusal {
    /// The request is for a host that is not allowed.
    Host,
    /// The connection was closed in favour of a newer one.
    Displaced,
}

impl AdminRefusal {
    /// Every reason: `ALL[x as usize] == x`.
    pub const ALL: [Self; 2] = [Self::Host, Self::Displaced];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Displaced => "displaced",
        }
    }
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct AdminCounters([AtomicU64; AdminRefusal::ALL.len()]);

impl AdminCounters {
    pub(in crate::control) fn count(&self, why: AdminRefusal) {
        self.0[why as usize].fetch_add(1, Relaxed);
    }

    /// Requests and connections refused for this reason.
    pub fn refused(&self, why: AdminRefusal) -> u64 {
        self.0[why as usize].load(Relaxed)
    }
}
