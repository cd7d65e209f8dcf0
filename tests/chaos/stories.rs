//! Sequences that random runs rarely reach, step by step.

use std::sync::Arc;

use relay::shard::ShardConfig;
use relay::wire::attribute::AttributeType;
use relay::wire::message::Method;

use crate::faults::Faults;
use crate::world::{Visit, World};
use relay_testkit_server::{Client, Incoming, Peer, TestServer, tcp_pair, turn_config};

/// A server with this many workers in a world without faults.
fn server(workers: usize) -> (TestServer, Arc<World>, Visit) {
    let (world, visit) = World::enter(1, workers, Faults::none());
    let config = ShardConfig {
        on_thread_start: Some(world.hook()),
        ..ShardConfig::default()
    };
    let server = TestServer::start_with(workers, "127.0.0.1:0", config, turn_config());
    world.settle();
    (server, world, visit)
}

fn end(server: TestServer, world: &World) {
    assert!(server.shards.shutdown(core::time::Duration::from_secs(5)));
    assert_eq!(world.lock().findings, [""; 0]);
}

/// More than a send batch holds, and nothing that could leave together.
#[test]
fn a_datagram_that_finds_the_send_batch_full_still_leaves() {
    let (server, world, _visit) = server(1);
    let mut client = server.client();
    let relayed = client.allocate();
    let peers = [Peer::new(), Peer::new()];
    client.bind(0x4000, peers[0].addr());
    client.bind(0x4001, peers[1].addr());
    for i in 0..1_100_u16 {
        client.send_channel(0x4000 + i % 2, &i.to_be_bytes());
    }
    for i in 0..1_100_u16 {
        let got = peers[usize::from(i % 2)].recv();
        assert_eq!(got, (i.to_be_bytes().to_vec(), relayed));
    }
    end(server, &world);
}

/// The batch refers to sockets by number, and B's has the number of A's.
#[test]
fn what_a_client_sent_before_its_end_leaves_from_its_own_address_though_another_comes_in_the_same_turn() {
    let (server, world, _visit) = server(1);
    let (mut leaves, mut comes) = (server.client(), server.client());
    let peer = Peer::new();
    let relayed = leaves.allocate();
    leaves.bind(0x4000, peer.addr());
    // A nonce, and an allocation that has already ended: its next packet is answered at once.
    comes.allocate();
    comes.release();
    leaves.send_channel(0x4000, b"last words");
    let end_of_it = leaves.compose(Method::Refresh, &|writer| {
        writer.u32(AttributeType::LIFETIME, 0);
    });
    leaves.pipe.send(&end_of_it);
    let other = comes.allocate();
    assert_ne!(other, relayed);
    assert_eq!(peer.recv(), (b"last words".to_vec(), relayed));
    assert!(peer.hears_nothing());
    end(server, &world);
}

/// The time runs out between two checks of the streams, at any point.
#[test]
fn a_client_that_reads_nothing_holds_up_a_shutdown_no_longer_than_it_may() {
    const MILLISECOND: u64 = 1_000_000;
    for after in [0, 60, 120, 180, 240] {
        let (server, world, _visit) = server(1);
        let (stream, new_stream) = tcp_pair(Vec::new());
        server.shards.add_stream(new_stream);
        let mut client = Client::tcp(stream);
        let relayed = client.allocate();
        let peer = Peer::new();
        client.bind(0x4000, peer.addr());
        for _ in 0..1000 {
            peer.send(relayed, &[0; 1200]);
        }
        world.run_for(after * MILLISECOND);
        end(server, &world);
    }
}

#[test]
fn a_datagram_crosses_the_simulated_kernel_both_ways() {
    let (server, world, _visit) = server(2);
    let mut client = server.client();
    let relayed = client.allocate();
    let peer = Peer::new();
    client.bind(0x4000, peer.addr());
    client.send_channel(0x4000, b"there");
    assert_eq!(peer.recv(), (b"there".to_vec(), relayed));
    peer.send(relayed, b"back");
    let back = Incoming::Channel {
        number: 0x4000,
        data: b"back".to_vec(),
    };
    assert_eq!(client.incoming(), back);
    end(server, &world);
}
