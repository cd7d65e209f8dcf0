//! How much of a client's address the log shows, in every line that a client can cause, by
//! `log.client_ip`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};

use nix::sys::signal::Signal;
use relay::wire::attribute::AttributeType;
use relay::wire::message::Method;
use relay::wire::quic;
use socket2::{Domain, Socket, Type};

use crate::client::{Client, Login, PATIENCE};
use crate::harness::{SECRET, Server, minted};

/// No other client has it, so every occurrence in the log is about this client.
const HOME: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 77);
/// The client's address after its move, in another network.
const AWAY: Ipv4Addr = Ipv4Addr::new(127, 78, 0, 78);

/// Lines that show a client, and the field with its address.
const LINES: [(&str, &str); 7] = [
    ("allocation began", "client"),
    ("allocation moved", "was_client"),
    ("allocation ended", "client"),
    ("Allocate refused", "client"),
    ("refused a connection that is not from a trusted proxy", "client"),
    ("connection closed", "client"),
    ("HTTP/3 flow ended", "client"),
];

fn tcp_from_home(server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((HOME, 0)).into()).expect("an address");
    socket.connect(&server.into()).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    socket.set_write_timeout(Some(PATIENCE)).expect("an option");
    socket.into()
}

/// Sends `bytes` from [`HOME`], and waits until the connection is closed.
fn send_until_closed(server: SocketAddr, bytes: &[u8]) {
    let mut stream = tcp_from_home(server);
    stream.write_all(bytes).expect("taken");
    let _ = stream.shutdown(Shutdown::Write);
    // An alert, an end or a reset: it is closed.
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Starts an HTTP/3 connection from [`HOME`].
fn begin_quic(server: SocketAddr) {
    let socket = UdpSocket::bind((HOME, 0)).expect("a port");
    let mut initial = [&[0xC0, 0, 0, 0, 1, 8][..], b"original", &[6], b"client"].concat();
    initial.resize(quic::MIN_INITIAL, 0);
    assert!(quic::may_begin(&initial));
    socket.send_to(&initial, server).expect("sent");
}

/// Causes every line with a client in it.
fn cause_every_line(server: &Server) {
    let login = minted(SECRET, 600, "somebody");
    let mut client = Client::udp_from(HOME, server.plain).with_login(&login);
    let ticket = |client: &mut Client, method, ticket: &[u8]| {
        let answer = client.request(method, |writer| {
            if method == Method::Allocate {
                writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            }
            writer.attribute(AttributeType::MOBILITY_TICKET, ticket);
        });
        let ticket = answer.message().attribute(AttributeType::MOBILITY_TICKET);
        ticket.expect("a ticket").to_vec()
    };
    let first = ticket(&mut client, Method::Allocate, &[]);
    assert_eq!(client.create_permission("10.0.3.4:7".parse().expect("an address")), 403);
    let mut moved = Client::udp_from(AWAY, server.plain).with_login(&login);
    ticket(&mut moved, Method::Refresh, &first);
    // It has moved once data arrives on the new path.
    assert_eq!(moved.refresh(600), 0);
    server.wait_for_log("allocation moved");
    let mut stays = Client::udp_from(HOME, server.plain).with_login(&login);
    stays.allocate().expect("an allocation");
    assert_eq!(stays.refresh(0), 0);
    server.wait_for_log("allocation ended");

    for login in [
        Login::new("nobody", "wrong"),
        minted("another secret", 600, "x"),
        minted(SECRET, -600, "x"),
    ] {
        let mut stranger = Client::udp_from(HOME, server.plain).with_login(&login);
        assert_eq!(stranger.allocate(), Err(401));
    }

    send_until_closed(server.door, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    for bytes in [
        &b"neither TURN nor TLS"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x01\x00",
    ] {
        send_until_closed(server.door, bytes);
    }
    let mut secure = Client::tls_on(tcp_from_home(server.door), "relay.test").with_login(&login);
    secure.allocate().expect("an allocation");
    drop(secure);
    begin_quic(server.door);
    server.wait_for_metric("relay_http3_flows", "", 1.0);
}

#[test]
fn every_line_shows_as_much_of_a_client_as_the_configuration_says() {
    let site = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let site = site.local_addr().expect("bound").to_string();
    for (setting, home) in [("full", "127.77.0.77:"), ("truncated", "127.77.0.0/24"), ("off", "-")] {
        let server = Server::start_overridden(&[
            ("RELAY__LOG__CLIENT_IP", setting),
            ("RELAY__LOG__LEVEL", "trace"),
            ("RELAY__TURN__MOBILITY__ENABLED", "true"),
            ("RELAY__FRONT_DOOR__HTTP3__BACKEND", &site),
        ]);
        cause_every_line(&server);
        server.signal(Signal::SIGTERM);
        server.wait_for_log(" stopped");
        let log = server.log();
        for (what, field) in LINES {
            let shown = format!(" {field}={home}");
            let told = log.lines().any(|line| line.contains(what) && line.contains(&shown));
            assert!(told, "{setting}: no {what:?} with {shown:?}\n{log}");
        }
        let shows_it = |line: &&str| [HOME, AWAY].iter().any(|ip| line.contains(&ip.to_string()));
        let told: Vec<_> = log.lines().filter(shows_it).collect();
        assert!(setting == "full" || told.is_empty(), "{setting}: {told:#?}");
    }
}
