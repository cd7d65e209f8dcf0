//! Bounds on everything that a client can make grow.

use crate::base::rate::Rate;

/// Bounds. Reaching one results in an error code or a
/// [`DropReason`](crate::turn::output::DropReason).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Allocations per user (486), identified as in `user::UserId`.
    pub allocations_per_user: u32,
    /// Allocations per client IP address (486).
    pub allocations_per_ip: u32,
    /// Allocations per network of client addresses (486): IPv4 /24, IPv6 /48.
    pub allocations_per_network: u32,
    /// Allocations in total (508).
    pub allocations: u32,
    /// Permissions per allocation (508).
    pub permissions: u16,
    /// Channels per allocation (508).
    pub channels: u16,
    /// Port reservations (EVEN-PORT) per user (508).
    pub reservations_per_user: u32,
    /// Replies to unauthenticated UDP requests per second and source (IPv4 address, IPv6 /64).
    pub challenges_per_second: u32,
    /// Burst of `challenges_per_second`.
    pub challenge_burst: u32,
    /// Replies to unauthenticated UDP requests per second, all sources together.
    pub all_challenges_per_second: u32,
    /// Binding responses over UDP per second and source.
    pub bindings_per_second: u32,
    /// Failed logins per second and source IP, on every transport.
    pub login_failures_per_second: u32,
    /// CreatePermission and ChannelBind requests per second and allocation.
    pub permission_requests_per_second: u32,
    /// Requests of any kind that the client has signed, per second and allocation.
    pub allocation_requests_per_second: u32,
    /// Authenticated requests that concern none of the user's allocations, per second and user.
    pub user_requests_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations_per_user: 100,
            allocations_per_ip: 1000,
            allocations_per_network: 8192,
            allocations: 16_384,
            permissions: 128,
            channels: 128,
            reservations_per_user: 2,
            challenges_per_second: 20,
            challenge_burst: 60,
            all_challenges_per_second: 20_000,
            bindings_per_second: 100,
            login_failures_per_second: 10,
            permission_requests_per_second: 50,
            allocation_requests_per_second: 100,
            user_requests_per_second: 100,
        }
    }
}

impl Limits {
    /// Rate of authenticated requests of one allocation. The burst is twice what its client needs
    /// to renew everything it may have, because a client repeats every request when its nonce
    /// becomes stale.
    pub(in crate::turn) fn allocation_requests(&self) -> Rate {
        let renewed = 2 * (u32::from(self.permissions) + u32::from(self.channels));
        let rate = self.allocation_requests_per_second;
        Rate::new(rate, rate.saturating_add(renewed))
    }

    /// Rate of authenticated requests of one user that concern none of its allocations, mainly
    /// Allocate. The burst suffices to replace all allocations that the user may have.
    pub(in crate::turn) fn user_requests(&self) -> Rate {
        let replaced = self.allocations_per_user.saturating_mul(2);
        let rate = self.user_requests_per_second;
        Rate::new(rate, rate.saturating_add(replaced))
    }
}
