//! The form of responses: their size, padding, texts and destination.

use std::sync::Arc;

use relay_proto::base::address::Transport;
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, StaticUser};
use relay_proto::turn::{OpenError, Response};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::error_code;
use relay_proto::wire::integrity::{Integrity, PasswordAlgorithm};
use relay_proto::wire::message::Method;

use crate::every_client::*;
use relay_testkit::world::*;

/// Every possible response to `client`, each as long as possible: code and bytes.
fn all_responses(client: &Client) -> Vec<(u16, Vec<u8>)> {
    // The longest realm. RFC 8489 allows 127 characters, and over UDP a full challenge to this
    // client has room for 24.
    let udp = client.client.five_tuple.transport == Transport::Udp;
    let realm = "r".repeat(if udp { 23 } else { 127 });
    let mut world = World::with(|config| {
        config.software = Some("s".repeat(127));
        config.realm.clone_from(&realm);
        config.credentials = credentials_of(&realm);
        config.limits.allocations_per_user = 1;
        config.relay.ipv6 = None;
    });
    let mut client = client.clone();
    client.realm = realm;
    (client.fingerprint, client.integrity, client.algorithm) =
        (true, Integrity::Sha256, Some(PasswordAlgorithm::Sha256));
    let unknown = |message: Message| (0..300).fold(message, |message, n| message.with(AttributeType(0x7000 + n), []));
    let mut answers = vec![
        client.send_plain(&mut world, &request(Method::Binding)),
        client.send_plain(&mut world, &unknown(request(Method::Binding))),
        challenge(&mut world, &mut client),
    ];
    let mut ask =
        |client: &mut Client, world: &mut World, message: &Message| answers.push(client.request(world, message));
    let mut stale = client.clone();
    stale.nonce = Some(b"stale".to_vec());
    ask(&mut stale, &mut world, &allocate());
    ask(&mut client, &mut world, &request(Method::Allocate));
    ask(&mut client, &mut world, &allocate().family(2));
    ask(
        &mut client,
        &mut world,
        &allocate()
            .without(AttributeType::REQUESTED_TRANSPORT)
            .with(AttributeType::REQUESTED_TRANSPORT, [6, 0, 0, 0]),
    );
    ask(
        &mut client,
        &mut world,
        &allocate().with(AttributeType::RESERVATION_TOKEN, [0; 8]),
    );
    world.open_results = [Err(OpenError::Other)].into();
    ask(&mut client, &mut world, &allocate());
    // With ADDRESS-ERROR-CODE.
    ask(&mut client, &mut world, &allocate().also(2));
    let mut second = client.clone();
    second.client.five_tuple.client.set_port(1);
    second.nonce = None;
    ask(&mut second, &mut world, &allocate());
    let peer = addr("192.0.2.1:7000");
    for message in [
        allocate(),
        unknown(refresh(600)),
        refresh(600).family(2),
        create_permission(&[addr("10.0.0.1:1")]),
        create_permission(&[peer]),
        channel_bind(0x4000, peer),
    ] {
        ask(&mut client, &mut world, &message);
    }
    ask(&mut client.clone().user("bob", "builder"), &mut world, &refresh(600));
    ask(&mut client, &mut world, &refresh(0));
    // With RESERVATION-TOKEN.
    ask(&mut client, &mut world, &allocate().even_port(true));
    answers
        .into_iter()
        .map(|answer| (answer.code(), response(answer)))
        .collect()
}

fn credentials_of(realm: &str) -> Arc<Credentials> {
    let user = |name: &str, password: &str| StaticUser {
        name: name.to_owned(),
        password: password.to_owned().into(),
        forced: false,
    };
    let credentials = CredentialsConfig {
        realm: realm.to_owned(),
        users: vec![user("alice", "wonderland"), user("bob", "builder")],
        ..CredentialsConfig::default()
    };
    Arc::new(Credentials::new(credentials).unwrap())
}

fn response(answer: Answer) -> Vec<u8> {
    match answer {
        Answer::Response(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

//= STUN-MSG-24
//= STUN-MSG-23
#[test]
fn no_response_over_udp_is_longer_than_548_bytes_however_long_realm_and_software_are() {
    for client in every_client() {
        let responses = all_responses(&client);
        let codes: std::collections::BTreeSet<u16> = responses.iter().map(|&(code, _)| code).collect();
        let all = [0, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 486, 508];
        assert_eq!(Vec::from_iter(codes), all, "every code is among them");
        let longest = responses.iter().map(|(_, bytes)| bytes.len()).max().unwrap();
        // `Answer::of` has checked all of them against 548 bytes already. Over UDP there is no
        // SOFTWARE, so they are even shorter.
        assert!(
            longest
                < if client.client.five_tuple.transport.is_stream() {
                    548
                } else {
                    300
                },
            "{longest}"
        );
    }
}

//= STUN-MSG-11
#[test]
fn padding_is_zero_in_every_response_whatever_was_in_the_buffer() {
    for client in every_client() {
        for (code, bytes) in all_responses(&client) {
            let (mut at, mut padded) = (20, 0);
            while at < bytes.len() {
                let len = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
                let (end, next) = (at + 4 + len, at + 4 + len.next_multiple_of(4));
                assert!(bytes[end..next].iter().all(|&byte| byte == 0), "{code}: {bytes:02x?}");
                padded += next - end;
                at = next;
            }
            assert_eq!(at, bytes.len());
            assert!(code != 401 || padded > 0, "a realm of 23 or 127 bytes is padded");
        }
    }
}

//= STUN-MSG-09
#[test]
fn a_response_has_the_transaction_id_and_method_of_its_request_whatever_they_are() {
    for client in every_client() {
        let mut world = World::new();
        for id in [[0; 12], [0xFF; 12], *b"abcdefghijkl"] {
            for (kind, answered) in [
                (0x0001u16, [0x01, 0x01]),
                (0x0003, [0x01, 0x13]),
                (0x0009, [0x01, 0x19]),
            ] {
                let request = Raw::with_id(kind, id).attribute(AttributeType::SOFTWARE, b"test");
                let bytes = response(world.packet(&client, &request.bytes()));
                assert_eq!(
                    (&bytes[..2], &bytes[8..20]),
                    (&answered[..], &id[..]),
                    "{}",
                    story(&client)
                );
            }
        }
    }
}

//= STUN-MSG-20
//= STUN-BIND-04
#[test]
fn the_mapped_address_is_masked_with_cookie_and_transaction_id() {
    for (source, value) in [
        ("203.0.113.7:40001", "0001bd53ea12d545"),
        (
            "[2a00:1450:2::7]:40002",
            // Address XOR 2112a442, then the transaction id 01 to 0c.
            "0002bd500b12b0120100030405060708090a0b0b",
        ),
    ] {
        let mut client = client(1);
        client.client.five_tuple.client = addr(source);
        let id = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let answer = World::new().packet(&client, &Raw::with_id(1, id).bytes());
        let hex: String = answer
            .attribute(AttributeType::XOR_MAPPED_ADDRESS)
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, value, "{source}");
    }
}

//= STUN-MSG-22
//= STUN-MSG-23
#[test]
fn reason_phrases_are_short_and_said_on_streams_only() {
    for client in every_client() {
        for (code, bytes) in all_responses(&client) {
            let message = relay_proto::wire::message::Message::parse(&bytes).unwrap();
            let Some(value) = message.attribute(AttributeType::ERROR_CODE) else {
                continue;
            };
            let reason = error_code::decode(value).unwrap().reason;
            let reason = std::str::from_utf8(reason).unwrap();
            assert!(reason.chars().count() < 128);
            assert_eq!(
                reason.is_empty(),
                !client.client.five_tuple.transport.is_stream(),
                "{code}, {}",
                story(&client)
            );
        }
    }
}

//= XPORT-05
#[test]
fn the_response_to_a_stream_that_is_gone_goes_nowhere() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let (mut world, mut client) = (World::new(), client_over(1, transport));
        challenge(&mut world, &mut client);
        world.hold = Some(Vec::new());
        assert_eq!(client.request(&mut world, &allocate()), Answer::Waiting);
        client.disconnect(&mut world);
        let (shard, relay) = world.hold.take().unwrap()[0];
        assert!(world.opened(shard, relay, Ok(())).is_none(), "{transport}");
        let now = world.now();
        let mut response = Response::new();
        assert!(
            world.shards[0]
                .handle_relay_opened(now, relay, Ok(()), &mut response)
                .is_none()
        );
        assert!(response.bytes().is_empty());
        // Nor is there any command other than opening and closing relay sockets and closing
        // streams.
        assert!(world.shards[0].poll_command().is_none());
        world.assert_empty();
    }
}
