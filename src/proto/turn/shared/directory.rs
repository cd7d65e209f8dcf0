//! What this process has at each address of this machine.

use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

use super::own_sockets::OwnSockets;
use crate::base::address::Family;
use crate::turn::output::DropReason;
use crate::turn::policy::PeerClass;
use crate::turn::types::{PeerAddr, RelayedAddr};

/// What this process has at each address of this machine: the shard that owns a live relayed
/// transport address, and other sockets.
///
/// Written when an allocation begins, moves or ends.
#[derive(Debug)]
pub(in crate::turn) struct RelayDirectory {
    /// By family and port: shard index plus one, or [`TCP`]; 0 for none.
    owners: [Box<[AtomicU16]>; 2],
    pub(super) own: OwnSockets,
}

impl Default for RelayDirectory {
    fn default() -> Self {
        let ports = || (0..=u16::MAX).map(|_| AtomicU16::new(0)).collect();
        Self {
            owners: [ports(), ports()],
            own: OwnSockets::default(),
        }
    }
}

/// Marks a TCP allocation (RFC 6062) of any shard, which gets no datagrams.
const TCP: u16 = u16::MAX;

impl RelayDirectory {
    /// The shard with a UDP allocation at this relayed address.
    pub(in crate::turn) fn owner(&self, relayed: RelayedAddr) -> Option<u16> {
        let owner = self.entry(relayed).load(Relaxed).checked_sub(1)?;
        (owner != TCP - 1).then_some(owner)
    }

    /// The current path to a peer on this machine: the shard with an allocation there or, for
    /// another program, `None`, which means the relay socket. The owner of a port may change
    /// between any two packets.
    pub(in crate::turn) fn way(&self, class: PeerClass, peer: PeerAddr) -> Result<Option<u16>, DropReason> {
        let relayed = RelayedAddr(peer.0);
        match class {
            PeerClass::Relayed => self.owner(relayed).map(Some).ok_or(DropReason::NoSuchRelay),
            PeerClass::RelayedOrLocal => match self.owner(relayed) {
                Some(shard) => Ok(Some(shard)),
                None if self.is_tcp(relayed) => Err(DropReason::NoSuchRelay),
                None => self.not_ours(peer),
            },
            PeerClass::Local => self.not_ours(peer),
            PeerClass::Peer => Ok(None),
        }
    }

    fn not_ours(&self, peer: PeerAddr) -> Result<Option<u16>, DropReason> {
        if self.own.has(peer.0) {
            return Err(DropReason::PeerDenied);
        }
        Ok(None)
    }

    /// Whether an allocation of either kind has this relayed address.
    pub(in crate::turn) fn is_taken(&self, relayed: RelayedAddr) -> bool {
        self.entry(relayed).load(Relaxed) != 0
    }

    /// Whether a TCP allocation listens at this relayed address.
    pub(in crate::turn) fn is_tcp(&self, relayed: RelayedAddr) -> bool {
        self.entry(relayed).load(Relaxed) == TCP
    }

    /// A TCP allocation starts or stops listening at `relayed`.
    pub(in crate::turn) fn set_tcp(&self, relayed: RelayedAddr, on: bool) {
        self.entry(relayed).store(if on { TCP } else { 0 }, Relaxed);
    }

    /// Sets the shard that owns `relayed`.
    pub(in crate::turn) fn set(&self, relayed: RelayedAddr, shard: Option<usize>) {
        let owner = shard.and_then(|shard| u16::try_from(shard + 1).ok()).unwrap_or(0);
        self.entry(relayed).store(owner, Relaxed);
    }

    fn entry(&self, relayed: RelayedAddr) -> &AtomicU16 {
        &self.owners[Family::of(relayed.0.ip()) as usize][usize::from(relayed.0.port())]
    }
}
