//! Copies of requests (RFC 8489 §6.3.1, RFC 8656 §7.2): over UDP a client repeats a request without
//! a response.

use relay_proto::base::address::Transport;
use relay_proto::wire::attribute::AttributeType;

use relay_testkit::world::*;

/// Copies only occur with datagrams, so this whole file is about UDP.
fn client(n: u16) -> Client {
    client_over(n, Transport::Udp)
}

//= TURN-ALLOC-03
//= TURN-GEN-05
#[test]
fn a_copy_of_an_allocate_gets_the_same_answer_again_with_what_is_left_of_the_lifetime() {
    let mut world = World::new();
    let mut client = client(1);
    client.request(&mut world, &refresh(600));
    let packet = client.signed(&allocate().even_port(true));
    let first = world.packet(&client, &packet);
    for second in 1..=7 {
        world.pass(secs(5));
        let again = world.packet(&client, &packet);
        assert_eq!(
            (again.code(), again.relayed(), again.token()),
            (0, first.relayed(), first.token())
        );
        assert_eq!(again.lifetime(), secs(600 - 5 * second));
        assert!(again.is_signed(&client.key(), client.integrity));
    }
    assert_eq!((world.shards[0].allocations(), world.binds.len()), (1, 1));
}

#[test]
fn a_copy_of_a_dual_allocate_repeats_the_error_of_the_missing_half() {
    let mut world = World::with(|config| config.relay.ipv6 = None);
    let mut client = client(1);
    client.request(&mut world, &refresh(600));
    let packet = client.signed(&allocate().also(2));
    let first = world.packet(&client, &packet);
    assert!(first.attribute(AttributeType::ADDRESS_ERROR_CODE).is_some());
    assert_eq!(world.packet(&client, &packet), first);
}

//= TURN-ALLOC-04
#[test]
fn a_copy_is_known_by_its_signature_even_when_its_nonce_is_stale() {
    let mut world = World::with(|config| config.nonce_lifetime = secs(10));
    let mut client = client(1);
    client.request(&mut world, &refresh(600));
    let packet = client.signed(&allocate());
    assert_eq!(world.packet(&client, &packet).code(), 0);
    world.pass(secs(20));
    assert_eq!(world.packet(&client, &packet).code(), 0);
    let mut tampered = packet.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    assert!(matches!(world.packet(&client, &tampered).code(), 401 | 438));
    let mut other_user = client.clone().user("bob", "builder");
    let id = relay_proto::wire::message::Message::parse(&packet)
        .unwrap()
        .transaction_id();
    let mut same_id = allocate();
    same_id.id = Some(id);
    other_user.nonce = None;
    assert_eq!(other_user.request(&mut world, &same_id).code(), 437);
}

#[test]
fn after_forty_seconds_the_same_transaction_id_is_a_new_request() {
    for (wait, code) in [(just_before(secs(40)), 0), (secs(40), 437)] {
        let mut world = World::new();
        let mut client = client(1);
        client.request(&mut world, &refresh(600));
        let packet = client.signed(&allocate());
        world.packet(&client, &packet);
        world.pass_unnoticed(wait);
        assert_eq!(world.packet(&client, &packet).code(), code);
    }
}

#[test]
fn a_copy_is_answered_like_the_first_whatever_signs_it() {
    use relay_proto::wire::integrity::{Integrity, PasswordAlgorithm};
    for integrity in [Integrity::Sha1, Integrity::Sha256] {
        for algorithm in [None, Some(PasswordAlgorithm::Md5), Some(PasswordAlgorithm::Sha256)] {
            let mut world = World::new();
            let mut client = client(1);
            (client.integrity, client.algorithm) = (integrity, algorithm);
            let challenge = client.send_plain(&mut world, &allocate());
            client.nonce = challenge.attribute(AttributeType::NONCE);
            let packet = client.signed(&allocate());
            let first = world.packet(&client, &packet);
            assert_eq!(first.code(), 0);
            assert_eq!(world.packet(&client, &packet), first, "{integrity:?} {algorithm:?}");
        }
    }
}

//= TURN-ALLOC-05
#[test]
fn a_late_copy_makes_no_second_allocation() {
    let mut world = World::new();
    let mut client = client(1);
    client.request(&mut world, &refresh(600));
    let packet = client.signed(&allocate());
    world.packet(&client, &packet);
    client.request(&mut world, &refresh(0));
    world.pass(just_before(secs(40)));
    assert_eq!(world.packet(&client, &packet).code(), 437);
    world.assert_empty();
}

//= COMPAT-05
#[test]
fn after_a_release_the_port_can_be_used_at_once_with_another_transaction() {
    let mut world = World::new();
    let mut client = client(1);
    for _ in 0..10 {
        client.allocate(&mut world);
        client.request(&mut world, &refresh(0));
    }
    world.assert_empty();
}

//= TURN-ALLOC-06
#[test]
fn on_a_stream_the_same_transaction_id_is_no_copy() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut world = World::new();
        let mut client = client_over(1, transport);
        client.request(&mut world, &refresh(600));
        let packet = client.signed(&allocate());
        assert_eq!(world.packet(&client, &packet).code(), 0);
        assert_eq!(world.packet(&client, &packet).code(), 437);
    }
}

//= TURN-GEN-05
#[test]
fn copies_of_other_requests_change_nothing() {
    let mut world = World::new();
    let (mut client, peer) = (client(1), addr("192.0.2.1:7000"));
    let relayed = client.allocate(&mut world);
    for message in [refresh(1200), create_permission(&[peer]), channel_bind(0x4000, peer)] {
        let packet = client.signed(&message);
        for _ in 0..3 {
            assert_eq!(world.packet(&client, &packet).code(), 0);
        }
    }
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
    assert_eq!(world.ports_used(), 1);
}
