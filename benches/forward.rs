//! Cost of the core's decision about a relayed packet, without sockets. The budget is 100 ns with
//! one client. With ten thousand clients it shows the cost of cache misses.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use relay::base::address::Transport;
use relay::turn::types::{PeerAddr, RelayId, RelayedAddr};
use relay::turn::{Response, Verdict};

use relay_testkit::world::*;

/// Application data of a packet.
const DATA: [u8; 1200] = [7; 1200];
const CHANNEL: u16 = 0x4000;

/// Clients with one channel each to one peer, whose packets alternate.
struct Calls {
    world: World,
    clients: Vec<Client>,
    relayed: Vec<SocketAddr>,
    peer: SocketAddr,
}

impl Calls {
    fn new(count: u16) -> Self {
        let mut world = World::with(|config| {
            config.relay.ports = 10_000..=65_000;
            config.policy = policy_with_ports(&[], config.relay.ports.clone());
            config.limits.allocations_per_user = u32::MAX;
            config.limits.allocations_per_ip = u32::MAX;
            config.limits.allocations_per_network = u32::MAX;
        });
        let peer = addr("192.0.2.1:7000");
        let mut clients: Vec<Client> = (0..count).map(|n| client_over(n, Transport::Udp)).collect();
        let mut relayed = Vec::new();
        for client in &mut clients {
            relayed.push(client.allocate(&mut world));
            client.bind(&mut world, CHANNEL, peer);
        }
        // The first two are each other's peers as well.
        let pair: Vec<SocketAddr> = relayed.iter().copied().take(2).collect();
        for (client, other) in clients.iter_mut().zip(pair.iter().rev()) {
            client.bind(&mut world, CHANNEL + 1, *other);
        }
        Self {
            world,
            clients,
            relayed,
            peer,
        }
    }

    fn relay(&self, index: usize) -> RelayId {
        let port = self.relayed[index].port();
        let mut sockets = self.world.sockets.iter();
        let (&(_, relay), _) = sockets.find(|(_, bound)| bound.port() == port).unwrap();
        relay
    }
}

/// An order in which no client's packet follows its neighbour's.
fn shuffled(count: usize) -> impl Iterator<Item = usize> {
    (0..count).cycle().map(move |n| n * 7919 % count)
}

fn from_clients(c: &mut Criterion) {
    let packet = channel_data(CHANNEL, &DATA);
    for count in [2_u16, 10_000] {
        let mut calls = Calls::new(count);
        let (now, mut response) = (calls.world.now(), Response::new());
        let mut order = shuffled(count.into());
        c.bench_function(&format!("channel_data_up/{count}_clients"), |b| {
            b.iter(|| {
                let client = &calls.clients[order.next().unwrap()].client;
                let verdict = calls.world.shards[0].handle_client(now, client, black_box(&packet), &mut response);
                assert!(matches!(verdict, Verdict::ToPeer { .. }));
            });
        });
    }
    let mut calls = Calls::new(2);
    let (now, mut response) = (calls.world.now(), Response::new());
    let indication = send_indication(calls.peer, &DATA).plain();
    let to_other = channel_data(CHANNEL + 1, &DATA);
    let client = calls.clients[0].client;
    let server = &mut calls.world.shards[0];
    c.bench_function("send_indication_up", |b| {
        b.iter(|| server.handle_client(now, &client, black_box(&indication), &mut response));
    });
    c.bench_function("channel_data_to_another_client", |b| {
        b.iter(|| {
            let verdict = server.handle_client(now, &client, black_box(&to_other), &mut response);
            assert!(matches!(verdict, Verdict::ToAllocation { .. }));
            server.handle_relayed(
                now,
                RelayedAddr(calls.relayed[1]),
                PeerAddr(calls.relayed[0]),
                DATA.len(),
            )
        });
    });
}

fn from_peers(c: &mut Criterion) {
    for count in [2_u16, 10_000] {
        let mut calls = Calls::new(count);
        let now = calls.world.now();
        let relays: Vec<RelayId> = (0..usize::from(count).min(200))
            .map(|index| calls.relay(index))
            .collect();
        let mut order = shuffled(relays.len());
        c.bench_function(&format!("peer_data_down/{count}_clients"), |b| {
            b.iter(|| {
                let relay = relays[order.next().unwrap()];
                let verdict =
                    calls.world.shards[0].handle_peer(now, relay, PeerAddr(black_box(calls.peer)), DATA.len());
                assert!(matches!(verdict, Verdict::ToClient { .. }));
            });
        });
    }
    let mut calls = Calls::new(2);
    let (now, relay) = (calls.world.now(), calls.relay(0));
    let stranger = PeerAddr(addr("192.0.2.9:1"));
    let server = &mut calls.world.shards[0];
    c.bench_function("peer_without_permission", |b| {
        b.iter(|| server.handle_peer(now, relay, black_box(stranger), DATA.len()));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = from_clients, from_peers
}
criterion_main!(benches);
