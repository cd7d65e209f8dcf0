use std::net::SocketAddr;
use std::time::Duration;

use relay_testkit::turn::{Client, Incoming, Peer, turn_config};
use relay_testkit_net::UDP;

use crate::net::udp::UdpSocket;
use crate::shard::worker::tests::Alone;
use crate::shard::{Listener, ShardConfig};
use crate::turn::Config;
use crate::turn::config::Mobility;
use crate::wire::attribute::AttributeType;
use crate::wire::message::{Message, Method};
use crate::wire::writer::MessageWriter;

const CHANNEL: u16 = 0x4000;

fn workers(count: usize) -> Vec<Alone> {
    workers_with(count, ShardConfig::default())
}

fn workers_with(count: usize, config: ShardConfig) -> Vec<Alone> {
    let bind = |_| Listener::from(UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UDP).unwrap());
    let turn = Config {
        mobility: Some(Mobility {
            grace: Duration::from_secs(300),
        }),
        ..turn_config()
    };
    Alone::several((0..count).map(bind).collect(), config, turn)
}

/// The ticket in a response, and the relayed transport address if it tells one.
fn told(response: &[u8]) -> (Vec<u8>, Option<SocketAddr>) {
    let message = Message::parse(response).unwrap();
    let ticket = message.attribute(AttributeType::MOBILITY_TICKET).expect("a ticket");
    let relayed = message.xor_address(AttributeType::XOR_RELAYED_ADDRESS);
    (ticket.to_vec(), relayed.unwrap_or_default())
}

/// An allocation of a client of `home`, and its ticket; a channel is bound to `peer`.
fn allocated(home: &Alone, peer: &Peer) -> (Client, SocketAddr, Vec<u8>) {
    let mut client = home.client();
    let response = client.request(Method::Allocate, &|writer| {
        writer
            .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(AttributeType::MOBILITY_TICKET, &[]);
    });
    client.bind(CHANNEL, peer.addr());
    let (ticket, relayed) = told(&response);
    (client, relayed.unwrap(), ticket)
}

/// Its client comes to `visited`, with its ticket. The allocation is still at home.
fn resumed(visited: &Alone, home: &Alone, ticket: &[u8]) -> Client {
    let mut client = visited.client();
    let resume = |writer: &mut MessageWriter<'_>| {
        writer.attribute(AttributeType::MOBILITY_TICKET, ticket);
    };
    let challenge = client.compose(Method::Refresh, &resume);
    client.pipe.send(&challenge);
    let response = client.response(&challenge);
    let nonce = Message::parse(&response).unwrap().attribute(AttributeType::NONCE);
    client.nonce = Some(nonce.unwrap().to_vec());
    let refresh = client.compose(Method::Refresh, &resume);
    client.pipe.send(&refresh);
    for worker in [visited, home, visited] {
        worker.turn();
    }
    told(&client.response(&refresh));
    client
}

fn dropped(workers: &[Alone]) -> u64 {
    let of = |worker: &Alone| worker.count(|c| c.dropped.iter().map(|cell| cell.get()).sum());
    workers.iter().map(of).sum()
}

//= MOB-04
#[test]
fn what_a_peer_sends_in_the_turn_in_which_an_allocation_leaves_arrives_by_the_new_path() {
    for count in [1, 2] {
        let workers = workers(count);
        let (home, visited) = (&workers[0], workers.last().unwrap());
        let peer = Peer::new();
        let (_old, relayed, ticket) = allocated(home, &peer);
        let mut new = resumed(visited, home, &ticket);
        // The first data by the new path: it is held, and the allocation is asked for.
        new.send_channel(CHANNEL, b"the first");
        visited.turn();
        // There is data for the allocation in the very turn in which home hears of it, behind that.
        peer.send(relayed, b"meanwhile");
        home.turn();
        // And what its client sends next is there when the allocation arrives.
        new.send_channel(CHANNEL, b"the second");
        visited.turn();
        for data in [&b"the first"[..], b"the second"] {
            assert_eq!(peer.recv(), (data.to_vec(), relayed), "{count} workers");
        }
        let data = b"meanwhile".to_vec();
        let (number, left) = (CHANNEL, home.count(|c| c.allocations_left.get()));
        assert_eq!(new.incoming(), Incoming::Channel { number, data }, "{count} workers");
        assert_eq!((left, dropped(&workers)), (1, 0));
    }
}

#[test]
fn relay_sockets_are_counted_where_they_are() {
    let workers = workers(2);
    let peer = Peer::new();
    let (mut old, relayed, ticket) = allocated(&workers[0], &peer);
    let open = || [0, 1].map(|n: usize| workers[n].stat(|s| s.relay_sockets.get()));
    assert_eq!(open(), [1, 0]);
    let mut new = resumed(&workers[1], &workers[0], &ticket);
    // The old path goes on until the new one is used.
    old.send_channel(CHANNEL, b"old");
    workers[0].turn();
    assert_eq!(peer.recv(), (b"old".to_vec(), relayed));
    assert_eq!(open(), [1, 0]);
    new.send_channel(CHANNEL, b"new");
    for worker in [1, 0, 1] {
        workers[worker].turn();
    }
    assert_eq!(peer.recv(), (b"new".to_vec(), relayed));
    assert_eq!(open(), [0, 1]);
    new.release();
    assert_eq!(open(), [0, 0]);
}

#[test]
fn what_was_held_is_relayed_whatever_the_slab_holds() {
    let config = ShardConfig {
        slots: 1,
        ..ShardConfig::default()
    };
    let workers = workers_with(2, config);
    let peer = Peer::new();
    let (_old, relayed, ticket) = allocated(&workers[0], &peer);
    let mut new = resumed(&workers[1], &workers[0], &ticket);
    for n in 0..3 {
        new.send_channel(CHANNEL, &[n]);
        workers[1].turn();
    }
    for worker in [0, 1] {
        workers[worker].turn();
    }
    for n in 0..3 {
        assert_eq!(peer.recv(), (vec![n], relayed));
    }
    assert_eq!(dropped(&workers), 0);
}

#[test]
fn what_another_client_had_sent_before_an_allocation_left_goes_after_it() {
    let workers = workers(3);
    let [home, visited, others] = [0, 1, 2].map(|n: usize| &workers[n]);
    let peer = Peer::new();
    let (mut old, relayed, ticket) = allocated(home, &peer);
    let mut other = others.client();
    let from = other.allocate();
    old.permit(from);
    other.bind(CHANNEL, relayed);
    let mut new = resumed(visited, home, &ticket);
    new.send_channel(CHANNEL, b"the first");
    visited.turn();
    // In its mailbox when home hears that the allocation is to leave.
    other.send_channel(CHANNEL, b"hello");
    others.turn();
    home.turn();
    visited.turn();
    assert_eq!(visited.look(|worker| worker.packets), 1);
    let data = b"hello".to_vec();
    assert_eq!(new.incoming(), Incoming::Data { peer: from, data });
    let mail = |worker: &Alone| worker.stat(|s| s.mailbox_sent.get() * 10 + s.mailbox_received.get());
    assert_eq!([home, visited, others].map(mail), [11, 1, 10]);
    assert_eq!((dropped(&workers), peer.recv().0), (0, b"the first".to_vec()));
}
