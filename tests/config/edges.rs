//! Just on this side of a border, and just beyond it.

use crate::machine::{Machine, SECRET};

/// What is said of `more` in a configuration that is good otherwise.
fn told(more: &str) -> String {
    let machine = Machine::new();
    let text = format!(
        "realm = \"turn.example.org\"\n{more}\n[credentials]\nsecrets = [\"{SECRET}\"]\n\
         [[listener]]\nbind = \"*:3478\"\nprotocols = [\"udp\"]\n"
    );
    machine.bad_or_good(&text).to_string()
}

#[test]
fn what_other_servers_call_a_key_is_told_as_it_is_called_here() {
    for (written, here) in [
        ("static_auth_secret", "credentials.secrets"),
        ("lt_cred_mech", "credentials.users"),
        ("external_ip", "external.ipv4"),
        ("relay_ipv6_addr", "external.ipv6"),
        ("relay_ip", "relay.ipv4"),
        ("min_port", "relay.ports"),
        ("listening_port", "listener.bind"),
        ("tls_crt_file", "tls.certificate"),
        ("tls_key_file", "tls.private_key"),
        ("user_quota", "limits.allocations_per_user"),
        ("total_quota", "limits.allocations"),
        ("allowed_peer_ip", "peers.allow"),
        ("denied_peer_ip", "peers.deny"),
        ("max_allocate_lifetime", "turn.max_lifetime"),
        ("stale_nonce", "turn.nonce_lifetime"),
        ("no_stun", "turn.binding"),
        ("log_level", "log.level"),
        ("prometheus", "admin.address"),
    ] {
        let told = told(&format!("{written} = 1"));
        assert!(told.contains(&format!("here that is `{here}`")), "{written}: {told}");
    }
}

#[test]
fn only_a_name_that_is_long_enough_is_taken_for_another_one_of_another_section() {
    assert!(!told("biind = 1").contains("another key"), "{}", told("biind = 1"));
    assert!(
        told("protocolls = 1").contains("did you mean another key?"),
        "{}",
        told("protocolls = 1")
    );
}

#[test]
fn a_section_within_another_is_told_where_it_belongs_if_there_is_one() {
    let told = |key: &str| told(&format!("[limits]\n{key} = 5"));
    let its = "this key is `[log] level`: put `level` below `[log]`";
    assert!(told("log.level").contains(its), "{}", told("log.level"));
    let section = "it is a section of its own: put its keys below `[log]`";
    assert!(told("log.levels").contains(section), "{}", told("log.levels"));
    assert!(!told("nothing.level").contains("put "), "{}", told("nothing.level"));
}

#[test]
fn an_open_api_is_warned_of_by_how_much_each_address_may_mint() {
    let many = |limit: u32| {
        let told = told(&format!("[api]\nopen = true\nmints_per_minute_per_ip = {limit}"));
        told.contains("more than 60 credentials a minute")
    };
    assert_eq!([0, 1, 59, 60, 61].map(many), [true, false, false, false, true]);
}

#[test]
fn a_mail_address_has_a_user_and_a_host_that_can_be_one() {
    let bad = |contact: &str| {
        let told = told(&format!(
            "[tls]\nacme = {{ domains = [\"turn.example.org\"], contact = \"{contact}\" }}"
        ));
        told.contains("is not a mail address")
    };
    assert!(!bad("ops@example.org"));
    for contact in ["ops", "@example.org", "mailto:ops@example.org", "ops@exa mple", "ops@"] {
        assert!(bad(contact), "{contact}");
    }
}

#[test]
fn a_network_of_translated_addresses_is_warned_of_and_every_address_is_not_one() {
    let unknown = |net: &str| told(&format!("peers.allow = [\"{net}\"]")).contains("the length of the NAT64 prefix");
    for net in ["64:ff9b:1::/48", "64:ff9b:1:8::/96", "64:ff9b::/32"] {
        assert!(unknown(net), "{net}");
    }
    for net in ["::/0", "64:ff9b:2::/48", "2001:db8::/32"] {
        assert!(!unknown(net), "{net}");
    }
}

#[test]
fn that_loopback_stays_closed_in_a_network_is_said_once() {
    let mut machine = Machine::new();
    machine.networks.push("127.0.0.0/8");
    let text = format!("peers.allow = [\"126.0.0.0/7\"]\ncredentials.secrets = [\"{SECRET}\"]\n");
    let told = machine.bad_or_good(&text).to_string();
    assert!(!told.contains("does not open"), "{told}");
}

#[test]
fn a_local_address_is_an_address_or_a_name_that_can_be_one() {
    let wrong = |host: &str| told(&format!("relay.ipv4 = \"{host}\"")).contains("an IP address or a host name");
    assert!(wrong("not a name") && wrong("a_b!") && !wrong("203.0.113.10"));
}

#[test]
fn one_secret_in_a_variable_is_one_secret_whatever_it_holds() {
    let mut machine = Machine::new();
    let secret = format!("{SECRET},with/commas,in+it");
    machine.set("RELAY__CREDENTIALS__SECRETS", &secret);
    let now = relay::base::time::UnixTime(1_800_000_000);
    let credentials = machine.good("realm = \"turn.example.org\"\n").settings.turn.credentials;
    let minted = credentials.mint(now, std::time::Duration::from_secs(60), Some("x"));
    let expiry = relay::base::time::UnixTime(now.0 + 60);
    assert_eq!(
        minted,
        relay::turn::login::credential::mint(secret.as_bytes(), expiry, Some("x"))
    );
}

const ROUTED: &str = "credentials.secrets = [\"Zk3v8yB1qTn5LxW0uHcJr2sEoPdGmA7iFtVb9KfQeXw=\"]\n\
     [[listener]]\nbind = \"*:8443\"\nprotocols = [\"tls\", \"https\"]\n\
     [[front_door.route]]\nnames = [\"www.example.org\", \"*.example.org\"]\n";

#[test]
fn names_of_routes_are_in_what_is_in_force() {
    let loaded = Machine::new().good(&format!("{ROUTED}backend = \"10.0.8.9:443\"\n"));
    let effective = loaded.effective();
    assert!(
        effective.contains("\"www.example.org\", \"*.example.org\""),
        "{effective}"
    );
}

#[test]
fn a_backend_that_is_this_server_by_any_of_its_addresses_is_refused() {
    let itself = |backend: &str| {
        let told = Machine::new().bad_or_good(&format!("{ROUTED}backend = \"{backend}\"\n"));
        told.to_string().contains("a listener of this server itself")
    };
    for backend in ["localhost:8443", "127.0.0.2:8443", "10.0.8.2:8443", "[::1]:8443"] {
        assert!(itself(backend), "{backend}");
    }
    for backend in ["10.0.8.2:443", "10.0.8.3:8443", "localhost:443"] {
        assert!(!itself(backend), "{backend}");
    }
}
