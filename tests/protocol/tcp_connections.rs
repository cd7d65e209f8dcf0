//! TCP connections between allocations and peers (RFC 6062): which client may bind them, where, and
//! how they end.

use std::net::SocketAddr;
use std::sync::Arc;

use relay_proto::base::address::Transport;
use relay_proto::turn::output::ConnectionEnd;
use relay_proto::turn::policy::{PeerPolicy, PolicyConfig};
use relay_proto::turn::types::ConnectionId;
use relay_proto::turn::{DropReason, Event};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use crate::tcp_allocations::*;
use crate::time_limited::minted;
use relay_testkit::world::*;

//= TCP-ALLOC-08
#[test]
fn connection_bind_joins_a_connection_once() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut world = world();
        let mut owner = owner_over(&mut world, 1, transport);
        let id = owner.connected(&mut world, addr(PEER));
        let mut data = client_over(2, transport);
        assert_eq!(data.send_plain(&mut world, &connection_bind(id)).code(), 401);
        assert_eq!(data.request(&mut world, &connection_bind(id)), Answer::Bound(id));
        let mut again = client_over(3, transport);
        assert_eq!(
            again.request(&mut world, &connection_bind(id)).code(),
            400,
            "it is used"
        );
        assert_eq!(world.counters[0].tcp.bound.get(), 1);
        assert_eq!((world.requests("connect"), world.requests("connection_bind")), (1, 3));
    }
}

//= TCP-ALLOC-08
#[test]
fn connection_bind_is_refused_without_a_good_id_and_where_it_does_not_belong() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    let id = owner.connected(&mut world, addr(PEER));
    let mut data = client_over(2, Transport::Tcp);
    for message in [
        request(Method::ConnectionBind),
        request(Method::ConnectionBind).with(AttributeType::CONNECTION_ID, [1, 2, 3]),
        connection_bind(ConnectionId(id.0 ^ 1)),
    ] {
        assert_eq!(data.request(&mut world, &message).code(), 400);
    }
    let strange = connection_bind(id).with(AttributeType::CHANGE_REQUEST, [0; 4]);
    let answer = data.request(&mut world, &strange);
    assert_eq!(answer.code(), 420);
    assert_eq!(
        answer.attribute(AttributeType::UNKNOWN_ATTRIBUTES),
        Some(vec![0x00, 0x03]),
        "CONNECTION-ID is known here"
    );
    for transport in [Transport::Udp, Transport::Dtls] {
        let mut datagrams = client_over(3, transport);
        assert_eq!(datagrams.request(&mut world, &connection_bind(id)).code(), 400);
    }
    // A connection that controls an allocation cannot carry data, whether of this allocation or of
    // another.
    assert_eq!(owner.client.request(&mut world, &connection_bind(id)).code(), 400);
    assert_eq!(data.request(&mut world, &connection_bind(id)), Answer::Bound(id));
}

//= TCP-ALLOC-08
#[test]
fn another_users_connection_is_not_to_be_had() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    let id = owner.connected(&mut world, addr(PEER));
    let mut thief = client_over(2, Transport::Tcp).user("bob", "builder");
    assert_eq!(thief.request(&mut world, &connection_bind(id)).code(), 441);
    let mut forger = client_over(3, Transport::Tcp).user("alice", "guess");
    assert_eq!(forger.request(&mut world, &connection_bind(id)).code(), 401);
    let mut data = client_over(4, Transport::Tcp);
    assert_eq!(data.request(&mut world, &connection_bind(id)), Answer::Bound(id));
}

//= FORCED-02
#[test]
fn the_data_connection_of_a_forced_login_comes_by_the_forced_path_too() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.forced.everyone = true;
    });
    let at = |n: u16, port: u16| {
        let mut client = client_over(n, Transport::Tcp);
        client.client.five_tuple.server.set_port(port);
        client
    };
    let mut client = at(1, 443);
    let relayed = client.request(&mut world, &tcp_allocate()).relayed()[0];
    let id = Owner { client, relayed }.connected(&mut world, addr(PEER));
    assert_eq!(at(2, 3478).request(&mut world, &connection_bind(id)).code(), 403);
    assert_eq!(at(3, 443).request(&mut world, &connection_bind(id)), Answer::Bound(id));
}

//= TCP-ALLOC-09
#[test]
fn a_connection_that_nobody_binds_is_closed_after_thirty_seconds() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    owner.client.permit(&mut world, &[addr(PEER)]);
    let ids = [
        owner.connected(&mut world, addr("192.0.2.7:5001")),
        world.peer_connects(addr(PEER), owner.relayed).unwrap().id,
    ];
    let bound = owner.connected(&mut world, addr("192.0.2.7:5002"));
    let mut data = client_over(2, Transport::Tcp);
    assert_eq!(data.request(&mut world, &connection_bind(bound)), Answer::Bound(bound));
    world.pass(just_before(secs(30)));
    assert_eq!(world.tcp.open.len(), 3);
    world.pass(secs(30) - just_before(secs(30)));
    assert_eq!(world.tcp.open, [(0, bound)], "the bound one stays");
    assert_eq!(ended(&world, ConnectionEnd::NotBound), 2);
    for id in ids {
        let mut late = client_over(3, Transport::Tcp);
        assert_eq!(late.request(&mut world, &connection_bind(id)).code(), 400);
    }
}

//= TCP-ALLOC-09
#[test]
fn a_connection_is_bound_in_the_last_moment_and_not_after_it_however_late_the_timer() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    let first = owner.connected(&mut world, addr(PEER));
    let mut data = client_over(2, Transport::Tcp);
    assert_eq!(data.send_plain(&mut world, &allocate()).code(), 401);
    world.pass(just_before(secs(30)));
    assert_eq!(data.request(&mut world, &connection_bind(first)), Answer::Bound(first));
    let second = owner.connected(&mut world, addr("192.0.2.7:5001"));
    world.pass_unnoticed(secs(30));
    let mut late = client_over(3, Transport::Tcp);
    assert_eq!(late.request(&mut world, &connection_bind(second)).code(), 400);
}

//= TCP-ALLOC-10
#[test]
fn a_closed_connection_is_forgotten_and_what_it_relayed_is_told() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    let id = owner.connected(&mut world, addr(PEER));
    let mut data = client_over(2, Transport::Tcp);
    data.request(&mut world, &connection_bind(id));
    world.relayed_bytes(0, id, 1000, 50);
    world.relayed_bytes(0, id, 0, 7);
    world.peer_closes(0, id);
    assert_eq!(ended(&world, ConnectionEnd::Closed), 1);
    world.relayed_bytes(0, id, 1, 1);
    owner.client.request(&mut world, &refresh(0));
    let Some(Event::AllocationEnded { traffic, .. }) = world.events.last() else {
        panic!("{:?}", world.events)
    };
    assert_eq!((traffic.up_bytes, traffic.down_bytes), (1000, 57));
    let counters = &world.counters[0].tcp;
    assert_eq!((counters.up_bytes.get(), counters.down_bytes.get()), (1000, 57));
    world.assert_empty();
}

/// An allocation with a connecting, a pending and a bound connection.
fn three_connections(world: &mut World) -> Owner {
    let mut owner = owner(world, 1);
    owner.client.permit(world, &[addr(PEER)]);
    world.peer_connects(addr(PEER), owner.relayed).unwrap();
    let id = owner.connected(world, addr("192.0.2.7:5001"));
    let mut data = client_over(2, Transport::Tcp);
    assert_eq!(data.request(world, &connection_bind(id)), Answer::Bound(id));
    let making = owner.client.request(world, &connect(addr("192.0.2.7:5002")));
    assert_eq!(making, Answer::Waiting);
    owner
}

//= TCP-ALLOC-11
#[test]
fn the_end_of_an_allocation_is_the_end_of_its_connections() {
    let ends: [fn(&mut World, &mut Owner); 3] = [
        |world, owner| {
            assert_eq!(owner.client.request(world, &refresh(0)).code(), 0);
        },
        |world, owner| owner.client.disconnect(world),
        |world, _| world.pass(secs(600)),
    ];
    for (i, end) in ends.into_iter().enumerate() {
        let mut world = world();
        let mut owner = three_connections(&mut world);
        if i == 2 {
            // A bound connection lasts as long as the allocation, the others thirty seconds.
            world.pass(just_before(secs(600)));
            assert_eq!(world.tcp.open.len(), 1);
            world.tcp.late.clear();
        }
        end(&mut world, &mut owner);
        world.assert_empty();
        assert!(world.tcp.late.is_empty(), "there is nobody to be told");
        let expected = if i == 2 { 1 } else { 3 };
        assert_eq!(ended(&world, ConnectionEnd::Allocation), expected);
    }
}

//= TCP-ALLOC-11
#[test]
fn one_half_of_a_dual_allocation_takes_its_connections_with_it() {
    let mut world = world();
    let mut client = client_over(1, Transport::Tcp);
    let answer = client.request(&mut world, &tcp_allocate().also(2));
    let relayed = answer.relayed()[0];
    let mut owner = Owner { client, relayed };
    owner.connected(&mut world, addr(PEER));
    let v6 = owner.connected(&mut world, addr(PEER_V6));
    let answer = owner.client.request(&mut world, &refresh(0).family(1));
    assert_eq!(answer.code(), 0);
    assert_eq!(world.tcp.open, [(0, v6)]);
    assert_eq!(owner.client.request(&mut world, &connect(addr(PEER))).code(), 443);
}

//= TCP-ALLOC-12
#[test]
fn a_connection_is_closed_when_it_has_relayed_what_it_may() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.tcp.as_mut().unwrap().max_bytes = Some(1000);
    });
    let mut owner = owner(&mut world, 1);
    let id = owner.connected(&mut world, addr(PEER));
    let mut data = client_over(2, Transport::Tcp);
    data.request(&mut world, &connection_bind(id));
    world.relayed_bytes(0, id, 500, 499);
    assert_eq!(world.tcp.open.len(), 1);
    world.relayed_bytes(0, id, 1, 0);
    assert!(world.tcp.open.is_empty());
    assert_eq!(ended(&world, ConnectionEnd::ByteLimit), 1);
}

//= TCP-ALLOC-12
#[test]
fn a_reload_closes_what_it_forbids() {
    let mut world = world();
    let mut owner = three_connections(&mut world);
    world.reload(|config| config.policy = policy(&["192.0.2.9/32"]));
    assert_eq!((world.tcp.open.len(), world.tcp.connecting.len()), (2, 1));
    world.reload(|config| config.tcp.as_mut().unwrap().peer_ports = vec![5001..=5001]);
    assert_eq!((world.tcp.open.len(), world.tcp.connecting.len()), (1, 0));
    assert_eq!(owner.told(&mut world), Err(447), "who waits is told");
    world.reload(|config| config.tcp = None);
    assert!(world.tcp.open.is_empty());
    assert_eq!(ended(&world, ConnectionEnd::Policy), 2);
    let answer = owner.client.request(&mut world, &connect(addr(PEER)));
    assert_eq!(answer, Answer::Dropped(DropReason::UnknownMethod));
    assert_eq!(owner.client.request(&mut world, &refresh(0)).code(), 0);
    world.assert_empty();
}

#[test]
fn a_clients_second_connection_finds_the_shard_that_has_the_peer() {
    let mut world = World::sharded(3, switched_on);
    for shard in 0..3 {
        let n = 10 + shard as u16;
        let mut client = client_over(n, Transport::Tcp).at_shard(shard);
        let relayed = client.request(&mut world, &tcp_allocate()).relayed()[0];
        let mut owner = Owner { client, relayed };
        let id = owner.connected(&mut world, addr(PEER));
        assert_eq!(id.0 as usize % 3, shard);
        for (i, at) in (0..3).filter(|&at| at != shard).enumerate() {
            let mut data = client_over(100 + n + at as u16 * 10, Transport::Tcp).at_shard(at);
            let elsewhere = data.request(&mut world, &connection_bind(id));
            assert_eq!(elsewhere, Answer::Elsewhere(shard as u16));
            // A stream without a login is not moved to another shard.
            assert_eq!(data.send_plain(&mut world, &connection_bind(id)).code(), 401);
            // The stream arrives there, with this request as its first.
            data.shard = shard;
            let answer = data.request(&mut world, &connection_bind(id));
            if i == 0 {
                assert_eq!(answer, Answer::Bound(id));
            } else {
                assert_eq!(answer.code(), 400, "used already");
            }
        }
    }
}

#[test]
fn two_clients_of_one_server_connect_to_each_other() {
    let mut world = World::sharded(2, switched_on);
    let mut a = owner(&mut world, 1);
    let mut client = client_over(2, Transport::Tcp).at_shard(1);
    let relayed = client.request(&mut world, &tcp_allocate()).relayed()[0];
    let mut b = Owner { client, relayed };
    b.client.permit(&mut world, &[a.relayed]);
    assert_eq!(a.client.request(&mut world, &connect(b.relayed)), Answer::Waiting);
    // Behind a 1:1 NAT the announced address leads nowhere from here; the bound one works.
    let connecting = world.peer_answers(true);
    assert_eq!(connecting.to, SocketAddr::new(ip("10.1.2.3"), b.relayed.port()));
    assert!(a.told(&mut world).is_ok());
    let attempt = world.peer_connects(connecting.from, b.relayed).unwrap();
    assert_eq!(attempt.peer, a.relayed, "known by its relayed address");
    assert_eq!(attempt.client, b.client.client);
    // This peer needs a permission like any other.
    b.client.request(&mut world, &refresh(0));
    assert_eq!(a.client.request(&mut world, &connect(b.relayed)).code(), 446);
    world.peer_closes(0, connecting.id);
    assert_eq!(
        a.client.request(&mut world, &connect(b.relayed)).code(),
        403,
        "nobody is there"
    );
}

#[test]
fn where_a_nat_maps_ports_two_clients_connect_by_the_ports_outside() {
    let mut world = World::sharded(2, |config| {
        switched_on(config);
        map_ports(config);
    });
    let mut a = owner(&mut world, 1);
    let mut client = client_over(2, Transport::Tcp).at_shard(1);
    let relayed = client.request(&mut world, &tcp_allocate()).relayed()[0];
    client.permit(&mut world, &[a.relayed]);
    assert_eq!(a.client.request(&mut world, &connect(relayed)), Answer::Waiting);
    let connecting = world.peer_answers(true);
    let inside = SocketAddr::new(ip("10.1.2.3"), relayed.port() + 30_000);
    assert_eq!(connecting.to, inside);
    let attempt = world.peer_connects(connecting.from, inside).unwrap();
    assert_eq!(attempt.peer, a.relayed, "known by its relayed address");
}

#[test]
fn a_time_limited_login_binds_as_long_as_its_allocation_lives() {
    let mut world = world();
    let mut client = minted(client_over(5, Transport::Tcp), SECRET, START + 20, Some("u"));
    let relayed = client.request(&mut world, &tcp_allocate()).relayed()[0];
    let mut owner = Owner { client, relayed };
    let id = owner.connected(&mut world, addr(PEER));
    world.pass(secs(25));
    let mut data = minted(client_over(6, Transport::Tcp), SECRET, START + 20, Some("u"));
    assert_eq!(data.request(&mut world, &connection_bind(id)), Answer::Bound(id));
}

//= TCP-ALLOC-12
#[test]
fn on_a_relayed_address_that_is_opened_a_program_has_the_ports_of_peers_and_a_client_its_own() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.tcp.as_mut().unwrap().peer_ports = vec![5000..=5000];
        let policy = PolicyConfig {
            allow: vec!["198.51.100.9/32".parse().unwrap()],
            relay_ips: config.relay.own_ips().collect(),
            relay_ports: config.relay.announced_ports(),
            ..PolicyConfig::default()
        };
        config.policy = Arc::new(PeerPolicy::new(policy).unwrap());
    });
    let (mut a, b) = (owner(&mut world, 1), owner(&mut world, 2));
    assert_eq!(a.client.request(&mut world, &connect(b.relayed)), Answer::Waiting);
    let to = world.peer_answers(false).to;
    assert_eq!(to, SocketAddr::new(ip("10.1.2.3"), b.relayed.port()));
    let program = addr("198.51.100.9:5000");
    assert_eq!(a.client.request(&mut world, &connect(program)), Answer::Waiting);
    assert_eq!(world.peer_answers(false).to, program);
    let another = addr("198.51.100.9:5001");
    assert_eq!(a.client.request(&mut world, &connect(another)).code(), 403);
}

#[test]
fn where_relay_sockets_have_no_address_two_clients_connect_over_the_loopback() {
    for (family, bind, inside) in [(1, "0.0.0.0", "127.0.0.1"), (2, "::", "::1")] {
        let mut world = World::with(|config| {
            switched_on(config);
            let relay = if family == 1 {
                &mut config.relay.ipv4
            } else {
                &mut config.relay.ipv6
            };
            relay.as_mut().unwrap().bind = ip(bind);
        });
        let [mut a, mut b] = [1, 2].map(|n| {
            let mut client = client_over(n, Transport::Tcp);
            let relayed = client.request(&mut world, &tcp_allocate().family(family)).relayed()[0];
            Owner { client, relayed }
        });
        b.client.permit(&mut world, &[a.relayed]);
        assert_eq!(a.client.request(&mut world, &connect(b.relayed)), Answer::Waiting);
        let connecting = world.peer_answers(true);
        assert_eq!(connecting.to, SocketAddr::new(ip(inside), b.relayed.port()));
        let from = SocketAddr::new(ip(inside), a.relayed.port());
        let attempt = world.peer_connects(from, b.relayed).unwrap();
        assert_eq!(attempt.peer, a.relayed, "known by its relayed address");
    }
}
