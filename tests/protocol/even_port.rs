//! EVEN-PORT and RESERVATION-TOKEN (RFC 8656 §7.2 steps 5 and 8).

use relay_proto::turn::OpenError;
use relay_proto::wire::attribute::AttributeType;

use relay_testkit::world::*;

fn with_token(token: &[u8]) -> Message {
    allocate().with(AttributeType::RESERVATION_TOKEN, token)
}

//= TURN-ALLOC-16
#[test]
fn an_even_port_leaves_the_odd_one_in_the_pool() {
    let mut world = World::with(|config| config.relay.ports = 50_000..=50_003);
    for _ in 0..50 {
        let mut clients: Vec<Client> = (1..=4).map(client).collect();
        let answer = clients[0].request(&mut world, &allocate().even_port(false));
        assert!(answer.relayed()[0].port().is_multiple_of(2));
        assert_eq!(answer.token(), None);
        for client in &mut clients[1..] {
            client.allocate(&mut world);
        }
        for client in &mut clients {
            client.request(&mut world, &refresh(0));
        }
        world.assert_empty();
        world.pass(secs(41));
    }
}

//= TURN-ALLOC-17
//= TURN-ALLOC-12
#[test]
fn a_reserved_port_is_had_with_its_token_once() {
    let mut world = World::new();
    let answer = client(1).request(&mut world, &allocate().even_port(true));
    let (even, token) = (answer.relayed()[0], answer.token().expect("a token"));
    assert!(even.port().is_multiple_of(2) && token.len() == 8);
    assert_eq!(answer.kinds(), [0x0016, 0x000D, 0x0020, 0x0022, 0x0008]);
    assert_eq!(world.ports_used(), 2);
    let mut second = client_over(2, relay_proto::base::address::Transport::Tls);
    let answer = second.request(&mut world, &with_token(&token));
    assert_eq!((answer.relayed()[0].port(), answer.token()), (even.port() + 1, None));
    assert_eq!(client(3).request(&mut world, &with_token(&token)).code(), 508, "used");
    assert_eq!(world.ports_used(), 2);
    world.pass(secs(601));
    world.assert_empty();
}

//= TURN-ALLOC-11
//= TURN-ALLOC-12
#[test]
fn tokens_that_are_wrong_or_anothers_are_refused() {
    let mut world = World::new();
    let token = client(1)
        .request(&mut world, &allocate().even_port(true))
        .token()
        .expect("a token");
    for len in [0, 4, 7, 9, 12] {
        assert_eq!(
            client(2).request(&mut world, &with_token(&[1; 12][..len])).code(),
            400,
            "{len} bytes"
        );
    }
    assert_eq!(client(2).request(&mut world, &with_token(&[1; 8])).code(), 508);
    let mut bob = client(3).user("bob", "builder");
    assert_eq!(bob.request(&mut world, &with_token(&token)).code(), 508);
    assert_eq!(client(2).request(&mut world, &with_token(&token)).code(), 0);
}

//= TURN-ALLOC-18
#[test]
fn a_reservation_lasts_thirty_seconds_and_then_the_port_is_free() {
    for (wait, code) in [(just_before(secs(30)), 0), (secs(30), 508)] {
        let mut world = World::new();
        let mut first = client(1);
        let token = first
            .request(&mut world, &allocate().even_port(true))
            .token()
            .expect("a token");
        let mut second = client(2);
        second.request(&mut world, &refresh(600));
        world.pass_unnoticed(wait);
        assert_eq!(second.request(&mut world, &with_token(&token)).code(), code);
        world.pass(secs(1));
        assert_eq!(world.ports_used(), if code == 0 { 2 } else { 1 });
        first.request(&mut world, &refresh(0));
        second.request(&mut world, &refresh(0));
        world.assert_empty();
    }
}

//= TURN-ALLOC-18
#[test]
fn a_reservation_that_has_run_out_is_not_had_at_another_shard_either() {
    let mut world = World::sharded(2, |_| {});
    let answer = client(1).at_shard(0).request(&mut world, &allocate().even_port(true));
    let token = answer.token().expect("a token");
    // Its own shard has not noticed the expiry yet.
    world.pass_unnoticed(secs(30));
    assert_eq!(
        client(2).at_shard(1).request(&mut world, &with_token(&token)).code(),
        508
    );
    world.pass(secs(1));
    assert_eq!(world.ports_used(), 1);
}

#[test]
fn a_reservation_outlives_the_allocation_that_made_it() {
    let mut world = World::new();
    let mut first = client(1);
    let answer = first.request(&mut world, &allocate().even_port(true));
    first.request(&mut world, &refresh(0));
    assert_eq!(world.ports_used(), 1);
    let second = client(2).request(&mut world, &with_token(&answer.token().expect("a token")));
    assert_eq!(second.relayed()[0].port(), answer.relayed()[0].port() + 1);
}

//= TURN-ALLOC-19
#[test]
fn reservations_are_bounded_per_user() {
    let mut world = World::with(|config| config.limits.reservations_per_user = 2);
    let reserve = allocate().even_port(true);
    assert_eq!(client(1).request(&mut world, &reserve).code(), 0);
    assert_eq!(client(2).request(&mut world, &reserve).code(), 0);
    assert_eq!(client(3).request(&mut world, &reserve).code(), 508);
    assert_eq!(client(4).user("bob", "builder").request(&mut world, &reserve).code(), 0);
    assert_eq!(client(5).request(&mut world, &allocate()).code(), 0);
    world.pass(secs(30));
    assert_eq!(client(3).request(&mut world, &reserve).code(), 0);
}

//= TURN-ALLOC-10
//= TURN-ALLOC-20
#[test]
fn what_must_not_stand_together() {
    let mut world = World::new();
    let token = client(1)
        .request(&mut world, &allocate().even_port(true))
        .token()
        .expect("a token");
    let even = |value: &[u8]| allocate().with(AttributeType::EVEN_PORT, value);
    let cases = [
        with_token(&token).even_port(false),
        with_token(&token).even_port(true),
        allocate()
            .even_port(true)
            .with(AttributeType::RESERVATION_TOKEN, &token),
        with_token(&token).family(1),
        with_token(&token).also(2),
        allocate().also(2).with(AttributeType::RESERVATION_TOKEN, &token),
        allocate().also(2).even_port(true),
        even(&[]),
        even(&[0, 0]),
    ];
    for (n, message) in cases.iter().enumerate() {
        assert_eq!(client(2).request(&mut world, message).code(), 400, "case {n}");
    }
    assert_eq!(
        client(3).request(&mut world, &with_token(&token)).code(),
        0,
        "the token was not used up"
    );
    assert_eq!(
        client(4)
            .request(&mut world, &allocate().also(2).even_port(false))
            .code(),
        0
    );
}

//= TURN-ALLOC-20
#[test]
fn reserved_bits_of_even_port_are_ignored() {
    let mut world = World::new();
    for (value, reserves) in [(0x7F, false), (0xFF, true), (0x00, false), (0x80, true)] {
        let message = allocate().with(AttributeType::EVEN_PORT, [value]);
        let answer = client(value.into()).request(&mut world, &message);
        assert_eq!(answer.token().is_some(), reserves, "{value:#04x}");
    }
}

//= TURN-ALLOC-21
#[test]
fn a_pair_that_cannot_be_had_is_a_matter_of_capacity() {
    let mut world = World::with(|config| config.relay.ports = 50_001..=50_002);
    assert_eq!(client(1).request(&mut world, &allocate().even_port(true)).code(), 508);
    assert_eq!(
        client(1).request(&mut world, &allocate().even_port(false)).relayed()[0].port(),
        50_002
    );
    assert_eq!(client(2).request(&mut world, &allocate().even_port(false)).code(), 508);
    assert_eq!(client(2).request(&mut world, &allocate()).relayed()[0].port(), 50_001);
}

#[test]
fn a_pair_whose_even_port_is_in_use_by_someone_else_is_replaced_as_a_pair() {
    let mut world = World::new();
    world.open_results = [Err(OpenError::AddressInUse), Ok(())].into();
    let answer = client(1).request(&mut world, &allocate().even_port(true));
    assert_eq!(world.ports_used(), 2);
    let second = client(2).request(&mut world, &with_token(&answer.token().expect("a token")));
    assert_eq!(second.relayed()[0].port(), answer.relayed()[0].port() + 1);
}

#[test]
fn a_reserved_port_that_someone_else_has_is_not_replaced() {
    let mut world = World::new();
    let mut first = client(1);
    let token = first
        .request(&mut world, &allocate().even_port(true))
        .token()
        .expect("a token");
    world.open_results = [Err(OpenError::AddressInUse)].into();
    assert_eq!(client(2).request(&mut world, &with_token(&token)).code(), 508);
    assert_eq!(world.ports_used(), 1);
    first.request(&mut world, &refresh(0));
    world.assert_empty();
}

//= TURN-ALLOC-12
#[test]
fn a_token_is_good_at_another_shard_and_the_port_is_reached_where_it_lives() {
    let mut world = World::sharded(2, |_| {});
    let mut first = client(1).at_shard(0);
    let answer = first.request(&mut world, &allocate().even_port(true));
    let mut second = client(2).at_shard(1);
    let borrowed = second
        .request(&mut world, &with_token(&answer.token().expect("a token")))
        .relayed()[0];
    assert_eq!(borrowed.port(), answer.relayed()[0].port() + 1);

    // Other clients reach it on the shard that owns it, not on the one that reserved it.
    let mut third = client(3).at_shard(0);
    let from = third.allocate(&mut world);
    third.permit(&mut world, &[borrowed]);
    second.permit(&mut world, &[from]);
    let delivered = third.send(&mut world, borrowed, b"hello").delivered();
    assert!(delivered.is_data(from, b"hello"), "{delivered:?}");

    assert_eq!(world.ports_used(), 3);
    second.request(&mut world, &refresh(0));
    first.request(&mut world, &refresh(0));
    third.request(&mut world, &refresh(0));
    world.assert_empty();
}
