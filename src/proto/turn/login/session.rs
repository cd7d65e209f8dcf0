//! An authenticated login.

use std::sync::Arc;

use crate::turn::user::UserId;
use crate::wire::integrity::{Integrity, Key, PasswordAlgorithm};

/// A login: stored by its allocation, and used to sign responses.
#[derive(Clone, Debug)]
pub struct Session {
    /// USERNAME, also if USERHASH was sent.
    pub username: Arc<str>,
    /// The user behind the name. Names with different expiries can belong to one user.
    pub user: UserId,
    /// Verifies requests and signs responses.
    pub key: Key,
    /// How responses are signed.
    pub integrity: Integrity,
    /// May allocate on the forced path only.
    pub forced: bool,
    /// The client speaks RFC 8489: it sent PASSWORD-ALGORITHM or USERHASH.
    pub rfc8489: bool,
    /// The algorithm that derived `key`.
    pub(super) algorithm: PasswordAlgorithm,
}

impl Session {
    /// Whether both are logins with exactly the same username, as RFC 8656 §5 requires of requests
    /// about an allocation. A static user whose name looks like a time-limited one is a different
    /// user.
    pub fn is_same_login(&self, other: &Self) -> bool {
        self.is_login_of(&other.username, &other.user)
    }

    /// As [`Self::is_same_login`], for a login of which only the names are known.
    pub fn is_login_of(&self, username: &str, user: &UserId) -> bool {
        *self.username == *username && self.user.is_of_same_kind(user)
    }

    /// Whether `user`, logged in as `username`, is the user of this login, perhaps under a name
    /// with another expiry. A caller for which that suffices must have checked the expiry of
    /// `username`.
    pub fn is_user(&self, username: &str, user: &UserId) -> bool {
        self.is_login_of(username, user) || self.user.is_somebody() && self.user == *user
    }
}
