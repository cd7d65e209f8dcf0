use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use relay_testkit::turn::{Client, Incoming, Peer, turn_config};

use super::*;
use crate::shard::ShardConfig;
use crate::shard::worker::tests::Alone;
use crate::wire::message::Method;

const CHANNEL: u16 = 0x4000;

fn asks(client: &mut Client) -> Vec<u8> {
    client.compose(Method::Binding, &|_| {})
}

/// The stream in `slot` is displaced by another connection.
fn displace(alone: &Alone, slot: u32) {
    let Token::Stream { generation, .. } =
        Token::from_link(alone.worker.borrow_mut().streams.at(slot).unwrap().client.link)
    else {
        panic!("a stream")
    };
    alone.control(Control::Displace { slot, generation });
}

#[test]
fn a_stranger_gives_way_and_who_has_logged_in_does_not() {
    let alone = Alone::new();
    let (_stranger, mut stream) = alone.tcp_client();
    let (mut client, _stream) = alone.tcp_client();
    client.allocate();
    displace(&alone, 1);
    assert_eq!((alone.closed("displaced"), alone.stat(|s| s.streams.get())), (0, 2));
    displace(&alone, 0);
    assert_eq!((alone.closed("displaced"), alone.stat(|s| s.streams.get())), (1, 1));
    stream.set_nonblocking(false).unwrap();
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
    // Of another generation.
    let (_next, _stream) = alone.tcp_client();
    alone.control(Control::Displace { slot: 0, generation: 0 });
    assert_eq!(alone.closed("displaced"), 1);
}

#[test]
fn a_stream_without_an_allocation_has_its_time_to_the_moment() {
    let alone = Alone::new();
    let (mut client, _stream) = alone.tcp_client();
    let most = alone.look(|worker| worker.idle_timeout);
    let look = |after: Duration| {
        let mut worker = alone.worker.borrow_mut();
        worker.now.mono = worker.streams.at(0).unwrap().idle_since + after;
        worker.check_deadlines(0);
        drop(worker);
        alone.look(|worker| worker.streams.len())
    };
    client.allocate();
    assert_eq!((look(most * 3), look(most * 3)), (1, 1));
    client.release();
    assert_eq!(look(most - Duration::from_nanos(1)), 1);
    look(most);
    alone.worker.borrow_mut().end_turn();
    assert_eq!(
        (alone.closed("idle"), alone.look(|worker| worker.streams.len())),
        (1, 0)
    );
}

#[test]
fn every_message_of_one_read_is_answered_whatever_the_slab_holds() {
    let config = ShardConfig {
        slots: 1,
        ..ShardConfig::default()
    };
    let alone = Alone::with(config, turn_config());
    let (mut client, mut stream) = alone.tcp_client();
    let requests: Vec<_> = (0..4).map(|_| asks(&mut client)).collect();
    stream.write_all(&requests.concat()).unwrap();
    alone.turn();
    // A read and a write.
    assert_eq!(alone.look(|worker| (worker.packets, worker.stream_calls)), (4, 2));
    for request in &requests {
        client.response(request);
    }
    let bytes: usize = requests.iter().map(Vec::len).sum();
    assert_eq!(alone.stat(|s| s.stream_bytes_received.get()), bytes as u64);
    assert_eq!(alone.stat(|s| s.stream_flushes.get()), 1);
    assert_eq!(alone.count(|c| c.dropped.iter().map(|cell| cell.get()).sum::<u64>()), 0);
}

#[test]
fn what_a_stream_says_is_relayed_in_the_turn_in_which_it_ends() {
    let alone = Alone::new();
    let (mut client, stream) = alone.tcp_client();
    client.allocate();
    let peer = Peer::new();
    client.bind(CHANNEL, peer.addr());
    client.send_channel(CHANNEL, b"last words");
    stream.shutdown(Shutdown::Write).unwrap();
    alone.turn();
    assert_eq!(peer.recv().0, b"last words");
    alone.until("it is closed", |worker| worker.stats.streams.get() == 0);
    assert_eq!(alone.closed("client"), 1);
    assert_eq!(
        alone.count(|c| c.allocations.iter().map(|cell| cell.get()).sum::<u64>()),
        0
    );
}

#[test]
fn a_stream_that_makes_no_sense_is_closed_for_that_reason_and_what_came_before_is_answered() {
    let alone = Alone::new();
    let (mut client, mut stream) = alone.tcp_client();
    let request = asks(&mut client);
    stream.write_all(&[&request[..], &[0xff; 20]].concat()).unwrap();
    alone.turn();
    client.response(&request);
    assert_eq!(alone.closed("framing"), 1);
}

#[test]
fn streams_are_counted_as_they_come_and_go() {
    let alone = Alone::new();
    let (_a, a) = alone.tcp_client();
    let (_b, _b_stream) = alone.tcp_client();
    assert_eq!(alone.stat(|s| s.streams.get() * 10 + s.streams_adopted.get()), 22);
    socket2::SockRef::from(&a).set_linger(Some(Duration::ZERO)).unwrap();
    drop((_a, a));
    alone.until("a reset is seen", |worker| worker.stats.streams.get() == 1);
    assert_eq!(alone.stat(|s| s.streams_adopted.get()), 2);
}

#[test]
fn data_for_a_stream_that_is_blocked_waits_for_its_socket_and_is_counted_when_it_is_lost() {
    let alone = Alone::new();
    let (mut client, stream) = alone.tcp_client();
    let relayed = client.allocate();
    let peer = Peer::new();
    client.bind(CHANNEL, peer.addr());
    socket2::SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
    let lost = || alone.count(|c| c.dropped[DropReason::StreamBackpressure as usize].get());
    let mut sent = 0_u64;
    while lost() == 0 {
        for _ in 0..8 {
            peer.send(relayed, &[7; 1200]);
            sent += 1;
        }
        alone.turn();
        alone.later(Duration::from_millis(20));
        assert!(sent < 20_000, "a client that does not read loses some");
    }
    let blocked = alone.stat(|s| s.stream_blocked.get() + s.stream_held.get());
    assert!(
        blocked > 0 && blocked < sent,
        "{blocked} of {sent}: it is not tried again and again"
    );
    let mut arrived = 0;
    alone.until("the kernel has passed everything on", |worker| {
        worker.stats.received_datagrams.get() >= sent
    });
    while client
        .next(Duration::ZERO)
        .is_some_and(|it| matches!(it, Incoming::Channel { .. }))
    {
        arrived += 1;
        if arrived + lost() == sent {
            break;
        }
    }
    assert_eq!(arrived + lost(), sent);
    let by_reason = alone.stat(|s| s.stream_dropped_aged.get() + s.stream_dropped_overflowed.get());
    assert_eq!(by_reason, lost());
    assert!(alone.stat(|s| s.stream_queue_age.buckets.iter().map(|cell| cell.get()).sum::<u64>()) > 0);
}

#[test]
fn a_stream_whose_next_message_cannot_be_found_is_closed_by_the_server() {
    let alone = Alone::new();
    let (_client, mut stream) = alone.tcp_client();
    // An attribute that is longer than its message.
    let mut malformed = vec![0, 1, 0, 4, 0x21, 0x12, 0xa4, 0x42];
    malformed.extend([7; 12]);
    malformed.extend([0, 6, 0, 100]);
    stream.write_all(&malformed).unwrap();
    alone.turn();
    assert_eq!((alone.closed("server"), alone.stat(|s| s.streams.get())), (1, 0));
}

#[test]
fn a_stream_that_waits_to_be_closed_is_gone_when_its_client_is_whichever_way_epoll_says_so() {
    let ways: [fn(&mut ReadyDescriptor); 2] = [|it| it.error = true, |it| it.hangup = true];
    for way in ways {
        let alone = Alone::new();
        let (_client, _stream) = alone.tcp_client();
        let mut event = ReadyDescriptor {
            token: 0,
            readable: false,
            writable: false,
            error: false,
            hangup: false,
        };
        let mut worker = alone.worker.borrow_mut();
        worker.end_stream(0, "idle");
        worker.handle_stream(0, 0, event);
        assert_eq!(worker.streams.len(), 1);
        way(&mut event);
        worker.handle_stream(0, 0, event);
        assert_eq!(worker.streams.len(), 0);
        drop(worker);
        assert_eq!(alone.closed("idle"), 1, "the first reason counts");
    }
}
