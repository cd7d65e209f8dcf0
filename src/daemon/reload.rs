//! Decides which changes of a new configuration apply at once, and which need a restart.
//!
//! Sockets, threads and buffers are created once. Everything that is looked up per request or per
//! packet changes at once: credentials, limits, peer policy, the credentials API.

use super::peer_policy::keep_former;
use crate::config::settings::{Part, Settings};
use crate::machine::external::{announced_host, key};

/// A configuration for a running server.
#[derive(Debug)]
pub struct Merged {
    /// `new`, with the unchangeable parts of `old`.
    pub settings: Settings,
    /// Keys and sections whose change needs a restart.
    pub waiting: Vec<&'static str>,
    /// Parts that failed, and why; they keep the values of `old`.
    pub failed: Vec<String>,
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
    let lacks_certificates = new.lacking.contains(&Part::Certificates);
    if lacks_certificates || keep("[tls]", old.tls != new.tls) {
        new.tls.clone_from(&old.tls);
    }
    if keep("api.enabled", old.api.enabled != new.api.enabled) {
        new.api.enabled = old.api.enabled;
    }
    let failed = lacking(old, &mut new);
    peers(old, &mut new);
    Merged {
        settings: new,
        waiting,
        failed,
    }
}

/// Keeps the old values of parts that could not be found or read.
fn lacking(old: &Settings, new: &mut Settings) -> Vec<String> {
    let mut failed = Vec::new();
    if new.lacking.contains(&Part::Credentials) {
        new.turn.credentials.clone_from(&old.turn.credentials);
        new.turn.nonce_key.clone_from(&old.turn.nonce_key);
        new.api.keys.clone_from(&old.api.keys);
        // Keys depend on it.
        new.realm.clone_from(&old.realm);
        new.turn.realm.clone_from(&old.turn.realm);
        failed.push("credentials, keys and realm: a file cannot be read, or holds no secret".to_owned());
    }
    if new.lacking.contains(&Part::Certificates) {
        failed.push(CERTIFICATES.to_owned());
    }
    let families: Vec<_> = new.external.plans.iter().map(|plan| plan.family).collect();
    for family in families {
        let before = old.turn.relay.of(family);
        if new.turn.relay.of(family).is_none() && before.is_some() {
            new.turn.relay.set(family, before);
            failed.push(format!("external.{}: no address is found", key(family)));
            if new.api.host_from_address {
                new.api.host = announced_host(&new.turn.relay);
            }
        }
    }
    failed
}

/// For [`Merged::failed`].
pub const CERTIFICATES: &str = "certificates: one of them cannot be used";

/// Builds the new lists around the open sockets: those of the new file would leave the open ones
/// unprotected.
fn peers(old: &Settings, new: &mut Settings) {
    new.peers.own.clone_from(&old.peers.own);
    // Monitored, so there is no need to read them again.
    new.peers.local.clone_from(&old.peers.local);
    new.peers.relay_ports.clone_from(&old.peers.relay_ports);
    // If the front door changes at a restart, connections go to the present backends until then.
    new.peers.backends.clone_from(&old.peers.backends);
    new.peers.relay_ips = new.turn.relay.own_ips().collect();
    if !keep_former(new, &old.peers.relay_ips) {
        new.peers.clone_from(&old.peers);
        new.turn.policy.clone_from(&old.turn.policy);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::sample::settings;
    use crate::config::settings::ApiKey;
    use crate::daemon::peer_policy::know_backends;
    use crate::machine::certificate::CertificateFiles;
    use crate::turn::login::nonce::NonceKey;
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

    #[test]
    fn what_is_looked_up_per_request_changes_at_once() {
        let old = settings(BASE);
        let text = BASE.replace("one.example", "two.example").replace("5f2c", "6e3d");
        let new = settings(&format!(
            "{text}\nlimits.allocations_per_user = 3\napi.query_key = true\n"
        ));
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
        let old = settings(BASE);
        let text = BASE.replace("workers = 2", "workers = 1");
        let new = settings(&format!(
            "{text}\nudp.offload = false\nlog.level = \"debug\"\nlimits.connections = 7\n"
        ));
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

    /// A part that needs a restart: its name, a change of it, and its contents.
    type Waits = (&'static str, fn(&mut Settings), fn(&Settings) -> String);

    const WAITS: [Waits; 13] = [
        (
            "[[listener]]",
            |s| s.listeners[0].tls = true,
            |s| format!("{:?}", s.listeners),
        ),
        (
            "[admin]",
            |s| s.admin.hosts.push("relay.internal".into()),
            |s| format!("{:?}", s.admin),
        ),
        (
            "relay.ports, external.ports",
            |s| s.turn.relay.ports = 40_000..=40_999,
            ports,
        ),
        ("relay.ports, external.ports", |s| s.turn.relay.port_shift = 2, ports),
        ("workers", |s| s.workers = 1, |s| s.workers.to_string()),
        ("[udp]", |s| s.udp.slots += 1, |s| format!("{:?}", s.udp)),
        (
            "limits of connections and streams",
            |s| s.stream.max_connections += 1,
            |s| format!("{:?}", s.stream),
        ),
        ("[dtls]", |s| s.dtls.handshakes += 1, |s| format!("{:?}", s.dtls)),
        (
            "[front_door]",
            |s| s.front_door.connections += 1,
            |s| format!("{:?}", s.front_door),
        ),
        ("[log]", |s| s.log.json = true, |s| format!("{:?}", s.log)),
        (
            "state_dir",
            |s| s.state_dir.push("another"),
            |s| format!("{:?}", s.state_dir),
        ),
        (
            "[tls]",
            |s| s.tls.certificates.push(CertificateFiles::default()),
            |s| format!("{:?}", s.tls),
        ),
        ("api.enabled", |s| s.api.enabled ^= true, |s| s.api.enabled.to_string()),
    ];

    fn ports(settings: &Settings) -> String {
        let relay = &settings.turn.relay;
        format!("{:?} {}", relay.ports, relay.port_shift)
    }

    #[test]
    fn each_thing_that_waits_is_named_by_itself_and_stays_whole() {
        for (name, change, shown) in WAITS {
            let old = settings(BASE);
            let mut new = old.clone();
            change(&mut new);
            assert_ne!(shown(&new), shown(&old), "{name} is changed");
            let merged = merge(&old, new);
            assert_eq!(merged.waiting, [name]);
            assert_eq!(shown(&merged.settings), shown(&old), "{name}");
            assert!(merged.failed.is_empty(), "{:?}", merged.failed);
        }
    }

    #[test]
    fn credentials_that_cannot_be_read_stay_with_keys_and_realm() {
        let mut old = settings(BASE);
        old.turn.nonce_key = Some(NonceKey::random([3; 32]));
        old.api.keys.push(ApiKey {
            name: "app".into(),
            key: "key-of-the-application-0123456789".into(),
            choose_username: false,
            forced: false,
        });
        let text = BASE.replace("one.example", "two.example");
        let mut new = settings(&format!("{text}\nlimits.allocations = 77\n"));
        new.lacking = vec![Part::Credentials];
        let merged = merge(&old, new);
        let now = &merged.settings;
        assert!(Arc::ptr_eq(&now.turn.credentials, &old.turn.credentials));
        assert_eq!((&now.realm, &now.turn.realm), (&old.realm, &old.turn.realm));
        assert_eq!(now.api.keys.len(), 1);
        assert!(now.turn.nonce_key.is_some());
        assert_eq!(now.turn.limits.allocations, 77, "all else changes");
        assert_eq!(merged.failed.len(), 1, "{:?}", merged.failed);
        assert_eq!(merged.waiting, [""; 0]);
    }

    /// The certificates in service stay, and whether a restart is needed is unknown.
    #[test]
    fn certificates_that_cannot_be_used_stay_and_are_told_once() {
        let old = settings(BASE);
        let mut new = old.clone();
        new.tls.certificates.push(CertificateFiles::default());
        new.lacking = vec![Part::Certificates];
        let merged = merge(&old, new);
        assert_eq!(merged.settings.tls, old.tls);
        assert_eq!(merged.failed, [CERTIFICATES]);
        assert_eq!(merged.waiting, [""; 0]);
    }

    #[test]
    fn an_external_address_that_is_not_found_stays_and_is_what_clients_are_told() {
        let mut old = settings(BASE);
        let mut new = old.clone();
        new.turn.relay.ipv4 = None;
        new.api.host = "localhost".to_owned();
        new.api.host_from_address = true;
        let merged = merge(&old, new.clone());
        assert_eq!(merged.settings.turn.relay.ipv4, old.turn.relay.ipv4);
        assert_eq!(merged.settings.api.host, "192.0.2.1");
        assert_eq!(merged.failed, ["external.ipv4: no address is found"]);
        // The host in the file is kept, and a family that never had an address lacks none.
        new.api.host_from_address = false;
        assert_eq!(merge(&old, new.clone()).settings.api.host, "localhost");
        old.turn.relay.ipv4 = None;
        assert!(merge(&old, new).failed.is_empty());
    }

    /// A reload must not lose the monitored addresses and the bound listeners.
    #[test]
    fn what_is_followed_outlives_a_reload() {
        let mut old = settings(BASE);
        let new = old.clone();
        old.peers.local = vec!["10.9.8.0/24".parse().expect("a network")];
        old.peers.own = vec!["10.9.7.1:3478".parse().expect("an address")];
        old.peers.relay_ports = 30_000..=30_500;
        let now = merge(&old, new).settings;
        assert_eq!(now.peers.local, old.peers.local);
        assert_eq!(now.peers.own, old.peers.own);
        assert_eq!(now.peers.relay_ports, old.peers.relay_ports);
    }

    /// The sockets of the new configuration are not open, and the open ones would be unprotected.
    #[test]
    fn with_other_listeners_the_new_lists_hold_around_the_present_ones() {
        let old = settings(BASE);
        for (name, change) in [("3478", "3479"), ("30999", "30899")] {
            let text = BASE.replace(name, change);
            let lists = "peers.allow = [\"127.0.0.0/8\"]\npeers.deny = [\"8.8.8.8/32\"]\n";
            let merged = merge(&old, settings(&format!("{text}\n{lists}")));
            let now = &merged.settings;
            assert_eq!(now.listeners, old.listeners);
            assert_eq!(now.turn.relay.ports, old.turn.relay.ports);
            assert_eq!(merged.waiting.len(), 1, "{:?}", merged.waiting);
            let peer = |text: &str| now.turn.policy.peer(PeerAddr(text.parse().expect("an address")));
            for closed in ["127.0.0.1:3478", "8.8.8.8:9"] {
                assert!(peer(closed).is_err(), "{closed}");
            }
            assert_eq!(peer("127.0.0.1:3479"), Ok(PeerClass::RelayedOrLocal));
            assert_eq!(peer("192.0.2.1:30950"), Ok(PeerClass::Relayed));
        }
    }

    /// Packets between its clients stay in memory, and no client reaches the server itself through
    /// it.
    #[test]
    fn with_other_listeners_the_policy_learns_of_another_external_address() {
        let old = settings(BASE);
        let text = BASE.replace("3478", "3479").replace("192.0.2.1", "192.0.2.2");
        let new = settings(&format!("{text}\npeers.allow = [\"192.0.2.0/24\"]\n"));
        let now = merge(&old, new).settings;
        let announced = now.turn.relay.ipv4.map(|address| address.announced.to_string());
        assert_eq!(announced.as_deref(), Some("192.0.2.2"));
        let peer = |text: &str| now.turn.policy.peer(PeerAddr(text.parse().expect("an address")));
        for relayed in ["192.0.2.1:30100", "192.0.2.2:30100"] {
            assert_eq!(peer(relayed), Ok(PeerClass::Relayed), "{relayed}");
        }
        for closed in [
            "192.0.2.2:3478",
            "127.0.0.1:3478",
            "127.0.0.1:9",
            "192.0.2.2:9",
            "192.0.2.1:9",
        ] {
            assert!(peer(closed).is_err(), "{closed}");
        }
        assert_eq!(peer("192.0.2.9:9"), Ok(PeerClass::Peer), "the new list");
    }

    /// Connections go to the present backends until the restart.
    #[test]
    fn with_another_front_door_the_present_backends_stay_closed() {
        let route = |to: &str| {
            let text = BASE.replace("\"udp\", \"tcp\"", "\"tcp\", \"tls\", \"https\"");
            format!(
                "{text}\npeers.allow = [\"10.0.8.0/24\"]\n[[front_door.route]]\nnames = [\"www.example.org\"]\n\
                 backend = \"{to}\"\n"
            )
        };
        let old = settings(&route("10.0.8.7:443"));
        let merged = merge(&old, settings(&route("10.0.8.8:443")));
        assert_eq!(merged.waiting, ["[front_door]"]);
        let mut now = merged.settings;
        let closed = |now: &Settings, ip: &str| now.turn.policy.permission(ip.parse().expect("an address")).is_err();
        assert!(closed(&now, "10.0.8.7") && !closed(&now, "10.0.8.8"));
        // The same applies to addresses found later.
        assert!(know_backends(
            &mut now,
            vec!["10.0.8.9:443".parse().expect("an address")]
        ));
        assert!(closed(&now, "10.0.8.9"));
        let same = now.peers.backends.clone();
        assert!(!know_backends(&mut now, same));
    }

    /// Clients would be sent to its addresses, and nothing listens there before the restart.
    #[test]
    fn nat_discovery_waits_with_its_listeners() {
        let old = settings(BASE);
        let listeners = r#"[{ bind = "*:3478" }, { bind = "*:3479" }]"#;
        let text = BASE.replace(
            r#"[{ bind = "127.0.0.1:3478", protocols = ["udp", "tcp"] }]"#,
            listeners,
        );
        let text = format!("{text}\nnat_discovery = {{ enabled = true, ipv4 = [\"127.0.0.1\", \"127.0.0.2\"] }}\n");
        let new = settings(&text);
        assert!(new.turn.discovery.is_some());
        let merged = merge(&old, new.clone());
        assert_eq!(merged.settings.turn.discovery, None);
        assert!(merged.waiting.contains(&"[nat_discovery]"), "{:?}", merged.waiting);
        // One of its addresses may be that of the admin listener, or a relay port.
        let moves: [fn(&mut Settings); 3] = [
            |s| s.admin.address = None,
            |s| s.turn.relay.ports = 40_000..=40_999,
            |s| s.turn.relay.port_shift = 2,
        ];
        for change in moves {
            let mut moved = new.clone();
            moved.turn.discovery = None;
            change(&mut moved);
            let waiting = merge(&new, moved).waiting;
            assert!(waiting.contains(&"[nat_discovery]"), "{waiting:?}");
        }
        let same = merge(&new, settings(&text.replace("enabled = true", "enabled = false")));
        assert_eq!((same.settings.turn.discovery, same.waiting), (None, Vec::new()));
    }
}
