//! Binding (RFC 8489 §12), and packets that are not STUN, or STUN without a response.

use relay_proto::base::address::Transport;
use relay_proto::turn::types::Link;
use relay_proto::turn::{DropReason, Response, Verdict};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::{Integrity, Key};
use relay_proto::wire::message::{Class, Method};

use relay_testkit::world::*;

fn binding() -> Message {
    request(Method::Binding)
}

//= STUN-BIND-01
//= STUN-BIND-02
//= STUN-BIND-04
//= STUN-MSG-20
#[test]
fn a_client_learns_its_address_and_nothing_else() {
    let mut world = World::new();
    for (source, len) in [("203.0.113.5:4000", 32), ("[2001:db8::5]:4000", 44)] {
        for transport in Transport::ALL {
            let mut client = client_over(1, transport);
            client.client.five_tuple.client = addr(source);
            let answer = client.send_plain(&mut world, &binding());
            assert_eq!((answer.code(), answer.mapped()), (0, addr(source)));
            assert!(matches!(answer, Answer::Response(bytes) if bytes.len() == len));
        }
    }
}

//= STUN-BIND-03
#[test]
fn a_binding_indication_is_not_answered() {
    let mut world = World::new();
    let answer = client(1).send_plain(&mut world, &message(Class::Indication, Method::Binding));
    assert_eq!(answer, Answer::Dropped(DropReason::KeepAlive));
}

//= STUN-BIND-05
#[test]
fn integrity_in_a_binding_request_is_not_verified() {
    let mut world = World::new();
    let mut client = client(1);
    client.nonce = Some(b"none".to_vec());
    let packet = client.signed(&binding());
    let answer = world.packet(&client, &packet);
    assert_eq!(answer.code(), 0);
    assert!(!answer.is_signed(&Key::from_raw(b"x"), Integrity::Sha1));
}

//= STUN-BIND-06
//= STUN-BIND-07
#[test]
fn fingerprint_is_mirrored_when_right_and_the_packet_dropped_when_wrong() {
    let mut world = World::new();
    let mut client = client(1);
    client.fingerprint = true;
    client.nonce = Some(b"none".to_vec());
    assert_eq!(client.send_plain(&mut world, &binding()).kinds(), [0x0020, 0x8028]);
    assert_eq!(
        client.send_plain(&mut world, &allocate()).kinds().last(),
        Some(&0x8028),
        "on errors too"
    );
    let mut packet = client.signed(&binding());
    let last = packet.len() - 1;
    packet[last] ^= 1;
    assert_eq!(
        world.packet(&client, &packet),
        Answer::Dropped(DropReason::BadFingerprint)
    );
}

//= STUN-MSG-14
//= STUN-MSG-15
//= NATD-01
#[test]
fn unknown_required_attributes_are_listed_each_once() {
    let mut world = World::new();
    let unknown = [0x7FFE, 0x7FFD, 0x7FFE, 0x0003]
        .into_iter()
        .fold(binding(), |message, kind| message.with(AttributeType(kind), []));
    let answer = client(1).send_plain(&mut world, &unknown);
    assert_eq!(answer.code(), 420);
    let list = answer.attribute(AttributeType::UNKNOWN_ATTRIBUTES);
    assert_eq!(list.as_deref(), Some(&[0x7F, 0xFE, 0x7F, 0xFD, 0x00, 0x03][..]));
    let many = (0..300).fold(binding(), |message, n| message.with(AttributeType(0x7000 + n), []));
    let list = client(1)
        .send_plain(&mut world, &many)
        .attribute(AttributeType::UNKNOWN_ATTRIBUTES);
    assert_eq!(list.map(|list| list.len()), Some(64));
}

//= STUN-MSG-16
//= STUN-MSG-17
//= COMPAT-07
//= COMPAT-08
#[test]
fn optional_and_misplaced_attributes_are_ignored() {
    let mut world = World::new();
    let kinds = [0xC057, 0xFF05, 0x802F, 0x0024, 0x0025, 0x000D];
    let message = kinds.into_iter().fold(binding(), |message, kind| {
        message.with(AttributeType(kind), [1, 2, 3, 4])
    });
    assert_eq!(client(1).send_plain(&mut world, &message).code(), 0);
}

#[test]
fn binding_can_be_switched_off() {
    let mut world = World::with(|config| config.binding = false);
    let answer = client(1).send_plain(&mut world, &binding());
    assert_eq!(answer, Answer::Dropped(DropReason::BindingDisabled));
    client(1).allocate(&mut world);
}

/// A Binding request in the form of RFC 3489.
fn classic(id: &[u8; 16], attributes: &[u8]) -> Vec<u8> {
    [&[0, 1, 0, attributes.len() as u8], &id[..], attributes].concat()
}

/// The response to `packet`, byte for byte.
fn classic_answer(world: &mut World, client: &Client, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    let (now, mut response) = (world.now(), Response::new());
    match world.shards[0].handle_client(now, &client.client, packet, &mut response) {
        Verdict::Respond => Ok(response.bytes().to_vec()),
        Verdict::Drop(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

//= STUN-BIND-09
#[test]
fn where_it_is_switched_on_an_rfc_3489_client_learns_its_address_over_udp() {
    let mut world = World::with(|config| config.rfc3489_binding = true);
    let id = b"sixteen bytes id";
    for (source, value) in [
        ("203.0.113.5:4000", &[0, 1, 0x0F, 0xA0, 203, 0, 113, 5][..]),
        (
            "[2001:db8::5]:4000",
            &[
                0, 2, 0x0F, 0xA0, 0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5,
            ],
        ),
    ] {
        let mut client = client_over(1, Transport::Udp);
        client.client.five_tuple.client = addr(source);
        let len = value.len() as u8;
        let expected = [&[1, 1, 0, len + 4], &id[..], &[0, 1, 0, len], value].concat();
        assert_eq!(classic_answer(&mut world, &client, &classic(id, &[])), Ok(expected));
        let change = [0, 3, 0, 4, 0, 0, 0, 6];
        let refused = [
            &[1, 0x11, 0, 16],
            &id[..],
            &[0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 2, 0, 3, 0, 0],
        ]
        .concat();
        assert_eq!(classic_answer(&mut world, &client, &classic(id, &change)), Ok(refused));
        assert_eq!(
            client.send_plain(&mut world, &binding()).mapped(),
            addr(source),
            "and others as ever"
        );
    }
    assert_eq!(world.requests("binding"), 6);
    for transport in [Transport::Tcp, Transport::Tls] {
        let answer = classic_answer(&mut world, &client_over(1, transport), &classic(id, &[]));
        assert_eq!(answer, Err(DropReason::NotTurn), "{transport}");
    }
}

//= STUN-BIND-10
#[test]
fn over_dtls_an_rfc_3489_request_is_refused_and_an_indication_ignored() {
    let mut world = World::new();
    let (client, id) = (client_over(1, Transport::Dtls), b"sixteen bytes id");
    let refused = [&[1, 0x11, 0, 8], &id[..], &[0, 9, 0, 4, 0, 0, 5, 0]].concat();
    assert_eq!(classic_answer(&mut world, &client, &classic(id, &[])), Ok(refused));
    let mut indication = classic(id, &[]);
    indication[1] = 0x11;
    assert_eq!(
        classic_answer(&mut world, &client, &indication),
        Err(DropReason::NotTurn)
    );
    let mut cut = classic(id, &[]);
    cut.pop();
    assert!(classic_answer(&mut world, &client, &cut).is_err());
    assert_eq!(world.requests("binding"), 1);
}

//= STUN-BIND-09
#[test]
fn rfc_3489_clients_are_under_the_limit_and_the_switch_of_all_binding_requests() {
    let mut world = World::with(|config| {
        config.rfc3489_binding = true;
        config.limits.bindings_per_second = 2;
    });
    let (mut client, packet) = (client_over(1, Transport::Udp), classic(b"sixteen bytes id", &[]));
    assert!(classic_answer(&mut world, &client, &packet).is_ok());
    assert_eq!(client.send_plain(&mut world, &binding()).code(), 0);
    assert_eq!(
        classic_answer(&mut world, &client, &packet),
        Err(DropReason::BindingLimited)
    );
    world.reload(|config| config.binding = false);
    assert_eq!(
        classic_answer(&mut world, &client, &packet),
        Err(DropReason::BindingDisabled)
    );
    world.reload(|config| config.rfc3489_binding = false);
    assert_eq!(classic_answer(&mut world, &client, &packet), Err(DropReason::Rfc3489));
}

//= STUN-MSG-23
#[test]
fn software_is_said_on_streams_only_and_only_if_configured() {
    let mut world = World::with(|config| config.software = Some("relay".into()));
    for transport in Transport::ALL {
        let mut client = client_over(1, transport);
        for answer in [
            client.send_plain(&mut world, &binding()),
            client.request(&mut world, &allocate()),
        ] {
            let software = answer.attribute(AttributeType::SOFTWARE);
            assert_eq!(
                software.as_deref(),
                transport.is_stream().then_some(&b"relay"[..]),
                "{transport}"
            );
        }
    }
}

//= STUN-MSG-01
//= STUN-MSG-02
//= STUN-MSG-03
//= STUN-MSG-04
//= STUN-MSG-05
//= STUN-MSG-06
//= STUN-MSG-07
//= STUN-MSG-08
//= STUN-MSG-12
//= TURN-GEN-09
//= STUN-BIND-09
//= XPORT-13
#[test]
fn what_is_not_for_us_is_dropped_for_a_reason_and_the_next_request_works() {
    use DropReason::{BadChannelData, Malformed, NotTurn, Rfc3489, UnexpectedClass, UnknownMethod};
    let valid = binding().plain();
    let altered = |at: usize, byte: u8| {
        let mut packet = valid.clone();
        packet[at] = byte;
        packet
    };
    let typed = |kind: u16| {
        let mut packet = valid.clone();
        packet[..2].copy_from_slice(&kind.to_be_bytes());
        packet
    };
    let with_body = |len: u8, body: &[u8]| [&altered(3, len), body].concat();
    let mut cases = vec![
        (vec![], NotTurn),
        (altered(0, 0x80), NotTurn),
        (altered(0, 0xC0), NotTurn),
        (altered(0, 0x05), NotTurn),
        (altered(0, 20), NotTurn),
        (altered(0, 63), NotTurn),
        (altered(4, 0x22), Rfc3489),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), BadChannelData),
        (with_body(1, &[]), Malformed),
        (with_body(8, &[0x80, 0x22, 0, 0]), Malformed),
        (with_body(0, &[0x80, 0x22, 0, 0]), Malformed),
        (with_body(4, &[0x80, 0x22, 0xFF, 0xFF]), Malformed),
        (with_body(8, &[0x80, 0x22, 0, 5, 1, 2, 3, 4]), Malformed),
        (typed(0x0002), UnknownMethod),
        (typed(0x0005), UnknownMethod),
        (typed(0x0080), UnknownMethod),
        // By its first byte it would be DTLS.
        (typed(0x3EEF), NotTurn),
        (typed(0x000A), UnknownMethod),
        (typed(0x000B), UnknownMethod),
    ];
    cases.extend((0..20).map(|len| (valid[..len].to_vec(), if len == 0 { NotTurn } else { Malformed })));
    let unexpected = [
        0x0013, 0x0006, 0x0007, 0x0017, 0x001C, 0x0101, 0x0111, 0x0103, 0x0113, 0x0118, 0x0014,
    ];
    cases.extend(unexpected.map(|kind| (typed(kind), UnexpectedClass)));
    let mut world = World::new();
    for (packet, reason) in cases {
        assert_eq!(
            world.packet(&client_over(1, Transport::Udp), &packet),
            Answer::Dropped(reason),
            "{packet:02x?}"
        );
        assert_eq!(
            client_over(1, Transport::Udp).send_plain(&mut world, &binding()).code(),
            0
        );
    }
    assert!(world.closed_streams.is_empty());
}

//= XPORT-03
//= STUN-MSG-12
#[test]
fn a_stream_whose_bytes_make_no_sense_is_closed() {
    for (packet, closes) in [
        (&[0x80, 1, 2, 3][..], true),
        (&[0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42][..], true),
        (&[0x50, 0, 0, 0][..], false),
        (&[0x40, 0, 0, 0][..], false),
    ] {
        let mut world = World::new();
        let client = client_over(7, Transport::Tls);
        assert!(matches!(world.packet(&client, packet), Answer::Dropped(_)));
        assert_eq!(
            world.closed_streams,
            if closes { vec![Link(7)] } else { vec![] },
            "{packet:02x?}"
        );
    }
}
