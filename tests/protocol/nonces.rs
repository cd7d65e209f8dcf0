//! Where a nonce is valid: on which server, after which reload, and from which address.

use std::sync::Arc;

use relay_proto::base::address::Transport;
use relay_proto::turn::config::Config;
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, Secret, StaticUser};
use relay_proto::turn::login::nonce::NonceKey;
use relay_proto::wire::attribute::AttributeType;

use relay_testkit::world::*;

/// Alice, and credentials of these secrets.
fn sharing(config: &mut Config, secrets: &[&str]) {
    let alice = StaticUser {
        name: "alice".to_owned(),
        password: "wonderland".to_owned().into(),
        forced: false,
    };
    let credentials = CredentialsConfig {
        realm: REALM.to_owned(),
        secrets: secrets.iter().map(|secret| Secret::new(secret.as_bytes())).collect(),
        users: vec![alice],
        ..CredentialsConfig::default()
    };
    config.credentials = Arc::new(Credentials::new(credentials).unwrap());
}

/// A separate server with these secrets.
fn node(own: u8, secrets: &[&str]) -> World {
    World::seeded([own; 32], 1, |config| sharing(config, secrets))
}

/// A client with a nonce from this server.
fn challenged(n: u16, world: &mut World) -> Client {
    let mut client = client(n);
    client.nonce = client.send_plain(world, &allocate()).attribute(AttributeType::NONCE);
    client
}

//= STUN-AUTH-05
//= COMPAT-03
#[test]
fn a_nonce_is_for_one_address() {
    let mut world = World::new();
    let mut first = client(1);
    first.allocate(&mut world);
    let mut second = client(2);
    second.client.five_tuple.client = addr("203.0.113.2:40001");
    second.nonce = first.nonce.clone();
    let answer = second.request(&mut world, &allocate());
    assert_eq!(answer.code(), 438);
    second.nonce = answer.attribute(AttributeType::NONCE);
    second.allocate(&mut world);
}

//= STUN-AUTH-05
//= D12
#[test]
fn a_nonce_is_good_from_every_port_and_over_every_transport_of_its_address() {
    let mut world = World::new();
    let mut first = client(1);
    first.allocate(&mut world);
    let ip = first.client.five_tuple.client.ip();
    for (port, transport) in (50_001..).zip(Transport::ALL) {
        let mut other = client_over(2, transport);
        other.client.five_tuple.client = (ip, port).into();
        other.nonce.clone_from(&first.nonce);
        assert_eq!(other.request(&mut world, &allocate()).code(), 0, "{transport:?}");
    }
}

/// A client that a server redirects (300) brings that server's nonce.
//= STUN-AUTH-05
//= D12
#[test]
fn a_nonce_is_good_at_every_server_that_has_the_secret_it_was_made_with() {
    for (what, first, second, expected) in [
        ("the same secret", &["one"][..], &["one"][..], 0),
        ("its secret is the old one by now", &["one"], &["two", "one"], 0),
        ("its secret is not the newest yet", &["two", "one"], &["one", "two"], 0),
        ("its secret is unknown", &["two", "one"], &["one"], 438),
        ("none in common", &["one"], &["two"], 438),
        ("static users only", &[], &[], 438),
    ] {
        let mut client = challenged(1, &mut node(1, first));
        let answer = client.request(&mut node(2, second), &allocate());
        assert_eq!(answer.code(), expected, "{what}");
    }
    let fleet = |own| {
        World::seeded([own; 32], 1, |config| {
            sharing(config, &[]);
            config.nonce_key = Some(NonceKey::derive(b"of the fleet"));
        })
    };
    let mut client = challenged(1, &mut fleet(1));
    assert_eq!(
        client.request(&mut fleet(2), &allocate()).code(),
        0,
        "turn.nonce_secret"
    );
}

/// Reloads rotate secrets during calls: the newest is put first, and later the oldest is removed.
#[test]
fn a_rotated_secret_leaves_the_nonces_alone_that_are_out() {
    let rotations: [&[&str]; 4] = [&["one"], &["two", "one"], &["two"], &["three"]];
    let mut world = World::sharded(2, |config| sharing(config, &[]));
    let mut old = client(1).at_shard(1);
    old.allocate(&mut world);
    for (n, secrets) in (2..).zip(rotations) {
        let mut new = challenged(n, &mut world);
        world.reload(|config| sharing(config, secrets));
        let expected = if secrets == ["three"] { 438 } else { 0 };
        let answer = new.request(&mut world, &allocate());
        assert_eq!(answer.code(), expected, "{secrets:?}");
        new.request(&mut world, &refresh(0));
        assert_eq!(
            old.request(&mut world, &refresh(600)).code(),
            0,
            "a nonce of the process itself, {secrets:?}"
        );
    }
}

#[test]
fn a_nonce_is_good_at_every_shard() {
    let mut world = World::sharded(2, |_| {});
    let mut client = client(1).at_shard(0);
    client.request(&mut world, &refresh(600));
    client.shard = 1;
    client.allocate(&mut world);
}
