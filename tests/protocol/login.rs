//! The login step by step (RFC 8489 §9.2), each message written by hand, over every transport and
//! both IP versions.

use std::sync::Arc;

use relay_proto::turn::config::Challenge;
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, StaticUser};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::Integrity;
use relay_proto::wire::message::{Class, Method, TransactionId};
use relay_proto::wire::writer::MessageWriter;

use crate::every_client::*;
use relay_testkit::world::*;

const ERROR_CODE: u16 = 0x0009;
const REALM_: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const ALGORITHMS: u16 = 0x8002;

fn ready(client: Client) -> (World, Client) {
    ready_in(World::new(), client)
}

fn ready_in(mut world: World, mut client: Client) -> (World, Client) {
    challenge(&mut world, &mut client);
    (world, client)
}

//= STUN-AUTH-01
//= STUN-AUTH-07
//= STUN-AUTH-16
//= STUN-MSG-19
//= TURN-ALLOC-01
#[test]
fn a_challenge_says_what_a_client_needs_and_no_more() {
    for mut client in every_client() {
        let mut world = World::new();
        let unknown = allocate().with(AttributeType(0x7FFE), []);
        for message in [
            allocate(),
            unknown,
            refresh(600),
            create_permission(&[addr("10.0.0.1:1")]),
            channel_bind(0, addr("10.0.0.1:1")),
        ] {
            let answer = client.send_plain(&mut world, &message);
            assert_eq!(answer.code(), 401, "{}", story(&client));
            assert_eq!(
                answer.kinds(),
                [ERROR_CODE, REALM_, NONCE, ALGORITHMS],
                "{}",
                story(&client)
            );
            assert_eq!(answer.attribute(AttributeType::REALM).unwrap(), REALM.as_bytes());
            // SHA-256 before MD5, and the lowest bit of the cookie announces the offer.
            let offer = answer.attribute(AttributeType::PASSWORD_ALGORITHMS).unwrap();
            assert_eq!(offer, [0, 2, 0, 0, 0, 1, 0, 0]);
            let nonce = answer.attribute(AttributeType::NONCE).unwrap();
            assert!(nonce.starts_with(b"obMatJos2AAAB") && nonce.len() < 128);
        }
        world.assert_empty();
    }
}

//= STUN-AUTH-04
//= STUN-AUTH-06
//= STUN-AUTH-16
#[test]
fn a_nonce_is_good_to_the_second_and_then_replaced() {
    for client in every_client() {
        for (age, code) in [(0, 0), (59, 0), (60, 0), (61, 438), (3600, 438)] {
            let world = World::with(|config| config.nonce_lifetime = secs(60));
            let (mut world, mut client) = ready_in(world, client.clone());
            world.pass(secs(age));
            let answer = client.request(&mut world, &allocate());
            assert_eq!(answer.code(), code, "{} after {age} s", story(&client));
            if code == 438 {
                assert_eq!(answer.kinds(), [ERROR_CODE, REALM_, NONCE, ALGORITHMS]);
                client.nonce = answer.attribute(AttributeType::NONCE);
                client.allocate(&mut world);
            }
        }
    }
}

//= STUN-AUTH-06
#[test]
fn no_nonce_outlives_an_hour_whatever_is_configured() {
    for (age, code) in [(3600, 0), (3601, 438)] {
        let world = World::with(|config| {
            config.nonce_lifetime = secs(86_400);
            config.max_lifetime = secs(86_400);
        });
        let (mut world, mut client) = ready_in(world, client(1));
        assert_eq!(client.request(&mut world, &allocate().lifetime(80_000)).code(), 0);
        world.pass(secs(age));
        assert_eq!(client.request(&mut world, &refresh(600)).code(), code, "{age}");
    }
}

//= STUN-AUTH-05
//= STUN-AUTH-17
#[test]
fn a_nonce_of_another_address_or_with_another_cookie_is_stale() {
    let (mut world, client) = ready(client(1));
    let good = client.nonce.clone().unwrap();
    let moved = |to: &str| {
        let mut moved = client.clone();
        moved.client.five_tuple.client = addr(to);
        moved
    };
    let (ip, v6) = (moved("203.0.113.2:40001"), moved("[2001:db8::1]:40001"));
    for mut elsewhere in [ip, v6, moved("[::cb00:7101]:40001")] {
        assert_eq!(elsewhere.request(&mut world, &allocate()).code(), 438);
    }
    let edited = |text: &[u8]| [text, &good[13..]].concat();
    let (stripped, none) = (edited(b""), edited(b"obMatJos2AAAA"));
    let (anonymous, msb) = (edited(b"obMatJos2AAAD"), edited(b"obMatJos2gAAA"));
    for nonce in [
        stripped,
        none,
        anonymous,
        msb,
        b"".to_vec(),
        vec![b'x'; 763],
        good[1..].to_vec(),
    ] {
        let mut forger = client.clone();
        forger.nonce = Some(nonce.clone());
        assert_eq!(forger.request(&mut world, &allocate()).code(), 438, "{nonce:?}");
    }
    world.assert_empty();
    client.clone().allocate(&mut world);
}

//= STUN-AUTH-02
#[test]
fn a_signed_request_that_lacks_a_part_of_its_login_is_bad() {
    for client in every_client() {
        let (mut world, client) = ready(client);
        let key = md5_key(&client);
        let all = [
            (AttributeType::USERNAME, client.username.clone().into_bytes()),
            (AttributeType::REALM, client.realm.clone().into_bytes()),
            (AttributeType::NONCE, client.nonce.clone().unwrap()),
        ];
        for missing in 0..3 {
            let parts = all.iter().enumerate().filter(|&(n, _)| n != missing);
            let request = parts.fold(raw_allocate(), |raw, (_, (kind, value))| raw.attribute(*kind, value));
            for packet in [request.clone().sha1(&key), request.sha256(&key, 32)] {
                let answer = world.packet(&client, &packet.bytes());
                assert_eq!(
                    (answer.code(), answer.kinds()),
                    (400, vec![ERROR_CODE]),
                    "{}",
                    story(&client)
                );
            }
        }
        world.assert_empty();
    }
}

//= STUN-AUTH-03
//= STUN-AUTH-21
//= STUN-AUTH-22
//= STUN-MSG-22
//= REST-05
#[test]
fn whoever_cannot_log_in_gets_the_same_bytes() {
    for client in every_client() {
        let (mut world, client) = ready(client);
        let expired = relay_proto::turn::login::credential::mint(SECRET, world.now().unix, Some("u")).unwrap();
        let names: [(&[u8], &str); 9] = [
            (b"alice", "wrong"),
            (b"nobody", "wonderland"),
            (expired.username.as_bytes(), &expired.password),
            (b"", "x"),
            (&[0xFF, 0xFE], "x"),
            (b"alice\0", "wonderland"),
            (&[b'a'; 763], "x"),
            (&[b'a'; 764], "x"),
            (&[b'a'; 9000], "x"),
        ];
        let answers = names.map(|(name, password)| {
            let request = Raw::with_id(0x0003, [7; 12])
                .attribute(AttributeType::USERNAME, name)
                .attribute(AttributeType::REALM, REALM)
                .attribute(AttributeType::NONCE, client.nonce.as_ref().unwrap())
                .sha1(&md5_key_of(name, REALM, password));
            world.packet(&client, &request.bytes())
        });
        assert_eq!(answers[0].code(), 401);
        for (answer, (name, _)) in answers.iter().zip(names) {
            assert_eq!(answer, &answers[0], "{} as {name:02x?}", story(&client));
        }
        world.assert_empty();
    }
}

//= STUN-AUTH-08
#[test]
fn a_key_for_another_realm_opens_nothing() {
    for client in every_client() {
        let (mut world, mut client) = ready(client);
        let challenge = client.send_plain(&mut world, &allocate());
        for realm in ["evil.example", "", "example.org.", "EXAMPLE.org"] {
            client.realm = realm.into();
            let request = raw_allocate().login(&client).sha1(&md5_key(&client));
            let answer = world.packet(&client, &request.bytes());
            assert_eq!((answer.code(), answer.kinds()), (401, challenge.kinds()), "{realm:?}");
            assert_eq!(answer.attribute(AttributeType::REALM).unwrap(), REALM.as_bytes());
        }
    }
}

//= STUN-AUTH-15
#[test]
fn bidding_down_is_refused_and_leaves_nothing() {
    const OFFER: AttributeType = AttributeType::PASSWORD_ALGORITHMS;
    const CHOICE: AttributeType = AttributeType::PASSWORD_ALGORITHM;
    for client in every_client() {
        let (mut world, client) = ready(client);
        let request = || raw_allocate().login(&client);
        let offer = [0, 2, 0, 0, 0, 1, 0, 0];
        let cases = [
            request().attribute(OFFER, offer),
            request().attribute(CHOICE, [0, 1, 0, 0]),
            request().attribute(OFFER, [0, 1, 0, 0]).attribute(CHOICE, [0, 1, 0, 0]),
            request()
                .attribute(OFFER, [0, 1, 0, 0, 0, 2, 0, 0])
                .attribute(CHOICE, [0, 1, 0, 0]),
            request().attribute(OFFER, [0, 2, 0, 0]).attribute(CHOICE, [0, 2, 0, 0]),
            request().attribute(OFFER, []).attribute(CHOICE, [0, 2, 0, 0]),
            request().attribute(OFFER, offer).attribute(CHOICE, [0, 3, 0, 0]),
            request().attribute(OFFER, offer).attribute(CHOICE, [0, 0, 0, 0]),
            request().attribute(OFFER, offer).attribute(CHOICE, [0, 2]),
            request()
                .attribute(OFFER, offer)
                .attribute(CHOICE, [0, 2, 0, 4, 1, 2, 3, 4]),
        ];
        for (n, case) in cases.into_iter().enumerate() {
            for packet in [
                case.clone().sha1(&md5_key(&client)),
                case.clone().sha256(&sha256_key(&client), 32),
            ] {
                let answer = world.packet(&client, &packet.bytes());
                assert_eq!(
                    (answer.code(), answer.kinds()),
                    (400, vec![ERROR_CODE]),
                    "case {n}, {}",
                    story(&client)
                );
            }
        }
        world.assert_empty();
    }
}

//= STUN-AUTH-20
//= D3
#[test]
fn a_userhash_stands_for_a_known_user_where_all_users_are_known() {
    let only_static = |config: &mut relay_proto::turn::Config| {
        let user = StaticUser {
            name: "alice".into(),
            password: "wonderland".to_owned().into(),
            forced: false,
        };
        let credentials = CredentialsConfig {
            realm: REALM.into(),
            users: vec![user],
            ..CredentialsConfig::default()
        };
        config.credentials = Arc::new(Credentials::new(credentials).unwrap());
    };
    for client in every_client() {
        let (mut world, client) = ready_in(World::with(only_static), client);
        assert!(client.nonce.as_ref().unwrap().starts_with(b"obMatJos2AAAD"), "offered");
        let by_hash = |raw: Raw, hash: &[u8]| {
            raw.attribute(AttributeType::USERHASH, hash)
                .attribute(AttributeType::REALM, REALM)
                .attribute(AttributeType::NONCE, client.nonce.as_ref().unwrap())
                .sha256_chosen()
        };
        let (hash, key) = (userhash(&client), sha256_key(&client));
        let both = by_hash(raw_allocate(), &hash).attribute(AttributeType::USERNAME, "alice");
        assert_eq!(world.packet(&client, &both.sha256(&key, 32).bytes()).code(), 400);
        let short = by_hash(raw_allocate(), &hash[..28]).sha256(&key, 32);
        assert_eq!(world.packet(&client, &short.bytes()).code(), 400);
        let unknown = by_hash(raw_allocate(), &[7; 32]).sha256(&key, 32);
        assert_eq!(world.packet(&client, &unknown.bytes()).code(), 401);
        world.assert_empty();
        let good = by_hash(raw_allocate(), &hash).sha256(&key, 32);
        assert_eq!(world.packet(&client, &good.bytes()).code(), 0, "{}", story(&client));
        // By name or by hash, it is the same user.
        let named = raw(Method::Refresh).login(&client).sha256_chosen().sha256(&key, 32);
        assert_eq!(world.packet(&client, &named.bytes()).code(), 0);
        let hashed = by_hash(raw(Method::Refresh), &hash).sha256(&key, 32);
        assert_eq!(world.packet(&client, &hashed.bytes()).code(), 0);
    }
    let (_, client) = ready(client(1));
    assert!(
        client.nonce.unwrap().starts_with(b"obMatJos2AAAB"),
        "not beside secrets"
    );
}

//= D1
//= COMPAT-03
//= COMPAT-04
#[test]
fn a_client_with_nothing_right_recovers_step_by_step() {
    for client in every_client() {
        let (mut world, mut client) = ready(client);
        client.nonce = Some(b"of another server".to_vec());
        client.password = "wrong".into();
        let answer = client.request(&mut world, &allocate());
        assert_eq!(answer.code(), 438, "{}", story(&client));
        client.nonce = answer.attribute(AttributeType::NONCE);
        let answer = client.request(&mut world, &allocate());
        assert_eq!(answer.code(), 401);
        client.nonce = answer.attribute(AttributeType::NONCE);
        client.password = "wonderland".into();
        client.allocate(&mut world);
    }
}

//= D4
#[test]
fn a_compact_challenge_is_plain_rfc_5389_and_takes_no_other_login() {
    for client in every_client() {
        let compact = |config: &mut relay_proto::turn::Config| config.challenge = Challenge::Compact;
        let mut world = World::with(compact);
        let mut client = client;
        let answer = challenge(&mut world, &mut client);
        assert_eq!(answer.kinds(), [ERROR_CODE, REALM_, NONCE], "{}", story(&client));
        assert!(!client.nonce.as_ref().unwrap().starts_with(b"obMatJos2"));
        let modern = raw_allocate()
            .login(&client)
            .sha256_chosen()
            .sha256(&sha256_key(&client), 32);
        assert_eq!(world.packet(&client, &modern.bytes()).code(), 401);
        client.allocate(&mut world);
    }
}

#[test]
fn the_key_of_a_live_client_opens_nothing_under_another_name() {
    let (mut world, mut client) = (World::new(), client(1));
    client.allocate(&mut world);
    let mut request = |name: &str| {
        let mut buffer = [0; 500];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::Refresh, TransactionId([7; 12]));
        writer.attribute(AttributeType::USERNAME, name.as_bytes());
        writer.attribute(AttributeType::REALM, client.realm.as_bytes());
        writer.attribute(AttributeType::NONCE, client.nonce.as_ref().unwrap());
        writer.integrity(&client.key(), Integrity::Sha1);
        let len = writer.finish().unwrap();
        world.packet(&client, &buffer[..len]).code()
    };
    assert_eq!(request("bob"), 401);
    assert_eq!(request("alice"), 0);
}
