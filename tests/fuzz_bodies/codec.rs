//! The codec: whatever is read is read within bounds and written back alike, and a signature covers what it should.

use relay::base::address::Transport;
use relay::turn::Frame;
use relay::turn::types::ChannelNumber;
use relay::wire::attribute::{self, AttributeType};
use relay::wire::framing::{Framing, next_frame};
use relay::wire::integrity::{Integrity, Key};
use relay::wire::message::{Class, MAGIC_COOKIE, Message, Method, TransactionId, UnknownAttributes};
use relay::wire::writer::MessageWriter;
use relay::wire::{address, channel_data as channel, demux, error_code};

use super::Bytes;

thread_local!(static KEY: Key = Key::from_raw(b"a key of sixteen"));

/// F1: any bytes as a message. The first one chooses whether cookie and length are put right, or few would get further.
pub(crate) fn stun_decode(input: &[u8]) {
    let Some((mode, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if mode % 4 != 0 && bytes.len() >= 20 {
        bytes.truncate(20 + (bytes.len() - 20) / 4 * 4);
        bytes.truncate(20 + 65_532);
        bytes[0] &= 0x3F;
        let len = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    }
    values_decode(&bytes);
    let header = Message::peek_header(&bytes);
    let Ok(message) = Message::parse(&bytes) else {
        return;
    };
    assert_eq!(header.expect("the header of a message").raw_type, message.raw_type());
    assert_eq!(bytes.len() % 4, 0);
    if demux::classify(bytes[0]) == demux::Kind::Stun {
        assert_eq!(next_frame(&bytes), Ok(Framing::Message(bytes.len())));
    }
    attributes_are_where_they_are_said_to_be(&message);
    let signed = KEY.with(|key| message.verify(key));
    assert!(!signed || (message.integrity().is_some() && !message.integrity_malformed()));
    what_is_written_again_is_read_alike(&message);
}

/// Values without type and length.
fn values_decode(bytes: &[u8]) {
    let id = TransactionId([7; 12]);
    if let Ok(decoded) = address::decode(bytes, id) {
        let encoded = address::encode(&decoded, id);
        assert_eq!(
            encoded[1..address::encoded_len(&decoded)],
            bytes[1..],
            "the first byte is reserved"
        );
    }
    if let Ok(decoded) = error_code::decode(bytes) {
        assert!((300..700).contains(&decoded.code));
        assert_eq!(
            error_code::decode(&error_code::header(0, decoded.code))
                .expect("a code")
                .code,
            decoded.code
        );
    }
    if let Ok(decoded) = attribute::Icmp::decode(bytes) {
        assert_eq!(attribute::Icmp::decode(&decoded.encode()), Ok(decoded));
    }
    let _ = attribute::password_algorithm(bytes);
    assert!(attribute::password_algorithms(bytes).count() <= bytes.len());
}

fn attributes_are_where_they_are_said_to_be(message: &Message<'_>) {
    let all: Vec<(AttributeType, &[u8])> = message.attributes().collect();
    for &(kind, _) in &all {
        let first = all.iter().find(|&&(other, _)| other == kind).map(|&(_, value)| value);
        assert_eq!(message.attribute(kind), first, "of two the first counts");
        let range = message.attribute_range(kind).expect("it is there");
        assert_eq!(message.bytes().get(range), first);
        assert!(
            message
                .attributes_of(kind)
                .eq(all.iter().filter(|&&(other, _)| other == kind).map(|&(_, value)| value))
        );
    }
    let unknown = message.unknown_required();
    let required: Vec<AttributeType> = all
        .iter()
        .map(|&(kind, _)| kind)
        .filter(|kind| kind.is_unknown_required())
        .collect();
    assert_eq!(unknown.is_empty(), required.is_empty());
    assert!(unknown.len() <= UnknownAttributes::MAX && unknown.iter().all(|kind| required.contains(&kind)));
    for kind in [
        AttributeType::MESSAGE_INTEGRITY,
        AttributeType::MESSAGE_INTEGRITY_SHA256,
        AttributeType::FINGERPRINT,
    ] {
        assert!(message.attribute(kind).is_none());
    }
}

fn what_is_written_again_is_read_alike(message: &Message<'_>) {
    let Some(method) = message.method() else { return };
    let mut buffer = vec![0xEE; message.bytes().len() + 64];
    let mut writer = MessageWriter::new(&mut buffer, message.class(), method, message.transaction_id());
    for (kind, value) in message.attributes() {
        writer.attribute(kind, value);
    }
    KEY.with(|key| {
        message
            .integrity()
            .map(|integrity| writer.integrity(key, integrity).fingerprint())
    });
    let Ok(len) = writer.finish() else {
        assert!(message.bytes().len() + 64 > 65_532, "it fits");
        return;
    };
    let again = Message::parse(&buffer[..len]).expect("what is written can be read");
    assert_eq!(
        (again.raw_type(), again.transaction_id()),
        (message.raw_type(), message.transaction_id())
    );
    assert!(again.attributes().eq(message.attributes()));
    assert_eq!(again.unknown_required(), message.unknown_required());
    assert_eq!(KEY.with(|key| again.verify(key)), message.integrity().is_some());
}

/// F2: a valid signed request and changes to it. Whatever is still accepted says the very same.
pub(crate) fn signed_mutation(input: &[u8]) {
    let mut input = Bytes(input);
    let method = input.pick(&[
        Method::Allocate,
        Method::Refresh,
        Method::CreatePermission,
        Method::ChannelBind,
    ]);
    let (signatures, fingerprint) = (input.byte(), input.byte() % 2 == 0);
    let mut buffer = vec![0; 4096];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, TransactionId(input.array()));
    for _ in 0..input.byte() % 8 {
        let kind = input.pick(&[
            0x000D, 0x0012, 0x0018, 0x0019, 0x000C, 0x0006, 0x0014, 0x0015, 0x8022, 0x7FFE,
        ]);
        let len = input.byte() % 48;
        writer.attribute(AttributeType(kind), input.take(len.into()));
    }
    KEY.with(|key| match signatures % 4 {
        0 => writer.integrity(key, Integrity::Sha1),
        1 => writer.integrity(key, Integrity::Sha256),
        2 => writer.integrity(key, Integrity::Sha1).integrity(key, Integrity::Sha256),
        _ => writer.integrity(key, Integrity::Sha256).integrity(key, Integrity::Sha1),
    });
    if fingerprint {
        writer.fingerprint();
    }
    let len = writer.finish().expect("it fits");
    buffer.truncate(len);
    let original = Message::parse(&buffer).expect("a message");
    assert!(KEY.with(|key| original.verify(key)), "nothing is changed yet");

    let mut changed = buffer.clone();
    while !input.is_empty() && changed.len() < 8192 {
        change(&mut changed, &mut input);
    }
    let Ok(message) = Message::parse(&changed) else { return };
    if KEY.with(|key| message.verify(key)) {
        assert_eq!(
            (message.raw_type(), message.transaction_id()),
            (original.raw_type(), original.transaction_id())
        );
        assert!(
            message.attributes().eq(original.attributes()),
            "accepted, and says something else"
        );
        assert_eq!(message.unknown_required(), original.unknown_required());
    }
}

/// One change, at a place the input names.
fn change(bytes: &mut Vec<u8>, input: &mut Bytes<'_>) {
    let how = input.byte();
    let at = usize::from(input.word()) % bytes.len().max(1);
    match how % 7 {
        0 => bytes
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte ^= how.rotate_left(3) | 1),
        1 => bytes.insert(at, input.byte()),
        2 => drop((at < bytes.len()).then(|| bytes.remove(at))),
        3 => bytes.truncate(at),
        4 => {
            // Behind everything: covered by nothing.
            let value = input.take(usize::from(how % 32));
            bytes.extend(
                input
                    .pick(&[0x000Du16, 0x0012, 0x0008, 0x001C, 0x8028, 0x7FFE, 0x0006])
                    .to_be_bytes(),
            );
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        5 => {
            // Four bytes that stand elsewhere.
            let from = usize::from(input.word()) % bytes.len().max(1);
            if from + 4 <= bytes.len() && at + 4 <= bytes.len() {
                bytes.copy_within(from..from + 4, at);
            }
        }
        _ => {}
    }
    // The length is not covered by any signature: put right, it hides no change.
    if let Some(len) = bytes.len().checked_sub(20).filter(|_| how < 0xC0) {
        bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    }
}

/// F3: any bytes as ChannelData.
pub(crate) fn channel_data(input: &[u8]) {
    let parsed = channel::parse(input);
    if let Ok((number, data)) = &parsed {
        assert!((0x4000..0x8000).contains(number) && data.start == channel::HEADER_LEN);
        let mut header = [0; channel::HEADER_LEN];
        channel::emit_header(*number, data.len(), &mut header);
        assert_eq!(header, input[..channel::HEADER_LEN]);
        assert!(data.end <= input.len());
        for transport in Transport::ALL {
            let (frame, mut out) = (Frame::Channel(ChannelNumber(*number)), [0; Frame::MAX_HEADER]);
            assert_eq!(frame.emit(data.len(), &mut out), channel::HEADER_LEN);
            let whole = [
                &header[..],
                &input[data.clone()],
                &vec![0; frame.padding(data.len(), transport)],
            ]
            .concat();
            assert_eq!(channel::parse(&whole), Ok((*number, data.clone())));
            // Over DTLS as well: pion cuts it as a stream.
            if transport != Transport::Udp {
                assert_eq!(next_frame(&whole), Ok(Framing::Message(whole.len())));
            }
        }
    }
    match next_frame(input) {
        Ok(Framing::Message(len)) if input[0] >= 0x40 => {
            let (_, data) = parsed.expect("what is framed parses");
            assert_eq!(data.end.next_multiple_of(4), len);
        }
        Ok(Framing::Need(len)) => assert!(len > input.len() || input.len() < 4),
        _ => {}
    }
}
