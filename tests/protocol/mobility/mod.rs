//! Mobility (RFC 8016): clients that change networks and keep their allocations, on the same shard
//! and on others.

mod paths;
mod races;
mod random_courses;
mod tickets;

use std::net::SocketAddr;

use relay_proto::base::address::Transport;
use relay_proto::turn::DropReason;
use relay_proto::turn::config::{Config, Mobility};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

const GRACE: u64 = 120;
const NUMBER: u16 = 0x4000;
const NO_ALLOCATION: Answer = Answer::Dropped(DropReason::NoAllocation);
const AWAY: Delivered = Delivered::Dropped(DropReason::ClientAway);

fn peer() -> SocketAddr {
    addr("192.0.2.1:7000")
}

fn mobile(shards: usize) -> World {
    mobile_with(shards, |_| {})
}

fn mobile_with(shards: usize, alter: impl FnOnce(&mut Config)) -> World {
    World::sharded(shards, |config| {
        config.mobility = Some(Mobility { grace: secs(GRACE) });
        alter(config);
    })
}

fn wanting_ticket() -> Message {
    allocate().with(AttributeType::MOBILITY_TICKET, [])
}

fn with_ticket(ticket: &[u8]) -> Message {
    request(Method::Refresh).with(AttributeType::MOBILITY_TICKET, ticket)
}

fn ticket_of(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.code(), 0);
    answer
        .attribute(AttributeType::MOBILITY_TICKET)
        .expect("MOBILITY-TICKET")
}

/// A client with a mobile allocation and a channel to [`peer`]: its relayed transport address and
/// its ticket.
fn settled(world: &mut World, client: &mut Client) -> (SocketAddr, Vec<u8>) {
    let answer = client.request(world, &wanting_ticket());
    let ticket = ticket_of(&answer);
    client.bind(world, NUMBER, peer());
    (answer.relayed()[0], ticket)
}

/// Requests the allocation from the new five-tuple of `client`; returns the new ticket.
fn resumed(world: &mut World, client: &mut Client, ticket: &[u8]) -> Vec<u8> {
    ticket_of(&client.request(world, &with_ticket(ticket)))
}

/// Packets from a peer to `relayed` reach this client.
fn assert_reached(world: &mut World, relayed: SocketAddr, client: &Client) {
    match world.peer(peer(), relayed, b"to the client") {
        Delivered::Channel {
            client: reached,
            number,
            data,
            ..
        } => {
            assert_eq!((reached, number), (client.client, NUMBER));
            assert_eq!(data, b"to the client");
        }
        other => panic!("{:?} is not reached: {other:?}", client.client),
    }
}

/// Packets from this client leave from `relayed`.
fn assert_sends(world: &mut World, client: &mut Client, relayed: SocketAddr) {
    let sent = client.channel_data(world, NUMBER, b"to the peer").sent();
    assert_eq!((sent.from.port(), sent.to), (relayed.port(), peer()));
    assert_eq!(sent.data, b"to the peer");
}

fn allocations(world: &World) -> usize {
    world.shards.iter().map(relay_proto::turn::Server::allocations).sum()
}

fn over(n: u16, transport: Transport, shard: usize) -> Client {
    client_over(n, transport).at_shard(shard)
}

fn udp(n: u16, shard: usize) -> Client {
    over(n, Transport::Udp, shard)
}

fn tcp(n: u16, shard: usize) -> Client {
    over(n, Transport::Tcp, shard)
}
