//! TCP allocations (RFC 6062) when enabled: what is granted, Connect, and accepted peers.

use std::net::SocketAddr;

use relay_proto::base::address::Transport;
use relay_proto::turn::config::{Mobility, TcpConfig};
use relay_proto::turn::output::{ConnectionEnd, PeerRefusal};
use relay_proto::turn::types::ConnectionId;
use relay_proto::turn::{Config, DropReason};
use relay_proto::wire::attribute::{self, AttributeType};
use relay_proto::wire::integrity::Integrity;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

pub(crate) const PEER: &str = "192.0.2.7:5000";
pub(crate) const PEER_V6: &str = "[2001:db8::7]:5000";

pub(crate) fn switched_on(config: &mut Config) {
    config.tcp = Some(TcpConfig {
        peer_ports: vec![1024..=65_535],
        connections_per_allocation: 3,
        connections: 100,
        max_bytes: None,
    });
}

pub(crate) fn world() -> World {
    World::with(switched_on)
}

/// A client with a TCP allocation.
pub(crate) struct Owner {
    pub(crate) client: Client,
    pub(crate) relayed: SocketAddr,
}

pub(crate) fn tcp_allocate() -> Message {
    request(Method::Allocate).with(AttributeType::REQUESTED_TRANSPORT, [6, 0, 0, 0])
}

pub(crate) fn connect(peer: SocketAddr) -> Message {
    request(Method::Connect).peer(peer)
}

pub(crate) fn connection_bind(id: ConnectionId) -> Message {
    request(Method::ConnectionBind).with(AttributeType::CONNECTION_ID, id.0.to_be_bytes())
}

pub(crate) fn owner_over(world: &mut World, n: u16, transport: Transport) -> Owner {
    let mut client = client_over(n, transport);
    let answer = client.request(world, &tcp_allocate());
    assert_eq!(answer.code(), 0);
    let relayed = answer.relayed()[0];
    Owner { client, relayed }
}

pub(crate) fn owner(world: &mut World, n: u16) -> Owner {
    owner_over(world, n, Transport::Tcp)
}

impl Owner {
    /// Connects to a peer that answers; returns the id of the connection.
    pub(crate) fn connected(&mut self, world: &mut World, peer: SocketAddr) -> ConnectionId {
        assert_eq!(self.client.request(world, &connect(peer)), Answer::Waiting);
        world.peer_answers(true);
        self.told(world).expect("a success response")
    }

    /// The response to a waiting Connect: the CONNECTION-ID, or the error code.
    pub(crate) fn told(&self, world: &mut World) -> Result<ConnectionId, u16> {
        let (to, bytes) = world.tcp.late.pop().expect("a response");
        assert_eq!(to, self.client.client);
        let answer = Answer::Response(bytes);
        assert!(answer.is_signed(&self.client.key(), Integrity::Sha1));
        match answer.code() {
            0 => {
                let id = answer.attribute(AttributeType::CONNECTION_ID).expect("CONNECTION-ID");
                Ok(ConnectionId(attribute::connection_id(&id).unwrap()))
            }
            code => Err(code),
        }
    }
}

pub(crate) fn ended(world: &World, why: ConnectionEnd) -> u64 {
    world
        .counters
        .iter()
        .map(|counters| counters.tcp.ended[why as usize].get())
        .sum()
}

//= TCP-ALLOC-01
#[test]
fn switched_off_nothing_of_it_is_known() {
    let mut world = World::new();
    let mut client = client_over(1, Transport::Tcp);
    assert_eq!(client.request(&mut world, &tcp_allocate()).code(), 442);
    for message in [connect(addr(PEER)), connection_bind(ConnectionId(7))] {
        let answer = client.request(&mut world, &message);
        assert_eq!(answer, Answer::Dropped(DropReason::UnknownMethod));
    }
    // Only ConnectionBind knows the attribute CONNECTION-ID.
    let strange = allocate().with(AttributeType::CONNECTION_ID, [0; 4]);
    assert_eq!(client.request(&mut world, &strange).code(), 420);
    assert_eq!(world.requests("connect") + world.requests("connection_bind"), 0);
}

//= TCP-ALLOC-02
#[test]
fn a_tcp_allocation_is_for_clients_over_tcp_or_tls() {
    for (transport, code) in [
        (Transport::Tcp, 0),
        (Transport::Tls, 0),
        (Transport::Udp, 400),
        (Transport::Dtls, 400),
    ] {
        let mut world = world();
        let answer = client_over(1, transport).request(&mut world, &tcp_allocate());
        assert_eq!(answer.code(), code, "{transport}");
        assert_eq!(world.tcp.listening.len(), usize::from(code == 0));
    }
}

//= TCP-ALLOC-02
#[test]
fn what_is_about_datagrams_is_refused_beside_protocol_6() {
    let mut world = world();
    let mut client = client_over(1, Transport::Tcp);
    for message in [
        tcp_allocate().with(AttributeType::DONT_FRAGMENT, []),
        tcp_allocate().even_port(false),
        tcp_allocate().even_port(true),
        tcp_allocate().with(AttributeType::RESERVATION_TOKEN, [0; 8]),
    ] {
        assert_eq!(client.request(&mut world, &message).code(), 400);
    }
    assert_eq!(
        client.request(&mut world, &allocate()).code(),
        0,
        "UDP is relayed as ever"
    );
    client.request(&mut world, &refresh(0));
    assert_eq!(client.request(&mut world, &tcp_allocate()).code(), 0);
}

#[test]
fn a_tcp_allocation_does_not_move_with_its_client() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.mobility = Some(Mobility { grace: secs(60) });
    });
    let mut client = client_over(1, Transport::Tcp);
    let with_ticket = tcp_allocate().with(AttributeType::MOBILITY_TICKET, []);
    assert_eq!(client.request(&mut world, &with_ticket).code(), 405);
    let mut owner = owner(&mut world, 2);
    owner.connected(&mut world, addr(PEER));
    owner.client.disconnect(&mut world);
    world.assert_empty();
}

#[test]
fn a_tcp_allocation_is_given_the_families_it_asks_for_and_lives_as_any_other() {
    let mut world = world();
    let mut client = client_over(1, Transport::Tcp);
    let answer = client.request(&mut world, &tcp_allocate().also(2));
    assert_eq!((answer.code(), answer.relayed().len()), (0, 2));
    assert_eq!((answer.lifetime(), answer.mapped()), (secs(600), client.addr()));
    assert_eq!(world.tcp.listening.len(), 2);
    world.pass(just_before(secs(600)));
    assert_eq!(client.request(&mut world, &refresh(700)).lifetime(), secs(700));
    world.pass(just_before(secs(700)));
    assert_eq!(world.tcp.listening.len(), 2);
    world.pass(secs(1));
    world.assert_empty();
}

#[test]
fn tcp_allocations_count_towards_the_quota() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.limits.allocations_per_user = 1;
    });
    let _owner = owner(&mut world, 1);
    let mut other = client_over(2, Transport::Tcp);
    assert_eq!(other.request(&mut world, &tcp_allocate()).code(), 486);
    assert_eq!(other.request(&mut world, &allocate()).code(), 486);
}

//= TCP-ALLOC-03
#[test]
fn connect_needs_a_tcp_allocation_a_peer_address_and_a_peer_that_is_allowed() {
    let mut world = world();
    let mut stranger = client_over(1, Transport::Tcp);
    assert_eq!(stranger.request(&mut world, &connect(addr(PEER))).code(), 437);
    let mut datagrams = client_over(2, Transport::Tcp);
    datagrams.allocate(&mut world);
    assert_eq!(
        datagrams.request(&mut world, &connect(addr(PEER))).code(),
        437,
        "it relays UDP"
    );

    let mut owner = owner(&mut world, 3);
    let own = owner.relayed;
    for (message, code) in [
        (request(Method::Connect), 400),
        (
            request(Method::Connect).with(AttributeType::XOR_PEER_ADDRESS, [0, 1, 2]),
            400,
        ),
        (connect(addr("192.0.2.7:0")), 400),
        (connect(addr(PEER_V6)), 443),
        (connect(addr("10.0.0.1:5000")), 403),
        (connect(addr("127.0.0.1:5000")), 403),
        (connect(addr("[::ffff:192.0.2.7]:5000")), 403),
        (connect(addr("192.0.2.7:80")), 403),
        (connect(addr("192.0.2.7:1023")), 403),
        (connect(own), 403),
        // A relay port without a TCP allocation may belong to a program of this machine.
        (connect(addr("198.51.100.9:50399")), 403),
    ] {
        assert_eq!(owner.client.request(&mut world, &message).code(), code);
    }
    assert!(world.tcp.connecting.is_empty());
    owner.connected(&mut world, addr("192.0.2.7:1024"));
    assert_eq!(world.requests("connect"), 14);
}

//= TCP-ALLOC-04
#[test]
fn one_connection_per_peer_while_it_is_made_waits_and_is_bound() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    let peer = addr(PEER);
    assert_eq!(owner.client.request(&mut world, &connect(peer)), Answer::Waiting);
    assert_eq!(owner.client.request(&mut world, &connect(peer)).code(), 446);
    world.peer_answers(true);
    let id = owner.told(&mut world).unwrap();
    assert_eq!(owner.client.request(&mut world, &connect(peer)).code(), 446);
    let mut data = client_over(2, Transport::Tcp);
    assert_eq!(data.request(&mut world, &connection_bind(id)), Answer::Bound(id));
    assert_eq!(owner.client.request(&mut world, &connect(peer)).code(), 446);
    // Another port is another peer.
    owner.connected(&mut world, addr("192.0.2.7:5001"));
    world.peer_closes(0, id);
    assert_ne!(owner.connected(&mut world, peer), id);
}

//= TCP-ALLOC-04
#[test]
fn a_peer_that_has_connected_itself_is_connected() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    owner.client.permit(&mut world, &[addr(PEER)]);
    world.peer_connects(addr(PEER), owner.relayed).unwrap();
    assert_eq!(owner.client.request(&mut world, &connect(addr(PEER))).code(), 446);
}

//= TCP-ALLOC-05
#[test]
fn a_peer_that_refuses_is_told_with_447_and_may_be_tried_again() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    assert_eq!(owner.client.request(&mut world, &connect(addr(PEER))), Answer::Waiting);
    world.peer_answers(false);
    assert_eq!(owner.told(&mut world), Err(447));
    assert_eq!(ended(&world, ConnectionEnd::ConnectFailed), 1);
    owner.connected(&mut world, addr(PEER));
}

//= TCP-ALLOC-05
#[test]
fn a_peer_that_does_not_answer_is_given_up_after_thirty_seconds() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    assert_eq!(owner.client.request(&mut world, &connect(addr(PEER))), Answer::Waiting);
    world.pass(just_before(secs(30)));
    assert_eq!((world.tcp.connecting.len(), world.tcp.late.len()), (1, 0));
    world.pass(secs(30) - just_before(secs(30)));
    assert!(world.tcp.connecting.is_empty());
    assert_eq!(owner.told(&mut world), Err(447));
    assert_eq!(ended(&world, ConnectionEnd::ConnectTimeout), 1);
    // A peer that answers at the last moment is connected.
    assert_eq!(owner.client.request(&mut world, &connect(addr(PEER))), Answer::Waiting);
    world.pass(just_before(secs(30)));
    world.peer_answers(true);
    assert!(owner.told(&mut world).is_ok());
}

//= TCP-ALLOC-06
#[test]
fn connections_leave_from_the_relayed_address_and_have_names_nobody_guesses() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.tcp.as_mut().unwrap().connections_per_allocation = 64;
    });
    let mut owner = owner(&mut world, 1);
    let mut names = Vec::new();
    for port in 2000..2064 {
        let peer = SocketAddr::new(ip("192.0.2.7"), port);
        assert_eq!(owner.client.request(&mut world, &connect(peer)), Answer::Waiting);
        let connecting = world.peer_answers(true);
        assert_eq!(connecting.to, peer);
        assert_eq!(connecting.from, SocketAddr::new(ip("10.1.2.3"), owner.relayed.port()));
        let id = owner.told(&mut world).unwrap();
        assert_eq!(id, connecting.id);
        names.push(id.0);
    }
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), 64);
    let ones: u32 = names.iter().map(|name| name.count_ones()).sum();
    assert!((800..1250).contains(&ones), "{ones} of 2048 bits are set");
    assert!(names.windows(2).all(|two| two[0].abs_diff(two[1]) > 16));
}

//= TCP-ALLOC-07
#[test]
fn a_peer_with_a_permission_is_announced_and_one_without_is_turned_away() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    let peer = addr(PEER);
    assert_eq!(world.peer_connects(peer, owner.relayed), Err(PeerRefusal::NoPermission));
    owner.client.permit(&mut world, &[addr("192.0.2.7:1")]);
    let attempt = world.peer_connects(peer, owner.relayed).unwrap();
    assert_eq!((attempt.client, attempt.peer), (owner.client.client, peer));
    assert_eq!(
        world.peer_connects(addr("192.0.2.8:5000"), owner.relayed),
        Err(PeerRefusal::NoPermission)
    );
    world.pass(just_before(secs(300)));
    assert!(world.peer_connects(addr("192.0.2.7:5001"), owner.relayed).is_ok());
    world.pass(secs(300) - just_before(secs(300)));
    assert_eq!(
        world.peer_connects(addr("192.0.2.7:5002"), owner.relayed),
        Err(PeerRefusal::NoPermission)
    );
    let counters = &world.counters[0].tcp;
    assert_eq!((counters.accepted.get(), counters.refused[0].get()), (2, 3));
}

//= TCP-ALLOC-11
#[test]
fn what_carries_datagrams_has_no_effect() {
    let mut world = world();
    let mut owner = owner(&mut world, 1);
    let peer = addr(PEER);
    owner.client.permit(&mut world, &[peer]);
    let dropped = owner.client.send(&mut world, peer, b"x");
    assert_eq!(dropped, Answer::Dropped(DropReason::TcpAllocation));
    assert_eq!(
        owner.client.request(&mut world, &channel_bind(0x4000, peer)).code(),
        400
    );
    let dropped = owner.client.channel_data(&mut world, 0x4000, b"x");
    assert_eq!(dropped, Answer::Dropped(DropReason::NoChannel));
    // Nor does another client's datagram reach it.
    let mut other = client(2);
    other.allocate(&mut world);
    other.permit(&mut world, &[owner.relayed]);
    let dropped = other.send(&mut world, owner.relayed, b"x");
    assert_eq!(dropped, Answer::Dropped(DropReason::NoSuchRelay));
}

//= TCP-ALLOC-12
#[test]
fn one_policy_holds_for_peers_that_are_connected_to_and_peers_that_connect() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.policy = policy(&["192.0.2.66/32"]);
        config.tcp.as_mut().unwrap().peer_ports = vec![5000..=5000, 6000..=6001];
    });
    let mut owner = owner(&mut world, 1);
    owner.client.permit(&mut world, &[addr(PEER)]);
    for (peer, allowed) in [
        ("192.0.2.7:4999", false),
        ("192.0.2.7:5000", true),
        ("192.0.2.7:5001", false),
        ("192.0.2.7:6001", true),
        ("192.0.2.7:6002", false),
        // A port of a reflector, also denied for datagrams.
        ("192.0.2.7:1900", false),
    ] {
        let accepted = world.peer_connects(addr(peer), owner.relayed);
        assert_eq!(accepted.is_ok(), allowed, "{peer}");
        match accepted {
            Ok(attempt) => world.peer_closes(0, attempt.id),
            Err(why) => assert_eq!(why, PeerRefusal::PeerDenied),
        }
        let answer = owner.client.request(&mut world, &connect(addr(peer)));
        assert_eq!(answer == Answer::Waiting, allowed, "{peer}");
        if allowed {
            world.peer_answers(false);
        }
    }
    assert_eq!(
        owner
            .client
            .request(&mut world, &create_permission(&[addr("192.0.2.66:5000")]))
            .code(),
        403
    );
    assert_eq!(
        owner
            .client
            .request(&mut world, &connect(addr("192.0.2.66:5000")))
            .code(),
        403
    );
}

//= TCP-ALLOC-12
#[test]
fn connections_are_bounded_per_allocation_and_in_all() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.tcp.as_mut().unwrap().connections = 4;
    });
    let (mut a, mut b) = (owner(&mut world, 1), owner(&mut world, 2));
    let peer = |port| SocketAddr::new(ip("192.0.2.7"), port);
    a.client.permit(&mut world, &[peer(1)]);
    let first = a.connected(&mut world, peer(5000));
    world.peer_connects(peer(5001), a.relayed).unwrap();
    assert_eq!(a.client.request(&mut world, &connect(peer(5002))), Answer::Waiting);
    assert_eq!(a.client.request(&mut world, &connect(peer(5003))).code(), 508);
    assert_eq!(
        world.peer_connects(peer(5004), a.relayed),
        Err(PeerRefusal::TooMany),
        "three are one allocation's"
    );
    world.peer_answers(true);
    assert!(a.told(&mut world).is_ok());
    b.connected(&mut world, peer(5000));
    assert_eq!(
        b.client.request(&mut world, &connect(peer(5001))).code(),
        508,
        "four in all"
    );
    world.peer_closes(0, first);
    b.connected(&mut world, peer(5001));
    assert_eq!(a.client.request(&mut world, &connect(peer(5003))).code(), 508);
}

//= TCP-ALLOC-12
#[test]
fn connect_requests_are_rate_limited_with_the_other_requests_about_peers() {
    let mut world = World::with(|config| {
        switched_on(config);
        config.limits.permission_requests_per_second = 2;
    });
    let mut owner = owner(&mut world, 1);
    owner.client.permit(&mut world, &[addr(PEER)]);
    assert_eq!(owner.client.request(&mut world, &connect(addr(PEER))), Answer::Waiting);
    let third = owner.client.request(&mut world, &connect(addr("192.0.2.7:5001")));
    assert_eq!(third, Answer::Dropped(DropReason::PermissionLimited));
}
