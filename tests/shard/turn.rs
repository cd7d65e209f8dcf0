//! Packets that arrive together are handled in one turn of a worker. None is lost, and none leaves
//! from another client's socket.

use std::collections::HashSet;
use std::net::SocketAddr;

use relay::shard::ShardConfig;
use relay::turn::Config;
use relay::turn::DropReason;
use relay::wire::attribute::AttributeType;
use relay::wire::message::{Message, Method};
use relay_testkit_server::*;

fn start(workers: usize, config: ShardConfig, turn: Config) -> (Gate, TestServer) {
    let (gate, config) = Gate::with(config);
    (gate, TestServer::start_with(workers, "127.0.0.1:0", config, turn))
}

fn dropped(server: &TestServer, why: DropReason) -> u64 {
    server.count(|c| c.dropped[why as usize].get())
}

fn all_dropped(server: &TestServer) -> u64 {
    server.count(|c| c.dropped.iter().map(|cell| cell.get()).sum())
}

fn address(response: &[u8], which: AttributeType) -> SocketAddr {
    Message::parse(response).unwrap().xor_address(which).unwrap().unwrap()
}

/// The next allocation reuses the number of its relay socket at once.
#[test]
fn data_leaves_by_its_clients_relay_socket_though_that_is_closed_and_another_opened_in_the_same_turn() {
    let (gate, server) = start(1, ShardConfig::default(), turn_config());
    let peer = Peer::new();
    let (mut a, mut b) = (server.client(), server.client());
    let relayed = a.allocate();
    a.bind(0x4000, peer.addr());
    // It gets its nonce.
    b.request(Method::Refresh, &|writer| {
        writer.u32(AttributeType::LIFETIME, 0);
    });
    let (release, allocate) = gate.in_one_turn(&server, 0, || {
        a.send_channel(0x4000, b"the last");
        let release = a.compose(Method::Refresh, &|writer| {
            writer.u32(AttributeType::LIFETIME, 0);
        });
        a.pipe.send(&release);
        let allocate = b.compose(Method::Allocate, &|writer| {
            writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
        });
        b.pipe.send(&allocate);
        (release, allocate)
    });
    a.response(&release);
    let others = address(&b.response(&allocate), AttributeType::XOR_RELAYED_ADDRESS);
    assert_ne!(others, relayed);
    assert_eq!(peer.recv(), (b"the last".to_vec(), relayed));
    assert!(peer.hears_nothing());
    assert_eq!(all_dropped(&server), 0);
}

#[test]
fn a_turn_sends_more_lone_datagrams_than_a_batch_holds() {
    const COUNT: usize = 1100;
    let (gate, server) = start(1, ShardConfig::default(), turn_config());
    // Adjacent packets have different peers, so none share a message.
    let peers: Vec<Peer> = (0..10).map(|_| Peer::new()).collect();
    let (mut client, socket) = bursting_client(server.udp);
    let relayed = client.allocate();
    client.permit(peers[0].addr());
    let packets: Vec<Vec<u8>> = (0..COUNT)
        .map(|n| client.indication(peers[n % peers.len()].addr(), &(n as u32).to_be_bytes()))
        .collect();
    let turns = gate.in_one_turn(&server, 0, || {
        burst(&socket, server.udp, &packets);
        server.stat(|s| s.turns.get())
    });
    for n in 0..COUNT {
        assert_eq!(
            peers[n % peers.len()].recv(),
            ((n as u32).to_be_bytes().to_vec(), relayed)
        );
    }
    assert_eq!(all_dropped(&server), 0);
    // The turn that was stopped, and the one that handled everything.
    assert!(server.stat(|s| s.turns.get()) <= turns + 3, "in one turn");
}

/// Use of the mailboxes: stored, refused, and taken out.
fn mailed(server: &TestServer) -> [u64; 3] {
    [
        server.stat(|s| s.mailbox_sent.get()),
        server.stat(|s| s.mailbox_full.get()),
        server.stat(|s| s.mailbox_received.get()),
    ]
}

/// A client on one worker sends `count` messages of `size` bytes to clients on another, which
/// stands still until all are in its mailbox. Every message that the mailbox accepted arrives.
/// Returns the number of those that it refused.
fn mail(count: u32, size: usize, slots: usize) -> u64 {
    let config = ShardConfig {
        slots,
        ..ShardConfig::default()
    };
    let (gate, server) = start(2, config, turn_config());
    let (mut sender, from) = server.client_on(0);
    // Several, because one socket does not hold that much.
    let mut receivers: Vec<(Client, SocketAddr)> = (0..8).map(|_| server.client_on(1)).collect();
    sender.permit(receivers[0].1);
    for (receiver, _) in &mut receivers {
        receiver.permit(from);
    }
    let numbered = |n: u32| [&n.to_be_bytes()[..], &pattern(size - 4, n as usize)].concat();
    gate.in_one_turn(&server, 1, || {
        for n in 0..count {
            sender.send_indication(receivers[n as usize % 8].1, &numbered(n));
            // No more in flight than a socket holds.
            if n % 50 == 49 || n + 1 == count {
                server.becomes("asked of the mailbox", u64::from(n) + 1, |s| {
                    let [sent, full, _] = mailed(s);
                    sent + full
                });
            }
        }
    });
    server.eventually("everything is taken out", |s| {
        let [sent, _, received] = mailed(s);
        sent == received
    });
    let [sent, full, _] = mailed(&server);
    let mut came = HashSet::new();
    for (receiver, _) in &mut receivers {
        let before = came.len();
        while let Some(Incoming::Data { peer, data }) = receiver.next(SILENCE) {
            let n = u32::from_be_bytes(data[..4].try_into().unwrap());
            assert_eq!((peer, &data), (from, &numbered(n)));
            assert!(came.insert(n), "{n} came twice");
        }
        assert!(came.len() > before);
    }
    assert_eq!(came.len() as u64, sent);
    assert_eq!(dropped(&server, DropReason::MailboxFull), full);
    assert_eq!(all_dropped(&server), full);
    full
}

#[test]
fn a_worker_takes_out_of_its_mailbox_what_is_there_though_it_is_more_than_a_turn_takes() {
    assert_eq!(mail(700, 40, 64), 0);
}

#[test]
fn what_a_mailbox_has_no_room_for_is_counted_and_the_rest_arrives_whatever_room_there_is_for_a_turn() {
    // A mailbox holds fewer, because they exceed a slot.
    assert!(mail(400, 1000, 1) > 100);
}
