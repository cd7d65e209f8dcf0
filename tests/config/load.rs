//! What a good configuration comes to: defaults, secrets, addresses, URIs, warnings, and loading it again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use relay::base::time::UnixTime;
use relay::config::offer::uris;
use relay::config::{Loaded, Purpose};
use relay::machine::certificate::CertificateFiles;
use relay::turn::config::RelayAddress;
use relay::turn::login::credential::{MintedCredential, mint};

use crate::machine::{Machine, OLD_SECRET, SECRET, summary};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

const NOW: UnixTime = UnixTime(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);

/// What the server would mint now.
fn minted(loaded: &Loaded) -> MintedCredential {
    loaded
        .settings
        .turn
        .credentials
        .mint(NOW, MINUTE, Some("alice"))
        .expect("a credential")
}

fn minted_with(secret: &str) -> MintedCredential {
    mint(secret.as_bytes(), UnixTime(NOW.0 + 60), Some("alice")).expect("a credential")
}

#[test]
fn nothing_configured_is_a_running_server() {
    let machine = Machine::new();
    let loaded = machine.good("");
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let settings = loaded.settings;
    let labels: Vec<_> = settings
        .listeners
        .iter()
        .map(|l| (l.label.as_str(), l.optional))
        .collect();
    assert_eq!(labels, [("*:3478", false), ("*:5349", false), ("*:443", true)]);
    let front = &settings.listeners[2];
    assert!(front.udp && front.tcp && front.tls && front.https);
    assert_eq!(front.addresses, [socket("0.0.0.0:443"), socket("[::]:443")]);
    let both = |ip| {
        Some(RelayAddress {
            bind: ip,
            announced: ip,
        })
    };
    assert_eq!(settings.turn.relay.ipv4, both(ip("203.0.113.10")));
    assert_eq!(settings.turn.relay.ipv6, both(ip("2001:db8:1::10")));
    assert_eq!(settings.turn.relay.ports, 49_152..=65_535);
    assert_eq!(settings.turn.limits.allocations, 16_384);
    assert_eq!(settings.workers, 2);
    assert_eq!(settings.tls.certificates, []);
    assert_eq!(
        settings.tls.self_signed.certificate,
        machine.dir.join("state/self-signed/certificate.pem")
    );
    assert_eq!(settings.admin.address, Some(socket("127.0.0.1:13478")));
    assert_eq!(settings.stream.limits.queue_age, Duration::from_millis(150));
}

#[test]
fn a_machine_without_ipv6_listens_on_ipv4_alone() {
    let mut machine = Machine::new();
    machine.interfaces.retain(|(_, ip)| !ip.contains(':'));
    machine.route_v6 = None;
    let settings = machine.good("").settings;
    assert_eq!(settings.listeners[0].addresses, [socket("0.0.0.0:3478")]);
    assert_eq!(settings.turn.relay.ipv6, None);
}

#[test]
fn a_secret_given_in_a_file_and_one_in_the_text_are_both_good_and_the_file_mints() {
    let machine = Machine::new();
    machine.file("secret", format!("{SECRET}\r\n"));
    let loaded = machine.good(&format!(
        "[credentials]\nsecret_file = \"secret\"\nsecrets = [\"{OLD_SECRET}\"]\n"
    ));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(minted(&loaded), minted_with(SECRET));
}

#[test]
fn a_secret_may_hold_any_bytes() {
    let machine = Machine::new();
    // Not UTF-8, but without line breaks; the last byte is no line break either.
    let digest = <sha2::Sha512 as sha2::Digest>::digest(b"any bytes");
    let mut bytes: Vec<u8> = digest.iter().copied().filter(|b| !b"\r\n".contains(b)).collect();
    assert!(core::str::from_utf8(&bytes).is_err());
    machine.file("secret", &bytes);
    let loaded = machine.good("[credentials]\nsecret_file = \"secret\"\n");
    assert_eq!(
        minted(&loaded),
        mint(&bytes, UnixTime(NOW.0 + 60), Some("alice")).expect("a credential")
    );
    bytes.push(b'\n');
    machine.file("secret", &bytes);
    assert_eq!(
        minted(&machine.good("[credentials]\nsecret_file = \"secret\"\n")),
        minted(&loaded)
    );
}

//= REST-07
#[test]
fn a_rotated_secret_file_counts_from_the_next_loading_on() {
    let machine = Machine::new();
    machine.file("secret", OLD_SECRET);
    let toml = "[credentials]\nsecret_file = \"secret\"\n";
    assert_eq!(minted(&machine.good(toml)), minted_with(OLD_SECRET));
    machine.file("secret", SECRET);
    assert_eq!(minted(&machine.good(toml)), minted_with(SECRET));
    machine.file("secret", "");
    assert_eq!(machine.bad(toml).counts(), (1, 0));
}

#[test]
fn checking_and_minting_make_nothing() {
    let mut machine = Machine::new();
    for purpose in [Purpose::Check, Purpose::Mint] {
        let loaded = machine
            .load_for(purpose, "")
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert!(loaded.settings.first_run.secret_file.is_none());
    }
    assert!(!machine.dir.join("state").exists());
    // Nor does a start that will not happen.
    machine.set("RELAY__RELM", "x");
    assert!(machine.bad("").has_errors());
    assert!(!machine.dir.join("state").exists());
}

#[test]
fn with_users_alone_no_secret_is_made() {
    let machine = Machine::new();
    let loaded = machine.good("[[credentials.users]]\nname = \"bob\"\npassword = \"kX8sQ2vL5nR9tB3wY7zC\"\n");
    assert!(!machine.dir.join("state").exists());
    assert!(loaded.settings.turn.credentials.offers_anonymity());
}

#[test]
fn a_configuration_for_another_machine_can_be_checked() {
    let machine = Machine::new();
    let toml = "[external]\nipv4 = \"stun:stun.elsewhere.example:3478\"\n[relay]\nipv6 = \"2001:db8:7::1\"\n\
                [[listener]]\nbind = \"192.0.2.9:443\"\n[[listener]]\nbind = \"fly-global-services:3478\"\n";
    let loaded = machine
        .load_for(Purpose::Check, toml)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.warnings.counts(), (0, 4), "{}", loaded.warnings);
    assert_eq!(machine.bad(toml).counts().0, 4);
}

#[test]
fn udp_and_tcp_of_one_port_may_be_two_listeners() {
    let machine = Machine::new();
    let toml = "[[listener]]\nbind = \"*:443\"\nprotocols = [\"udp\"]\n[[listener]]\nbind = \"*:443\"\nprotocols = [\"tls\"]\n";
    assert_eq!(machine.good(toml).settings.listeners.len(), 2);
    // And a listener on an address of its own may use a relay port.
    let apart = "[[listener]]\nbind = \"203.0.113.10:50000\"\nprotocols = [\"udp\"]\n[relay]\nipv4 = \"10.0.8.2\"\n";
    assert_eq!(machine.good(apart).settings.listeners.len(), 1);
}

#[test]
fn allocations_follow_the_relay_ports() {
    let machine = Machine::new();
    let allocations = |machine: &Machine, toml: &str| machine.good(toml).settings.turn.limits.allocations;
    assert_eq!(allocations(&machine, "[relay]\nports = \"50000-50999\"\n"), 1000);
    assert_eq!(allocations(&machine, "[limits]\nallocations = 77\n"), 77);
}

#[test]
fn workers_may_outnumber_the_relay_ports() {
    let machine = Machine::new();
    let workers = |toml: &str| machine.good(toml).settings.workers;
    let auto = workers("");
    assert!(auto > 1);
    assert_eq!(workers("[relay]\nports = \"50000-50000\"\n"), auto);
    assert_eq!(workers("workers = 8\n[relay]\nports = \"50000-50003\"\n"), 8);
}

#[test]
fn own_listeners_are_closed_to_peers_even_where_their_network_is_allowed() {
    let machine = Machine::new();
    let policy = machine
        .good("[peers]\nallow = [\"127.0.0.0/8\", \"203.0.113.0/24\"]\n")
        .settings
        .turn
        .policy;
    let reached = |peer: &str| policy.peer(relay::turn::types::PeerAddr(socket(peer))).is_ok();
    assert!(!reached("127.0.0.1:13478"), "the admin listener");
    assert!(
        !reached("127.0.0.1:443") && !reached("203.0.113.10:3478"),
        "the listeners"
    );
    assert!(reached("127.0.0.1:9000") && reached("203.0.113.11:3478"));
    assert!(!reached("203.0.113.10:9000"), "this machine is not its network");
}

//= REST-10
#[test]
fn uris_are_three_and_firewall_proof_ones_come_first_where_only_the_relay_is_used() {
    let machine = Machine::new();
    let settings = machine.good("realm = \"turn.example.org\"\n").settings;
    assert_eq!(
        settings.api.uris,
        [
            "turn:turn.example.org:443?transport=udp",
            "turns:turn.example.org:443?transport=tcp",
            "turn:turn.example.org:443?transport=tcp",
        ]
    );
    assert_eq!(
        uris("2001:db8::1", &settings.listeners, true),
        [
            "turns:[2001:db8::1]:443?transport=tcp",
            "turn:[2001:db8::1]:443?transport=udp",
            "turn:[2001:db8::1]:443?transport=tcp",
        ]
    );
    // Where 443 could not be bound.
    assert_eq!(
        uris("h", &settings.listeners[..2], false),
        [
            "turn:h:3478?transport=udp",
            "turns:h:5349?transport=tcp",
            "turn:h:3478?transport=tcp",
        ]
    );
}

/// To a browser `turns:` over UDP is one more server over TLS, with allocations of its own.
#[test]
fn dtls_is_offered_only_where_nothing_else_is_and_on_request() {
    let machine = Machine::new();
    let uris = |toml: &str| {
        machine
            .good(&format!("realm = \"t.example\"\n{toml}"))
            .settings
            .api
            .uris
    };
    let alone = "[[listener]]\nbind = \"*:443\"\nprotocols = [\"dtls\"]\n";
    assert_eq!(uris(alone), ["turns:t.example:443?transport=udp"]);
    let beside = "[[listener]]\nbind = \"*:443\"\nprotocols = [\"udp\", \"dtls\"]\n";
    assert_eq!(uris(beside), ["turn:t.example:443?transport=udp"]);
    let forced = "[forced_relay]\neveryone = true\ntransports = [\"dtls\"]\n";
    assert_eq!(uris(forced), ["turns:t.example:443?transport=udp"]);
    let written = "[api]\nuris = [\"turn:t.example:3478\", \"turns:t.example:443?transport=udp\"]\n";
    assert_eq!(uris(written).len(), 2);
}

#[test]
fn the_host_in_uris_is_the_realm_or_an_address() {
    let machine = Machine::new();
    let host = |toml: &str| machine.good(toml).settings.api.host;
    assert_eq!(host("realm = \"turn.example.org\"\n"), "turn.example.org");
    assert_eq!(host("realm = \"intranet\"\n"), "203.0.113.10");
    assert_eq!(host("[external]\nipv4 = \"off\"\n"), "2001:db8:1::10");
    assert_eq!(
        host("realm = \"a.example\"\n[api]\nhost = \"b.example\"\n"),
        "b.example"
    );
}

#[test]
fn a_realm_that_leaves_answers_over_udp_no_room_is_refused_where_udp_is_spoken() {
    let machine = Machine::new();
    let served = |realm: &str, protocols: &str| {
        format!("realm = \"{realm}\"\n[[listener]]\nbind = \"*:3478\"\nprotocols = [{protocols}]\n")
    };
    let (fits, long) = ("r".repeat(36), "r".repeat(37));
    machine.good(&served(&fits, "\"udp\", \"tcp\""));
    machine.good(&served(&"r".repeat(127), "\"tcp\""));
    for toml in [served(&long, "\"tcp\", \"udp\""), format!("realm = \"{long}\"\n")] {
        let mistakes = summary(&machine.bad(&toml), &machine.dir.join("relay.toml"));
        assert!(
            mistakes[0].starts_with("1:9 error: `realm` has 37 bytes"),
            "{mistakes:?}"
        );
    }
}

#[test]
fn unwise_settings_are_warned_of_with_their_place() {
    let machine = Machine::new();
    let toml = "realm = \"r\"\n[credentials]\nmax_ttl = \"30d\"\nsecrets = [\"0f3a9c5be1d24786a0b9c8d7e6f51423\"]\n\
         [peers]\nallow = [\"0.0.0.0/0\", \"169.254.0.0/16\", \"127.0.0.1\"]\n[limits]\nconnections_per_ip = 50000\n\
         challenge_burst = 5\nallocations = 500000\n[api]\nopen = true\nquery_key = true\n[admin]\naddress = \"0.0.0.0:9000\"\n\
         [[credentials.users]]\nname = \"bob\"\npassword = \"short-one\"\n[[listener]]\nbind = \"*:3478\"\nprotocols = [\"udp\"]\n";
    let warnings = summary(&machine.good(toml).warnings, &machine.dir.join("relay.toml"));
    let expected = [
        "3:11 warning: `credentials.max_ttl` is more than a week",
        "4:12 warning: `credentials.secrets`: the secret holds less than 32 random bytes",
        "6:10 warning: `peers.allow`: 0.0.0.0/0 opens every address",
        "6:10 warning: `peers.allow`: 0.0.0.0/0 does not open 10.0.8.2, 203.0.113.10, of this machine",
        "6:23 warning: `peers.allow`: 169.254.0.0/16 opens the cloud's metadata service",
        "6:41 warning: `peers.allow`: 127.0.0.1/32 opens every service of this machine",
        "8:22 warning: `limits.connections_per_ip` is more than",
        "10:15 warning: `limits.allocations` is 500000, but there are only 16384 relay ports",
        "12:8 warning: `api.open`: everybody",
        "12:8 warning: anybody may mint more than 60",
        "13:13 warning: `api.query_key`",
        "15:11 warning: `admin.address`",
        "18:12 warning: `credentials.users`: the password of \"bob\" is short",
        "- warning: `limits.challenge_burst`",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning}\nis not\n{expected}");
    }
}

#[test]
fn clients_of_a_family_that_is_not_redirected_are_warned_of() {
    let machine = Machine::new();
    let toml = "[turn.redirect]\nipv4 = \"203.0.113.20:3478\"\n";
    let warnings = summary(&machine.good(toml).warnings, &machine.dir.join("relay.toml"));
    let expected = "2:8 warning: `turn.redirect`: clients over IPv6 are not redirected, but served here | set `turn.redirect.ipv6` as well";
    assert!(warnings.contains(&expected.to_owned()), "{warnings:#?}");
    let both = format!("{toml}ipv6 = \"[2001:db8::20]:3478\"\ndomain = \"turn2.example.org\"\n");
    let loaded = machine.good(&both);
    assert!(!loaded.warnings.to_string().contains("redirect"), "{}", loaded.warnings);
    let redirect = &loaded.settings.turn.redirect;
    assert_eq!(redirect.domain.as_deref(), Some("turn2.example.org"));
    assert!(redirect.ipv4.is_some() && redirect.ipv6.is_some());
}

#[test]
fn a_redirection_that_reaches_nobody_is_warned_of() {
    let machine = Machine::new();
    let toml = "[turn.redirect]\nipv4 = \"203.0.113.20:443\"\nipv6 = \"[2001:db8::20]:443\"\ntransports = []\n";
    let warnings = |toml: &str| summary(&machine.good(toml).warnings, &machine.dir.join("relay.toml"));
    let expected = "4:14 warning: `turn.redirect`: there is another server, but no client is ever sent to it | name a transport in `transports`, or set `serve_others` to a duration";
    let told = warnings(&format!("{toml}serve_others = \"off\"\n"));
    assert!(told.contains(&expected.to_owned()), "{told:#?}");
    assert!(
        !warnings(toml).iter().any(|text| text.contains("redirect")),
        "an hour later everybody is"
    );
}

#[test]
fn files_that_others_can_read_are_warned_of() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let mut machine = Machine::new();
    let secret = machine.file("secret", SECRET);
    set_permissions(&secret, Permissions::from_mode(0o644)).expect("its mode");
    machine.user_id = secret.metadata().expect("its owner").uid();
    let warnings = summary(
        &machine.good("[credentials]\nsecret_file = \"secret\"\n").warnings,
        &machine.dir.join("relay.toml"),
    );
    assert_eq!(
        warnings,
        ["2:15 warning: every user of this machine may read secret | chmod o-rwx secret"]
    );

    let toml = format!("[credentials]\nsecrets = [\"{SECRET}\"]\n");
    let path = machine.file("open.toml", toml);
    set_permissions(&path, Permissions::from_mode(0o644)).expect("its mode");
    let loaded = relay::config::load(Some(&path), &machine).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(
        summary(&loaded.warnings, &path),
        ["2:12 warning: every user of this machine may read open.toml, and it holds a secret | chmod o-rwx open.toml"]
    );

    // The server may have read another's file as one of the others: it must still be able to.
    machine.user_id += 1000;
    machine.certificate("turn.example.org");
    set_permissions(machine.dir.join("privkey.pem"), Permissions::from_mode(0o644)).expect("its mode");
    let warnings = summary(
        &machine
            .good(
                "realm = \"turn.example.org\"\n[credentials]\nsecret_file = \"secret\"\n\
                 [tls]\ncertificate = \"fullchain.pem\"\nprivate_key = \"privkey.pem\"\n",
            )
            .warnings,
        &machine.dir.join("relay.toml"),
    );
    assert_eq!(
        warnings,
        [
            "3:15 warning: every user of this machine may read secret | chown relay secret && chmod o-rwx secret",
            "6:15 warning: the private key file privkey.pem has mode 0644: others can read it | \
             chown relay privkey.pem && chmod o-rwx privkey.pem"
        ]
    );
}

#[test]
fn uris_of_which_none_is_a_turn_uri_are_warned_of() {
    let machine = Machine::new();
    let told = |uris: &str| {
        let loaded = machine.good(&format!("[api]\nuris = {uris}\n"));
        summary(&loaded.warnings, &machine.dir.join("relay.toml"))
    };
    let warning = "2:8 warning: `api.uris` has no TURN URI: clients learn their address here, and relay nothing | \
                   add one, for example \"turns:turn.example.org:443?transport=tcp\", or write \"auto\"";
    assert_eq!(told("[\"stun:turn.example.org:3478\"]"), [warning]);
    assert_eq!(
        told("[\"stuns:turn.example.org\", \"stun:turn.example.org\"]"),
        [warning]
    );
    assert_eq!(told("[\"stun:turn.example.org\", \"turn:turn.example.org\"]"), [""; 0]);
}

#[test]
fn a_certificate_is_checked_when_it_is_configured() {
    let machine = Machine::new();
    machine.certificate("turn.example.org");
    let realm = "realm = \"turn.example.org\"\n";
    let loaded = machine.good(&format!(
        "{realm}[tls]\ncertificate = \"fullchain.pem\"\nprivate_key = \"privkey.pem\"\n"
    ));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let files = |certificate: &str, private_key: &str| CertificateFiles {
        certificate: machine.dir.join(certificate),
        private_key: machine.dir.join(private_key),
        state_dir: None,
    };
    assert_eq!(
        loaded.settings.tls.certificates,
        [files("fullchain.pem", "privkey.pem")]
    );
    let second = machine.dir.join("second.pem");
    std::fs::copy(machine.dir.join("fullchain.pem"), second).expect("copy");
    let more = "[[tls.certificates]]\ncertificate = \"second.pem\"\nprivate_key = \"privkey.pem\"\n";
    let loaded = machine.good(&format!(
        "[tls]\ncertificate = \"fullchain.pem\"\nprivate_key = \"privkey.pem\"\n{more}"
    ));
    let expected = [
        files("fullchain.pem", "privkey.pem"),
        files("second.pem", "privkey.pem"),
    ];
    assert_eq!(loaded.settings.tls.certificates, expected);
    assert_eq!(
        machine.good(more).settings.tls.certificates,
        [files("second.pem", "privkey.pem")]
    );
}

#[test]
fn a_certificate_that_routes_keep_from_clients_is_warned_of() {
    let machine = Machine::new();
    machine.certificate("turn.example.org");
    let warnings = |realm: &str, name: &str| {
        let loaded = machine.good(&format!(
            "realm = \"{realm}\"\n[tls]\ncertificate = \"fullchain.pem\"\nprivate_key = \"privkey.pem\"\n\
             [api]\nenabled = false\n[[front_door.route]]\nnames = [\"{name}\"]\nbackend = \"192.0.2.1:443\"\n"
        ));
        summary(&loaded.warnings, &machine.dir.join("relay.toml"))
    };
    let told = "3:15 warning: `front_door.route` leads every name of a certificate of this server elsewhere: \
                turn.example.org | Leave one to its clients: take it out of `front_door.route.names`, or write it as \
                `api.host`, which goes before wildcards";
    assert_eq!(warnings("example.org", "*.example.org"), [told]);
    assert_eq!(warnings("example.org", "turn.example.org"), [told]);
    assert_eq!(warnings("turn.example.org", "*.example.org"), [""; 0]);
    assert_eq!(warnings("example.org", "www.example.org"), [""; 0]);
}

#[test]
fn secrets_are_hidden_wherever_the_configuration_is_shown() {
    let machine = Machine::new();
    let password = "kX8sQ2vL5nR9tB3wY7zC";
    let key = "Qm9RtW5yZc8Lb3Vp7Xk2";
    let toml = format!(
        "[credentials]\nsecrets = [\"{SECRET}\"]\nusers = [{{ name = \"bob\", password = \"{password}\" }}]\n\
         [turn]\nnonce_secret = \"{OLD_SECRET}\"\n[[api.keys]]\nname = \"app\"\nkey = \"{key}\"\n"
    );
    let loaded = machine.good(&toml);
    let shown = format!("{}{:?}{}", loaded.effective(), loaded, loaded.warnings);
    assert!(
        loaded.effective().contains("secrets = [\"(hidden)\"]"),
        "{}",
        loaded.effective()
    );
    assert!(
        loaded.effective().contains("nonce_secret = \"(hidden)\""),
        "{}",
        loaded.effective()
    );
    assert!(
        loaded
            .effective()
            .contains("[[api.keys]]\nname = \"app\"\nkey = \"(hidden)\""),
        "{}",
        loaded.effective()
    );
    // The same with mistakes beside them, of meaning and of syntax.
    let faulty = [
        toml.replace("name = \"bob\"", "name = \"\""),
        toml.replace("secrets", "secretz").replace("key =", "kee ="),
        toml.replace("secrets = [", "secrets = "),
        toml.replace("\"]\nusers", "\"\nusers"),
        toml.replace("\" }]", " }]"),
        toml.replace("key = \"", "key = "),
        format!("{toml}[broken\n"),
    ];
    for toml in faulty {
        let mistakes = machine.bad(&toml);
        for secret in [SECRET, OLD_SECRET, password, key] {
            for text in [
                format!("{mistakes}"),
                format!("{mistakes:?}"),
                mistakes.iter().map(|f| f.to_string()).collect(),
                shown.clone(),
            ] {
                assert!(!text.contains(secret), "{secret} shows up in\n{text}");
            }
        }
    }
}

#[test]
fn the_effective_configuration_is_a_configuration_with_the_same_effect() {
    let mut machine = Machine::new();
    machine.file("secret", SECRET);
    machine.names.push(("stun.example.org", vec!["198.51.100.3"]));
    machine.stun = vec![("198.51.100.3:3478", "203.0.113.77")];
    let toml = "realm = \"turn.example.org\"\nworkers = 3\nstate_dir = \"here and \\\"there\\\"\"\n[credentials]\nsecret_file = \"secret\"\n\
        max_ttl = \"36h\"\n[external]\nipv4 = \"stun:stun.example.org:3478\"\nipv6 = \"off\"\n[relay]\nports = \"50000-50999\"\n\
        [peers]\nallow = [\"10.0.8.0/24\", \"10.0.9.7\"]\ndenied_ports = [25, \"100-200\"]\n[turn]\nmax_session = \"1d\"\nchallenge = \"compact_udp\"\n\
        [turn.compat]\nrfc5766_channels = true\n[limits]\nqueue_bytes = 300000\nqueue_age = 1\n[admin]\naddress = \"off\"\n\
        [log]\nformat = \"json\"\nclient_ip = \"truncated\"\n[[listener]]\nbind = \"[::]:443\"\nprotocols = [\"tls\", \"https\"]\n";
    let once = machine.good(toml);
    let twice = machine.good(once.effective());
    assert_eq!(once.effective(), twice.effective());
    assert_eq!(format!("{:?}", once.settings), format!("{:?}", twice.settings));
    for line in [
        "max_ttl = \"36h\"",
        "ipv6 = \"off\"",
        "queue_age = \"1s\"",
        "allow = [\"10.0.8.0/24\", \"10.0.9.7\"]",
    ] {
        assert!(
            once.effective().lines().any(|shown| shown == line),
            "{line} in\n{}",
            once.effective()
        );
    }
}

#[test]
fn comments_in_the_effective_configuration_cannot_be_broken_out_of() {
    let mut machine = Machine::new();
    machine.variables[0].1 = "/tmp/a\nrealm = \"evil\"".into();
    let loaded = machine
        .load_for(Purpose::Check, "")
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(
        loaded.effective().matches("\nrealm = ").count() + usize::from(loaded.effective().starts_with("realm = ")),
        1
    );
}

#[test]
fn web_views_may_be_listed_as_origins_and_a_list_beside_an_open_api_is_told_of() {
    let machine = Machine::new();
    let views =
        "cors_origins = [\"capacitor://localhost\", \"ionic://localhost\", \"tauri://localhost\", \"app://-\"]\n";
    let loaded = machine.good(&format!("[api]\n{views}"));
    assert_eq!(loaded.settings.api.cors_origins.len(), 4);
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let open = machine.good(&format!("[api]\nopen = true\nmints_per_minute_per_ip = 10\n{views}"));
    let told = summary(&open.warnings, &machine.dir.join("relay.toml"));
    assert!(
        told.iter()
            .any(|line| line.starts_with("4:16 warning: `api.cors_origins` has no effect")),
        "{told:?}"
    );
}
