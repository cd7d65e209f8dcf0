use super::*;
use crate::wire::attribute;
use crate::wire::integrity::PasswordAlgorithm;
use crate::wire::writer::MessageWriter;

const ID: TransactionId = TransactionId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

fn key() -> Key {
    Key::long_term(b"user", "realm", b"pass", PasswordAlgorithm::Md5)
}

fn write(build: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buf = vec![0xAA; 70_000];
    let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Refresh, ID);
    build(&mut writer);
    let len = writer.finish().unwrap();
    buf.truncate(len);
    buf
}

#[test]
fn types_are_those_of_the_registry() {
    const CASES: [(u16, Class, Method); 12] = [
        (0x0001, Class::Request, Method::Binding),
        (0x0101, Class::Success, Method::Binding),
        (0x0111, Class::Error, Method::Binding),
        (0x0011, Class::Indication, Method::Binding),
        (0x0003, Class::Request, Method::Allocate),
        (0x0114, Class::Error, Method::Refresh),
        (0x0016, Class::Indication, Method::Send),
        (0x0017, Class::Indication, Method::Data),
        (0x0108, Class::Success, Method::CreatePermission),
        (0x0119, Class::Error, Method::ChannelBind),
        (0x011A, Class::Error, Method::Connect),
        (0x001C, Class::Indication, Method::ConnectionAttempt),
    ];
    for (raw, class, method) in CASES {
        assert_eq!(message_type(class, method), raw);
        assert_eq!((Class::of(raw), Method::of(raw)), (class, Some(method)), "{raw:#06x}");
    }
}

//= STUN-MSG-06
#[test]
fn only_known_methods_have_a_name() {
    let named = (0..0x4000).filter(|&raw| Method::of(raw).is_some()).count();
    assert_eq!(named, Method::ALL.len() * 4, "ten methods in four classes");
    for raw in [0x0002, 0x0005, 0x0080, 0x3EEF, 0x0201, 0x1001] {
        assert_eq!(Method::of(raw), None, "{raw:#06x}");
    }
}

//= STUN-MSG-05
#[test]
fn a_header_cut_short_is_refused() {
    let bytes = write(|_| {});
    for len in 0..20 {
        assert_eq!(
            Message::parse(&bytes[..len]).unwrap_err(),
            ParseError::Short,
            "{len} bytes"
        );
    }
    assert!(Message::parse(&bytes).is_ok());
}

//= STUN-MSG-01
//= STUN-MSG-02
#[test]
fn top_bits_and_cookie_are_checked() {
    let good = write(|_| {});
    for bit in [0x40, 0x80] {
        let mut bytes = good.clone();
        bytes[0] |= bit;
        assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::NotStun);
    }
    for position in 4..8 {
        let mut bytes = good.clone();
        bytes[position] ^= 1;
        assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::BadCookie);
    }
}

//= STUN-MSG-03
//= STUN-MSG-04
#[test]
fn the_length_is_that_of_the_datagram_and_a_multiple_of_four() {
    let good = write(|w| _ = w.attribute(AttributeType::SOFTWARE, b"abcd"));
    for length in (0..20).filter(|&length| length != 8) {
        let mut bytes = good.clone();
        bytes[3] = length;
        assert_eq!(
            Message::parse(&bytes).unwrap_err(),
            ParseError::BadLength,
            "length {length}"
        );
    }
    for extra in 1..5 {
        let mut bytes = good.clone();
        bytes.resize(good.len() + extra, 0);
        assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::BadLength);
    }
    for length in [1, 2, 3, 5, 6, 7] {
        let mut bytes = good[..20 + usize::from(length)].to_vec();
        bytes[3] = length;
        assert_eq!(
            Message::parse(&bytes).unwrap_err(),
            ParseError::BadLength,
            "length {length}, as many bytes"
        );
    }
}

//= STUN-MSG-12
#[test]
fn an_attribute_past_the_end_is_refused() {
    let good = write(|w| _ = w.attribute(AttributeType::SOFTWARE, b"abcd"));
    for (length, ok) in [
        (0u16, true),
        (1, true),
        (4, true),
        (5, false),
        (8, false),
        (0xFFFF, false),
    ] {
        let mut bytes = good.clone();
        bytes[22..24].copy_from_slice(&length.to_be_bytes());
        // With a shorter SOFTWARE, "abcd" becomes an attribute of its own, which then runs past the
        // end.
        let expected = if ok && length > 0 {
            Ok(())
        } else {
            Err(ParseError::BadAttribute)
        };
        assert_eq!(Message::parse(&bytes).map(|_| ()), expected, "length {length}");
    }
}

//= STUN-MSG-10
#[test]
fn padding_may_be_anything() {
    let mut bytes = write(|w| _ = w.attribute(AttributeType::REALM, b"example.org"));
    *bytes.last_mut().unwrap() = 0xFF;
    let mut buf = [0; 200];
    buf[..bytes.len()].copy_from_slice(&bytes);
    let mac = key().sha1(&bytes);
    bytes.extend([0, 8, 0, 20]);
    bytes.extend(mac);
    bytes[3] += 24;
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.attribute(AttributeType::REALM), Some(&b"example.org"[..]));
    assert!(message.verify(&key()));
}

//= STUN-MSG-13
#[test]
fn of_duplicates_the_first_counts() {
    let bytes = write(|w| {
        w.u32(AttributeType::LIFETIME, 1200).u32(AttributeType::LIFETIME, 600);
        w.attribute(AttributeType::SOFTWARE, b"one")
            .attribute(AttributeType::SOFTWARE, b"two");
    });
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(
        message.decode(AttributeType::LIFETIME, attribute::lifetime),
        Ok(Some(1200))
    );
    assert_eq!(message.attribute(AttributeType::SOFTWARE), Some(&b"one"[..]));
    assert_eq!(message.attributes_of(AttributeType::LIFETIME).count(), 2);
    assert_eq!(message.attribute(AttributeType::NONCE), None);
    assert_eq!(message.decode(AttributeType::EVEN_PORT, attribute::even_port), Ok(None));
}

//= STUN-MSG-14
//= STUN-MSG-16
#[test]
fn unknown_required_attributes_are_listed_once_and_at_most_32() {
    let bytes = write(|w| {
        for kind in [0x7FFE, 0x7FFD, 0xC057, 0x7FFE, 0x0024, 0xFF05] {
            w.attribute(AttributeType(kind), b"x");
        }
    });
    let unknown = Message::parse(&bytes).unwrap().unknown_required();
    assert_eq!(unknown.iter().map(|t| t.0).collect::<Vec<_>>(), [0x7FFE, 0x7FFD]);

    let bytes = write(|w| {
        for kind in 0x4000..0x4000 + 300 {
            w.attribute(AttributeType(kind), b"");
        }
    });
    let unknown = Message::parse(&bytes).unwrap().unknown_required();
    assert_eq!(unknown.len(), UnknownAttributes::MAX);
    assert!(unknown.iter().map(|t| t.0).eq(0x4000..0x4020));
}

//= STUN-AUTH-11
#[test]
fn what_follows_integrity_is_not_shown() {
    for integrity in [Integrity::Sha1, Integrity::Sha256] {
        let bytes = write(|w| {
            w.u32(AttributeType::LIFETIME, 600).integrity(&key(), integrity);
            w.u32(AttributeType::LIFETIME, 3600)
                .attribute(AttributeType::USERNAME, b"mallory");
            w.attribute(AttributeType(0x7FFE), b"")
                .attribute(AttributeType::MOBILITY_TICKET, b"");
            w.fingerprint();
        });
        let message = Message::parse(&bytes).unwrap();
        assert!(message.verify(&key()) && message.has_fingerprint());
        assert_eq!(
            message.decode(AttributeType::LIFETIME, attribute::lifetime),
            Ok(Some(600))
        );
        assert_eq!(message.attributes_of(AttributeType::LIFETIME).count(), 1);
        assert_eq!(message.attribute(AttributeType::USERNAME), None);
        assert_eq!(message.attribute(AttributeType::MOBILITY_TICKET), None);
        assert!(message.unknown_required().is_empty());
    }
}

//= STUN-AUTH-12
#[test]
fn of_two_integrities_the_sha256_one_is_verified_in_any_order() {
    let other = Key::from_raw(b"other");
    let orders: [&[(Integrity, &Key)]; 5] = [
        &[(Integrity::Sha1, &key()), (Integrity::Sha256, &other)],
        &[(Integrity::Sha256, &other), (Integrity::Sha1, &key())],
        &[(Integrity::Sha256, &other), (Integrity::Sha256, &key())],
        &[
            (Integrity::Sha1, &key()),
            (Integrity::Sha256, &other),
            (Integrity::Sha1, &key()),
        ],
        &[
            (Integrity::Sha1, &key()),
            (Integrity::Sha256, &other),
            (Integrity::Sha256, &key()),
        ],
    ];
    for order in orders {
        let bytes = write(|w| {
            for (integrity, key) in order {
                w.integrity(key, *integrity).u32(AttributeType::LIFETIME, 3600);
                w.attribute(AttributeType(0x7FFE), b"")
                    .attribute(AttributeType::MOBILITY_TICKET, b"");
            }
        });
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.integrity(), Some(Integrity::Sha256));
        assert!(!message.verify(&key()), "{order:?}");
        assert!(message.verify(&other), "{order:?}");
        assert_eq!(message.attributes().count(), 0, "{order:?}");
        for kind in [AttributeType::LIFETIME, AttributeType::MOBILITY_TICKET] {
            assert_eq!(message.attribute(kind), None, "{order:?}");
        }
        assert!(message.unknown_required().is_empty(), "{order:?}");
    }
}

//= STUN-AUTH-09
#[test]
fn integrity_covers_a_length_that_ends_with_it() {
    for integrity in [Integrity::Sha1, Integrity::Sha256] {
        let bare = write(|w| {
            _ = w
                .attribute(AttributeType::USERNAME, b"user")
                .integrity(&key(), integrity)
        });
        let with_fingerprint = write(|w| {
            _ = w
                .attribute(AttributeType::USERNAME, b"user")
                .integrity(&key(), integrity)
                .fingerprint()
        });
        assert_eq!(bare[20..], with_fingerprint[20..bare.len()]);
        for bytes in [bare, with_fingerprint] {
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.integrity(), Some(integrity));
            assert!(message.verify(&key()));
            assert!(!message.verify(&Key::from_raw(b"other")));
        }
    }
}

//= STUN-AUTH-10
#[test]
fn integrity_of_another_length_is_never_accepted() {
    for integrity in [Integrity::Sha1, Integrity::Sha256] {
        let full = write(|w| _ = w.integrity(&key(), integrity));
        for len in (0..=64).filter(|&len| len != integrity.value_len()) {
            let mut value = full[24..].to_vec();
            value.resize(len, 0);
            let bytes = write(|w| _ = w.attribute(integrity.attribute_type(), &value));
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.integrity(), Some(integrity));
            assert!(
                message.integrity_malformed() && !message.verify(&key()),
                "{integrity:?}, {len} bytes"
            );
        }
        assert!(!Message::parse(&full).unwrap().integrity_malformed());
    }
}

//= STUN-BIND-07
#[test]
fn a_fingerprint_that_is_wrong_or_not_last_is_refused() {
    let good = write(|w| _ = w.attribute(AttributeType::SOFTWARE, b"x").fingerprint());
    assert!(Message::parse(&good).unwrap().has_fingerprint());
    for bit in 0..32 {
        let mut bytes = good.clone();
        let at = good.len() - 4 + bit / 8;
        bytes[at] ^= 1 << (bit % 8);
        assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::BadFingerprint);
    }
    let not_last = [
        write(|w| _ = w.fingerprint().attribute(AttributeType::SOFTWARE, b"x")),
        write(|w| _ = w.fingerprint().fingerprint()),
        write(|w| _ = w.fingerprint().integrity(&key(), Integrity::Sha1)),
        write(|w| _ = w.attribute(AttributeType::FINGERPRINT, b"")),
        write(|w| _ = w.attribute(AttributeType::FINGERPRINT, &[0; 8])),
    ];
    for bytes in not_last {
        assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::BadFingerprint);
    }
}

//= STUN-BIND-07
#[test]
fn a_fingerprint_that_is_right_but_not_last_is_refused() {
    let mut bytes = write(|w| _ = w.fingerprint().attribute(AttributeType::SOFTWARE, b"x"));
    let crc = fingerprint::compute(&bytes[..20]);
    bytes[24..28].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::BadFingerprint);

    bytes.truncate(28);
    bytes[3] = 8;
    let crc = fingerprint::compute(&bytes[..20]);
    bytes[24..28].copy_from_slice(&crc.to_be_bytes());
    assert!(
        Message::parse(&bytes).is_ok(),
        "last, the same way of computing it is accepted"
    );
}

#[test]
fn an_attribute_at_the_end_of_the_longest_message_is_found() {
    let bytes = write(|w| {
        w.attribute(AttributeType::DATA, &[0; 65512]);
        w.u32(AttributeType::LIFETIME, 7).u32(AttributeType::LIFETIME, 8);
    });
    assert_eq!(bytes.len(), 20 + 65532);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(
        message.decode(AttributeType::LIFETIME, attribute::lifetime),
        Ok(Some(7))
    );
}

#[test]
fn a_message_is_small_enough_to_be_moved_without_memcpy() {
    assert!(size_of::<Message<'_>>() <= 128);
}

#[test]
fn debug_output_leaves_attributes_out() {
    let bytes = write(|w| _ = w.attribute(AttributeType::USERNAME, b"alice"));
    let text = format!("{:?}", Message::parse(&bytes).unwrap());
    assert!(text.contains("Refresh") && !text.contains("alice"), "{text}");
}
