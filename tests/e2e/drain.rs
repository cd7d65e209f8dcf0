//! Where browsers' calls go when a relay drains. These tests verify the table "Who follows" in
//! docs/operations.md.

use serde_json::{Value, json};

use crate::certs::Authority;
use crate::chromium::Chromium;
use crate::firefox::Firefox;
use crate::lab::{Firewall, Lab, RELAY_HOST};
use crate::one_at_a_time;
use crate::page::Page;
use crate::relay::{Place, Relay};

const URIS: [(&str, &str); 3] = [
    ("udp", "turn:{}:443?transport=udp"),
    ("tcp", "turn:{}:443?transport=tcp"),
    ("tls", "turns:{}:443?transport=tcp"),
];

/// A drained relay and the one it names, with the same secret and realm, and a client.
struct Drain {
    drained: Relay,
    other: Relay,
    browser: Box<dyn Page>,
    lab: Lab,
}

impl Drain {
    /// `settings` go below `[turn.redirect]`; the certificate of the second relay is for `name`.
    fn new(chromium: bool, settings: &str, name: &str) -> Self {
        let browsers: &[&str] = if chromium { &["chromium"] } else { &["firefox-esr"] };
        let lab = Lab::new(Firewall::Open, &[browsers, &["certutil"]].concat());
        let authority = Authority::make(lab.folder());
        let certs = authority.certify(RELAY_HOST);
        let others = if name == RELAY_HOST {
            certs.clone()
        } else {
            authority.certify(name)
        };
        let redirect = format!(
            "\n[turn.redirect]\nipv4 = \"{}:443\"\n{settings}",
            Place::Second.address()
        );
        let other = Relay::start_at(Place::Second, &lab, &others.settings(), "", &[]);
        let drained = Relay::start_at(Place::First, &lab, &certs.settings(), &redirect, &[]);
        let browser: Box<dyn Page> = if chromium {
            Box::new(Chromium::start(&lab, 0, &certs))
        } else {
            Box::new(Firefox::start(&lab, 0, &certs))
        };
        Self {
            drained,
            other,
            browser,
            lab,
        }
    }

    /// The transports over which the browser gets a relayed address, and from which relay.
    fn goes(&mut self) -> [(&'static str, Option<Place>); 3] {
        URIS.map(|(transport, uri)| {
            let mut configuration = self.drained.mint_configuration();
            configuration["iceServers"][0]["urls"] = json!([uri.replace("{}", RELAY_HOST)]);
            configuration["iceTransportPolicy"] = "relay".into();
            let gathered: Value = self.browser.call_page("gather", &[&configuration]);
            let addresses = gathered["addresses"].as_array().expect("a list").clone();
            let is = |place: &Place| addresses.iter().any(|address| *address == place.address().to_string());
            let place = [Place::First, Place::Second].into_iter().find(is);
            assert_eq!(
                place.is_some(),
                !addresses.is_empty(),
                "{transport}: relayed addresses of neither: {gathered:#}"
            );
            (transport, place)
        })
    }

    fn stop(self) {
        drop(self.browser);
        self.drained.stop();
        self.other.stop();
        drop(self.lab);
    }
}

/// Clients get no redirection that they cannot follow.
//= STUN-BIND-11
#[test]
fn by_default_every_browser_gets_a_relayed_address_over_every_transport_of_a_drained_relay() {
    let _turn = one_at_a_time();
    for chromium in [true, false] {
        let mut drain = Drain::new(chromium, "", RELAY_HOST);
        let expected = [
            ("udp", Some(Place::Second)),
            ("tcp", Some(Place::First)),
            ("tls", Some(Place::First)),
        ];
        assert_eq!(drain.goes(), expected, "chromium: {chromium}");
        let stale = |relay: &Relay| relay.metric("relay_error_responses_total{code=\"438\"}");
        assert_eq!(
            (stale(&drain.drained), stale(&drain.other)),
            (0.0, 0.0),
            "nonces are good at both"
        );
        drain.stop();
    }
}

const EVERY_TRANSPORT: &str = "transports = [\"udp\", \"tcp\", \"tls\", \"dtls\"]\n";

#[test]
fn chromium_follows_over_udp_and_tcp_and_over_tls_where_the_certificate_holds_the_address() {
    let _turn = one_at_a_time();
    let second = Some(Place::Second);
    let address = Place::Second.address().to_string();
    for (name, over_tls) in [(RELAY_HOST, None), (address.as_str(), second)] {
        let mut drain = Drain::new(true, EVERY_TRANSPORT, name);
        assert_eq!(
            drain.goes(),
            [("udp", second), ("tcp", second), ("tls", over_tls)],
            "a certificate for {name}"
        );
        drain.stop();
    }
}

#[test]
fn firefox_follows_over_udp_alone() {
    let _turn = one_at_a_time();
    let address = Place::Second.address().to_string();
    let mut drain = Drain::new(false, EVERY_TRANSPORT, &address);
    assert_eq!(
        drain.goes(),
        [("udp", Some(Place::Second)), ("tcp", None), ("tls", None)]
    );
    drain.stop();
}
