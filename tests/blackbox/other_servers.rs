//! Checks the rules of `rules.rs` with the relay over every transport and IP version, or with
//! another server for comparison:
//!
//! ```sh
//! cargo test --test blackbox every_rule                                          # the relay
//! RELAY_BLACKBOX_SERVER=coturn cargo test --test blackbox every_rule -- --nocapture    # Debian's coturn
//! RELAY_BLACKBOX_SERVER=192.0.2.1:3478,192.0.2.1:5349 RELAY_BLACKBOX_USERS=alice:secret,bob:secret \
//!   RELAY_BLACKBOX_PEER=192.0.2.2 cargo test --test blackbox every_rule -- --nocapture  # any server
//! ```
//!
//! The relay must satisfy each rule. The results of others are printed as the table in
//! docs/conformance.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relay::base::address::Transport;

use crate::client::Login;
use crate::harness::{RELAY_IP, Server};
use crate::rule_actions::Target;
use crate::rules::{RULES, Rule};
use relay_testkit::folder::Folder;
use relay_testkit::ports::free_port;

const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];
const USERS: [(&str, &str); 2] = [("alice", "a long enough password"), ("bob", "another long password")];
const PEER: &str = "127.0.0.2";

fn users() -> [Login; 2] {
    USERS.map(|(name, password)| Login::new(name, password))
}

/// Observations of a rule, by transport.
type Seen = BTreeMap<&'static str, String>;

/// Checks every rule over every transport, transports in parallel.
fn look(target: &Target) -> Vec<(&'static Rule, Seen)> {
    let by_transport: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads = TRANSPORTS.map(|transport| {
            scope.spawn(move || {
                let one = |rule: &Rule| {
                    // With other servers, even the preparations of a rule may fail.
                    catch_unwind(AssertUnwindSafe(|| rule.look(target, transport)))
                        .unwrap_or_else(|_| "broke off".into())
                };
                RULES.iter().map(one).collect()
            })
        });
        threads
            .into_iter()
            .map(|thread| thread.join().expect("it catches panics"))
            .collect()
    });
    let seen = |n: usize| {
        TRANSPORTS
            .iter()
            .zip(&by_transport)
            .map(|(t, all)| (t.as_str(), all[n].clone()))
            .collect()
    };
    RULES.iter().enumerate().map(|(n, rule)| (rule, seen(n))).collect()
}

/// `udp, tcp: 400; tls: silent`, or a single word if all are equal.
fn in_words(seen: &Seen) -> String {
    let mut by_word: Vec<(&str, Vec<&str>)> = Vec::new();
    for transport in TRANSPORTS.map(Transport::as_str) {
        let word = seen[transport].as_str();
        match by_word.iter_mut().find(|(known, _)| *known == word) {
            Some((_, transports)) => transports.push(transport),
            None => by_word.push((word, vec![transport])),
        }
    }
    match &by_word[..] {
        [(word, _)] => (*word).to_owned(),
        several => {
            let parts = several
                .iter()
                .map(|(word, transports)| format!("{}: {word}", transports.join(", ")));
            parts.collect::<Vec<_>>().join("; ")
        }
    }
}

/// Table rows for results that differ from the rules.
fn differences(target: &Target) -> String {
    let mut rows = String::new();
    for (rule, seen) in look(target) {
        if seen.values().any(|word| word != rule.expected) {
            let Rule {
                id, asked, expected, ..
            } = rule;
            let _ = writeln!(rows, "| {id} | {asked} | {expected} | {} |", in_words(&seen));
        }
    }
    rows
}

//= STUN-BIND-01
//= STUN-BIND-04
//= STUN-BIND-03
//= STUN-BIND-07
//= STUN-MSG-06
//= STUN-MSG-07
//= STUN-MSG-08
//= STUN-MSG-14
//= STUN-MSG-16
//= STUN-MSG-19
//= STUN-AUTH-01
//= STUN-AUTH-16
//= STUN-AUTH-02
//= STUN-AUTH-03
//= STUN-AUTH-04
//= STUN-AUTH-05
//= STUN-AUTH-08
//= STUN-AUTH-11
//= STUN-AUTH-19
//= TURN-GEN-01
//= TURN-GEN-03
//= TURN-ALLOC-02
//= TURN-ALLOC-07
//= TURN-ALLOC-08
//= TURN-ALLOC-10
//= TURN-ALLOC-11
//= TURN-ALLOC-13
//= TURN-ALLOC-14
//= TURN-ALLOC-16
//= TURN-ALLOC-17
//= TURN-ALLOC-20
//= TURN-ALLOC-22
//= TURN-ALLOC-27
//= TURN-ALLOC-28
//= TURN-ALLOC-29
//= TURN-REFR-01
//= TURN-REFR-02
//= TURN-REFR-04
//= COMPAT-05
//= TURN-PERM-01
//= TURN-PERM-03
//= TURN-PERM-04
//= TURN-CHAN-01
//= TURN-CHAN-02
//= TURN-CHAN-04
//= TURN-CHAN-05
//= TURN-CHAN-06
//= TURN-CHAN-11
//= TURN-DATA-08
//= TURN-DATA-07
//= TURN-DATA-03
//= TURN-PERM-10
//= STUN-MSG-18
//= TURN-DATA-02
//= TURN-DATA-10
#[test]
#[expect(clippy::print_stdout, reason = "the table is what was asked for")]
fn every_rule_is_kept_over_every_transport_and_ip_version() {
    let other = std::env::var("RELAY_BLACKBOX_SERVER").unwrap_or_default();
    match other.as_str() {
        "" => {
            let server = relay();
            for v6 in [false, true] {
                let target = server.target(v6);
                let wrong = differences(&target);
                assert!(wrong.is_empty(), "{} is not as it must be:\n{wrong}", target.plain);
            }
        }
        "coturn" => {
            let coturn = Coturn::start();
            println!(
                "| Rule | Asked | Must be | coturn |\n| --- | --- | --- | --- |\n{}",
                differences(&coturn.target())
            );
        }
        addresses => println!("{}", differences(&elsewhere(addresses))),
    }
}

/// The relay on both IP versions.
struct Relay {
    server: Server,
    v6: [SocketAddr; 2],
}

fn relay() -> Relay {
    let v6 = [free_port(), free_port()].map(|port| SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)));
    let users = USERS.map(|(name, password)| format!("{{ name = \"{name}\", password = \"{password}\" }}"));
    let server = Server::start_custom(&format!(
        "[credentials]\nusers = [{}]\n[peers]\nallow = [\"{PEER}/32\"]\n\
         [limits]\nallocations_per_user = 10000\nallocations_per_ip = 10000\nreservations_per_user = 100\n\
         [[listener]]\nbind = \"{}\"\nprotocols = [\"udp\", \"tcp\"]\n\
         [[listener]]\nbind = \"{}\"\nprotocols = [\"tls\"]\n",
        users.join(", "),
        v6[0],
        v6[1]
    ));
    Relay { server, v6 }
}

impl Relay {
    fn target(&self, v6: bool) -> Target {
        let [plain, tls] = if v6 {
            self.v6
        } else {
            [self.server.plain, self.server.tls]
        };
        Target {
            plain,
            tls,
            users: users(),
            peer: PEER.into(),
        }
    }
}

/// An existing server: `plain,tls`, with users and peer from the environment.
fn elsewhere(addresses: &str) -> Target {
    let variable =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see other_servers.rs"));
    let (plain, tls) = addresses.split_once(',').expect("two addresses: plain,tls");
    let all = variable("RELAY_BLACKBOX_USERS");
    let mut users = all.split(',').map(|user| {
        let (name, password) = user.split_once(':').expect("name:password");
        Login::new(name, password)
    });
    Target {
        plain: plain.parse().expect("an address"),
        tls: tls.parse().expect("an address"),
        users: [(); 2].map(|()| users.next().expect("two users")),
        peer: variable("RELAY_BLACKBOX_PEER"),
    }
}

/// Debian's coturn, with its defaults as far as the rules allow.
struct Coturn {
    child: Child,
    dir: Folder,
    ports: [u16; 2],
}

impl Coturn {
    fn start() -> Self {
        let dir = Folder::new();
        let certified = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).expect("a certificate");
        std::fs::write(dir.join("cert.pem"), certified.cert.pem()).expect("written");
        std::fs::write(dir.join("key.pem"), certified.signing_key.serialize_pem()).expect("written");
        let ports = [free_port(), free_port()];
        let mut command = Command::new("turnserver");
        command.args([
            "-n",
            "--no-cli",
            "--log-file=stdout",
            "--simple-log",
            "--lt-cred-mech",
            "--realm=relay.test",
        ]);
        command.args([
            "--listening-ip=127.0.0.1",
            "--allow-loopback-peers",
            "--denied-peer-ip=10.0.0.0-10.255.255.255",
        ]);
        command.arg(format!("--relay-ip={RELAY_IP}"));
        command.args(USERS.map(|(name, password)| format!("--user={name}:{password}")));
        command.arg(format!("--listening-port={}", ports[0]));
        command.arg(format!("--tls-listening-port={}", ports[1]));
        for (option, file) in [
            ("cert", "cert.pem"),
            ("pkey", "key.pem"),
            ("userdb", "turndb"),
            ("pidfile", "pid"),
        ] {
            command.arg(format!("--{option}={}", dir.join(file).display()));
        }
        let log = std::fs::File::create(dir.join("log")).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("turnserver (sudo tests/install-packages): {error}"));
        let coturn = Self { child, dir, ports };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", coturn.ports[1])).is_err() {
            let log = std::fs::read_to_string(coturn.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "coturn does not listen:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        coturn
    }

    fn target(&self) -> Target {
        let [plain, tls] = self.ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Target {
            plain,
            tls,
            users: users(),
            peer: PEER.into(),
        }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
