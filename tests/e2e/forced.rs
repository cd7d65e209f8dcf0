//! Forced relay with a closed relay range: only port 443 is open, both towards clients and on the
//! server.

use std::fs;

use serde_json::{Value, json};

use crate::calls::{assert_relayed, watch};
use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::host_firewall::{admitted, close};
use crate::janus::Janus;
use crate::lab::{Firewall, Lab, RELAY_HOST, SFU};
use crate::one_at_a_time;
use crate::process::run;
use crate::server::Server;

/// Every login is forced. The other listeners remain, and refuse.
const FORCED: &str = "\n[turn]\nbinding = false\n\n[forced_relay]\neveryone = true\n";

/// What the API must return, and nothing else.
fn assert_forced(configuration: &Value) {
    let urls = [
        format!("turns:{RELAY_HOST}:443?transport=tcp"),
        format!("turn:{RELAY_HOST}:443?transport=udp"),
        format!("turn:{RELAY_HOST}:443?transport=tcp"),
    ];
    assert_eq!(configuration["iceServers"][0]["urls"], json!(urls), "{configuration:#}");
    assert_eq!(
        configuration["iceServers"].as_array().map(Vec::len),
        Some(1),
        "{configuration:#}"
    );
    assert_eq!(configuration["iceTransportPolicy"], "relay", "{configuration:#}");
}

//= FORCED-04
#[test]
fn with_nothing_but_443_open_on_both_sides_a_browser_reaches_the_sfu() {
    let _turn = one_at_a_time();
    for (firewall, protocols) in [
        (Firewall::OnlyTcp443, ["tls", "tcp"]),
        (Firewall::OnlyUdp443, ["udp", "udp"]),
    ] {
        let lab = Lab::new(firewall, &["chromium", "certutil", "janus"]);
        close(&lab);
        let certs = Certs::make(lab.folder(), RELAY_HOST);
        let server = Server::start_with(&lab, &certs, FORCED);
        let mut janus = Janus::start(&lab);
        let mut browser = Chromium::start(&lab, 0, &certs);
        // Unmodified, so that the browser gets every URI and finds the one that works.
        let configuration = server.mint_configuration();
        assert_forced(&configuration);

        let offer = browser.call_page("offer", &[&configuration]);
        let answer = janus.answer(offer.as_str().expect("an offer is text"));
        browser.call_page("accept", &[&Value::from(answer)]);
        let samples = watch(&mut [&mut browser]);

        assert_relayed(&samples[0], &protocols);
        assert_eq!(samples[0]["remote"]["address"], SFU.to_string(), "{:#}", samples[0]);
        let (passed, admitted) = (lab.passed(), admitted(&lab));
        assert_eq!(passed.other, 0, "{passed:?}");
        assert!(admitted.to_443 > 500 && admitted.answers > 500, "{admitted:?}");
        assert_eq!(
            admitted.elsewhere, 0,
            "a port but 443 was used from outside: {admitted:?}"
        );
        server.stop();
    }
}

//= FORCED-04
#[test]
fn with_nothing_but_443_open_on_both_sides_two_browsers_reach_each_other_inside_the_process() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, &["chromium", "certutil"]);
    close(&lab);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let server = Server::start_with(&lab, &certs, FORCED);
    let mut caller = Chromium::start(&lab, 0, &certs);
    let mut callee = Chromium::start(&lab, 1, &certs);

    let configuration = server.fetch_configuration(&mut caller);
    assert_forced(&configuration);
    let offer = caller.call_page("offer", &[&configuration]);
    let configuration = server.fetch_configuration(&mut callee);
    let answer = callee.call_page("answer", &[&configuration, &offer]);
    caller.call_page("accept", &[&answer]);
    let samples = watch(&mut [&mut caller, &mut callee]);

    for sample in &samples {
        assert_relayed(sample, &["tls", "tcp"]);
        assert_eq!(sample["remote"]["candidateType"], "relay", "{sample:#}");
    }
    let (passed, admitted) = (lab.passed(), admitted(&lab));
    assert_eq!((passed.udp_443, passed.other), (0, 0), "{passed:?}");
    assert!(admitted.to_443 > 1000, "{admitted:?}");
    // No packet left a relay socket, so there was nothing to answer.
    assert_eq!((admitted.answers, admitted.elsewhere), (0, 0), "{admitted:?}");
    server.stop();
}

//= FORCED-02
#[test]
fn a_browser_with_a_forced_credential_is_told_403_on_every_other_port() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::Open, &["chromium", "certutil"]);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let server = Server::start_with(&lab, &certs, FORCED);
    let mut browser = Chromium::start(&lab, 0, &certs);
    let minted = server.mint_configuration();
    assert_forced(&minted);

    let beside = [
        format!("turn:{RELAY_HOST}:3478?transport=udp"),
        format!("turn:{RELAY_HOST}:3478?transport=tcp"),
        format!("turns:{RELAY_HOST}:5349?transport=tcp"),
        format!("turn:{RELAY_HOST}:5349?transport=tcp"),
    ];
    let mut configuration = minted;
    configuration["iceServers"][0]["urls"] = json!(beside);
    let gathered = browser.call_page("gather", &[&configuration]);
    assert_eq!(gathered["candidates"], json!([]), "{gathered:#}");
    let errors = gathered["errors"].as_array().expect("a list");
    for uri in &beside {
        let told = errors.iter().any(|error| {
            error
                .as_str()
                .is_some_and(|text| text.starts_with(uri.as_str()) && text.contains(" 403 "))
        });
        assert!(told, "{uri}: {gathered:#}");
    }

    server.stop();
}

//= FORCED-05
#[test]
fn behind_a_nat_a_browser_learns_no_address_of_its_own_where_binding_is_off() {
    let _turn = one_at_a_time();
    // What the policy hides: the same browser and URI, with a server without it.
    assert!(kinds_of_candidates("").contains(&"srflx".into()));
    let closed = kinds_of_candidates(FORCED);
    assert!(
        closed.contains(&"relay".into()) && !closed.contains(&"srflx".into()),
        "{closed:?}"
    );
}

/// The types of a browser's candidates. The client is behind a NAT, its page has no policy of its
/// own, and TURN uses UDP 443.
fn kinds_of_candidates(settings: &str) -> Vec<Value> {
    let lab = Lab::new(Firewall::Open, &["chromium", "certutil"]);
    translate(&lab);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let server = Server::start_with(&lab, &certs, settings);
    let mut browser = Chromium::start(&lab, 0, &certs);
    let mut configuration = server.mint_configuration();
    configuration["iceServers"][0]["urls"] = json!([format!("turn:{RELAY_HOST}:443?transport=udp")]);
    configuration["iceTransportPolicy"] = "all".into();
    let gathered = browser.call_page("gather", &[&configuration]);
    server.stop();
    gathered["candidates"].as_array().expect("a list").clone()
}

/// Puts the first client behind a NAT: its packets leave with another address, which no interface
/// of a browser has.
fn translate(lab: &Lab) {
    run(lab
        .client(0)
        .command("ip")
        .args(["address", "add", "192.0.2.20/32", "dev", "lo"]));
    let rules = "table ip nat {
       chain out {
         type nat hook postrouting priority 100;
         oifname eth0 snat to 192.0.2.20
       }
     }";
    let file = lab.folder().join("nat.nft");
    fs::write(&file, rules).expect("the lab's folder is writable");
    run(lab.client(0).command("nft").arg("--file").arg(file));
}
