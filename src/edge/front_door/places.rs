//! Places at the backends. When none is free, the client with the most loses one
//! ([`crate::base::shares`]): a few addresses with many connections, however busy, leave room for
//! others.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::admission::Displacement;
use crate::base::lock::lock;
use crate::base::shares::{self, Shares};
use crate::config::bounds::LEAVING;

/// All places.
#[derive(Clone, Debug)]
pub(super) struct BackendPlaces {
    most: usize,
    held: Arc<Mutex<Held>>,
    displaced: Arc<AtomicU64>,
}

#[derive(Default)]
struct Held {
    shares: Shares<Arc<Displacement>>,
    /// Connections that have lost their place and have not ended yet.
    leaving: usize,
}

impl core::fmt::Debug for Held {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Held")
            .field("held", &self.shares.len())
            .field("leaving", &self.leaving)
            .finish()
    }
}

impl BackendPlaces {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            held: Arc::default(),
            displaced: Arc::default(),
        }
    }

    /// A place for a client until it is dropped. `connection` is closed when the place is lost.
    pub(super) fn enter(&self, client: IpAddr, connection: Arc<Displacement>) -> Option<BackendPlace> {
        let mut held = lock(&self.held);
        if held.shares.len() >= self.most {
            // Displaced connections end within milliseconds; this bounds how many do so at a time.
            if held.leaving >= LEAVING {
                return None;
            }
            held.shares.displace_heavier(client)?.tell();
            held.leaving += 1;
            self.displaced.fetch_add(1, Relaxed);
        }
        let place = held.shares.enter(client, connection);
        Some(BackendPlace {
            place,
            held: Arc::clone(&self.held),
        })
    }

    /// Places in use.
    pub(super) fn held(&self) -> usize {
        lock(&self.held).shares.len()
    }

    /// Places lost to others since the start.
    pub(super) fn displaced(&self) -> u64 {
        self.displaced.load(Relaxed)
    }
}

/// One place.
#[derive(Debug)]
pub(super) struct BackendPlace {
    place: shares::Place,
    held: Arc<Mutex<Held>>,
}

impl Drop for BackendPlace {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if held.shares.leave(self.place).is_none() {
            held.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= XPORT-21
    #[test]
    fn no_more_lose_their_places_at_a_time_than_may_be_leaving() {
        let places = BackendPlaces::new(2 * LEAVING);
        let enter = |ip: [u8; 4]| places.enter(ip.into(), Arc::default());
        for round in 1..=2_u8 {
            let most = 2 * LEAVING - places.held();
            let many: Vec<_> = (0..most).map(|_| enter([192, 0, 2, round]).expect("room")).collect();
            let newcomer = |n: usize| [10, round, u8::try_from(n).expect("few"), 1];
            let others: Vec<_> = (0..LEAVING)
                .map(|n| enter(newcomer(n)).expect("a place of many"))
                .collect();
            assert!(enter(newcomer(LEAVING)).is_none(), "so many are still there");
            assert_eq!(places.displaced(), u64::from(round) * LEAVING as u64);
            drop(many);
            assert_eq!(places.held(), LEAVING);
            assert!(enter(newcomer(LEAVING)).is_some());
            drop(others);
            assert_eq!(places.held(), 0);
        }
    }
}
