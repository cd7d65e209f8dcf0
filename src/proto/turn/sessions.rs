//! The operator's queries about allocations: plain data, listed in bounded pieces.
//!
//! A *session* is an allocation under its id outside this process ([`SessionId`]). Pages are
//! ordered by age, oldest first. So a session that lives throughout a listing appears in it exactly
//! once, however many begin and end meanwhile.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::output::Traffic;
use super::session_id::SessionId;
use super::types::{Link, Path};
use super::user::UserId;
use crate::base::address::{FiveTuple, Transport};
use crate::base::time::{Instant, UnixTime};

/// A position in the order of sessions. The listing continues after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionCursor {
    /// When the Allocate arrived.
    pub requested: Instant,
    /// Distinguishes sessions of the same instant.
    pub id: SessionId,
}

/// Selects sessions. Every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// The user: a static user's name, the userid of a time-limited username, or a whole USERNAME.
    pub user: Option<Arc<str>>,
    /// The network of the client's address.
    pub client: Option<IpNet>,
    /// The network of the peer of a live permission or channel.
    pub peer: Option<IpNet>,
    /// The client's transport.
    pub transport: Option<Transport>,
    /// The listeners that the client uses.
    pub path: Option<Path>,
}

impl SessionFilter {
    pub(super) fn admits_user(&self, username: &str, user: &UserId) -> bool {
        let wanted = self.user.as_deref();
        wanted.is_none_or(|wanted| wanted == username || user.is_somebody() && wanted == user.id())
    }

    pub(super) fn admits_client(&self, five_tuple: &FiveTuple, path: Path) -> bool {
        self.client.is_none_or(|net| net.contains(&five_tuple.client.ip()))
            && self.transport.is_none_or(|transport| transport == five_tuple.transport)
            && self.path.is_none_or(|wanted| wanted == path)
    }
}

/// Requests a piece of the listing.
#[derive(Clone, Debug)]
pub struct SessionQuery {
    /// Where the previous piece ended; `None`: starts with the oldest session.
    pub after: Option<SessionCursor>,
    /// The conditions.
    pub filter: Arc<SessionFilter>,
    /// How many sessions to examine, whether or not they match. Bounds the time that the piece
    /// takes.
    pub examine: usize,
}

/// A piece of the listing.
#[derive(Clone, Debug, Default)]
pub struct SessionPage {
    /// The matching sessions, oldest first.
    pub sessions: Vec<SessionSummary>,
    /// Where to continue. `None`: there are no more.
    pub next: Option<SessionCursor>,
}

/// One session in brief.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// Its id.
    pub id: SessionId,
    /// When the Allocate arrived.
    pub requested: Instant,
    /// Full USERNAME of the Allocate.
    pub username: Arc<str>,
    /// The user behind it.
    pub user: UserId,
    /// The client, or the last one if it is away.
    pub client: FiveTuple,
    /// That client has disconnected, and may return with a ticket (RFC 8016).
    pub away: bool,
    /// The listeners that its client uses.
    pub path: Path,
    /// Its relayed transport addresses, by family.
    pub relayed: [Option<SocketAddr>; 2],
    /// When it ends unless it is refreshed.
    pub expires: Instant,
    /// Live permissions.
    pub permissions: usize,
    /// Live channels.
    pub channels: usize,
    /// TCP connections with peers. `None`: it relays datagrams.
    pub connections: Option<usize>,
    /// What it has relayed.
    pub traffic: Traffic,
}

impl SessionSummary {
    /// Its position in the order.
    pub const fn cursor(&self) -> SessionCursor {
        SessionCursor {
            requested: self.requested,
            id: self.id,
        }
    }
}

/// One session in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDetail {
    /// The session in brief.
    pub summary: SessionSummary,
    /// The path to its client.
    pub link: Link,
    /// Its client may move (RFC 8016).
    pub mobile: bool,
    /// Live permissions: peer address and deadline.
    pub permissions: Vec<(IpAddr, Instant)>,
    /// Live channels: number, peer and deadline.
    pub channels: Vec<(u16, SocketAddr, Instant)>,
}

/// The credentials that are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The static user's name, or the userid of time-limited usernames.
    pub user: Arc<str>,
    /// Refuses time-limited usernames that expire by then, and a static user until then.
    pub until: UnixTime,
}
