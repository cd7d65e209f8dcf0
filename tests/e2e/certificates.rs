//! Automatic certificates: replaced during a call, and obtained from an ACME authority at the first
//! start.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::calls::{assert_relayed, only, watch};
use crate::certs::{Certs, shown_to};
use crate::chromium::Chromium;
use crate::janus::Janus;
use crate::lab::{Firewall, Lab, RELAY, RELAY_HOST, SFU};
use crate::one_at_a_time;
use crate::pebble::{self, Pebble};
use crate::process::run;
use crate::relay::Relay;

const HTTPS: SocketAddr = SocketAddr::new(IpAddr::V4(RELAY), 443);
/// Files are checked every five seconds, and loaded once they are unchanged for one check.
const TAKEN_UP: Duration = Duration::from_secs(30);

#[test]
fn a_certificate_is_replaced_under_a_running_call_and_no_frame_is_lost_by_it() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, &["chromium", "certutil", "janus"]);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let mut relay = Relay::start(&lab, &certs, "");
    let mut janus = Janus::start(&lab);
    let mut browser = Chromium::start(&lab, 0, &certs);
    let before = call(&relay, &mut janus, &mut browser);
    let first = certs.der();
    assert_eq!(shown_to(lab.client(1), HTTPS, RELAY_HOST), first);
    let losses = relay.losses();

    let watched = Instant::now();
    fs::write(&certs.private_key, "no key at all").expect("the lab's folder is writable");
    relay.wait_for_log(&["a certificate cannot be used", "private_key.pem"], TAKEN_UP);
    assert_eq!(shown_to(lab.client(1), HTTPS, RELAY_HOST), first, "the old one stays");
    assert_playing(&mut browser);

    let next = Certs::make(&lab.folder().join("next"), RELAY_HOST);
    fs::copy(&next.certificate, &certs.certificate).expect("the lab's folder is writable");
    fs::copy(&next.private_key, &certs.private_key).expect("the lab's folder is writable");
    let taken = Instant::now();
    while shown_to(lab.client(1), HTTPS, RELAY_HOST) != next.der() {
        assert!(
            taken.elapsed() < TAKEN_UP,
            "new handshakes still see the old certificate"
        );
        thread::sleep(Duration::from_millis(500));
    }
    assert_playing(&mut browser);

    let after = browser.call_page("sample", &[]);
    for part in ["address", "port", "url", "relayProtocol"] {
        assert_eq!(after["local"][part], before["local"][part], "by the same allocation");
    }
    assert_eq!(
        after["packetsLost"],
        before["packetsLost"],
        "over {:?}",
        watched.elapsed()
    );
    assert_eq!(relay.losses(), losses);
    assert_eq!(relay.metric("relay_allocations{transport=\"tls\"}"), 1.0);
    assert_eq!(
        relay.metric("relay_certificate_updates_total{outcome=\"failure\"}"),
        1.0
    );
    relay.stop();
}

#[test]
fn a_certificate_is_obtained_by_acme_at_a_first_start_and_serves_a_browsers_call_over_tls() {
    let _turn = one_at_a_time();
    let programs = ["chromium", "certutil", "janus", "openssl"];
    let lab = Lab::new(Firewall::OnlyTcp443, &[&programs[..], &pebble::PROGRAMS].concat());
    // At first the name leads elsewhere. The log reports it, the operator fixes it, and the relay
    // tries again.
    let authority = Pebble::start(&lab, SFU);
    let mut relay = Relay::start_with_tls(&lab, &authority.settings(RELAY_HOST), "");
    let line = relay.wait_for_log(&["no certificate from https://"], Duration::from_secs(60));
    for part in [RELAY_HOST, "TCP port 443", "A and AAAA records", "Next try in 1 min"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    authority.resolve_to(RELAY);
    relay.reload();
    relay.wait_for_log(
        &["certificate in service", "self_signed=false"],
        Duration::from_secs(60),
    );
    assert_eq!(relay.metric("relay_acme_orders_total{outcome=\"success\"}"), 1.0);

    let certs = obtained(&lab, &authority);
    assert_eq!(shown_to(lab.client(1), HTTPS, RELAY_HOST), certs.der());
    let mut janus = Janus::start(&lab);
    let mut browser = Chromium::start(&lab, 0, &certs);
    call(&relay, &mut janus, &mut browser);
    relay.stop();

    // A second start has the certificate at once, without another order.
    fs::remove_file(lab.folder().join("relay.toml")).expect("the configuration of the first start");
    let relay = Relay::start_with_tls(&lab, &authority.settings(RELAY_HOST), "");
    assert_eq!(shown_to(lab.client(1), HTTPS, RELAY_HOST), certs.der());
    assert_eq!(relay.metric("relay_acme_orders_total{outcome=\"success\"}"), 0.0);
    relay.stop();
}

/// The browser calls Janus' echo test over TLS; returns the last sample once the call is smooth.
fn call(relay: &Relay, janus: &mut Janus, browser: &mut Chromium) -> Value {
    let uri = format!("turns:{RELAY_HOST}:443?transport=tcp");
    let configuration = only(&uri, &relay.fetch_configuration(browser));
    let offer = browser.call_page("offer", &[&configuration]);
    let answer = janus.answer(offer.as_str().expect("an offer is text"));
    browser.call_page("accept", &[&Value::from(answer)]);
    assert_playing(browser)
}

fn assert_playing(browser: &mut Chromium) -> Value {
    let sample = watch(&mut [browser]).remove(0);
    assert_relayed(&sample, &["tls"]);
    sample
}

/// The authority's root, and the file in which the relay stores its certificate.
fn obtained(lab: &Lab, authority: &Pebble) -> Certs {
    let root = lab.folder().join("pebble-root.pem");
    fs::write(&root, authority.root()).expect("the lab's folder is writable");
    let directories = fs::read_dir(lab.folder().join("relay-state/acme")).expect("the relay's state");
    let kept: Vec<PathBuf> = directories
        .map(|entry| entry.expect("readable").path().join("certificate.pem"))
        .collect();
    let [kept] = &kept[..] else {
        panic!("one authority, not {kept:?}")
    };
    let text = run(std::process::Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(kept));
    assert!(text.contains(&format!("DNS:{RELAY_HOST}")), "{text}");
    Certs {
        authority: root,
        certificate: kept.clone(),
        private_key: kept.clone(),
    }
}
