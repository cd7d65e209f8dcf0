//! EVEN-PORT and RESERVATION-TOKEN, from one transport and IP version to another.

use relay_proto::wire::attribute::AttributeType;

use crate::every_client::*;
use relay_testkit::world::*;

fn with_token(token: &[u8]) -> Message {
    allocate().with(AttributeType::RESERVATION_TOKEN, token)
}

/// Any client with another number: each is a different client.
fn numbered(client: Client, n: u16) -> Client {
    let mut client = client;
    client.client.five_tuple.client.set_port(n);
    client
}

//= TURN-ALLOC-12
//= TURN-ALLOC-16
//= TURN-ALLOC-17
#[test]
fn a_token_is_good_once_for_every_other_client_of_its_user() {
    for family in [1, 2] {
        for (n, (first, second)) in (1..)
            .step_by(4)
            .zip(every_client().zip(every_client().skip(1).chain(every_client().take(1))))
        {
            let mut world = World::new();
            let (mut first, mut second) = (numbered(first, n), numbered(second, n + 1));
            let stories = format!("{} then {}", story(&first), story(&second));
            let reserving = first.request(&mut world, &allocate().family(family).even_port(true));
            let (even, token) = (reserving.relayed()[0], reserving.token().expect("a token"));
            assert_eq!(
                (even.port() % 2, even.is_ipv4(), token.len()),
                (0, family == 1, 8),
                "{stories}"
            );
            let mut bob = numbered(second.clone(), n + 2).user("bob", "builder");
            bob.nonce = None;
            assert_eq!(
                bob.request(&mut world, &with_token(&token)).code(),
                508,
                "another user's, {stories}"
            );
            let used = second.request(&mut world, &with_token(&token));
            let odd = (even.ip(), even.port() + 1).into();
            assert_eq!((used.relayed(), used.token()), (vec![odd], None), "{stories}");
            let mut third = numbered(second.clone(), n + 3);
            third.nonce = None;
            assert_eq!(
                third.request(&mut world, &with_token(&token)).code(),
                508,
                "used up, {stories}"
            );
            // The odd port is an allocation like any other.
            let peer = addr(if family == 1 {
                "192.0.2.1:7000"
            } else {
                "[2001:db8::1]:7000"
            });
            second.permit(&mut world, &[peer]);
            assert!(world.peer(peer, odd, b"x").is_data(peer, b"x"));
            assert_eq!(world.ports_used(), 2);
            first.request(&mut world, &refresh(0));
            second.request(&mut world, &refresh(0));
            world.assert_empty();
        }
    }
}

//= TURN-ALLOC-11
//= TURN-ALLOC-18
#[test]
fn a_reservation_of_either_family_is_held_for_thirty_seconds() {
    for family in [1, 2] {
        for (wait, code) in [
            (secs(29), 0),
            (just_before(secs(30)), 0),
            (secs(30), 508),
            (secs(31), 508),
        ] {
            let mut world = World::with(|config| config.relay.ports = 50_000..=50_001);
            let (mut first, mut second) = (client(1), client(2));
            challenge(&mut world, &mut second);
            let token = first
                .request(&mut world, &allocate().family(family).even_port(true))
                .token()
                .expect("a token");
            // While it is reserved, no client gets it by chance.
            assert_eq!(client(3).request(&mut world, &allocate().family(family)).code(), 508);
            world.pass(wait);
            assert_eq!(second.request(&mut world, &with_token(&token)).code(), code, "{wait:?}");
            let free = if code == 508 { 0 } else { 508 };
            assert_eq!(
                client(3).request(&mut world, &allocate().family(family)).code(),
                free,
                "{wait:?}"
            );
        }
    }
}

//= TURN-ALLOC-20
//= TURN-ALLOC-21
#[test]
fn even_ports_of_a_dual_allocation_are_both_even_or_one_is_told_to_be_missing() {
    for client in every_client() {
        let mut world = World::new();
        let answer = client.clone().request(&mut world, &allocate().also(2).even_port(false));
        assert!(answer.relayed().iter().all(|relayed| relayed.port() % 2 == 0) && answer.relayed().len() == 2);
        // One even port per family; the IPv4 one is in use.
        let mut world = World::with(|config| config.relay.ports = 50_000..=50_001);
        let mut taker = numbered(client.clone(), 1);
        taker.request(&mut world, &allocate().even_port(false));
        let answer = client.clone().request(&mut world, &allocate().also(2).even_port(false));
        assert_eq!(answer.relayed().len(), 1, "{}", story(&client));
        assert!(answer.relayed()[0].is_ipv6() && answer.relayed()[0].port() == 50_000);
        assert_eq!(
            answer.attribute(AttributeType::ADDRESS_ERROR_CODE).unwrap()[..4],
            [1, 0, 5, 8]
        );
    }
}
