//! Process-wide caps on a resource: in total, per source address and per network.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::base::counts::CountMap;
use crate::base::source::{Network, Source};

#[derive(Debug)]
struct Counts {
    total: AtomicU32,
    sources: CountMap<Source>,
    networks: CountMap<Network>,
}

/// The caps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// In total.
    pub(super) all: u32,
    /// From one source (IPv4 address, IPv6 /64).
    pub(super) per_source: u32,
    /// From one network (IPv4 /24, IPv6 /48).
    pub(super) per_network: u32,
}

/// Which cap is reached.
#[derive(Debug)]
pub(super) enum LimitReached {
    /// That of the source, or of its network.
    Source,
    /// The total alone. The source has been given its unit.
    All(SourceUnit),
}

/// The counts of one resource, shared by all shards.
#[derive(Clone, Debug)]
pub(super) struct ProcessShares(Arc<Counts>);

impl ProcessShares {
    /// `seed` must not be guessable.
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Counts {
            total: AtomicU32::new(0),
            sources: CountMap::new(seed),
            networks: CountMap::new(!seed),
        }))
    }

    /// Takes one unit for `client`.
    ///
    /// # Errors
    /// The cap that is reached.
    pub(super) fn take(&self, client: IpAddr, bounds: Bounds) -> Result<ProcessUnit, LimitReached> {
        let source = Source::from(client);
        let Counts { sources, networks, .. } = &*self.0;
        let held = sources
            .take(&source, bounds.per_source)
            .map_err(|_| LimitReached::Source)?;
        if networks.take(&source.network(), bounds.per_network).is_err() {
            sources.give_back(&source);
            return Err(LimitReached::Source);
        }
        let share = SourceUnit {
            counts: Arc::clone(&self.0),
            source,
            is_first: held == 1,
        };
        let below = |n| (n < bounds.all).then_some(n + 1);
        match self.0.total.fetch_update(Relaxed, Relaxed, below) {
            Ok(_) => Ok(ProcessUnit {
                _total: TotalUnit(Arc::clone(&self.0)),
                share,
            }),
            Err(_) => Err(LimitReached::All(share)),
        }
    }
}

/// One unit of the total and of its source. It is given back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub(super) struct ProcessUnit {
    _total: TotalUnit,
    share: SourceUnit,
}

impl ProcessUnit {
    /// Passes the unit of the total on to another source, which holds `share`.
    pub(super) fn transfer(self, share: SourceUnit) -> Self {
        Self { share, ..self }
    }

    /// Whether its source held no other.
    pub(super) fn is_first(&self) -> bool {
        self.share.is_first
    }
}

#[derive(Debug)]
struct TotalUnit(Arc<Counts>);

impl Drop for TotalUnit {
    fn drop(&mut self) {
        self.0.total.fetch_sub(1, Relaxed);
    }
}

/// One unit of a source and its network. It is given back when dropped.
#[derive(Debug)]
pub(super) struct SourceUnit {
    counts: Arc<Counts>,
    source: Source,
    /// Its source held no other.
    pub(super) is_first: bool,
}

impl Drop for SourceUnit {
    fn drop(&mut self) {
        self.counts.sources.give_back(&self.source);
        self.counts.networks.give_back(&self.source.network());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_what_ends_makes_room() {
        let shares = ProcessShares::new(7);
        let from = |last, all, per_source| {
            let per_network = 4;
            let bounds = Bounds {
                all,
                per_source,
                per_network,
            };
            shares.take(IpAddr::from([192, 0, 2, last]), bounds)
        };
        let first = from(1, 2, 1).unwrap();
        assert!(matches!(from(1, 2, 1), Err(LimitReached::Source)));
        let second = from(2, 2, 1).unwrap();
        assert!(matches!(from(3, 2, 1), Err(LimitReached::All(_))));
        drop(first);
        let third = from(3, 2, 1).expect("a refusal counted nothing");
        let Err(LimitReached::All(share)) = from(4, 2, 1) else {
            panic!("there are two");
        };
        let fourth = second.transfer(share);
        assert!(matches!(from(4, 2, 1), Err(LimitReached::Source)));
        drop((third, fourth));
        let all = [1, 2, 3, 4].map(|last| from(last, 4, 1));
        assert!(all.iter().all(Result::is_ok));
        assert!(
            matches!(from(5, 9, 1), Err(LimitReached::Source)),
            "its network has four"
        );
    }
}
