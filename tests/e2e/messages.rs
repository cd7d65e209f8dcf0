//! coturn's client counts messages through the relay, to a peer that records their sources.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use crate::certs::Certs;
use crate::lab::{Firewall, Lab, Namespace, RELAY, RELAY_HOST, SFU};
use crate::one_at_a_time;
use crate::process::{Output, Process, tail};
use crate::server::{RELAY_PORTS, SECRET, Server};

// Many clients with few messages each. On a busy machine coturn's client falls behind and then
// sends in bursts without reading, and its socket buffer holds some 170 messages. Its own losses
// must not look like the relay's.
const CLIENTS: usize = 100;
const MESSAGES_PER_CLIENT: usize = 100;
/// All these clients are one user at one address, and arrive within a second.
const SETTINGS: &str = "
[turn.compat]
rfc5766_channels = true  # coturn's client draws its channel numbers up to 0x7FFF

[limits]
allocations_per_user = 300
allocations_per_ip = 300
challenges_per_second = 1000
challenge_burst = 1000
";
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn coturns_client_loses_none_of_10000_messages_over_udp() {
    let _turn = one_at_a_time();
    relay_10000_messages(&[]);
}

#[test]
fn coturns_client_loses_none_of_10000_messages_over_tcp() {
    let _turn = one_at_a_time();
    relay_10000_messages(&["-t"]);
}

//= XPORT-01
#[test]
fn coturns_client_loses_none_of_10000_messages_over_dtls() {
    let _turn = one_at_a_time();
    relay_10000_messages(&["-S"]);
}

/// coturn's client draws two channel numbers for each allocation. One time in eighty it draws the
/// same number for two peers of one allocation, which no server grants, and gives up. That is no
/// failure, and the run is repeated.
fn relay_10000_messages(flags: &[&str]) {
    let relayed = (0..4).any(|_| are_relayed(flags));
    assert!(relayed, "four times in a row the client drew a channel number twice");
}

/// `false`: the client drew a channel number twice.
fn are_relayed(flags: &[&str]) -> bool {
    let lab = Lab::new(Firewall::Open, &["turnutils_uclient"]);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let server = Server::start_with(&lab, &certs, SETTINGS);
    let peer = Peer::start(lab.sfu());

    let mut command = lab.client(0).command("turnutils_uclient");
    // -c: no second allocation for RTCP; -W: coturn's client makes the time-limited credential
    // itself.
    command
        .args(flags)
        .args(["-v", "-c", "-X", "-p", "443", "-u", "e2e", "-W", SECRET]);
    command.args(["-e", &SFU.to_string(), "-r", &peer.port.to_string()]);
    command.args([
        "-m",
        &CLIENTS.to_string(),
        "-n",
        &MESSAGES_PER_CLIENT.to_string(),
        "-l",
        "160",
        "-z",
        "20",
    ]);
    command.arg(RELAY.to_string());
    let mut client = Process::start("uclient", lab.folder(), command, Output::Log);
    let status = client
        .wait(LIMIT)
        .unwrap_or_else(|| panic!("not over within {LIMIT:?}:\n{}", tail(&client.log(), 20)));

    let log = client.log();
    let last = tail(&log, 20);
    if !status.success() && last.contains("channel bind: error 400") {
        server.stop();
        return false;
    }
    assert!(status.success(), "{status}:\n{last}");
    let total = CLIENTS * MESSAGES_PER_CLIENT;
    let counts = format!("tot_send_msgs={total}, tot_recv_msgs={total}");
    assert!(
        log.contains(&counts) && log.contains("Total lost packets 0 "),
        "`{counts}` was expected:\n{last}\n{}",
        whereabouts(&lab, &server, &peer)
    );

    // coturn's client makes each allocation twice, once as a trial; the second carries the
    // messages.
    let announced = relayed_addresses(&log);
    let sources = peer.sources();
    assert_eq!(
        sources.len(),
        CLIENTS,
        "one relayed transport address for each client: {sources:?}"
    );
    assert!(
        sources.is_subset(&announced),
        "the peer sees announced addresses only: {sources:?} {announced:?}"
    );
    for address in &sources {
        assert_eq!(address.ip(), IpAddr::V4(RELAY));
        assert!(RELAY_PORTS.contains(&address.port()), "{address}");
    }
    server.stop();
    true
}

/// All places that count lost messages.
fn whereabouts(lab: &Lab, server: &Server, peer: &Peer) -> String {
    let mut text = format!("the peer took {} messages\n", peer.received.load(Ordering::Relaxed));
    for namespace in [lab.client(0), lab.relay(), lab.sfu()] {
        let counters = namespace
            .within(|| fs::read_to_string("/proc/thread-self/net/snmp"))
            .unwrap_or_default();
        let udp: Vec<&str> = counters.lines().filter(|line| line.starts_with("Udp:")).collect();
        text.push_str(&format!("{}:\n{}\n", namespace.name(), udp.join("\n")));
    }
    text + &server.losses()
}

/// The addresses that coturn's client reports.
fn relayed_addresses(log: &str) -> BTreeSet<SocketAddr> {
    let told = log.lines().filter_map(|line| line.split_once("relay addr: "));
    told.filter_map(|(_, address)| address.trim().parse().ok()).collect()
}

/// Sends every datagram back and records its source.
struct Peer {
    port: u16,
    received: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<BTreeSet<SocketAddr>>>,
}

impl Peer {
    fn start(namespace: &Namespace) -> Self {
        let socket = namespace
            .within(|| UdpSocket::bind((SFU, 0)))
            .expect("the namespace has this address");
        // All clients share it. The default buffer holds what arrives in an eighth of a second, and
        // on a busy machine the peer may wait longer. The peer's own losses would look like the
        // relay's.
        setsockopt(&socket, RcvBufForce, &(16 << 20)).expect("root may choose the size");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout that is not zero");
        let port = socket.local_addr().expect("a bound socket has an address").port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let received = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&received);
        let thread = thread::spawn(move || {
            let mut sources = BTreeSet::new();
            let mut datagram = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                match socket.recv_from(&mut datagram) {
                    Ok((length, source)) => {
                        sources.insert(source);
                        count.fetch_add(1, Ordering::Relaxed);
                        socket
                            .send_to(&datagram[..length], source)
                            .expect("the way back is open");
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => panic!("the peer's socket: {error}"),
                }
            }
            sources
        });
        Self {
            port,
            received,
            stop,
            thread: Some(thread),
        }
    }

    /// Stops it and returns the senders.
    fn sources(mut self) -> BTreeSet<SocketAddr> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .expect("stopped once")
            .join()
            .expect("the peer did not fail")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
