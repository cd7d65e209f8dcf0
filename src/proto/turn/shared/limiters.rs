//! Rate limits on what unauthenticated senders, and users, can make the server do.
//!
//! A server that answers every request reflects traffic to forged sources, and one that checks
//! every login invites guessing. The shards share the tables. Otherwise a source that spreads its
//! ports over them would get a multiple of the rate.

use std::net::IpAddr;

use crate::base::rate::{Rate, RateTable, SharedBucket};
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::turn::config::limits::Limits;
use crate::turn::output::DropReason;
use crate::turn::user::UserId;

/// The limits across allocations, one set per process.
#[derive(Debug)]
pub struct Limiters {
    challenges: RateTable,
    all_challenges: SharedBucket,
    bindings: RateTable,
    logins: RateTable,
    users: RateTable,
}

impl Limiters {
    /// All budgets full.
    pub fn new(rng: &mut Rng) -> Self {
        let mut table = || RateTable::new(rng.next_u64());
        Self {
            challenges: table(),
            all_challenges: SharedBucket::default(),
            bindings: table(),
            logins: table(),
            users: table(),
        }
    }

    /// Whether an error response may go to `source`, which has not proved its address: UDP only,
    /// for 400, 401, 420 and 438.
    ///
    /// # Errors
    /// The limit that is exceeded: the source's, or that of all sources together.
    pub fn admit_challenge(&self, now: Instant, source: IpAddr, limits: &Limits) -> Result<(), DropReason> {
        let rate = Rate::new(limits.challenges_per_second, limits.challenge_burst);
        if !self.challenges.admit(now, source.into(), rate) {
            return Err(DropReason::ChallengeLimited);
        }
        // The total comes second, so that no source takes more of it than its own share.
        let rate = Rate::per_second(limits.all_challenges_per_second);
        if self.all_challenges.admit(now, rate) {
            Ok(())
        } else {
            Err(DropReason::AllChallengesLimited)
        }
    }

    /// Whether a Binding request over UDP may be answered.
    pub fn admit_binding(&self, now: Instant, source: IpAddr, limits: &Limits) -> bool {
        self.bindings
            .admit(now, source.into(), Rate::per_second(limits.bindings_per_second))
    }

    /// Whether `user`, who has logged in, may send a request that concerns none of its allocations.
    pub(in crate::turn) fn admit_user(&self, now: Instant, user: &UserId, limits: &Limits) -> bool {
        self.users.admit_key(now, user, limits.user_requests())
    }

    /// Whether too many recent logins from `source` have failed. Further attempts are then not
    /// checked.
    pub fn logins_exhausted(&self, now: Instant, source: IpAddr, limits: &Limits) -> bool {
        self.logins
            .is_exhausted(now, source.into(), Rate::per_second(limits.login_failures_per_second))
    }

    /// Counts a failed login. `false`: over the limit, because two shards may pass the check above
    /// at once.
    pub fn admit_login_failure(&self, now: Instant, source: IpAddr, limits: &Limits) -> bool {
        self.logins
            .admit(now, source.into(), Rate::per_second(limits.login_failures_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn one_source_using_up_its_budget_leaves_the_others_theirs() {
        let limiters = Limiters::new(&mut Rng::new([3; 32]));
        let limits = Limits {
            challenges_per_second: 20,
            challenge_burst: 60,
            ..Limits::default()
        };
        let admitted = |ip, now| {
            let all = (0..1000).filter(|_| limiters.admit_challenge(now, ip, &limits).is_ok());
            all.count()
        };
        assert_eq!(admitted(v4(1), at(0)), 60);
        assert_eq!(admitted(v4(1), at(1000)), 20);
        assert_eq!(admitted(v4(2), at(1000)), 60);
        assert!(
            limiters.admit_binding(at(0), v4(1), &limits),
            "each limit has its own table"
        );
    }

    #[test]
    fn all_sources_together_have_a_budget_too() {
        let limiters = Limiters::new(&mut Rng::new([3; 32]));
        let limits = Limits {
            all_challenges_per_second: 100,
            ..Limits::default()
        };
        let admit = |ms, last| limiters.admit_challenge(at(ms), v4(last), &limits);
        for source in 0..100 {
            assert_eq!(admit(0, source), Ok(()), "source {source}");
        }
        assert_eq!(admit(9, 200), Err(DropReason::AllChallengesLimited));
        assert_eq!(admit(10, 201), Ok(()), "one is back");
        assert_eq!(admit(10, 202), Err(DropReason::AllChallengesLimited));
    }

    #[test]
    fn failed_logins_are_counted_and_asking_counts_nothing() {
        let limiters = Limiters::new(&mut Rng::new([3; 32]));
        let limits = Limits {
            login_failures_per_second: 2,
            ..Limits::default()
        };
        for _ in 0..100 {
            assert!(!limiters.logins_exhausted(at(0), v4(1), &limits));
        }
        assert!(limiters.admit_login_failure(at(0), v4(1), &limits));
        assert!(limiters.admit_login_failure(at(0), v4(1), &limits));
        assert!(limiters.logins_exhausted(at(499), v4(1), &limits));
        assert!(!limiters.admit_login_failure(at(499), v4(1), &limits));
        assert!(!limiters.logins_exhausted(at(500), v4(1), &limits));
    }
}
