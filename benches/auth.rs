//! Cost of requests in the core, without sockets: the challenge to an unauthenticated client, the
//! login, a forged signature, and a whole handshake.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use relay::base::address::Transport;
use relay::turn::{Response, Verdict};
use relay::wire::integrity::{Integrity, PasswordAlgorithm};

use relay_testkit::world::*;

/// Time advances between requests; otherwise the limits per second would be reached.
const STEP: Duration = Duration::from_micros(100);

fn strangers(c: &mut Criterion) {
    let mut world = World::new();
    let client = client_over(1, Transport::Udp).client;
    let (allocate, mut response) = (allocate().plain(), Response::new());
    c.bench_function("challenge", |b| {
        b.iter(|| {
            world.now += STEP;
            let now = world.now();
            let verdict = world.shards[0].handle_client(now, &client, black_box(&allocate), &mut response);
            assert!(matches!(verdict, Verdict::Respond));
        });
    });
}

fn signed(c: &mut Criterion) {
    for (name, integrity, algorithm) in [
        ("refresh/sha1", Integrity::Sha1, None),
        ("refresh/sha256", Integrity::Sha256, Some(PasswordAlgorithm::Sha256)),
    ] {
        let mut world = World::new();
        let mut client = client_over(1, Transport::Udp);
        (client.integrity, client.algorithm) = (integrity, algorithm);
        client.allocate(&mut world);
        let (five_tuple, mut response) = (client.client, Response::new());
        c.bench_function(name, |b| {
            b.iter_batched(
                || client.signed(&refresh(600)),
                |packet| {
                    world.now += STEP;
                    let now = world.now();
                    let verdict = world.shards[0].handle_client(now, &five_tuple, black_box(&packet), &mut response);
                    assert!(matches!(verdict, Verdict::Respond));
                },
                BatchSize::SmallInput,
            );
        });
    }
    let mut world = World::new();
    let mut client = client_over(1, Transport::Udp);
    client.allocate(&mut world);
    let mut forged = client.signed(&refresh(600));
    *forged.last_mut().unwrap() ^= 1;
    let (five_tuple, mut response) = (client.client, Response::new());
    c.bench_function("refresh/forged", |b| {
        b.iter(|| {
            world.now += STEP;
            let now = world.now();
            world.shards[0].handle_client(now, &five_tuple, black_box(&forged), &mut response)
        });
    });
}

/// 401, Allocate, CreatePermission, ChannelBind, Refresh 0, including the client's work to build
/// and sign the requests.
fn handshakes(c: &mut Criterion) {
    let mut world = World::new();
    let mut n = 0_u16;
    let peer = addr("192.0.2.1:7000");
    c.bench_function("handshake_with_its_client", |b| {
        b.iter(|| {
            n = (n + 1) % 10_000;
            world.now += STEP;
            let mut client = client_over(n, Transport::Udp);
            client.allocate(&mut world);
            client.permit(&mut world, &[peer]);
            client.bind(&mut world, 0x4000, peer);
            client.request(&mut world, &refresh(0));
            world.events.clear();
            world.binds.clear();
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = strangers, signed, handshakes
}
criterion_main!(benches);
