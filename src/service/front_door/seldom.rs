//! Lines that strangers can cause, and the log is to hold a few of.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use tokio::time::Instant;

/// Time between two lines of a kind.
const APART: Duration = Duration::from_secs(60);

/// Lets one line a minute through.
#[derive(Debug)]
pub(super) struct Seldom {
    begun: Instant,
    /// Milliseconds after `begun` from which the next line may be.
    next: AtomicU64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            next: AtomicU64::new(0),
        }
    }
}

impl Seldom {
    /// Whether this one may be told.
    pub(super) fn may(&self) -> bool {
        let now = self.begun.elapsed();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Relaxed);
        // Of several at once, one wins.
        millis(now) >= next
            && self
                .next
                .compare_exchange(next, millis(now + APART), Relaxed, Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_and_then_one_a_minute() {
        let seldom = Seldom::default();
        assert!(seldom.may());
        assert!(!seldom.may());
        tokio::time::advance(APART - Duration::from_millis(1)).await;
        assert!(!seldom.may());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(seldom.may());
        assert!(!seldom.may());
    }
}
