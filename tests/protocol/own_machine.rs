//! A media server on the relay's own machine: for each packet the core determines what uses a port
//! of our own address.

use std::net::SocketAddr;
use std::sync::Arc;

use relay_proto::turn::DropReason;
use relay_proto::turn::config::Config;
use relay_proto::turn::policy::{PeerPolicy, PolicyConfig};

use relay_testkit::world::*;

/// The peer policy with these entries in `allow`. There are two relay ports, so a single client
/// leaves one free.
fn machine(config: &mut Config, allow: &[&str]) {
    config.relay.ports = 50_000..=50_001;
    let policy = PolicyConfig {
        allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
        own: vec![addr("0.0.0.0:3478"), addr("[::]:3478")],
        local: [ip("10.1.2.3"), ip("172.20.0.1"), ip(RELAY_V6)]
            .map(Into::into)
            .to_vec(),
        relay_ips: vec![ip("10.1.2.3"), ip(RELAY_V4), ip(RELAY_V6)],
        relay_ports: 50_000..=50_001,
        ..PolicyConfig::default()
    };
    config.policy = Arc::new(PeerPolicy::new(policy).unwrap());
}

const OPEN: [&str; 4] = ["198.51.100.9/32", "2a00:1450:1::9/128", "10.1.2.3/32", "172.20.0.1/32"];

/// A client with an allocation of `family`, and the unused relay port.
struct Alone {
    world: World,
    client: Client,
    relayed: SocketAddr,
    vacant: SocketAddr,
}

fn alone(shards: usize, family: u8, allow: &[&str]) -> Alone {
    let mut world = World::sharded(shards, |config| machine(config, allow));
    let mut client = client(1);
    let relayed = client.request(&mut world, &allocate().family(family)).relayed()[0];
    let vacant = SocketAddr::new(relayed.ip(), relayed.port() ^ 1);
    client.permit(&mut world, &[vacant]);
    client.bind(&mut world, 0x4000, vacant);
    Alone {
        world,
        client,
        relayed,
        vacant,
    }
}

/// What happens to data for `vacant`, over the channel and in an indication.
fn both_ways(alone: &mut Alone, to: SocketAddr) -> [Answer; 2] {
    [
        alone.client.channel_data(&mut alone.world, 0x4000, b"x"),
        alone.client.send(&mut alone.world, to, b"x"),
    ]
}

fn assert_leaves(alone: &mut Alone, to: SocketAddr) {
    let relayed = alone.relayed;
    for answer in both_ways(alone, to) {
        let sent = answer.sent();
        assert_eq!(
            (sent.from.port(), sent.to, &sent.data[..]),
            (relayed.port(), to, &b"x"[..])
        );
    }
}

fn assert_dropped(alone: &mut Alone, to: SocketAddr, why: DropReason) {
    for answer in both_ways(alone, to) {
        assert_eq!(answer, Answer::Dropped(why));
    }
}

#[test]
fn a_program_at_a_relay_port_nobody_has_is_a_peer_where_the_own_address_is_allowed_and_only_there() {
    for family in [1, 2] {
        let mut open = alone(1, family, &OPEN);
        let vacant = open.vacant;
        assert_leaves(&mut open, vacant);
        // And its responses arrive.
        assert!(open.world.peer(vacant, open.relayed, b"y").is_channel(0x4000, b"y"));

        let mut closed = alone(1, family, &[]);
        assert_dropped(&mut closed, vacant, DropReason::NoSuchRelay);
    }
}

#[test]
fn a_port_that_becomes_ours_is_delivered_in_memory_and_one_that_is_ours_no_more_leaves_again() {
    for (shards, family) in [(1, 1), (1, 2), (2, 1), (3, 2)] {
        let mut alone = alone(shards, family, &OPEN);
        let (relayed, vacant) = (alone.relayed, alone.vacant);
        for n in 10..13 {
            assert_leaves(&mut alone, vacant);
            let mut other = client(n).at_shard(usize::from(n) % shards);
            let theirs = other.request(&mut alone.world, &allocate().family(family)).relayed()[0];
            assert_eq!(theirs, vacant);
            let unknown = Delivered::Dropped(DropReason::NoPermission);
            for answer in both_ways(&mut alone, vacant) {
                assert_eq!(answer.delivered(), unknown, "the receiver's permission is asked");
            }
            other.permit(&mut alone.world, &[relayed]);
            for answer in both_ways(&mut alone, vacant) {
                assert!(answer.delivered().is_data(relayed, b"x"));
            }
            other.request(&mut alone.world, &refresh(0));
        }
        assert_leaves(&mut alone, vacant);
    }
}

#[test]
fn while_a_port_is_being_opened_nobody_lives_there() {
    let mut alone = alone(1, 1, &OPEN);
    let vacant = alone.vacant;
    alone.world.hold = Some(Vec::new());
    let mut other = client(2);
    assert_eq!(other.request(&mut alone.world, &allocate()), Answer::Waiting);
    assert_leaves(&mut alone, vacant);
    let (shard, id) = alone.world.hold.take().expect("held").remove(0);
    alone.world.opened(shard, id, Ok(())).expect("an answer");
    for answer in both_ways(&mut alone, vacant) {
        assert_eq!(answer.delivered(), Delivered::Dropped(DropReason::NoPermission));
    }
}

#[test]
fn a_reload_closes_and_opens_the_own_address_for_peers_that_are_bound_already() {
    let mut alone = alone(1, 1, &OPEN);
    let vacant = alone.vacant;
    assert_leaves(&mut alone, vacant);
    alone.world.reload(|config| machine(config, &[]));
    assert_dropped(&mut alone, vacant, DropReason::NoSuchRelay);
    alone.world.reload(|config| machine(config, &OPEN));
    assert_leaves(&mut alone, vacant);
}

#[test]
fn listeners_and_other_sockets_of_ours_are_never_peers() {
    let mut alone = alone(1, 1, &OPEN);
    let vacant = alone.vacant;
    for listener in [format!("{RELAY_V4}:3478"), "10.1.2.3:3478".to_owned()] {
        let listener = addr(&listener);
        alone.client.permit(&mut alone.world, &[listener]);
        let answer = alone.client.send(&mut alone.world, listener, b"x");
        assert_eq!(answer, Answer::Dropped(DropReason::PeerDenied), "{listener}");
    }
    // A flow of HTTP/3, or a query: inside and outside the relay ports, at any of our addresses.
    let own = alone.world.shared.own_sockets();
    let noted = own.note(SocketAddr::new(ip("0.0.0.0"), vacant.port()));
    assert_dropped(&mut alone, vacant, DropReason::PeerDenied);
    drop(noted);
    assert_leaves(&mut alone, vacant);
    for elsewhere in ["10.1.2.3:40000", "172.20.0.1:50000"].map(addr) {
        alone.client.permit(&mut alone.world, &[elsewhere]);
        let mut send = || alone.client.send(&mut alone.world, elsewhere, b"x");
        assert_eq!(send().sent().to, elsewhere);
        let noted = own.note(elsewhere);
        assert_eq!(send(), Answer::Dropped(DropReason::PeerDenied), "{elsewhere}");
        drop(noted);
        assert_eq!(send().sent().to, elsewhere);
    }
}
