//! Browsers' media through port 443 only.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::janus::Janus;
use crate::lab::{Firewall, Lab, Passed, RELAY, RELAY_HOST};
use crate::one_at_a_time;
use crate::page::Page;
use crate::relay::Relay;
use crate::server::{RELAY_PORTS, Server};

const BROWSER_PROGRAMS: &[&str] = &["chromium", "certutil"];
pub(crate) const SFU_PROGRAMS: &[&str] = &["chromium", "certutil", "janus"];
const FRAMES_PER_SECOND: f64 = 15.0;
const MEASURED: Duration = Duration::from_secs(5);

#[test]
fn chromium_reaches_the_sfu_over_tls_when_only_tcp_443_is_open() {
    let _turn = one_at_a_time();
    let uri = format!("turns:{RELAY_HOST}:443?transport=tcp");
    let passed = echo_call(Firewall::OnlyTcp443, &Login::Fetched(uri), &["tls"]);
    assert!(passed.tcp_443 > 1000 && passed.udp_443 == 0, "{passed:?}");
}

#[test]
fn chromium_reaches_the_sfu_over_plain_tcp_on_the_same_port() {
    let _turn = one_at_a_time();
    let uri = format!("turn:{RELAY_HOST}:443?transport=tcp");
    let passed = echo_call(Firewall::OnlyTcp443, &Login::Fetched(uri), &["tcp"]);
    assert!(passed.tcp_443 > 1000 && passed.udp_443 == 0, "{passed:?}");
}

#[test]
fn chromium_reaches_the_sfu_over_udp_when_only_udp_443_is_open() {
    let _turn = one_at_a_time();
    let uri = format!("turn:{RELAY_HOST}:443?transport=udp");
    let passed = echo_call(Firewall::OnlyUdp443, &Login::Minted(uri), &["udp"]);
    assert!(passed.udp_443 > 1000 && passed.tcp_443 == 0, "{passed:?}");
}

#[test]
fn the_apis_answer_as_it_is_finds_the_open_port_when_only_tcp_443_is_open() {
    let _turn = one_at_a_time();
    let passed = echo_call(Firewall::OnlyTcp443, &Login::Unchanged, &["tcp", "tls"]);
    assert!(passed.tcp_443 > 1000 && passed.udp_443 == 0, "{passed:?}");
}

// As in docs/recipes/livekit.md, "On one machine", except for the ports, which are also those of
// the relay.
#[test]
fn chromium_reaches_an_sfu_on_the_relays_own_machine_although_its_ports_are_relay_ports() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, SFU_PROGRAMS);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let own = RELAY.to_string();
    let allow = [("RELAY__PEERS__ALLOW", own.as_str())];
    let mut relay = Relay::start_with(&lab, &certs.settings(), "", &allow);
    relay.wait_for_log(&["`peers.allow` opens", &own], Duration::from_secs(1));
    let ports = 49_500..=49_519;
    assert!(RELAY_PORTS.contains(ports.start()) && RELAY_PORTS.contains(ports.end()));
    let mut janus = Janus::start_beside_relay(&lab, &ports);
    let mut browser = Chromium::start(&lab, 0, &certs);
    let uri = format!("turns:{RELAY_HOST}:443?transport=tcp");
    let configuration = only(&uri, &relay.fetch_configuration(&mut browser));

    let sample = sample_of_echo(&mut browser, &mut janus, &configuration);
    assert_relayed(&sample, &["tls"]);
    let remote = &sample["remote"];
    let port = remote["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    assert_eq!(remote["address"], own, "{sample:#}");
    assert!(port.is_some_and(|port| ports.contains(&port)), "{sample:#}");
    assert_eq!(
        relay.metric("relay_dropped_packets_total{reason=\"no_such_relay\"}"),
        0.0
    );
    relay.stop();
}

#[test]
fn two_chromiums_call_each_other_relay_to_relay_when_only_tcp_443_is_open() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, BROWSER_PROGRAMS);
    call_each_other(&lab, 1);
    let passed = lab.passed();
    assert!(
        passed.tcp_443 > 2000 && passed.udp_443 == 0 && passed.other == 0,
        "{passed:?}"
    );
}

// The picture of the lab's camera, 320 x 240, takes about 400 kbit/s if there is room. Less than
// half of it fits beside the sound, so the relay must drop until the sender adapts.
//= XPORT-18
#[test]
fn a_chromium_behind_a_narrow_link_keeps_its_picture_over_tls() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, BROWSER_PROGRAMS);
    lab.narrow_client(1, "250kbit");
    call_each_other(&lab, 2);
    let overruns = lab.overruns(1);
    assert!(overruns > 100, "the wire was narrow: {overruns} times too much");
}

/// Two browsers call each other over TLS until both have had a smooth picture this many times in a
/// row.
fn call_each_other(lab: &Lab, times: usize) {
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let server = Server::start(lab, &certs);
    let mut caller = Chromium::start(lab, 0, &certs);
    let mut callee = Chromium::start(lab, 1, &certs);
    let uri = format!("turns:{RELAY_HOST}:443?transport=tcp");

    let configuration = only(&uri, &server.fetch_configuration(&mut caller));
    let offer = caller.call_page("offer", &[&configuration]);
    let configuration = only(&uri, &server.fetch_configuration(&mut callee));
    let answer = callee.call_page("answer", &[&configuration, &offer]);
    caller.call_page("accept", &[&answer]);

    for _ in 1..times {
        watch(&mut [&mut caller, &mut callee]);
    }
    let samples = watch(&mut [&mut caller, &mut callee]);

    for sample in &samples {
        assert_relayed(sample, &["tls"]);
        assert_eq!(sample["remote"]["candidateType"], "relay", "{sample:#}");
    }
    server.stop();
}

/// How the page gets its credential, and which URIs it uses.
enum Login {
    /// Fetched by the page from the relay's API over the same port; uses only this URI.
    Fetched(String),
    /// Fetched by the page and passed to `RTCPeerConnection` unchanged, with all its URIs.
    Unchanged,
    /// Minted beforehand, because the page has no access over TCP; uses only this URI.
    Minted(String),
}

/// A browser calls Janus' echo test. What it decodes has gone out and come back, so one measurement
/// covers both directions.
fn echo_call(firewall: Firewall, login: &Login, relay_protocols: &[&str]) -> Passed {
    let lab = Lab::new(firewall, SFU_PROGRAMS);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let server = Server::start(&lab, &certs);
    let mut janus = Janus::start(&lab);
    let mut browser = Chromium::start(&lab, 0, &certs);
    let configuration = match login {
        Login::Fetched(uri) => only(uri, &server.fetch_configuration(&mut browser)),
        Login::Unchanged => server.fetch_configuration(&mut browser),
        Login::Minted(uri) => only(uri, &server.mint_configuration()),
    };

    call_echo(&mut browser, &mut janus, &configuration, relay_protocols);
    let passed = lab.passed();
    assert_eq!(passed.other, 0, "something else than port 443 came through: {passed:?}");
    // The call is still on: a stop does not wait for clients.
    server.stop();
    passed
}

/// Sets up a call to the echo test, waits until it is smooth, and leaves it running.
pub(crate) fn call_echo(browser: &mut dyn Page, janus: &mut Janus, configuration: &Value, relay_protocols: &[&str]) {
    let sample = sample_of_echo(browser, janus, configuration);
    assert_relayed(&sample, relay_protocols);
    assert_eq!(sample["remote"]["address"], janus.address.to_string(), "{sample:#}");
}

fn sample_of_echo(browser: &mut dyn Page, janus: &mut Janus, configuration: &Value) -> Value {
    let offer = browser.call_page("offer", &[configuration]);
    let answer = janus.answer(offer.as_str().expect("an offer is text"));
    browser.call_page("accept", &[&Value::from(answer)]);
    watch(&mut [browser]).remove(0)
}

/// Reduces `configuration` to the entry that offers `uri`.
pub(crate) fn only(uri: &str, configuration: &Value) -> Value {
    let servers = configuration["iceServers"].as_array().into_iter().flatten();
    let mut offering =
        servers.filter(|server| server["urls"].as_array().is_some_and(|urls| urls.contains(&uri.into())));
    let mut server = offering
        .next()
        .unwrap_or_else(|| panic!("the API does not offer {uri}: {configuration:#}"))
        .clone();
    server["urls"] = json!([uri]);
    json!({"iceServers": [server]})
}

/// Waits until every browser has encoded and decoded [`FRAMES_PER_SECOND`] over the last
/// [`MEASURED`], and returns the last samples. The window slides, so that neither the start of a
/// call nor a busy second of the machine matters.
pub(crate) fn watch(browsers: &mut [&mut dyn Page]) -> Vec<Value> {
    const LIMIT: Duration = Duration::from_secs(45);
    let mut histories = vec![Vec::<Value>::new(); browsers.len()];
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        thread::sleep(Duration::from_millis(500));
        for (browser, history) in browsers.iter_mut().zip(&mut histories) {
            history.push(browser.call_page("sample", &[]));
        }
        if histories.iter().all(|history| is_smooth(history)) {
            return histories.iter().filter_map(|history| history.last().cloned()).collect();
        }
    }
    let mut story = String::new();
    for (browser, history) in browsers.iter().zip(&histories) {
        for sample in history {
            story.push_str(&format!(
                "{:>8.0} ms {}: encoded {}, decoded {}, lost {}, bytes {}, rtt {}\n",
                number(sample, "milliseconds"),
                sample["state"],
                sample["framesEncoded"],
                sample["framesDecoded"],
                sample["packetsLost"],
                sample["bytesReceived"],
                sample["roundTripTime"]
            ));
        }
        let last = history.last().unwrap_or(&Value::Null);
        story.push_str(&format!("local {}\nremote {}\n", last["local"], last["remote"]));
        story.push_str(&format!(
            "errors {}\nconsole {}\n",
            last["candidateErrors"],
            browser.console()
        ));
    }
    panic!("not {FRAMES_PER_SECOND} frames a second over {MEASURED:?} within {LIMIT:?}:\n{story}");
}

/// Whether the last five seconds had enough frames, encoded and decoded.
fn is_smooth(history: &[Value]) -> bool {
    let Some(last) = history.last() else { return false };
    let window = MEASURED.as_secs_f64() * 1000.0;
    let age = |sample: &Value| number(last, "milliseconds") - number(sample, "milliseconds");
    let Some(first) = history.iter().rev().find(|sample| age(sample) >= window) else {
        return false;
    };
    ["framesEncoded", "framesDecoded"].iter().all(|counter| {
        let frames = number(last, counter) - number(first, counter);
        frames / (age(first) / 1000.0) >= FRAMES_PER_SECOND
    })
}

fn number(sample: &Value, name: &str) -> f64 {
    sample[name]
        .as_f64()
        .unwrap_or_else(|| panic!("{name} is no number in {sample:#}"))
}

/// Checks that the selected pair starts at a relayed transport address of ours, reached over one of
/// `protocols`.
pub(crate) fn assert_relayed(sample: &Value, protocols: &[&str]) {
    let local = &sample["local"];
    assert_eq!(sample["state"], "connected", "{sample:#}");
    assert_eq!(local["candidateType"], "relay", "{sample:#}");
    assert!(
        protocols.iter().any(|protocol| local["relayProtocol"] == *protocol),
        "{sample:#}"
    );
    assert_eq!(local["address"], RELAY.to_string(), "{sample:#}");
    let port = local["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    assert!(port.is_some_and(|port| RELAY_PORTS.contains(&port)), "{sample:#}");
}
