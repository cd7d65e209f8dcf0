//! The real program on loopback: start, service, reload, end.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]

mod changes;
mod files;
mod forced;
mod late;
mod ports;
mod reloads;
mod secrets;
mod support;
mod systemd;
mod unreadable;

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use relay_testkit::folder::Folder;
use support::{Client as _, Outcome, REALM, Server, Stream, Udp, connect, credential, free_ports, get, http, local};

const SECRET: &str = "4b1c7a9e0d2f8e6655aa10c3b7d9f0e2";
const NEXT_SECRET: &str = "0f6d2c8b9a7e41d3aa5566778899bbcc";
const KEY: &str = "key-of-the-application-0123456789";

/// A server's ports, files and configuration.
struct Setup {
    dir: Folder,
    turn: u16,
    tls: u16,
    admin: u16,
}

impl Setup {
    fn new() -> Self {
        let [turn, tls, admin] = free_ports();
        let dir = Folder::new();
        dir.file("secret", SECRET);
        Self { dir, turn, tls, admin }
    }

    /// Without `credentials`, which is what the tests vary.
    fn base(&self) -> String {
        let Self { dir, turn, tls, admin } = self;
        let state = dir.join("state");
        format!(
            r#"realm = "{REALM}"
state_dir = "{}"
workers = 2
shutdown_timeout = "5s"

[external]
ipv4 = "127.0.0.1"
ipv6 = "off"

[relay]
ipv4 = "127.0.0.1"
ports = "30000-30999"

[admin]
address = "127.0.0.1:{admin}"

[[listener]]
bind = "127.0.0.1:{turn}"
protocols = ["udp", "tcp"]

[[listener]]
bind = "127.0.0.1:{tls}"
protocols = ["dtls", "tcp", "tls", "https"]

[api]
host = "127.0.0.1"

[[api.keys]]
name = "app"
key = "{KEY}"

"#,
            state.display()
        )
    }

    fn with_secret_file(&self) -> String {
        format!(
            "{}[credentials]\nsecret_file = \"{}\"\n",
            self.base(),
            self.dir.join("secret").display()
        )
    }

    fn write(&self, text: &str) -> std::path::PathBuf {
        self.dir.file("relay.toml", text)
    }

    fn start(&self) -> Server {
        Server::start(&self.write(&self.with_secret_file()))
    }

    fn allocate(&self, secret: &str) -> Outcome {
        let (username, password) = credential(secret);
        Udp::new(local(self.turn)).allocate(&username, &password)
    }

    /// One value of the metrics.
    fn metric(&self, series: &str) -> f64 {
        let text = get(local(self.admin), "/metrics").body;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series}")).parse().expect("number")
    }

    /// Waits until [`Self::metric`] is `expected`: what is counted is counted after a client has seen it.
    fn wait_for_metric(&self, series: &str, expected: f64) {
        self.wait_until_metric(series, &format!("{expected}"), |value| value == expected);
    }

    /// Waits until [`Self::metric`] is at least `least`.
    fn wait_for_metric_of_at_least(&self, series: &str, least: f64) {
        self.wait_until_metric(series, &format!("at least {least}"), |value| value >= least);
    }

    fn wait_until_metric(&self, series: &str, text: &str, holds: impl Fn(f64) -> bool) {
        let begin = Instant::now();
        loop {
            let value = self.metric(series);
            if holds(value) {
                return;
            }
            assert!(
                begin.elapsed() < support::PATIENCE,
                "waited for {series} to be {text}, and it is {value}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the credentials API on the admin listener.
    fn mint(&self) -> support::Answer {
        self.mint_with(KEY)
    }

    fn mint_with(&self, key: &str) -> support::Answer {
        let request = format!(
            "POST /v1/ice-servers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        http(connect(local(self.admin)), &request)
    }
}

const RELOADED: &str = "relay_config_reloads_total{outcome=\"success\"}";
const PARTLY_RELOADED: &str = "relay_config_reloads_total{outcome=\"partial\"}";
const NOT_RELOADED: &str = "relay_config_reloads_total{outcome=\"failure\"}";

#[test]
fn it_starts_serves_over_every_transport_and_tells_of_it() {
    let setup = Setup::new();
    let mut server = setup.start();
    let banner = server.output();
    for port in [setup.turn, setup.tls, setup.admin] {
        assert!(banner.contains(&format!("127.0.0.1:{port}")), "{banner}");
    }
    assert_eq!(get(local(setup.admin), "/healthz").status, 200);
    assert_eq!(get(local(setup.admin), "/readyz").status, 200);

    let Outcome::Allocated(relayed) = setup.allocate(SECRET) else {
        panic!("{}", server.errors())
    };
    assert_eq!(relayed.ip(), local(0).ip());
    assert!((30_000..=30_999).contains(&relayed.port()), "{relayed}");
    setup.wait_for_metric("relay_allocations{transport=\"udp\"}", 1.0);
    server.wait_for_log("allocation began");
    assert_eq!(setup.allocate(NEXT_SECRET), Outcome::Refused(401));

    // One allocation table, whatever way a client comes.
    let (username, password) = credential(SECRET);
    let mut plain = Stream(connect(local(setup.turn)));
    let mut plain_on_the_tls_port = Stream(connect(local(setup.tls)));
    let mut secure = Stream(support::tls(connect(local(setup.tls))));
    for outcome in [
        plain.allocate(&username, &password),
        plain_on_the_tls_port.allocate(&username, &password),
        secure.allocate(&username, &password),
    ] {
        assert!(matches!(outcome, Outcome::Allocated(_)), "{outcome:?}");
    }
    setup.wait_for_metric("relay_allocations{transport=\"tcp\"}", 2.0);
    setup.wait_for_metric("relay_allocations{transport=\"tls\"}", 1.0);
    drop((plain, plain_on_the_tls_port));
    server.wait_for_log("why=\"disconnected\"");

    // The credentials API on the admin listener mints what the server accepts.
    let minted = setup.mint();
    assert_eq!(minted.status, 200, "{}", minted.body);
    let json: serde_json::Value = serde_json::from_str(&minted.body).expect("JSON");
    let entry = &json["iceServers"][0];
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let outcome = Udp::new(local(setup.turn)).allocate(&text(&entry["username"]), &text(&entry["credential"]));
    assert!(matches!(outcome, Outcome::Allocated(_)), "{outcome:?}");
    assert!(!server.errors().contains(KEY) && !server.errors().contains(SECRET));
}

#[test]
fn the_credentials_api_answers_over_tls_on_the_port_that_also_speaks_turn() {
    let setup = Setup::new();
    let _server = setup.start();
    let tcp = connect(local(setup.tls));
    let answer = http(
        support::tls(tcp),
        &format!(
            "GET /turn?service=turn HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
        ),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(
        answer.head.to_ascii_lowercase().contains("strict-transport-security"),
        "{}",
        answer.head
    );
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert!(
        json["uris"]
            .as_array()
            .expect("uris")
            .iter()
            .any(|uri| uri.as_str().expect("uri").starts_with("turns:"))
    );
}

#[test]
fn sigterm_ends_every_allocation_with_its_line_and_the_process_with_status_0() {
    let setup = Setup::new();
    let mut server = setup.start();
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server
        .exit_within(Duration::from_secs(7))
        .expect("gone within shutdown_timeout");
    assert_eq!(status.code(), Some(0), "{}", server.errors());
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    let log = server.errors();
    assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
    assert!(
        log.lines()
            .any(|line| line.contains("allocation ended") && line.contains("shutdown")),
        "{log}"
    );
}

#[test]
fn sigint_does_what_sigterm_does() {
    let setup = Setup::new();
    let mut server = setup.start();
    server.signal(Signal::SIGINT);
    assert_eq!(
        server.exit_within(Duration::from_secs(7)).expect("gone").code(),
        Some(0)
    );
}

#[test]
fn a_second_sigterm_does_not_wait_for_an_answer_under_way() {
    let setup = Setup::new();
    let mut server = setup.start();
    let mut slow = support::tls(connect(local(setup.tls)));
    let head = format!(
        "POST /v1/ice-servers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).expect("write");
    setup.wait_for_metric_of_at_least("relay_connections", 1.0);
    setup.wait_for_metric("relay_connections_unproven", 0.0);
    server.signal(Signal::SIGTERM);
    server.wait_for_log("stopping");
    support::eventually("no more clients are wanted", || {
        get(local(setup.admin), "/readyz").status == 503
    });
    support::eventually("and none is accepted", || {
        TcpStream::connect_timeout(&local(setup.turn), support::PATIENCE).is_err()
    });
    server.signal(Signal::SIGTERM);
    let begin = Instant::now();
    assert_eq!(
        server.exit_within(Duration::from_secs(7)).expect("gone").code(),
        Some(1),
        "{}",
        server.errors()
    );
    // Without the second signal it would be `shutdown_timeout`.
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[test]
fn a_rotated_out_secret_is_refused_after_a_reload_and_live_allocations_stay() {
    let setup = Setup::new();
    let server = setup.start();
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
    setup.dir.file("secret", NEXT_SECRET);
    assert_eq!(
        setup.allocate(NEXT_SECRET),
        Outcome::Refused(401),
        "not before the reload"
    );
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric_of_at_least(RELOADED, 1.0);
    assert_eq!(setup.allocate(SECRET), Outcome::Refused(401));
    assert!(matches!(setup.allocate(NEXT_SECRET), Outcome::Allocated(_)));
    setup.wait_for_metric("relay_allocations{transport=\"udp\"}", 2.0);
}

#[test]
fn a_broken_configuration_is_not_taken_and_the_old_one_stays() {
    let setup = Setup::new();
    let mut server = setup.start();
    let broken = setup
        .with_secret_file()
        .replace("workers = 2", "workers = \"many\"\nrealmm = \"x\"");
    setup.write(&broken);
    server.signal(Signal::SIGHUP);
    server.wait_for_log("not reloaded");
    setup.wait_for_metric(NOT_RELOADED, 1.0);
    setup.wait_for_metric("relay_config_last_reload_successful", 0.0);
    server.wait_for_log("realmm");
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
}

#[test]
fn what_cannot_change_without_a_restart_is_said() {
    let setup = Setup::new();
    let mut server = setup.start();
    setup.write(
        &setup
            .with_secret_file()
            .replace("workers = 2", "workers = 1")
            .replace("30999", "30899")
            .replace(&format!("127.0.0.1:{}", setup.turn), "127.0.0.1:4444"),
    );
    server.signal(Signal::SIGHUP);
    server.wait_for_log("need a restart");
    let log = server.errors();
    let line = log.lines().find(|line| line.contains("need a restart")).expect("line");
    assert!(line.contains("workers") && line.contains("relay.ports"), "{line}");
    setup.wait_for_metric("relay_config_reloads_total{outcome=\"partial\"}", 1.0);
    // What is offered to clients is what is really listened on.
    let json: serde_json::Value = serde_json::from_str(&setup.mint().body).expect("JSON");
    let urls = json["iceServers"][0]["urls"].to_string();
    assert!(
        urls.contains(&format!(":{}?", setup.turn)) && !urls.contains(":4444?"),
        "{urls}"
    );
}

#[test]
fn a_configuration_that_cannot_work_exits_with_78_and_binds_nothing() {
    let setup = Setup::new();
    let config = setup.write(
        &setup
            .base()
            .replace("workers = 2", "workers = 0")
            .replace("30000-", "300-"),
    );
    let mut server = Server::spawn(&config, &[]);
    assert_eq!(
        server.exit_within(support::PATIENCE).expect("exits").code(),
        Some(78),
        "{}",
        server.errors()
    );
    let errors = server.errors();
    assert!(
        errors.contains("workers") && errors.contains("ports"),
        "both mistakes at once: {errors}"
    );
}

#[test]
fn a_first_run_makes_a_secret_and_prints_a_configuration_that_works() {
    let setup = Setup::new();
    let mut server = Server::start(&setup.write(&setup.base()));
    let output = server.output();
    let line = output
        .lines()
        .find(|line| line.contains("iceServers"))
        .unwrap_or_else(|| panic!("{output}"));
    let json: serde_json::Value = serde_json::from_str(line.trim()).expect("an RTCConfiguration");
    let entry = &json["iceServers"][0];
    let (username, password) = (
        entry["username"].as_str().expect("text"),
        entry["credential"].as_str().expect("text"),
    );
    let outcome = Udp::new(local(setup.turn)).allocate(username, password);
    assert!(matches!(outcome, Outcome::Allocated(_)), "{outcome:?}");
    assert!(output.contains("turnutils_uclient"), "a line to try it: {output}");
    assert!(output.contains("self-signed"), "{output}");
    server.signal(Signal::SIGTERM);
    assert_eq!(
        server.exit_within(Duration::from_secs(7)).expect("gone").code(),
        Some(0)
    );

    // The second run uses the same secret.
    let again = Server::start(&setup.write(&setup.base()));
    let outcome = Udp::new(local(setup.turn)).allocate(username, password);
    assert!(matches!(outcome, Outcome::Allocated(_)), "{outcome:?}");
    assert!(
        !again.output().contains("iceServers"),
        "no credential in every log: {}",
        again.output()
    );
}

/// In namespaces of its own the program is an ordinary user, whoever runs the test: without the right to ports below 1024.
#[test]
fn an_ordinary_user_is_told_how_to_allow_443_and_served_on_the_rest() {
    let setup = Setup::new();
    let state = setup.dir.join("state");
    let config = setup.write(&format!(
        "realm = \"{REALM}\"\nstate_dir = \"{}\"\nadmin.address = \"off\"\n\
         [external]\nipv4 = \"192.0.2.1\"\nipv6 = \"off\"\n[relay]\nipv4 = \"0.0.0.0\"\n",
        state.display()
    ));
    let mut server = Server::spawn_unprivileged(&config);
    server.wait_for_output("is ready");
    let output = server.output();
    let notes: Vec<&str> = output
        .lines()
        .filter(|line| line.contains(":443\"") && line.contains("note"))
        .collect();
    let [note] = notes[..] else {
        panic!("one note on 443, not {notes:?}")
    };
    for help in [
        "setcap cap_net_bind_service=+ep",
        "net.ipv4.ip_unprivileged_port_start",
        "systemd",
    ] {
        assert!(note.contains(help), "{help}: {note}");
    }
    assert!(
        output.contains("0.0.0.0:3478") && output.contains("0.0.0.0:5349"),
        "{output}"
    );
    let offered = output
        .lines()
        .find(|line| line.contains("iceServers"))
        .expect("a configuration to try");
    assert!(
        offered.contains(":3478") && !offered.contains(":443"),
        "only what is served is offered: {offered}"
    );
}

#[test]
fn the_service_manager_is_told_of_start_life_reload_and_end() {
    let setup = Setup::new();
    let path = setup.dir.join("notify");
    let manager = UnixDatagram::bind(&path).expect("bind");
    manager.set_read_timeout(Some(support::PATIENCE)).expect("timeout");
    let environment = [
        ("NOTIFY_SOCKET", path.to_str().expect("UTF-8")),
        ("WATCHDOG_USEC", "1000000"),
    ];
    let mut server = Server::spawn(&setup.write(&setup.with_secret_file()), &environment);
    let wait_for = |text: &str| {
        let begin = Instant::now();
        loop {
            let mut message = [0; 4096];
            let length = manager.recv(&mut message).unwrap_or_else(|e| panic!("no {text}: {e}"));
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.lines().any(|line| line == text) {
                return message;
            }
            assert!(begin.elapsed() < support::PATIENCE, "no {text}");
        }
    };
    wait_for("READY=1");
    let begin = Instant::now();
    for _ in 0..3 {
        wait_for("WATCHDOG=1");
    }
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "more than one beat in a second: {:?}",
        begin.elapsed()
    );
    server.signal(Signal::SIGHUP);
    assert!(wait_for("RELOADING=1").contains("MONOTONIC_USEC="));
    wait_for("READY=1");
    // However a reload ends, it ends.
    for (text, status) in [
        (
            "workers = 1",
            "STATUS=serving; a part of the latest reload is not in force",
        ),
        ("workers = \"many\"", "STATUS=serving; the latest reload failed"),
    ] {
        setup.write(&setup.with_secret_file().replace("workers = 2", text));
        server.signal(Signal::SIGHUP);
        wait_for("RELOADING=1");
        assert!(wait_for("READY=1").contains(status), "{status}");
    }
    server.signal(Signal::SIGTERM);
    wait_for("STOPPING=1");
    assert_eq!(
        server.exit_within(Duration::from_secs(7)).expect("gone").code(),
        Some(0)
    );
}

#[test]
fn a_json_log_is_json_to_the_last_line_and_standard_output_stays_empty() {
    let setup = Setup::new();
    let config = setup.write(
        &setup
            .base()
            .replace("[external]", "[log]\nformat = \"json\"\n\n[external]"),
    );
    let mut server = Server::spawn(&config, &[]);
    server.wait_for_log("\"ready\"");
    server.signal(Signal::SIGTERM);
    assert_eq!(
        server.exit_within(Duration::from_secs(7)).expect("gone").code(),
        Some(0)
    );
    assert_eq!(server.output(), "");
    let lines = server.errors();
    let mut objects = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
    let ready = objects
        .rfind(|object| object["message"] == "ready")
        .expect("the ready line");
    assert!(
        ready["udp"].as_str().expect("text").contains(&setup.turn.to_string()),
        "{ready}"
    );
    // What a first run offers is here too.
    let offered = ready["rtc_configuration"].as_str().expect("an RTCConfiguration");
    serde_json::from_str::<serde_json::Value>(offered).expect("JSON");
    let uris = ready["uris"].as_str().expect("what clients are told");
    assert!(uris.contains(&format!("turn:127.0.0.1:{}", setup.turn)), "{uris}");
}
