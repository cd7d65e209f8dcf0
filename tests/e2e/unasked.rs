//! What the server sends without being asked, to every WebRTC stack there is: docs/conformance.md, "What the server sends
//! unasked", has the table. pion, coturn's client and OpenSSL are in `tests/blackbox/unasked.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::agent::{Agent, Stack};
use crate::calls::only;
use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::firefox::Firefox;
use crate::janus::Janus;
use crate::lab::{Firewall, Lab, RELAY_HOST, SFU};
use crate::one_at_a_time;
use crate::page::Page;
use crate::relay::Relay;

/// A port of the SFU's machine nobody listens on: it answers with ICMP port unreachable.
const CLOSED: u16 = 4999;
/// A port of the SFU's machine that nobody has told the client of: it has a permission, because it has the address, and
/// no channel.
const STRANGER: u16 = 7777;
/// How long what is injected is. aiortc ends a call at an empty datagram of its peer, with or without a relay: it looks at
/// the first byte.
const EMPTY: &[u16] = &[0, 1, 2, 3, 0, 4, 5, 0, 700];
const NOT_EMPTY: &[u16] = &[1, 2, 3, 4, 5, 700];
/// First byte of what is injected: no STUN, no DTLS, no RTP, no ChannelData (RFC 7983).
const FILL: u8 = 0xff;
/// Frames decoded that show that media flows.
const FRAMES: u64 = 30;

#[test]
fn chromium_goes_on_through_whatever_peers_send_and_ends_with_the_server() {
    goes_on_and_ends(
        &["chromium", "certutil", "janus"],
        EMPTY,
        |lab, certs| Box::new(Chromium::start(lab, 0, certs)),
        &[("turn", "udp"), ("turn", "tcp"), ("turns", "tcp")],
    );
}

#[test]
fn firefox_goes_on_through_whatever_peers_send_and_ends_with_the_server() {
    goes_on_and_ends(
        &["firefox-esr", "certutil", "janus"],
        EMPTY,
        |lab, certs| Box::new(Firefox::start(lab, 0, certs)),
        &[("turn", "udp"), ("turn", "tcp"), ("turns", "tcp")],
    );
}

#[test]
fn aiortc_goes_on_through_whatever_peers_send_and_ends_with_the_server() {
    goes_on_and_ends(
        Stack::Aiortc.programs(),
        NOT_EMPTY,
        |lab, certs| Box::new(Agent::start(lab, 0, certs, Stack::Aiortc)),
        &[("turn", "udp"), ("turn", "tcp"), ("turns", "tcp")],
    );
}

// Its TLS is plain TCP.
#[test]
fn gstreamer_goes_on_through_whatever_peers_send_and_ends_with_the_server() {
    goes_on_and_ends(
        Stack::GStreamer.programs(),
        EMPTY,
        |lab, certs| Box::new(Agent::start(lab, 0, certs, Stack::GStreamer)),
        &[("turn", "udp"), ("turn", "tcp")],
    );
}

/// One call with the SFU's echo test over each of `ways`. From before the client has a permission, and so also at the heels
/// of its ChannelBind, the SFU's address sends it datagrams of no byte and of few. One of the candidates it is told leads
/// to ICMP errors, which are sent to everybody here. The last call is on when the server stops.
fn goes_on_and_ends(
    programs: &[&str],
    lens: &'static [u16],
    start: impl FnOnce(&Lab, &Certs) -> Box<dyn Page>,
    ways: &[(&str, &str)],
) {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::Open, programs);
    // aiortc would go there by itself.
    lab.add_rules(
        "past-the-relay",
        &format!(
            "table ip past {{ chain forward {{
               type filter hook forward priority -1; policy accept;
               ip saddr 192.0.2.0/24 ip daddr {SFU} drop;
             }}
             }}"
        ),
    );
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let relay = Relay::start_with(&lab, &certs.settings(), "", &[("RELAY__TURN__ICMP", "always")]);
    let mut janus = Janus::start(&lab);
    let mut client = start(&lab, &certs);
    let mut last = None;
    for (scheme, transport) in ways {
        let way = format!("{scheme} over {transport}");
        if last.is_some() {
            janus.attach();
        }
        let uri = format!("{scheme}:{RELAY_HOST}:443?transport={transport}");
        let configuration = only(&uri, &relay.mint_configuration());
        let offer = client.call_page("offer", &[&configuration]);
        let offer = offer.as_str().expect("an offer is text");
        let answer = janus.answer(offer);
        let sfu_ports = candidates(&answer).into_iter().map(|address| address.port());
        let injector = Injector::start(&lab, sfu_ports.chain([STRANGER]).collect(), candidates(offer), lens);
        let icmp = relay.metric("relay_icmp_errors_total");
        client.call_page("accept", &[&Value::from(with_closed_candidate(&answer))]);
        let first = wait_for_frames(&mut *client, &way, FRAMES);

        // What is injected reaches the client now: media alone is no hundred packets in so short a time.
        let down = || relay.metric_sum("relay_traffic_packets_total", "direction=\"down\"");
        let (before, since) = (down(), Instant::now());
        while down() < before + 500.0 {
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{way}: what is injected is relayed"
            );
            thread::sleep(Duration::from_millis(20));
        }
        let since = Instant::now();
        while relay.metric("relay_icmp_errors_total") <= icmp {
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{way}: the closed port answers with ICMP"
            );
            thread::sleep(Duration::from_millis(20));
        }
        injector.stop();
        wait_for_frames(&mut *client, &way, first + FRAMES);
        last = Some(way);
    }
    relay.stop();
    // It may take its time to notice, but it is there and says so.
    let sample = client.call_page("sample", &[]);
    assert!(sample["state"].is_string(), "{sample}");
}

/// Waits until the client has decoded so many frames; returns how many there are.
fn wait_for_frames(client: &mut dyn Page, way: &str, frames: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let sample = client.call_page("sample", &[]);
        match sample["framesDecoded"].as_u64() {
            Some(decoded) if decoded >= frames => return decoded,
            _ => assert!(
                Instant::now() < deadline,
                "{way}: waited for {frames} frames: {sample:#}\n{}",
                client.console()
            ),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// `a=candidate:FOUNDATION COMPONENT TRANSPORT PRIORITY ADDRESS PORT …` (RFC 8839 §5.1).
fn candidates(sdp: &str) -> Vec<SocketAddr> {
    let lines = sdp.lines().filter_map(|line| line.strip_prefix("a=candidate:"));
    let address = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        Some(SocketAddr::new(
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
        ))
    };
    let mut all: Vec<SocketAddr> = lines.filter_map(address).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// `answer` with one more candidate beside each of its own, to be tried first.
fn with_closed_candidate(answer: &str) -> String {
    let closed = format!("a=candidate:99 1 udp 2130706431 {SFU} {CLOSED} typ host\r\n");
    let mut told = String::new();
    for line in answer.split_inclusive('\n') {
        told.push_str(line);
        if line.starts_with("a=candidate:") {
            told.push_str(&closed);
        }
    }
    assert!(told.contains(&closed), "the SFU tells a candidate:\n{answer}");
    told
}

/// Sends from ports of the SFU's machine, whoever has them, until it is stopped.
struct Injector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Injector {
    fn start(lab: &Lab, from: Vec<u16>, to: Vec<SocketAddr>, lens: &'static [u16]) -> Self {
        // The system adds the IP header; the UDP header is ours.
        let socket = lab
            .sfu()
            .within(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)))
            .expect("root may open raw sockets");
        assert!(!from.is_empty() && !to.is_empty(), "{from:?} {to:?}");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for &len in lens.iter().cycle() {
                for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))) {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let to_raw = SocketAddr::new(to.ip(), 0);
                    let sending = socket.send_to(&udp(from, to.port(), len), &to_raw.into());
                    sending.expect("the way to the relay is open");
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the injector did not fail");
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A UDP datagram without a checksum, which IPv4 allows.
fn udp(from: u16, to: u16, len: u16) -> Vec<u8> {
    let mut datagram = Vec::new();
    for field in [from, to, len + 8, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.resize(usize::from(len) + 8, FILL);
    datagram
}
