//! An allocation as plain data: what is written down of it to be taken up again by another process, or by another run of
//! this one. Handles of a process (sockets, quota shares, the keys of logins) are not in it; [`Handles`] are given beside it.
//!
//! Instants in a record are on the monotonic clock of the process that wrote it. Whoever imports it must run on the same.

use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::allocation::{CHANNEL, FAMILIES, PERMISSION, RESERVATION};
use super::transactions::RETRANSMISSION;
use crate::base::address::{Family, FiveTuple};
use crate::base::time::Instant;
use crate::turn::login::session::Session;
use crate::turn::output::Traffic;
use crate::turn::session_id::SessionId;
use crate::turn::types::{Link, RelayId};
use crate::turn::user::UserId;

/// Version of [`AllocationRecord`] and [`ReservationRecord`] that is written, and the only one that is read.
pub const RECORD_VERSION: u16 = 1;

/// No configuration gives an allocation a longer lifetime at once.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// No configuration gives an allocation more permissions, or more channels.
const MOST: usize = 4096;
/// The channel numbers any configuration accepts (RFC 5766).
const CHANNELS: core::ops::RangeInclusive<u16> = 0x4000..=0x7FFF;

/// One allocation. See the module's documentation for what is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocationRecord {
    /// [`RECORD_VERSION`].
    pub version: u16,
    /// Its name: stays.
    pub id: SessionId,
    /// The client, or who was it.
    pub client: FiveTuple,
    /// That client is gone, and comes back with a ticket (RFC 8016).
    pub away: bool,
    /// Whose it is.
    pub owner: OwnerRecord,
    /// When the Allocate arrived.
    pub requested: Instant,
    /// Of the Allocate, to know a retransmission.
    pub transaction_id: [u8; 12],
    /// Relayed transport addresses it has, by family.
    pub relayed: [Option<RelayedRecord>; 2],
    /// Relayed transport addresses it was given, by family, also those that are gone.
    pub given: [Option<SocketAddr>; 2],
    /// RESERVATION-TOKEN in the success response.
    pub token: Option<[u8; 8]>,
    /// ADDRESS-ERROR-CODE in the success response.
    pub unavailable: Option<(Family, u16)>,
    /// A peer was granted, or one was refused and that reported.
    pub judged_a_peer: bool,
    /// Permissions, each address once.
    pub permissions: Vec<PermissionRecord>,
    /// Channels, each number and each peer once.
    pub channels: Vec<ChannelRecord>,
    /// What it has relayed.
    pub traffic: Traffic,
    /// Its tickets, if its client asked for one.
    pub mobile: Option<MobileRecord>,
}

/// A user, and the name it came with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerRecord {
    /// USERNAME.
    pub username: String,
    /// Whose name that is.
    pub user: UserRecord,
}

/// A [`UserId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserRecord {
    /// By name.
    Static(String),
    /// By userid.
    TimeLimited(String),
}

/// A relayed transport address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayedRecord {
    /// As clients and peers are told it.
    pub address: SocketAddr,
    /// The port it is bound to here.
    pub port: u16,
    /// When it expires.
    pub until: Instant,
}

/// A permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermissionRecord {
    /// For whom.
    pub peer: IpAddr,
    /// When it expires.
    pub until: Instant,
}

/// A channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRecord {
    /// Channel number.
    pub number: u16,
    /// Bound to whom.
    pub peer: SocketAddr,
    /// When it expires.
    pub until: Instant,
}

/// The tickets of an allocation (RFC 8016), by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileRecord {
    /// The one its client is known to have.
    pub current: [u8; 12],
    /// When that is replaced for good.
    pub current_until: Option<Instant>,
    /// The one behind it.
    pub next: Option<[u8; 12]>,
    /// The Refresh that brought the allocation where it is, and how long copies of it may come.
    pub moved_by: Option<([u8; 12], Instant)>,
}

/// A port set aside by EVEN-PORT (RFC 8656 §7.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReservationRecord {
    /// [`RECORD_VERSION`].
    pub version: u16,
    /// RESERVATION-TOKEN.
    pub token: [u8; 8],
    /// Address family of the port.
    pub family: Family,
    /// As it will be bound here.
    pub port: u16,
    /// Who reserved it.
    pub owner: OwnerRecord,
    /// How long it is held.
    pub until: Instant,
}

/// What an allocation needs in a process beside its record.
#[derive(Clone, Debug)]
pub struct Handles {
    /// The way to its client.
    pub link: Link,
    /// Its login, with the keys.
    pub session: Arc<Session>,
}

/// An allocation, to be imported elsewhere.
#[derive(Clone, Debug)]
pub struct Exported {
    /// All that can be written down.
    pub record: AllocationRecord,
    /// The rest of what the core knows.
    pub handles: Handles,
    /// Its relay sockets, by family: the shard's to carry.
    pub sockets: [Option<RelayId>; 2],
}

/// Why a record is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// It is of another version.
    Version(u16),
    /// The server is stopping.
    Stopping,
    /// The login that is given beside it is not its owner's.
    WrongLogin,
    /// A relayed transport address stands where one of the other family belongs, or is not the one that was given.
    WrongRelayed,
    /// It has no relayed transport address that lives.
    Expired,
    /// A point in time that no allocation of now can have: one of its beginning that is to come, or one of an end that is
    /// further ahead than anything is granted for.
    Time,
    /// More permissions or channels than any configuration allows.
    TooMany,
    /// A peer address that nobody can have been granted.
    Peer,
    /// A channel number out of range, or a number or peer that is bound twice.
    Channel,
    /// Its client is gone, and it has no ticket to come back with.
    NoTicket,
    /// Its client has an allocation here already.
    ClientTaken,
    /// Its port is in use here.
    PortTaken {
        /// Address family.
        family: Family,
        /// Port number.
        port: u16,
    },
    /// One of its tickets, or its token, is known here already.
    TicketTaken,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "version {version} of a record, {RECORD_VERSION} is read"),
            Self::Stopping => f.write_str("the server is stopping"),
            Self::WrongLogin => f.write_str("the login is not the owner's"),
            Self::WrongRelayed => f.write_str("a relayed address of the wrong family, or not the one that was given"),
            Self::Expired => f.write_str("all its relayed addresses have expired"),
            Self::Time => f.write_str("a time that no allocation of now can have"),
            Self::TooMany => write!(f, "more than {MOST} permissions or channels"),
            Self::Peer => f.write_str("a peer address that nobody can have been granted"),
            Self::Channel => f.write_str("a channel number out of range, or bound twice"),
            Self::NoTicket => f.write_str("its client is gone and has no ticket"),
            Self::ClientTaken => f.write_str("its client has an allocation here"),
            Self::PortTaken { family, port } => write!(f, "{family:?} port {port} is in use here"),
            Self::TicketTaken => f.write_str("its ticket or token is in use here"),
        }
    }
}

impl core::error::Error for ImportError {}

impl OwnerRecord {
    pub(in crate::turn) fn of(username: &str, user: &UserId) -> Self {
        let id = user.id().to_owned();
        Self {
            username: username.to_owned(),
            user: if user.is_static() {
                UserRecord::Static(id)
            } else {
                UserRecord::TimeLimited(id)
            },
        }
    }

    pub(in crate::turn) fn user(&self) -> UserId {
        match &self.user {
            UserRecord::Static(name) => UserId::of_static(name.as_str().into()),
            UserRecord::TimeLimited(userid) => UserId::of_time_limited(userid),
        }
    }
}

impl AllocationRecord {
    /// Whether this can be an allocation that lives at `now`. What it needs of the server is not looked at.
    pub(in crate::turn) fn check(&self, now: Instant) -> Result<(), ImportError> {
        if self.version != RECORD_VERSION {
            return Err(ImportError::Version(self.version));
        }
        if self.away && self.mobile.is_none() {
            return Err(ImportError::NoTicket);
        }
        self.check_relayed(now)?;
        self.check_times(now)?;
        self.check_peers()
    }

    fn check_relayed(&self, now: Instant) -> Result<(), ImportError> {
        for family in FAMILIES {
            let given = self.given[family as usize];
            let has = self.relayed[family as usize];
            let fits = given.is_none_or(|given| Family::of(given.ip()) == family)
                && has.is_none_or(|has| Some(has.address) == given && has.port != 0);
            if !fits {
                return Err(ImportError::WrongRelayed);
            }
        }
        let alive = |relayed: &RelayedRecord| relayed.until > now;
        if self.relayed.iter().flatten().any(alive) {
            Ok(())
        } else {
            Err(ImportError::Expired)
        }
    }

    fn check_times(&self, now: Instant) -> Result<(), ImportError> {
        let within = |until: Instant, most| until <= now + most;
        let sound = self.requested <= now
            && self.relayed.iter().flatten().all(|it| within(it.until, LIFETIME))
            && self.permissions.iter().all(|it| within(it.until, PERMISSION))
            && self.channels.iter().all(|it| within(it.until, CHANNEL))
            && self.mobile.is_none_or(|mobile| {
                let moved = mobile.moved_by.map(|(_, until)| until);
                let mut untils = mobile.current_until.into_iter().chain(moved);
                untils.all(|until| within(until, RETRANSMISSION))
            });
        if sound { Ok(()) } else { Err(ImportError::Time) }
    }

    fn check_peers(&self) -> Result<(), ImportError> {
        if self.permissions.len() > MOST || self.channels.len() > MOST {
            return Err(ImportError::TooMany);
        }
        let mut peers: Vec<SocketAddr> = self.channels.iter().map(|it| it.peer).collect();
        let mut numbers: Vec<u16> = self.channels.iter().map(|it| it.number).collect();
        let mapped = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        if peers.iter().any(|peer| peer.port() == 0)
            || peers.iter().map(SocketAddr::ip).any(mapped)
            || self.permissions.iter().any(|it| mapped(it.peer))
        {
            return Err(ImportError::Peer);
        }
        peers.sort_unstable_by_key(|peer| (peer.ip(), peer.port()));
        peers.dedup_by_key(|peer| (peer.ip(), peer.port()));
        numbers.sort_unstable();
        numbers.dedup();
        let count = self.channels.len();
        if peers.len() < count || numbers.len() < count || numbers.iter().any(|number| !CHANNELS.contains(number)) {
            return Err(ImportError::Channel);
        }
        Ok(())
    }
}

impl ReservationRecord {
    /// Whether this can be a reservation that lives at `now`.
    pub(in crate::turn) fn check(&self, now: Instant) -> Result<(), ImportError> {
        if self.version != RECORD_VERSION {
            return Err(ImportError::Version(self.version));
        }
        if self.until <= now {
            return Err(ImportError::Expired);
        }
        if self.until > now + RESERVATION {
            return Err(ImportError::Time);
        }
        if self.port == 0 {
            return Err(ImportError::WrongRelayed);
        }
        Ok(())
    }
}
