//! The long-term credential mechanism (RFC 8489 §9.2), from the point of view of the TURN methods.

use relay_proto::base::address::Transport;
use relay_proto::base::time::UnixTime;
use relay_proto::turn::config::Challenge;
use relay_proto::turn::login::credential::mint;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::{Integrity, PasswordAlgorithm};

use relay_testkit::world::*;

fn peer() -> std::net::SocketAddr {
    addr("192.0.2.1:7000")
}

/// One request of each method, for an existing allocation.
fn requests() -> [Message; 3] {
    [refresh(600), create_permission(&[peer()]), channel_bind(0x4000, peer())]
}

//= STUN-AUTH-18
//= STUN-AUTH-19
#[test]
fn every_answer_after_the_login_is_signed_as_the_request_was() {
    for (integrity, algorithm) in [
        (Integrity::Sha1, None),
        (Integrity::Sha256, Some(PasswordAlgorithm::Sha256)),
        (Integrity::Sha256, Some(PasswordAlgorithm::Md5)),
    ] {
        let mut world = World::new();
        let mut client = client(1);
        (client.integrity, client.algorithm) = (integrity, algorithm);
        // `Client::request` checks the signature of every response except 401 and 438.
        client.allocate(&mut world);
        for message in requests() {
            assert_eq!(client.request(&mut world, &message).code(), 0);
        }
        let errors = [
            (allocate(), 437),
            (refresh(600).with(AttributeType(0x7FFE), []), 420),
            (refresh(600).family(2), 443),
            (create_permission(&[]), 400),
            (create_permission(&[addr("10.0.0.1:1")]), 403),
        ];
        for (message, code) in errors {
            assert_eq!(client.request(&mut world, &message).code(), code);
        }
    }
}

//= TURN-GEN-03
//= D8
#[test]
fn another_user_on_an_allocation_gets_441_and_a_wrong_password_401() {
    let mut world = World::new();
    let mut alice = client(1);
    let relayed = alice.allocate(&mut world);
    let mut bob = alice.clone().user("bob", "builder");
    let mut wrong = alice.clone().user("alice", "wrong");
    for message in requests() {
        assert_eq!(bob.request(&mut world, &message).code(), 441);
        assert_eq!(wrong.request(&mut world, &message).code(), 401);
    }
    assert!(
        matches!(world.peer(peer(), relayed, b"x"), Delivered::Dropped(_)),
        "nothing was installed"
    );
    for message in requests() {
        assert_eq!(alice.request(&mut world, &message).code(), 0);
    }
}

//= REST-05
//= REST-06
//= REST-07
//= D7
#[test]
fn a_time_limited_username_is_good_until_it_expires_and_then_for_what_it_began() {
    let mut world = World::new();
    let credential = mint(SECRET, UnixTime(START + 100), Some("u1")).unwrap();
    let user = |n| client(n).user(&credential.username, &credential.password);
    let mut early = user(1);
    world.pass(secs(99));
    early.allocate(&mut world);
    world.pass(secs(1));
    assert_eq!(user(2).request(&mut world, &allocate()).code(), 401);
    for message in requests() {
        assert_eq!(early.request(&mut world, &message).code(), 0);
    }
    let renewed = mint(SECRET, UnixTime(START + 1000), Some("u1")).unwrap();
    let mut renewed = early.clone().user(&renewed.username, &renewed.password);
    assert_eq!(
        renewed.request(&mut world, &refresh(600)).code(),
        441,
        "the whole username counts"
    );
}

//= STUN-AUTH-04
//= STUN-AUTH-06
//= COMPAT-04
#[test]
fn a_stale_nonce_is_told_with_a_fresh_one_that_works() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    world.reload(|config| config.nonce_lifetime = secs(60));
    world.pass(secs(61));
    let answer = client.request(&mut world, &refresh(600));
    assert_eq!(answer.code(), 438);
    client.nonce = answer.attribute(AttributeType::NONCE);
    assert_eq!(client.request(&mut world, &refresh(600)).code(), 0);
}

//= STUN-AUTH-08
#[test]
fn another_realm_is_not_ours() {
    let mut world = World::new();
    let mut client = client(1);
    client.realm = "evil.example".into();
    assert!(matches!(client.request(&mut world, &allocate()).code(), 400 | 401));
}

//= STUN-MSG-22
#[test]
fn overlong_usernames_are_wrong_and_nothing_worse() {
    let mut world = World::new();
    for len in [509, 763, 764, 5000] {
        let mut client = client(1).user(&"u".repeat(len), "password");
        assert!(
            matches!(client.request(&mut world, &allocate()).code(), 400 | 401),
            "{len} bytes"
        );
    }
    world.assert_empty();
}

//= STUN-AUTH-11
#[test]
fn what_stands_behind_the_signature_has_no_effect() {
    let mut world = World::new();
    let mut client = client(1);
    client.request(&mut world, &refresh(600));
    let mut packet = client.signed(&allocate());
    packet.extend([0x00, 0x0D, 0, 4, 0, 0, 0x0E, 0x10, 0x7F, 0xFE, 0, 0]);
    packet[3] += 12;
    let answer = world.packet(&client, &packet);
    assert_eq!((answer.code(), answer.lifetime()), (0, secs(600)));
}

//= D4
//= STUN-AUTH-16
#[test]
fn password_algorithms_are_offered_where_the_configuration_says() {
    for (challenge, udp, tcp) in [
        (Challenge::Full, true, true),
        (Challenge::CompactUdp, false, true),
        (Challenge::Compact, false, false),
    ] {
        let mut world = World::with(|config| config.challenge = challenge);
        for (transport, offered) in [(Transport::Udp, udp), (Transport::Tcp, tcp), (Transport::Tls, tcp)] {
            let mut client = client_over(1, transport);
            let answer = client.send_plain(&mut world, &allocate());
            let algorithms = answer.attribute(AttributeType::PASSWORD_ALGORITHMS);
            assert_eq!(algorithms.is_some(), offered, "{challenge:?} {transport}");
            let nonce = answer.attribute(AttributeType::NONCE).expect("NONCE");
            assert_eq!(nonce.starts_with(b"obMatJos2"), offered);
            client.allocate(&mut world);
        }
    }
}

//= STUN-AUTH-24
#[test]
fn strangers_leave_no_state() {
    let mut world = World::new();
    for n in 0..1000 {
        let mut stranger = client(n).user("nobody", "guess");
        assert_eq!(stranger.request(&mut world, &allocate()).code(), 401);
    }
    world.assert_empty();
    assert_eq!(world.shards[0].poll_timeout(), None);
}
