//! Which users are the same: what is compared by kind and userid, whatever the expiry in the name,
//! and what by the whole username.

use std::sync::Arc;

use relay_proto::base::address::Transport;
use relay_proto::base::time::UnixTime;
use relay_proto::turn::config::Mobility;
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, Secret, StaticUser};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use crate::tcp_allocations::{Owner, PEER, connection_bind, switched_on, tcp_allocate};
use crate::time_limited::minted;
use relay_testkit::world::*;

/// A static user whose name is also a time-limited username.
fn lookalike() -> String {
    format!("{}:alice", START + 1000)
}

/// Static users `alice` and the [`lookalike`], password `wonderland`, beside time-limited ones.
fn world() -> World {
    World::with(|config| {
        let user = |name: String| StaticUser {
            name,
            password: "wonderland".to_owned().into(),
            forced: false,
        };
        let credentials = CredentialsConfig {
            realm: REALM.into(),
            secrets: vec![Secret::new(SECRET)],
            users: vec![user("alice".into()), user(lookalike())],
            ..CredentialsConfig::default()
        };
        config.credentials = Arc::new(Credentials::new(credentials).unwrap());
        switched_on(config);
        config.mobility = Some(Mobility { grace: secs(60) });
        config.limits.allocations_per_user = 2;
        config.limits.reservations_per_user = 1;
    })
}

fn named(n: u16, expiry: u64, userid: &str) -> Client {
    minted(
        client(n),
        SECRET,
        START + expiry,
        Some(userid).filter(|userid| !userid.is_empty()),
    )
}

fn forced(n: u16, expiry: u64, userid: &str) -> Client {
    let minted = Secret::new(SECRET)
        .mint_forced(UnixTime(START + expiry), Some(userid))
        .unwrap();
    let mut client = client(n).user(&minted.username, &minted.password);
    client.client.five_tuple.server.set_port(443);
    client
}

fn static_user(n: u16, name: &str) -> Client {
    client(n).user(name, "wonderland")
}

fn reserving() -> Message {
    allocate().even_port(true)
}

fn with_token(token: &[u8]) -> Message {
    allocate().with(AttributeType::RESERVATION_TOKEN, token)
}

//= TURN-ALLOC-17
//= REST-13
#[test]
fn a_token_is_good_for_its_user_under_a_name_with_another_expiry_that_is_good_now() {
    for (owner, same) in [
        (named(1, 100, "u"), named(2, 200, "u")),
        (named(1, 200, "u"), named(2, 100, "u")),
        (named(1, 100, "a:b@c"), named(2, 200, "a:b@c")),
        (named(1, 100, "u"), forced(2, 200, "u")),
        (forced(1, 100, "u"), named(2, 200, "u")),
        (static_user(1, "alice"), static_user(2, "alice")),
        // Two names without a userid may belong to anyone; one name is one login.
        (named(1, 100, ""), named(2, 100, "")),
    ] {
        let (mut owner, mut same) = (owner, same);
        let mut world = world();
        let answer = owner.request(&mut world, &reserving());
        let (even, token) = (answer.relayed()[0], answer.token().expect("a token"));
        world.pass(secs(29));
        let answer = same.request(&mut world, &with_token(&token));
        assert_eq!(answer.code(), 0, "{} then {}", owner.username, same.username);
        assert_eq!(answer.relayed()[0].port(), even.port() + 1);
    }
}

//= TURN-ALLOC-17
//= REST-13
#[test]
fn a_token_is_refused_to_everybody_else_and_to_an_expired_name_and_stays_good() {
    for (owner, other, code) in [
        (named(1, 100, "u"), named(2, 200, "v"), 508),
        (named(1, 100, "u"), named(2, 200, "u:"), 508),
        (named(1, 100, "u"), named(2, 200, ""), 508),
        (named(1, 100, ""), named(2, 200, ""), 508),
        (named(1, 100, "alice"), static_user(2, "alice"), 508),
        (static_user(1, "alice"), named(2, 100, "alice"), 508),
        (named(1, 1000, "alice"), static_user(2, &lookalike()), 508),
        (static_user(1, &lookalike()), named(2, 1000, "alice"), 508),
        // Its own user, 29 s later.
        (named(1, 100, "u"), named(2, 29, "u"), 401),
        (named(1, 100, "u"), forced(2, 29, "u"), 401),
    ] {
        let (mut owner, mut other) = (owner, other);
        let story = format!("{} then {}", owner.username, other.username);
        let mut world = world();
        let token = owner.request(&mut world, &reserving()).token().expect("a token");
        world.pass(secs(29));
        assert_eq!(other.request(&mut world, &with_token(&token)).code(), code, "{story}");
        owner.client.five_tuple.client.set_port(9);
        owner.nonce = None;
        assert_eq!(owner.request(&mut world, &with_token(&token)).code(), 0, "{story}");
    }
}

//= TURN-ALLOC-25
//= REST-13
#[test]
fn a_userid_and_a_static_user_of_one_name_have_a_quota_each() {
    let mut world = world();
    named(1, 100, "alice").allocate(&mut world);
    forced(2, 200, "alice").allocate(&mut world);
    assert_eq!(named(3, 300, "alice").request(&mut world, &allocate()).code(), 486);
    static_user(4, "alice").allocate(&mut world);
    static_user(5, "alice").allocate(&mut world);
    assert_eq!(static_user(6, "alice").request(&mut world, &allocate()).code(), 486);
    // Nor does a name that only looks like one with a userid count as that, or as one without.
    static_user(7, &lookalike()).allocate(&mut world);
    named(8, 100, "").allocate(&mut world);
}

//= TURN-ALLOC-19
//= REST-13
#[test]
fn so_have_they_with_reservations() {
    let mut world = world();
    named(1, 100, "alice").request(&mut world, &reserving());
    assert_eq!(named(2, 200, "alice").request(&mut world, &reserving()).code(), 508);
    assert_eq!(static_user(3, "alice").request(&mut world, &reserving()).code(), 0);
    assert_eq!(static_user(4, "alice").request(&mut world, &reserving()).code(), 508);
}

//= TURN-GEN-03
//= D8
//= REST-13
#[test]
fn what_is_about_an_allocation_takes_the_very_name_of_its_allocate_and_its_kind() {
    for (owner, other) in [
        (named(1, 100, "u"), named(2, 200, "u")),
        (named(1, 100, ""), named(2, 200, "")),
        (named(1, 1000, "alice"), static_user(2, &lookalike())),
        (static_user(1, &lookalike()), named(2, 1000, "alice")),
    ] {
        let (mut owner, mut other) = (owner, other);
        let story = format!("{} then {}", owner.username, other.username);
        let mut world = world();
        let wanting_ticket = allocate().with(AttributeType::MOBILITY_TICKET, []);
        let ticket = owner
            .request(&mut world, &wanting_ticket)
            .attribute(AttributeType::MOBILITY_TICKET)
            .expect("a ticket");
        let resume = request(Method::Refresh).with(AttributeType::MOBILITY_TICKET, &ticket);
        assert_eq!(other.request(&mut world, &resume).code(), 441, "{story}");
        let mut intruder = other.clone();
        intruder.client = owner.client;
        intruder.nonce = None;
        for message in [refresh(600), create_permission(&[addr("192.0.2.1:7000")])] {
            assert_eq!(intruder.request(&mut world, &message).code(), 441, "{story}");
        }
        // The owner's name remains valid for its allocation after it has expired (D7).
        world.pass(secs(500));
        let mut elsewhere = owner.clone();
        elsewhere.client.five_tuple.client.set_port(9);
        elsewhere.nonce = None;
        assert_eq!(elsewhere.request(&mut world, &resume).code(), 0, "{story}");
    }
}

//= TCP-ALLOC-08
//= REST-13
#[test]
fn a_data_connection_takes_the_very_name_of_its_allocate_and_its_kind() {
    let over_tcp = |n: u16, login: &Client| client_over(n, Transport::Tcp).user(&login.username, &login.password);
    for (owner, other) in [
        (named(1, 100, "u"), named(1, 200, "u")),
        (named(1, 100, ""), named(1, 200, "")),
        (named(1, 1000, "alice"), static_user(1, &lookalike())),
        (static_user(1, &lookalike()), named(1, 1000, "alice")),
    ] {
        let story = format!("{} then {}", owner.username, other.username);
        let mut world = world();
        let mut client = over_tcp(1, &owner);
        let relayed = client.request(&mut world, &tcp_allocate()).relayed()[0];
        let id = Owner { client, relayed }.connected(&mut world, addr(PEER));
        let answer = over_tcp(2, &other).request(&mut world, &connection_bind(id));
        assert_eq!(answer.code(), 441, "{story}");
        let answer = over_tcp(3, &owner).request(&mut world, &connection_bind(id));
        assert_eq!(answer, Answer::Bound(id), "{story}");
    }
}
