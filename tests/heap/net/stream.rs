//! What relaying over a stream costs in heap allocations, after warm-up: none of ours. rustls makes one per record, which
//! is why many frames share a record.

use std::io::Write as _;

use relay_net::stream::{StreamConn, StreamLimits};
use relay_proto::base::time::Instant;
use relay_testkit::heap::{allocations, alone};
use relay_testkit::tls::tls_pair;
use relay_testkit_net::rounds::{DATA, FRAMES, HEADER, Socket, relay};

#[test]
fn relaying_over_tcp_does_not_touch_the_heap() {
    let _alone = alone();
    let incoming = [&HEADER[..], &DATA].concat().repeat(FRAMES);
    // Whole reads and writes, and such that cut frames.
    for (per_read, per_write) in [(usize::MAX, usize::MAX), (1000, 1000), (1500, 7001)] {
        let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), None, Vec::new());
        conn.set_authenticated();
        let mut round = || {
            relay(
                &mut conn,
                &mut Socket {
                    incoming: &incoming,
                    per_read,
                    per_write,
                },
            )
        };
        round();
        let count = allocations(|| {
            for _ in 0..20 {
                assert_eq!(round(), FRAMES);
            }
        });
        assert_eq!(count, 0, "reads of {per_read}, writes of {per_write}");
    }
}

#[test]
fn many_streams_share_their_buffers() {
    let _alone = alone();
    let incoming = [&HEADER[..], &DATA].concat().repeat(FRAMES);
    let mut streams: Vec<_> = (0..100)
        .map(|_| {
            let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), None, Vec::new());
            conn.set_authenticated();
            conn
        })
        .collect();
    let mut socket = Socket {
        incoming: &incoming,
        per_read: usize::MAX,
        per_write: usize::MAX,
    };
    assert_eq!(relay(&mut streams[0], &mut socket), FRAMES);
    // The first to be served has warmed up for all.
    let count = allocations(|| {
        for conn in &mut streams[1..] {
            socket.incoming = &incoming;
            relay(conn, &mut socket);
        }
    });
    assert_eq!(count, 0);
    assert_eq!(streams.iter().map(StreamConn::memory).sum::<usize>(), 0);
}

#[test]
fn relaying_over_tls_costs_one_allocation_per_record() {
    let _alone = alone();
    let (mut client, server) = tls_pair(rustls::DEFAULT_VERSIONS);
    let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), Some(server), Vec::new());
    conn.set_authenticated();
    let mut round = |frames_per_record: usize| {
        let mut incoming = Vec::new();
        for _ in 0..FRAMES / frames_per_record {
            let plaintext = [&HEADER[..], &DATA].concat().repeat(frames_per_record);
            client.writer().write_all(&plaintext).unwrap();
            while client.wants_write() {
                client.write_tls(&mut incoming).unwrap();
            }
        }
        let mut socket = Socket {
            incoming: &incoming,
            per_read: usize::MAX,
            per_write: usize::MAX,
        };
        allocations(|| assert_eq!(relay(&mut conn, &mut socket), FRAMES))
    };
    round(1);
    // 50 frames of 1204 bytes leave in four records of at most 16 KiB.
    let out = FRAMES.div_ceil(16 * 1024 / 1204);
    for frames_per_record in [1, 10] {
        let count = round(frames_per_record);
        let records = FRAMES / frames_per_record + out;
        // The buffer in which rustls keeps ciphertext grows and shrinks a little.
        println!(
            "{frames_per_record} frames a record: {count} allocations for {records} records, {} frames",
            2 * FRAMES
        );
        assert!(count <= records + 5, "{count} allocations for {records} records");
    }
}
