//! A credentials API that is open to everyone, used by a page of another origin that the relay does
//! not know.

use serde_json::Value;

use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::firefox::Firefox;
use crate::lab::{Firewall, Lab, RELAY, RELAY_HOST};
use crate::one_at_a_time;
use crate::page::Page;
use crate::relay::Relay;

/// Replaces the lab's key and list of origins.
const OPEN: &[(&str, &str)] = &[
    ("RELAY__API__OPEN", "true"),
    ("RELAY__API__KEYS", "[]"),
    ("RELAY__API__CORS_ORIGINS", "[]"),
];

#[test]
fn a_page_of_another_origin_gets_ice_servers_of_an_open_api_and_a_relayed_address_with_them() {
    let _turn = one_at_a_time();
    for (program, chromium) in [("chromium", true), ("firefox-esr", false)] {
        let lab = Lab::new(Firewall::Open, &[program, "certutil"]);
        let certs = Certs::make(lab.folder(), RELAY_HOST);
        let relay = Relay::start_with(&lab, &certs.settings(), "", OPEN);
        let mut browser: Box<dyn Page> = if chromium {
            Box::new(Chromium::start(&lab, 0, &certs))
        } else {
            Box::new(Firefox::start(&lab, 0, &certs))
        };
        let url = Value::from(format!("https://{RELAY_HOST}/v1/ice-servers"));
        for method in ["GET", "POST"] {
            let mut configuration = browser.call_page("fetchOpenConfiguration", &[&url, &method.into()]);
            configuration["iceTransportPolicy"] = "relay".into();
            let gathered = browser.call_page("gather", &[&configuration]);
            let addresses = gathered["addresses"].as_array().expect("a list");
            let relayed = addresses.iter().any(|address| *address == RELAY.to_string());
            assert!(relayed, "{program}, {method}: {gathered:#}");
        }
        drop(browser);
        relay.stop();
    }
}
