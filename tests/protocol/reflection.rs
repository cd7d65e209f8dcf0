//! What an attacker can send to a victim by forging its address: with IP and UDP headers, at most
//! 2.2 times what the attacker sends. `World` checks this for every response of every test. These
//! tests cover the responses to unauthenticated senders one by one.

use std::sync::Arc;

use relay_proto::base::address::Transport;
use relay_proto::turn::DropReason;
use relay_proto::turn::config::Challenge;
use relay_proto::turn::reflection::{LONGEST_REALM, SHORTEST_REQUEST};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use crate::discovery;
use crate::every_client::Raw;
use relay_testkit::world::*;

const USERHASH_LEN: usize = 32;

fn stranger(v6: bool) -> Client {
    client_of(1, Transport::Udp, v6)
}

fn world_of(realm: usize, challenge: Challenge) -> World {
    World::with(|config| {
        config.realm = "r".repeat(realm);
        config.challenge = challenge;
    })
}

/// Signed with an unknown key and the shortest possible attributes.
fn forged(method: Method) -> Message {
    request(method)
        .with(AttributeType::USERNAME, [])
        .with(AttributeType::REALM, [])
        .with(AttributeType::NONCE, [])
        .with(AttributeType::MESSAGE_INTEGRITY, [0; 20])
}

fn software(message: Message, len: usize) -> Message {
    if len == 0 {
        message
    } else {
        message.with(AttributeType::SOFTWARE, vec![b's'; len - 1])
    }
}

//= STUN-MSG-24
#[test]
fn every_challenge_fits_its_request_and_every_client_of_today_gets_one() {
    for v6 in [false, true] {
        for challenge in [Challenge::Full, Challenge::CompactUdp, Challenge::Compact] {
            for realm in 1..=LONGEST_REALM {
                let mut world = world_of(realm, challenge);
                for (fingerprint, len) in [false, true]
                    .into_iter()
                    .flat_map(|f| [0, 1, 5, 9, 13, 29, 61].map(|len| (f, len)))
                {
                    let mut client = stranger(v6);
                    client.fingerprint = fingerprint;
                    for message in [
                        allocate(),
                        refresh(600),
                        forged(Method::Allocate),
                        forged(Method::ChannelBind),
                    ] {
                        let answer = client.send_plain(&mut world, &software(message, len));
                        assert!(
                            matches!(answer.code(), 401 | 438),
                            "{len} bytes more, realm of {realm}: {answer:?}"
                        );
                    }
                }
            }
        }
    }
}

//= STUN-AUTH-16
#[test]
fn a_challenge_holds_the_offers_of_rfc_8489_whenever_there_is_room_for_them() {
    // Requests as long as the first ones of Chromium, aiortc or pion, Firefox, and coturn's client.
    for (len, most) in [(28, [12, 36]), (36, [32, 52]), (44, [48, 72]), (60, [84, 108])] {
        for (v6, most) in [false, true].into_iter().zip(most) {
            for realm in 1..=LONGEST_REALM {
                let mut world = world_of(realm, Challenge::Full);
                let filler = (len - 28_usize).checked_sub(4).map(|len| vec![b's'; len]);
                let message = match filler {
                    Some(filler) => allocate().with(AttributeType::SOFTWARE, filler),
                    None => allocate(),
                };
                let answer = stranger(v6).send_plain(&mut world, &message);
                let offered = answer.attribute(AttributeType::PASSWORD_ALGORITHMS).is_some();
                let nonce = answer.attribute(AttributeType::NONCE).unwrap();
                assert_eq!(nonce.starts_with(b"obMatJos2"), offered);
                assert_eq!(offered, realm <= most, "{len} bytes, IPv6 {v6}, realm of {realm}");
            }
        }
    }
}

//= STUN-MSG-24
#[test]
fn a_request_shorter_than_any_clients_is_dropped_over_udp_and_counted() {
    let methods = [
        Method::Allocate,
        Method::Refresh,
        Method::CreatePermission,
        Method::ChannelBind,
    ];
    for v6 in [false, true] {
        let mut world = World::new();
        for method in methods {
            let answer = stranger(v6).send_plain(&mut world, &request(method));
            assert_eq!(answer, Answer::Dropped(DropReason::ShortRequest));
            let more = request(method).with(AttributeType::SOFTWARE, []);
            let answer = stranger(v6).send_plain(&mut world, &more);
            assert_eq!(answer, Answer::Dropped(DropReason::ShortRequest), "24 bytes");
            assert_eq!(stranger(v6).send_plain(&mut world, &refresh(0)).code(), 401, "28 bytes");
        }
        assert_eq!(world.dropped(DropReason::ShortRequest), 8);
        assert_eq!(stranger(v6).send_plain(&mut world, &request(Method::Binding)).code(), 0);
        for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
            let answer = client_of(2, transport, v6).send_plain(&mut world, &request(Method::Allocate));
            assert_eq!(answer.code(), 401, "whoever has proved its address may be brief");
        }
    }
}

//= NATD-05
#[test]
fn every_answer_to_a_binding_request_fits_its_request() {
    let wishes = [
        (AttributeType::CHANGE_REQUEST, vec![0, 0, 0, 6]),
        (AttributeType::RESPONSE_PORT, vec![1, 2, 0, 0]),
        (AttributeType::RESPONSE_PORT, vec![0, 0, 0, 0]),
        (AttributeType::PADDING, Vec::new()),
        (AttributeType::PADDING, vec![0; 1400]),
        (AttributeType(0x7001), Vec::new()),
        (AttributeType::USERHASH, vec![0; USERHASH_LEN]),
    ];
    let mut worlds = [
        World::new(),
        World::with(|config| config.discovery = Some(Arc::new(discovery::discovery()))),
    ];
    for world in &mut worlds {
        for server in ["10.1.2.3:3478", "[2a00:1450:1::1]:3478"] {
            for wanted in 0..1 << wishes.len() {
                let mut client = discovery::client_at(server, Transport::Udp);
                client.fingerprint = wanted % 3 == 0;
                let chosen = wishes.iter().enumerate().filter(|(n, _)| wanted >> n & 1 == 1);
                let message = chosen.fold(request(Method::Binding), |message, (_, (kind, value))| {
                    message.with(*kind, value)
                });
                let answer = client.send_plain(world, &message);
                assert!(matches!(answer.code(), 0 | 400 | 420), "{answer:?}");
            }
        }
    }
}

/// A line of the table of `docs/security.md`: for both families, the lengths of the request and of
/// its response.
fn row(answer: &str, request: &str, lens: [(usize, usize); 2]) -> String {
    let cells = lens.into_iter().zip([28, 48]).map(|((request, answer), headers)| {
        let gain = (answer + headers) as f64 / (request + headers) as f64;
        assert!(gain <= 2.2);
        format!("{request} → {answer} | {gain:.2}")
    });
    format!("| {answer} | {request} | {} |", cells.collect::<Vec<_>>().join(" | "))
}

/// Lengths of `message` and of its response, which has this code.
fn lens(world: &mut World, client: &mut Client, message: &Message, code: u16) -> (usize, usize) {
    let Answer::Response(bytes) = client.send_plain(world, message) else {
        panic!("no answer");
    };
    assert_eq!(Answer::Response(bytes.clone()).code(), code);
    let fingerprint = if client.fingerprint { 8 } else { 0 };
    (message.plain().len() + fingerprint, bytes.len())
}

fn challenges(fingerprint: bool, realm: usize, message: &Message, code: u16) -> [(usize, usize); 2] {
    [false, true].map(|v6| {
        let mut client = stranger(v6);
        client.fingerprint = fingerprint;
        lens(&mut world_of(realm, Challenge::Full), &mut client, message, code)
    })
}

fn bindings(discovered: bool, fingerprint: bool, message: &Message, code: u16) -> [(usize, usize); 2] {
    ["10.1.2.3:3478", "[2a00:1450:1::1]:3478"].map(|server| {
        let mut world = World::with(|config| config.discovery = discovered.then(|| Arc::new(discovery::discovery())));
        let mut client = discovery::client_at(server, Transport::Udp);
        client.fingerprint = fingerprint;
        lens(&mut world, &mut client, message, code)
    })
}

fn classic(attribute: &[u8]) -> [(usize, usize); 2] {
    [false, true].map(|v6| {
        let mut world = World::with(|config| config.rfc3489_binding = true);
        let packet = [&[0, 1, 0, attribute.len() as u8][..], b"sixteen bytes id", attribute].concat();
        (packet.len(), world.classic(&stranger(v6), &packet))
    })
}

//= STUN-MSG-24
//= NATD-05
#[test]
fn the_table_of_amplification_in_the_documentation_is_what_the_server_does() {
    let binding = || request(Method::Binding);
    let unknown = |message: Message| message.with(AttributeType(0x7001), []);
    let twelve = (0..12).fold(binding(), |message, n| message.with(AttributeType(0x7001 + n), []));
    let rows = [
        row(
            "401",
            "Chromium's Allocate, realm of 12 bytes",
            challenges(false, 12, &allocate(), 401),
        ),
        row(
            "401",
            "Chromium's Allocate, realm of 36 bytes",
            challenges(false, 36, &allocate(), 401),
        ),
        row(
            "401",
            "pion's Allocate, realm of 12 bytes",
            challenges(true, 12, &allocate(), 401),
        ),
        row(
            "401",
            "pion's Allocate, realm of 36 bytes",
            challenges(true, 36, &allocate(), 401),
        ),
        row(
            "401",
            "aiortc's Allocate, realm of 36 bytes",
            challenges(false, 36, &allocate().lifetime(600), 401),
        ),
        row(
            "401",
            "Firefox' Allocate, realm of 36 bytes",
            challenges(true, 36, &allocate().lifetime(600), 401),
        ),
        row(
            "438",
            "shortest with a signature, realm of 36 bytes",
            challenges(false, 36, &forged(Method::Refresh), 438),
        ),
        row(
            "400",
            "shortest with a signature and no name",
            challenges(
                false,
                36,
                &request(Method::Refresh).with(AttributeType::MESSAGE_INTEGRITY, [0; 20]),
                400,
            ),
        ),
        row("Binding success", "Binding", bindings(false, false, &binding(), 0)),
        row(
            "Binding success",
            "Binding with FINGERPRINT",
            bindings(false, true, &binding(), 0),
        ),
        row(
            "Binding 420",
            "an unknown attribute",
            bindings(false, false, &unknown(binding()), 420),
        ),
        row(
            "Binding 420",
            "twelve unknown attributes",
            bindings(false, false, &twelve, 420),
        ),
        row("RFC 5780 success", "Binding", bindings(true, false, &binding(), 0)),
        row(
            "RFC 5780 success",
            "Binding with FINGERPRINT",
            bindings(true, true, &binding(), 0),
        ),
        row(
            "RFC 5780 success",
            "CHANGE-REQUEST or RESPONSE-PORT",
            bindings(
                true,
                false,
                &binding().with(AttributeType::CHANGE_REQUEST, [0, 0, 0, 6]),
                0,
            ),
        ),
        row(
            "RFC 5780 success",
            "PADDING without a byte",
            bindings(true, false, &binding().with(AttributeType::PADDING, []), 0),
        ),
        row(
            "RFC 5780 success",
            "PADDING of 1400 bytes",
            bindings(true, false, &binding().with(AttributeType::PADDING, [0; 1400]), 0),
        ),
        row(
            "RFC 5780 400",
            "RESPONSE-PORT 0",
            bindings(true, false, &binding().with(AttributeType::RESPONSE_PORT, [0; 4]), 400),
        ),
        row("RFC 3489 success", "Binding without a cookie", classic(&[])),
        row(
            "RFC 3489 420",
            "RESPONSE-ADDRESS",
            classic(&[0, 2, 0, 8, 0, 1, 0, 80, 192, 0, 2, 1]),
        ),
    ];
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
    let page = std::fs::read_to_string(path).unwrap();
    for row in &rows {
        assert!(
            page.contains(row.as_str()),
            "{path} lacks a line of:\n{}",
            rows.join("\n")
        );
    }
    let bounds = [
        format!("at least {SHORTEST_REQUEST} bytes"),
        format!("{LONGEST_REALM} bytes"),
    ];
    for bound in bounds {
        assert!(page.contains(&bound), "{path} does not say \"{bound}\"");
    }
}

//= STUN-AUTH-08
#[test]
fn a_realm_that_leaves_no_room_at_all_is_answered_with_silence_and_counted() {
    // Such a configuration is refused before it gets here.
    let mut world = world_of(LONGEST_REALM + 1, Challenge::Full);
    let mut client = stranger(false);
    let answer = client.send_plain(&mut world, &allocate());
    assert_eq!(answer, Answer::Dropped(DropReason::ShortRequest));
    assert_eq!(client.send_plain(&mut world, &software(allocate(), 20)).code(), 401);
    let raw = Raw::with_id(3, [1; 12]).bytes();
    assert_eq!(world.packet(&client, &raw), Answer::Dropped(DropReason::ShortRequest));
}
