//! Workers end to end over real loopback sockets: UDP clients, peers, and each other.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use relay::net::udp::{UdpOptions, UdpSocket};
use relay::shard::ShardConfig;
use relay::turn::config::IcmpReports;
use relay::turn::{Config, DropReason, EndReason};
use relay::wire::message::{Class, Message, Method};
use relay_testkit_server::*;

const SIZES: [usize; 12] = [0, 1, 3, 4, 5, 160, 1199, 1200, 1472, 1473, 9000, 60_000];

//= TURN-DATA-05
#[test]
fn application_data_of_every_size_passes_unchanged_over_channels() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let server = TestServer::start_with(1, listen, ShardConfig::default(), turn_config());
        let peer = Peer::new();
        let mut client = server.client();
        let relayed = client.allocate();
        client.bind(0x4000, peer.addr());
        for (seed, size) in SIZES.into_iter().enumerate() {
            let data = pattern(size, seed);
            client.send_channel(0x4000, &data);
            assert_eq!(peer.recv(), (data.clone(), relayed), "{size} bytes up");
            peer.send(relayed, &data);
            assert_eq!(
                client.incoming(),
                Incoming::Channel { number: 0x4000, data },
                "{size} bytes down"
            );
        }
    }
}

//= TURN-DATA-02
//= TURN-DATA-07
#[test]
fn indications_carry_every_size_and_the_peers_real_port() {
    let server = TestServer::start(1);
    let peer = Peer::new();
    let mut client = server.client();
    let relayed = client.allocate();
    client.permit(peer.addr());
    for (seed, size) in SIZES.into_iter().enumerate() {
        let data = pattern(size, seed);
        client.send_indication(peer.addr(), &data);
        assert_eq!(peer.recv(), (data.clone(), relayed), "{size} bytes up");
        peer.send(relayed, &data);
        assert_eq!(
            client.incoming(),
            Incoming::Data {
                peer: peer.addr(),
                data
            },
            "{size} bytes down"
        );
    }
}

#[test]
fn an_ipv4_client_reaches_ipv6_peers_and_the_other_way() {
    let server = TestServer::start(1);
    let peer = Peer::on("[::1]:0");
    let mut client = server.client();
    let relayed = client.allocate_v6();
    assert!(relayed.is_ipv6());
    client.permit(peer.addr());
    client.send_indication(peer.addr(), b"up");
    assert_eq!(peer.recv(), (b"up".to_vec(), relayed));
    peer.send(relayed, b"down");
    assert_eq!(
        client.incoming(),
        Incoming::Data {
            peer: peer.addr(),
            data: b"down".to_vec()
        }
    );
    client.bind(0x4001, peer.addr());
    peer.send(relayed, b"channel");
    assert_eq!(
        client.incoming(),
        Incoming::Channel {
            number: 0x4001,
            data: b"channel".to_vec()
        }
    );
}

//= TURN-PERM-10
#[test]
fn a_peer_without_permission_is_not_heard() {
    let server = TestServer::start(1);
    let (friend, stranger) = (Peer::new(), Peer::on("127.0.0.3:0"));
    let mut client = server.client();
    let relayed = client.allocate();
    client.permit(friend.addr());
    stranger.send(relayed, b"?");
    client.send_indication(stranger.addr(), b"?");
    assert!(stranger.hears_nothing());
    assert!(client.hears_nothing());
    server.becomes("dropped without permission", 2, |s| {
        s.count(|c| c.dropped[DropReason::NoPermission as usize].get())
    });
}

//= STUN-MSG-09
#[test]
fn a_wildcard_listener_answers_from_the_address_that_was_asked() {
    for (listen, asked) in [
        ("0.0.0.0:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.99"),
        ("[::]:0", "::1"),
    ] {
        let server = TestServer::start_with(1, listen, ShardConfig::default(), turn_config());
        let asked = std::net::SocketAddr::new(asked.parse().unwrap(), server.udp.port());
        // A connected socket receives only from that address.
        let mut client = Client::udp(asked);
        let peer = Peer::new();
        let relayed = client.allocate();
        client.bind(0x4000, peer.addr());
        peer.send(relayed, b"down");
        assert_eq!(
            client.incoming(),
            Incoming::Channel {
                number: 0x4000,
                data: b"down".to_vec()
            }
        );
    }
}

#[test]
fn bursts_keep_their_order_both_ways_and_leave_as_they_came_in_few_large_messages() {
    let server = TestServer::start(1);
    let peer_socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UDP).unwrap();
    let mut client = server.client();
    let relayed = client.allocate();
    client.bind(0x4000, peer_socket.local_addr());
    let sizes = [1200, 1200, 1200, 700, 1200, 1200, 80, 1200, 1200, 1200, 1200, 33];
    for round in 0..20 {
        let packets: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(i, &size)| pattern(size, round + i))
            .collect();
        burst(&peer_socket, relayed, &packets);
        for packet in &packets {
            assert_eq!(
                client.incoming(),
                Incoming::Channel {
                    number: 0x4000,
                    data: packet.clone()
                }
            );
        }
    }
    assert!(
        server.stat(|s| s.gso.get()) == 1 && server.stat(|s| s.gro.get()) == 1,
        "this kernel has both"
    );
    // On average at least four packets per message. The last ones are counted a moment later.
    server.eventually("datagrams share messages, both ways", |s| {
        let both = |messages: u64, datagrams: u64, most: u64| datagrams >= 240 && messages * most < datagrams;
        both(s.stat(|s| s.sent_messages.get()), s.stat(|s| s.sent_datagrams.get()), 2)
            && both(
                s.stat(|s| s.received_messages.get()),
                s.stat(|s| s.received_datagrams.get()),
                1,
            )
    });
}

#[test]
fn bursts_from_a_client_reach_the_peer_whole_and_in_order() {
    let server = TestServer::start(1);
    let peer = Peer::new();
    let mut client = server.client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    let Pipe::Udp(socket) = &client.pipe else {
        unreachable!()
    };
    for round in 0..20 {
        let data: Vec<Vec<u8>> = (0..24)
            .map(|i| pattern(if i % 12 == 11 { 300 } else { 1200 }, round + i))
            .collect();
        for packet in &data {
            socket.send(&client.channel_frame(0x4000, packet)).unwrap();
        }
        for packet in &data {
            assert_eq!(peer.recv(), (packet.clone(), relayed));
        }
    }
}

fn hairpin(
    server: &TestServer,
    a: &mut Client,
    b: &mut Client,
    relayed_a: std::net::SocketAddr,
    relayed_b: std::net::SocketAddr,
) {
    a.permit(relayed_b);
    a.send_indication(relayed_b, b"before b permits a");
    server.eventually("the packet without permission is dropped", |server| {
        server.count(|c| c.dropped[DropReason::NoPermission as usize].get()) > 0
    });
    b.bind(0x4abc, relayed_a);
    for (seed, size) in [0, 1, 160, 1200, 1472].into_iter().enumerate() {
        let data = pattern(size, seed);
        a.send_indication(relayed_b, &data);
        assert_eq!(
            b.incoming(),
            Incoming::Channel {
                number: 0x4abc,
                data: data.clone()
            }
        );
        b.send_channel(0x4abc, &data);
        assert_eq!(a.incoming(), Incoming::Data { peer: relayed_b, data });
    }
    assert!(b.hears_nothing(), "the packet before the permission never arrives");
}

#[test]
fn two_clients_of_one_shard_reach_each_other_without_the_kernel() {
    let server = TestServer::start(1);
    let (mut a, mut b) = (server.client(), server.client());
    let (relayed_a, relayed_b) = (a.allocate(), b.allocate());
    hairpin(&server, &mut a, &mut b, relayed_a, relayed_b);
    assert_eq!(server.stat(|s| s.mailbox_sent.get()), 0);
    // Every datagram received came from a client: none left a relay socket and arrived at another.
    server.becomes("received and not from a client", 0, |s| {
        let from_clients = s.count(|c| c.up[relay::turn::types::Path::Other as usize][0].packets.get());
        let responses = s.count(|c| c.answered.get()) + s.count(|c| c.waiting.get());
        s.stat(|s| s.received_datagrams.get())
            .abs_diff(from_clients + responses)
    });
    assert!(server.count(|c| c.up[relay::turn::types::Path::Other as usize][0].packets.get()) > 10);
}

#[test]
fn two_clients_of_different_shards_reach_each_other_through_the_mailbox() {
    let server = TestServer::start(3);
    let mut a = server.client();
    let relayed_a = a.allocate();
    let (mut b, relayed_b) = server.client_elsewhere();
    hairpin(&server, &mut a, &mut b, relayed_a, relayed_b);
    server.eventually("every packet went through a mailbox and was taken", |s| {
        let sent = s.stat(|s| s.mailbox_sent.get());
        sent >= 11 && s.stat(|s| s.mailbox_received.get()) == sent
    });
    assert_eq!(server.stat(|s| s.mailbox_full.get()), 0);
}

/// Errors that are not read from a socket leave it ready forever.
#[test]
fn peers_that_refuse_everything_are_counted_and_no_reason_to_turn() {
    let server = TestServer::start(1);
    let closed = Peer::new().addr();
    let mut client = server.client();
    client.allocate();
    client.bind(0x4000, closed);
    for _ in 0..500 {
        client.send_channel(0x4000, b"?");
    }
    server.eventually("refused", |server| server.stat(|s| s.icmp_errors.get()) >= 1);
    while !client.hears_nothing() {}
    let turns = server.turns_per_second();
    assert!(turns < 100.0, "{turns} turns a second without traffic");
}

//= TURN-NET-01
//= TURN-NET-05
#[test]
fn an_icmp_error_is_told_to_the_client_and_harms_nothing() {
    for v6 in [false, true] {
        let turn = Config {
            icmp: IcmpReports::Always,
            ..turn_config()
        };
        let server = TestServer::start_with(1, "127.0.0.1:0", ShardConfig::default(), turn);
        let any = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
        let (closed, open) = (Peer::on(any).addr(), Peer::on(any));
        let mut client = server.client();
        let relayed = if v6 { client.allocate_v6() } else { client.allocate() };
        client.permit(closed);
        client.send_indication(closed, b"anybody there?");
        let (icmp_type, code) = if v6 { (1, 4) } else { (3, 3) };
        assert_eq!(
            client.incoming(),
            Incoming::Icmp {
                peer: closed,
                icmp_type,
                code
            }
        );
        // Again, interleaved with a peer that exists: it loses no datagram to another peer's error.
        for i in 0..20 {
            client.send_indication(closed, b"?");
            client.send_indication(open.addr(), &[i]);
            assert_eq!(open.recv(), (vec![i], relayed));
            open.send(relayed, &[i]);
            loop {
                match client.incoming() {
                    Incoming::Icmp { peer, .. } => assert_eq!(peer, closed),
                    got => {
                        assert_eq!(
                            got,
                            Incoming::Data {
                                peer: open.addr(),
                                data: vec![i]
                            }
                        );
                        break;
                    }
                }
            }
        }
        server.eventually("ICMP errors are counted", |s| s.stat(|s| s.icmp_errors.get()) >= 1);
    }
}

#[test]
fn garbage_is_counted_and_never_answered() {
    let server = TestServer::start(1);
    let mut client = server.client();
    for garbage in [
        &b""[..],
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 1400],
        &[0x16, 0xfe, 0xfd, 0, 0],
        &[0x40, 0, 0, 9],
    ] {
        client.pipe.send(garbage);
    }
    assert!(client.hears_nothing());
    server.becomes("received and dropped", (6, 6), |s| {
        let dropped = |s: &TestServer| s.count(|c| c.dropped.iter().map(|cell| cell.get()).sum());
        (s.count(|c| c.received.get()), dropped(s))
    });
    client.allocate();
}

#[test]
fn releasing_closes_the_relay_socket_and_the_port_can_be_bound_by_others() {
    let server = TestServer::start(1);
    let mut client = server.client();
    let relayed = client.allocate();
    server.becomes("relay sockets", 1, |s| s.stat(|s| s.relay_sockets.get()));
    assert!(std::net::UdpSocket::bind(relayed).is_err(), "bound by the relay");
    client.release();
    server.eventually("the relay socket is closed", |server| {
        server.stat(|s| s.relay_sockets.get()) == 0
    });
    server.eventually("the port is free", |_| std::net::UdpSocket::bind(relayed).is_ok());
}

#[test]
fn a_flood_on_one_relay_socket_does_not_starve_another() {
    let server = TestServer::start(1);
    let mut flooded = server.client();
    let target = flooded.allocate();
    let flooder = Peer::new();
    flooded.permit(flooder.addr());
    // Dropped at the end, also when a test fails. Nothing is ever sent.
    let (going_on, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while ended.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            for _ in 0..64 {
                let _ = flooder.socket.send_to(&[0; 100], target);
            }
        }
    });
    let peer = Peer::new();
    let mut client = server.client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    for i in 0..50 {
        client.send_channel(0x4000, &[i]);
        assert_eq!(peer.recv(), (vec![i], relayed));
        peer.send(relayed, &[i]);
        assert_eq!(
            client.incoming(),
            Incoming::Channel {
                number: 0x4000,
                data: vec![i]
            }
        );
    }
    drop(going_on);
    thread.join().unwrap();
}

#[test]
fn without_offload_everything_still_works() {
    let plain = UdpOptions { offload: false, ..UDP };
    let config = ShardConfig {
        relay: UdpOptions { errors: true, ..plain },
        pause: Duration::ZERO,
        ..ShardConfig::default()
    };
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &plain).unwrap();
    let udp = socket.local_addr();
    let shared = std::sync::Arc::new(relay::turn::Shared::new([1; 32]));
    let turn = std::sync::Arc::new(turn_config());
    let shards = relay::shard::Shards::start(config, turn, shared, vec![vec![socket]]).unwrap();
    let server = TestServer { shards, udp };
    let peer = Peer::new();
    let mut client = server.client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    for i in 0..50 {
        client.send_channel(0x4000, &pattern(1200, i));
    }
    for i in 0..50 {
        assert_eq!(peer.recv(), (pattern(1200, i), relayed));
    }
    assert_eq!(server.stat(|s| s.gso.get() + s.gro.get() + s.gso_messages.get()), 0);
}

#[test]
fn at_a_moderate_rate_packets_are_let_gather_and_none_is_lost() {
    // Long pauses, so that even a busy machine with one processor reaches a rate that counts as
    // moderate.
    let config = ShardConfig {
        pause: Duration::from_millis(10),
        ..ShardConfig::default()
    };
    let server = TestServer::start_with(1, "127.0.0.1:0", config, turn_config());
    let peer = Peer::new();
    let mut client = server.client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    let Pipe::Udp(socket) = &client.pipe else {
        unreachable!()
    };
    let frame = client.channel_frame(0x4000, &[7; 160]);
    let (sent, arrived) = (AtomicU32::new(0), AtomicU32::new(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) || arrived.load(SeqCst) < sent.load(SeqCst) {
                assert_eq!(peer.recv().1, relayed);
                arrived.fetch_add(1, SeqCst);
            }
        });
        let start = Instant::now();
        while sent.load(SeqCst) < 1_000 || server.stat(|s| s.pauses.get()) == 0 {
            // Never more in flight than the peer's socket holds.
            while sent.load(SeqCst) > arrived.load(SeqCst) + 100 {
                assert!(start.elapsed() < PATIENCE, "what is sent arrives");
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(start.elapsed() < PATIENCE, "pauses are taken");
            // Below 2,000 per second; 300 suffice for a pause.
            std::thread::sleep(Duration::from_micros(500));
            socket.send(&frame).unwrap();
            sent.fetch_add(1, SeqCst);
        }
        done.store(true, SeqCst);
        // The reader may wait for one more.
        socket.send(&frame).unwrap();
        sent.fetch_add(1, SeqCst);
    });
    assert_eq!(arrived.into_inner(), sent.into_inner());
}

#[test]
fn shutdown_ends_allocations_and_frees_every_port() {
    let server = TestServer::start(2);
    let udp = server.udp;
    let counters: Vec<_> = server.shards.counters().to_vec();
    let mut clients: Vec<Client> = (0..10).map(|_| server.client()).collect();
    let relayed: Vec<_> = clients.iter_mut().map(Client::allocate).collect();
    assert!(
        server.shards.shutdown(Duration::from_secs(5)),
        "every worker ended in time"
    );
    let ended: u64 = counters
        .iter()
        .map(|c| c.allocations_ended[EndReason::Shutdown as usize].get())
        .sum();
    assert_eq!(ended, 10);
    // Another test may have got one of the ports meanwhile, but not for long.
    let deadline = Instant::now() + PATIENCE;
    for addr in relayed.into_iter().chain([udp]) {
        while let Err(error) = std::net::UdpSocket::bind(addr) {
            assert!(Instant::now() < deadline, "{addr}: {error}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_new_configuration_applies_to_new_packets_and_spares_allocations() {
    let server = TestServer::start(2);
    let peer = Peer::new();
    let mut client = server.client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    let mut config = turn_config();
    config.binding = false;
    server.shards.set_config(std::sync::Arc::new(config));
    server.eventually("Binding is switched off", |server| {
        let mut other = server.client();
        let request = other.compose(Method::Binding, &|_| {});
        other.pipe.send(&request);
        other.pipe.recv(Duration::from_millis(50)).is_none()
    });
    client.send_channel(0x4000, b"still here");
    assert_eq!(peer.recv(), (b"still here".to_vec(), relayed));
}

#[test]
fn an_idle_worker_shows_that_it_lives() {
    let server = TestServer::start(2);
    // Every worker's heartbeat must advance, although nothing arrives.
    let turns = server.turns_per_second();
    assert!(turns < 4.0, "and does not spin: {turns} turns a second");
    let ages = server.shards.heartbeat_ages();
    assert!(ages.len() == 2 && ages.iter().all(|&age| age < PATIENCE), "{ages:?}");
}

#[test]
fn a_binding_request_is_answered_at_once_by_any_shard() {
    let server = TestServer::start(3);
    for _ in 0..30 {
        let mut client = server.client();
        let local = client.local_addr();
        let response = client.request(Method::Binding, &|_| {});
        let message = Message::parse(&response).unwrap();
        assert_eq!(message.class(), Class::Success);
        let mapped = message.xor_address(relay::wire::attribute::AttributeType::XOR_MAPPED_ADDRESS);
        assert_eq!(mapped.unwrap(), Some(local));
    }
    let busy = server.shards.counters().iter().filter(|c| c.answered.get() > 0).count();
    assert!(busy > 1, "the kernel deals clients out");
}
