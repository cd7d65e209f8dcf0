//! Refresh (RFC 8656 §8.2).

use relay_proto::turn::DropReason;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

const V4: u8 = 1;
const V6: u8 = 2;

//= TURN-REFR-01
//= TURN-REFR-08
#[test]
fn lifetime_zero_ends_the_allocation_at_once() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.allocate(&mut world);
    let peer = addr("192.0.2.1:7000");
    client.permit(&mut world, &[peer]);
    let answer = client.request(&mut world, &refresh(0));
    assert_eq!((answer.code(), answer.lifetime()), (0, secs(0)));
    world.assert_empty();
    assert_eq!(world.peer(peer, relayed, b"late"), Delivered::Unreachable);
    assert_eq!(client.request(&mut world, &refresh(600)).code(), 437);
}

//= TURN-REFR-02
#[test]
fn a_copy_of_the_deleting_request_finds_no_allocation() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    let packet = client.signed(&refresh(0));
    assert_eq!(world.packet(&client, &packet).code(), 0);
    assert_eq!(world.packet(&client, &packet).code(), 437);
}

//= TURN-REFR-03
#[test]
fn lifetimes_follow_the_rules_of_allocate_and_may_become_shorter() {
    const CASES: [(Option<u32>, u64); 7] = [
        (None, 600),
        (Some(1), 600),
        (Some(599), 600),
        (Some(3600), 3600),
        (Some(u32::MAX), 3600),
        (Some(601), 601),
        (Some(600), 600),
    ];
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    for (asked, granted) in CASES {
        let message = asked.map_or(request(Method::Refresh), refresh);
        assert_eq!(
            client.request(&mut world, &message).lifetime(),
            secs(granted),
            "{asked:?}"
        );
    }
    world.pass(just_before(secs(600)));
    assert_eq!(world.shards[0].allocations(), 1);
    world.pass(secs(1));
    world.assert_empty();
}

#[test]
fn a_refresh_starts_the_lifetime_anew() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    for _ in 0..10 {
        world.pass(just_before(secs(600)));
        client.nonce = None;
        assert_eq!(client.request(&mut world, &refresh(600)).code(), 0);
    }
    world.pass(secs(601));
    world.assert_empty();
}

//= TURN-REFR-06
#[test]
fn permissions_and_channels_are_not_refreshed() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.allocate(&mut world);
    let peer = addr("192.0.2.1:7000");
    client.bind(&mut world, 0x4000, peer);
    world.pass(secs(299));
    client.request(&mut world, &refresh(3600));
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
    world.pass(secs(1));
    assert_eq!(
        world.peer(peer, relayed, b"x"),
        Delivered::Dropped(DropReason::NoPermission)
    );
    world.pass(secs(299));
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x").sent().to, peer);
    world.pass(secs(1));
    assert_eq!(
        client.channel_data(&mut world, 0x4000, b"x"),
        Answer::Dropped(DropReason::NoChannel)
    );
}

//= TURN-REFR-04
//= TURN-REFR-07
#[test]
fn a_failed_refresh_changes_nothing() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    world.pass(secs(300));
    for family in [V6, 0, 3, 0xFF] {
        assert_eq!(
            client.request(&mut world, &refresh(3600).family(family)).code(),
            443,
            "family {family}"
        );
    }
    let short = refresh(3600).with(AttributeType::REQUESTED_ADDRESS_FAMILY, [V4]);
    assert_eq!(client.request(&mut world, &short).code(), 400);
    let odd = request(Method::Refresh).with(AttributeType::LIFETIME, [0, 0, 14]);
    assert_eq!(client.request(&mut world, &odd).code(), 400);
    let unknown = refresh(3600).with(AttributeType(0x7FFE), []);
    assert_eq!(client.request(&mut world, &unknown).code(), 420);
    let mut bob = client.clone().user("bob", "builder");
    assert_eq!(bob.request(&mut world, &refresh(0)).code(), 441);
    let mut wrong = client.clone().user("alice", "not this");
    assert_eq!(wrong.request(&mut world, &refresh(0)).code(), 401);
    assert_eq!(world.shards[0].allocations(), 1);
    world.pass(secs(301));
    world.assert_empty();
}

//= TURN-REFR-05
#[test]
fn one_half_of_a_dual_allocation_can_be_refreshed_or_deleted_alone() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.request(&mut world, &allocate().also(V6)).relayed();
    let (peer4, peer6) = (addr("192.0.2.1:7000"), addr("[2001:db8::1]:7000"));
    client.bind(&mut world, 0x4000, peer4);
    client.bind(&mut world, 0x4001, peer6);

    assert_eq!(client.request(&mut world, &refresh(0).family(V6)).lifetime(), secs(0));
    assert_eq!(world.sockets.len(), 1);
    assert_eq!(world.peer(peer6, relayed[1], b"x"), Delivered::Unreachable);
    assert_eq!(
        client.channel_data(&mut world, 0x4001, b"x"),
        Answer::Dropped(DropReason::NoChannel)
    );
    assert_eq!(
        client.send(&mut world, peer6, b"x"),
        Answer::Dropped(DropReason::FamilyMismatch)
    );
    assert_eq!(client.request(&mut world, &create_permission(&[peer6])).code(), 443);
    assert_eq!(client.request(&mut world, &refresh(600).family(V6)).code(), 443);
    assert!(world.peer(peer4, relayed[0], b"x").is_channel(0x4000, b"x"));
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x").sent().to, peer4);

    assert_eq!(client.request(&mut world, &refresh(0)).code(), 0);
    world.assert_empty();
}

//= TURN-REFR-05
#[test]
fn the_halves_of_a_dual_allocation_expire_each_in_its_time() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.request(&mut world, &allocate().also(V6)).relayed();
    let (peer4, peer6) = (addr("192.0.2.1:7000"), addr("[2001:db8::1]:7000"));
    client.request(&mut world, &refresh(1200).family(V4));
    world.pass(secs(500));
    client.permit(&mut world, &[peer4, peer6]);
    world.pass_unnoticed(secs(100));
    assert_eq!(
        client.send(&mut world, peer6, b"x"),
        Answer::Dropped(DropReason::FamilyMismatch)
    );
    assert_eq!(
        world.peer(peer6, relayed[1], b"x"),
        Delivered::Dropped(DropReason::NoAllocation)
    );
    assert_eq!(client.send(&mut world, peer4, b"x").sent().to, peer4);
    world.pass(secs(1));
    assert_eq!((world.sockets.len(), world.ports_used()), (1, 1));
    assert!(world.events.len() == 1, "an allocation that shrinks has not ended");
    world.pass(secs(599));
    world.assert_empty();
    assert_eq!(world.events.len(), 2);
}

//= TURN-GEN-01
#[test]
fn without_an_allocation_it_is_a_mismatch() {
    let mut world = World::new();
    let peer = addr("192.0.2.1:7000");
    for message in [refresh(600), create_permission(&[peer]), channel_bind(0x4000, peer)] {
        assert_eq!(client(1).request(&mut world, &message).code(), 437);
    }
}
