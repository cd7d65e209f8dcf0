//! Rebuilds the peer policy when an address in it changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::settings::Settings;
use crate::turn::policy::PeerPolicy;

/// Maximum of former announced addresses that live allocations may still have.
const FORMER: usize = 16;

/// Keeps former announced addresses in the peer policy: packets for allocations there still stay in
/// memory, and the server's own ports behind them stay closed.
pub(super) fn keep_former(settings: &mut Settings, former: &[IpAddr]) -> bool {
    for ip in former {
        if !settings.peers.relay_ips.contains(ip) {
            settings.peers.relay_ips.push(*ip);
        }
    }
    settings.peers.relay_ips.truncate(FORMER);
    renew_policy(settings)
}

/// Rebuilds the peer policy from `settings.peers`.
pub(super) fn renew_policy(settings: &mut Settings) -> bool {
    match PeerPolicy::new(settings.peers.clone()) {
        Ok(policy) => {
            settings.turn.policy = Arc::new(policy);
            true
        }
        Err(error) => {
            tracing::error!(%error, "cannot rebuild the peer policy; this is a bug, please report it");
            false
        }
    }
}

/// Adds the addresses of the servers behind this one to the peer policy. `false`: it has them
/// already.
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
