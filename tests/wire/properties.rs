//! What holds for the codec whatever the input.

use proptest::collection::vec;
use proptest::prelude::*;
use relay_proto::wire::attribute::{self, AttributeType};
use relay_proto::wire::framing::{self, Framing, FramingError};
use relay_proto::wire::integrity::{Integrity, Key};
use relay_proto::wire::message::{Class, Message, Method, TransactionId};
use relay_proto::wire::writer::MessageWriter;
use relay_proto::wire::{address, channel_data, error_code, quic};

const ID: TransactionId = TransactionId([3; 12]);

fn write(class: Class, method: Method, build: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buf = vec![0xAA; 70_000];
    let mut writer = MessageWriter::new(&mut buf, class, method, ID);
    build(&mut writer);
    let len = writer.finish().unwrap();
    buf.truncate(len);
    buf
}

fn key() -> Key {
    Key::from_raw(b"key")
}

fn any_class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Request),
        Just(Class::Indication),
        Just(Class::Success),
        Just(Class::Error)
    ]
}

fn any_method() -> impl Strategy<Value = Method> {
    prop::sample::select(&Method::ALL[..])
}

fn any_integrity() -> impl Strategy<Value = Integrity> {
    prop_oneof![Just(Integrity::Sha1), Just(Integrity::Sha256)]
}

/// Attributes of any type, duplicates included, except the three that end a message.
fn any_attributes() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let kind = prop_oneof![0u16..0x40, 0x8000u16..0x8040, any::<u16>()]
        .prop_filter("ends a message", |kind| ![0x0008, 0x001C, 0x8028].contains(kind));
    vec((kind, vec(any::<u8>(), 0..40)), 0..12)
}

/// Bytes that get past the header more often than chance would have it: a right header, then attributes whose
/// lengths may lie, with the three special types well represented.
fn nearly_stun() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(0x0008), Just(0x001C), Just(0x8028), 0u16..0x40, any::<u16>()];
    let attribute =
        (kind, vec(any::<u8>(), 0..9).prop_map(|quads| quads.repeat(4)), -5i32..5).prop_map(|(kind, value, lie)| {
            let length = if lie < 0 {
                value.len() as i32 + lie
            } else {
                value.len() as i32
            };
            [&kind.to_be_bytes()[..], &(length as u16).to_be_bytes(), &value].concat()
        });
    (any::<u16>(), vec(attribute, 0..8)).prop_map(|(raw_type, attributes)| {
        let body = attributes.concat();
        let mut bytes = (raw_type & 0x3FFF).to_be_bytes().to_vec();
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend([0x21, 0x12, 0xA4, 0x42]);
        bytes.extend(ID.0);
        bytes.extend(body);
        bytes
    })
}

/// Everything one can ask of bytes.
fn ask_everything(bytes: &[u8]) {
    let _ = framing::next_frame(bytes);
    if let Ok((_, range)) = channel_data::parse(bytes) {
        assert!(bytes.get(range).is_some());
    }
    let _ = address::decode(bytes, ID);
    let _ = error_code::decode(bytes);
    let _ = attribute::Icmp::decode(bytes);
    let _ = attribute::password_algorithm(bytes);
    assert!(attribute::password_algorithms(bytes).count() <= bytes.len());
    let _ = Message::peek_header(bytes);
    let Ok(message) = Message::parse(bytes) else { return };
    let _ = (
        message.class(),
        message.method(),
        message.integrity(),
        message.integrity_malformed(),
    );
    let _ = message.verify(&key());
    assert!(
        message
            .unknown_required()
            .iter()
            .all(AttributeType::is_unknown_required)
    );
    for kind in (0..0x40).chain(0x8000..0x8040).map(AttributeType) {
        let all: Vec<&[u8]> = message.attributes_of(kind).collect();
        assert_eq!(message.attribute(kind), all.first().copied(), "the first counts");
        assert_eq!(
            message.attribute_range(kind).and_then(|range| bytes.get(range)),
            message.attribute(kind)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    //= STUN-MSG-12
    #[test]
    fn no_input_panics(bytes in vec(any::<u8>(), 0..200)) {
        ask_everything(&bytes);
    }

    //= STUN-MSG-12
    #[test]
    fn no_nearly_right_message_panics(bytes in nearly_stun()) {
        ask_everything(&bytes);
    }
}

proptest! {
    //= VEC-06
    #[test]
    fn writing_what_was_read_gives_the_same_bytes(
        class in any_class(),
        method in any_method(),
        attributes in any_attributes(),
        integrity in prop::option::of(any_integrity()),
        fingerprint in any::<bool>(),
    ) {
        let finish = |w: &mut MessageWriter<'_>, integrity: Option<Integrity>, fingerprint: bool| {
            if let Some(integrity) = integrity {
                w.integrity(&key(), integrity);
            }
            if fingerprint {
                w.fingerprint();
            }
        };
        let bytes = write(class, method, |w| {
            for (kind, value) in &attributes {
                w.attribute(AttributeType(*kind), value);
            }
            finish(w, integrity, fingerprint);
        });
        let message = Message::parse(&bytes).unwrap();
        let again = write(message.class(), message.method().unwrap(), |w| {
            for (kind, value) in message.attributes() {
                w.attribute(kind, value);
            }
            finish(w, message.integrity(), message.has_fingerprint());
        });
        prop_assert_eq!(bytes, again);
    }

    //= STUN-AUTH-22
    //= VEC-05
    #[test]
    fn no_change_to_covered_bytes_is_accepted(
        attributes in any_attributes(),
        integrity in any_integrity(),
        changes in vec((any::<prop::sample::Index>(), 1u8..), 1..4),
    ) {
        let good = write(Class::Request, Method::Refresh, |w| {
            for (kind, value) in &attributes {
                w.attribute(AttributeType(*kind), value);
            }
            w.integrity(&key(), integrity);
        });
        prop_assert!(Message::parse(&good).unwrap().verify(&key()));
        let mut bytes = good.clone();
        for (at, change) in changes {
            bytes[at.index(good.len())] ^= change;
        }
        prop_assume!(bytes != good);
        prop_assert!(!Message::parse(&bytes).is_ok_and(|message| message.verify(&key())));
    }

    //= STUN-AUTH-11
    #[test]
    fn nothing_appended_behind_integrity_is_seen(
        covered in any_attributes(),
        appended in any_attributes(),
        integrity in any_integrity(),
    ) {
        let bytes = write(Class::Request, Method::Refresh, |w| {
            for (kind, value) in &covered {
                w.attribute(AttributeType(*kind), value);
            }
            w.integrity(&key(), integrity);
            for (kind, value) in &appended {
                w.attribute(AttributeType(*kind), value);
            }
        });
        let message = Message::parse(&bytes).unwrap();
        prop_assert!(message.verify(&key()));
        let seen: Vec<_> = message.attributes().map(|(kind, value)| (kind.0, value.to_vec())).collect();
        prop_assert_eq!(&seen, &covered);
        for (kind, _) in &appended {
            let expected = covered.iter().find(|(other, _)| other == kind).map(|(_, value)| &value[..]);
            prop_assert_eq!(message.attribute(AttributeType(*kind)), expected);
        }
        prop_assert!(message.unknown_required().iter().all(|kind| covered.iter().any(|(other, _)| *other == kind.0)));
    }
}

/// One message of a stream, padded.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let channel_data = |numbers: core::ops::Range<u16>| {
        (numbers, vec(any::<u8>(), 0..50)).prop_map(|(number, data)| {
            let mut bytes = vec![0; 4];
            channel_data::emit_header(number, data.len(), &mut bytes);
            bytes.extend(&data);
            bytes.resize(bytes.len().next_multiple_of(4), 0xFF);
            bytes
        })
    };
    prop_oneof![
        any_attributes().prop_map(|attributes| write(Class::Request, Method::Allocate, |w| {
            for (kind, value) in &attributes {
                w.attribute(AttributeType(*kind), value);
            }
        })),
        channel_data(0x4000..0x5000),
        channel_data(0x5000..0x8000),
    ]
}

/// What a stream is cut into when it comes in pieces of the given lengths.
fn reassemble(stream: &[u8], mut pieces: impl Iterator<Item = usize>) -> Result<Vec<Vec<u8>>, FramingError> {
    let (mut frames, mut buffer, mut rest) = (Vec::new(), Vec::new(), stream);
    loop {
        match framing::next_frame(&buffer)? {
            Framing::Message(len) => frames.push(buffer.drain(..len).collect()),
            Framing::Need(total) => {
                assert!(total > buffer.len(), "asks for what it has");
                if rest.is_empty() {
                    assert!(buffer.is_empty(), "a whole stream leaves nothing over");
                    return Ok(frames);
                }
                let (piece, more) = rest.split_at(pieces.next().unwrap_or(1).clamp(1, rest.len()));
                buffer.extend(piece);
                rest = more;
            }
        }
    }
}

proptest! {
    //= XPORT-02
    #[test]
    fn any_split_of_a_stream_gives_the_same_messages(
        frames in vec(any_frame(), 0..12),
        pieces in vec(1usize..60, 0..60),
    ) {
        let stream = frames.concat();
        prop_assert_eq!(&reassemble(&stream, pieces.into_iter()).unwrap(), &frames);
        prop_assert_eq!(&reassemble(&stream, core::iter::repeat(1)).unwrap(), &frames);
        prop_assert_eq!(&reassemble(&stream, core::iter::repeat(stream.len().max(1))).unwrap(), &frames);
    }

    //= XPORT-03
    #[test]
    fn a_stream_is_refused_at_the_same_byte_however_it_is_split(
        good in vec(any_frame(), 0..3),
        bad in vec(any::<u8>(), 20..40),
    ) {
        let stream = [good.concat(), bad].concat();
        // More bytes change nothing about the first error.
        let refused = (0..=stream.len()).find(|&len| first_error(&stream[..len]).is_some());
        if let Some(len) = refused {
            prop_assert_eq!(first_error(&stream), first_error(&stream[..len]));
        }
    }
}

/// What begins as a packet of QUIC with a long header, its connection IDs, and how much of it is the header.
fn nearly_quic() -> impl Strategy<Value = (Vec<u8>, [Vec<u8>; 2], usize)> {
    let version = prop_oneof![0u32..3, Just(0x6b33_43cf), any::<u32>()];
    let id = || prop_oneof![vec(any::<u8>(), 0..=24), vec(any::<u8>(), 0..=255)];
    let tail = prop_oneof![Just(1200), 0usize..1500];
    (any::<u8>(), version, id(), id(), tail).prop_map(|(first, version, to, from, tail)| {
        let mut bytes = vec![first];
        bytes.extend(version.to_be_bytes());
        for id in [&to, &from] {
            bytes.push(id.len() as u8);
            bytes.extend(id);
        }
        let header = bytes.len();
        bytes.resize(header + tail, 0x5A);
        (bytes, [to, from], header)
    })
}

proptest! {
    //= XPORT-13
    #[test]
    fn what_begins_a_flow_of_quic_is_neither_stun_nor_dtls_nor_short((bytes, [to, _], _) in nearly_quic()) {
        if quic::may_begin(&bytes) {
            prop_assert!(bytes[0] >= 0xC0 && bytes[1..5] != [0; 4] && bytes.len() >= 1200 && to.len() >= 8);
            prop_assert!(!quic::is_stun_or_dtls(&bytes));
            prop_assert!(!quic::may_begin(&bytes[..1199]));
        }
    }

    #[test]
    fn only_who_names_the_servers_connection_id_has_heard_it((bytes, [to, from], header) in nearly_quic()) {
        let is_long = bytes[0] >= 0x80 && bytes[1..5] != [0; 4];
        let id = quic::ServerId::of(&bytes);
        prop_assert_eq!(id.is_some(), is_long && (4..=20).contains(&from.len()));
        // However it is cut, a header that is not whole has none.
        prop_assert!((0..header).all(|len| quic::ServerId::of(&bytes[..len]).is_none()));
        if let Some(id) = id {
            let short = |id: &[u8]| [&[0x40], id, b"rest"].concat();
            prop_assert!(id.is_named_by(&short(&from)) && !id.is_named_by(&short(&from)[..from.len()]));
            prop_assert_eq!(id.is_named_by(&bytes), to == from);
            let mut other = from.clone();
            other[from.len() - 1] ^= 1;
            prop_assert!(!id.is_named_by(&short(&other)));
        }
    }
}

/// The error that ends the reading of `stream`, if one does.
fn first_error(mut stream: &[u8]) -> Option<FramingError> {
    loop {
        match framing::next_frame(stream) {
            Ok(Framing::Message(len)) => stream = &stream[len..],
            Ok(Framing::Need(_)) => return None,
            Err(error) => return Some(error),
        }
    }
}
