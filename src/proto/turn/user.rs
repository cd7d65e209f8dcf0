//! The identity of a user, independent of the current username.
//!
//! A time-limited username changes with every expiry, and a minting service may issue a userid that
//! is also the name of a static user. So the kind of credential and an id identify a user together.
//! Which comparison uses the user and which the whole USERNAME: `docs/decisions`, "Who is the same
//! user".

use std::sync::Arc;

/// The kind of credential. Two users of different kinds are never the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Static,
    TimeLimited,
}

/// A user, by whom quotas count. All time-limited usernames without a userid share one count,
/// because otherwise every new expiry would bring a new quota. But none of them is the same user as
/// another ([`Self::is_somebody`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId {
    kind: Kind,
    id: Arc<str>,
}

impl UserId {
    /// The user of the static table with this name.
    pub fn of_static(name: Arc<str>) -> Self {
        Self {
            kind: Kind::Static,
            id: name,
        }
    }

    /// The user of a time-limited username: its userid, empty if it has none.
    pub fn of_time_limited(userid: &str) -> Self {
        Self {
            kind: Kind::TimeLimited,
            id: Arc::from(userid),
        }
    }

    /// Whether the user is identified. A time-limited username without a userid only shows that it
    /// was minted.
    pub fn is_somebody(&self) -> bool {
        !self.id.is_empty()
    }

    /// Its name, or its userid.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is a user of the static table.
    pub fn is_static(&self) -> bool {
        self.kind == Kind::Static
    }

    /// Whether both are users of the static table, or both of time-limited credentials.
    pub fn is_of_same_kind(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_kind_and_an_id() {
        let minted = UserId::of_time_limited("alice");
        assert_eq!(minted, UserId::of_time_limited("alice"));
        assert_ne!(minted, UserId::of_time_limited("alicE"));
        assert_ne!(minted, UserId::of_static("alice".into()));
        assert!(!minted.is_of_same_kind(&UserId::of_static("alice".into())));
        assert!(minted.is_somebody() && !UserId::of_time_limited("").is_somebody());
    }
}
