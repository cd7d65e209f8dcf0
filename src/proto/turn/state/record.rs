//! An allocation as plain data: written by one process, and imported by another process or a later
//! run. It contains no handles of a process (sockets, quota units, keys of logins); [`Handles`] are
//! provided beside it.
//!
//! Instants in a record are on the monotonic clock of the process that wrote it. The importing
//! process must use the same clock.

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

/// Version of [`AllocationRecord`] and [`ReservationRecord`]: the one that is written, and the only
/// one that is read.
pub const RECORD_VERSION: u16 = 1;

/// Longest lifetime that any configuration grants at once.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Most permissions, and most channels, that any configuration grants to an allocation.
const MOST: usize = 4096;
/// The channel numbers that any configuration accepts (RFC 5766).
const CHANNELS: core::ops::RangeInclusive<u16> = 0x4000..=0x7FFF;

/// One allocation. The module's documentation says what is omitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocationRecord {
    /// [`RECORD_VERSION`].
    pub version: u16,
    /// Its id, which does not change.
    pub id: SessionId,
    /// The client, or the last one if it is away.
    pub client: FiveTuple,
    /// That client has disconnected, and may return with a ticket (RFC 8016).
    pub away: bool,
    /// The owner.
    pub owner: OwnerRecord,
    /// When the Allocate arrived.
    pub requested: Instant,
    /// Transaction id of the Allocate, to recognise a retransmission.
    pub transaction_id: [u8; 12],
    /// Its relayed transport addresses, by family.
    pub relayed: [Option<RelayedRecord>; 2],
    /// The relayed transport addresses it was granted, by family, including those that have ended.
    pub given: [Option<SocketAddr>; 2],
    /// RESERVATION-TOKEN in the success response.
    pub token: Option<[u8; 8]>,
    /// ADDRESS-ERROR-CODE in the success response.
    pub unavailable: Option<(Family, u16)>,
    /// A peer was granted, or one was refused and reported.
    pub judged_a_peer: bool,
    /// Permissions, each address once.
    pub permissions: Vec<PermissionRecord>,
    /// Channels, each number and each peer once.
    pub channels: Vec<ChannelRecord>,
    /// What it has relayed.
    pub traffic: Traffic,
    /// Its tickets, if its client requested one.
    pub mobile: Option<MobileRecord>,
}

/// A user, and the name of its login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerRecord {
    /// USERNAME.
    pub username: String,
    /// The user behind that name.
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
    /// The announced address.
    pub address: SocketAddr,
    /// The bound port.
    pub port: u16,
    /// When it expires.
    pub until: Instant,
}

/// A permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermissionRecord {
    /// The permitted peer.
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
    /// The bound peer.
    pub peer: SocketAddr,
    /// When it expires.
    pub until: Instant,
}

/// The tickets of an allocation (RFC 8016), by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileRecord {
    /// The one that its client is known to have.
    pub current: [u8; 12],
    /// When `next` finally replaces it.
    pub current_until: Option<Instant>,
    /// The next one.
    pub next: Option<[u8; 12]>,
    /// The Refresh that moved the allocation to its shard, and until when copies of it may arrive.
    pub moved_by: Option<([u8; 12], Instant)>,
}

/// A port reserved by EVEN-PORT (RFC 8656 §7.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReservationRecord {
    /// [`RECORD_VERSION`].
    pub version: u16,
    /// RESERVATION-TOKEN.
    pub token: [u8; 8],
    /// Address family of the port.
    pub family: Family,
    /// The port to bind.
    pub port: u16,
    /// The user who reserved it.
    pub owner: OwnerRecord,
    /// When the reservation ends.
    pub until: Instant,
}

/// What an allocation needs in a process beside its record.
#[derive(Clone, Debug)]
pub struct Handles {
    /// The path to its client.
    pub link: Link,
    /// Its login, with the keys.
    pub session: Arc<Session>,
}

/// An exported allocation, to be imported elsewhere.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Everything that can be stored.
    pub record: AllocationRecord,
    /// The rest of the core's state.
    pub handles: Handles,
    /// Its relay sockets, by family; the shard transfers them.
    pub sockets: [Option<RelayId>; 2],
}

/// Why a record is not imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// It has another version.
    Version(u16),
    /// The server is stopping.
    Stopping,
    /// The login provided with it is not its owner's.
    WrongLogin,
    /// A relayed transport address has the wrong family, or is not the one that was granted.
    WrongRelayed,
    /// It has no live relayed transport address.
    Expired,
    /// An impossible time: a beginning in the future, or an end further ahead than any lifetime.
    Time,
    /// More permissions or channels than any configuration allows.
    TooMany,
    /// A peer address that cannot have been granted.
    Peer,
    /// A channel number out of range, or a number or peer that is bound twice.
    Channel,
    /// Its client is away, and it has no ticket to return with.
    NoTicket,
    /// Its client already has an allocation here.
    ClientTaken,
    /// Its port is in use here.
    PortTaken {
        /// Address family.
        family: Family,
        /// Port number.
        port: u16,
    },
    /// One of its tickets, or its token, already exists here.
    TicketTaken,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "record version {version} is not supported, only {RECORD_VERSION}"),
            Self::Stopping => f.write_str("the server is stopping"),
            Self::WrongLogin => f.write_str("the login is not the owner's"),
            Self::WrongRelayed => f.write_str("a relayed address of the wrong family, or not the one that was granted"),
            Self::Expired => f.write_str("all its relayed addresses have expired"),
            Self::Time => f.write_str("a time that no current allocation can have"),
            Self::TooMany => write!(f, "more than {MOST} permissions or channels"),
            Self::Peer => f.write_str("a peer address that cannot have been granted"),
            Self::Channel => f.write_str("a channel number out of range, or bound twice"),
            Self::NoTicket => f.write_str("its client is away and has no ticket"),
            Self::ClientTaken => f.write_str("its client already has an allocation here"),
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
    /// Checks whether this can be an allocation that lives at `now`. Does not check its
    /// requirements on the server.
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
    /// Checks whether this can be a reservation that is valid at `now`.
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
