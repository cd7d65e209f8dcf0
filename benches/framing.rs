//! Cost of a frame on a stream, without sockets: finding its end, one pass through the queues, and
//! the same through TLS.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::hint::black_box;
use std::io::Write as _;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use relay::base::time::Instant;
use relay::net::stream::{StreamConn, StreamLimits};
use relay::wire::framing::{Framing, next_frame};
use relay_testkit::tls::tls_pair;
use relay_testkit_net::rounds::{DATA, FRAMES, HEADER, Socket, relay};
use rustls::ServerConnection;

fn frames(count: usize) -> Vec<u8> {
    [&HEADER[..], &DATA].concat().repeat(count)
}

fn stream(tls: Option<Box<ServerConnection>>) -> StreamConn {
    let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), tls, Vec::new());
    conn.set_authenticated();
    conn
}

fn socket(incoming: &[u8]) -> Socket<'_> {
    Socket {
        incoming,
        per_read: usize::MAX,
        per_write: usize::MAX,
    }
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("framing");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let incoming = frames(FRAMES);
    group.bench_function("ends_of_frames", |b| {
        b.iter(|| {
            let mut rest = black_box(&incoming[..]);
            while let Ok(Framing::Message(len)) = next_frame(rest) {
                rest = &rest[len..];
            }
            rest.len()
        });
    });
    let mut plain = stream(None);
    group.bench_function("in_and_out_plain", |b| {
        b.iter(|| relay(&mut plain, &mut socket(black_box(&incoming))));
    });
    // One frame per record, as browsers do; and as many as fit, as the relay does.
    for frames_per_record in [1, 10] {
        let (mut client, server) = tls_pair(rustls::DEFAULT_VERSIONS);
        let mut conn = stream(Some(server));
        group.bench_function(format!("in_and_out_tls/{frames_per_record}_in_a_record"), |b| {
            b.iter_batched(
                || {
                    let mut records = Vec::new();
                    for _ in 0..FRAMES / frames_per_record {
                        client.writer().write_all(&frames(frames_per_record)).unwrap();
                        while client.wants_write() {
                            client.write_tls(&mut records).unwrap();
                        }
                    }
                    records
                },
                |records| assert_eq!(relay(&mut conn, &mut socket(&records)), FRAMES),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = framing
}
criterion_main!(benches);
