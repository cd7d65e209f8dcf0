//! Packets that are not our messages: dropped over UDP and DTLS, usually the end of a stream, and
//! without effect on other clients.

use relay_proto::base::address::Transport;
use relay_proto::turn::DropReason;
use relay_proto::turn::types::Link;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use crate::every_client::*;
use relay_testkit::world::*;

fn over_dtls(client: &Client) -> bool {
    client.client.five_tuple.transport == Transport::Dtls
}

fn binding() -> Vec<u8> {
    raw(Method::Binding).bytes()
}

/// Header and body as given, whatever the length says.
fn stun(kind: u16, length: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = [
        &kind.to_be_bytes()[..],
        &length.to_be_bytes(),
        &[0x21, 0x12, 0xA4, 0x42],
        &[5; 12],
    ]
    .concat();
    packet.extend(body);
    packet
}

/// `packet` has no effect, and the next request on the same five-tuple is answered.
fn is_silent(world: &mut World, client: &Client, packet: &[u8]) -> DropReason {
    let Answer::Dropped(reason) = world.packet(client, packet) else {
        panic!("{}: {packet:02x?} was not dropped", story(client));
    };
    assert_eq!(world.packet(client, &binding()).code(), 0);
    reason
}

//= STUN-MSG-01
//= XPORT-13
#[test]
fn a_first_byte_that_is_neither_stun_nor_channel_data_is_dropped() {
    for client in every_client() {
        let mut world = World::new();
        for first in (4..=0x3F).chain(0x50..=0xFF) {
            let mut packet = binding();
            packet[0] = first;
            let reason = is_silent(&mut world, &client, &packet);
            let reserved = (0x50..=0x7F).contains(&first);
            assert_eq!(
                reason,
                if reserved {
                    DropReason::BadChannelData
                } else {
                    DropReason::NotTurn
                },
                "{first:#04x}"
            );
        }
    }
}

//= STUN-MSG-02
//= STUN-MSG-03
//= STUN-MSG-04
//= STUN-MSG-05
//= STUN-MSG-12
//= XPORT-03
#[test]
fn headers_and_attributes_that_lie_are_silent_and_the_end_of_a_stream() {
    let attribute = |length: u16, value: &[u8]| [&[0x80, 0x22], &length.to_be_bytes()[..], value].concat();
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("length 1".into(), stun(1, 1, &[0])),
        ("length 2".into(), stun(1, 2, &[0; 2])),
        ("length 3".into(), stun(1, 3, &[0; 3])),
        ("length 5".into(), stun(1, 5, &[0; 5])),
        ("length 8, 4 there".into(), stun(1, 8, &attribute(0, &[]))),
        ("length 0, 4 there".into(), stun(1, 0, &attribute(0, &[]))),
        ("attribute of 65535".into(), stun(1, 4, &attribute(0xFFFF, &[]))),
        (
            "attribute one too long".into(),
            stun(1, 8, &attribute(5, &[1, 2, 3, 4])),
        ),
        (
            "attribute of another's bytes".into(),
            stun(1, 12, &[attribute(9, &[0; 4]), attribute(0, &[])].concat()),
        ),
    ];
    cases.extend((1..20).map(|len| (format!("{len} bytes"), binding()[..len].to_vec())));
    cases.extend((4..8).map(|at| {
        let mut packet = binding();
        packet[at] ^= 1;
        (format!("cookie, byte {at}"), packet)
    }));
    for client in every_client() {
        for (case, packet) in &cases {
            if over_dtls(&client) && case.starts_with("cookie") {
                // A request of RFC 3489, which gets an error response there: see `binding`.
                continue;
            }
            let mut world = World::new();
            let reason = is_silent(&mut world, &client, packet);
            let telephone = case.starts_with("cookie") && client.client.five_tuple.transport == Transport::Udp;
            if telephone {
                assert_eq!(reason, DropReason::Rfc3489, "{case}");
            } else {
                assert!(
                    matches!(reason, DropReason::Malformed | DropReason::NotTurn),
                    "{case}: {reason}"
                );
            }
            let closed = client
                .client
                .five_tuple
                .transport
                .is_stream()
                .then_some(client.client.link);
            assert_eq!(
                world.closed_streams,
                Vec::from_iter(closed),
                "{case}, {}",
                story(&client)
            );
        }
        is_silent(&mut World::new(), &client, &[]);
    }
}

//= STUN-MSG-06
//= STUN-MSG-07
//= STUN-MSG-08
//= STUN-BIND-03
//= TCP-ALLOC-01
#[test]
fn of_all_16384_types_five_are_answered_one_is_relayed_and_no_stream_is_closed() {
    use DropReason::{KeepAlive, NotTurn, UnexpectedClass, UnknownMethod};
    for client in every_client().take(4) {
        let mut world = World::new();
        for kind in 0..0x4000u16 {
            // With SOFTWARE, because over UDP a login request as short as a header is dropped.
            let answer = world.packet(&client, &stun(kind, 8, &[0x80, 0x22, 0, 4, b's', b'o', b'f', b't']));
            let (method, class) = ((kind & 0xF) | (kind & 0xE0) >> 1 | (kind & 0x3E00) >> 2, kind & 0x0110);
            let expected = match (method, class) {
                _ if kind >= 0x0400 => None,
                (0x001, 0) => Some(0),
                (0x003 | 0x004 | 0x008 | 0x009, 0) => Some(401),
                _ => None,
            };
            assert_eq!(answer.code_or_success(), expected, "{kind:#06x}");
            let reason = match (method, class) {
                _ if expected.is_some() => continue,
                _ if kind >= 0x0400 => NotTurn,
                (0x001, 0x0010) => KeepAlive,
                (0x006, 0x0010) => DropReason::IncompleteIndication,
                (0x00A | 0x00B, 0) => UnknownMethod,
                (0x001 | 0x003 | 0x004 | 0x006..=0x00C, _) => UnexpectedClass,
                _ => UnknownMethod,
            };
            assert_eq!(answer, Answer::Dropped(reason), "{kind:#06x}");
        }
    }
}

//= STUN-BIND-07
//= STUN-BIND-08
#[test]
fn a_fingerprint_must_be_right_and_last_in_every_message() {
    for client in every_client() {
        let mut world = World::new();
        let requests: [fn() -> Raw; 3] = [
            || raw(Method::Binding),
            raw_allocate,
            || {
                Raw::with_id(0x0016, [3; 12])
                    .peer("192.0.2.1:7000")
                    .attribute(AttributeType::DATA, b"x")
            },
        ];
        for request in requests {
            let wrong = [
                request().fingerprint(1),
                request().fingerprint(0x5354_554E),
                request().fingerprint(0).attribute(AttributeType::SOFTWARE, b"x"),
                request()
                    .fingerprint_before(4, 0)
                    .attribute(AttributeType::SOFTWARE, b""),
                request().fingerprint_before(8, 0).fingerprint(0),
                request().attribute(AttributeType::FINGERPRINT, []),
            ];
            for packet in wrong {
                assert_eq!(
                    is_silent(&mut world, &client, &packet.bytes()),
                    DropReason::BadFingerprint
                );
            }
        }
        let good = world.packet(&client, &raw(Method::Binding).fingerprint(0).bytes());
        let Answer::Response(bytes) = &good else {
            panic!("{good:?}")
        };
        let (before, _) = bytes.split_at(bytes.len() - 8);
        assert_eq!(
            *bytes,
            Raw::from_bytes(before).fingerprint(0).bytes(),
            "{}",
            story(&client)
        );
        assert!(
            world.closed_streams.is_empty(),
            "a wrong FINGERPRINT says where the message ends"
        );
    }
}

//= STUN-BIND-09
//= TURN-GEN-09
//= STUN-MSG-02
#[test]
fn rfc_3489_is_not_spoken_in_any_method() {
    for client in every_client() {
        let mut world = World::new();
        for kind in [0x0001u16, 0x0003, 0x0004, 0x0008, 0x0009, 0x0016] {
            if over_dtls(&client) && kind == 1 {
                // Gets an error response: see `binding`.
                continue;
            }
            // Sixteen bytes of transaction id, in the place of the cookie.
            let classic = [
                &kind.to_be_bytes()[..],
                &[0, 8],
                &[0xC1; 16],
                &[0, 0x19, 0, 4, 17, 0, 0, 0],
            ]
            .concat();
            // A Binding request of RFC 3489 has its own reason, because an option would enable it.
            let telephone = kind == 1 && client.client.five_tuple.transport == Transport::Udp;
            let reason = if telephone {
                DropReason::Rfc3489
            } else {
                DropReason::NotTurn
            };
            assert_eq!(is_silent(&mut world, &client, &classic), reason, "{kind:#06x}");
        }
        world.assert_empty();
    }
}

//= XPORT-04
#[test]
fn reserved_channel_numbers_end_nothing_and_higher_ones_end_a_stream() {
    for client in every_client() {
        let stream = client.client.five_tuple.transport.is_stream();
        for (first, closes) in [(0x50, false), (0x7F, false), (0x80, stream), (0xFF, stream)] {
            let mut world = World::new();
            is_silent(&mut world, &client, &[first, 0, 0, 4, 1, 2, 3, 4]);
            let closed: Vec<Link> = closes.then_some(client.client.link).into_iter().collect();
            assert_eq!(world.closed_streams, closed, "{first:#04x}, {}", story(&client));
        }
    }
}

//= TURN-CHAN-12
#[test]
fn channel_data_that_is_cut_short_is_dropped_and_ends_nothing() {
    for client in every_client() {
        let (mut world, mut client) = (World::new(), client);
        client.allocate(&mut world);
        client.bind(&mut world, 0x4000, addr("192.0.2.1:7000"));
        for packet in [
            &[0x40][..],
            &[0x40, 0, 0],
            &[0x40, 0, 0, 1],
            &[0x40, 0, 0, 10, 1, 2, 3, 4, 5, 6],
        ] {
            assert_eq!(
                is_silent(&mut world, &client, packet),
                DropReason::BadChannelData,
                "{packet:?}"
            );
        }
        assert_eq!(
            world.packet(&client, &[0x40, 0, 0, 4, 1, 2, 3, 4, 5, 6, 7]).sent().data,
            [1, 2, 3, 4]
        );
    }
}

//= STUN-MSG-13
//= STUN-MSG-16
//= STUN-MSG-17
//= COMPAT-06
//= COMPAT-07
//= COMPAT-08
#[test]
fn what_is_unknown_is_refused_or_ignored_by_its_half_and_of_two_the_first_counts() {
    for client in every_client() {
        let (mut world, mut client) = (World::new(), client);
        challenge(&mut world, &mut client);
        let sign = |raw: Raw| raw.login(&client).sha1(&md5_key(&client)).bytes();
        for old in [0x0010, 0x0021] {
            let answer = world.packet(&client, &sign(raw_allocate().attribute(AttributeType(old), [0; 4])));
            assert_eq!(answer.code(), 420, "{}", story(&client));
            assert_eq!(
                answer.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap(),
                old.to_be_bytes()
            );
        }
        let vendors = [0xC057, 0xC001, 0xFF00, 0xFF05, 0x802F, 0x0024, 0x0025];
        let request = vendors.into_iter().fold(raw_allocate(), |raw, kind| {
            raw.attribute(AttributeType(kind), b"other.example")
        });
        let twice = request.attribute(AttributeType::LIFETIME, [0, 0, 4, 0xB0]);
        let twice = twice
            .attribute(AttributeType::LIFETIME, [0, 0, 8, 0])
            .attribute(AttributeType::REQUESTED_TRANSPORT, [6, 0, 0, 0]);
        let answer = world.packet(&client, &sign(twice));
        assert_eq!(
            (answer.code(), answer.lifetime()),
            (0, secs(1200)),
            "{}",
            story(&client)
        );
    }
}
