//! Allocations that move with their clients (RFC 8016), over real sockets and between real workers.

use std::net::SocketAddr;
use std::time::Duration;

use relay::shard::ShardConfig;
use relay::turn::config::Mobility;
use relay::turn::{Config, DropReason};
use relay::wire::attribute::AttributeType;
use relay::wire::message::{Message, Method};
use relay_testkit_server::{Client, Gate, Incoming, PATIENCE, Peer, Pipe, TestServer, turn_config};

const CHANNEL: u16 = 0x4000;

fn server(workers: usize) -> TestServer {
    server_with(workers, ShardConfig::default())
}

fn server_with(workers: usize, config: ShardConfig) -> TestServer {
    let turn = Config {
        mobility: Some(Mobility {
            grace: Duration::from_secs(300),
        }),
        ..turn_config()
    };
    TestServer::start_with(workers, "127.0.0.1:0", config, turn)
}

fn ticket_of(response: &[u8]) -> Vec<u8> {
    let message = Message::parse(response).unwrap();
    message
        .attribute(AttributeType::MOBILITY_TICKET)
        .expect("MOBILITY-TICKET")
        .to_vec()
}

fn settled(client: &mut Client, peer: &Peer) -> (SocketAddr, Vec<u8>) {
    let response = client.request(Method::Allocate, &|writer| {
        writer
            .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(AttributeType::MOBILITY_TICKET, &[]);
    });
    let message = Message::parse(&response).unwrap();
    let relayed = message
        .xor_address(AttributeType::XOR_RELAYED_ADDRESS)
        .unwrap()
        .unwrap();
    client.bind(CHANNEL, peer.addr());
    (relayed, ticket_of(&response))
}

fn resumed(client: &mut Client, ticket: &[u8]) -> Vec<u8> {
    let response = client.request(Method::Refresh, &|writer| {
        writer.attribute(AttributeType::MOBILITY_TICKET, ticket);
    });
    ticket_of(&response)
}

/// The client and its peer reach each other.
fn assert_talks(client: &mut Client, peer: &Peer, relayed: SocketAddr) {
    client.send_channel(CHANNEL, b"there");
    assert_eq!(peer.recv(), (b"there".to_vec(), relayed));
    peer.send(relayed, b"back");
    let back = Incoming::Channel {
        number: CHANNEL,
        data: b"back".to_vec(),
    };
    assert_eq!(client.incoming(), back);
}

/// The next client: over TCP or UDP, from its own port.
fn elsewhere(server: &TestServer, n: usize) -> Client {
    if n.is_multiple_of(3) {
        server.tcp_client()
    } else {
        server.client()
    }
}

//= MOB-02
//= MOB-04
#[test]
fn an_allocation_follows_its_client_from_port_to_port_and_between_udp_and_tcp_across_workers() {
    let server = server(2);
    let peer = Peer::new();
    let mut old = server.client();
    let (relayed, mut ticket) = settled(&mut old, &peer);
    assert_talks(&mut old, &peer, relayed);
    for n in 0..40 {
        let mut new = elsewhere(&server, n);
        let next = resumed(&mut new, &ticket);
        assert_ne!(next, ticket);
        assert_talks(&mut old, &peer, relayed);
        assert_talks(&mut new, &peer, relayed);
        old.send_channel(CHANNEL, b"by the old path");
        (old, ticket) = (new, next);
    }
    server.becomes("data by old paths", 40, |server| {
        server.count(|counters| counters.dropped[DropReason::NoAllocation as usize].get())
    });
    server.becomes("allocations that arrived and left", (40, 40), |server| {
        let all = |of: fn(&relay::turn::Counters) -> u64| server.count(of);
        (all(|c| c.allocations_arrived.get()), all(|c| c.allocations_left.get()))
    });
    // With 40 moves between two workers, the probability that all stayed on one is negligible.
    for counters in server.shards.counters() {
        assert!(counters.allocations_arrived.get() > 0 && counters.allocations_left.get() > 0);
    }
    server.becomes("relay sockets", 1, |server| {
        server.stat(|stats| stats.relay_sockets.get())
    });
    old.release();
    server.eventually("everything is freed", |server| {
        server.stat(|stats| stats.relay_sockets.get()) == 0
            && server.count(|counters| counters.allocations.iter().map(|cell| cell.get()).sum()) == 0
    });
}

//= MOB-04
#[test]
fn what_a_peer_sends_during_moves_arrives_by_the_old_path_or_the_new_one_and_none_is_lost() {
    const MOVES: usize = 12;
    const EACH: usize = 50;
    let server = server(2);
    let peer = Peer::new();
    let mut clients = vec![server.client()];
    let (relayed, mut ticket) = settled(&mut clients[0], &peer);
    let (stop, moved) = std::sync::mpsc::channel();
    let sender = peer.socket.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let mut sent = 0_u32;
        // Until stopped, and then once more, also after the last move.
        let mut rest = EACH;
        while rest > 0 {
            sender.send_to(&sent.to_be_bytes(), relayed).unwrap();
            sent += 1;
            std::thread::sleep(Duration::from_micros(200));
            if stop_requested(&moved) {
                rest -= 1;
            }
        }
        sent
    });
    for n in 1..=MOVES {
        let mut new = elsewhere(&server, n);
        ticket = resumed(&mut new, &ticket);
        // Some packets arrive on each path, because the sender sends in real time.
        std::thread::sleep(Duration::from_millis(10));
        new.send_channel(CHANNEL, b"here I am");
        assert_eq!(peer.recv(), (b"here I am".to_vec(), relayed));
        clients.push(new);
    }
    drop(stop);
    let sent = thread.join().unwrap();
    let mut heard = Vec::new();
    let deadline = std::time::Instant::now() + PATIENCE;
    while heard.len() < sent as usize && std::time::Instant::now() < deadline {
        for client in &mut clients {
            while let Some(data) = next_number(client) {
                heard.push(data);
            }
        }
    }
    heard.sort_unstable();
    let dropped = server.count(|counters| counters.dropped.iter().map(|cell| cell.get()).sum());
    assert_eq!((heard, dropped), ((0..sent).collect(), 0));
    server.becomes("allocations that arrived", MOVES as u64, |server| {
        server.count(|counters| counters.allocations_arrived.get())
    });
}

fn stop_requested(stop: &std::sync::mpsc::Receiver<()>) -> bool {
    stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected)
}

fn next_number(client: &mut Client) -> Option<u32> {
    match client.next(Duration::from_millis(1))? {
        Incoming::Channel { data, .. } => Some(u32::from_be_bytes(data.try_into().unwrap())),
        other => panic!("{other:?}"),
    }
}

//= MOB-04
#[test]
fn the_last_data_by_the_old_path_and_the_first_by_the_new_one_arrive_though_they_come_in_one_turn() {
    let (gate, config) = Gate::with(ShardConfig::default());
    let server = server_with(2, config);
    let peer = Peer::new();
    let on = |shard: usize| {
        let (mut client, _) = server.client_on(shard);
        client.release();
        client
    };
    let [mut old, mut new] = [on(0), on(1)];
    let (relayed, ticket) = settled(&mut old, &peer);
    resumed(&mut new, &ticket);
    let visited = &server.shards.shard_counters()[1];
    gate.in_one_turn(&server, 0, || {
        old.send_channel(CHANNEL, b"the last by the old path");
        let waiting = |server: &TestServer| server.shards.counters()[1].waiting.get();
        let before = waiting(&server);
        for n in 1..=3 {
            new.send_channel(CHANNEL, &[n]);
        }
        server.becomes("held", before + 3, waiting);
        // At the end of that turn it asks the worker that owns the allocation.
        let turns = visited.turns.get();
        server.eventually("the turn ends", |_| visited.turns.get() > turns);
    });
    let expected = [&b"the last by the old path"[..], &[1], &[2], &[3]];
    for data in expected {
        assert_eq!(peer.recv(), (data.to_vec(), relayed));
    }
    assert_talks(&mut new, &peer, relayed);
    server.becomes("dropped", 0, |server| {
        server.count(|counters| counters.dropped.iter().map(|cell| cell.get()).sum())
    });
}

//= D11
#[test]
fn a_client_whose_connection_broke_finds_its_allocation_again() {
    let server = server(2);
    let peer = Peer::new();
    let mut old = server.tcp_client();
    let (relayed, mut ticket) = settled(&mut old, &peer);
    let away = |server: &TestServer| server.count(|counters| counters.away.get());
    for n in 1..20 {
        drop(old);
        server.eventually("the client is away", |server| away(server) == 1);
        let dropped = |server: &TestServer| server.count(|c| c.dropped[DropReason::ClientAway as usize].get());
        peer.send(relayed, b"nobody home");
        server.eventually("it is counted", |server| dropped(server) == n);
        old = server.tcp_client();
        ticket = resumed(&mut old, &ticket);
        server.eventually("it has come", |server| away(server) == 0);
        peer.send(relayed, b"welcome");
        let welcome = Incoming::Channel {
            number: CHANNEL,
            data: b"welcome".to_vec(),
        };
        assert_eq!(old.incoming(), welcome);
        assert_talks(&mut old, &peer, relayed);
    }
}

#[test]
fn two_clients_of_the_server_go_on_talking_when_one_of_them_moves() {
    let server = server(2);
    let peer = Peer::new();
    let mut moving = server.client();
    let (relayed, mut ticket) = settled(&mut moving, &peer);
    let (mut other, others) = server.client_elsewhere();
    moving.permit(others);
    other.permit(relayed);
    for n in 0..20 {
        let mut new = elsewhere(&server, n);
        ticket = resumed(&mut new, &ticket);
        new.send_indication(others, b"moved");
        let moved = Incoming::Data {
            peer: relayed,
            data: b"moved".to_vec(),
        };
        assert_eq!(other.incoming(), moved);
        other.send_indication(relayed, b"seen");
        let seen = Incoming::Data {
            peer: others,
            data: b"seen".to_vec(),
        };
        assert_eq!(new.incoming(), seen);
        moving = new;
    }
    drop(moving);
    server.eventually("a worker sends to another", |server| {
        server.stat(|stats| stats.mailbox_sent.get()) > 0
    });
}

#[test]
fn a_server_that_stops_while_allocations_move_stops_in_time() {
    for _ in 0..5 {
        let server = server(2);
        let peer = Peer::new();
        let mut clients: Vec<(Client, Client)> = (0..10)
            .map(|n| {
                let (mut old, mut new) = (server.client(), elsewhere(&server, n));
                let (_, ticket) = settled(&mut old, &peer);
                resumed(&mut new, &ticket);
                (old, new)
            })
            .collect();
        for (_, new) in &mut clients {
            new.send_channel(CHANNEL, b"x");
        }
        assert!(server.shards.shutdown(PATIENCE));
    }
}

#[test]
fn what_another_client_sends_during_moves_arrives_or_is_counted() {
    const MOVES: usize = 12;
    let server = server(2);
    let peer = Peer::new();
    let mut clients = vec![server.client()];
    let (relayed, mut ticket) = settled(&mut clients[0], &peer);
    let (mut other, others) = server.client_elsewhere();
    clients[0].permit(others);
    other.bind(CHANNEL, relayed);
    let Pipe::Udp(socket) = &other.pipe else {
        panic!("a UDP client")
    };
    let (socket, frame) = (socket.try_clone().unwrap(), other.channel_frame(CHANNEL, b"hello"));
    let (stop, moved) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut sent = 0_u32;
        while !stop_requested(&moved) {
            socket.send(&frame).unwrap();
            sent += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        sent
    });
    for n in 1..=MOVES {
        let mut new = elsewhere(&server, n);
        ticket = resumed(&mut new, &ticket);
        // Some packets arrive on each path, because the sender sends in real time.
        std::thread::sleep(Duration::from_millis(10));
        new.send_channel(CHANNEL, b"here I am");
        assert_eq!(peer.recv().0, b"here I am");
        clients.push(new);
    }
    drop(stop);
    let sent = thread.join().unwrap();
    let dropped = || server.count(|counters| counters.dropped[DropReason::NoSuchRelay as usize].get());
    let mut heard = 0;
    let deadline = std::time::Instant::now() + PATIENCE;
    while heard + dropped() < u64::from(sent) && std::time::Instant::now() < deadline {
        for client in &mut clients {
            while let Some(Incoming::Data { .. }) = client.next(Duration::from_millis(1)) {
                heard += 1;
            }
        }
    }
    assert_eq!(heard + dropped(), u64::from(sent), "heard and counted");
    assert!(dropped() <= MOVES as u64 * 2, "{} of {sent} dropped", dropped());
}
