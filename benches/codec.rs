//! Cost of one message. Budgets: 100 ns for a Binding exchange and 500 ns for a signed Refresh
//! exchange.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use relay::wire::attribute::{self, AttributeType};
use relay::wire::channel_data;
use relay::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay::wire::message::{Class, Message, Method, TransactionId};
use relay::wire::writer::{self, MessageWriter};

const ID: TransactionId = TransactionId(*b"transaction!");
const REALM: &str = "turn.example.org";

fn client() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 32853))
}

fn write(buf: &mut [u8], class: Class, method: Method, build: impl FnOnce(&mut MessageWriter<'_>)) -> usize {
    let mut w = MessageWriter::new(buf, class, method, ID);
    build(&mut w);
    w.finish().expect("the buffer is large enough")
}

/// A Binding request with FINGERPRINT, 28 bytes, as ICE agents send it.
fn binding_request() -> Vec<u8> {
    let mut buf = vec![0; 64];
    let len = write(&mut buf, Class::Request, Method::Binding, |w| _ = w.fingerprint());
    buf.truncate(len);
    buf
}

/// A signed Refresh of 160 bytes.
fn refresh_request(key: &Key, integrity: Integrity) -> Vec<u8> {
    let mut buf = vec![0; 256];
    let nonce = match integrity {
        Integrity::Sha1 => &[b'n'; 56][..],
        Integrity::Sha256 => &[b'n'; 44],
    };
    let len = write(&mut buf, Class::Request, Method::Refresh, |w| {
        w.u32(AttributeType::LIFETIME, 600)
            .attribute(AttributeType::USERNAME, b"1700000000:alice")
            .attribute(AttributeType::REALM, REALM.as_bytes())
            .attribute(AttributeType::NONCE, nonce)
            .integrity(key, integrity)
            .fingerprint();
    });
    assert_eq!(len, 160);
    buf.truncate(len);
    buf
}

fn binding(c: &mut Criterion) {
    let request = binding_request();
    let mut out = [0; 128];
    c.bench_function("binding", |b| {
        b.iter(|| {
            let message = Message::parse(black_box(&request)).expect("valid");
            let mut w = MessageWriter::new(&mut out, Class::Success, Method::Binding, message.transaction_id());
            w.xor_address(AttributeType::XOR_MAPPED_ADDRESS, black_box(client()));
            w.attribute(AttributeType::SOFTWARE, b"relay").fingerprint();
            w.finish()
        });
    });
}

fn refresh(c: &mut Criterion) {
    for (name, algorithm, integrity) in [
        ("refresh_sha1", PasswordAlgorithm::Md5, Integrity::Sha1),
        ("refresh_sha256", PasswordAlgorithm::Sha256, Integrity::Sha256),
    ] {
        let key = Key::long_term(b"1700000000:alice", REALM, b"MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=", algorithm);
        let request = refresh_request(&key, integrity);
        let mut out = [0; 256];
        c.bench_function(name, |b| {
            b.iter(|| {
                let message = Message::parse(black_box(&request)).expect("valid");
                assert!(message.verify(&key));
                let lifetime = message
                    .decode(AttributeType::LIFETIME, attribute::lifetime)
                    .ok()
                    .flatten();
                let mut w = MessageWriter::new(&mut out, Class::Success, Method::Refresh, message.transaction_id());
                w.u32(AttributeType::LIFETIME, lifetime.unwrap_or(600));
                w.attribute(AttributeType::SOFTWARE, b"relay")
                    .integrity(&key, integrity)
                    .fingerprint();
                w.finish()
            });
        });
    }
    c.bench_function("long_term_key", |b| {
        b.iter(|| {
            Key::long_term(
                black_box(b"1700000000:alice"),
                REALM,
                b"c2VjcmV0",
                PasswordAlgorithm::Md5,
            )
        });
    });
}

fn data_carriers(c: &mut Criterion) {
    let mut packet = vec![0; 1204];
    channel_data::emit_header(0x4001, 1200, &mut packet);
    c.bench_function("channel_data_parse", |b| {
        b.iter(|| channel_data::parse(black_box(&packet)))
    });
    c.bench_function("channel_data_emit_header", |b| {
        let mut out = [0; 48];
        b.iter(|| channel_data::emit_header(black_box(0x4001), black_box(1200), &mut out));
    });

    let mut buf = vec![0; 1300];
    let len = write(&mut buf, Class::Indication, Method::Send, |w| {
        w.xor_address(AttributeType::XOR_PEER_ADDRESS, client())
            .attribute(AttributeType::DATA, &[7; 1200]);
    });
    c.bench_function("send_indication_parse", |b| {
        b.iter(|| {
            let message = Message::parse(black_box(&buf[..len])).expect("valid");
            (
                message.xor_address(AttributeType::XOR_PEER_ADDRESS),
                message.attribute_range(AttributeType::DATA),
                message.attribute(AttributeType::DONT_FRAGMENT).is_some(),
            )
        });
    });
    c.bench_function("data_indication_emit_header", |b| {
        let mut out = [0; 48];
        b.iter(|| writer::emit_data_indication_header(ID, black_box(client()), black_box(1200), &mut out));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = binding, refresh, data_carriers
}
criterion_main!(benches);
