//! What the shards of one process share: the process's own nonce key, quotas and limits, relay
//! ports and their owners, mobility tickets.
//!
//! A relayed packet uses none of it, except for one atomic load if its peer is itself a relayed
//! address of this server. Instants of all shards count from the same origin.

pub(super) mod directory;
mod draining;
pub mod limiters;
pub(super) mod own_sockets;
pub(super) mod ports;
pub mod quotas;
pub(super) mod reservations;
pub mod revocations;
pub(super) mod tickets;

use core::fmt;
use std::sync::Arc;

use self::draining::Draining;
use self::limiters::Limiters;
use self::own_sockets::OwnSockets;
use self::ports::{PortGauges, RelayPorts};
use self::quotas::Quotas;
use self::revocations::{Revocations, TooManyRevocations};
use self::tickets::Tickets;
use super::config::redirect::Redirect;
use super::login::nonce::NonceKey;
use super::sessions::Revocation;
use crate::base::rng::Rng;
use crate::base::time::UnixTime;
use directory::RelayDirectory;
use reservations::Reservations;
use zeroize::Zeroizing;

/// One per process, in an [`Arc`] that every shard's `Server` holds.
pub struct Shared {
    /// Issues nonces if no secret is configured. A nonce of one shard is valid on every other,
    /// because a client's next request may arrive at any of them.
    pub(super) nonce_key: NonceKey,
    pub(super) quotas: Quotas,
    pub(super) limiters: Limiters,
    pub(super) ports: RelayPorts,
    pub(super) directory: Arc<RelayDirectory>,
    pub(super) reservations: Reservations,
    pub(super) tickets: Tickets,
    pub(super) revocations: Revocations,
    pub(super) draining: Draining,
}

/// The keys with which a process signs nonces and mobility tickets. Zeroised when dropped; never
/// printed.
pub struct SharedKeys {
    nonces: NonceKey,
    tickets: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKeys(..)")
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("allocations", &self.allocations())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Derives every secret from `seed`, which comes from the system's generator and differs at
    /// every start.
    pub fn new(seed: [u8; 32]) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            nonce_key: NonceKey::random(rng.array()),
            quotas: Quotas::new(&mut rng),
            limiters: Limiters::new(&mut rng),
            ports: RelayPorts::default(),
            directory: Arc::default(),
            reservations: Reservations::default(),
            tickets: Tickets::new(&mut rng),
            revocations: Revocations::default(),
            draining: Draining::default(),
        }
    }

    /// The shared state of a process that continues where another ended: the nonces and tickets of
    /// that one stay valid.
    pub fn with_keys(seed: [u8; 32], keys: SharedKeys) -> Self {
        let mut shared = Self::new(seed);
        shared.nonce_key = keys.nonces;
        shared.tickets.set_key(keys.tickets);
        shared
    }

    /// The keys of this process, for the process that continues.
    pub fn keys(&self) -> SharedKeys {
        SharedKeys {
            nonces: self.nonce_key.clone(),
            tickets: self.tickets.key(),
        }
    }

    /// Allocations of all shards.
    pub fn allocations(&self) -> u32 {
        self.quotas.allocations()
    }

    /// Refuses a user's credentials from now on, at every shard. `Server::end_revoked` ends the
    /// user's sessions.
    ///
    /// # Errors
    /// The limit of revocations is reached.
    pub fn revoke(&self, now: UnixTime, revocation: &Revocation) -> Result<(), TooManyRevocations> {
        self.revocations.add(now, revocation)
    }

    /// Removes a revocation. Returns whether there was one.
    pub fn unrevoke(&self, user: &str) -> bool {
        self.revocations.remove(user)
    }

    /// The revocations in force.
    pub fn revocations(&self, now: UnixTime) -> Vec<Revocation> {
        self.revocations.all(now)
    }

    /// Refuses every new client from now on, at every shard. Clients that can follow are redirected
    /// to the servers of `to`, which may name none (`Redirect::serve_others` has no effect here).
    /// `None`: accepts new clients again.
    pub fn set_draining(&self, to: Option<Redirect>) {
        self.draining.set(to);
    }

    /// Whether new clients are refused because the operator drains the server.
    pub fn is_draining(&self) -> bool {
        self.draining.is_on()
    }

    /// The set in which the process registers its sockets that are neither listeners nor relay
    /// sockets, so that no client reaches them as peers.
    pub fn own_sockets(&self) -> OwnSockets {
        self.directory.own.clone()
    }

    /// How many relay ports exist and how many are in use, updated continuously.
    pub fn port_gauges(&self) -> Arc<PortGauges> {
        self.ports.gauges()
    }
}
