//! CreatePermission (RFC 8656 §9, §10.2).

use relay_proto::turn::DropReason;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

const NOT_PERMITTED: Delivered = Delivered::Dropped(DropReason::NoPermission);

//= TURN-PERM-01
#[test]
fn a_request_without_a_peer_is_bad() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    assert_eq!(
        client.request(&mut world, &request(Method::CreatePermission)).code(),
        400
    );
}

//= TURN-PERM-02
//= TURN-PERM-03
//= TURN-PERM-04
#[test]
fn one_bad_peer_and_none_is_installed() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.allocate(&mut world);
    let good = addr("192.0.2.1:7000");
    let xor_peer = |value: &[u8]| create_permission(&[good]).with(AttributeType::XOR_PEER_ADDRESS, value);
    let cases = [
        (xor_peer(&[0, 1, 0, 0, 1, 2, 3]), 400),
        (xor_peer(&[0, 0, 0, 0, 1, 2, 3, 4]), 400),
        (xor_peer(&[0, 3, 0, 0, 1, 2, 3, 4]), 400),
        (xor_peer(&[]), 400),
        (create_permission(&[good, addr("[2001:db8::1]:1")]), 443),
        (create_permission(&[good, addr("10.0.0.1:1")]), 403),
        (create_permission(&[good, addr("127.0.0.1:1")]), 403),
        (create_permission(&[good, addr("169.254.169.254:80")]), 403),
        (create_permission(&[good, addr("[::ffff:127.0.0.1]:1")]), 403),
        (create_permission(&[good, addr("[::ffff:192.0.2.1]:1")]), 403),
    ];
    for (message, code) in cases {
        assert_eq!(client.request(&mut world, &message).code(), code);
        assert_eq!(world.peer(good, relayed, b"x"), NOT_PERMITTED);
        assert_eq!(
            client.send(&mut world, good, b"x"),
            Answer::Dropped(DropReason::NoPermission)
        );
    }
}

//= TURN-PERM-05
#[test]
fn permissions_are_bounded_and_all_or_nothing() {
    let mut world = World::with(|config| config.limits.permissions = 4);
    let mut client = client(1);
    let relayed = client.allocate(&mut world);
    let peer = |n: u8| addr(&format!("192.0.2.{n}:7000"));
    client.permit(&mut world, &[peer(1), peer(2), peer(3)]);
    assert_eq!(
        client
            .request(&mut world, &create_permission(&[peer(4), peer(5)]))
            .code(),
        508
    );
    assert_eq!(world.peer(peer(4), relayed, b"x"), NOT_PERMITTED);
    client.permit(&mut world, &[peer(4), peer(4), peer(4)]);
    assert_eq!(client.request(&mut world, &channel_bind(0x4000, peer(5))).code(), 508);
    assert_eq!(
        client.channel_data(&mut world, 0x4000, b"x"),
        Answer::Dropped(DropReason::NoChannel)
    );
    // Existing permissions can always be refreshed, and expired ones make room.
    client.permit(&mut world, &[peer(1), peer(2), peer(3), peer(4)]);
    world.pass(secs(300));
    client.permit(&mut world, &[peer(5), peer(6), peer(7), peer(8)]);
}

//= TURN-PERM-06
#[test]
fn all_peers_of_a_request_are_installed() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.allocate(&mut world);
    let peers: Vec<_> = (1..=10).map(|n| addr(&format!("192.0.2.{n}:7000"))).collect();
    client.permit(&mut world, &peers);
    for peer in peers {
        assert!(world.peer(peer, relayed, b"x").is_data(peer, b"x"));
    }
}

//= TURN-PERM-07
//= TURN-PERM-11
//= TURN-PERM-12
#[test]
fn a_permission_is_for_an_address_on_any_port_and_for_one_allocation() {
    let mut world = World::new();
    let (mut client, mut other) = (client(1), client(2));
    let relayed = client.allocate(&mut world);
    let elsewhere = other.allocate(&mut world);
    client.permit(&mut world, &[addr("192.0.2.1:0")]);
    for port in [1024, 7000, 65_535] {
        let peer = (ip("192.0.2.1"), port).into();
        assert!(world.peer(peer, relayed, b"x").is_data(peer, b"x"));
        assert_eq!(client.send(&mut world, peer, b"x").sent().to, peer);
        assert_eq!(world.peer(peer, elsewhere, b"x"), NOT_PERMITTED);
        assert_eq!(
            other.send(&mut world, peer, b"x"),
            Answer::Dropped(DropReason::NoPermission)
        );
    }
    assert_eq!(world.peer(addr("192.0.2.2:7000"), relayed, b"x"), NOT_PERMITTED);
}

//= TURN-PERM-08
#[test]
fn a_permission_lasts_exactly_300_seconds() {
    let mut world = World::new();
    let (mut client, peer) = (client(1), addr("192.0.2.1:7000"));
    let relayed = client.allocate(&mut world);
    client.permit(&mut world, &[peer]);
    world.pass_unnoticed(just_before(secs(300)));
    assert!(world.peer(peer, relayed, b"x").is_data(peer, b"x"));
    assert_eq!(client.send(&mut world, peer, b"x").sent().to, peer);
    world.pass_unnoticed(std::time::Duration::from_nanos(1));
    assert_eq!(world.peer(peer, relayed, b"x"), NOT_PERMITTED);
    assert_eq!(
        client.send(&mut world, peer, b"x"),
        Answer::Dropped(DropReason::NoPermission)
    );
}

//= TURN-PERM-09
#[test]
fn only_create_permission_and_channel_bind_refresh_a_permission() {
    let mut world = World::with(|config| config.limits.permissions = 2);
    let (mut client, peer) = (client(1), addr("192.0.2.1:7000"));
    let relayed = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer);
    world.pass(secs(200));
    client.permit(&mut world, &[peer]);
    world.pass(secs(200));
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
    client.bind(&mut world, 0x4000, peer);
    client.request(&mut world, &refresh(3600));
    for _ in 0..299 {
        world.pass(secs(1));
        client.send(&mut world, peer, b"x").sent();
        client.channel_data(&mut world, 0x4000, b"x").sent();
        assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
    }
    world.pass(secs(1));
    assert_eq!(world.peer(peer, relayed, b"x"), NOT_PERMITTED);
    // Repeated any number of times, it is one entry of the table.
    for _ in 0..1000 {
        client.permit(&mut world, &[peer]);
    }
    client.permit(&mut world, &[addr("192.0.2.2:1")]);
}

//= TURN-PERM-10
#[test]
fn a_peer_without_permission_is_not_heard() {
    let mut world = World::new();
    let relayed = client(1).allocate(&mut world);
    assert_eq!(world.peer(addr("192.0.2.1:7000"), relayed, b"x"), NOT_PERMITTED);
    assert_eq!(world.dropped(DropReason::NoPermission), 1);
}

//= TURN-PERM-13
#[test]
fn a_reload_that_denies_a_peer_stops_its_traffic_both_ways_and_one_that_allows_it_lets_it_flow() {
    let mut world = World::new();
    let (mut client, peer, other) = (client(1), addr("192.0.2.1:7000"), addr("192.0.2.2:7000"));
    let relayed = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer);
    client.permit(&mut world, &[other]);
    client.send(&mut world, other, b"x").sent();
    world.reload(|config| config.policy = policy(&["192.0.2.0/30"]));
    let denied = DropReason::PeerDenied;
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x"), Answer::Dropped(denied));
    assert_eq!(client.send(&mut world, other, b"x"), Answer::Dropped(denied));
    assert_eq!(world.peer(peer, relayed, b"x"), Delivered::Dropped(denied));
    assert_eq!(world.peer(other, relayed, b"x"), Delivered::Dropped(denied));
    assert_eq!(client.request(&mut world, &create_permission(&[peer])).code(), 403);
    assert_eq!(client.request(&mut world, &channel_bind(0x4000, peer)).code(), 403);
    world.reload(|config| config.policy = policy(&[]));
    client.channel_data(&mut world, 0x4000, b"x").sent();
    client.send(&mut world, other, b"x").sent();
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
    assert!(world.peer(other, relayed, b"x").is_data(other, b"x"));
}
