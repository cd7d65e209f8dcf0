//! What waits for its turn in a handshake is bounded, however much comes. It counts what the process has
//! on the heap.

use relay::shard::counters::DtlsDrop;
use relay_testkit::dtls_slow::{SlowClient, early_record};
use relay_testkit::heap::{alone, live_bytes_of_process};
use relay_testkit_server::dtls::{config, start};
use relay_testkit_server::*;

#[test]
fn ten_thousand_records_for_one_handshake_are_counted_and_take_no_memory() {
    let _alone = alone();
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
    let (before, bytes) = (received(&server), live_bytes_of_process());
    let records = vec![early_record(1200); EACH as usize];
    let mut most = 0;
    for sent in 1..=BURSTS {
        burst(&socket, server.udp, &records);
        most = most.max(live_bytes_of_process());
        server.becomes("received", before + sent * EACH, received);
        most = most.max(live_bytes_of_process());
    }
    // What came in one message came in one turn: no more of it than may wait was kept.
    let dropped = server.stat(|s| s.dtls_dropped[DtlsDrop::Queue as usize].get());
    assert!(dropped >= BURSTS * (EACH - 16), "{dropped}");
    let grown = most.saturating_sub(bytes);
    assert!(grown < 256 << 10, "{grown} bytes");
    // None of them has ended it.
    while !client.step() {}
}
