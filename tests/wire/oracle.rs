//! Our codec against two independent ones: what each writes the others read, and all write the same bytes.
//!
//! `stun-types` for framing, integrity and RFC 8489's attributes; `stun-rs` for TURN's and the mobility attribute.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use relay_proto::wire::attribute::{self, AttributeType};
use relay_proto::wire::error_code;
use relay_proto::wire::integrity::{Integrity, Key, PasswordAlgorithm, userhash};
use relay_proto::wire::message::{Class, Message, Method, TransactionId, UnknownAttributes};
use relay_proto::wire::writer::MessageWriter;

const REALM: &str = "example.org";

fn write(class: Class, method: Method, id: [u8; 12], build: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buf = vec![0xAA; 8192];
    let mut writer = MessageWriter::new(&mut buf, class, method, TransactionId(id));
    build(&mut writer);
    let len = writer.finish().unwrap();
    buf.truncate(len);
    buf
}

/// The key algorithm `stun-types` ties to each integrity.
fn algorithm(integrity: Integrity) -> PasswordAlgorithm {
    match integrity {
        Integrity::Sha1 => PasswordAlgorithm::Md5,
        Integrity::Sha256 => PasswordAlgorithm::Sha256,
    }
}

fn key(user: &str, password: &str, integrity: Integrity) -> Key {
    Key::long_term(user.as_bytes(), REALM, password.as_bytes(), algorithm(integrity))
}

fn any_integrity() -> impl Strategy<Value = Integrity> {
    prop_oneof![Just(Integrity::Sha1), Just(Integrity::Sha256)]
}

fn any_class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Request),
        Just(Class::Indication),
        Just(Class::Success),
        Just(Class::Error)
    ]
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(SocketAddr::from)
}

/// Attributes with any type but the three that end a message, each type once.
fn any_attributes() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let kind = prop_oneof![0u16..0x40, 0x8000u16..0x8040, any::<u16>()];
    vec((kind, vec(any::<u8>(), 0..40)), 0..12).prop_map(|mut attributes| {
        attributes.retain(|(kind, _)| ![0x0008, 0x001C, 0x8028].contains(kind));
        attributes.sort();
        attributes.dedup_by_key(|(kind, _)| *kind);
        attributes
    })
}

mod against_stun_types {
    use stun_types::attribute as theirs;
    use stun_types::message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message as Theirs, MessageClass, MessageIntegrityCredentials,
        MessageType, MessageWriteVec, Method as TheirMethod,
    };
    use stun_types::prelude::*;

    use super::*;

    fn their_class(class: Class) -> MessageClass {
        match class {
            Class::Request => MessageClass::Request,
            Class::Indication => MessageClass::Indication,
            Class::Success => MessageClass::Success,
            Class::Error => MessageClass::Error,
        }
    }

    fn their_integrity(integrity: Integrity) -> IntegrityAlgorithm {
        match integrity {
            Integrity::Sha1 => IntegrityAlgorithm::Sha1,
            Integrity::Sha256 => IntegrityAlgorithm::Sha256,
        }
    }

    fn their_id(id: [u8; 12]) -> stun_types::message::TransactionId {
        let mut wide = [0; 16];
        wide[4..].copy_from_slice(&id);
        u128::from_be_bytes(wide).into()
    }

    fn credentials(user: &str, password: &str) -> MessageIntegrityCredentials {
        LongTermKeyCredentials::new(user.to_owned(), password.to_owned(), REALM.to_owned()).into()
    }

    fn builder(class: Class, method: Method, id: [u8; 12]) -> MessageWriteVec {
        let kind = MessageType::from_class_method(their_class(class), TheirMethod::new(method as u16));
        Theirs::builder(kind, their_id(id), MessageWriteVec::new())
    }

    proptest! {
        //= VEC-06
        #[test]
        fn both_write_the_same_bytes_and_verify_each_other(
            class in any_class(),
            method in proptest::sample::select(&Method::ALL[..]),
            id in any::<[u8; 12]>(),
            attributes in any_attributes(),
            integrity in proptest::option::of(any_integrity()),
            fingerprint in any::<bool>(),
            user in "[a-z0-9]{1,40}",
            password in "[!-~]{1,40}",
        ) {
            let ours = write(class, method, id, |w| {
                for (kind, value) in &attributes {
                    w.attribute(AttributeType(*kind), value);
                }
                if let Some(integrity) = integrity {
                    w.integrity(&key(&user, &password, integrity), integrity);
                }
                if fingerprint {
                    w.fingerprint();
                }
            });
            let mut theirs = builder(class, method, id);
            for (kind, value) in &attributes {
                theirs.add_attribute(&theirs::RawAttribute::new((*kind).into(), value)).unwrap();
            }
            if let Some(integrity) = integrity {
                theirs.add_message_integrity(&credentials(&user, &password), their_integrity(integrity)).unwrap();
            }
            if fingerprint {
                theirs.add_fingerprint().unwrap();
            }
            prop_assert_eq!(&ours, &theirs.finish());

            let read = Theirs::from_bytes(&ours).unwrap();
            prop_assert_eq!(read.class(), their_class(class));
            prop_assert_eq!(read.method().value(), method as u16);
            prop_assert_eq!(read.transaction_id(), their_id(id));
            let message = Message::parse(&ours).unwrap();
            prop_assert_eq!((message.class(), message.method()), (class, Some(method)));
            prop_assert_eq!(message.has_fingerprint(), fingerprint);
            prop_assert_eq!(message.integrity(), integrity);
            for (kind, value) in &attributes {
                prop_assert_eq!(message.attribute(AttributeType(*kind)), Some(&value[..]));
                prop_assert_eq!(&*read.raw_attribute((*kind).into()).unwrap().value, &value[..]);
            }
            if let Some(integrity) = integrity {
                let wrong = format!("{password}x");
                prop_assert!(message.verify(&key(&user, &password, integrity)));
                prop_assert!(!message.verify(&key(&user, &wrong, integrity)));
                let verdict = read.validate_integrity(&credentials(&user, &password)).unwrap();
                prop_assert_eq!(verdict, their_integrity(integrity));
                prop_assert!(read.validate_integrity(&credentials(&user, &wrong)).is_err());
            }
        }

        //= STUN-MSG-20
        #[test]
        fn addresses_are_read_alike(address in any_address(), id in any::<[u8; 12]>()) {
            let ours = write(Class::Success, Method::Binding, id, |w| {
                w.xor_address(AttributeType::XOR_MAPPED_ADDRESS, address);
            });
            let read = Theirs::from_bytes(&ours).unwrap();
            let mapped = read.attribute::<theirs::XorMappedAddress>().unwrap();
            prop_assert_eq!(mapped.addr(read.transaction_id()), address);

            let mut theirs = builder(Class::Success, Method::Binding, id);
            theirs.add_attribute(&theirs::XorMappedAddress::new(address, their_id(id))).unwrap();
            prop_assert_eq!(ours, theirs.finish());
        }

        /// Mostly damaged messages: what we take, they take too, and read the same.
        //= VEC-05
        #[test]
        fn what_we_accept_of_damaged_messages_they_accept_and_read_alike(
            attributes in any_attributes(),
            integrity in any_integrity(),
            fingerprint in any::<bool>(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let key = key("user", "pass", integrity);
            let good = write(Class::Request, Method::Refresh, [7; 12], |w| {
                for (kind, value) in &attributes {
                    w.attribute(AttributeType(*kind), value);
                }
                w.integrity(&key, integrity);
                if fingerprint {
                    w.fingerprint();
                }
            });
            let mut bytes = good.clone();
            for (at, byte) in damage {
                bytes[at.index(good.len())] = byte;
            }
            let Ok(message) = Message::parse(&bytes) else { return Ok(()) };
            let read = Theirs::from_bytes(&bytes).unwrap();
            prop_assert_eq!(read.class(), their_class(message.class()));
            prop_assert_eq!(read.transaction_id(), their_id(message.transaction_id().0));
            for (kind, _) in &attributes {
                if let Some(value) = message.attribute(AttributeType(*kind)) {
                    prop_assert_eq!(&*read.raw_attribute((*kind).into()).unwrap().value, value);
                }
            }
            if message.verify(&key) {
                prop_assert!(read.validate_integrity(&credentials("user", "pass")).is_ok());
                // What integrity covers is then what was written; damage is only possible behind it.
                let covered = message.bytes().len() - if fingerprint { 8 } else { 0 };
                prop_assert_eq!(&bytes[..2], &good[..2]);
                prop_assert_eq!(&bytes[4..covered], &good[4..covered]);
            }
        }
    }

    #[test]
    fn rfc_8489_attributes_have_the_same_bytes() {
        let mut unknown = UnknownAttributes::default();
        for kind in [0x7FFE, 0x7FFD, 0x0003] {
            unknown.push(AttributeType(kind));
        }
        let ours = write(Class::Error, Method::Allocate, [9; 12], |w| {
            w.error_code(420, error_code::reason(420))
                .unknown_attributes(&unknown)
                .attribute(AttributeType::PASSWORD_ALGORITHMS, &PasswordAlgorithm::OFFER)
                .attribute(AttributeType::USERHASH, &userhash(b"user", REALM));
        });
        let mut theirs = builder(Class::Error, Method::Allocate, [9; 12]);
        theirs
            .add_attribute(&theirs::ErrorCode::new(420, "Unknown Attribute").unwrap())
            .unwrap();
        let kinds = [0x7FFE, 0x7FFD, 0x0003].map(theirs::AttributeType::new);
        theirs.add_attribute(&theirs::UnknownAttributes::new(&kinds)).unwrap();
        let algorithms = [
            theirs::PasswordAlgorithmValue::SHA256,
            theirs::PasswordAlgorithmValue::MD5,
        ];
        theirs
            .add_attribute(&theirs::PasswordAlgorithms::new(&algorithms))
            .unwrap();
        theirs
            .add_attribute(&theirs::Userhash::new(theirs::Userhash::compute("user", REALM)))
            .unwrap();
        assert_eq!(ours, theirs.finish());
    }

    //= STUN-AUTH-12
    #[test]
    fn both_integrities_in_one_message_verify() {
        let sha256 = key("user", "pass", Integrity::Sha256);
        let mut theirs = builder(Class::Request, Method::Allocate, [9; 12]);
        theirs
            .add_message_integrity(&credentials("user", "pass"), IntegrityAlgorithm::Sha1)
            .unwrap();
        theirs
            .add_message_integrity(&credentials("user", "pass"), IntegrityAlgorithm::Sha256)
            .unwrap();
        theirs.add_fingerprint().unwrap();
        let bytes = theirs.finish();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.integrity(), Some(Integrity::Sha256));
        assert!(message.verify(&sha256));
        assert!(!message.verify(&key("user", "pass", Integrity::Sha1)));

        let ours = write(Class::Request, Method::Allocate, [9; 12], |w| {
            w.integrity(&key("user", "pass", Integrity::Sha1), Integrity::Sha1);
            w.integrity(&sha256, Integrity::Sha256).fingerprint();
        });
        assert_eq!(ours, bytes);
    }
}

mod against_stun_rs {
    use stun_rs::attributes::mobility::MobilityTicket;
    use stun_rs::attributes::stun::{
        Fingerprint, MessageIntegrity, MessageIntegritySha256, Nonce, Realm, UserHash, UserName, XorMappedAddress,
    };
    use stun_rs::attributes::turn::{
        AdditionalAddressFamily, AddressErrorCode, ChannelNumber, Data, DontFragment, EvenPort, Icmp, IcmpCode,
        IcmpType, LifeTime, RequestedAddressFamily, RequestedTrasport, ReservationToken, XorPeerAddress,
        XorRelayedAddress,
    };
    use stun_rs::{
        AddressFamily, Algorithm, AlgorithmId, DecoderContextBuilder, ErrorCode, HMACKey, MessageClass,
        MessageDecoderBuilder, MessageEncoderBuilder, StunMessage, StunMessageBuilder, methods, protocols,
    };

    use super::*;

    fn encode(message: &StunMessage) -> Vec<u8> {
        let mut buf = vec![0xAA; 8192];
        let len = MessageEncoderBuilder::default()
            .build()
            .encode(&mut buf, message)
            .unwrap();
        buf.truncate(len);
        buf
    }

    fn decode(bytes: &[u8], key: HMACKey) -> StunMessage {
        let context = DecoderContextBuilder::default().with_key(key).with_validation().build();
        let (message, len) = MessageDecoderBuilder::default()
            .with_context(context)
            .build()
            .decode(bytes)
            .unwrap();
        assert_eq!(len, bytes.len());
        message
    }

    fn builder(method: stun_rs::MessageMethod, class: MessageClass, id: [u8; 12]) -> StunMessageBuilder {
        StunMessageBuilder::new(method, class).with_transaction_id(id.into())
    }

    fn their_key(user: &str, password: &str, integrity: Integrity) -> HMACKey {
        let algorithm = match integrity {
            Integrity::Sha1 => AlgorithmId::MD5,
            Integrity::Sha256 => AlgorithmId::SHA256,
        };
        HMACKey::new_long_term(user, REALM, password, Algorithm::from(algorithm)).unwrap()
    }

    fn sign(builder: StunMessageBuilder, key: HMACKey, integrity: Integrity) -> StunMessage {
        let signed = match integrity {
            Integrity::Sha1 => builder.with_attribute(MessageIntegrity::new(key)),
            Integrity::Sha256 => builder.with_attribute(MessageIntegritySha256::new(key)),
        };
        signed.with_attribute(Fingerprint::default()).build()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        //= VEC-06
        #[test]
        fn a_signed_allocate_has_the_same_bytes_and_verifies_both_ways(
            id in any::<[u8; 12]>(),
            user in "[a-z0-9:]{1,40}",
            nonce in "[A-Za-z0-9]{4,60}",
            password in "[a-zA-Z0-9+/=]{1,40}",
            lifetime in any::<u32>(),
            reserve in any::<bool>(),
            integrity in any_integrity(),
        ) {
            let ours = write(Class::Request, Method::Allocate, id, |w| {
                w.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                    .u32(AttributeType::LIFETIME, lifetime)
                    .attribute(AttributeType::EVEN_PORT, &[if reserve { 0x80 } else { 0 }])
                    .attribute(AttributeType::DONT_FRAGMENT, &[])
                    .attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])
                    .attribute(AttributeType::USERNAME, user.as_bytes())
                    .attribute(AttributeType::REALM, REALM.as_bytes())
                    .attribute(AttributeType::NONCE, nonce.as_bytes())
                    .integrity(&key(&user, &password, integrity), integrity)
                    .fingerprint();
            });
            let theirs = builder(methods::ALLOCATE, MessageClass::Request, id)
                .with_attribute(RequestedTrasport::new(protocols::UDP))
                .with_attribute(LifeTime::from(lifetime))
                .with_attribute(EvenPort::new(reserve))
                .with_attribute(DontFragment::default())
                .with_attribute(AdditionalAddressFamily::new(AddressFamily::IPv6))
                .with_attribute(UserName::new(&user).unwrap())
                .with_attribute(Realm::new(REALM).unwrap())
                .with_attribute(Nonce::new(&nonce).unwrap());
            let theirs = encode(&sign(theirs, their_key(&user, &password, integrity), integrity));
            prop_assert_eq!(&ours, &theirs);

            let message = Message::parse(&theirs).unwrap();
            prop_assert!(message.verify(&key(&user, &password, integrity)));
            prop_assert_eq!(message.decode(AttributeType::LIFETIME, attribute::lifetime), Ok(Some(lifetime)));
            prop_assert_eq!(message.decode(AttributeType::EVEN_PORT, attribute::even_port), Ok(Some(reserve)));
            prop_assert_eq!(message.decode(AttributeType::REQUESTED_TRANSPORT, attribute::requested_transport), Ok(Some(17)));
            prop_assert_eq!(message.decode(AttributeType::DONT_FRAGMENT, attribute::dont_fragment), Ok(Some(())));
            prop_assert_eq!(message.decode(AttributeType::ADDITIONAL_ADDRESS_FAMILY, attribute::address_family), Ok(Some(2)));

            let read = decode(&ours, their_key(&user, &password, integrity));
            prop_assert_eq!(read.get::<LifeTime>().unwrap().as_life_time().unwrap().as_u32(), lifetime);
            prop_assert_eq!(read.get::<UserName>().unwrap().as_user_name().unwrap().as_str(), user);
        }

        //= STUN-MSG-20
        #[test]
        fn turn_s_addresses_are_those_they_write(
            id in any::<[u8; 12]>(),
            addresses in any::<[(IpAddr, u16); 3]>(),
            channel in any::<u16>(),
            token in any::<[u8; 8]>(),
            data in vec(any::<u8>(), 0..200),
        ) {
            let [mapped, relayed, peer] = addresses.map(SocketAddr::from);
            let ours = write(Class::Success, Method::Allocate, id, |w| {
                w.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed)
                    .xor_address(AttributeType::XOR_MAPPED_ADDRESS, mapped)
                    .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
                    .attribute(AttributeType::RESERVATION_TOKEN, &token)
                    .u32(AttributeType::CHANNEL_NUMBER, u32::from(channel) << 16)
                    .attribute(AttributeType::DATA, &data)
                    .attribute(AttributeType::MOBILITY_TICKET, &data);
            });
            let theirs = encode(&builder(methods::ALLOCATE, MessageClass::SuccessResponse, id)
                .with_attribute(XorRelayedAddress::from(relayed))
                .with_attribute(XorMappedAddress::from(mapped))
                .with_attribute(XorPeerAddress::from(peer))
                .with_attribute(ReservationToken::from(token))
                .with_attribute(ChannelNumber::new(channel))
                .with_attribute(Data::new(&data))
                .with_attribute(MobilityTicket::new(&data))
                .build());
            prop_assert_eq!(&ours, &theirs);

            let message = Message::parse(&theirs).unwrap();
            prop_assert_eq!(message.xor_address(AttributeType::XOR_RELAYED_ADDRESS), Ok(Some(relayed)));
            prop_assert_eq!(message.xor_address(AttributeType::XOR_MAPPED_ADDRESS), Ok(Some(mapped)));
            prop_assert!(message.xor_addresses(AttributeType::XOR_PEER_ADDRESS).eq([Ok(peer)]));
            prop_assert_eq!(message.decode(AttributeType::RESERVATION_TOKEN, attribute::reservation_token), Ok(Some(token)));
            prop_assert_eq!(message.decode(AttributeType::CHANNEL_NUMBER, attribute::channel_number), Ok(Some(channel)));
            prop_assert_eq!(message.attribute(AttributeType::DATA), Some(&data[..]));
        }

        //= TURN-NET-04
        #[test]
        fn icmp_has_the_layout_they_write(icmp_type in 0u8..=127, code in 0u16..=511, data in any::<u32>()) {
            let icmp = attribute::Icmp { icmp_type, code, data };
            let ours = write(Class::Indication, Method::Data, [1; 12], |w| {
                w.attribute(AttributeType::ICMP, &icmp.encode());
            });
            let their_icmp = Icmp::new(
                IcmpType::new(icmp_type).unwrap(),
                IcmpCode::new(code).unwrap(),
                data.to_be_bytes(),
            );
            let theirs =
                encode(&builder(methods::DATA, MessageClass::Indication, [1; 12]).with_attribute(their_icmp).build());
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn an_address_error_code_has_the_same_bytes() {
        for (family, theirs, code) in [(1, AddressFamily::IPv4, 440), (2, AddressFamily::IPv6, 508)] {
            let reason = error_code::reason(code);
            let ours = write(Class::Success, Method::Allocate, [2; 12], |w| {
                w.address_error_code(family, code, reason);
            });
            let error = AddressErrorCode::new(theirs, ErrorCode::new(code, reason).unwrap());
            let theirs = encode(
                &builder(methods::ALLOCATE, MessageClass::SuccessResponse, [2; 12])
                    .with_attribute(error)
                    .build(),
            );
            assert_eq!(ours, theirs);
            let message = Message::parse(&theirs).unwrap();
            let read = message
                .decode(AttributeType::ADDRESS_ERROR_CODE, error_code::decode)
                .unwrap()
                .unwrap();
            assert_eq!((read.family, read.code, read.reason), (family, code, reason.as_bytes()));
        }
    }

    //= STUN-AUTH-20
    #[test]
    fn userhash_and_requested_address_family_have_the_same_bytes() {
        let ours = write(Class::Request, Method::Allocate, [3; 12], |w| {
            w.attribute(AttributeType::USERHASH, &userhash(b"user", REALM))
                .attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]);
        });
        let theirs = encode(
            &builder(methods::ALLOCATE, MessageClass::Request, [3; 12])
                .with_attribute(UserHash::new("user", REALM).unwrap())
                .with_attribute(RequestedAddressFamily::new(AddressFamily::IPv4))
                .build(),
        );
        assert_eq!(ours, theirs);
    }
}
