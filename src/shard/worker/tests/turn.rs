use relay_testkit::turn::{Client as Turn, Incoming, Peer, turn_config};
use relay_testkit_net::UDP;

use super::super::*;
use crate::base::address::Family;
use crate::net::udp::{UdpOptions, UdpSocket};
use crate::shard::ShardConfig;
use crate::shard::worker::tests::Alone;
use crate::shard::worker::udp::LISTENER_BATCH;
use crate::turn::output::EndReason;
use crate::turn::types::{AllocationId, RelayId};
use crate::wire::attribute::AttributeType;
use crate::wire::message::Method;

#[test]
fn a_worker_sleeps_until_something_is_due_and_a_second_at_most() {
    let alone = Alone::new();
    alone.turn();
    let wait = |change: &dyn Fn(&mut Worker)| {
        let mut worker = alone.worker.borrow_mut();
        change(&mut worker);
        worker.time_to_wait()
    };
    assert_eq!(wait(&|_| {}), HEARTBEAT);
    // Nobody has a deadline that is looked for.
    let soon = Duration::from_millis(30);
    assert_eq!(wait(&|worker| worker.next_scan = worker.now.mono + soon), HEARTBEAT);
    let (client, stream) = alone.tcp_client();
    assert_eq!(wait(&|worker| worker.next_scan = worker.now.mono + soon), soon);
    let sooner = Duration::from_millis(20);
    assert_eq!(wait(&|worker| worker.stop_at = Some(worker.now.mono + sooner)), sooner);
    let soonest = Duration::from_millis(10);
    assert_eq!(
        wait(&|worker| {
            let until = worker.now.mono + soonest;
            worker.streams.hold(0, until);
        }),
        soonest
    );
    drop((client, stream));
}

#[test]
fn a_worker_sleeps_no_longer_than_the_core_lets_it() {
    let alone = Alone::new();
    let mut client = alone.client();
    client.allocate();
    let due = alone.look(|worker| worker.server.poll_timeout().expect("an allocation ends"));
    let mut worker = alone.worker.borrow_mut();
    let before = Duration::from_millis(700);
    worker.now.mono = Instant::ZERO + (due - Instant::ZERO - before);
    assert_eq!(worker.time_to_wait(), before);
    drop(worker);
    alone.later(due - Instant::ZERO);
    alone.turn();
    assert_eq!(
        alone.count(|c| c.allocations_ended[EndReason::Expired as usize].get()),
        1
    );
}

#[test]
fn a_worker_that_stops_waits_for_its_streams_and_no_longer_than_it_may() {
    let alone = Alone::new();
    assert!(!alone.look(Worker::is_stopped));
    let (client, stream) = alone.tcp_client();
    let mut worker = alone.worker.borrow_mut();
    worker.stop_at = Some(worker.now.mono + Duration::from_nanos(1));
    assert!(!worker.is_stopped());
    worker.stop_at = Some(worker.now.mono);
    assert!(worker.is_stopped());
    worker.stop_at = Some(worker.now.mono + Duration::from_secs(1));
    assert!(!worker.is_stopped());
    assert!(worker.streams.remove(0).is_some());
    assert!(worker.is_stopped());
    drop((worker, client, stream));
}

#[test]
fn a_shutdown_ends_what_there_is_and_lets_nobody_in() {
    let alone = Alone::new();
    let (mut client, _stream) = alone.tcp_client();
    client.allocate();
    alone.control(Control::Shutdown(Duration::from_secs(3)));
    assert_eq!(
        alone.count(|c| c.allocations_ended[EndReason::Shutdown as usize].get()),
        1
    );
    assert_eq!(alone.closed("shutdown"), 1);
    assert_eq!(alone.stat(|s| s.streams.get()), 0);
    assert!(alone.look(|worker| worker.is_stopped() && worker.udp.sockets.listener(0).is_none()));
    let (mut late, _stream) = alone.tcp_client();
    assert_eq!(alone.stat(|s| s.streams_adopted.get()), 1);
    assert!(late.pipe.recv(Duration::ZERO).is_none());
    let stop_at = alone.look(|worker| worker.stop_at.unwrap() - worker.now.mono);
    assert!(
        stop_at <= Duration::from_secs(3) && stop_at > Duration::from_secs(2),
        "{stop_at:?}"
    );
}

#[test]
fn turns_their_length_and_the_offloads_are_told() {
    let alone = Alone::new();
    let told = || alone.stat(|s| s.turns.get());
    let before = told();
    alone.turn();
    alone.turn();
    assert_eq!(told(), before + 2);
    let busy = alone.stat(|s| s.busy_nanos.get());
    assert!((1..1_000_000_000).contains(&busy), "{busy}");
    let heartbeat = alone.stat(|s| s.heartbeat.get());
    assert_eq!(heartbeat, alone.look(|worker| worker.now.mono.as_nanos()));
    assert_eq!(alone.stat(|s| s.gro.get() * 10 + s.gso.get()), 11);
    let config = ShardConfig::default();
    let plain = UdpOptions {
        offload: false,
        ..config.relay
    };
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &plain).unwrap();
    let alone = Alone::at(socket.into(), config, turn_config());
    assert_eq!(alone.stat(|s| s.gro.get() * 10 + s.gso.get()), 0);
}

#[test]
fn every_part_of_the_streams_is_looked_at_within_a_second() {
    let alone = Alone::new();
    let streams: Vec<_> = (0..9).map(|_| alone.tcp_client()).collect();
    let idle = alone.look(|worker| worker.idle_timeout);
    alone.later(idle);
    let mut gone = Vec::new();
    for _ in 0..4 {
        alone.turn();
        gone.push(alone.closed("idle"));
        // Not before its time.
        alone.turn();
        assert_eq!(alone.closed("idle"), *gone.last().unwrap());
        alone.later(SCAN);
    }
    // Two of nine in each part, and three in one of them.
    assert_eq!(gone.last(), Some(&9));
    let parts: Vec<u64> = std::iter::once(gone[0])
        .chain(gone.windows(2).map(|w| w[1] - w[0]))
        .collect();
    assert!(parts.iter().all(|&n| n == 2 || n == 3), "{parts:?}");
    drop(streams);
}

#[test]
fn a_lone_relay_socket_gives_a_large_batch_and_one_of_many_a_small_one() {
    let alone = Alone::new();
    let mut client = alone.client();
    let relayed = client.allocate();
    let peer = Peer::new();
    client.bind(0x4000, peer.addr());
    let taken = || alone.stat(|s| s.received_messages.get());
    for n in 0..60_u8 {
        peer.send(relayed, &vec![n; 100 + usize::from(n)]);
    }
    let before = taken();
    alone.turn();
    assert_eq!(taken() - before, 1, "mostly there is one");
    alone.turn();
    assert_eq!(alone.look(|worker| worker.relay_batch), LISTENER_BATCH);
    assert_eq!(taken() - before, 1 + LISTENER_BATCH as u64);
    alone.until("all have arrived", |worker| {
        worker.stats.received_messages.get() >= before + 60
    });
    for n in 0..60_u8 {
        let data = vec![n; 100 + usize::from(n)];
        assert_eq!(client.incoming(), Incoming::Channel { number: 0x4000, data });
    }
}

#[test]
fn refusals_and_allocations_without_a_line_are_counted() {
    let config = ShardConfig {
        allocation_lines: 1,
        ..ShardConfig::default()
    };
    let alone = Alone::with(config, turn_config());
    let mut client = alone.client();
    // Twenty seconds' worth of lines, and two lines for each.
    for _ in 0..12 {
        client.allocate();
        client.release();
    }
    assert_eq!(alone.stat(|s| s.allocation_lines_left_out.get()), 4);
    assert_eq!(alone.stat(|s| s.refusals_left_out.get()), 0);
    client.allocate();
    for _ in 0..9 {
        let again = client.compose(Method::Allocate, &|writer| {
            writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
        });
        client.pipe.send(&again);
        client.response(&again);
    }
    assert_eq!(
        alone.stat(|s| s.refusals_left_out.get()),
        4,
        "a source has five lines at once"
    );
}

#[test]
fn a_full_slab_is_sent_before_more_is_received() {
    let config = ShardConfig {
        slots: 1,
        ..ShardConfig::default()
    };
    let alone = Alone::with(config, turn_config());
    let mut clients: Vec<Turn> = (0..3).map(|_| alone.client()).collect();
    let peer = Peer::new();
    for client in &mut clients {
        client.allocate();
        client.bind(0x4000, peer.addr());
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send_channel(0x4000, &[n as u8]);
    }
    for _ in 0..6 {
        alone.turn();
    }
    let mut heard: Vec<u8> = (0..3).map(|_| peer.recv().0[0]).collect();
    heard.sort_unstable();
    assert_eq!(heard, [0, 1, 2]);
    assert_eq!(alone.count(|c| c.dropped.iter().map(|cell| cell.get()).sum::<u64>()), 0);
}

#[test]
fn a_socket_whose_place_is_taken_before_it_was_closed_is_closed_and_no_longer_counted() {
    let alone = Alone::new();
    let named = |generation| RelayId {
        allocation: AllocationId { index: 7, generation },
        family: Family::V4,
    };
    let mut worker = alone.worker.borrow_mut();
    let worker = &mut *worker;
    let now = worker.now.mono;
    let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UDP).unwrap();
    let before = bind();
    worker.udp.attach(now, &worker.epoll, named(1), before).unwrap();
    worker.udp.attach(now, &worker.epoll, named(2), bind()).unwrap();
    assert_eq!(worker.stats.relay_sockets.get(), 1);
    assert!(!worker.udp.sockets.is_open(named(1)));
    // The command that closes the first comes late.
    worker.udp.close(now, named(1));
    assert_eq!(worker.stats.relay_sockets.get(), 1);
    worker.udp.close(now, named(2));
    assert_eq!(worker.stats.relay_sockets.get(), 0);
}
