//! A page with two peer connections that a browser loads again and again, killed in between, all
//! with one credential. The killed ones' allocations over UDP still exist.

use serde_json::json;

use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::firefox::Firefox;
use crate::lab::{Firewall, Lab, RELAY_HOST};
use crate::one_at_a_time;
use crate::page::Page;
use crate::relay::Relay;

const LOADS: usize = 3;

#[test]
fn chromium_gets_its_relay_on_every_load_although_it_is_killed_in_between() {
    let start = |lab: &Lab, certs: &Certs| Chromium::start(lab, 0, certs);
    load_again_and_again("chromium", start, Chromium::kill);
}

#[test]
fn firefox_gets_its_relay_on_every_load_although_it_is_killed_in_between() {
    let start = |lab: &Lab, certs: &Certs| Firefox::start(lab, 0, certs);
    load_again_and_again("firefox-esr", start, Firefox::kill);
}

fn load_again_and_again<B: Page>(program: &str, start: impl Fn(&Lab, &Certs) -> B, kill: impl Fn(B)) {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::Open, &[program, "certutil"]);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let relay = Relay::start(&lab, &certs, "");
    // Unmodified: every URI, one user.
    let configuration = relay.mint_configuration();
    for load in 1..=LOADS {
        let mut browser = start(&lab, &certs);
        let told = browser.call_page("callItself", &[&configuration]);
        assert_eq!(told["heard"], "hello", "load {load}: {told:#}");
        // Over UDP, TLS and TCP.
        assert_eq!(told["gathered"], json!([3, 3]), "load {load}: {told:#}");
        kill(browser);
    }
    assert_eq!(relay.metric("relay_error_responses_total{code=\"486\"}"), 0.0);
    relay.stop();
}
