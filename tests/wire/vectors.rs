//! The sample messages of RFC 5769 and RFC 8489 Appendix B.

use relay_proto::wire::attribute::{self, AttributeType};
use relay_proto::wire::fingerprint;
use relay_proto::wire::integrity::{Integrity, Key, PasswordAlgorithm, userhash};
use relay_proto::wire::message::{Class, Message, Method, ParseError, TransactionId};
use relay_proto::wire::writer::MessageWriter;

/// RFC 5769 §2.1, padded with 0x20.
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae
    802200105354554e207465737420636c69656e74
    002400046e0001ff
    80290008932ff9b151263b36
    000600096576746a3a68367659202020
    000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
    80280004e57a3bcf";

/// RFC 5769 §2.2.
const RESPONSE_IPV4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae
    8022000b7465737420766563746f7220
    002000080001a147e112a643
    000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7
    80280004c07d4c96";

/// RFC 5769 §2.3.
const RESPONSE_IPV6: &str = "010100482112a442b7e7a701bc34d686fa87dfae
    8022000b7465737420766563746f7220
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9
    00080014a382954e4be67bf11784c97c8292c275bfe3ed41
    80280004c8fb0b4c";

/// RFC 5769 §2.4.
const LONG_TERM_REQUEST: &str = "000100602112a44278ad3433c6ad72c029da412e
    00060012e3839ee38388e383aae38383e382afe382b90000
    0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341
    0014000b6578616d706c652e6f726700
    00080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

/// RFC 8489 §B.1 as erratum 6268 has it.
const SHA256_REQUEST: &str = "000100902112a44278ad3433c6ad72c029da412e
    001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
    001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39465354767936347341000000
    0014000b6578616d706c652e6f726700
    001d000400020000
    001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

/// RFC 8489 §B.1 as printed: a length that is not its own, and no PASSWORD-ALGORITHM.
const SHA256_REQUEST_AS_PRINTED: &str = "0001009c2112a44278ad3433c6ad72c029da412e
    001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
    001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39465354767936347341000000
    0014000b6578616d706c652e6f726700
    001c0020e4686c8f0edeb59013e07090010a93efccbccc544c0a45d9f830aa6d6f735a01";

/// The username of RFC 5769 §2.4 and RFC 8489 §B.1.
const MATRIX: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
/// Their nonces.
const NONCE: &[u8] = b"f//499k954d6OL34oL9FSTvy64sA";
const NONCE_WITH_COOKIE: &[u8] = b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}

fn short_term() -> Key {
    Key::from_raw(b"VOkJxbRl1RmTxUk/WvJxBt")
}

fn long_term(algorithm: PasswordAlgorithm) -> Key {
    // The RFCs print "TheMatrIX" as what preparing the password gives.
    Key::long_term(MATRIX.as_bytes(), "example.org", b"TheMatrIX", algorithm)
}

fn all() -> [(&'static str, Vec<u8>, Key); 5] {
    [
        ("RFC 5769 §2.1", bytes(REQUEST), short_term()),
        ("RFC 5769 §2.2", bytes(RESPONSE_IPV4), short_term()),
        ("RFC 5769 §2.3", bytes(RESPONSE_IPV6), short_term()),
        (
            "RFC 5769 §2.4",
            bytes(LONG_TERM_REQUEST),
            long_term(PasswordAlgorithm::Md5),
        ),
        (
            "RFC 8489 §B.1",
            bytes(SHA256_REQUEST),
            long_term(PasswordAlgorithm::Sha256),
        ),
    ]
}

//= VEC-01
#[test]
fn the_sample_request_is_read_in_spite_of_its_padding() {
    let bytes = bytes(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(
        (message.class(), message.method()),
        (Class::Request, Some(Method::Binding))
    );
    assert_eq!(
        message.attribute(AttributeType::SOFTWARE),
        Some(&b"STUN test client"[..])
    );
    assert_eq!(message.attribute(AttributeType::USERNAME), Some(&b"evtj:h6vY"[..]));
    assert_eq!(
        message.attribute(AttributeType::PRIORITY),
        Some(&[0x6E, 0, 1, 0xFF][..])
    );
    assert_eq!(
        message.attribute(AttributeType::ICE_CONTROLLED).map(<[u8]>::len),
        Some(8)
    );
    assert!(message.unknown_required().is_empty());
    assert!(message.has_fingerprint());
    assert_eq!(message.integrity(), Some(Integrity::Sha1));
    assert!(message.verify(&short_term()));
    assert!(!message.verify(&long_term(PasswordAlgorithm::Md5)));
}

//= VEC-02
#[test]
fn the_sample_responses_carry_their_addresses() {
    for (hex, address) in [
        (RESPONSE_IPV4, "192.0.2.1:32853"),
        (RESPONSE_IPV6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let bytes = bytes(hex);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(
            (message.class(), message.method()),
            (Class::Success, Some(Method::Binding))
        );
        assert_eq!(message.attribute(AttributeType::SOFTWARE), Some(&b"test vector"[..]));
        assert_eq!(
            message.xor_address(AttributeType::XOR_MAPPED_ADDRESS),
            Ok(Some(address.parse().unwrap()))
        );
        assert!(message.has_fingerprint() && message.verify(&short_term()));
    }
}

//= VEC-03
#[test]
fn the_sample_long_term_request_verifies() {
    let bytes = bytes(LONG_TERM_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.attribute(AttributeType::USERNAME), Some(MATRIX.as_bytes()));
    assert_eq!(message.attribute(AttributeType::REALM), Some(&b"example.org"[..]));
    assert_eq!(message.attribute(AttributeType::NONCE), Some(NONCE));
    assert!(!message.has_fingerprint());
    assert!(message.verify(&long_term(PasswordAlgorithm::Md5)));
    assert!(!message.verify(&long_term(PasswordAlgorithm::Sha256)));
}

//= VEC-04
#[test]
fn the_sha256_sample_verifies_as_corrected_and_is_refused_as_printed() {
    let corrected = bytes(SHA256_REQUEST);
    let message = Message::parse(&corrected).unwrap();
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    assert!(message.verify(&long_term(PasswordAlgorithm::Sha256)));
    assert!(!message.verify(&long_term(PasswordAlgorithm::Md5)));
    let hash = message.decode(AttributeType::USERHASH, attribute::userhash).unwrap();
    assert_eq!(hash, Some(userhash(MATRIX.as_bytes(), "example.org")));
    let algorithm = message
        .decode(AttributeType::PASSWORD_ALGORITHM, attribute::password_algorithm)
        .unwrap()
        .unwrap();
    assert_eq!(
        PasswordAlgorithm::from_number(algorithm.number),
        Some(PasswordAlgorithm::Sha256)
    );

    let mut printed = bytes(SHA256_REQUEST_AS_PRINTED);
    assert_eq!(Message::parse(&printed).unwrap_err(), ParseError::BadLength);
    printed[3] = u8::try_from(printed.len() - 20).unwrap();
    let message = Message::parse(&printed).unwrap();
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        assert!(
            !message.verify(&long_term(algorithm)),
            "the length is not all that is wrong with it"
        );
    }
}

//= VEC-05
#[test]
fn no_sample_survives_a_flipped_bit() {
    for (name, good, key) in all() {
        let has_fingerprint = Message::parse(&good).unwrap().has_fingerprint();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(message) = Message::parse(&bytes) {
                // FINGERPRINT's own type is covered by nothing: another type there is an attribute to be ignored.
                let intact = message.verify(&key) && message.has_fingerprint() == has_fingerprint;
                assert!(!intact, "{name}, bit {bit}");
            }
        }
    }
}

//= VEC-05
#[test]
fn no_sample_survives_being_cut() {
    for (name, good, _) in all() {
        for len in 0..good.len() {
            assert!(Message::parse(&good[..len]).is_err(), "{name}, {len} bytes");
        }
    }
}

//= VEC-03
//= VEC-04
#[test]
fn the_samples_with_zero_padding_are_written_byte_for_byte() {
    let id = TransactionId(*b"\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e");
    let mut buf = [0xAA; 256];

    let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Binding, id);
    writer
        .attribute(AttributeType::USERNAME, MATRIX.as_bytes())
        .attribute(AttributeType::NONCE, NONCE)
        .attribute(AttributeType::REALM, b"example.org")
        .integrity(&long_term(PasswordAlgorithm::Md5), Integrity::Sha1);
    let len = writer.finish().unwrap();
    assert_eq!(buf[..len], bytes(LONG_TERM_REQUEST));

    let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Binding, id);
    writer
        .attribute(AttributeType::USERHASH, &userhash(MATRIX.as_bytes(), "example.org"))
        .attribute(AttributeType::NONCE, NONCE_WITH_COOKIE)
        .attribute(AttributeType::REALM, b"example.org")
        .attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
        .integrity(&long_term(PasswordAlgorithm::Sha256), Integrity::Sha256);
    let len = writer.finish().unwrap();
    assert_eq!(buf[..len], bytes(SHA256_REQUEST));
}

//= STUN-BIND-08
#[test]
fn the_fingerprints_of_the_samples_are_computed_alike() {
    for (name, good, _) in all().into_iter().take(3) {
        let (covered, attribute) = good.split_at(good.len() - 8);
        assert_eq!(attribute[4..], fingerprint::compute(covered).to_be_bytes(), "{name}");
    }
}
