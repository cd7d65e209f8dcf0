//! `relay bench` against the program.

use std::process::Output;

use serde_json::Value;

use crate::harness::{SECRET, Server};
use crate::programs;

/// Least packets in a measurement of one second: a tenth of those sent, as this machine may be
/// busy.
const SOME: u64 = 20;

/// A server that admits the measurement's peer.
fn server() -> Server {
    Server::start_with("[peers]\nallow = [\"127.0.0.1/32\"]\n")
}

fn secret_file(server: &Server) -> String {
    let path = server.path("bench-secret");
    std::fs::write(&path, SECRET).expect("the server's folder is writable");
    path.to_str().expect("UTF-8").to_owned()
}

fn bench(arguments: &[&str]) -> Output {
    programs::output(env!("CARGO_BIN_EXE_relay"), &[&["bench"], arguments].concat())
}

/// Runs a measurement of one second and returns its figures.
fn figures(server: &Server, address: std::net::SocketAddr, arguments: &[&str]) -> Value {
    figures_of(1, server, address, arguments)
}

/// The same, for this many seconds.
fn figures_of(seconds: u32, server: &Server, address: std::net::SocketAddr, arguments: &[&str]) -> Value {
    let secret = secret_file(server);
    let (address, pid, seconds) = (address.to_string(), server.pid().to_string(), seconds.to_string());
    let mut all = arguments.to_vec();
    all.extend([
        "--server",
        &address,
        "--server-pid",
        &pid,
        "--seconds",
        &seconds,
        "--json",
    ]);
    all.extend(["--secret-file", &secret]);
    let output = bench(&all);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn assert_relayed(figures: &Value) {
    let count = |name: &str| figures[name].as_u64().unwrap_or_else(|| panic!("{name} in {figures}"));
    assert!(count("received") >= SOME, "{figures}");
    assert_eq!(
        count("received") + count("not_sent"),
        count("sent"),
        "nothing is lost: {figures}"
    );
    assert_eq!(count("reordered"), 0, "{figures}");
    assert!(
        figures["server_cpu_ns_per_packet"].as_f64().is_some_and(|ns| ns > 0.0),
        "{figures}"
    );
    assert!(
        figures["latency_p50_us"].as_f64().is_some_and(|us| us > 0.0),
        "{figures}"
    );
}

#[test]
fn media_goes_up_and_down_on_every_transport() {
    let server = server();
    for (transport, address) in [("udp", server.plain), ("tcp", server.plain), ("tls", server.tls)] {
        for direction in ["up", "down"] {
            let figures = figures(
                &server,
                address,
                &["media", "--transport", transport, "--direction", direction, "-n", "4"],
            );
            assert_relayed(&figures);
        }
    }
}

#[test]
fn media_goes_from_client_to_client_in_bursts_and_in_indications() {
    let server = server();
    let pair = figures(&server, server.plain, &["media", "--pair", "-n", "4"]);
    assert_relayed(&pair);
    let video = figures(
        &server,
        server.plain,
        &["media", "--shape", "video", "-n", "2", "--rate", "240"],
    );
    assert_relayed(&video);
    let indications = figures(
        &server,
        server.plain,
        &["media", "--indications", "-n", "2", "--direction", "down"],
    );
    assert_relayed(&indications);
    let flood = figures(
        &server,
        server.plain,
        &[
            "media", "--shape", "flood", "-n", "2", "--window", "8", "--burst", "4", "--spin",
        ],
    );
    assert_relayed(&flood);
}

#[test]
fn handshakes_and_idle_allocations_are_counted() {
    let server = server();
    let rate = figures(&server, server.plain, &["allocations", "--at-once", "2"]);
    assert!(rate["handshakes"].as_u64().is_some_and(|count| count > 0), "{rate}");
    assert_eq!(rate["failed"], 0, "{rate}");
    assert!(
        rate["server_cpu_us_per_handshake"].as_f64().is_some_and(|us| us > 0.0),
        "{rate}"
    );
    let among_themselves = figures(&server, server.plain, &["allocations", "--pair"]);
    assert_eq!(among_themselves["failed"], 0, "{among_themselves}");
    // Those of the previous measurement have ended.
    server.wait_for_metric("relay_allocations", "", 0.0);
    let hold = figures(&server, server.plain, &["hold", "-n", "50"]);
    // The server may open or close a file of its own meanwhile.
    let files = hold["fds_per_allocation"].as_f64().expect("a number");
    assert!((files - 1.0).abs() < 0.1, "a relay socket each: {hold}");
}

#[test]
fn a_slow_reader_gets_less_than_is_sent_and_that_in_time() {
    let server = server();
    // The buffers in between may hold all of the second before the measurement, which the clients
    // read first. A busy machine offers only half of the rate, which is still more than is read.
    let arguments = ["slow-reader", "--transport", "tcp", "-n", "2", "--read", "600000"];
    let slow = figures_of(8, &server, server.plain, &arguments);
    let (sent, received) = (slow["sent"].as_u64().unwrap(), slow["received"].as_u64().unwrap());
    assert!(received > 0 && received < sent, "{slow}");
}

#[test]
fn a_measurement_that_cannot_be_made_is_refused_with_what_to_do() {
    let server = Server::start();
    let secret = secret_file(&server);
    let plain = server.plain.to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["media", "--server", "192.0.2.1:3478"], "--i-own-this-server"),
        (&["media", "--server", "nowhere"], "HOST:PORT"),
        (&["media", "--server", &plain, "--user", "u", "--password", "p"], "401"),
        (&["media", "--server", &plain, "--secret-file", &secret], "peers.allow"),
        (
            &["slow-reader", "--server", &plain, "--secret-file", &secret],
            "--transport tcp",
        ),
    ];
    for (arguments, advice) in cases {
        let output = bench(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(
            told.contains(advice) && told.trim_end().lines().count() == 1,
            "{arguments:?}: {told}"
        );
    }
}
