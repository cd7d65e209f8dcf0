//! The peer policy, made anew whenever an address changes that it has to know.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::settings::Settings;
use crate::turn::policy::PeerPolicy;

/// Addresses that were announced before, at most, and that may still be those of live allocations.
const FORMER: usize = 16;

/// Has the peer policy know addresses that were announced before: allocations that live there are
/// still reached in memory, and the server's own ports behind them stay closed.
pub(super) fn keep_former(settings: &mut Settings, former: &[IpAddr]) -> bool {
    for ip in former {
        if !settings.peers.relay_ips.contains(ip) {
            settings.peers.relay_ips.push(*ip);
        }
    }
    settings.peers.relay_ips.truncate(FORMER);
    renew_policy(settings)
}

/// Makes the peer policy anew from what `settings.peers` has now.
pub(super) fn renew_policy(settings: &mut Settings) -> bool {
    match PeerPolicy::new(settings.peers.clone()) {
        Ok(policy) => {
            settings.turn.policy = Arc::new(policy);
            true
        }
        Err(error) => {
            tracing::error!(%error, "the peer policy cannot be made anew; this is a bug");
            false
        }
    }
}

/// Has the peer policy know where the servers behind this one are; `false`: it does already.
pub(super) fn know_backends(settings: &mut Settings, all: Vec<SocketAddr>) -> bool {
    let before = core::mem::replace(&mut settings.peers.backends, all);
    before != settings.peers.backends && renew_policy(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample;

    #[test]
    fn former_addresses_are_kept_within_a_bound_and_the_present_one_first() {
        let mut settings = sample::settings(sample::BASE);
        let former: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([198, 18, 0, n])).collect();
        let present = settings.peers.relay_ips.clone();
        assert!(keep_former(&mut settings, &former));
        assert_eq!(settings.peers.relay_ips.len(), FORMER);
        assert!(settings.peers.relay_ips.starts_with(&present));
    }
}
