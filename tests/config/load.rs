//! What a good configuration comes to: defaults, files, environment, addresses.

use std::net::IpAddr;
use std::time::Duration;

use relay::service::config::Purpose;

use crate::machine::{Machine, OLD_SECRET, SECRET, summary};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
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
    assert_eq!(
        front.addresses,
        ["0.0.0.0:443", "[::]:443"].map(|address| address.parse().expect("an address"))
    );
    let relay = settings.turn.relay;
    assert_eq!(
        relay.ipv4.map(|a| (a.bind, a.announced)),
        Some((ip("203.0.113.10"), ip("203.0.113.10")))
    );
    assert_eq!(relay.ipv6.map(|a| a.announced), Some(ip("2001:db8:1::10")));
    assert_eq!(relay.ports, 49_152..=65_535);
    assert_eq!(settings.turn.limits.allocations, 16_384);
    assert_eq!(settings.workers, 2);
    assert!(settings.tls.self_signed);
    assert_eq!(
        settings.tls.certificate,
        machine.dir.join("state/self-signed/certificate.pem")
    );
    assert_eq!(
        settings.admin.address,
        Some("127.0.0.1:13478".parse().expect("an address"))
    );
    assert_eq!(settings.stream.queue_age, Duration::from_millis(150));
}

#[test]
fn a_secret_given_in_a_file_and_one_in_the_text_are_both_good_and_the_file_mints() {
    let machine = Machine::new();
    machine.file("secret", format!("{SECRET}\r\n"));
    let loaded = machine.good(&format!(
        "[credentials]\nsecret_file = \"secret\"\nsecrets = [\"{OLD_SECRET}\"]\n"
    ));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let now = relay::turn::time::UnixTime(1_800_000_000);
    let credentials = loaded.settings.turn.credentials;
    let minted = credentials
        .mint(now, Duration::from_secs(60), Some("alice"))
        .expect("a credential");
    let by_hand = relay::turn::credential::mint(
        SECRET.as_bytes(),
        relay::turn::time::UnixTime(1_800_000_060),
        Some("alice"),
    );
    assert_eq!(Ok(minted), by_hand);
}

#[test]
fn checking_makes_nothing() {
    let mut machine = Machine::new();
    let loaded = machine
        .load_for(Purpose::Check, "")
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(loaded.settings.first_run.secret_file.is_none());
    assert!(!machine.dir.join("state").exists());
    machine.set("RELAY__RELM", "x");
    let mistakes = machine.load_for(Purpose::Check, "").expect_err("an unknown key");
    assert_eq!(
        summary(&mistakes, &machine.dir.join("relay.toml")),
        ["environment variable RELAY__RELM:1:1 error: there is no key `relm` | did you mean `realm`?"]
    );
    assert!(machine.bad("").has_errors());
}
