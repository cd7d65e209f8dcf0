//! How many of a kind all shards may have together, and from one source: counted when one begins or ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::turn::limits::Source;
use crate::turn::quota::CountMap;

#[derive(Debug)]
struct Counts {
    total: AtomicU32,
    sources: CountMap<Source>,
}

/// Which bound is reached.
#[derive(Debug)]
pub(super) enum Over {
    /// That of one source (IPv4 address, IPv6 /64).
    Source,
    /// That of all together, and not that of the source.
    All(Share),
}

/// The counts of one kind, shared by the shards.
#[derive(Clone, Debug)]
pub(super) struct Caps(Arc<Counts>);

impl Caps {
    /// `seed` is not to be guessed.
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Counts {
            total: AtomicU32::new(0),
            sources: CountMap::new(seed),
        }))
    }

    /// Counts one of `client`, unless there are `most` of them, or `most_per_source` from where it comes.
    pub(super) fn take(&self, client: IpAddr, most: u32, most_per_source: u32) -> Result<Unit, Over> {
        let source = Source::from(client);
        if self.0.sources.take(&source, most_per_source).is_err() {
            return Err(Over::Source);
        }
        let share = Share(Arc::clone(&self.0), source);
        let below = |n| (n < most).then_some(n + 1);
        match self.0.total.fetch_update(Relaxed, Relaxed, below) {
            Ok(_) => Ok(Unit {
                _place: Place(Arc::clone(&self.0)),
                _share: share,
            }),
            Err(_) => Err(Over::All(share)),
        }
    }
}

/// One of all; goes back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub(super) struct Unit {
    _place: Place,
    _share: Share,
}

impl Unit {
    /// What it counts has given way to another, whose share of its source is `share`.
    pub(super) fn hand_over(self, share: Share) -> Self {
        Self { _share: share, ..self }
    }
}

#[derive(Debug)]
struct Place(Arc<Counts>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.total.fetch_sub(1, Relaxed);
    }
}

/// One of those from a source.
#[derive(Debug)]
pub(super) struct Share(Arc<Counts>, Source);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.sources.give_back(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_what_ends_makes_room() {
        let caps = Caps::new(7);
        let from = |last, most, each| caps.take(IpAddr::from([192, 0, 2, last]), most, each);
        let first = from(1, 2, 1).unwrap();
        assert!(matches!(from(1, 2, 1), Err(Over::Source)));
        let second = from(2, 2, 1).unwrap();
        assert!(matches!(from(3, 2, 1), Err(Over::All(_))));
        drop(first);
        let third = from(3, 2, 1).expect("a refusal counted nothing");
        let Err(Over::All(share)) = from(4, 2, 1) else {
            panic!("there are two");
        };
        let fourth = second.hand_over(share);
        assert!(matches!(from(4, 2, 1), Err(Over::Source)));
        drop((third, fourth));
        let all = [1, 2, 3, 4].map(|last| from(last, 4, 1));
        assert!(all.iter().all(Result::is_ok));
    }
}
