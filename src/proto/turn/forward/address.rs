//! Addresses as keys of sorted arrays and of hash tables.

use core::hash::Hasher;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::net::{IpAddr, SocketAddr};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

use crate::base::address::{Family, FiveTuple};

/// A peer's IP address, comparable as two words. IPv4 is stored as `::ffff:a.b.c.d`, which is
/// otherwise not a valid peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerIp {
    high: u64,
    low: u64,
}

pub(super) const MAPPED: u64 = 0xffff << 32;

impl PeerIp {
    pub(super) fn new(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self {
                high: 0,
                low: MAPPED | u64::from(ip.to_bits()),
            },
            IpAddr::V6(ip) => Self {
                high: (ip.to_bits() >> 64) as u64,
                low: ip.to_bits() as u64,
            },
        }
    }

    pub(super) const fn family(self) -> Family {
        if self.high == 0 && self.low >> 32 == MAPPED >> 32 {
            Family::V4
        } else {
            Family::V6
        }
    }

    pub(super) fn with_port(self, port: u16) -> SocketAddr {
        match self.family() {
            Family::V4 => SocketAddr::from((Ipv4Addr::from_bits(self.low as u32), port)),
            Family::V6 => {
                let ip = Ipv6Addr::from_bits(u128::from(self.high) << 64 | u128::from(self.low));
                SocketAddr::V6(SocketAddrV6::new(ip, port, 0, 0))
            }
        }
    }
}

/// Hashes addresses with a secret seed, because clients choose their addresses.
#[derive(Debug)]
pub(super) struct AddressHasher {
    /// Initial state of each hash. Never 0 in practice: the hash function multiplies, and 0 would
    /// absorb the first words.
    start: u64,
    shared: SharedSeed,
}

impl AddressHasher {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            start: seed,
            shared: SharedSeed::from_u64(!seed),
        }
    }

    pub(super) fn five_tuple(&self, five_tuple: &FiveTuple) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.start ^ five_tuple.transport as u64, &self.shared);
        for addr in [&five_tuple.client, &five_tuple.server] {
            match addr {
                SocketAddr::V4(addr) => hasher.write_u64(u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port())),
                SocketAddr::V6(addr) => {
                    hasher.write_u128(addr.ip().to_bits());
                    hasher.write_u64(u64::from(addr.scope_id()) << 16 | u64::from(addr.port()));
                }
            }
        }
        hasher.finish()
    }

    pub(super) fn relayed(&self, family: Family, port: u16) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.start ^ family as u64, &self.shared);
        hasher.write_u64(u64::from(port));
        hasher.finish()
    }
}
