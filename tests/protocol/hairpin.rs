//! Two clients of one server: packets from one to the other's relayed address are delivered in
//! memory.

use relay_proto::turn::DropReason;
use relay_proto::turn::config::Config;
use relay_proto::turn::policy::Denied;
use relay_proto::turn::types::PeerAddr;

use relay_testkit::world::*;

struct Two {
    world: World,
    a: Client,
    b: Client,
    relayed_a: std::net::SocketAddr,
    relayed_b: std::net::SocketAddr,
}

fn two(shards: usize) -> Two {
    two_with(shards, |_| {})
}

fn two_with(shards: usize, alter: impl FnOnce(&mut Config)) -> Two {
    let mut world = World::sharded(shards, alter);
    let (mut a, mut b) = (client(1), client(2).at_shard(shards - 1));
    let (relayed_a, relayed_b) = (a.allocate(&mut world), b.allocate(&mut world));
    Two {
        world,
        a,
        b,
        relayed_a,
        relayed_b,
    }
}

#[test]
fn clients_of_one_server_reach_each_other_whichever_shards_they_are_on() {
    for shards in [1, 2, 3] {
        let Two {
            mut world,
            mut a,
            mut b,
            relayed_a,
            relayed_b,
        } = two(shards);
        a.permit(&mut world, &[relayed_b]);
        b.permit(&mut world, &[relayed_a]);
        assert!(
            a.send(&mut world, relayed_b, b"ping")
                .delivered()
                .is_data(relayed_a, b"ping")
        );
        a.bind(&mut world, 0x4000, relayed_b);
        b.bind(&mut world, 0x4001, relayed_a);
        assert!(
            a.channel_data(&mut world, 0x4000, b"ping")
                .delivered()
                .is_channel(0x4001, b"ping")
        );
        assert!(
            b.channel_data(&mut world, 0x4001, b"pong")
                .delivered()
                .is_channel(0x4000, b"pong")
        );
    }
}

#[test]
fn the_receivers_permission_is_asked_as_for_any_peer() {
    let Two {
        mut world,
        mut a,
        mut b,
        relayed_a,
        relayed_b,
    } = two(1);
    a.bind(&mut world, 0x4000, relayed_b);
    let refused = Delivered::Dropped(DropReason::NoPermission);
    assert_eq!(a.channel_data(&mut world, 0x4000, b"x").delivered(), refused);
    b.permit(&mut world, &[relayed_a]);
    assert!(
        a.channel_data(&mut world, 0x4000, b"x")
            .delivered()
            .is_data(relayed_a, b"x")
    );
    world.pass(secs(300));
    assert_eq!(a.channel_data(&mut world, 0x4000, b"x").delivered(), refused);
}

#[test]
fn a_relayed_address_nobody_has_is_no_peer() {
    let Two {
        mut world,
        mut a,
        mut b,
        relayed_b,
        ..
    } = two(1);
    a.bind(&mut world, 0x4000, relayed_b);
    b.request(&mut world, &refresh(0));
    let nobody = Answer::Dropped(DropReason::NoSuchRelay);
    assert_eq!(a.channel_data(&mut world, 0x4000, b"x"), nobody);
    assert_eq!(a.send(&mut world, relayed_b, b"x"), nobody);
}

#[test]
fn nobody_sends_to_itself() {
    let Two {
        mut world,
        mut a,
        relayed_a,
        ..
    } = two(1);
    a.permit(&mut world, &[relayed_a]);
    assert_eq!(
        a.send(&mut world, relayed_a, b"x"),
        Answer::Dropped(DropReason::PeerDenied)
    );
    assert_eq!(a.request(&mut world, &channel_bind(0x4000, relayed_a)).code(), 403);
}

#[test]
fn other_ports_of_the_relay_address_are_not_reached() {
    let Two {
        mut world,
        mut a,
        relayed_b,
        ..
    } = two(1);
    a.permit(&mut world, &[relayed_b]);
    for port in [22, 3478, 49_999, 50_400] {
        let to = (relayed_b.ip(), port).into();
        assert_eq!(
            a.send(&mut world, to, b"x"),
            Answer::Dropped(DropReason::PeerDenied),
            "port {port}"
        );
        assert_eq!(
            a.request(&mut world, &channel_bind(0x4000, to)).code(),
            403,
            "port {port}"
        );
    }
}

#[test]
fn a_packet_that_comes_too_late_to_the_other_shard_is_dropped() {
    let Two {
        mut world,
        mut a,
        mut b,
        relayed_a,
        relayed_b,
    } = two(2);
    a.permit(&mut world, &[relayed_b]);
    b.permit(&mut world, &[relayed_a]);
    b.request(&mut world, &refresh(0));
    let now = world.now();
    let (to, from) = (relay_proto::turn::types::RelayedAddr(relayed_b), PeerAddr(relayed_a));
    let verdict = world.shards[1].handle_relayed(now, to, from, 10);
    assert_eq!(verdict, relay_proto::turn::Verdict::Drop(DropReason::NoSuchRelay));
}

/// Over the announced ports, which are the only ones that clients know. The bound ports are not a
/// second entrance.
#[test]
fn where_a_nat_maps_ports_clients_reach_each_other_by_the_ports_outside() {
    for shards in [1, 3] {
        let Two {
            mut world,
            mut a,
            mut b,
            relayed_a,
            relayed_b,
        } = two_with(shards, map_ports);
        a.permit(&mut world, &[relayed_b]);
        b.permit(&mut world, &[relayed_a]);
        assert!(
            a.send(&mut world, relayed_b, b"ping")
                .delivered()
                .is_data(relayed_a, b"ping")
        );
        let policy = &world.config.policy;
        let bound = PeerAddr((ip("10.1.2.3"), relayed_b.port() + 30_000).into());
        assert_eq!(
            policy.peer(bound),
            Err(Denied::OwnAddress),
            "the inside of a relayed address"
        );
        for listener in ["10.1.2.3:3478".to_owned(), format!("{RELAY_V4}:3478")] {
            assert_eq!(
                policy.peer(PeerAddr(addr(&listener))),
                Err(Denied::OwnListener),
                "{listener}"
            );
        }
    }
}
