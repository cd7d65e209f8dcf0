//! What an operator asks of a running server and orders it to do, with the program's own commands.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use relay::base::address::Transport;
use serde_json::Value;

use crate::client::{Client, PATIENCE, SILENCE};
use crate::harness::{EchoPeer, SECRET, Server, minted};

const CHANNEL: u16 = 0x4000;
const ALL: [Transport; 4] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls];

fn relay(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(arguments);
    command.env("RELAY_CONTROL_SOCKET", server.path("state").join("control.sock"));
    command.output().expect("the program runs")
}

/// What a command prints, which must succeed.
#[track_caller]
fn said(server: &Server, arguments: &[&str]) -> String {
    let output = relay(server, arguments);
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}: {out}{errors}");
    out.into_owned()
}

/// The exit status and the message of a command that fails.
#[track_caller]
fn refused(server: &Server, arguments: &[&str]) -> (i32, String) {
    let output = relay(server, arguments);
    assert!(!output.status.success(), "{arguments:?}");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("no signal"), message)
}

#[track_caller]
fn answered(server: &Server, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&said(server, &arguments)).expect("JSON")
}

fn sessions(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let answer = answered(server, &[&["sessions"], arguments].concat());
    answer.as_array().expect("a list").clone()
}

fn over(transport: Transport, server: &Server, user: &str) -> Client {
    let address = if matches!(transport, Transport::Udp | Transport::Tcp) {
        server.plain
    } else {
        server.tls
    };
    Client::over_transport(transport, address).with_login(&minted(SECRET, 600, user))
}

#[test]
fn sessions_are_listed_with_who_where_and_how_much_and_can_be_filtered_and_ranked() {
    let server = Server::start();
    let peer = EchoPeer::start();
    let mut clients: Vec<Client> = ALL.iter().map(|&it| over(it, &server, it.as_str())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.allocate().expect("allocated");
        assert_eq!(client.channel_bind(CHANNEL, peer.address), 0);
        for _ in 0..=n {
            client.send_channel(CHANNEL, &[0; 1000]);
            assert!(client.receive_data(PATIENCE).is_some());
        }
    }
    let all = sessions(&server, &[]);
    let users: Vec<_> = all
        .iter()
        .map(|it| it["user"].as_str().expect("a user").to_owned())
        .collect();
    assert_eq!(users, ["udp", "tcp", "tls", "dtls"], "the oldest first");
    for (n, (session, client)) in all.iter().zip(&clients).enumerate() {
        let bytes = 1000 * (n + 1);
        assert_eq!(
            (&session["up_bytes"], &session["down_bytes"]),
            (&bytes.into(), &bytes.into())
        );
        assert_eq!(session["client"], client.local_addr().to_string());
        assert_eq!((&session["channels"], &session["permissions"]), (&1.into(), &1.into()));
    }
    let most: Vec<_> = sessions(&server, &["--sort", "bytes", "--limit", "2"]);
    assert_eq!([&most[0]["user"], &most[1]["user"]], ["dtls", "tls"]);
    assert_eq!(sessions(&server, &["--transport", "tcp"]).len(), 1);
    assert_eq!(sessions(&server, &["--user", "tls"]).len(), 1);
    assert_eq!(
        sessions(&server, &["--client", "127.0.0.0/8", "--peer", "127.0.0.2"]).len(),
        4
    );
    assert_eq!(sessions(&server, &["--peer", "10.0.0.0/8"]).len(), 0);
    let fast = sessions(&server, &["--sort", "rate", "--limit", "1"]);
    assert_eq!((fast.len(), &fast[0]["bits_per_second"]), (1, &0.into()));

    let id = all[1]["id"].as_str().expect("an id");
    let one = answered(&server, &["session", id]);
    assert_eq!(one["bound_channels"][0]["number"], u64::from(CHANNEL));
    assert_eq!(one["bound_channels"][0]["peer"], peer.address.to_string());
    assert_eq!(one["permitted_peers"][0]["peer"], peer.address.ip().to_string());
    assert!(
        one["stream"]["round_trip_ms"].as_f64().is_some_and(|it| it > 0.0),
        "{one}"
    );
    let log = server.log();
    assert!(log.contains(&format!("id={id}")), "the log has the same name");
    // For people.
    assert!(said(&server, &["sessions"]).contains(id));
    assert!(said(&server, &["session", id]).contains("0x4000"));
    assert_eq!(refused(&server, &["session", "xyz"]).0, 1);
    let (status, message) = refused(&server, &["session", "000000000000000000000000"]);
    assert!(status == 1 && message.contains("no such session"), "{message}");
}

#[test]
fn after_an_end_nothing_more_is_relayed_over_any_transport() {
    let server = Server::start();
    let peer = EchoPeer::start();
    for transport in ALL {
        let mut client = over(transport, &server, "eve");
        client.allocate().expect("allocated");
        assert_eq!(client.channel_bind(CHANNEL, peer.address), 0);
        client.send_channel(CHANNEL, b"before");
        assert!(client.receive_data(PATIENCE).is_some(), "{transport}");
        let id = sessions(&server, &[])[0]["id"].as_str().expect("an id").to_owned();
        said(&server, &["end", &id]);
        // A stream is closed; datagrams go nowhere.
        if transport.is_stream() {
            assert_eq!(client.receive(PATIENCE), None, "{transport}");
        } else {
            client.send_channel(CHANNEL, b"after");
            assert_eq!(client.receive_data(SILENCE), None, "{transport}");
        }
        assert_eq!(refused(&server, &["end", &id]).0, 1, "{transport}: it is gone");
    }
    server.wait_for_metric("relay_allocations_ended_total", "operator", 4.0);
}

#[test]
fn a_revoked_user_is_out_at_once_and_stays_out_when_the_process_is_killed() {
    let server = Server::start();
    let mut eve = over(Transport::Udp, &server, "eve");
    let mut bob = over(Transport::Tls, &server, "bob");
    eve.allocate().expect("allocated");
    bob.allocate().expect("allocated");
    let answer = answered(&server, &["revoke", "eve", "--for", "1h"]);
    assert_eq!((&answer["ended"], &answer["kept"]), (&1.into(), &true.into()));
    assert_eq!(eve.refresh(600), 403);
    assert_eq!(over(Transport::Tcp, &server, "eve").allocate(), Err(403));
    assert_eq!(bob.refresh(600), 0);
    server.wait_for_metric("relay_refusals_total", "credential_revoked", 2.0);
    server.wait_for_log("reason=\"credential_revoked\"");

    server.signal(Signal::SIGKILL);
    let again = Again::start(&server);
    assert_eq!(over(Transport::Udp, &server, "eve").allocate(), Err(403));
    over(Transport::Udp, &server, "bob").allocate().expect("allocated");
    assert_eq!(answered(&server, &["revocations"])[0]["user"], "eve");
    said(&server, &["revoke", "eve", "--undo"]);
    over(Transport::Udp, &server, "eve").allocate().expect("allocated");
    assert_eq!(refused(&server, &["revoke", "eve", "--undo"]).0, 1);
    drop(again);
}

/// Another process with the same configuration.
struct Again(Child);

impl Again {
    fn start(server: &Server) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
        command.arg("--config").arg(server.path("relay.toml"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let again = Self(command.spawn().expect("the program runs"));
        let deadline = Instant::now() + PATIENCE;
        while !relay(server, &["status"]).status.success() {
            assert!(Instant::now() < deadline, "it does not serve again");
            std::thread::sleep(Duration::from_millis(20));
        }
        again
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_drain_refuses_newcomers_from_its_answer_on_and_ends_with_the_last_call() {
    let server = Server::start();
    let peer = EchoPeer::start();
    let mut live = over(Transport::Udp, &server, "live");
    live.allocate().expect("allocated");
    assert_eq!(live.channel_bind(CHANNEL, peer.address), 0);
    said(&server, &["drain", "--to", "192.0.2.7:3478"]);
    assert_eq!(
        over(Transport::Udp, &server, "new").allocate(),
        Err(300),
        "it can follow"
    );
    assert_eq!(over(Transport::Tls, &server, "new").allocate(), Err(508), "it cannot");
    let (code, body) = server.admin_get("/readyz").expect("an answer");
    assert!(code == 503 && body.contains("an operator drains the server"), "{body}");
    live.send_channel(CHANNEL, b"goes on");
    assert!(live.receive_data(PATIENCE).is_some());
    said(&server, &["undrain"]);
    let mut new = over(Transport::Tls, &server, "new");
    new.allocate().expect("allocated");
    assert_eq!(server.admin_get("/readyz").expect("an answer").0, 200);

    said(&server, &["drain"]);
    new.refresh(0);
    assert!(said(&server, &["status"]).contains("an operator drains the server"));
    assert_eq!(live.refresh(0), 0);
    server.wait_for_log("drained: stopping");
    server.wait_for_log("stopped");
}

#[test]
fn a_drain_ends_at_its_deadline_whoever_is_left() {
    let server = Server::start();
    let mut live = over(Transport::Udp, &server, "live");
    live.allocate().expect("allocated");
    said(&server, &["drain", "--deadline", "1s"]);
    server.wait_for_log("drained: stopping");
    server.wait_for_log("stopped");
}

#[test]
fn a_reload_prints_what_came_of_it_and_the_level_of_the_log_changes_for_a_while() {
    let server = Server::start();
    assert!(said(&server, &["reload"]).ends_with("reloaded\n"));
    let path = server.path("relay.toml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    std::fs::write(&path, text.replace("workers = 2", "workers = 1")).expect("written");
    let partial = said(&server, &["reload"]);
    assert!(partial.contains("needs a restart: workers"), "{partial}");
    std::fs::write(&path, text.replace("workers = 2", "wokers = 1")).expect("written");
    let (status, message) = refused(&server, &["reload"]);
    assert!(status == 1 && message.contains("did you mean `workers`?"), "{message}");

    said(&server, &["log", "debug", "--for", "1s"]);
    server.wait_for_log("log level changed level=\"debug\" for_secs=1");
    server.wait_for_log("log level changed level=\"as configured\"");
    let (status, message) = refused(&server, &["log", "loud"]);
    assert!(status == 1 && message.contains("is not a level"), "{message}");
}

#[test]
fn the_socket_is_for_the_servers_user_and_group_and_a_server_that_is_gone_is_named() {
    let server = Server::start();
    let socket = server.path("state").join("control.sock");
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // Directories let everybody through here, so that the socket's own mode decides.
    for directory in socket.ancestors().skip(1).take(2) {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).expect("our own");
    }
    let mut other = Command::new("setpriv");
    other.args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "curl",
        "-sS",
        "--unix-socket",
    ]);
    other.arg(&socket).arg("http://relay/v1/status");
    let other = other.output().expect("setpriv and curl are there");
    assert!(!other.status.success() && other.stdout.is_empty(), "{other:?}");
    server.signal(Signal::SIGTERM);
    server.wait_for_log("stopped");
    let (status, message) = refused(&server, &["status"]);
    assert!(status == 69 && message.contains("control.sock"), "{message}");
}

/// Asks over the socket as a program would, and returns status and body.
fn curl(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut command = Command::new("curl");
    command.args(["-sS", "-X", method, "-w", "\n%{http_code}", "-d", body, "--unix-socket"]);
    command.arg(server.path("state").join("control.sock"));
    let output = command
        .arg(format!("http://relay{path}"))
        .output()
        .expect("curl is there");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (
        status.parse().expect("a number"),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

#[test]
fn every_answer_is_as_the_openapi_document_says() {
    let server = Server::start();
    let mut client = over(Transport::Tls, &server, "eve");
    client.allocate().expect("allocated");
    assert_eq!(
        client.channel_bind(CHANNEL, "127.0.0.2:7000".parse().expect("an address")),
        0
    );
    let document = curl(&server, "GET", "/v1/openapi.json", "").1;
    let id = sessions(&server, &[])[0]["id"].as_str().expect("an id").to_owned();
    let one = format!("/v1/sessions/{id}");
    let none = "/v1/sessions/000000000000000000000000";
    for (method, path, template, body, expected) in [
        ("GET", "/v1/status", "/v1/status", "", 200),
        ("GET", "/v1/sessions?limit=1", "/v1/sessions", "", 200),
        ("GET", "/v1/sessions?sort=rate", "/v1/sessions", "", 200),
        ("GET", "/v1/sessions?limit=1001", "/v1/sessions", "", 400),
        ("GET", "/v1/sessions?transport=quic", "/v1/sessions", "", 400),
        ("GET", "/v1/sessions?client=here", "/v1/sessions", "", 400),
        ("GET", "/v1/sessions?cursor=5", "/v1/sessions", "", 400),
        ("GET", &one, "/v1/sessions/{id}", "", 200),
        ("GET", none, "/v1/sessions/{id}", "", 404),
        ("DELETE", "/v1/sessions/x", "/v1/sessions/{id}", "", 400),
        ("DELETE", &one, "/v1/sessions/{id}", "", 204),
        ("POST", "/v1/revocations", "/v1/revocations", r#"{"user": "bob"}"#, 200),
        (
            "POST",
            "/v1/revocations",
            "/v1/revocations",
            r#"{"user": "bob", "until": 7}"#,
            400,
        ),
        ("POST", "/v1/revocations", "/v1/revocations", r#"{"name": "bob"}"#, 400),
        ("GET", "/v1/revocations", "/v1/revocations", "", 200),
        ("DELETE", "/v1/revocations/bob", "/v1/revocations/{user}", "", 204),
        ("DELETE", "/v1/revocations/bob", "/v1/revocations/{user}", "", 404),
        ("POST", "/v1/log", "/v1/log", r#"{"level": "info"}"#, 204),
        ("POST", "/v1/log", "/v1/log", r#"{"level": "loud"}"#, 400),
        ("POST", "/v1/reload", "/v1/reload", "", 200),
        (
            "POST",
            "/v1/drain",
            "/v1/drain",
            r#"{"to": ["192.0.2.1:1", "192.0.2.2:1"]}"#,
            400,
        ),
    ] {
        let (status, answer) = curl(&server, method, path, body);
        assert_eq!(status, expected, "{method} {path}: {answer}");
        let place = template.replace('/', "~1");
        let told = format!("/paths/{place}/{}/responses/{status}", method.to_lowercase());
        let told = document
            .pointer(&told)
            .unwrap_or_else(|| panic!("{method} {path}: {status} is not in the document"));
        let Some(schema) = told.pointer("/content/application~1json/schema") else {
            assert_eq!(answer, Value::Null, "{method} {path}");
            continue;
        };
        // References lead into the document's components.
        let mut schema = schema.clone();
        schema["components"] = document["components"].clone();
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let wrong: Vec<_> = validator.iter_errors(&answer).map(|it| it.to_string()).collect();
        assert!(wrong.is_empty(), "{method} {path}: {wrong:?} in {answer}");
    }
    for path in ["/", "/v2/status", "/v1/sessions/"] {
        assert_eq!(curl(&server, "GET", path, "").0, 404, "{path}");
    }
    assert_eq!(curl(&server, "PUT", "/v1/status", "").0, 405);
}
