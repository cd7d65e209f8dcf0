//! Design invariant 2: once warm, a relayed packet costs no heap allocation, on any carrier and in any direction.
//!
//! Only the workers' threads are counted; clients and peers of this test may allocate as they like. TLS is not here: the
//! TLS library allocates once per record, not per packet. What OpenSSL does for DTLS is not seen: it does not ask Rust.

#![expect(unsafe_code, reason = "a global allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

#[path = "support/dtls_client.rs"]
#[cfg(feature = "dtls")]
mod dtls_client;
#[path = "support/dtls_shard.rs"]
#[cfg(feature = "dtls")]
mod dtls_shard;
#[path = "support/http3_shard.rs"]
mod http3_shard;
mod shard_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use relay::shard::ShardConfig;
use shard_support::*;

struct Counting;

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

static ARMED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if ARMED.load(SeqCst) && IS_WORKER.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, SeqCst);
    }
}

// SAFETY: everything is left to the system's allocator; counting touches no memory it manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WARM_UP: usize = 300;
const MEASURED: usize = 3000;

/// Runs `relay_one` until warm, then counts what the workers allocate while it goes on.
fn allocations_of(mut relay_one: impl FnMut(usize)) -> u64 {
    (0..WARM_UP).for_each(&mut relay_one);
    ALLOCATIONS.store(0, SeqCst);
    ARMED.store(true, SeqCst);
    (0..MEASURED).for_each(&mut relay_one);
    ARMED.store(false, SeqCst);
    ALLOCATIONS.load(SeqCst)
}

fn config() -> ShardConfig {
    ShardConfig {
        on_thread_start: Some(Arc::new(|_| IS_WORKER.with(|flag| flag.set(true)))),
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
    let http3 = Some(http3_shard::passed_to(backend.addr(), |_| {}));
    let server = http3_shard::start_http3_with(1, "127.0.0.1:0", ShardConfig { http3, ..config() });
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

/// The counter itself: an allocation of a thread that counts is seen, one of another is not.
fn check_the_counter() {
    let allocate = || drop(std::hint::black_box(vec![1u8; 100]));
    ARMED.store(true, SeqCst);
    allocate();
    assert_eq!(ALLOCATIONS.load(SeqCst), 0);
    IS_WORKER.with(|flag| flag.set(true));
    allocate();
    assert_eq!(ALLOCATIONS.load(SeqCst), 1);
    IS_WORKER.with(|flag| flag.set(false));
    ARMED.store(false, SeqCst);
}

// One test only: others of this binary would be counted along.
#[test]
fn a_relayed_packet_allocates_nothing_once_warm() {
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
        let dtls = Some(dtls_shard::config(|_| {}));
        let one = dtls_shard::start_with(ShardConfig { dtls, ..config() }, true);
        assert_eq!(over_channel(&mut dtls_shard::client(&one)), 0, "DTLS, channel");
        assert_eq!(over_indications(&mut dtls_shard::client(&one)), 0, "DTLS, indications");
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
