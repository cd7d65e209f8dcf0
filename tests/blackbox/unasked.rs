//! Unsolicited messages from the server, to pion, coturn's client and OpenSSL: the table is in
//! docs/conformance.md, "What the server sends unasked". Browsers, aiortc and libnice are in
//! `tests/e2e/unasked.rs`.

use std::io::Read as _;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use relay::base::address::Transport;

use crate::client::PATIENCE;
use crate::harness::{SECRET, Server, minted};
use crate::pion::{Pion, VERSIONS};
use crate::programs;

const TRANSPORTS: [Transport; 4] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls];

fn address(server: &Server, transport: Transport) -> SocketAddr {
    match transport {
        Transport::Udp | Transport::Tcp => server.plain,
        Transport::Tls | Transport::Dtls => server.tls,
    }
}

/// A peer that sends continuously, so that a datagram directly follows every ChannelBind: empty,
/// short, and longer ones.
struct Flood {
    socket: UdpSocket,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Flood {
    fn start(to: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.2:0").expect("a free port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, stopped) = (socket.try_clone().expect("a second handle"), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for len in [0, 1, 2, 3, 4, 0, 5, 160].into_iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                sender.send_to(&[0xff; 160][..len], to).expect("loopback");
                thread::sleep(Duration::from_micros(500));
            }
        });
        Self { socket, stop, thread }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    /// Ends the flood and returns the socket.
    fn stop(self) -> UdpSocket {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the flood did not fail");
        self.socket
    }
}

const BOUND: &str = "method=\"channel_bind\"";

#[test]
fn pion_goes_on_where_data_comes_at_the_heels_of_a_channel_bind() {
    let server = Server::start();
    for version in VERSIONS {
        for transport in TRANSPORTS {
            let mut pion = Pion::connect(version, transport, address(&server, transport), "");
            let relayed = pion.allocate();
            let bound = server.metric("relay_requests_total", BOUND);
            let flood = Flood::start(relayed);
            let peer = flood.address();
            // pion permits the peer, sends, and binds a channel after that.
            pion.send(peer, b"hello");
            server.wait_for_metric_of_at_least("relay_requests_total", BOUND, bound + 1.0);
            let socket = flood.stop();
            socket.send_to(b"the end of it", relayed).expect("loopback");
            pion.expect_data(peer, b"the end of it");
            let mut data = [0; 64];
            let (len, from) = socket.recv_from(&mut data).expect("what pion sent");
            assert_eq!((&data[..len], from), (&b"hello"[..], relayed));
            pion.call("close");
        }
    }
}

/// coturn's client gets ICMP indications here, which are off by default, until the peer's port
/// opens. Then that peer sends it empty and short datagrams before each echo. Not over TLS, where
/// coturn's client loses framing by itself.
#[test]
fn coturns_client_goes_on_after_icmp_and_among_datagrams_it_does_not_expect() {
    // A run takes ten seconds, because coturn's client waits long for lost messages.
    thread::scope(|scope| {
        for (transport, flags) in [("udp", &[][..]), ("tcp", &["-t"]), ("dtls", &["-S"])] {
            scope.spawn(move || coturns_client_goes_on(transport, flags));
        }
    });
}

fn coturns_client_goes_on(transport: &str, flags: &[&str]) {
    let server = Server::start_with(
        "[peers]\nallow = [\"127.0.0.2/32\"]\n\n[turn]\nicmp = \"always\"\ncompat.rfc5766_channels = true\n",
    );
    let closed = closed_port();
    let login = minted(SECRET, 600, "coturn");
    let at = if transport == "dtls" { server.tls } else { server.plain };
    let (ip, port, peer_port) = (at.ip().to_string(), at.port().to_string(), closed.port().to_string());
    let told = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let rest = [
                "-c",
                "-n",
                "150",
                "-z",
                "20",
                "-l",
                "160",
                "-e",
                "127.0.0.2",
                "-r",
                &peer_port,
            ];
            let whom = ["-u", &login.username, "-w", &login.password, "-p", &port, &ip];
            programs::run("turnutils_uclient", &[flags, &rest, &whom].concat())
        });
        server.wait_for_metric_of_at_least("relay_icmp_errors_total", "", 5.0);
        let peer = UdpSocket::bind(closed).expect("still free");
        peer.set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout");
        let mut datagram = [0; 2048];
        while !client.is_finished() {
            if let Ok((len, from)) = peer.recv_from(&mut datagram) {
                for odd in [0, 1, 2, 3, 5] {
                    peer.send_to(&[0xff; 5][..odd], from).expect("loopback");
                }
                peer.send_to(&datagram[..len], from).expect("loopback");
            }
        }
        client.join().expect("it ran")
    });
    let counts = told
        .lines()
        .filter_map(|line| line.split_once("tot_recv_msgs="))
        .next_back();
    let received = counts.and_then(|(_, rest)| rest.split(',').next()?.trim().parse::<u32>().ok());
    assert!(received.is_some_and(|received| received >= 20), "{transport}: {told}");
}

/// A port of a peer without a listener: it answers with ICMP port unreachable.
fn closed_port() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.2:0").expect("a free port");
    socket.local_addr().expect("bound")
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// No allocation for `limits.idle_timeout`.
    Idle,
    /// The server stops.
    Shutdown,
}

/// OpenSSL distinguishes a truncated stream ("unexpected eof while reading") from an ended one, and
/// so may others.
#[test]
fn pion_and_openssl_see_an_orderly_end_of_every_connection() {
    for end in [End::Idle, End::Shutdown] {
        // A client that has sent nothing since its handshake has the time limit for its first
        // bytes.
        let limits = match end {
            End::Idle => "idle_timeout = \"1s\"\nhandshake_timeout = \"4s\"",
            End::Shutdown => "idle_timeout = \"1h\"\nhandshake_timeout = \"30s\"",
        };
        let server = Server::start_with(&format!("[limits]\n{limits}\n"));
        let mut clients = Vec::new();
        for version in VERSIONS {
            for transport in TRANSPORTS {
                let mut pion = Pion::connect(version, transport, address(&server, transport), "");
                if end == End::Shutdown {
                    pion.allocate();
                }
                clients.push((version, transport, pion));
            }
        }
        let mut openssl = ["-tls1_2", "-tls1_3", "-dtls1_2"].map(|protocol| SClient::start(protocol, server.tls));
        for client in &mut openssl {
            client.wait_for("Verify return code");
        }
        if end == End::Shutdown {
            server.signal(Signal::SIGTERM);
        }
        for (version, transport, pion) in &mut clients {
            if *transport != Transport::Udp {
                let ended = pion.wait_for("the end", |line| line["event"] == "ended");
                assert_eq!(ended["error"], "EOF", "{end:?}: version {version} over {transport}");
            }
            // Over UDP clients are not informed. The client's next request fails, and it ends
            // anyway.
            assert!(pion.try_call("close").is_object());
        }
        for client in openssl {
            client.assert_closed();
        }
    }
}

/// `openssl s_client` with its input open, so that only the server ends the connection.
struct SClient {
    child: Child,
    told: Arc<Mutex<String>>,
    protocol: &'static str,
}

impl SClient {
    fn start(protocol: &'static str, server: SocketAddr) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-state", protocol, "-connect", &server.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("openssl: {error}"));
        let told = Arc::default();
        let outputs: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for mut output in outputs {
            let told: Arc<Mutex<String>> = Arc::clone(&told);
            // Ends with the program, which holds the other end of the pipe.
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(len @ 1..) = output.read(&mut buffer) {
                    told.lock()
                        .expect("no panic")
                        .push_str(&String::from_utf8_lossy(&buffer[..len]));
                }
            });
        }
        Self { child, told, protocol }
    }

    fn told(&self) -> String {
        self.told.lock().expect("no panic").clone()
    }

    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.told().contains(text) {
            assert!(
                Instant::now() < deadline,
                "{}: waited for {text:?}: {}",
                self.protocol,
                self.told()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// It saw the end of the connection, and ended without an error.
    fn assert_closed(mut self) {
        self.wait_for("alert read:warning:close notify");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "{}: waited for its end: {}",
                self.protocol,
                self.told()
            );
            thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{}: {status}: {}", self.protocol, self.told());
    }
}

impl Drop for SClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
