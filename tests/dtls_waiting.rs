//! What waits for its turn in a handshake is bounded, however much comes. Alone in its binary, because it counts what the
//! process has on the heap.

#![cfg(feature = "dtls")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]
#![expect(
    unsafe_code,
    reason = "a global allocator is an unsafe trait; this one adds counting to the system's"
)]

#[path = "support/counting_allocator.rs"]
mod counting_allocator;
#[path = "support/dtls_client.rs"]
mod dtls_client;
#[path = "support/dtls_shard.rs"]
mod dtls_shard;
#[path = "support/dtls_slow.rs"]
mod dtls_slow;
mod shard_support;

use counting_allocator::live_bytes;
use dtls_shard::{config, start};
use dtls_slow::{SlowClient, early_record};
use relay::shard::counters::DtlsDrop;
use shard_support::*;

#[test]
fn ten_thousand_records_for_one_handshake_are_counted_and_take_no_memory() {
    const BURSTS: u64 = 200;
    const EACH: u64 = 50;
    let server = start(config(|_| {}));
    let (same, socket) = bursting(server.udp);
    let mut client = SlowClient::new(same);
    client.step();
    client.send_flight();
    server.eventually("the handshake is under way", |s| {
        s.stat(|s| s.dtls_half_open.get()) == 1
    });
    let received = |s: &TestServer| s.stat(|s| s.received_datagrams.get());
    let (before, bytes) = (received(&server), live_bytes());
    let records = vec![early_record(1200); EACH as usize];
    let mut most = 0;
    for sent in 1..=BURSTS {
        burst(&socket, server.udp, &records);
        most = most.max(live_bytes());
        server.becomes("received", before + sent * EACH, received);
        most = most.max(live_bytes());
    }
    // What came in one message came in one turn: no more of it than may wait was kept.
    let dropped = server.stat(|s| s.dtls_dropped[DtlsDrop::Queue as usize].get());
    assert!(dropped >= BURSTS * (EACH - 16), "{dropped}");
    let grown = most.saturating_sub(bytes);
    assert!(grown < 256 << 10, "{grown} bytes");
    // None of them has ended it.
    while !client.step() {}
}
