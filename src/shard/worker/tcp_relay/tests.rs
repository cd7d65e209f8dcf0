use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use relay_testkit::turn::{Client, Incoming, PATIENCE, accept, error_code};

use super::*;
use crate::shard::tests::tcp_pair;
use crate::shard::worker::tests::Alone;
use crate::turn::output::ConnectionEnd;
use crate::wire::attribute::AttributeType;
use crate::wire::message::{Message, Method};

/// A client that listens for peers at a relayed transport address, and that address.
fn listening(alone: &Alone) -> (Client, SocketAddr) {
    let (mut control, _) = alone.tcp_client();
    let relayed = control.allocate_tcp();
    control.permit("127.0.0.1:1".parse().unwrap());
    (control, relayed)
}

/// A connection with a peer: the client's end and the peer's.
fn bound(alone: &Alone, control: &mut Client) -> (TcpStream, TcpStream) {
    bound_with(alone, control, b"")
}

/// The same; `early` stands right behind the client's ConnectionBind.
fn bound_with(alone: &Alone, control: &mut Client, early: &[u8]) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let id = control.connect(address);
    let (peer, _) = accept(&listener);
    peer.set_nonblocking(true).unwrap();
    let (mut client, stream) = alone.tcp_client();
    client.connection_bind(id, early);
    (stream, peer)
}

fn ended(alone: &Alone, why: ConnectionEnd) -> u64 {
    alone.count(|c| c.tcp.ended[why as usize].get())
}

/// Sends `bytes` at one end; they arrive at the other.
#[track_caller]
fn pass(alone: &Alone, mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut arrived = Vec::new();
    alone.until("it has arrived", |_| {
        let mut chunk = [0; 64];
        if let Ok(len) = to.read(&mut chunk) {
            arrived.extend_from_slice(&chunk[..len]);
        }
        arrived == bytes
    });
}

#[test]
fn every_byte_of_a_bound_connection_is_counted_in_its_direction() {
    let alone = Alone::new();
    let (mut control, _) = listening(&alone);
    let (client, peer) = bound(&alone, &mut control);
    let bytes = || alone.count(|c| c.tcp.up_bytes.get() * 1000 + c.tcp.down_bytes.get());
    assert_eq!(bytes(), 0);
    pass(&alone, &client, &peer, b"up there");
    assert_eq!(bytes(), 8_000);
    pass(&alone, &peer, &client, b"down");
    assert_eq!(bytes(), 8_004);
    pass(&alone, &client, &peer, b"up");
    assert_eq!(bytes(), 10_004);
}

#[test]
fn what_stands_right_behind_a_connection_bind_is_counted_like_what_comes_later() {
    let alone = Alone::new();
    let (mut control, _) = listening(&alone);
    let (_client, mut peer) = bound_with(&alone, &mut control, b"early");
    let mut arrived = [0; 16];
    alone.until("it has arrived", |_| peer.read(&mut arrived).is_ok_and(|len| len == 5));
    assert_eq!(alone.count(|c| c.tcp.up_bytes.get()), 5);
}

/// Descriptors that are ready although nothing is to be done.
fn ready(alone: &Alone) -> usize {
    alone.turn();
    alone.worker.borrow_mut().epoll.wait(Some(Duration::ZERO)).unwrap()
}

#[test]
fn a_connection_in_which_nothing_moves_wakes_nobody() {
    let alone = Alone::new();
    let (mut control, relayed) = listening(&alone);
    let (client, peer) = bound(&alone, &mut control);
    assert_eq!(ready(&alone), 0);
    pass(&alone, &client, &peer, b"up");
    pass(&alone, &peer, &client, b"down");
    assert_eq!(ready(&alone), 0);
    // One that a peer has made, before and after it is bound.
    let accepted = TcpStream::connect(relayed).unwrap();
    alone.turn();
    let Incoming::Attempt { id, .. } = control.incoming() else {
        panic!("a peer has connected")
    };
    (&accepted).write_all(b"early").unwrap();
    assert_eq!(ready(&alone), 0, "it waits in the kernel");
    let (mut client, _stream) = alone.tcp_client();
    client.connection_bind(id, b"");
    assert_eq!(ready(&alone), 0);
}

#[test]
fn a_client_that_has_gone_while_its_peer_does_not_read_wakes_nobody_and_loses_nothing() {
    let alone = Alone::new();
    let (mut control, _) = listening(&alone);
    let (client, mut peer) = bound(&alone, &mut control);
    peer.shutdown(Shutdown::Write).unwrap();
    alone.until("the end is passed on", |_| matches!((&client).read(&mut [0; 8]), Ok(0)));
    let mut sent = 0;
    while let Ok(len) = (&client).write(&[7; 65_536]) {
        sent += len;
        alone.turn();
    }
    client.shutdown(Shutdown::Write).unwrap();
    alone.turn();
    assert_eq!(ready(&alone), 0, "epoll has said once that both directions are shut");
    let (mut heard, mut chunk) = (0, vec![0; 1 << 20]);
    alone.until("everything has arrived", |_| {
        if let Ok(len) = peer.read(&mut chunk) {
            heard += len;
        }
        heard == sent
    });
    alone.until("it is over", |worker| {
        worker.counters.tcp.ended[ConnectionEnd::Closed as usize].get() == 1
    });
}

#[test]
fn an_unbound_peer_is_gone_whichever_way_epoll_says_so() {
    let ways: [fn(&mut ReadyDescriptor); 2] = [|it| it.error = true, |it| it.hangup = true];
    for way in ways {
        let alone = Alone::new();
        let (_control, relayed) = listening(&alone);
        let _peer = TcpStream::connect(relayed).unwrap();
        alone.until("it is accepted", |worker| worker.counters.tcp.accepted.get() == 1);
        let id = alone.look(|worker| worker.tcp_relays.peers()[0]);
        let mut worker = alone.worker.borrow_mut();
        worker.handle_peer_socket(id, event(id, |it| it.readable = true));
        assert_eq!(worker.tcp_relays.peers().len(), 1);
        worker.handle_peer_socket(id, event(id, way));
        assert_eq!(worker.tcp_relays.peers().len(), 0);
    }
}

#[test]
fn a_half_closed_connection_is_kept_for_as_long_as_something_moves() {
    for at_client in [true, false] {
        let alone = Alone::new();
        let (mut control, _) = listening(&alone);
        let (client, peer) = bound(&alone, &mut control);
        let most = alone.look(|worker| worker.tcp_relays.half_closed());
        // Open, it may rest for ever.
        alone.later(most * 3);
        alone.look_at_all();
        assert_eq!(ended(&alone, ConnectionEnd::Closed), 0);
        let (closed, open) = if at_client { (&client, &peer) } else { (&peer, &client) };
        pass(&alone, closed, open, b"last");
        closed.shutdown(Shutdown::Write).unwrap();
        alone.until("the end is passed on", |_| matches!((&*open).read(&mut [0; 8]), Ok(0)));
        for _ in 0..3 {
            alone.later(most - Duration::from_secs(3));
            alone.look_at_all();
            assert_eq!(ended(&alone, ConnectionEnd::Closed), 0, "something has moved");
            pass(&alone, open, closed, b"more");
        }
        alone.later(most);
        alone.look_at_all();
        assert_eq!(ended(&alone, ConnectionEnd::Closed), 1);
    }
}

#[test]
fn a_half_closed_connection_in_which_nothing_moves_is_not_kept_by_readiness_alone() {
    let alone = Alone::new();
    let (mut control, _) = listening(&alone);
    let (client, mut peer) = bound(&alone, &mut control);
    let most = alone.look(|worker| worker.tcp_relays.half_closed());
    client.shutdown(Shutdown::Write).unwrap();
    alone.until("the end is passed on", |_| matches!(peer.read(&mut [0; 8]), Ok(0)));
    alone.later(most - Duration::from_secs(3));
    alone.look_at_all();
    let id = alone.look(|worker| worker.tcp_relays.peers()[0]);
    alone
        .worker
        .borrow_mut()
        .handle_peer_socket(id, event(id, |it| it.readable = true));
    assert_eq!(ended(&alone, ConnectionEnd::Closed), 0);
    alone.later(Duration::from_secs(3));
    alone.look_at_all();
    assert_eq!(ended(&alone, ConnectionEnd::Closed), 1);
}

/// What epoll tells of the peer's side of connection `id`.
fn event(id: ConnectionId, of: impl FnOnce(&mut ReadyDescriptor)) -> ReadyDescriptor {
    let mut event = ReadyDescriptor {
        token: Token::Peer(id).bits(),
        readable: false,
        writable: false,
        error: false,
        hangup: false,
    };
    of(&mut event);
    event
}

#[test]
fn a_connect_has_failed_whichever_way_epoll_says_so() {
    // A peer that does not answer: there is room for one in its backlog.
    let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    peer.bind(&SocketAddr::from(([127, 0, 0, 5], 0)).into()).unwrap();
    peer.listen(0).unwrap();
    let address = peer.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    let alone = Alone::new();
    let (mut control, _) = listening(&alone);
    let ways: [fn(&mut ReadyDescriptor); 2] = [|it| it.error = true, |it| it.hangup = true];
    for (n, way) in ways.into_iter().enumerate() {
        let request = control.compose(Method::Connect, &|writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, address);
        });
        control.pipe.send(&request);
        alone.until("it is being connected", |worker| worker.tcp_relays.peers().len() == 1);
        let id = alone.look(|worker| worker.tcp_relays.peers()[0]);
        alone.worker.borrow_mut().handle_peer_socket(id, event(id, way));
        let response = control.response(&request);
        assert_eq!(error_code(&Message::parse(&response).unwrap()), Some(447));
        assert_eq!(ended(&alone, ConnectionEnd::ConnectFailed), n as u64 + 1);
        assert!(alone.look(|worker| worker.tcp_relays.peers().is_empty()));
    }
}

#[test]
fn a_half_closed_connection_that_has_just_been_bound_has_its_full_time() {
    let alone = Alone::new();
    let (mut control, relayed) = listening(&alone);
    let most = alone.look(|worker| worker.tcp_relays.half_closed());
    let peer = TcpStream::connect(relayed).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    alone.turn();
    let Incoming::Attempt { id, .. } = control.incoming() else {
        panic!("a peer has connected")
    };
    // It waits for its client for less than thirty seconds (RFC 6062 §5.3).
    alone.later(Duration::from_secs(25));
    let (mut client, _stream) = alone.tcp_client();
    client.connection_bind(id, b"");
    alone.later(most - Duration::from_secs(3));
    alone.look_at_all();
    assert_eq!(ended(&alone, ConnectionEnd::Closed), 0);
    alone.later(Duration::from_secs(3));
    alone.look_at_all();
    assert_eq!(ended(&alone, ConnectionEnd::Closed), 1);
}

/// What `accept` of a socket says that does not listen: an error, and no lack of descriptors.
fn deaf() -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.into()
}

#[test]
fn a_peer_that_is_gone_before_it_is_accepted_harms_neither_the_listener_nor_the_log() {
    let alone = Alone::new();
    let (_control, relayed) = listening(&alone);
    let (token, ours) = alone.worker.borrow_mut().tcp_relays.replace_listener(relayed, deaf());
    alone.worker.borrow_mut().accept_peers(token);
    assert_eq!(alone.look(|worker| worker.tcp_relays.listeners()), (1, true));
    assert_eq!(alone.stat(|s| s.relay_exhausted.get() + s.relay_open_failed.get()), 0);
    alone.worker.borrow_mut().tcp_relays.replace_listener(relayed, ours);
    let _peer = TcpStream::connect(relayed).unwrap();
    alone.until("it is accepted", |worker| worker.counters.tcp.accepted.get() == 1);
}

#[test]
fn a_turn_accepts_so_many_peers_and_the_next_turn_the_others() {
    let alone = Alone::new();
    let (_control, relayed) = listening(&alone);
    let peers: Vec<_> = (0..ACCEPT_BATCH + 3)
        .map(|_| TcpStream::connect(relayed).unwrap())
        .collect();
    let known = |alone: &Alone| {
        alone.count(|c| c.tcp.accepted.get() + c.tcp.refused.iter().map(|cell| cell.get()).sum::<u64>()) as usize
    };
    alone.turn();
    assert_eq!(known(&alone), ACCEPT_BATCH);
    alone.turn();
    assert_eq!(known(&alone), peers.len());
}

#[test]
fn a_relay_socket_that_listens_is_counted_while_it_is_open() {
    let alone = Alone::new();
    let open = || alone.stat(|s| s.relay_sockets.get());
    assert_eq!(open(), 0);
    let (mut control, _) = listening(&alone);
    assert_eq!(open(), 1);
    control.release();
    assert_eq!(open(), 0);
    assert_eq!(alone.look(|worker| worker.tcp_relays.listeners()), (0, true));
}

#[test]
fn an_unbound_peer_that_only_ends_its_direction_is_kept_and_one_that_resets_is_not() {
    let alone = Alone::new();
    let (_control, relayed) = listening(&alone);
    let [ending, resetting] = [(); 2].map(|()| TcpStream::connect(relayed).unwrap());
    alone.until("both are accepted", |worker| worker.counters.tcp.accepted.get() == 2);
    ending.shutdown(Shutdown::Write).unwrap();
    alone.turn();
    assert_eq!(ended(&alone, ConnectionEnd::Closed), 0);
    let resetting = socket2::Socket::from(resetting);
    resetting.set_linger(Some(Duration::ZERO)).unwrap();
    drop(resetting);
    alone.until("it is over", |worker| {
        worker.counters.tcp.ended[ConnectionEnd::Closed as usize].get() == 1
    });
    assert_eq!(alone.look(|worker| worker.tcp_relays.peers().len()), 1);
}

#[test]
fn a_worker_looks_for_deadlines_of_peers_only_where_there_are_peers_or_starved_listeners() {
    let alone = Alone::new();
    let (mut control, _) = listening(&alone);
    assert!(alone.look(|worker| worker.tcp_relays.is_empty()));
    let (_client, _peer) = bound(&alone, &mut control);
    assert!(alone.look(|worker| !worker.tcp_relays.is_empty()));
}

#[test]
fn starved_listeners_listen_again_and_no_others_are_touched() {
    let alone = Alone::new();
    let (_control, relayed) = listening(&alone);
    let (_other, others) = listening(&alone);
    {
        let mut worker = alone.worker.borrow_mut();
        let Worker {
            tcp_relays: tcp, epoll, ..
        } = &mut *worker;
        tcp.starve_at(epoll, relayed);
        assert!(!tcp.is_empty(), "a worker looks for the time when it listens again");
    }
    let _peers = [relayed, others].map(|at| TcpStream::connect(at).unwrap());
    alone.until("the other one listens", |worker| {
        worker.counters.tcp.accepted.get() == 1
    });
    alone.look_at_all();
    alone.until("it listens again", |worker| worker.counters.tcp.accepted.get() == 2);
    assert_eq!(alone.look(|worker| worker.tcp_relays.listeners()), (2, true));
}

#[test]
fn a_stream_handed_to_a_worker_that_takes_no_more_is_counted_as_refused() {
    let alone = Alone::new();
    // As many as may wait to be taken over (`Alone`).
    let to = alone.worker.borrow().outlets.shards[0].clone();
    let waiting: Vec<_> = (0..5).map(|_| tcp_pair(Vec::new())).collect();
    let taken: Vec<bool> = waiting
        .into_iter()
        .map(|(_, new_stream)| to.add_stream(new_stream))
        .collect();
    assert_eq!(taken, [true, true, true, true, false]);
}
