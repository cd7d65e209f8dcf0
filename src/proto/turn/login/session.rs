//! A login.

use std::sync::Arc;

use crate::turn::user::UserId;
use crate::wire::integrity::{Integrity, Key, PasswordAlgorithm};

/// A login: what an allocation remembers, and what signs the response.
#[derive(Clone, Debug)]
pub struct Session {
    /// USERNAME, also if USERHASH was sent.
    pub username: Arc<str>,
    /// Whose name it is: another expiry is another name of the same user.
    pub user: UserId,
    /// Verifies requests and signs responses.
    pub key: Key,
    /// How responses are signed.
    pub integrity: Integrity,
    /// May allocate on the forced path only.
    pub forced: bool,
    /// The client speaks RFC 8489: it sent PASSWORD-ALGORITHM or USERHASH.
    pub rfc8489: bool,
    /// What `key` was derived with.
    pub(super) algorithm: PasswordAlgorithm,
}

impl Session {
    /// Whether both are logins with the very same username: what RFC 8656 §5 asks of requests about an allocation. A
    /// static user may be called what a time-limited username looks like; that is another.
    pub fn is_same_login(&self, other: &Self) -> bool {
        self.is_login_of(&other.username, &other.user)
    }

    /// The same of a login of which only the names are known.
    pub fn is_login_of(&self, username: &str, user: &UserId) -> bool {
        *self.username == *username && self.user.is_of_same_kind(user)
    }

    /// Whether it is a login of the user who came as `username`, perhaps under names with different expiries. Where that is enough, the
    /// expiry of the name that was shown must have been tested.
    pub fn is_user(&self, username: &str, user: &UserId) -> bool {
        self.is_login_of(username, user) || self.user.is_somebody() && self.user == *user
    }
}
