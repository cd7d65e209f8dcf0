//! What of a new configuration holds at once, and what has to wait for a restart.
//!
//! Sockets, threads and buffers are made once. Everything that is looked up per request or per packet changes with the
//! next one: credentials, limits, peer policy, the credentials API.

use std::sync::Arc;

use super::config::settings::Settings;
use super::follow::keep_former;
use crate::turn::policy::PolicyConfig;

/// A configuration that a running server can take.
#[derive(Debug)]
pub struct Merged {
    /// `new`, with what cannot change now as it was in `old`.
    pub settings: Settings,
    /// Keys and sections whose change waits for a restart.
    pub waiting: Vec<&'static str>,
}

/// Merges a newly loaded configuration into the one in force.
pub fn merge(old: &Settings, mut new: Settings) -> Merged {
    let mut waiting = Vec::new();
    let mut keep = |name, differs: bool| {
        if differs {
            waiting.push(name);
        }
        differs
    };

    // The peer policy protects the addresses that are really listened on and relayed from. Where those would change with
    // a restart only, the old policy stays with the old addresses.
    let mut addresses = false;
    if keep("[[listener]]", old.listeners != new.listeners) {
        new.listeners.clone_from(&old.listeners);
        addresses = true;
    }
    if keep("[admin]", old.admin != new.admin) {
        addresses |= old.admin.address != new.admin.address;
        new.admin.clone_from(&old.admin);
    }
    let ports = |settings: &Settings| (settings.turn.relay.ports.clone(), settings.turn.relay.port_shift);
    if keep("relay.ports, external.ports", ports(old) != ports(&new)) {
        (new.turn.relay.ports, new.turn.relay.port_shift) = ports(old);
        addresses = true;
    }
    if addresses && keep("[nat_discovery]", old.turn.discovery != new.turn.discovery) {
        new.turn.discovery.clone_from(&old.turn.discovery);
    }
    if addresses {
        new.turn.policy = Arc::clone(&old.turn.policy);
        // External addresses do not wait, and the policy must know them.
        new.peers = PolicyConfig {
            relay_ips: core::mem::take(&mut new.peers.relay_ips),
            ..old.peers.clone()
        };
        keep("[peers]", true);
    }
    if new.peers.relay_ips != old.peers.relay_ips {
        keep_former(&mut new, &old.peers.relay_ips);
    }

    if keep("workers", old.workers != new.workers) {
        new.workers = old.workers;
    }
    if keep("[udp]", old.udp != new.udp) {
        new.udp.clone_from(&old.udp);
    }
    if keep("limits of connections and streams", old.stream != new.stream) {
        new.stream.clone_from(&old.stream);
    }
    if keep("[dtls]", old.dtls != new.dtls) {
        new.dtls.clone_from(&old.dtls);
    }
    if keep("[front_door]", old.front_door != new.front_door) {
        new.front_door.clone_from(&old.front_door);
    }
    if keep("[log]", old.log != new.log) {
        new.log.clone_from(&old.log);
    }
    if keep("state_dir", old.state_dir != new.state_dir) {
        new.state_dir.clone_from(&old.state_dir);
    }
    if keep("[tls]", old.tls != new.tls) {
        new.tls.clone_from(&old.tls);
    }
    if keep("api.enabled", old.api.enabled != new.api.enabled) {
        new.api.enabled = old.api.enabled;
    }
    Merged { settings: new, waiting }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::config::env::ProcessEnv;
    use crate::service::config::{Purpose, load_for};
    use crate::turn::policy::PeerClass;
    use crate::turn::types::PeerAddr;

    const BASE: &str = r#"
realm = "one.example.org"
workers = 2
external = { ipv4 = "192.0.2.1", ipv6 = "off" }
relay = { ipv4 = "127.0.0.1", ports = "30000-30999" }
credentials.secrets = ["5f2c9e1b7a8d4036925814703fb6cade"]
listener = [{ bind = "127.0.0.1:3478", protocols = ["udp", "tcp"] }]
"#;

    fn settings(name: &str, text: &str) -> Settings {
        let path = std::env::temp_dir().join(format!("relay-reload-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).expect("write");
        let loaded = load_for(Purpose::Check, Some(&path), &ProcessEnv::default());
        std::fs::remove_file(&path).expect("remove");
        loaded
            .unwrap_or_else(|diagnostics| panic!("{}", diagnostics.render(false)))
            .settings
    }

    #[test]
    fn what_is_looked_up_per_request_changes_at_once() {
        let old = settings("live-old", BASE);
        let text = BASE.replace("one.example", "two.example").replace("5f2c", "6e3d");
        let new = settings(
            "live-new",
            &format!("{text}\nlimits.allocations_per_user = 3\napi.query_key = true\n"),
        );
        let merged = merge(&old, new);
        assert_eq!(merged.waiting, [""; 0]);
        assert_eq!(merged.settings.realm, "two.example.org");
        assert_eq!(merged.settings.turn.limits.allocations_per_user, 3);
        assert!(merged.settings.api.query_key);
        assert!(!Arc::ptr_eq(&merged.settings.turn.credentials, &old.turn.credentials));
        assert!(!Arc::ptr_eq(&merged.settings.turn.policy, &old.turn.policy));
    }

    #[test]
    fn sockets_threads_and_buffers_wait_for_a_restart_and_are_named() {
        let old = settings("wait-old", BASE);
        let text = BASE.replace("workers = 2", "workers = 1");
        let new = settings(
            "wait-new",
            &format!("{text}\nudp.offload = false\nlog.level = \"debug\"\nlimits.connections = 7\n"),
        );
        let merged = merge(&old, new);
        assert_eq!(
            merged.waiting,
            ["workers", "[udp]", "limits of connections and streams", "[log]"]
        );
        let now = &merged.settings;
        assert_eq!(
            (now.workers, &now.udp, &now.stream, &now.log),
            (old.workers, &old.udp, &old.stream, &old.log)
        );
    }

    /// The peer policy of the new configuration would leave the old listener's port open to peers.
    #[test]
    fn with_other_listeners_the_policy_that_protects_the_present_ones_stays() {
        let old = settings("policy-old", BASE);
        for (name, change) in [("3478", "3479"), ("30999", "30899")] {
            let text = BASE.replace(name, change);
            let merged = merge(
                &old,
                settings(
                    &format!("policy-{name}"),
                    &format!("{text}\npeers.allow = [\"127.0.0.0/8\"]\n"),
                ),
            );
            assert_eq!(merged.settings.listeners, old.listeners);
            assert_eq!(merged.settings.turn.relay.ports, old.turn.relay.ports);
            assert!(Arc::ptr_eq(&merged.settings.turn.policy, &old.turn.policy));
            assert!(merged.waiting.contains(&"[peers]"), "{:?}", merged.waiting);
        }
    }

    /// Its clients reach each other in memory, and nobody reaches the server itself by it.
    #[test]
    fn with_other_listeners_the_policy_that_stays_learns_of_another_external_address() {
        let old = settings("external-old", BASE);
        let text = BASE.replace("3478", "3479").replace("192.0.2.1", "192.0.2.2");
        let new = settings(
            "external-new",
            &format!("{text}\npeers.allow = [\"127.0.0.0/8\", \"192.0.2.0/24\"]\n"),
        );
        let now = merge(&old, new).settings;
        let announced = now.turn.relay.ipv4.map(|address| address.announced.to_string());
        assert_eq!(announced.as_deref(), Some("192.0.2.2"));
        let peer = |text: &str| now.turn.policy.peer(PeerAddr(text.parse().expect("an address")));
        for relayed in ["192.0.2.1:30100", "192.0.2.2:30100"] {
            assert_eq!(peer(relayed), Ok(PeerClass::Relayed), "{relayed}");
        }
        for closed in ["192.0.2.2:3478", "127.0.0.1:3478", "127.0.0.1:9", "192.0.2.9:9"] {
            assert!(peer(closed).is_err(), "{closed}");
        }
    }

    /// Its places would be told to clients, and nothing listens there before the restart.
    #[test]
    fn nat_discovery_waits_with_its_listeners() {
        let old = settings("discovery-old", BASE);
        let listeners = r#"[{ bind = "*:3478" }, { bind = "*:3479" }]"#;
        let text = BASE.replace(
            r#"[{ bind = "127.0.0.1:3478", protocols = ["udp", "tcp"] }]"#,
            listeners,
        );
        let text = format!("{text}\nnat_discovery = {{ enabled = true, ipv4 = [\"127.0.0.1\", \"127.0.0.2\"] }}\n");
        let new = settings("discovery-new", &text);
        assert!(new.turn.discovery.is_some());
        let merged = merge(&old, new.clone());
        assert_eq!(merged.settings.turn.discovery, None);
        assert!(merged.waiting.contains(&"[nat_discovery]"), "{:?}", merged.waiting);
        let same = merge(
            &new,
            settings("discovery-same", &text.replace("enabled = true", "enabled = false")),
        );
        assert_eq!((same.settings.turn.discovery, same.waiting), (None, Vec::new()));
    }
}
