//! Unsolicited messages from the server, to every WebRTC stack: the table is in
//! docs/conformance.md, "What the server sends unasked". pion, coturn's client and OpenSSL are in
//! `tests/blackbox/unasked.rs`.

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

/// A port of the SFU's machine without a listener: it answers with ICMP port unreachable.
const CLOSED: u16 = 4999;
/// A port of the SFU's machine that the client does not know. The client has a permission, because
/// that covers the address, and no channel.
const STRANGER: u16 = 7777;
/// Lengths of injected datagrams. aiortc ends a call at an empty datagram from its peer, with or
/// without a relay, because it reads the first byte.
const EMPTY: &[u16] = &[0, 1, 2, 3, 0, 4, 5, 0, 700];
const NOT_EMPTY: &[u16] = &[1, 2, 3, 4, 5, 700];
/// First byte of injected datagrams: not STUN, DTLS, RTP or ChannelData (RFC 7983).
const FILL: u8 = 0xff;
/// Decoded frames that show that media flows.
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

/// One call with the SFU's echo test over each of `ways`. From before the client has a permission,
/// and so also directly after its ChannelBind, the SFU's address sends it empty and short
/// datagrams. One of its remote candidates leads to ICMP errors, which every client gets here. The
/// last call is running when the server stops.
fn goes_on_and_ends(
    programs: &[&str],
    lens: &'static [u16],
    start: impl FnOnce(&Lab, &Certs) -> Box<dyn Page>,
    ways: &[(&str, &str)],
) {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::Open, programs);
    // aiortc would connect there directly.
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

        // Injected datagrams reach the client now: media alone is less than a hundred packets in
        // that time.
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
    // It may take time to notice, but it is alive and reports the end.
    let sample = client.call_page("sample", &[]);
    assert!(sample["state"].is_string(), "{sample}");
}

/// Waits until the client has decoded this many frames; returns the total.
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

/// `answer` with one more candidate beside each of its own, with a higher priority.
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

/// Sends from ports of the SFU's machine, whoever owns them, until it is stopped.
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
