use super::address::Forms;
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn peer(text: &str) -> PeerAddr {
    PeerAddr(text.parse().unwrap())
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A host with a private address behind 1:1 NAT. It listens on every address and relays from
/// 10.1.1.5, announced as 5.6.7.8.
fn host() -> PolicyConfig {
    PolicyConfig {
        own: vec![
            "0.0.0.0:3478".parse().unwrap(),
            "[::]:443".parse().unwrap(),
            "127.0.0.1:9090".parse().unwrap(),
        ],
        local: nets(&["10.1.1.5/32", "127.0.0.0/8", "2600::5/128", "9.9.9.9/32"]),
        relay_ips: vec![ip("10.1.1.5"), ip("5.6.7.8"), ip("2600::5")],
        relay_ports: 50_000..=50_099,
        ..PolicyConfig::default()
    }
}

fn policy(change: impl FnOnce(&mut PolicyConfig)) -> PeerPolicy {
    let mut config = host();
    change(&mut config);
    PeerPolicy::new(config).unwrap()
}

#[test]
fn every_row_of_the_table_is_a_prefix_written_in_full() {
    for (text, _) in DENY_TABLE {
        let net: IpNet = text.parse().unwrap();
        assert_eq!(net, net.trunc(), "{text}");
    }
}

#[test]
fn reasons_are_a_closed_set_with_a_name_each() {
    for (i, reason) in Denied::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, i);
        assert_eq!(reason.to_string(), reason.as_str());
    }
}

#[test]
fn the_reason_is_that_of_the_longest_match() {
    let policy = PeerPolicy::new(PolicyConfig::default()).unwrap();
    for (text, why) in [
        ("127.0.0.1", Denied::Loopback),
        ("0.0.0.0", Denied::Unspecified),
        ("10.0.0.1", Denied::Private),
        ("100.64.0.1", Denied::Shared),
        ("100.100.100.200", Denied::Metadata),
        ("168.63.129.16", Denied::Metadata),
        ("169.254.1.1", Denied::LinkLocal),
        ("169.254.169.254", Denied::Metadata),
        ("192.0.0.192", Denied::Metadata),
        ("224.0.0.1", Denied::Multicast),
        ("255.255.255.255", Denied::Reserved),
        ("::", Denied::Unspecified),
        ("::1", Denied::Loopback),
        ("::ffff:8.8.8.8", Denied::Embedded),
        ("::8.8.8.8", Denied::Embedded),
        ("64:ff9b::8.8.8.8", Denied::Embedded),
        ("2002:808:808::1", Denied::Transition),
        ("2001:0:808:808::1", Denied::Transition),
        ("2001:20::1", Denied::Reserved),
        ("fd00:ec2::254", Denied::Metadata),
        ("fd20:ce::254", Denied::Metadata),
        ("fd12:3456::1", Denied::Private),
        ("fe80::1", Denied::LinkLocal),
        ("ff02::1", Denied::Multicast),
    ] {
        assert_eq!(policy.permission(ip(text)), Err(why), "{text}");
        let with_port = PeerAddr(SocketAddr::new(ip(text), 4000));
        assert_eq!(policy.peer(with_port), Err(why), "{text}");
    }
    for text in ["8.8.8.8", "2606:4700::1111", "9.255.255.255", "192.0.1.0"] {
        assert_eq!(policy.permission(ip(text)), Ok(()), "{text}");
        let class = if ip(text).is_loopback() {
            PeerClass::Local
        } else {
            PeerClass::Peer
        };
        assert_eq!(
            policy.peer(PeerAddr(SocketAddr::new(ip(text), 4000))),
            Ok(class),
            "{text}"
        );
    }
}

#[test]
fn the_ipv4_address_behind_a_nat64_prefix_of_any_length_is_found() {
    // The table of RFC 6052 §2.4 for 192.0.2.33.
    for (net, text) in [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ] {
        let forms = Forms::of(ip(text), &[net.parse().unwrap()]);
        assert_eq!(forms.all().collect::<Vec<_>>(), [ip(text), ip("192.0.2.33")], "{net}");
    }
}

/// RFC 8215 leaves the length to the network: a translator may map any of these to 10.0.0.1.
#[test]
fn inside_the_local_nat64_prefix_an_address_is_refused_if_any_length_hides_a_refused_one() {
    let opened = |nat64: &[&str]| {
        policy(|config| {
            config.allow = nets(&["64:ff9b:1::/48"]);
            config.nat64 = nat64.iter().map(|net| net.parse().unwrap()).collect();
        })
    };
    let hiding = [
        ("64:ff9b:1::/48", "64:ff9b:1:a00:0:100:808:808"),
        ("64:ff9b:1:800::/56", "64:ff9b:1:80a:0:1:808:808"),
        ("64:ff9b:1:808::/64", "64:ff9b:1:808:a:0:108:808"),
        ("64:ff9b:1:808:8:808::/96", "64:ff9b:1:808:8:808:10.0.0.1"),
    ];
    for (net, text) in hiding {
        assert_eq!(opened(&[]).permission(ip(text)), Err(Denied::Embedded), "{text}");
        assert_eq!(
            opened(&[net]).permission(ip(text)),
            Err(Denied::Embedded),
            "{net} {text}"
        );
    }
    let harmless = "64:ff9b:1:808:8:808:808:808";
    assert_eq!(opened(&[]).permission(ip(harmless)), Ok(()));
    // An operator who names the prefix fixes its length.
    let wide = opened(&["64:ff9b:1::/96"]);
    assert_eq!(wide.permission(ip("64:ff9b:1::8.8.8.8")), Ok(()));
    assert_eq!(wide.permission(ip("64:ff9b:1::10.0.0.1")), Err(Denied::Embedded));
    assert_eq!(opened(&[]).permission(ip("64:ff9b:1::8.8.8.8")), Err(Denied::Embedded));
}

#[test]
fn nat64_peers_pass_where_the_operator_translates_unless_the_inner_address_is_refused() {
    let policy = policy(|config| config.nat64 = vec!["2600:64::/96".parse().unwrap()]);
    assert_eq!(policy.permission(ip("2600:64::8.8.8.8")), Ok(()));
    assert_eq!(policy.permission(ip("2600:64::10.0.0.1")), Err(Denied::Embedded));
    assert_eq!(
        policy.permission(ip("2600:64::9.9.9.9")),
        Err(Denied::Embedded),
        "an address of this machine"
    );
    assert_eq!(policy.peer(peer("[2600:64::9.9.9.9]:3478")), Err(Denied::OwnListener));
}

#[test]
fn a_nat64_prefix_of_an_impossible_length_is_refused_at_start() {
    for (text, good) in [
        ("2600::/32", true),
        ("2600::/44", false),
        ("2600::/95", false),
        ("2600::/128", false),
    ] {
        let net = text.parse().unwrap();
        let made = PeerPolicy::new(PolicyConfig {
            nat64: vec![net],
            ..PolicyConfig::default()
        });
        assert_eq!(made.err(), (!good).then_some(PolicyError::Nat64Length(net)), "{text}");
    }
}

#[test]
fn own_listeners_are_refused_under_every_name_of_this_machine_whatever_is_allowed() {
    let closed = policy(|_| {});
    let open = policy(|config| {
        let all = [
            "0.0.0.0/0",
            "::/0",
            "127.0.0.0/8",
            "10.1.1.5/32",
            "9.9.9.9/32",
            "5.6.7.8/32",
            "2600::5/128",
        ];
        config.allow = nets(&all);
    });
    for text in [
        "127.0.0.1:3478",
        "127.8.8.8:3478",
        "0.0.0.0:443",
        "[::1]:443",
        "[::]:3478",
        "10.1.1.5:3478",
        "5.6.7.8:443",
        "9.9.9.9:443",
        "[2600::5]:443",
        "127.0.0.1:9090",
        "5.6.7.8:9090",
        "[64:ff9b::7f00:1]:443",
    ] {
        assert_eq!(closed.peer(peer(text)), Err(Denied::OwnListener), "{text}");
        assert_eq!(open.peer(peer(text)), Err(Denied::OwnListener), "{text}");
    }
    assert_eq!(open.peer(peer("127.0.0.1:3479")), Ok(PeerClass::Local));
    assert_eq!(
        open.peer(peer("9.9.9.9:9090")),
        Ok(PeerClass::Local),
        "bound to loopback only"
    );
    assert_eq!(
        open.peer(peer("8.8.8.8:3478")),
        Ok(PeerClass::Peer),
        "another host's TURN server"
    );
}

#[test]
fn relayed_addresses_of_this_server_are_peers_on_relay_ports_only() {
    let policy = policy(|_| {});
    for text in ["10.1.1.5", "5.6.7.8", "2600::5"] {
        assert_eq!(policy.permission(ip(text)), Ok(()), "{text}");
        for (port, expected) in [
            (49_999, Err(Denied::OwnAddress)),
            (50_000, Ok(PeerClass::Relayed)),
            (50_099, Ok(PeerClass::Relayed)),
            (50_100, Err(Denied::OwnAddress)),
            (0, Err(Denied::OwnAddress)),
        ] {
            assert_eq!(
                policy.peer(PeerAddr(SocketAddr::new(ip(text), port))),
                expected,
                "{text} {port}"
            );
        }
    }
    assert_eq!(policy.permission(ip("9.9.9.9")), Err(Denied::OwnAddress));
    assert_eq!(policy.peer(peer("9.9.9.9:50000")), Err(Denied::OwnAddress));
}

#[test]
fn a_nat64_prefix_of_no_length_of_the_rfc_is_named() {
    let config = PolicyConfig {
        nat64: vec!["2001:db8::/33".parse().unwrap()],
        ..host()
    };
    let why = PeerPolicy::new(config).err().unwrap().to_string();
    assert!(why.contains("2001:db8::/33") && why.contains("RFC 6052"), "{why}");
}

#[test]
fn an_allowed_own_address_is_a_program_of_this_machine_where_no_allocation_lives() {
    // An SFU on the same machine.
    let closed = policy(|_| {});
    assert_eq!(closed.peer(peer("5.6.7.8:50000")), Ok(PeerClass::Relayed));
    assert_eq!(closed.peer(peer("5.6.7.8:40000")), Err(Denied::OwnAddress));
    assert!(!closed.opens(ip("5.6.7.8")) && !closed.opens(ip("9.9.9.9")));
    let open = policy(|config| config.allow = nets(&["5.6.7.8/32", "9.9.9.9/32", "127.0.0.0/8"]));
    assert_eq!(open.peer(peer("5.6.7.8:50000")), Ok(PeerClass::RelayedOrLocal));
    assert_eq!(open.peer(peer("5.6.7.8:40000")), Ok(PeerClass::RelayedOrLocal));
    assert_eq!(open.peer(peer("9.9.9.9:50000")), Ok(PeerClass::Local));
    assert_eq!(open.peer(peer("127.0.0.1:50000")), Ok(PeerClass::Local));
    assert_eq!(open.peer(peer("5.6.7.8:3478")), Err(Denied::OwnListener));
    assert_eq!(open.peer(peer("5.6.7.8:53")), Err(Denied::Port));
    assert!(open.opens(ip("5.6.7.8")) && open.opens(ip("9.9.9.9")));
    // The longer prefix still wins, and the relayed addresses stay reachable.
    let denied = policy(|config| {
        config.allow = nets(&["5.6.7.0/24"]);
        config.deny = nets(&["5.6.7.8/32"]);
    });
    assert_eq!(denied.peer(peer("5.6.7.8:50000")), Ok(PeerClass::Relayed));
    assert_eq!(denied.peer(peer("5.6.7.8:40000")), Err(Denied::Configured));
}

#[test]
fn this_machine_is_not_reached_through_an_address_that_carries_its_own() {
    let policy = policy(|config| config.allow = nets(&["5.6.7.8/32", "9.9.9.9/32", "64:ff9b::/96"]));
    for text in ["64:ff9b::5.6.7.8", "64:ff9b::9.9.9.9"] {
        assert_eq!(policy.permission(ip(text)), Err(Denied::Embedded), "{text}");
        assert_eq!(
            policy.peer(PeerAddr(SocketAddr::new(ip(text), 50_000))),
            Err(Denied::Embedded),
            "{text}"
        );
    }
    assert_eq!(policy.permission(ip("64:ff9b::8.8.8.8")), Ok(()));
}

#[test]
fn allow_re_opens_the_table_but_no_spelling_that_is_never_right() {
    let policy = policy(|config| {
        config.allow = nets(&[
            "127.0.0.0/8",
            "::1/128",
            "10.0.0.0/8",
            "::ffff:0:0/96",
            "2001::/16",
            "2002::/16",
            "64:ff9b::/96",
        ]);
    });
    for text in [
        "127.0.0.1",
        "::1",
        "10.255.0.1",
        "64:ff9b::8.8.8.8",
        "64:ff9b::10.0.0.1",
    ] {
        assert_eq!(policy.permission(ip(text)), Ok(()), "{text}");
        let class = if ip(text).is_loopback() {
            PeerClass::Local
        } else {
            PeerClass::Peer
        };
        assert_eq!(
            policy.peer(PeerAddr(SocketAddr::new(ip(text), 4000))),
            Ok(class),
            "{text}"
        );
    }
    for (text, why) in [
        ("::ffff:127.0.0.1", Denied::Embedded),
        ("::ffff:8.8.8.8", Denied::Embedded),
        ("2002:808:808::1", Denied::Transition),
        ("2001:0:808:808::1", Denied::Transition),
        ("64:ff9b::192.168.0.1", Denied::Embedded),
        ("::10.0.0.1", Denied::Embedded),
        ("192.168.0.1", Denied::Private),
    ] {
        assert_eq!(policy.permission(ip(text)), Err(why), "{text}");
    }
}

#[test]
fn a_mapped_prefix_in_a_list_says_nothing_of_ipv4() {
    // A line often copied from the configurations of other servers.
    let policy = policy(|config| config.deny = nets(&["::ffff:0:0/96"]));
    assert_eq!(policy.permission(ip("8.8.8.8")), Ok(()));
    assert_eq!(policy.permission(ip("::ffff:8.8.8.8")), Err(Denied::Embedded));
}

#[test]
fn between_allow_and_deny_the_longer_prefix_wins_and_a_draw_is_refused() {
    let policy = policy(|config| {
        config.allow = nets(&["10.0.0.0/8", "10.2.3.0/24", "11.0.0.0/8"]);
        config.deny = nets(&["10.2.0.0/16", "11.0.0.0/8", "12.0.0.0/8"]);
    });
    assert_eq!(policy.permission(ip("10.9.9.9")), Ok(()));
    assert_eq!(policy.permission(ip("10.2.9.9")), Err(Denied::Configured));
    assert_eq!(policy.permission(ip("10.2.3.9")), Ok(()));
    assert_eq!(policy.permission(ip("11.1.1.1")), Err(Denied::Configured));
    assert_eq!(policy.permission(ip("12.1.1.1")), Err(Denied::Configured));
    assert_eq!(policy.permission(ip("13.1.1.1")), Ok(()));
}

#[test]
fn in_only_allowed_mode_nothing_else_but_relayed_addresses_is_reached() {
    let policy = policy(|config| {
        config.allow = nets(&["8.8.8.0/24", "10.0.0.0/8"]);
        config.only_allowed = true;
    });
    assert_eq!(policy.permission(ip("8.8.8.8")), Ok(()));
    assert_eq!(policy.permission(ip("10.0.0.1")), Ok(()));
    assert_eq!(policy.permission(ip("8.8.9.8")), Err(Denied::NotAllowed));
    assert_eq!(policy.permission(ip("2606:4700::1111")), Err(Denied::NotAllowed));
    assert_eq!(policy.permission(ip("192.168.0.1")), Err(Denied::Private));
    assert_eq!(policy.peer(peer("5.6.7.8:50000")), Ok(PeerClass::Relayed));
}

#[test]
fn port_zero_and_reflectors_are_refused_but_not_between_relayed_addresses() {
    let config = host();
    let by_default = PeerPolicy::new(config.clone()).unwrap();
    for (port, good) in [
        (0, false),
        (1, true),
        (18, true),
        (19, false),
        (20, true),
        (52, true),
        (53, false),
        (54, true),
    ] {
        assert_eq!(
            by_default.peer(PeerAddr(SocketAddr::new(ip("8.8.8.8"), port))).is_ok(),
            good,
            "{port}"
        );
    }
    for (port, good) in [
        (136, true),
        (137, false),
        (139, false),
        (140, true),
        (11_210, true),
        (11_211, false),
    ] {
        assert_eq!(
            by_default.peer(PeerAddr(SocketAddr::new(ip("8.8.8.8"), port))).is_ok(),
            good,
            "{port}"
        );
    }
    let high = PeerPolicy::new(PolicyConfig {
        denied_ports: vec![0..=1023, 50_000..=50_010],
        ..config
    })
    .unwrap();
    assert_eq!(high.peer(peer("8.8.8.8:1023")), Err(Denied::Port));
    assert_eq!(high.peer(peer("8.8.8.8:1024")), Ok(PeerClass::Peer));
    assert_eq!(high.peer(peer("8.8.8.8:50000")), Err(Denied::Port));
    assert_eq!(high.peer(peer("5.6.7.8:50000")), Ok(PeerClass::Relayed));
    let none = PeerPolicy::new(PolicyConfig {
        denied_ports: Vec::new(),
        ..PolicyConfig::default()
    })
    .unwrap();
    assert_eq!(none.peer(peer("8.8.8.8:53")), Ok(PeerClass::Peer));
    assert_eq!(none.peer(peer("8.8.8.8:0")), Err(Denied::Port));
}

//= TURN-GEN-10
#[test]
fn clients_behind_6to4_and_teredo_may_not_allocate() {
    let policy = policy(|config| config.allow = nets(&["::/0"]));
    assert_eq!(policy.client(ip("2002:808:808::1")), Err(Denied::Transition));
    assert_eq!(policy.client(ip("2001:0:808:808::1")), Err(Denied::Transition));
    for text in ["2001:1::1", "2003::1", "2001:db8::1", "10.0.0.1", "127.0.0.1"] {
        assert_eq!(policy.client(ip(text)), Ok(()), "{text}");
    }
}

#[test]
fn what_leads_to_this_machine_is_opened_address_by_address_and_by_no_network() {
    let own = |config: &mut PolicyConfig| config.local.extend(nets(&["8.9.0.0/24", "2600:a::/64"]));
    let closed = policy(own);
    for text in ["8.9.0.1", "8.9.0.255", "2600:a::1"] {
        assert_eq!(closed.permission(ip(text)), Err(Denied::OwnAddress), "{text}");
    }
    for text in ["8.9.1.0", "8.8.255.255", "2600:a:0:1::"] {
        assert_eq!(closed.permission(ip(text)), Ok(()), "{text}");
    }
    let wide = policy(|config| {
        own(config);
        config.allow = nets(&[
            "0.0.0.0/0",
            "::/0",
            "8.9.0.0/24",
            "8.9.0.8/31",
            "8.9.0.7/32",
            "2600:a::/64",
            "2600:a::7/128",
        ]);
    });
    for (text, decided) in [
        ("8.9.0.1:9", Err(Denied::OwnAddress)),
        ("8.9.0.8:9", Err(Denied::OwnAddress)),
        ("8.9.0.7:9", Ok(PeerClass::Local)),
        ("[2600:a::1]:9", Err(Denied::OwnAddress)),
        ("[2600:a::7]:9", Ok(PeerClass::Local)),
        ("9.9.9.9:9", Err(Denied::OwnAddress)),
        ("5.6.7.8:9", Err(Denied::OwnAddress)),
        ("5.6.7.8:50000", Ok(PeerClass::Relayed)),
        ("10.1.1.6:9", Ok(PeerClass::Peer)),
        ("127.0.0.1:9", Err(Denied::Loopback)),
        ("[::1]:9", Err(Denied::Loopback)),
        ("0.0.0.0:9", Err(Denied::Unspecified)),
        ("[64:ff9b::8.9.0.1]:9", Err(Denied::Embedded)),
    ] {
        assert_eq!(wide.peer(peer(text)), decided, "{text}");
    }
}

#[test]
fn a_network_within_loopback_opens_loopback_as_far_as_it_goes() {
    let policy = policy(|config| config.allow = nets(&["127.1.0.0/16", "::/1"]));
    assert_eq!(policy.peer(peer("127.1.2.3:9")), Ok(PeerClass::Local));
    assert_eq!(policy.peer(peer("127.0.0.1:9")), Err(Denied::Loopback));
    assert_eq!(policy.peer(peer("[::1]:9")), Err(Denied::Loopback));
}

#[test]
fn servers_behind_this_one_are_closed_and_opened_but_for_their_ports_as_this_machine_is() {
    let backends = ["10.0.8.7:8080", "8.8.4.4:443", "127.0.0.1:7000", "[2600::8]:443"];
    let with = |allow: &[&str]| {
        policy(|config| {
            config.backends = backends.map(|at| at.parse().unwrap()).to_vec();
            config.allow = nets(allow);
        })
    };
    let wide = with(&["10.0.8.0/24", "8.0.0.0/8", "2600::/16", "0.0.0.0/0"]);
    for text in ["10.0.8.7", "8.8.4.4", "2600::8"] {
        assert_eq!(wide.permission(ip(text)), Err(Denied::OwnAddress), "{text}");
    }
    assert_eq!(wide.permission(ip("10.0.8.8")), Ok(()));
    let named = with(&["10.0.8.7/32", "8.8.4.4/32", "2600::8/128", "127.0.0.0/8", "5.6.7.8/32"]);
    for (text, decided) in [
        ("10.0.8.7:8080", Err(Denied::OwnListener)),
        ("10.0.8.7:8081", Ok(PeerClass::Peer)),
        ("8.8.4.4:443", Err(Denied::OwnListener)),
        ("8.8.4.4:444", Ok(PeerClass::Peer)),
        ("[2600::8]:443", Err(Denied::OwnListener)),
        // A backend on loopback may listen on every address of this machine.
        ("127.0.0.1:7000", Err(Denied::OwnListener)),
        ("127.0.0.2:7000", Err(Denied::OwnListener)),
        ("5.6.7.8:7000", Err(Denied::OwnListener)),
        ("5.6.7.8:7001", Ok(PeerClass::RelayedOrLocal)),
        ("9.0.0.1:7000", Ok(PeerClass::Peer)),
    ] {
        assert_eq!(named.peer(peer(text)), decided, "{text}");
    }
}

#[test]
fn of_the_server_clients_are_sent_to_the_port_is_closed_and_no_network_opens_its_address() {
    let with = |allow: &[&str]| {
        policy(|config| {
            config.redirects = ["8.8.4.4:443", "10.0.8.20:443"].map(|at| at.parse().unwrap()).to_vec();
            config.allow = nets(allow);
        })
    };
    let wide = with(&["10.0.8.0/24", "8.0.0.0/8"]);
    assert_eq!(wide.peer(peer("8.8.4.4:443")), Err(Denied::OwnListener));
    assert_eq!(
        wide.peer(peer("8.8.4.4:50000")),
        Ok(PeerClass::Peer),
        "a relayed address"
    );
    assert_eq!(wide.peer(peer("10.0.8.20:50000")), Err(Denied::Private));
    let named = with(&["10.0.8.20/32"]);
    assert_eq!(named.peer(peer("10.0.8.20:50000")), Ok(PeerClass::Peer));
    assert_eq!(named.peer(peer("10.0.8.20:443")), Err(Denied::OwnListener));
}
