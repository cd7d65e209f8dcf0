//! How allocations end, what the operator's log reports, reload and shutdown.

use relay_proto::base::address::Transport;
use relay_proto::turn::types::{Link, Path};
use relay_proto::turn::{DropReason, EndReason, Event};

use relay_testkit::world::*;

fn ended(world: &World) -> Vec<EndReason> {
    let why = |event: &Event| match event {
        Event::AllocationEnded { why, .. } => Some(*why),
        Event::AllocationBegan { .. } | Event::AllocationMoved { .. } | Event::Refused(_) => None,
    };
    world.events.iter().filter_map(why).collect()
}

//= D11
//= XPORT-07
#[test]
fn an_allocation_goes_with_its_stream() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut world = World::with(|config| config.limits.allocations_per_user = 1);
        let mut client = client_over(1, transport);
        client.allocate(&mut world);
        client.disconnect(&mut world);
        world.assert_empty();
        assert_eq!(ended(&world), [EndReason::Disconnected]);
        client.disconnect(&mut world);
        // From another port, with the quota of one.
        client_over(2, transport).allocate(&mut world);
    }
}

#[test]
fn an_allocation_that_is_being_made_goes_with_its_stream_too() {
    let mut world = World::new();
    let mut client = client_over(1, Transport::Tcp);
    client.request(&mut world, &refresh(600));
    world.hold = Some(Vec::new());
    assert_eq!(client.request(&mut world, &allocate()), Answer::Waiting);
    client.disconnect(&mut world);
    world.assert_empty();
    assert!(world.events.is_empty(), "what has not begun does not end");
}

#[test]
fn a_late_disconnect_of_an_old_connection_does_not_hit_the_new_one() {
    let mut world = World::new();
    let mut old = client_over(1, Transport::Tcp);
    old.allocate(&mut world);
    let mut new = old.clone();
    new.client.link = Link(99);
    // The shard has not reported the close yet, and the same addresses are in use again.
    new.allocate(&mut world);
    assert_eq!(ended(&world), [EndReason::Disconnected]);
    old.disconnect(&mut world);
    assert_eq!(new.request(&mut world, &refresh(600)).code(), 0);
}

#[test]
fn the_operator_hears_of_both_ends_with_the_traffic_between() {
    let mut world = World::new();
    let (mut client, peer) = (client_over(1, Transport::Udp), addr("192.0.2.1:7000"));
    let relayed = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer);
    for _ in 0..3 {
        client.channel_data(&mut world, 0x4000, &[0; 100]).sent();
    }
    client.send(&mut world, peer, &[0; 10]).sent();
    for _ in 0..2 {
        world.peer(peer, relayed, &[0; 1000]);
    }
    // Dropped packets do not count as traffic.
    client.channel_data(&mut world, 0x4001, &[0; 100]);
    world.peer(addr("192.0.2.2:1"), relayed, &[0; 100]);
    world.pass(secs(7));
    client.request(&mut world, &refresh(0));

    let [
        Event::AllocationBegan {
            id,
            five_tuple,
            username,
            relayed: given,
        },
        Event::AllocationEnded { .. },
    ] = &world.events[..]
    else {
        panic!("{:?}", world.events);
    };
    assert_eq!((*five_tuple, &**username), (client.client.five_tuple, "alice"));
    assert_eq!(given[0].map(|it| it.0), Some(relayed));
    let Event::AllocationEnded {
        id: ended,
        traffic,
        age,
        why,
        relayed: had,
        ..
    } = &world.events[1]
    else {
        panic!("{:?}", world.events);
    };
    assert_eq!((ended, age, *why, had), (id, &secs(7), EndReason::Released, given));
    assert_eq!((traffic.up_packets, traffic.up_bytes), (4, 310));
    assert_eq!((traffic.down_packets, traffic.down_bytes), (2, 2000));
    let counters = &world.counters[0];
    let udp = Transport::Udp as usize;
    let (up, down) = (
        &counters.up[Path::Other as usize][udp],
        &counters.down[Path::Other as usize][udp],
    );
    assert_eq!((up.packets.get(), up.bytes.get()), (4, 310));
    assert_eq!((down.packets.get(), down.bytes.get()), (2, 2000));
    assert_eq!(counters.allocations_ended[EndReason::Released as usize].get(), 1);
    assert_eq!(
        (
            world.requests("allocate"),
            world.requests("channel_bind"),
            world.requests("refresh")
        ),
        (2, 1, 1)
    );
}

#[test]
fn shutdown_ends_everything_and_closes_streams() {
    let mut world = World::new();
    client_over(1, Transport::Udp).allocate(&mut world);
    client_over(2, Transport::Tls).allocate(&mut world);
    let mut dual = client_over(3, Transport::Udp);
    dual.request(&mut world, &allocate().also(2));
    let now = world.now();
    world.shards[0].shutdown(now);
    world.settle(0);
    world.assert_empty();
    assert_eq!(ended(&world), [EndReason::Shutdown; 3]);
    assert_eq!(world.closed_streams, [Link(2)]);
}

#[test]
fn expiry_leaves_the_stream_open() {
    let mut world = World::new();
    let mut client = client_over(1, Transport::Tcp);
    client.allocate(&mut world);
    assert!(world.shards[0].has_or_awaits_allocation(&client.client));
    world.pass(secs(600));
    assert_eq!(ended(&world), [EndReason::Expired]);
    assert!(!world.shards[0].has_or_awaits_allocation(&client.client));
    assert!(world.closed_streams.is_empty());
    client.allocate(&mut world);
}

#[test]
fn a_reload_keeps_allocations_and_their_ports() {
    let mut world = World::with(|config| config.relay.ports = 50_000..=50_003);
    let (mut first, peer) = (client(1), addr("192.0.2.1:7000"));
    let relayed = first.allocate(&mut world);
    first.bind(&mut world, 0x4000, peer);
    world.reload(|config| config.relay.ports = relayed.port()..=relayed.port() + 1);
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
    let second = client(2).allocate(&mut world);
    assert_eq!(second.port(), relayed.port() + 1);
    assert_eq!(client(3).request(&mut world, &allocate()).code(), 508);
    // Relay addresses removed from the configuration serve existing allocations only.
    world.reload(|config| config.relay.ipv4 = None);
    assert_eq!(first.request(&mut world, &refresh(600)).code(), 0);
    assert_eq!(client(3).request(&mut world, &allocate()).code(), 440);
    first.request(&mut world, &refresh(0));
    world.reload(|config| *config = relay_testkit::world::config());
    client(3).allocate(&mut world);
}

//= TURN-ALLOC-36
#[test]
fn thousands_of_allocations_come_and_go_each_in_its_time() {
    let mut world = World::with(|config| {
        config.relay.ports = 1024..=65_535;
        config.limits.allocations = 200_000;
        config.limits.allocations_per_user = 200_000;
        config.limits.allocations_per_ip = 200_000;
    });
    let mut relayed = std::collections::HashSet::new();
    for n in 0..2000 {
        let mut client = client(n);
        client.client.five_tuple.client = (ip("203.0.113.1"), 1024 + n).into();
        relayed.insert(client.allocate(&mut world));
        if n.is_multiple_of(10) {
            world.pass(secs(1));
        }
    }
    assert_eq!(relayed.len(), 2000);
    world.pass(secs(399));
    assert_eq!(world.shards[0].allocations(), 2000);
    world.pass(secs(1));
    assert_eq!(world.shards[0].allocations(), 1999);
    world.pass(secs(600));
    world.assert_empty();
    world.pass(secs(41));
    assert_eq!(world.shards[0].poll_timeout(), None, "nothing is left to wait for");
    assert_eq!(world.dropped(DropReason::NoAllocation), 0);
}
