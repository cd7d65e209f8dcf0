//! Throttles for log lines that remote hosts can cause: one line of a kind per minute, and a count
//! of the rest.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use super::rate::{Rate, SharedBucket};
use super::time::Instant;

/// Time between two lines of one kind.
const APART: Duration = Duration::from_secs(60);

/// Lets one line per minute through.
#[derive(Debug, Default)]
pub struct LogThrottle(Option<Instant>);

impl LogThrottle {
    /// Whether a line may be logged now. Counts as logged if so.
    pub fn allows(&mut self, now: Instant) -> bool {
        let allowed = self.0.is_none_or(|at| now - at >= APART);
        if allowed {
            self.0 = Some(now);
        }
        allowed
    }
}

/// Counts the suppressed lines of a kind, and says when to report them.
#[derive(Debug, Default)]
pub struct LeftOut {
    count: AtomicU64,
    said: SharedBucket,
}

impl LeftOut {
    /// Adds `count` suppressed lines.
    pub fn add(&self, count: u64) {
        self.count.fetch_add(count, Relaxed);
    }

    /// Whether lines were suppressed and no report was due within the last minute.
    pub fn is_due(&self, now: Instant) -> bool {
        self.count() > 0 && self.said.admit(now, Rate::every(APART, 1))
    }

    /// Lines suppressed since the last [`Self::take`].
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Returns the count and resets it.
    pub fn take(&self) -> u64 {
        self.count.swap(0, Relaxed)
    }
}
