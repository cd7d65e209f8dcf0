//! Revoked users, with the time until which each is revoked. Checked once per authenticated
//! request, never per relayed packet.
//!
//! Names are compared as the operator writes them. The name of a static user and the userid of
//! time-limited usernames are the same here, because the operator who revokes a user does not know
//! its kind.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::base::lock::lock;
use crate::base::time::UnixTime;
use crate::turn::login::credential::TimeLimited;
use crate::turn::sessions::Revocation;
use crate::turn::user::UserId;

/// Most revocations at a time.
pub const MAX_REVOCATIONS: usize = 65_536;

/// The limit of revocations is reached ([`MAX_REVOCATIONS`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRevocations;

/// The revocations of all shards of a process.
#[derive(Debug, Default)]
pub(in crate::turn) struct Revocations {
    /// Lets a server without revocations skip the lock.
    count: AtomicUsize,
    users: Mutex<HashMap<Arc<str>, UnixTime>>,
}

impl Revocations {
    /// Revokes a user, from now on at every shard. Of two times for one user the later one counts.
    pub(in crate::turn) fn add(&self, now: UnixTime, revocation: &Revocation) -> Result<(), TooManyRevocations> {
        let mut users = lock(&self.users);
        users.retain(|_, until| *until > now);
        if !users.contains_key(&revocation.user) && users.len() >= MAX_REVOCATIONS {
            self.count.store(users.len(), Relaxed);
            return Err(TooManyRevocations);
        }
        let until = users.entry(Arc::clone(&revocation.user)).or_insert(revocation.until);
        *until = revocation.until.max(*until);
        self.count.store(users.len(), Relaxed);
        Ok(())
    }

    /// Removes a revocation. Returns whether there was one.
    pub(in crate::turn) fn remove(&self, user: &str) -> bool {
        let mut users = lock(&self.users);
        let removed = users.remove(user).is_some();
        self.count.store(users.len(), Relaxed);
        removed
    }

    /// All revocations in force.
    pub(in crate::turn) fn all(&self, now: UnixTime) -> Vec<Revocation> {
        let users = lock(&self.users);
        let live = users.iter().filter(|&(_, &until)| until > now);
        live.map(|(user, &until)| Revocation {
            user: Arc::clone(user),
            until,
        })
        .collect()
    }

    /// Until when a login with this name is revoked, if it is.
    pub(in crate::turn) fn of(&self, now: UnixTime, username: &str, user: &UserId) -> Option<UnixTime> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let until = *lock(&self.users).get(user.id()).filter(|&&until| until > now)?;
        let newer =
            !user.is_static() && TimeLimited::parse(username.as_bytes()).is_some_and(|name| name.expiry > until);
        (!newer).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn revocation(user: &str, seconds: u64) -> Revocation {
        Revocation {
            user: user.into(),
            until: UnixTime(NOW.0 + seconds),
        }
    }

    #[test]
    fn names_that_expire_by_then_are_revoked_and_later_ones_are_not() {
        let all = Revocations::default();
        let user = UserId::of_time_limited("eve");
        assert_eq!(all.of(NOW, "1800000100:eve", &user), None);
        all.add(NOW, &revocation("eve", 100)).unwrap();
        assert_eq!(all.of(NOW, "1800000100:eve", &user), Some(UnixTime(1_800_000_100)));
        assert_eq!(all.of(NOW, "1800000101:eve", &user), None);
        assert_eq!(all.of(NOW, "1800000100:ann", &UserId::of_time_limited("ann")), None);
        // A static user's name has no expiry, so the user is revoked until that time.
        let user = UserId::of_static("eve".into());
        assert!(all.of(NOW, "eve", &user).is_some());
        assert_eq!(all.of(UnixTime(NOW.0 + 100), "eve", &user), None);
    }

    #[test]
    fn a_sooner_time_does_not_shorten_a_revocation_and_it_can_be_taken_back() {
        let all = Revocations::default();
        all.add(NOW, &revocation("eve", 100)).unwrap();
        all.add(NOW, &revocation("eve", 10)).unwrap();
        assert_eq!(all.all(NOW), [revocation("eve", 100)]);
        assert!(all.remove("eve") && !all.remove("eve"));
        assert_eq!(all.of(NOW, "1800000005:eve", &UserId::of_time_limited("eve")), None);
    }

    #[test]
    fn there_is_room_for_so_many_and_what_is_over_makes_room() {
        let all = Revocations::default();
        for n in 0..MAX_REVOCATIONS {
            all.add(NOW, &revocation(&format!("user-{n}"), 10)).unwrap();
        }
        assert_eq!(all.add(NOW, &revocation("eve", 10)), Err(TooManyRevocations));
        assert_eq!(all.add(NOW, &revocation("user-7", 20)), Ok(()));
        all.add(UnixTime(NOW.0 + 10), &revocation("eve", 20)).unwrap();
        assert_eq!(all.all(UnixTime(NOW.0 + 10)).len(), 2);
    }
}
