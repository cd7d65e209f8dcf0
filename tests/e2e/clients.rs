//! WebRTC stacks other than Chromium's, each over the transports it speaks, on port 443, to the
//! SFU's echo test.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::{Agent, Stack};
use crate::calls::{call_echo, only};
use crate::certs::Certs;
use crate::firefox::Firefox;
use crate::janus::Janus;
use crate::lab::{Firewall, Lab, Passed, RELAY, RELAY_HOST};
use crate::one_at_a_time;
use crate::server::{RELAY_PORTS, Server};

/// Two seconds of video, decoded after it went out and came back.
const FRAMES: u64 = 60;

//= VEC-07
#[test]
fn firefox_reaches_the_sfu_over_tls() {
    firefox_calls(Firewall::OnlyTcp443, "turns", "tcp", "tls");
}

//= VEC-07
#[test]
fn firefox_reaches_the_sfu_over_tcp() {
    firefox_calls(Firewall::OnlyTcp443, "turn", "tcp", "tcp");
}

//= VEC-07
#[test]
fn firefox_reaches_the_sfu_over_udp() {
    firefox_calls(Firewall::OnlyUdp443, "turn", "udp", "udp");
}

//= VEC-07
#[test]
fn aiortc_reaches_the_sfu_over_tls() {
    agent_calls(Stack::Aiortc, Firewall::OnlyTcp443, "turns", "tcp");
}

//= VEC-07
#[test]
fn aiortc_reaches_the_sfu_over_tcp() {
    agent_calls(Stack::Aiortc, Firewall::OnlyTcp443, "turn", "tcp");
}

//= VEC-07
#[test]
fn aiortc_reaches_the_sfu_over_udp() {
    agent_calls(Stack::Aiortc, Firewall::OnlyUdp443, "turn", "udp");
}

// libnice sends plain STUN over TCP when TLS is requested, so the same port must accept both.
//= VEC-07
//= COMPAT-01
#[test]
fn gstreamer_reaches_the_sfu_with_what_it_takes_for_tls() {
    agent_calls(Stack::GStreamer, Firewall::OnlyTcp443, "turns", "tcp");
}

//= VEC-07
#[test]
fn gstreamer_reaches_the_sfu_over_tcp() {
    agent_calls(Stack::GStreamer, Firewall::OnlyTcp443, "turn", "tcp");
}

//= VEC-07
#[test]
fn gstreamer_reaches_the_sfu_over_udp() {
    agent_calls(Stack::GStreamer, Firewall::OnlyUdp443, "turn", "udp");
}

fn firefox_calls(firewall: Firewall, scheme: &str, transport: &str, relay_protocol: &str) {
    let _turn = one_at_a_time();
    let lab = Lab::new(firewall, &["firefox-esr", "certutil", "janus"]);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let server = Server::start(&lab, &certs);
    let mut janus = Janus::start(&lab);
    let mut browser = Firefox::start(&lab, 0, &certs);

    let configuration = only(&uri(scheme, transport), &server.mint_configuration());
    call_echo(&mut browser, &mut janus, &configuration, &[relay_protocol]);
    assert_only_port_443(lab.passed(), firewall);
    server.stop();
}

/// These report nothing about their candidate pairs. Two facts show that the media was relayed: the
/// offer contains only relayed addresses, and the router let nothing but port 443 through.
fn agent_calls(stack: Stack, firewall: Firewall, scheme: &str, transport: &str) {
    let _turn = one_at_a_time();
    let lab = Lab::new(firewall, stack.programs());
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let server = Server::start(&lab, &certs);
    let mut janus = Janus::start(&lab);
    let mut agent = Agent::start(&lab, 0, &certs, stack);

    let configuration = only(&uri(scheme, transport), &server.mint_configuration());
    let offer = agent.call("offer", &[&configuration]);
    let offer = offer.as_str().expect("an offer is text");
    assert_offers_relayed_addresses_only(offer);
    let answer = janus.answer(offer);
    agent.call("accept", &[&Value::from(answer)]);

    let deadline = Instant::now() + Duration::from_secs(45);
    loop {
        let sample = agent.call("sample", &[]);
        if sample["framesDecoded"].as_u64().is_some_and(|frames| frames >= FRAMES) {
            assert_eq!(sample["state"], "connected", "{sample}");
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{FRAMES} frames were expected by now: {sample}"
        );
        thread::sleep(Duration::from_millis(200));
    }
    assert_only_port_443(lab.passed(), firewall);
    server.stop();
}

fn uri(scheme: &str, transport: &str) -> String {
    format!("{scheme}:{RELAY_HOST}:443?transport={transport}")
}

fn assert_offers_relayed_addresses_only(offer: &str) {
    let candidates: Vec<&str> = offer.lines().filter(|line| line.starts_with("a=candidate:")).collect();
    assert!(!candidates.is_empty(), "no candidate:\n{offer}");
    for candidate in candidates {
        // a=candidate:FOUNDATION COMPONENT TRANSPORT PRIORITY ADDRESS PORT typ TYPE … (RFC 8839
        // §5.1)
        let fields: Vec<&str> = candidate.split(' ').collect();
        assert_eq!(fields[4], RELAY.to_string(), "{candidate}");
        assert!(
            fields[5].parse().is_ok_and(|port| RELAY_PORTS.contains(&port)),
            "{candidate}"
        );
        assert_eq!(fields[6..8], ["typ", "relay"], "{candidate}");
    }
}

fn assert_only_port_443(passed: Passed, firewall: Firewall) {
    let (used, unused) = match firewall {
        Firewall::OnlyUdp443 => (passed.udp_443, passed.tcp_443),
        _ => (passed.tcp_443, passed.udp_443),
    };
    assert!(used > 100 && unused == 0 && passed.other == 0, "{passed:?}");
}
