//! Which addresses are listened on, relayed from and announced.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use relay::config::Purpose;
use relay::turn::policy::{Denied, PeerClass};
use relay::turn::types::PeerAddr;

use crate::machine::{Machine, summary};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn behind_one_to_one_nat_the_announced_address_is_not_the_bound_one() {
    let mut machine = Machine::new();
    machine.interfaces = vec![("lo", "127.0.0.1"), ("eth0", "10.0.0.5"), ("eth1", "10.0.8.2")];
    (machine.route_v4, machine.route_v6) = (Some("10.0.0.5"), None);
    let relay = |toml: &str| machine.good(toml).settings.turn.relay.ipv4.expect("IPv4");
    let fixed = relay("[external]\nipv4 = \"203.0.113.5\"\n");
    assert_eq!((fixed.bind, fixed.announced), (ip("10.0.0.5"), ip("203.0.113.5")));
    let other = relay("[external]\nipv4 = \"203.0.113.5\"\n[relay]\nipv4 = \"10.0.8.2\"\n");
    assert_eq!((other.bind, other.announced), (ip("10.0.8.2"), ip("203.0.113.5")));
    let any = relay("[external]\nipv4 = \"203.0.113.5\"\n[relay]\nipv4 = \"0.0.0.0\"\n");
    assert_eq!((any.bind, any.announced), (ip("0.0.0.0"), ip("203.0.113.5")));
}

#[test]
fn an_external_address_of_this_machine_is_bound_whichever_way_the_default_route_leads() {
    let mut machine = Machine::new();
    machine.interfaces = vec![("lo", "127.0.0.1"), ("eth0", "10.0.0.5"), ("eth1", "10.0.8.2")];
    (machine.route_v4, machine.route_v6) = (Some("10.0.0.5"), None);
    // No interface lists the rest of 127/8.
    for own in ["10.0.8.2", "127.0.0.1", "127.77.0.1"] {
        let relay = machine.good(&format!("[external]\nipv4 = \"{own}\"\n"));
        let relay = relay.settings.turn.relay.ipv4.expect("IPv4");
        assert_eq!((relay.bind, relay.announced), (ip(own), ip(own)));
    }
}

#[test]
fn an_interface_or_a_name_gives_the_external_address() {
    let mut machine = Machine::new();
    machine.interfaces.push(("eth1", "192.0.2.77"));
    machine.names.push((
        "home.example.org",
        vec!["2001:db8:9::9", "198.51.100.9", "198.51.100.8"],
    ));
    let relay = |toml: &str| machine.good(toml).settings.turn.relay;
    let interface = relay("[external]\nipv4 = \"interface:eth1\"\n").ipv4.expect("IPv4");
    assert_eq!((interface.bind, interface.announced), (ip("10.0.8.2"), ip("10.0.8.2")));
    // Elsewhere: behind a NAT that the name is kept for. Of several addresses the same one each time.
    let named = relay("[external]\nipv4 = \"home.example.org\"\nipv6 = \"dns:home.example.org\"\n");
    let both = named.ipv4.zip(named.ipv6).expect("both families");
    assert_eq!(
        (both.0.bind, both.0.announced),
        (ip("203.0.113.10"), ip("198.51.100.8"))
    );
    assert_eq!(
        (both.1.bind, both.1.announced),
        (ip("2001:db8:1::10"), ip("2001:db8:9::9"))
    );
    // Here.
    let own = relay("[external]\nipv4 = \"turn.example.org\"\n").ipv4.expect("IPv4");
    assert_eq!((own.bind, own.announced), (ip("203.0.113.10"), ip("203.0.113.10")));
}

#[test]
fn announced_ports_stand_for_bound_ones_in_order_and_the_policy_knows_them() {
    let machine = Machine::new();
    let toml = "[external]\nipv4 = \"198.51.100.7\"\nipv6 = \"off\"\nports = \"20000-20999\"\n\
                [relay]\nipv4 = \"203.0.113.10\"\nports = \"50000-50999\"\n";
    let turn = machine.good(toml).settings.turn;
    let address = turn.relay.ipv4.expect("IPv4");
    assert_eq!(turn.relay.ports, 50_000..=50_999);
    assert_eq!(turn.relay.announced(address, 50_007), socket("198.51.100.7:20007"));
    let peer = |text: &str| turn.policy.peer(PeerAddr(socket(text)));
    assert_eq!(peer("198.51.100.7:20007"), Ok(PeerClass::Relayed));
    for (closed, why) in [
        ("198.51.100.7:50007", Denied::OwnAddress),
        ("203.0.113.10:50007", Denied::OwnAddress),
        ("203.0.113.10:20007", Denied::OwnAddress),
        ("198.51.100.7:3478", Denied::OwnListener),
        ("203.0.113.10:3478", Denied::OwnListener),
    ] {
        assert_eq!(peer(closed), Err(why), "{closed}");
    }
}

#[test]
fn what_opening_an_address_of_this_machine_means_is_told() {
    let machine = Machine::new();
    let told = |toml: &str| machine.good(toml).warnings.to_string();
    for (allow, opened) in [("203.0.113.10/32", "203.0.113.10"), ("198.51.100.7/32", "198.51.100.7")] {
        let toml = format!(
            "[external]\nipv4 = \"198.51.100.7\"\nipv6 = \"off\"\n\
             [relay]\nipv4 = \"203.0.113.10\"\nports = \"50000-50999\"\n[peers]\nallow = [\"{allow}\"]\n"
        );
        let told = told(&toml);
        let line = format!("`peers.allow` opens {opened}, an address of this machine");
        assert_eq!(told.matches("an address of this machine").count(), 1, "{told}");
        assert!(told.contains(&line) && told.contains("50000-50999"), "{told}");
    }
    // A network does not open it, and what to write is told.
    for (allow, closed, example) in [
        ("203.0.113.0/24", "203.0.113.10", "203.0.113.10/32"),
        ("10.0.0.0/8", "10.0.8.2", "10.0.8.2/32"),
        ("2001:db8:1::/64", "2001:db8:1::10", "2001:db8:1::10/128"),
        ("0.0.0.0/0", "10.0.8.2, 203.0.113.10", "10.0.8.2/32"),
    ] {
        let told = told(&format!("[peers]\nallow = [\"{allow}\"]\n"));
        assert!(
            told.contains(&format!("{allow} does not open {closed}, of this machine")),
            "{told}"
        );
        assert!(
            told.contains(&format!("write its address as well: \"{example}\"")),
            "{told}"
        );
    }
    let both = told("[peers]\nallow = [\"203.0.113.0/24\", \"203.0.113.10\"]\n");
    assert!(!both.contains("does not open"), "{both}");
    let elsewhere = "[peers]\nallow = [\"10.200.0.0/24\"]\n";
    assert!(!told(elsewhere).contains("an address of this machine"));
}

/// Fly.io: UDP must be bound to the address behind this name, TCP to every address.
#[test]
fn udp_and_tcp_of_one_port_can_be_bound_to_different_names() {
    let mut machine = Machine::new();
    machine.names.push(("fly-global-services", vec!["10.0.8.2"]));
    let toml = "[external]\nipv4 = \"198.51.100.7\"\nipv6 = \"off\"\n[relay]\nipv4 = \"fly-global-services\"\n\
                [[listener]]\nbind = \"fly-global-services:443\"\nprotocols = [\"udp\"]\n\
                [[listener]]\nbind = \"0.0.0.0:443\"\nprotocols = [\"tcp\", \"tls\", \"https\"]\n";
    let settings = machine.good(toml).settings;
    let [udp, tcp] = &settings.listeners[..] else {
        panic!("two listeners")
    };
    assert_eq!((&udp.addresses[..], udp.udp), (&[socket("10.0.8.2:443")][..], true));
    assert_eq!((&tcp.addresses[..], tcp.udp), (&[socket("0.0.0.0:443")][..], false));
    let relay = settings.turn.relay.ipv4.expect("IPv4");
    assert_eq!((relay.bind, relay.announced), (ip("10.0.8.2"), ip("198.51.100.7")));
    assert_eq!(
        settings.api.uris.len(),
        3,
        "UDP, TLS and TCP are offered: {:?}",
        settings.api.uris
    );
}

#[test]
fn a_stun_server_is_asked_from_the_address_relay_sockets_are_bound_to() {
    let mut machine = Machine::new();
    machine
        .names
        .push(("stun.example.org", vec!["2001:db8:99::1", "198.51.100.3"]));
    machine.stun = vec![("198.51.100.3:3478", "203.0.113.77")];
    let loaded = machine.good("[external]\nipv4 = \"stun:stun.example.org\"\n[relay]\nipv4 = \"10.0.8.2\"\n");
    let relay = loaded.settings.turn.relay.ipv4.expect("IPv4");
    assert_eq!((relay.bind, relay.announced), (ip("10.0.8.2"), ip("203.0.113.77")));
    assert_eq!(
        machine.asked.borrow()[..],
        [(socket("198.51.100.3:3478"), ip("10.0.8.2"))]
    );
    assert!(
        loaded
            .effective()
            .contains("ipv4 = \"stun:stun.example.org:3478\"  # 203.0.113.77, as the STUN server")
    );
}

#[test]
fn auto_with_a_private_address_works_and_warns() {
    let mut machine = Machine::new();
    (machine.route_v4, machine.route_v6) = (Some("10.0.8.2"), None);
    machine.interfaces = vec![("lo", "127.0.0.1"), ("eth1", "10.0.8.2")];
    let loaded = machine.good("");
    assert_eq!(
        loaded.settings.turn.relay.ipv4.map(|a| a.announced),
        Some(ip("10.0.8.2"))
    );
    let warnings = summary(&loaded.warnings, &machine.dir.join("relay.toml"));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("found only 10.0.8.2") && warnings[0].contains("stun:host:port"),
        "{warnings:?}"
    );
}

#[test]
fn without_a_default_route_any_address_does_and_without_any_loopback() {
    let mut machine = Machine::new();
    (machine.route_v4, machine.route_v6) = (None, None);
    machine.interfaces = vec![
        ("lo", "127.0.0.1"),
        ("veth0", "169.254.7.1"),
        ("veth0", "10.9.0.2"),
        ("veth0", "fe80::1"),
    ];
    assert_eq!(
        machine.good("").settings.turn.relay.ipv4.map(|a| a.bind),
        Some(ip("10.9.0.2"))
    );
    machine.interfaces.truncate(1);
    let loaded = machine.good("");
    assert_eq!(loaded.settings.turn.relay.ipv4.map(|a| a.bind), Some(ip("127.0.0.1")));
    assert_eq!(loaded.warnings.counts(), (0, 1));
}

#[test]
fn a_family_that_is_off_is_not_relayed() {
    let machine = Machine::new();
    let relay = machine.good("[external]\nipv6 = \"off\"\n").settings.turn.relay;
    assert!(relay.ipv4.is_some() && relay.ipv6.is_none());
    let relay = machine.good("[external]\nipv4 = \"off\"\n").settings.turn.relay;
    assert!(relay.ipv4.is_none() && relay.ipv6.is_some());
}

#[test]
fn a_listener_by_name_has_all_addresses_of_the_name() {
    let machine = Machine::new();
    let settings = machine
        .good("[[listener]]\nbind = \"turn.example.org:3478\"\n")
        .settings;
    assert_eq!(
        settings.listeners[0].addresses,
        [socket("203.0.113.10:3478"), socket("[2001:db8:1::10]:3478")]
    );
    assert_eq!(settings.listeners[0].label, "turn.example.org:3478");
}

/// What a machine lacks, in every key that names something of it.
#[test]
fn what_the_machine_lacks_is_no_mistake_of_the_configuration() {
    let machine = Machine::new();
    for toml in [
        "[[listener]]\nbind = \"192.0.2.77:3478\"\n",
        "[[listener]]\nbind = \"nowhere.example.org:3478\"\n",
        "[[listener]]\nbind = \"nowhere.example.org:443\"\n[forced_relay]\neveryone = true\n[turn]\nbinding = false\n",
        "[relay]\nipv4 = \"192.0.2.77\"\n",
        "[relay]\nipv4 = \"nowhere.example.org\"\n",
        "[external]\nipv4 = \"interface:wg0\"\n",
        "[external]\nipv4 = \"nowhere.example.org\"\n",
        "[external]\nipv4 = \"stun:203.0.113.1:3478\"\n",
        "[admin]\naddress = \"192.0.2.77:13478\"\n",
        "[nat_discovery]\nenabled = true\nipv4 = [\"203.0.113.10\", \"203.0.113.11\"]\n[[listener]]\nbind = \"*:3478\"\n[[listener]]\nbind = \"*:3479\"\n",
    ] {
        let toml = format!("start_timeout = \"5s\"\n{toml}");
        let missing = machine.bad(&toml);
        assert!(missing.may_pass(), "{toml}\n{missing}");
        assert_eq!(missing.start_timeout(), Duration::from_secs(5));
        let checked = machine.load_for(Purpose::Check, &toml).expect("a good configuration");
        assert!(checked.warnings.here() > 0, "{toml}\n{}", checked.warnings);
        let both = machine.bad(&format!("{toml}[log]\nlevel = \"loud\"\n"));
        assert!(!both.may_pass(), "{both}");
    }
    assert_eq!(machine.load_for(Purpose::Check, "").expect("good").warnings.here(), 0);
}

#[test]
fn a_prefix_that_leads_here_and_servers_behind_this_one_are_told_where_a_network_holds_them() {
    let mut machine = Machine::new();
    machine.networks.push("10.9.0.0/24");
    machine
        .names
        .push(("web.example.org", vec!["10.9.1.7", "2001:db8:1::7"]));
    let config = |allow: &str| {
        format!(
            "[peers]\nallow = [{allow}]\n[[front_door.route]]\nnames = [\"www.example.org\"]\n\
             backend = \"web.example.org:8443\"\n[turn.redirect]\nipv4 = \"10.9.1.9:3478\"\n"
        )
    };
    let loaded = machine.good(&config("\"10.9.0.0/16\""));
    let told = loaded.warnings.to_string();
    assert!(
        told.contains("10.9.0.0/16 does not open 10.9.0.0/24, 10.9.1.7, 10.9.1.9"),
        "{told}"
    );
    let peer = |text: &str| loaded.settings.turn.policy.peer(PeerAddr(socket(text)));
    for closed in ["10.9.0.1:9", "10.9.1.7:9", "10.9.1.9:9", "[2001:db8:1::7]:8443"] {
        assert!(peer(closed).is_err(), "{closed}");
    }
    assert_eq!(peer("10.9.2.1:9"), Ok(PeerClass::Peer));
    let part = machine
        .good(&config("\"10.9.0.16/28\", \"10.9.1.7\""))
        .warnings
        .to_string();
    assert!(
        part.contains("10.9.0.16/28 does not open 10.9.0.0/24") && !part.contains("10.9.1.7,"),
        "{part}"
    );
}

#[test]
fn a_machine_that_does_not_tell_its_addresses_is_not_served_on() {
    let mut machine = Machine::new();
    machine.is_mute = true;
    let told = machine.bad("realm = \"turn.example.org\"\n").to_string();
    assert!(told.contains("the addresses of this machine cannot be read"), "{told}");
}
