//! TCP allocations (RFC 6062): a client reaches peers over TCP, and peers reach it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use relay::base::address::Transport;

use crate::client::{Client, Login, PATIENCE, SILENCE};
use crate::harness::{RELAY_IP, SECRET, Server, minted};
use crate::programs;
use crate::tcp_client::Data;

const ON: &str = "[peers]\nallow = [\"127.0.0.2/32\"]\n\n[turn.tcp_allocations]\nenabled = true\n";

fn serving() -> Server {
    Server::start_with(ON)
}

/// A client with a TCP allocation.
struct Owner {
    client: Client,
    relayed: SocketAddr,
    login: Login,
    transport: Transport,
    server: SocketAddr,
}

fn owner(server: &Server, transport: Transport) -> Owner {
    let address = if transport == Transport::Tls {
        server.tls
    } else {
        server.plain
    };
    let login = minted(SECRET, 600, "owner");
    let mut client = Client::over_transport(transport, address).with_login(&login);
    let relayed = client.allocate_tcp(1).expect("allocated");
    Owner {
        client,
        relayed,
        login,
        transport,
        server: address,
    }
}

impl Owner {
    /// Connects to a peer that listens.
    fn connect(&mut self, listener: &TcpListener) -> u32 {
        let peer = listener.local_addr().expect("bound");
        self.client.connect(peer).expect("connected")
    }

    fn bind(&self, id: u32) -> Data {
        Client::data(self.transport, self.server, &self.login, id)
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.2:0").expect("a free port")
}

pub(crate) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    // On Linux this bounds the wait for a connection too.
    let socket = socket2::SockRef::from(listener);
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (stream, from) = listener.accept().expect("a connection in time");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    (stream, from)
}

/// Connects to a relayed transport address as an allowed peer.
pub(crate) fn peer_connects(to: SocketAddr) -> TcpStream {
    peer_tries_to_connect(to).expect("somebody listens")
}

/// The same. A server that refuses the peer may reset the connection before this side sees it
/// established.
fn peer_tries_to_connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let from: SocketAddr = ([127, 0, 0, 2], 0).into();
    socket.bind(&from.into()).expect("bound");
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn read_exactly(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).expect("the data");
    bytes
}

/// Sends and receives concurrently, so that neither side blocks the other.
fn exchange(data: &mut Data, peer: &mut TcpStream, bytes: &[u8]) {
    let mut writer = peer.try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || writer.write_all(bytes).expect("the peer writes"));
        let received = data.receive(bytes.len());
        assert!(received == bytes, "down");
        sender.join().expect("written");
    });
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_exactly(peer, bytes.len()));
        data.send(bytes);
        assert!(reader.join().expect("read") == bytes, "up");
    });
}

//= TCP-ALLOC-06
//= TCP-ALLOC-08
//= TCP-ALLOC-10
#[test]
fn a_client_connects_to_a_peer_from_its_relayed_address_and_bytes_pass_unchanged() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut server = serving();
        let mut owner = owner(&server, transport);
        let listener = listen();
        // More than once: the second connection of a client arrives at either worker.
        for round in 0..6 {
            let id = owner.connect(&listener);
            let (mut peer, from) = accept(&listener);
            assert_eq!(from, owner.relayed, "{transport}");
            peer.write_all(b"before the bind").expect("write");
            let mut data = owner.bind(id);
            assert_eq!(data.receive(15), b"before the bind");
            exchange(
                &mut data,
                &mut peer,
                &pattern(if round == 0 { 3_000_000 } else { 10_000 }),
            );
            // The end of one direction leaves the other open.
            data.finish();
            assert!(is_closed(&mut peer));
            peer.write_all(b"last words").expect("write");
            assert_eq!(data.receive(10), b"last words");
            drop(peer);
            assert!(data.is_closed());
        }
        server.wait_for_metric("relay_tcp_peer_connections_bound_total", "", 6.0);
        server.wait_for_metric("relay_tcp_bytes_total", "up", 3_050_000.0);
        server.assert_healthy();
    }
}

//= TCP-ALLOC-07
//= TCP-ALLOC-10
#[test]
fn a_peer_connects_to_a_client_that_permits_it_and_no_other() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let server = serving();
        let mut owner = owner(&server, transport);
        match peer_tries_to_connect(owner.relayed) {
            Ok(mut refused) => assert!(is_closed(&mut refused), "without a permission"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        assert_eq!(
            owner
                .client
                .create_permission("127.0.0.2:1".parse().expect("an address")),
            0
        );
        let mut peer = peer_connects(owner.relayed);
        let bytes = pattern(100_000);
        peer.write_all(&bytes).expect("the kernel holds it");
        let (from, id) = owner.client.attempt(PATIENCE).expect("told");
        assert_eq!(from, peer.local_addr().expect("bound"));
        // The peer has sent everything before the client reads.
        peer.shutdown(Shutdown::Write).expect("open");
        let mut data = owner.bind(id);
        assert!(data.receive(bytes.len()) == bytes, "{transport}");
        assert!(data.is_closed());
        data.send(b"answer");
        assert_eq!(read_exactly(&mut peer, 6), b"answer");
        drop(data);
        assert!(is_closed(&mut peer));
        server.wait_for_metric("relay_tcp_peers_refused_total", "no_permission", 1.0);
    }
}

//= TCP-ALLOC-05
#[test]
fn a_peer_that_refuses_is_told_at_once_and_one_that_is_denied_is_not_tried() {
    let server = serving();
    let mut owner = owner(&server, Transport::Tcp);
    let closed = listen().local_addr().expect("bound");
    assert_eq!(owner.client.connect(closed), Err(447));
    assert_eq!(
        owner.client.connect("127.0.0.3:5000".parse().expect("an address")),
        Err(403)
    );
    assert_eq!(owner.client.connect(server.admin), Err(403));
    let listener = listen();
    let peer = listener.local_addr().expect("bound");
    assert!(owner.client.connect(peer).is_ok());
    assert_eq!(owner.client.connect(peer), Err(446));
}

//= TCP-ALLOC-08
#[test]
fn a_connection_is_its_users_alone() {
    let server = serving();
    let mut owner = owner(&server, Transport::Tcp);
    let listener = listen();
    let id = owner.connect(&listener);
    let mut peer = accept(&listener).0;
    // On either worker.
    for i in 0..4 {
        let login = minted(SECRET, 600, &format!("thief-{i}"));
        let mut thief = Client::tcp(server.plain).with_login(&login);
        assert_eq!(thief.connection_bind(id), 441);
        let mut guesser = Client::tcp(server.plain).with_login(&owner.login);
        assert_eq!(guesser.connection_bind(id ^ (2 << i)), 400);
    }
    let mut over_udp = Client::udp(server.plain).with_login(&owner.login);
    assert_eq!(over_udp.connection_bind(id), 400);
    let mut data = owner.bind(id);
    exchange(&mut data, &mut peer, b"mine");
    let mut again = Client::tcp(server.plain).with_login(&owner.login);
    assert_eq!(again.connection_bind(id), 400);
}

//= TCP-ALLOC-11
#[test]
fn the_end_of_the_allocation_closes_every_connection_of_it() {
    for release in [false, true] {
        let server = serving();
        let mut owner = owner(&server, Transport::Tcp);
        assert_eq!(
            owner
                .client
                .create_permission("127.0.0.2:1".parse().expect("an address")),
            0
        );
        let listener = listen();
        let id = owner.connect(&listener);
        let mut bound_peer = accept(&listener).0;
        let mut data = owner.bind(id);
        exchange(&mut data, &mut bound_peer, b"hello");
        let mut pending_peer = peer_connects(owner.relayed);
        owner.client.attempt(PATIENCE).expect("told");
        if release {
            assert_eq!(owner.client.refresh(0), 0);
        } else {
            drop(owner.client);
        }
        assert!(is_closed(&mut bound_peer) && is_closed(&mut pending_peer) && data.is_closed());
        let again = TcpStream::connect_timeout(&owner.relayed, PATIENCE);
        assert!(again.is_err(), "nobody listens any more");
        server.wait_for_metric("relay_tcp_peer_connections_ended_total", "allocation", 2.0);
        server.wait_for_log("up_bytes=5");
    }
}

//= TCP-ALLOC-10
#[test]
fn a_client_that_does_not_read_stops_its_peer_and_costs_no_memory() {
    let server = serving();
    let mut owner = owner(&server, Transport::Tls);
    let listener = listen();
    let id = owner.connect(&listener);
    let peer = accept(&listener).0;
    let mut data = owner.bind(id);
    let before = resident_kib(&server);
    peer.set_nonblocking(true).expect("non-blocking");
    let bytes = pattern(1 << 20);
    let (mut sent, mut quiet) = (0, 0);
    while quiet < 100 {
        match (&peer).write(&bytes[sent % bytes.len()..]) {
            Ok(len) => (sent, quiet) = (sent + len, 0),
            Err(_) => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert!(sent < 256 << 20, "nothing stops the peer");
    }
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more, {sent} bytes sent");
    // Nothing is lost.
    peer.shutdown(Shutdown::Write).expect("open");
    let mut got = 0;
    while got < sent {
        let len = (sent - got).min(bytes.len());
        assert!(data.receive(len) == bytes[..len], "at {got}");
        got += len;
    }
    assert!(data.is_closed());
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn two_clients_of_one_server_connect_to_each_other() {
    let server = serving();
    let (mut a, mut b) = (owner(&server, Transport::Tcp), owner(&server, Transport::Tls));
    // b has not permitted a. Whether or not a sees the connection, it is closed at once.
    let refused = a.client.connect(b.relayed);
    assert!(matches!(refused, Ok(_) | Err(447)), "{refused:?}");
    server.wait_for_metric_of_at_least("relay_tcp_peers_refused_total", "no_permission", 1.0);
    let deadline = Instant::now() + PATIENCE;
    assert_eq!(b.client.create_permission(a.relayed), 0);
    let id = loop {
        match a.client.connect(b.relayed) {
            Ok(id) => break id,
            Err(code) => assert!(
                code == 446 && Instant::now() < deadline,
                "waited for the refused connection to be forgotten: {code}"
            ),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let (from, other_id) = b.client.attempt(PATIENCE).expect("told");
    assert_eq!(from, a.relayed);
    let (mut at_a, mut at_b) = (a.bind(id), b.bind(other_id));
    at_a.send(b"ping");
    assert_eq!(at_b.receive(4), b"ping");
    at_b.send(b"pong");
    assert_eq!(at_a.receive(4), b"pong");
    drop(at_a);
    assert!(at_b.is_closed());
}

#[test]
fn peers_are_reached_over_ipv6() {
    let mut server = Server::start_dual_stack("[turn.tcp_allocations]\nenabled = true\n");
    let login = minted(SECRET, 600, "v6");
    let mut client = [(); 2].map(|()| Client::tcp(server.plain).with_login(&login));
    let relayed = [0, 1].map(|i| client[i].allocate_tcp(2).expect("allocated"));
    assert!(relayed.iter().all(SocketAddr::is_ipv6));
    assert_eq!(client[1].create_permission(relayed[0]), 0);
    let id = client[0].connect(relayed[1]).expect("connected");
    let (from, other_id) = client[1].attempt(PATIENCE).expect("told");
    assert_eq!(from, relayed[0]);
    let mut a = Client::data(Transport::Tcp, server.plain, &login, id);
    let mut b = Client::data(Transport::Tcp, server.plain, &login, other_id);
    a.send(b"over IPv6");
    assert_eq!(b.receive(9), b"over IPv6");
    server.assert_healthy();
}

//= TCP-ALLOC-12
#[test]
fn bounds_of_the_configuration_hold() {
    let server = Server::start_with(&format!("{ON}connections_per_allocation = 2\nmax_bytes = 1000\n"));
    let mut owner = owner(&server, Transport::Tcp);
    let listeners = [listen(), listen(), listen()];
    let peers = [0, 1, 2].map(|i| listeners[i].local_addr().expect("bound"));
    let id = owner.client.connect(peers[0]).expect("connected");
    owner.client.connect(peers[1]).expect("connected");
    assert_eq!(owner.client.connect(peers[2]), Err(508));
    let mut peer = accept(&listeners[0]).0;
    let mut data = owner.bind(id);
    exchange(&mut data, &mut peer, &[7; 499]);
    peer.write_all(b"12").expect("write");
    assert_eq!(data.receive(2), b"12", "what brings it to the bound still arrives");
    assert!(data.is_closed() && is_closed(&mut peer));
    server.wait_for_metric("relay_tcp_peer_connections_ended_total", "byte_limit", 1.0);
    assert!(owner.client.connect(peers[2]).is_ok(), "and makes room");
}

//= TCP-ALLOC-01
#[test]
fn switched_off_it_is_as_if_it_were_not_there() {
    let server = Server::start();
    let login = minted(SECRET, 600, "off");
    let mut client = Client::tcp(server.plain).with_login(&login);
    assert_eq!(client.allocate_tcp(1), Err(442));
    client.allocate().expect("allocated");
    let answer = client.try_request_within(SILENCE, relay::wire::message::Method::Connect, |w| {
        w.xor_address(
            relay::wire::attribute::AttributeType::XOR_PEER_ADDRESS,
            SocketAddr::from(([127, 0, 0, 2], 5000)),
        );
    });
    assert!(answer.is_none(), "{answer:?}");
    server.wait_for_metric("relay_dropped_packets_total", "unknown_method", 1.0);
}

#[test]
fn descriptors_are_given_back() {
    let server = serving();
    let files = || {
        std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
            .expect("a process")
            .count()
    };
    let before = files();
    for _ in 0..3 {
        let mut owner = owner(&server, Transport::Tcp);
        let listener = listen();
        let id = owner.connect(&listener);
        let mut peer = accept(&listener).0;
        let mut data = owner.bind(id);
        exchange(&mut data, &mut peer, b"x");
        assert!(files() > before);
    }
    let deadline = Instant::now() + PATIENCE;
    while files() > before {
        assert!(Instant::now() < deadline, "{} files, {before} before", files());
        std::thread::sleep(Duration::from_millis(10));
    }
    server.wait_for_metric("relay_tcp_peer_connections", "", 0.0);
}

#[test]
fn relay_ports_listen_only_where_there_is_a_tcp_allocation() {
    let server = serving();
    let mut client = Client::tcp(server.plain).with_login(&minted(SECRET, 600, "udp"));
    let relayed = client.allocate().expect("allocated");
    assert_eq!(relayed.ip().to_string(), RELAY_IP);
    assert!(TcpStream::connect_timeout(&relayed, SILENCE).is_err());
}

/// The output of coturn's client for a run over TCP allocations (`-T`).
fn uclient(server: &Server, tls: bool, options: &[&str]) -> String {
    let login = minted(SECRET, 600, "coturn");
    let address = if tls { server.tls } else { server.plain };
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    programs::run(
        "turnutils_uclient",
        &[
            &["-T"][..],
            options,
            if tls { &["-S"] } else { &[] },
            &["-u", &login.username, "-w", &login.password, "-p", &port, &ip],
        ]
        .concat(),
    )
}

//= TCP-ALLOC-06
//= TCP-ALLOC-07
#[test]
fn coturns_client_relays_over_tcp_between_two_allocations_of_its_own() {
    for tls in [false, true] {
        let server = serving();
        // Two clients, twenty messages each.
        let told = uclient(&server, tls, &["-m", "2", "-n", "20", "-l", "400"]);
        assert!(
            told.contains("tot_send_msgs=40, tot_recv_msgs=40"),
            "TLS: {tls}\n{told}"
        );
        server.wait_for_metric("relay_tcp_peer_connections_bound_total", "", 2.0);
        server.wait_for_metric("relay_tcp_bytes_total", "up", 16_000.0);
    }
}

/// It sends each ConnectionBind with the nonce of the control connection, and does not retry after
/// a 438.
//= TCP-ALLOC-08
//= D12
#[test]
fn coturns_client_binds_every_connection_with_the_nonce_of_its_control_connection() {
    let server = Server::start_with(&format!(
        "{ON}connections_per_allocation = 16\n\n[limits]\nallocations_per_user = 100\n"
    ));
    // Ten clients, each connected with the other nine, five messages each.
    let told = uclient(&server, false, &["-y", "-c", "-m", "10", "-n", "5", "-l", "100"]);
    assert!(told.contains("90 connections are completed"), "{told}");
    assert!(told.contains("Total lost packets 0 "), "{told}");
    server.wait_for_metric("relay_tcp_peer_connections_bound_total", "", 90.0);
    assert_eq!(server.metric("relay_error_responses_total", "438"), 0.0);
}
