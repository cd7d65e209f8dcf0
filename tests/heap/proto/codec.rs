//! What must not touch the heap does not: counted, not believed.

use std::hint::black_box;

use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay_proto::wire::message::{Class, Message, Method, TransactionId};
use relay_proto::wire::writer::{self, MessageWriter};
use relay_proto::wire::{channel_data, framing};
use relay_testkit::heap::allocations;

#[test]
fn an_authenticated_exchange_does_not_touch_the_heap() {
    let key = Key::long_term(b"1700000000:alice", "example.org", b"c2VjcmV0", PasswordAlgorithm::Md5);
    let id = TransactionId([1; 12]);
    let (mut request, mut response) = ([0; 256], [0; 256]);
    for integrity in [Integrity::Sha1, Integrity::Sha256] {
        let count = allocations(|| {
            let mut w = MessageWriter::new(&mut request, Class::Request, Method::Refresh, id);
            w.u32(AttributeType::LIFETIME, 600)
                .attribute(AttributeType::USERNAME, b"1700000000:alice");
            w.attribute(AttributeType(0x7FFE), b"")
                .integrity(&key, integrity)
                .fingerprint();
            let len = w.finish().unwrap();

            let message = Message::parse(&request[..len]).unwrap();
            assert!(message.verify(&key));
            let unknown = message.unknown_required();
            let mut w = MessageWriter::new(&mut response, Class::Error, Method::Refresh, message.transaction_id());
            w.error_code(420, "Unknown Attribute")
                .unknown_attributes(&unknown)
                .integrity(&key, integrity);
            black_box(w.finish().unwrap());
        });
        assert_eq!(count, 0, "{integrity:?}");
    }
}

#[test]
fn data_carriers_and_framing_do_not_touch_the_heap() {
    let peer = "[2001:db8::1]:4000".parse().unwrap();
    let mut header = [0; 48];
    let mut packet = [0x40; 1204];
    let count = allocations(|| {
        channel_data::emit_header(0x4001, 1200, &mut packet);
        black_box(channel_data::parse(&packet).unwrap());
        black_box(framing::next_frame(&packet).unwrap());
        black_box(writer::emit_data_indication_header(
            TransactionId([1; 12]),
            peer,
            1200,
            &mut header,
        ));
    });
    assert_eq!(count, 0);
}
