//! Workers end to end with QUIC clients and their backend, distinguished from TURN on the same
//! socket. The content of the packets is irrelevant here; `tests/blackbox/http3.rs` has real ones.

use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::time::{Duration, Instant};

use relay::shard::counters::{Http3Drop, Http3End};
use relay::shard::{Http3Config, ShardConfig, SharedBackend};
use relay::turn::DropReason;
use relay::wire::message::{Class, Message, Method};
use relay_testkit_server::http3::{passed_to, start_http3};
use relay_testkit_server::*;

/// The connection ID that the backend of these tests chooses.
const CHOSEN: [u8; 8] = *b"answered";

fn start(backend: &Peer) -> TestServer {
    start_http3(1, "127.0.0.1:0", Some(passed_to(backend.addr(), |_| {})))
}

/// A long header of QUIC version 1 with the fixed bit, an Initial packet's.
fn long(destination: &[u8], source: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0xC0, 0, 0, 0, 1];
    for id in [destination, source] {
        bytes.push(id.len() as u8);
        bytes.extend(id);
    }
    bytes.resize(len, 0);
    bytes
}

fn initial() -> Vec<u8> {
    long(b"original", b"client", 1200)
}

/// A short header to the backend, followed by `data`.
fn short(first: u8, data: &[u8]) -> Vec<u8> {
    [&[first][..], &CHOSEN, data].concat()
}

/// A client that does not use TURN.
struct Quic {
    socket: StdUdpSocket,
    /// The backend's end of its flow, once known.
    flow: Option<SocketAddr>,
}

impl Quic {
    fn new(server: SocketAddr) -> Self {
        Self::from(server, 0)
    }

    fn from(server: SocketAddr, port: u16) -> Self {
        let any = if server.is_ipv4() { "127.0.0.1" } else { "::1" };
        let socket = StdUdpSocket::bind((any, port)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, flow: None }
    }

    fn send(&self, bytes: &[u8]) {
        assert_eq!(self.socket.send(bytes).unwrap(), bytes.len());
    }

    #[track_caller]
    fn recv(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let len = self.socket.recv(&mut buffer).expect("a datagram for the client");
        buffer.truncate(len);
        buffer
    }

    fn hears_nothing(&self) -> bool {
        self.socket.set_read_timeout(Some(SILENCE)).unwrap();
        let nothing = self.socket.recv(&mut [0; 2048]).is_err();
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        nothing
    }

    /// Sends the first datagram; returns the source that the backend sees.
    #[track_caller]
    fn begin(&mut self, backend: &Peer) -> SocketAddr {
        self.send(&initial());
        let (first, flow) = backend.recv();
        assert_eq!(first, initial());
        self.flow = Some(flow);
        flow
    }

    /// Connects, gets a reply, and proves that it has received it.
    #[track_caller]
    fn connect(&mut self, backend: &Peer) -> SocketAddr {
        let flow = self.begin(backend);
        let answer = long(b"client", &CHOSEN, 1200);
        backend.send(flow, &answer);
        assert_eq!(self.recv(), answer);
        self.send(&long(&CHOSEN, b"client", 1200));
        assert_eq!(backend.recv().1, flow);
        flow
    }
}

fn ended(server: &TestServer, why: Http3End) -> u64 {
    server.stat(|s| s.http3_ended[why as usize].get())
}

fn dropped(server: &TestServer, why: Http3Drop) -> u64 {
    server.stat(|s| s.http3_dropped[why as usize].get())
}

fn not_turn(server: &TestServer) -> u64 {
    server.count(|c| c.dropped[DropReason::NotTurn as usize].get())
}

fn flows(server: &TestServer) -> (u64, u64) {
    (
        server.stat(|s| s.http3_flows.get()),
        server.stat(|s| s.http3_unproven.get()),
    )
}

#[test]
fn two_clients_of_one_backend_are_kept_apart_and_every_datagram_keeps_its_size_and_order() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let backend = Peer::new();
        let server = start_http3(2, listen, Some(passed_to(backend.addr(), |_| {})));
        let mut clients = [Quic::new(server.udp), Quic::new(server.udp)];
        let from = clients.each_mut().map(|client| client.connect(&backend));
        assert_ne!(from[0], from[1]);
        server.becomes("flows", (2, 0), flows);
        let sizes = [1, 20, 1199, 1200, 1200, 1200, 1200, 900, 1452, 1452, 40, 1400, 9000];
        let (mut up, mut down) = (0, 0);
        for round in 0..20 {
            for (client, flow) in clients.iter().zip(from) {
                for (seed, size) in sizes.into_iter().enumerate() {
                    client.send(&short(0x40 + round, &pattern(size, seed)));
                }
                for (seed, size) in sizes.into_iter().enumerate() {
                    let sent = short(0x40 + round, &pattern(size, seed));
                    assert_eq!(backend.recv(), (sent.clone(), flow));
                    up += sent.len() as u64;
                }
            }
            for (seed, size) in sizes.into_iter().enumerate() {
                for (client, flow) in from.into_iter().enumerate() {
                    backend.send(flow, &pattern(size, seed + 100 * client));
                    down += size as u64;
                }
            }
            for (index, client) in clients.iter().enumerate() {
                for (seed, size) in sizes.into_iter().enumerate() {
                    assert_eq!(client.recv(), pattern(size, seed + 100 * index));
                }
            }
        }
        let datagrams = 2 * 20 * sizes.len() as u64;
        let passed = |server: &TestServer, of: usize| {
            (
                server.stat(|s| s.http3_datagrams[of].get()),
                server.stat(|s| s.http3_bytes[of].get()),
            )
        };
        server.becomes("passed to the backend", (datagrams + 4, up + 4 * 1200), |s| {
            passed(s, 0)
        });
        server.becomes("passed to clients", (datagrams + 2, down + 2 * 1200), |s| passed(s, 1));
        assert_eq!(server.count(|c| c.received.get()), 0, "the core has seen none of it");
    }
}

#[test]
fn a_reply_comes_from_the_address_that_was_asked() {
    let backend = Peer::new();
    let server = start_http3(1, "0.0.0.0:0", Some(passed_to(backend.addr(), |_| {})));
    // Its socket is connected, and receives from that address alone.
    Quic::new(SocketAddr::from(([127, 0, 0, 99], server.udp.port()))).connect(&backend);
}

//= XPORT-13
#[test]
fn what_begins_no_connection_is_the_counted_drop_it_was() {
    let backend = Peer::new();
    let server = start(&backend);
    let client = Quic::new(server.udp);
    let mut other_version = initial();
    other_version[1..5].fill(0);
    let strange = [
        initial()[..1199].to_vec(),
        other_version,
        short(0x80, &[0; 1300]),
        vec![0x9F; 1300],
        vec![4; 1300],
        vec![0xC0],
        Vec::new(),
    ];
    for datagram in &strange {
        client.send(datagram);
    }
    // ChannelData without an allocation, and on a reserved number.
    client.send(&[0x41, 0, 0, 1, 7]);
    client.send(&short(0x51, b"data"));
    server.becomes("received, and why it was dropped", (9, 7, 1, 1), |s| {
        let dropped = |reason| s.count(|c| c.dropped[reason as usize].get());
        let channel = (dropped(DropReason::NoAllocation), dropped(DropReason::BadChannelData));
        (s.count(|c| c.received.get()), not_turn(s), channel.0, channel.1)
    });
    assert!(backend.hears_nothing());
    assert_eq!(server.stat(|s| s.http3_began.get()), 0);
}

#[test]
fn without_a_backend_or_on_another_listener_nothing_is_passed_on() {
    let backend = Peer::new();
    let elsewhere = ShardConfig {
        http3: Some(passed_to(backend.addr(), |_| {})),
        ..ShardConfig::default()
    };
    for server in [
        start_http3(1, "127.0.0.1:0", None),
        TestServer::start_with(1, "127.0.0.1:0", elsewhere, turn_config()),
    ] {
        Quic::new(server.udp).send(&initial());
        server.eventually("it is dropped", |s| not_turn(s) == 1);
    }
    assert!(backend.hears_nothing());
    let server = start_http3(1, "127.0.0.1:0", Some(Http3Config::new(SharedBackend::default())));
    Quic::new(server.udp).send(&initial());
    server.eventually("it leads nowhere", |s| dropped(s, Http3Drop::NoBackend) == 1);
}

// Short headers look like ChannelData or, with a greased fixed bit (RFC 9287), like anything.
//= XPORT-13
#[test]
fn a_flow_takes_every_first_byte_and_stun_stays_stun() {
    let backend = Peer::new();
    let server = start(&backend);
    let mut quic = Quic::new(server.udp);
    let flow = quic.connect(&backend);
    for first in 0..=255 {
        quic.send(&short(first, b"protected"));
        assert_eq!(backend.recv(), (short(first, b"protected"), flow));
    }
    let mut turn = Client::new(Pipe::Udp(quic.socket.try_clone().unwrap()));
    let response = turn.request(Method::Binding, &|_| {});
    assert_eq!(Message::parse(&response).unwrap().class(), Class::Success);
    // Its version is that of DTLS, which is not served here.
    quic.send(&[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    server.eventually("it is dropped", |s| not_turn(s) == 1);
    server.becomes("flows", (1, 0), flows);
}

#[test]
fn a_five_tuple_with_an_allocation_is_turns() {
    let backend = Peer::new();
    let server = start(&backend);
    let peer = Peer::new();
    let mut client = server.client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    client.pipe.send(&initial());
    client.send_channel(0x4000, b"media");
    assert_eq!(peer.recv(), (b"media".to_vec(), relayed));
    server.becomes("dropped as no TURN", 1, not_turn);
    assert!(backend.hears_nothing());
    assert_eq!(flows(&server), (0, 0));
}

#[test]
fn an_allocation_takes_its_five_tuple_from_a_flow() {
    let backend = Peer::new();
    let server = start(&backend);
    let mut quic = Quic::new(server.udp);
    let flow = quic.connect(&backend);
    let mut turn = Client::new(Pipe::Udp(quic.socket.try_clone().unwrap()));
    let relayed = turn.allocate();
    backend.send(flow, &short(0x40, b"late"));
    let peer = Peer::new();
    turn.bind(0x4000, peer.addr());
    turn.send_channel(0x4000, b"media");
    assert_eq!(peer.recv(), (b"media".to_vec(), relayed));
    peer.send(relayed, b"answer");
    let data = b"answer".to_vec();
    assert_eq!(turn.incoming(), Incoming::Channel { number: 0x4000, data });
    server.eventually("the flow is over", |s| ended(s, Http3End::Allocation) == 1);
    assert!(backend.hears_nothing());
}

/// The address of a first datagram may be forged, and the backend accepts every token that it has
/// given to any client here.
#[test]
fn until_a_client_has_heard_the_backend_three_times_what_it_sent_goes_to_it() {
    let backend = Peer::new();
    let server = start(&backend);
    let mut client = Quic::new(server.udp);
    let flow = client.begin(&backend);
    for _ in 0..10 {
        backend.send(flow, &long(b"client", &CHOSEN, 1200));
    }
    server.eventually("the rest is dropped", |s| dropped(s, Http3Drop::Unproven) == 7);
    for _ in 0..3 {
        assert_eq!(client.recv(), long(b"client", &CHOSEN, 1200));
    }
    assert!(client.hears_nothing());
    server.becomes("flows", (1, 1), flows);
    client.send(&long(&CHOSEN, b"client", 1200));
    backend.recv();
    for _ in 0..10 {
        backend.send(flow, &short(0x40, &[1; 1200]));
    }
    for _ in 0..10 {
        client.recv();
    }
    server.becomes("flows and dropped", ((1, 0), 7), |s| {
        (flows(s), dropped(s, Http3Drop::Unproven))
    });
}

#[test]
fn every_limit_holds_and_who_has_heard_the_backend_stays() {
    let backend = Peer::new();
    let limits = |config: &mut Http3Config| (config.limits.flows, config.limits.flows_per_ip) = (3, 4);
    let server = start_http3(1, "127.0.0.1:0", Some(passed_to(backend.addr(), limits)));
    let mut proven = Quic::new(server.udp);
    proven.connect(&backend);
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = Quic::new(server.udp);
            let flow = client.begin(&backend);
            (client, flow)
        })
        .collect();
    server.becomes("flows and ended", ((3, 2), 8), |s| {
        (flows(s), ended(s, Http3End::Displaced))
    });
    let answer = long(b"client", &CHOSEN, 100);
    for (client, flow) in &clients[8..] {
        backend.send(*flow, &answer);
        assert_eq!(client.recv(), answer);
    }
    proven.send(&short(0x40, b"still here"));
    assert_eq!(backend.recv().1, proven.flow.unwrap());

    let limits = |config: &mut Http3Config| (config.limits.flows_per_ip, config.limits.new_flows_per_second) = (2, 4);
    let server = start_http3(1, "127.0.0.1:0", Some(passed_to(backend.addr(), limits)));
    for _ in 0..2 {
        Quic::new(server.udp).begin(&backend);
    }
    Quic::new(server.udp).send(&initial());
    server.eventually("it is one too many", |s| dropped(s, Http3Drop::TooManyFromSource) == 1);
    assert!(backend.hears_nothing());
    let limits = |config: &mut Http3Config| config.limits.new_flows_per_second = 1;
    let server = start_http3(1, "127.0.0.1:0", Some(passed_to(backend.addr(), limits)));
    for _ in 0..30 {
        Quic::new(server.udp).send(&initial());
    }
    server.eventually("they come too fast", |s| dropped(s, Http3Drop::TooFast) >= 1);
}

#[test]
fn a_flow_whose_time_is_up_is_forgotten_and_its_client_may_come_again() {
    let backend = Peer::new();
    let short_lived = |config: &mut Http3Config| {
        config.handshake_timeout = PATIENCE / 4;
        config.limits.idle_timeout = Duration::from_secs(1);
    };
    let server = start_http3(1, "127.0.0.1:0", Some(passed_to(backend.addr(), short_lived)));
    let mut silent = Quic::new(server.udp);
    let mut idle = Quic::new(server.udp);
    idle.connect(&backend);
    silent.begin(&backend);
    server.eventually("neither is left", |s| flows(s) == (0, 0));
    server.becomes("ended", (1, 1), |s| {
        (ended(s, Http3End::Unproven), ended(s, Http3End::Idle))
    });
    for client in [&mut silent, &mut idle] {
        client.begin(&backend);
    }
}

#[test]
fn a_backend_that_is_gone_harms_nobody_and_is_served_when_it_is_back() {
    // A separate address, so that no other socket takes its port while it is closed.
    let backend = Peer::on("127.0.0.77:0");
    let address = backend.addr();
    let server = start(&backend);
    let mut quic = Quic::new(server.udp);
    quic.connect(&backend);
    drop(backend);
    server.eventually("it is noticed", |s| {
        quic.send(&short(0x40, b"anybody?"));
        std::thread::sleep(Duration::from_millis(5));
        s.stat(|c| c.http3_backend_errors.get()) > 0
    });
    // An idle worker turns once per second, and with connections four times.
    assert!(server.turns_per_second() < 100.0, "it does not spin");
    let backend = Peer::on(&address.to_string());
    let deadline = Instant::now() + PATIENCE;
    quic.socket.set_read_timeout(Some(SILENCE)).unwrap();
    backend.socket.set_read_timeout(Some(SILENCE)).unwrap();
    loop {
        assert!(Instant::now() < deadline, "the backend hears nothing");
        quic.send(&short(0x41, b"back"));
        let mut buffer = [0; 2048];
        if backend.socket.recv(&mut buffer).is_ok() {
            break;
        }
    }
}

/// As many downloads as the backend can send, beside one call.
#[test]
fn downloads_hold_up_no_media() {
    const DOWNLOADS: usize = 32;
    let backend = Peer::new();
    let server = start(&backend);
    let peer = Peer::new();
    let mut turn = server.client();
    let relayed = turn.allocate();
    turn.bind(0x4000, peer.addr());
    let mut clients: Vec<_> = (0..DOWNLOADS).map(|_| Quic::new(server.udp)).collect();
    let from: Vec<_> = clients.iter_mut().map(|client| client.connect(&backend)).collect();
    // Dropped at the end, also when a test fails. Nothing is ever sent.
    let (going_on, ended) = std::sync::mpsc::channel::<()>();
    let is_done = move || ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected);
    let backend = &backend;
    std::thread::scope(|scope| {
        let _going_on = going_on;
        scope.spawn(move || {
            let datagram = short(0x40, &[7; 1200]);
            loop {
                for flow in &from {
                    // A full buffer is at the download's expense.
                    let _ = backend.socket.send_to(&datagram, flow);
                }
                if is_done() {
                    break;
                }
            }
        });
        for i in 0..200_u32 {
            turn.send_channel(0x4000, &i.to_be_bytes());
            assert_eq!(peer.recv(), (i.to_be_bytes().to_vec(), relayed));
            peer.send(relayed, &i.to_be_bytes());
            let data = i.to_be_bytes().to_vec();
            assert_eq!(turn.incoming(), Incoming::Channel { number: 0x4000, data });
        }
    });
    // And each download gets its share.
    for client in &clients {
        client.recv();
    }
    assert_eq!(flows(&server), (DOWNLOADS as u64, 0));
}
