//! pion's TURN client (tests/pion) in the versions in use, which LiveKit, rtcd and other Go
//! programs contain.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use relay::base::address::Transport;
use serde_json::Value;

use crate::harness::{EchoPeer, SECRET, Server, minted};
use crate::tcp_allocations::{accept, peer_connects};

/// Time limit of every step.
const PATIENCE: Duration = Duration::from_secs(20);

/// Major versions: v2 and v3 use pion/dtls v2 for DTLS, the others v3.
pub(crate) const VERSIONS: [u8; 4] = [2, 3, 4, 5];

/// One running client.
pub(crate) struct Pion {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    /// Events that arrived while waiting for another one.
    waiting: Vec<Value>,
    name: String,
}

impl Pion {
    /// Starts version `version` of pion/turn and connects to `server`. Over TLS and DTLS it sends
    /// `server_name` unless that is empty.
    pub(crate) fn connect(version: u8, transport: Transport, server: SocketAddr, server_name: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/tools/pion/turn{version}"));
        assert!(
            program.exists(),
            "{} is missing: `tests/install-pion` makes it",
            program.display()
        );
        let transport = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Dtls => "dtls",
        };
        let login = minted(SECRET, 600, "pion");
        let mut child = Command::new(&program)
            .args(["-server", &server.to_string(), "-transport", transport])
            .args(["-server-name", server_name, "-realm", "relay.test"])
            .args(["-user", &login.username, "-password", &login.password])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let commands = child.stdin.take().expect("piped");
        let output = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        // Ends with the program, which holds the other end of the pipe.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut pion = Self {
            child,
            commands,
            lines,
            waiting: Vec::new(),
            name: format!("pion/turn v{version} over {transport}"),
        };
        pion.wait_for("a connection", |line| line["event"] == "connected");
        pion
    }

    /// Executes one command, or returns why it failed.
    pub(crate) fn try_call(&mut self, command: &str) -> Value {
        writeln!(self.commands, "{command}").unwrap_or_else(|error| panic!("{}: {command}: {error}", self.name));
        let word = command.split(' ').next();
        self.wait_for(command, |line| line["reply"].as_str() == word)
    }

    /// Executes one command; panics if it fails.
    pub(crate) fn call(&mut self, command: &str) -> Value {
        let reply = self.try_call(command);
        assert!(reply["error"].is_null(), "{}: {command}: {}", self.name, reply["error"]);
        reply
    }

    /// Allocates; returns the relayed transport address.
    pub(crate) fn allocate(&mut self) -> SocketAddr {
        relayed(&self.call("allocate"))
    }

    /// Permits `peer`, without a channel.
    pub(crate) fn permit(&mut self, peer: SocketAddr) {
        self.call(&format!("permit {peer}"));
    }

    /// Sends to a peer: pion creates a permission before it, and a channel after it.
    pub(crate) fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        self.call(&format!("send {peer} {}", hex(data)));
    }

    /// Waits for `data` from `peer`.
    pub(crate) fn expect_data(&mut self, peer: SocketAddr, data: &[u8]) {
        let (from, data) = (peer.to_string(), hex(data));
        self.wait_for(&format!("{data} from {peer}"), |line| {
            line["event"] == "data" && line["from"] == from && line["data"] == data
        });
    }

    /// Sends over a stream of a TCP allocation, whose other end is `peer`, and back.
    fn echoes_on(&mut self, stream: i64, mut peer: TcpStream) {
        let text = format!("over stream {stream}");
        self.call(&format!("write {stream} {}", hex(text.as_bytes())));
        let mut read = vec![0; text.len()];
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        peer.read_exact(&mut read).expect("what pion wrote");
        assert_eq!(read, text.as_bytes());
        peer.write_all(b"back").expect("the stream is open");
        let name = format!("an answer on stream {stream}");
        self.wait_for(&name, |line| line["stream"] == stream && line["data"] == hex(b"back"));
    }

    /// The first line that is `wanted`, among the skipped ones and the next ones.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.waiting.iter().position(&wanted) {
            return self.waiting.remove(index);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| {
                panic!("{}: waited for {what} ({error}); it said {:?}", self.name, self.waiting)
            });
            let line: Value = serde_json::from_str(&line).expect("it answers in JSON");
            assert!(line["event"] != "failed", "{}: {line}", self.name);
            if wanted(&line) {
                return line;
            }
            self.waiting.push(line);
        }
    }
}

impl Drop for Pion {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn relayed(reply: &Value) -> SocketAddr {
    let address = reply["relayed"].as_str().expect("an address");
    address.parse().expect("an address")
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn address(server: &Server, transport: Transport) -> SocketAddr {
    match transport {
        Transport::Udp | Transport::Tcp => server.plain,
        Transport::Tls | Transport::Dtls => server.tls,
    }
}

/// A port of a peer without a listener: it answers with ICMP port unreachable.
fn closed_port() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.2:0").expect("a free port");
    socket.local_addr().expect("bound")
}

#[test]
fn every_version_of_pion_relays_over_every_transport_with_and_without_a_server_name() {
    let server = Server::start();
    let echo = EchoPeer::start();
    for version in VERSIONS {
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls] {
            for name in ["", "relay.test", "elsewhere.test"] {
                let mut pion = Pion::connect(version, transport, address(&server, transport), name);
                pion.allocate();
                // The first comes back in a Data indication or on the channel, depending on timing,
                // the later ones on the channel. pion v2 and v3 hold back ChannelData of up to four
                // bytes from a stream until more arrives.
                for len in [5, 6, 7, 8, 160, 1199, 1200] {
                    pion.send(echo.address, &[len as u8; 1200][..len]);
                    pion.expect_data(echo.address, &[len as u8; 1200][..len]);
                }
                pion.call("close");
            }
        }
    }
}

//= TURN-NET-08
#[test]
fn a_peer_port_that_answers_with_icmp_leaves_pion_reading() {
    let server = Server::start();
    let peer = UdpSocket::bind("127.0.0.2:0").expect("a free port");
    for version in VERSIONS {
        for transport in [Transport::Udp, Transport::Tcp] {
            let mut pion = Pion::connect(version, transport, address(&server, transport), "");
            let relayed = pion.allocate();
            pion.permit(peer.local_addr().expect("bound"));
            let before = server.metric("relay_icmp_errors_total", "");
            pion.send(closed_port(), b"anybody there?");
            server.wait_for_metric_of_at_least("relay_icmp_errors_total", "", before + 1.0);
            peer.send_to(b"still here?", relayed).expect("loopback");
            pion.expect_data(peer.local_addr().expect("bound"), b"still here?");
            pion.call("close");
        }
    }
}

/// Empty application data is a DATA attribute, or a ChannelData message, of no bytes.
#[test]
fn empty_and_long_datagrams_of_peers_leave_pion_reading() {
    let server = Server::start();
    let peer = UdpSocket::bind("127.0.0.2:0").expect("a free port");
    let from = peer.local_addr().expect("bound");
    for version in VERSIONS {
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls] {
            let mut pion = Pion::connect(version, transport, address(&server, transport), "relay.test");
            let relayed = pion.allocate();
            // First by Data indications, then by a channel, which pion binds after it sends.
            pion.permit(from);
            for round in 0..2u8 {
                for len in [0, 1, 0, 0, 1300, 0, 1200] {
                    peer.send_to(&[round; 1300][..len], relayed).expect("loopback");
                }
                pion.expect_data(from, &[round; 1300]);
                pion.expect_data(from, &[round; 1200]);
                pion.send(from, b"a channel, please");
                // For the ChannelBind, which cannot be observed. If it were late, the second round
                // would repeat the first.
                thread::sleep(Duration::from_millis(100));
            }
            pion.call("close");
        }
    }
}

/// pion sends ConnectionBind on a separate connection with the nonce of the control connection, and
/// does not retry.
//= STUN-AUTH-05
#[test]
fn pion_dials_and_accepts_through_a_tcp_allocation() {
    let server = Server::start_with(
        "[peers]\nallow = [\"127.0.0.2/32\"]\n\n[turn.tcp_allocations]\nenabled = true\nconnections_per_allocation = 11\n",
    );
    // One connection at a time to each peer (RFC 6062 §4.3).
    let listeners = [(); 10].map(|()| TcpListener::bind("127.0.0.2:0").expect("a free port"));
    for version in VERSIONS {
        let mut pion = Pion::connect(version, Transport::Tcp, server.plain, "");
        let relayed = relayed(&pion.call("allocate-tcp"));
        for (stream, listener) in (0..).zip(&listeners) {
            let peer = listener.local_addr().expect("bound");
            assert_eq!(pion.call(&format!("dial {peer}"))["stream"], stream);
            let (accepted, _) = accept(listener);
            pion.echoes_on(stream, accepted);
        }
        // The permission that Connect left admits the peer: a ConnectionAttempt indication.
        let connected = peer_connects(relayed);
        assert_eq!(pion.call("accept")["stream"], 10);
        pion.echoes_on(10, connected);
        pion.call("close");
    }
}
