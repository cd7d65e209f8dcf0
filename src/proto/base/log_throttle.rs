//! Lines of the log that strangers, or their number, can cause: one of a kind a minute, and a count of the others.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use super::rate::{Rate, SharedBucket};
use super::time::Instant;

/// Time between two lines of a kind that strangers, or their number, can cause.
const APART: Duration = Duration::from_secs(60);

/// Lets one line a minute through.
#[derive(Debug, Default)]
pub struct Seldom(Option<Instant>);

impl Seldom {
    /// Whether this one may be told.
    pub fn may(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|at| now - at >= APART);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

/// Lines that were left out of a kind that is bounded, and when that is said.
#[derive(Debug, Default)]
pub struct LeftOut {
    count: AtomicU64,
    said: SharedBucket,
}

impl LeftOut {
    /// Counts lines.
    pub fn add(&self, count: u64) {
        self.count.fetch_add(count, Relaxed);
    }

    /// Whether there is something to say, and nothing has been said for a minute.
    pub fn is_due(&self, now: Instant) -> bool {
        self.count() > 0 && self.said.admit(now, Rate::every(APART, 1))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// How many there were since the last call.
    pub fn take(&self) -> u64 {
        self.count.swap(0, Relaxed)
    }
}
