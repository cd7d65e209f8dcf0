//! Ports of sockets of this process that are neither listeners nor relay sockets: those of HTTP/3
//! flows and of queries that the process sends. They are never peers, whatever the peer policy
//! opens.
//!
//! The check costs one relaxed load, and only for packets to a program of this machine.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use crate::base::address::Family;
use crate::base::lock::lock;

/// The ports of one place, one bit each.
type Ports = [AtomicU64; 1024];

/// Where a socket is reachable: by family, and over loopback or not. A media server may have the
/// same port as a socket that is reachable over loopback only.
const PLACES: usize = 4;

/// All such sockets of the process.
#[derive(Clone)]
pub struct OwnSockets(Arc<Inner>);

struct Inner {
    ports: [Ports; PLACES],
    /// Number of sockets at each port.
    counts: Mutex<BTreeMap<(usize, u16), u32>>,
}

impl Default for OwnSockets {
    fn default() -> Self {
        Self(Arc::new(Inner {
            ports: [const { [const { AtomicU64::new(0) }; 1024] }; PLACES],
            counts: Mutex::default(),
        }))
    }
}

impl fmt::Debug for OwnSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnSockets").field(&*lock(&self.0.counts)).finish()
    }
}

impl OwnSockets {
    /// Registers that a socket of this process is bound to `local`, until the guard is dropped.
    pub fn note(&self, local: SocketAddr) -> OwnSocket {
        let mut counts = lock(&self.0.counts);
        for place in places_of(local.ip()) {
            *counts.entry((place, local.port())).or_default() += 1;
            let (word, bit) = self.0.bit(place, local.port());
            word.fetch_or(bit, Relaxed);
        }
        OwnSocket {
            all: self.clone(),
            local,
        }
    }

    /// Whether `peer`, an address of this machine, reaches a socket of this process.
    pub fn has(&self, peer: SocketAddr) -> bool {
        let ip = peer.ip();
        // The unspecified address leads to loopback.
        let place = place(ip, ip.is_loopback() || ip.is_unspecified());
        let (word, bit) = self.0.bit(place, peer.port());
        word.load(Relaxed) & bit != 0
    }
}

impl Inner {
    fn bit(&self, place: usize, port: u16) -> (&AtomicU64, u64) {
        (&self.ports[place][usize::from(port / 64)], 1 << (port % 64))
    }
}

const fn place(ip: IpAddr, loopback: bool) -> usize {
    2 * (Family::of(ip) as usize) + loopback as usize
}

/// A socket bound to the unspecified address is reachable at all addresses.
fn places_of(ip: IpAddr) -> impl Iterator<Item = usize> {
    [false, true]
        .into_iter()
        .filter(move |&loopback| ip.is_unspecified() || ip.is_loopback() == loopback)
        .map(move |loopback| place(ip, loopback))
}

/// A registered socket. Drop it after the socket is closed.
#[derive(Debug)]
pub struct OwnSocket {
    all: OwnSockets,
    local: SocketAddr,
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        let mut counts = lock(&self.all.0.counts);
        for place in places_of(self.local.ip()) {
            let at = (place, self.local.port());
            let left = counts.get(&at).map_or(0, |count| count - 1);
            if left > 0 {
                counts.insert(at, left);
            } else {
                counts.remove(&at);
                let (word, bit) = self.all.0.bit(place, self.local.port());
                word.fetch_and(!bit, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_ours_while_one_socket_is_left_there_and_where_that_is_reached() {
        let own = OwnSockets::default();
        let has = |text: &str| own.has(text.parse().unwrap());
        let note = |text: &str| own.note(text.parse().unwrap());
        let loopback = note("127.0.0.1:50000");
        assert!(has("127.0.0.1:50000") && has("127.9.9.9:50000") && has("0.0.0.0:50000"));
        assert!(!has("198.51.100.9:50000") && !has("[::1]:50000") && !has("127.0.0.1:50001"));
        assert!(!has("127.0.0.1:50064") && !has("127.0.0.1:49936"));
        let (one, other) = (note("198.51.100.9:50000"), note("198.51.100.9:50000"));
        let any = note("[::]:65535");
        assert!(has("198.51.100.9:50000") && has("[::1]:65535") && has("[2001:db8::1]:65535"));
        drop(one);
        assert!(has("198.51.100.9:50000"));
        drop((other, any));
        assert!(!has("198.51.100.9:50000") && !has("[::1]:65535") && has("127.0.0.1:50000"));
        drop(loopback);
        assert_eq!(format!("{own:?}"), "OwnSockets({})");
    }
}
