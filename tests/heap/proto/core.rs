//! A relayed packet allocates nothing in the core, by any carrier, in either direction; and an idle allocation is small.

use std::hint::black_box;

use relay_proto::base::address::Transport;
use relay_proto::turn::types::{PeerAddr, RelayId, RelayedAddr};
use relay_proto::turn::{Response, Verdict};

use relay_testkit::heap::{allocations, live_bytes};
use relay_testkit::world::*;

fn allocations_of(mut work: impl FnMut()) -> usize {
    work();
    allocations(|| (0..1000).for_each(|_| work()))
}

#[test]
fn relayed_packets_allocate_nothing_and_idle_allocations_are_small() {
    for transport in Transport::ALL {
        relayed_packets_allocate_nothing(transport);
    }
    idle_allocations_are_small();
}

fn relayed_packets_allocate_nothing(transport: Transport) {
    let mut world = World::new();
    let (mut client, mut other) = (client_over(1, transport), client_over(2, transport));
    let (peer, permitted) = (addr("192.0.2.1:7000"), addr("192.0.2.2:7000"));
    let relayed = client.allocate(&mut world);
    let other_relayed = other.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer);
    client.bind(&mut world, 0x4001, other_relayed);
    client.permit(&mut world, &[permitted, other_relayed]);
    other.permit(&mut world, &[relayed]);

    let data = [7; 1200];
    let up = [
        channel_data(0x4000, &data),
        channel_data(0x4001, &data),
        send_indication(permitted, &data).plain(),
        send_indication(other_relayed, &data).plain(),
    ];
    let relay = |port: u16| -> RelayId {
        let (&(_, relay), _) = world
            .sockets
            .iter()
            .find(|(_, bound)| bound.port() == port)
            .expect("a relay socket");
        relay
    };
    let relay = relay(relayed.port());
    let now = world.now();
    let server = &mut world.shards[0];
    let mut response = Response::new();
    let count = allocations_of(|| {
        for packet in &up {
            let verdict = server.handle_client(now, &client.client, packet, &mut response);
            assert!(
                matches!(verdict, Verdict::ToPeer { .. } | Verdict::ToAllocation { .. }),
                "{verdict:?}"
            );
        }
        for from in [peer, permitted] {
            let verdict = server.handle_peer(now, relay, PeerAddr(from), data.len());
            assert!(matches!(verdict, Verdict::ToClient { .. }), "{verdict:?}");
        }
        let verdict = server.handle_relayed(now, RelayedAddr(other_relayed), PeerAddr(relayed), data.len());
        assert!(matches!(verdict, Verdict::ToClient { .. }), "{verdict:?}");
        black_box(server.poll_timeout());
    });
    assert_eq!(count, 0, "{transport}");

    // Nor does a packet that is dropped.
    let stranger = client_over(3, transport);
    let unbound = channel_data(0x4FFF, &data);
    let count = allocations_of(|| {
        let _ = black_box(server.handle_client(now, &stranger.client, &up[0], &mut response));
        let _ = black_box(server.handle_client(now, &client.client, &unbound, &mut response));
        let _ = black_box(server.handle_peer(now, relay, PeerAddr(addr("192.0.2.9:1")), data.len()));
    });
    assert_eq!(count, 0, "{transport}");
}

fn idle_allocations_are_small() {
    const N: u16 = 4000;
    let mut world = World::with(|config| {
        config.relay.ports = 10_000..=60_000;
        config.limits.allocations_per_user = u32::MAX;
    });
    // The first one pays for tables.
    let mut clients: Vec<Client> = (0..=N).map(client).collect();
    let channel = |world: &mut World, client: &mut Client| {
        client.allocate(world);
        client.bind(world, 0x4000, addr("192.0.2.1:7000"));
        world.events.clear();
    };
    channel(&mut world, &mut clients[0]);
    let mut bare = clients.split_off(1);
    // What the test itself remembers of them is there before.
    world.sockets.reserve(usize::from(N) * 2);
    world.binds.reserve(usize::from(N) * 2);
    for client in &mut bare {
        client.request(&mut world, &refresh(600));
    }
    let before = live_bytes();
    for client in &mut bare {
        channel(&mut world, client);
    }
    let each = (live_bytes() - before) / isize::try_from(N).unwrap();
    assert!(each < 2048, "{each} bytes for an allocation with one channel");

    world.pass(secs(601));
    world.pass(secs(41));
    world.assert_empty();
    world.events = Vec::new();
    let left = live_bytes() - before;
    assert!(left < 200_000, "{left} bytes are not given back");
}
