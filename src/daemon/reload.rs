//! Decides which changes of a new configuration apply at once, and which need a restart.
//!
//! Sockets, threads and buffers are created once. Everything that is looked up per request or per
//! packet changes at once: credentials, limits, peer policy, the credentials API. The sections of the
//! configuration say which keys are which, and `config::reload` keeps the values in force of the
//! former. This file holds what no key says.

use super::peer_policy::keep_former;
use crate::config::settings::{Part, Settings};
use crate::machine::external::{announced_host, key};

/// A configuration for a running server.
#[derive(Debug)]
pub struct Merged {
    /// `new`, with the unchangeable parts of `old`.
    pub settings: Settings,
    /// Keys and sections whose change needs a restart.
    pub waiting: Vec<String>,
    /// Parts that failed, and why; they keep the values of `old`.
    pub failed: Vec<String>,
}

/// Merges a newly loaded configuration into the one in force. `new` already has the values in force
/// of the keys that need a restart; `waiting` names them.
pub fn merge(old: &Settings, mut new: Settings, mut waiting: Vec<String>) -> Merged {
    if new.lacking.contains(&Part::Certificates) {
        new.tls.clone_from(&old.tls);
    }
    // These may resolve differently than at the start although their keys are the same: names lead
    // elsewhere, or the machine has other cores or limits, or the API another host.
    keep("[[listener]]", &mut new.listeners, &old.listeners, &mut waiting);
    keep("workers", &mut new.workers, &old.workers, &mut waiting);
    keep("state_dir", &mut new.state_dir, &old.state_dir, &mut waiting);
    keep("[tls]", &mut new.tls, &old.tls, &mut waiting);
    keep("limits.connections", &mut new.stream, &old.stream, &mut waiting);
    keep("[front_door]", &mut new.front_door, &old.front_door, &mut waiting);
    let failed = lacking(old, &mut new);
    peers(old, &mut new);
    Merged {
        settings: new,
        waiting,
        failed,
    }
}

/// Keeps what was made at the start, and names it if `new` differs.
fn keep<T: Clone + PartialEq>(name: &str, new: &mut T, old: &T, waiting: &mut Vec<String>) {
    if new != old {
        new.clone_from(old);
        if !waiting.iter().any(|waits| waits == name) {
            waiting.push(name.to_owned());
        }
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
    use crate::config::sample::{reloaded, settings};
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

    /// What a server that runs with `old` makes of `new`.
    fn reload(old: &str, new: &str) -> (Settings, Merged) {
        let (old, new) = reloaded(old, new);
        let merged = merge(&old, new.settings, new.waiting);
        (old, merged)
    }

    #[test]
    fn what_is_looked_up_per_request_changes_at_once() {
        let text = BASE.replace("one.example", "two.example").replace("5f2c", "6e3d");
        let text = format!("{text}\nlimits.allocations_per_user = 3\napi.query_key = true\n");
        let (old, merged) = reload(BASE, &text);
        assert_eq!(merged.waiting, [""; 0]);
        assert_eq!(merged.settings.realm, "two.example.org");
        assert_eq!(merged.settings.turn.limits.allocations_per_user, 3);
        assert!(merged.settings.api.query_key);
        assert!(!Arc::ptr_eq(&merged.settings.turn.credentials, &old.turn.credentials));
        assert!(!Arc::ptr_eq(&merged.settings.turn.policy, &old.turn.policy));
    }

    #[test]
    fn sockets_threads_and_buffers_wait_for_a_restart_and_are_named() {
        let text = BASE.replace("workers = 2", "workers = 1");
        let text = format!("{text}\nudp.offload = false\nlog.level = \"debug\"\nlimits.connections = 7\n");
        let (old, merged) = reload(BASE, &text);
        assert_eq!(
            merged.waiting,
            ["workers", "limits.connections", "udp.offload", "log.level"]
        );
        let now = &merged.settings;
        assert_eq!(
            (now.workers, &now.udp, &now.stream, &now.log),
            (old.workers, &old.udp, &old.stream, &old.log)
        );
    }

    /// A part that may resolve differently although its keys are the same: its name, a change of it,
    /// and its contents.
    type Waits = (&'static str, fn(&mut Settings), fn(&Settings) -> String);

    const WAITS: [Waits; 6] = [
        (
            "[[listener]]",
            |s| s.listeners[0].tls = true,
            |s| format!("{:?}", s.listeners),
        ),
        ("workers", |s| s.workers = 1, |s| s.workers.to_string()),
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
        (
            "limits.connections",
            |s| s.stream.max_connections += 1,
            |s| format!("{:?}", s.stream),
        ),
        (
            "[front_door]",
            |s| s.front_door.connections += 1,
            |s| format!("{:?}", s.front_door),
        ),
    ];

    #[test]
    fn each_thing_that_waits_is_named_by_itself_and_stays_whole() {
        for (name, change, shown) in WAITS {
            let old = settings(BASE);
            let mut new = old.clone();
            change(&mut new);
            assert_ne!(shown(&new), shown(&old), "{name} is changed");
            for told in [Vec::new(), vec![name.to_owned()]] {
                let merged = merge(&old, new.clone(), told);
                assert_eq!(merged.waiting, [name], "once");
                assert_eq!(shown(&merged.settings), shown(&old), "{name}");
                assert!(merged.failed.is_empty(), "{:?}", merged.failed);
            }
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
        let merged = merge(&old, new, Vec::new());
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
        let merged = merge(&old, new, Vec::new());
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
        let merged = merge(&old, new.clone(), Vec::new());
        assert_eq!(merged.settings.turn.relay.ipv4, old.turn.relay.ipv4);
        assert_eq!(merged.settings.api.host, "192.0.2.1");
        assert_eq!(merged.failed, ["external.ipv4: no address is found"]);
        // The host in the file is kept, and a family that never had an address lacks none.
        new.api.host_from_address = false;
        assert_eq!(merge(&old, new.clone(), Vec::new()).settings.api.host, "localhost");
        old.turn.relay.ipv4 = None;
        assert!(merge(&old, new, Vec::new()).failed.is_empty());
    }

    /// A reload must not lose the monitored addresses and the bound listeners.
    #[test]
    fn what_is_followed_outlives_a_reload() {
        let mut old = settings(BASE);
        let new = old.clone();
        old.peers.local = vec!["10.9.8.0/24".parse().expect("a network")];
        old.peers.own = vec!["10.9.7.1:3478".parse().expect("an address")];
        old.peers.relay_ports = 30_000..=30_500;
        let now = merge(&old, new, Vec::new()).settings;
        assert_eq!(now.peers.local, old.peers.local);
        assert_eq!(now.peers.own, old.peers.own);
        assert_eq!(now.peers.relay_ports, old.peers.relay_ports);
    }

    /// The sockets of the new configuration are not open, and the open ones would be unprotected.
    #[test]
    fn with_other_listeners_the_new_lists_hold_around_the_present_ones() {
        for (name, change) in [("3478", "3479"), ("30999", "30899")] {
            let text = BASE.replace(name, change);
            let lists = "peers.allow = [\"127.0.0.0/8\"]\npeers.deny = [\"8.8.8.8/32\"]\n";
            let (old, merged) = reload(BASE, &format!("{text}\n{lists}"));
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
        let text = BASE.replace("3478", "3479").replace("192.0.2.1", "192.0.2.2");
        let text = format!("{text}\npeers.allow = [\"192.0.2.0/24\"]\n");
        let now = reload(BASE, &text).1.settings;
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
        let (_, merged) = reload(&route("10.0.8.7:443"), &route("10.0.8.8:443"));
        assert_eq!(merged.waiting, ["[[front_door.route]]"]);
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
        let listeners = r#"[{ bind = "*:3478" }, { bind = "*:3479" }]"#;
        let text = BASE.replace(
            r#"[{ bind = "127.0.0.1:3478", protocols = ["udp", "tcp"] }]"#,
            listeners,
        );
        let discovery = "nat_discovery = { enabled = true, ipv4 = [\"127.0.0.1\", \"127.0.0.2\"] }";
        let on = format!("{text}\n{discovery}\n");
        assert!(settings(&on).turn.discovery.is_some());
        let (_, merged) = reload(BASE, &on);
        assert_eq!(merged.settings.turn.discovery, None);
        assert_eq!(
            merged.waiting,
            ["nat_discovery.enabled", "nat_discovery.ipv4", "[[listener]]"]
        );
        // One of its addresses may be that of the admin listener, or a relay port.
        let moves = [
            format!("{text}\nadmin.address = \"off\"\n"),
            text.replace("ipv6 = \"off\"", "ipv6 = \"off\", ports = \"40000-40999\""),
        ];
        for moved in moves {
            let (old, merged) = reload(&on, &moved);
            assert_eq!(merged.settings.turn.discovery, old.turn.discovery, "{moved}");
            assert!(merged.waiting.contains(&"nat_discovery.enabled".to_owned()), "{moved}");
        }
        let (_, same) = reload(&on, &text);
        assert_eq!((same.settings.turn.discovery, same.waiting), (None, Vec::new()));
    }
}
