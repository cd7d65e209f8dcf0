//! Design invariant 2: once warm, a relayed packet costs no heap allocation, on any carrier and in any direction.
//!
//! Only the workers' threads are counted; clients and peers of this test may allocate as they like. TLS is not here: the
//! TLS library allocates once per record, not per packet. What OpenSSL does for DTLS is not seen: it does not ask Rust.

use std::net::SocketAddr;
use std::sync::Arc;

use relay::shard::ShardConfig;
use relay_testkit::heap::{alone, watch_this_thread, watched_allocations};
use relay_testkit_server::*;

const WARM_UP: usize = 300;
const MEASURED: usize = 3000;

/// Runs `relay_one` until warm, then counts what the workers allocate while it goes on.
fn allocations_of(mut relay_one: impl FnMut(usize)) -> u64 {
    (0..WARM_UP).for_each(&mut relay_one);
    let before = watched_allocations();
    (0..MEASURED).for_each(&mut relay_one);
    watched_allocations() - before
}

fn config() -> ShardConfig {
    ShardConfig {
        on_thread_start: Some(Arc::new(|_| watch_this_thread())),
        ..ShardConfig::default()
    }
}

fn server(workers: usize) -> TestServer {
    TestServer::start_with(workers, "127.0.0.1:0", config(), turn_config())
}

/// Sizes vary, so that batches, padding and GSO messages do.
fn size(i: usize) -> usize {
    [0, 1, 160, 1200, 1200, 1200, 700][i % 7]
}

fn over_channel(client: &mut Client) -> u64 {
    let peer = Peer::new();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    allocations_of(|i| {
        let data = pattern(size(i), i);
        for _ in 0..3 {
            client.send_channel(0x4000, &data);
            peer.send(relayed, &data);
        }
        for _ in 0..3 {
            assert_eq!(peer.recv().0, data);
            assert_eq!(
                client.incoming(),
                Incoming::Channel {
                    number: 0x4000,
                    data: data.clone()
                }
            );
        }
    })
}

fn over_indications(client: &mut Client) -> u64 {
    let peer = Peer::new();
    let relayed = client.allocate();
    client.permit(peer.addr());
    allocations_of(|i| {
        let data = pattern(size(i), i);
        client.send_indication(peer.addr(), &data);
        assert_eq!(peer.recv().0, data);
        peer.send(relayed, &data);
        assert_eq!(
            client.incoming(),
            Incoming::Data {
                peer: peer.addr(),
                data
            }
        );
    })
}

fn between(a: &mut Client, b: &mut Client, (relayed_a, relayed_b): (SocketAddr, SocketAddr)) -> u64 {
    a.bind(0x4000, relayed_b);
    b.permit(relayed_a);
    allocations_of(|i| {
        let data = pattern(size(i), i);
        a.send_channel(0x4000, &data);
        assert_eq!(
            b.incoming(),
            Incoming::Data {
                peer: relayed_a,
                data: data.clone()
            }
        );
        b.send_indication(relayed_a, &data);
        assert_eq!(a.incoming(), Incoming::Channel { number: 0x4000, data });
    })
}

/// A flow of QUIC; what a connection ID is does not matter once the client has named one.
fn over_http3() -> u64 {
    let (backend, client) = (Peer::new(), Peer::new());
    let http3 = Some(http3::passed_to(backend.addr(), |_| {}));
    let server = http3::start_http3_with(1, "127.0.0.1:0", ShardConfig { http3, ..config() });
    let mut long = [&[0xC0, 0, 0, 0, 1, 8][..], b"whatever", &[8], b"whatever"].concat();
    long.resize(1200, 0);
    client.send(server.udp, &long);
    let (_, flow) = backend.recv();
    backend.send(flow, &long);
    client.recv();
    allocations_of(|i| {
        let data = [&[0x40][..], b"whatever", &pattern(size(i), i)].concat();
        for _ in 0..3 {
            client.send(server.udp, &data);
            backend.send(flow, &data);
        }
        for _ in 0..3 {
            assert_eq!((backend.recv().0, client.recv().0), (data.clone(), data.clone()));
        }
    })
}

/// The counter itself: an allocation of a thread that is watched is seen, one of another is not.
fn check_the_counter() {
    let allocate = || drop(std::hint::black_box(vec![1u8; 100]));
    let before = watched_allocations();
    allocate();
    assert_eq!(watched_allocations(), before);
    let watched = std::thread::spawn(move || {
        watch_this_thread();
        let before = watched_allocations();
        allocate();
        watched_allocations() - before
    });
    assert_eq!(watched.join().unwrap(), 1);
}

#[test]
fn a_relayed_packet_allocates_nothing_once_warm() {
    let _alone = alone();
    check_the_counter();

    let one = server(1);
    assert_eq!(over_channel(&mut one.client()), 0, "UDP, channel");
    assert_eq!(over_indications(&mut one.client()), 0, "UDP, indications");
    assert_eq!(over_channel(&mut one.tcp_client()), 0, "TCP, channel");
    assert_eq!(over_indications(&mut one.tcp_client()), 0, "TCP, indications");
    let (mut a, mut b) = (one.client(), one.client());
    let relayed = (a.allocate(), b.allocate());
    assert_eq!(between(&mut a, &mut b, relayed), 0, "UDP to UDP, one shard");
    let (mut a, mut b) = (one.tcp_client(), one.client());
    let relayed = (a.allocate(), b.allocate());
    assert_eq!(between(&mut a, &mut b, relayed), 0, "TCP to UDP, one shard");

    #[cfg(feature = "dtls")]
    {
        let dtls = Some(dtls::config(|_| {}));
        let one = dtls::start_with(ShardConfig { dtls, ..config() }, true);
        assert_eq!(over_channel(&mut dtls::client(&one)), 0, "DTLS, channel");
        assert_eq!(over_indications(&mut dtls::client(&one)), 0, "DTLS, indications");
    }

    assert_eq!(over_http3(), 0, "QUIC");

    let two = server(2);
    let mut a = two.client();
    let relayed_a = a.allocate();
    let (mut b, relayed_b) = two.client_elsewhere();
    assert_eq!(
        between(&mut a, &mut b, (relayed_a, relayed_b)),
        0,
        "UDP to UDP, two shards"
    );
    assert!(two.stat(|s| s.mailbox_sent.get()) as usize >= 2 * MEASURED);
}
