//! What an operator asks about allocations: plain data, listed in bounded pieces.
//!
//! A *session* is an allocation under its name outside this process ([`SessionId`]). Pages are ordered by age, the oldest
//! first, so a session that lives throughout a listing appears in it exactly once, however many begin and end meanwhile.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::output::Traffic;
use super::session_id::SessionId;
use super::types::{Link, Path};
use super::user::UserId;
use crate::base::address::{FiveTuple, Transport};
use crate::base::time::{Instant, UnixTime};

/// A place in the order of sessions. The listing continues behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionCursor {
    /// When the Allocate arrived.
    pub requested: Instant,
    /// Tells apart those of the same instant.
    pub id: SessionId,
}

/// Which sessions are meant. Every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// The user: a static user's name, the userid of a time-limited username, or a whole USERNAME.
    pub user: Option<Arc<str>>,
    /// The client's address lies in this network.
    pub client: Option<IpNet>,
    /// A live permission or channel leads to this network.
    pub peer: Option<IpNet>,
    /// The client's transport.
    pub transport: Option<Transport>,
    /// The listeners the client came by.
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

/// Asks for a piece of the listing.
#[derive(Clone, Debug)]
pub struct SessionQuery {
    /// Where the piece before ended; `None`: from the oldest session on.
    pub after: Option<SessionCursor>,
    /// Which sessions.
    pub filter: Arc<SessionFilter>,
    /// How many sessions to look at, whether they pass the filter or not. Bounds the time the piece takes.
    pub examine: usize,
}

/// A piece of the listing.
#[derive(Clone, Debug, Default)]
pub struct SessionPage {
    /// The sessions that pass, the oldest first.
    pub sessions: Vec<SessionSummary>,
    /// Where to continue. `None`: there are no more.
    pub next: Option<SessionCursor>,
}

/// One session in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// Its name.
    pub id: SessionId,
    /// When the Allocate arrived.
    pub requested: Instant,
    /// Full USERNAME of the Allocate.
    pub username: Arc<str>,
    /// Whose it is.
    pub user: UserId,
    /// The client, or who was it.
    pub client: FiveTuple,
    /// That client is gone, and may come back with a ticket (RFC 8016).
    pub away: bool,
    /// The listeners it came by.
    pub path: Path,
    /// Relayed transport addresses it has, by family.
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
    /// Its place in the order.
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
    /// The line.
    pub summary: SessionSummary,
    /// The way to its client.
    pub link: Link,
    /// Its client may move (RFC 8016).
    pub mobile: bool,
    /// Live permissions: peer address and deadline.
    pub permissions: Vec<(IpAddr, Instant)>,
    /// Live channels: number, peer and deadline.
    pub channels: Vec<(u16, SocketAddr, Instant)>,
}

/// Whose sessions to end because credentials were revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The static user's name, or the userid of time-limited usernames.
    pub user: Arc<str>,
    /// Time-limited usernames that expire by then are refused, and so is the static user until then.
    pub until: UnixTime,
}
