//! What the shards of one process share: its own nonce key, quotas and limits, relay ports and who lives at which, mobility
//! tickets.
//!
//! A relayed packet touches none of it, but for one atomic load when its peer is itself a relayed address of this server.
//! Instants of all shards count from the same origin.

use core::fmt;
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::auth::Session;
use super::limits::Limiters;
use super::mobility::ticket::Tickets;
use super::nonce::NonceKey;
use super::output::DropReason;
use super::own::OwnSockets;
use super::policy::PeerClass;
use super::ports::{PortGauges, RelayPort, RelayPorts};
use super::quota::{Quotas, ReservationUnit};
use super::types::{PeerAddr, RelayedAddr};
use crate::base::address::Family;
use crate::base::lock::lock;
use crate::base::rng::Rng;
use crate::base::time::Instant;

/// One per process, behind an [`Arc`], handed to every shard's `Server`.
pub struct Shared {
    /// Issues nonces where no secret is configured. One shard's nonce is good on every other: a client's next request may
    /// arrive anywhere.
    pub(super) nonce_key: NonceKey,
    pub(super) quotas: Quotas,
    pub(super) limiters: Limiters,
    pub(super) ports: RelayPorts,
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
            nonce_key: NonceKey::random(rng.array()),
            quotas: Quotas::new(&mut rng),
            limiters: Limiters::new(&mut rng),
            ports: RelayPorts::default(),
            directory: Arc::default(),
            reservations: Reservations::default(),
            tickets: Tickets::new(&mut rng),
        }
    }

    /// Allocations of all shards.
    pub fn allocations(&self) -> u32 {
        self.quotas.allocations()
    }

    /// Where the process notes its sockets that are neither listeners nor relay sockets: they are nobody's peers.
    pub fn own_sockets(&self) -> OwnSockets {
        self.directory.own.clone()
    }

    /// How many relay ports there are and how many are in use, now and later.
    pub fn port_gauges(&self) -> Arc<PortGauges> {
        self.ports.gauges()
    }
}

/// What of ours is at an address of this machine: which shard a live relayed transport address belongs to, and where other
/// sockets are.
///
/// Written when an allocation begins, moves and ends.
#[derive(Debug)]
pub(super) struct RelayDirectory {
    /// By family and port: shard index plus one, or [`TCP`]; 0 where nothing lives.
    owners: [Box<[AtomicU16]>; 2],
    own: OwnSockets,
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

/// Stands for a TCP allocation (RFC 6062), whichever shard has it: no datagram goes there.
const TCP: u16 = u16::MAX;

impl RelayDirectory {
    /// The shard that has a UDP allocation at this address of ours.
    pub(super) fn owner(&self, relayed: RelayedAddr) -> Option<u16> {
        let owner = self.entry(relayed).load(Relaxed).checked_sub(1)?;
        (owner != TCP - 1).then_some(owner)
    }

    /// The way to a peer on this machine, at this moment: the shard that has an allocation there or, for a program that is
    /// not ours, `None`: by the relay socket. A port may change hands between any two packets.
    pub(super) fn way(&self, class: PeerClass, peer: PeerAddr) -> Result<Option<u16>, DropReason> {
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

/// A port set aside by EVEN-PORT with the R bit, until someone presents its token (RFC 8656 §7.2).
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) port: RelayPort,
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
pub(super) struct Reservations(Mutex<BTreeMap<Token, Reservation>>);

impl Reservations {
    /// Sets a port aside.
    pub(super) fn insert(&self, token: Token, reservation: Reservation) {
        lock(&self.0).insert(token, reservation);
    }

    /// The family of the port behind `token`, if it is still there for this user.
    pub(super) fn peek(&self, now: Instant, token: &Token, session: &Session) -> Option<Family> {
        lock(&self.0)
            .get(token)
            .filter(|it| it.is_for(now, session))
            .map(|it| it.port.family())
    }

    /// The port, and it is gone from here.
    pub(super) fn redeem(&self, now: Instant, token: &Token, session: &Session) -> Option<RelayPort> {
        let mut by_token = lock(&self.0);
        by_token.get(token).filter(|it| it.is_for(now, session))?;
        by_token.remove(token).map(|it| it.port)
    }

    /// Ends a reservation whose time has come, if its token was not used before: its port goes back.
    pub(super) fn end(&self, token: &Token) {
        let ended = lock(&self.0).remove(token);
        drop(ended);
    }
}
