//! What the shards of one process share: the nonce key, quotas and limits, reserved ports, mobility tickets, and who owns
//! which relay port.
//!
//! A relayed packet touches none of it, but for one atomic load when its peer is itself a relayed address of this server.
//! Instants of all shards count from the same origin.

use core::fmt;
use core::sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::auth::Session;
use super::limits::Limiters;
use super::mobility::ticket::Tickets;
use super::quota::{Quotas, ReservationUnit};
use super::rng::Rng;
use super::time::Instant;
use super::types::{Family, RelayedAddr};

/// One per process, behind an [`Arc`], handed to every shard's `Server`.
pub struct Shared {
    /// One shard's nonce is good on every other: a client's next request may arrive anywhere.
    pub(super) nonce_key: [u8; 32],
    pub(super) quotas: Quotas,
    pub(super) limiters: Limiters,
    pub(super) directory: Arc<RelayDirectory>,
    pub(super) reservations: Reservations,
    pub(super) tickets: Tickets,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("allocations", &self.allocations())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Everything secret is derived from `seed`, which is from the system's generator and different at every start.
    pub fn new(seed: [u8; 32]) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            nonce_key: rng.array(),
            quotas: Quotas::new(&mut rng),
            limiters: Limiters::new(&mut rng),
            directory: Arc::default(),
            reservations: Reservations::default(),
            tickets: Tickets::new(&mut rng),
        }
    }

    /// Allocations of all shards.
    pub fn allocations(&self) -> u32 {
        self.quotas.allocations()
    }
}

/// Which shard a live relayed transport address belongs to.
///
/// Ports are dealt out to shards by arithmetic, but a reserved port (EVEN-PORT) lives where its token is used, so the
/// arithmetic would not do; nor for one that has moved with its client (RFC 8016). Written when an allocation begins, moves and
/// ends.
#[derive(Debug)]
pub(super) struct RelayDirectory {
    /// By family and port: shard index plus one, or [`TCP`]; 0 where nothing lives.
    owners: [Box<[AtomicU16]>; 2],
}

impl Default for RelayDirectory {
    fn default() -> Self {
        let ports = || (0..=u16::MAX).map(|_| AtomicU16::new(0)).collect();
        Self {
            owners: [ports(), ports()],
        }
    }
}

/// Stands for a TCP allocation (RFC 6062), whichever shard has it: no datagram goes there.
const TCP: u16 = u16::MAX;

impl RelayDirectory {
    /// The shard that has a UDP allocation at this address of ours.
    pub(super) fn owner(&self, relayed: RelayedAddr) -> Option<u16> {
        let owner = self.entry(relayed).load(Relaxed).checked_sub(1)?;
        (owner != TCP - 1).then_some(owner)
    }

    /// Whether a TCP allocation listens at this address of ours.
    pub(super) fn is_tcp(&self, relayed: RelayedAddr) -> bool {
        self.entry(relayed).load(Relaxed) == TCP
    }

    /// A TCP allocation begins to listen at `relayed`, or ends.
    pub(super) fn set_tcp(&self, relayed: RelayedAddr, on: bool) {
        self.entry(relayed).store(if on { TCP } else { 0 }, Relaxed);
    }

    /// Notes the shard that `relayed` belongs to from now on.
    pub(super) fn set(&self, relayed: RelayedAddr, shard: Option<usize>) {
        let owner = shard.and_then(|shard| u16::try_from(shard + 1).ok()).unwrap_or(0);
        self.entry(relayed).store(owner, Relaxed);
    }

    fn entry(&self, relayed: RelayedAddr) -> &AtomicU16 {
        &self.owners[Family::of(relayed.0.ip()) as usize][usize::from(relayed.0.port())]
    }
}

/// RESERVATION-TOKEN.
pub(super) type Token = [u8; 8];

/// A relay port, and the shard whose pool it goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnedPort {
    pub(super) shard: usize,
    pub(super) family: Family,
    pub(super) port: u16,
}

/// A port set aside by EVEN-PORT with the R bit, until someone presents its token (RFC 8656 §7.2).
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) port: OwnedPort,
    /// The login that reserved it: only the same user may have it.
    pub(super) owner: Arc<Session>,
    pub(super) until: Instant,
    /// Counts towards the user's reservations.
    pub(super) _unit: ReservationUnit,
}

impl Reservation {
    fn is_for(&self, now: Instant, session: &Session) -> bool {
        self.until > now && self.owner.is_same_user(session)
    }
}

/// Reserved ports of all shards: the Allocate with the token may arrive at any of them. Touched by Allocates with
/// EVEN-PORT or RESERVATION-TOKEN only.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    by_token: Mutex<BTreeMap<Token, Reservation>>,
    /// Ports used by one shard that go back to the pool of another, at that shard's next Allocate or timer.
    returned: Mutex<Vec<OwnedPort>>,
    /// Length of `returned`: looked at on every Allocate, so without the lock.
    returning: AtomicUsize,
}

impl Reservations {
    /// Sets a port aside.
    pub(super) fn insert(&self, token: Token, reservation: Reservation) {
        lock(&self.by_token).insert(token, reservation);
    }

    /// The port behind `token`, if it is still there for this user.
    pub(super) fn peek(&self, now: Instant, token: &Token, session: &Session) -> Option<OwnedPort> {
        lock(&self.by_token)
            .get(token)
            .filter(|it| it.is_for(now, session))
            .map(|it| it.port)
    }

    /// The same, and it is gone from here.
    pub(super) fn redeem(&self, now: Instant, token: &Token, session: &Session) -> Option<OwnedPort> {
        let mut by_token = lock(&self.by_token);
        by_token.get(token).filter(|it| it.is_for(now, session))?;
        by_token.remove(token).map(|it| it.port)
    }

    /// Ends a reservation whose time has come; `None` if its token was used before.
    pub(super) fn take(&self, token: &Token) -> Option<OwnedPort> {
        lock(&self.by_token).remove(token).map(|reservation| reservation.port)
    }

    /// Puts a port back that belongs to another shard's pool.
    pub(super) fn give_back(&self, port: OwnedPort) {
        let mut returned = lock(&self.returned);
        returned.push(port);
        self.returning.store(returned.len(), Relaxed);
    }

    /// The ports of `shard` that others are done with.
    pub(super) fn returned_to(&self, shard: usize) -> Vec<OwnedPort> {
        if self.returning.load(Relaxed) == 0 {
            return Vec::new();
        }
        let mut returned = lock(&self.returned);
        let mine = returned.extract_if(.., |port| port.shard == shard).collect();
        self.returning.store(returned.len(), Relaxed);
        mine
    }
}

/// Locks a mutex of ours.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section is one step, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
