//! What unauthenticated clients can write into the operator's log: how much, and in which form.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use nix::sys::signal::Signal;
use rustls::pki_types::ServerName;
use socket2::{Domain, Socket, Type};

use crate::client::PATIENCE;
use crate::harness::Server;
use relay_client::accept_any_certificate;

/// Connections of a flood.
const MANY: u32 = 240;

/// A ClientHello with an illegal server name of this length.
fn hello_with_illegal_name(len: usize) -> Vec<u8> {
    let config = accept_any_certificate(&[]).expect("a TLS client");
    let label = "q".repeat(59);
    let name = [label.as_str(); 5].join(".")[..len].to_owned();
    let server = ServerName::try_from(name.clone()).expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), server).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a hello");
    let at = hello
        .windows(len)
        .position(|window| window == name.as_bytes())
        .expect("the name");
    hello[at..at + len].copy_from_slice("user=q \"\n".repeat(len).as_bytes().split_at(len).0);
    hello
}

/// Sends `bytes` from many addresses, and waits until each connection is closed.
fn flood(server: SocketAddr, bytes: &[u8]) {
    for n in 0..MANY {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let source = IpAddr::from([127, 9, 0, 1 + (n % 4) as u8]);
        socket.bind(&SocketAddr::new(source, 0).into()).expect("an address");
        socket.connect(&server.into()).expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("an option");
        let mut stream = std::net::TcpStream::from(socket);
        stream.write_all(bytes).expect("a flood");
        // An alert, an end or a reset: it is closed.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// rustls logs a server name that it cannot parse, in full.
#[test]
fn a_strangers_server_name_is_not_in_the_log_and_where_a_library_was_asked_for_no_more_than_its_share() {
    let hello = hello_with_illegal_name(230);
    let server = Server::start();
    let before = server.log().len();
    flood(server.door, &hello);
    let log = server.log();
    assert!(!log.contains("SNI") && log.len() - before < 2000, "{}", &log[before..]);

    let server = Server::start_overridden(&[("RELAY__LOG__LEVEL", "info,rustls=warn")]);
    flood(server.door, &hello);
    server.wait_for_metric_of_at_least("relay_log_lines_left_out_total", "", f64::from(MANY - 100));
    let log = server.log();
    let told = log.lines().filter(|line| line.contains("SNI")).count();
    // A few seconds pass.
    assert!((50..100).contains(&told), "{told} lines:\n{log}");
    assert!(
        !log.lines().any(|line| line.starts_with("user=")),
        "a line of its own:\n{log}"
    );
}

#[test]
fn lines_about_strangers_are_bounded_for_all_of_them_together_and_the_rest_is_counted() {
    const LINE: &str = "refused a connection that is not from a trusted proxy";
    let server = Server::start();
    flood(server.door, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    server.wait_for_metric_of_at_least(
        "relay_connections_total",
        "outcome=\"untrusted_proxy\"",
        f64::from(MANY),
    );
    server.wait_for_metric_of_at_least("relay_log_lines_left_out_total", "", f64::from(MANY - 100));
    let left_out = server.metric("relay_log_lines_left_out_total", "") as u32;
    server.signal(Signal::SIGTERM);
    server.wait_for_log("lines were left out");
    let log = server.log();
    let told = log
        .lines()
        .filter(|line| line.contains(LINE) && !line.contains("like="))
        .count() as u32;
    assert_eq!(told + left_out, MANY, "{log}");
    let said = format!("lines were left out, there were too many count={left_out} like=");
    assert!(
        log.lines().any(|line| line.contains(&said) && line.contains(LINE)),
        "{log}"
    );
}
