//! MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.5, §14.6) in requests written by
//! hand and in all responses, over every transport and both IP versions.

use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::{Integrity, PasswordAlgorithm};
use relay_proto::wire::message::Method;

use crate::every_client::*;
use relay_testkit::world::*;

const ERROR_CODE: u16 = 0x0009;

fn ready(client: Client) -> (World, Client) {
    let (mut world, mut client) = (World::new(), client);
    challenge(&mut world, &mut client);
    (world, client)
}

//= STUN-AUTH-09
//= STUN-AUTH-13
//= STUN-AUTH-14
//= STUN-BIND-08
//= STUN-MSG-10
//= COMPAT-01
#[test]
fn a_client_of_rfc_5389_logs_in() {
    for client in every_client() {
        for fingerprint in [false, true] {
            let (mut world, client) = ready(client.clone());
            let request = raw_allocate().login(&client).sha1(&md5_key(&client));
            let request = if fingerprint { request.fingerprint(0) } else { request };
            let answer = world.packet(&client, &request.bytes());
            let kinds = [0x0016, 0x000D, 0x0020, 0x0008, 0x8028];
            assert_eq!(answer.code(), 0, "{}", story(&client));
            assert_eq!(
                answer.kinds(),
                kinds[..4 + usize::from(fingerprint)],
                "{}",
                story(&client)
            );
            assert!(answer.is_signed(&client.key(), Integrity::Sha1));
            let Answer::Response(bytes) = answer else {
                unreachable!()
            };
            assert_eq!(
                bytes,
                resigned(&bytes, &md5_key(&client), fingerprint),
                "HMAC and CRC, computed here"
            );
        }
    }
}

/// The same response with a MESSAGE-INTEGRITY and a FINGERPRINT computed by the test.
fn resigned(response: &[u8], key: &[u8], fingerprint: bool) -> Vec<u8> {
    let end = response.len() - 24 - if fingerprint { 8 } else { 0 };
    let signed = Raw::from_bytes(&response[..end]).sha1(key);
    if fingerprint {
        signed.fingerprint(0).bytes()
    } else {
        signed.bytes()
    }
}

//= STUN-AUTH-13
//= STUN-AUTH-18
#[test]
fn a_client_of_rfc_8489_logs_in_with_sha256() {
    for client in every_client() {
        let (mut world, mut client) = ready(client);
        let request = |client: &Client| raw_allocate().login(client).sha256_chosen();
        for wrong in [
            request(&client).sha256(&md5_key(&client), 32),
            request(&client).sha1(&md5_key(&client)),
            raw_allocate().login(&client).sha256(&sha256_key(&client), 32),
        ] {
            assert_eq!(world.packet(&client, &wrong.bytes()).code(), 401, "{}", story(&client));
        }
        let answer = world.packet(&client, &request(&client).sha256(&sha256_key(&client), 32).bytes());
        assert_eq!(answer.kinds(), [0x0016, 0x000D, 0x0020, 0x001C], "{}", story(&client));
        (client.algorithm, client.integrity) = (Some(PasswordAlgorithm::Sha256), Integrity::Sha256);
        assert!(answer.is_signed(&client.key(), Integrity::Sha256));
        assert_eq!(client.request(&mut world, &refresh(600)).code(), 0);
    }
}

//= STUN-AUTH-18
#[test]
fn without_a_named_algorithm_the_answer_is_signed_with_sha1_however_the_request_was() {
    for client in every_client() {
        let (mut world, client) = ready(client);
        let key = md5_key(&client);
        let request = raw_allocate().login(&client).sha256(&key, 32);
        let answer = world.packet(&client, &request.bytes());
        assert_eq!(answer.kinds(), [0x0016, 0x000D, 0x0020, 0x0008], "{}", story(&client));
        let chosen = raw(Method::Refresh)
            .login(&client)
            .attribute(AttributeType::PASSWORD_ALGORITHMS, PasswordAlgorithm::OFFER);
        let chosen = chosen.attribute(AttributeType::PASSWORD_ALGORITHM, [0, 1, 0, 0]);
        let answer = world.packet(&client, &chosen.sha1(&key).bytes());
        assert_eq!(answer.kinds(), [0x000D, 0x001C], "MD5, and named");
    }
}

//= STUN-AUTH-10
#[test]
fn an_integrity_of_another_length_is_never_accepted() {
    for client in every_client() {
        let (mut world, client) = ready(client);
        for len in [0, 4, 16, 19, 21, 24, 36] {
            let whole = raw_allocate().login(&client).sha1(&md5_key(&client)).bytes();
            let mut value = whole[whole.len() - 20..].to_vec();
            value.resize(len, 0);
            let cut = raw_allocate()
                .login(&client)
                .attribute(AttributeType::MESSAGE_INTEGRITY, value);
            assert_eq!(
                world.packet(&client, &cut.bytes()).code(),
                401,
                "{len} bytes, {}",
                story(&client)
            );
        }
        // RFC 8489 allows other uses of STUN to truncate the SHA-256 value; these are truncated by
        // its rules.
        for len in [16, 20, 24, 28] {
            let cut = raw_allocate()
                .login(&client)
                .sha256_chosen()
                .sha256(&sha256_key(&client), len);
            assert_eq!(
                world.packet(&client, &cut.bytes()).code(),
                401,
                "{len} bytes, {}",
                story(&client)
            );
        }
        world.assert_empty();
    }
}

//= STUN-AUTH-11
#[test]
fn nothing_behind_the_signature_is_acted_upon() {
    let (peer, other) = ("192.0.2.1:7000", "192.0.2.2:7000");
    for client in every_client() {
        for sha256 in [false, true] {
            let (mut world, client) = ready(client.clone());
            let signed = |raw: Raw| match sha256 {
                false => raw.login(&client).sha1(&md5_key(&client)),
                true => raw.login(&client).sha256_chosen().sha256(&sha256_key(&client), 32),
            };
            let (later, unknown) = ([0, 0, 0x0E, 0x10], AttributeType(0x7FFE));
            let request = signed(raw_allocate()).attribute(AttributeType::LIFETIME, later);
            let request = request
                .attribute(unknown, [])
                .attribute(AttributeType::EVEN_PORT, [0x80]);
            let answer = world.packet(&client, &request.bytes());
            assert_eq!(
                (answer.code(), answer.lifetime(), answer.token()),
                (0, secs(600), None),
                "{}",
                story(&client)
            );
            let relayed = answer.relayed()[0];

            let request = signed(raw(Method::Refresh)).attribute(AttributeType::LIFETIME, [0; 4]);
            assert_eq!(world.packet(&client, &request.bytes()).lifetime(), secs(600));
            let request = signed(raw(Method::CreatePermission).peer(peer)).peer(other);
            assert_eq!(world.packet(&client, &request.bytes()).code(), 0);
            assert!(world.peer(addr(peer), relayed, b"x").is_data(addr(peer), b"x"));
            assert!(matches!(world.peer(addr(other), relayed, b"x"), Delivered::Dropped(_)));
            let request = signed(raw(Method::CreatePermission)).peer(other);
            assert_eq!(
                world.packet(&client, &request.bytes()).code(),
                400,
                "the only peer is not covered"
            );
            // A name after it does not count.
            let request = raw(Method::Refresh).sha1(&md5_key(&client)).login(&client);
            assert_eq!(world.packet(&client, &request.bytes()).code(), 400);
        }
    }
}

//= STUN-AUTH-11
//= STUN-AUTH-12
#[test]
fn of_two_signatures_the_sha256_one_counts_and_neither_order_covers_more() {
    for client in every_client() {
        let (mut world, client) = ready(client);
        let (good, bad) = (md5_key(&client), b"another key".to_vec());
        let request = || raw(Method::Refresh).login(&client);
        let late = |raw: Raw| raw.attribute(AttributeType::LIFETIME, [0, 0, 0x0E, 0x10]);
        world.packet(&client, &raw_allocate().login(&client).sha1(&good).bytes());
        let cases = [
            ("both good", request().sha1(&good).sha256(&good, 32), 0),
            ("SHA-256 bad", request().sha1(&good).sha256(&bad, 32), 401),
            ("SHA-1 bad", request().sha1(&bad).sha256(&good, 32), 0),
            ("SHA-256 first, good", request().sha256(&good, 32).sha1(&bad), 0),
            ("SHA-256 first, bad", request().sha256(&bad, 32).sha1(&good), 401),
            ("between them", late(request().sha1(&good)).sha256(&good, 32), 0),
            (
                "between them, SHA-256 first",
                late(request().sha256(&good, 32)).sha1(&good),
                0,
            ),
            ("twice, the first bad", request().sha1(&bad).sha1(&good), 401),
        ];
        for (case, packet, code) in cases {
            let answer = world.packet(&client, &packet.bytes());
            assert_eq!(answer.code(), code, "{case}, {}", story(&client));
            if code == 0 {
                assert_eq!(answer.lifetime(), secs(600), "{case}, {}", story(&client));
            }
        }
    }
}

//= STUN-AUTH-19
#[test]
fn every_error_after_the_login_is_signed_and_holds_nothing_else() {
    let transport =
        |protocol: u8| request(Method::Allocate).with(AttributeType::REQUESTED_TRANSPORT, [protocol, 0, 0, 0]);
    let unknown = refresh(600).with(AttributeType(0x7FFE), []);
    let before = [
        (request(Method::Allocate), 400),
        (refresh(600), 437),
        (allocate().family(9), 440),
        (transport(6), 442),
    ];
    let after = [
        (allocate(), 437),
        (request(Method::CreatePermission), 400),
        (create_permission(&[addr("10.0.0.1:1")]), 403),
        (unknown, 420),
        (refresh(600).family(2), 443),
        (channel_bind(0x4000, addr("[2001:db8::1]:1")), 443),
    ];
    for (integrity, algorithm) in [
        (Integrity::Sha1, None),
        (Integrity::Sha256, Some(PasswordAlgorithm::Sha256)),
    ] {
        let signature = if algorithm.is_some() { 0x001C } else { 0x0008 };
        for mut client in every_client() {
            (client.integrity, client.algorithm) = (integrity, algorithm);
            let mut world = World::with(|config| config.limits.allocations_per_user = 1);
            let check = |answer: Answer, code| {
                let listed = (code == 420).then_some(0x000A);
                let kinds: Vec<u16> = [ERROR_CODE].into_iter().chain(listed).chain([signature]).collect();
                assert_eq!((answer.code(), answer.kinds()), (code, kinds), "{}", story(&client));
            };
            let mut client = client.clone();
            for (message, code) in &before {
                check(client.request(&mut world, message), *code);
            }
            world.open_results = [Err(relay_proto::turn::OpenError::Exhausted)].into();
            check(client.request(&mut world, &allocate()), 508);
            client.allocate(&mut world);
            for (message, code) in &after {
                check(client.request(&mut world, message), *code);
            }
            // `request` checks the signature; with bob's login the key is bob's.
            check(
                client.clone().user("bob", "builder").request(&mut world, &refresh(600)),
                441,
            );
            let mut second = client.clone();
            second.client.five_tuple.client.set_port(999);
            second.nonce = None;
            check(second.request(&mut world, &allocate()), 486);
        }
    }
}
