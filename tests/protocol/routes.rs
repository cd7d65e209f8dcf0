//! Changes of the routes that can be relayed without the core, as a mirror receives them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use relay_proto::base::address::Transport;
use relay_proto::base::time::Instant;
use relay_proto::turn::config::Mobility;
use relay_proto::turn::{ChannelRoute, RouteChange};
use relay_proto::wire::attribute::AttributeType;

use relay_testkit::world::*;

const NUMBER: u16 = 0x4000;
const PEER: &str = "192.0.2.1:7000";

/// The pending changes of a shard.
fn changes(world: &mut World) -> Vec<RouteChange> {
    std::iter::from_fn(|| world.shards[0].poll_route_change()).collect()
}

/// The routes after those changes, and the number of changes.
fn installed(world: &mut World, routes: &mut BTreeMap<u16, ChannelRoute>) -> usize {
    let changes = changes(world);
    for change in &changes {
        match change {
            RouteChange::Install(route) => drop(routes.insert(route.key.number.0, *route)),
            RouteChange::Remove(key) => assert!(routes.remove(&key.number.0).is_some()),
        }
    }
    changes.len()
}

fn listening() -> World {
    let mut world = World::new();
    world.shards[0].report_routes(true);
    world
}

/// A client with a channel to [`PEER`], and its relayed transport address.
fn bound(world: &mut World, mut client: Client) -> (Client, SocketAddr) {
    let relayed = client.request(world, &allocate()).relayed()[0];
    client.bind(world, NUMBER, addr(PEER));
    (client, relayed)
}

fn after(world: &World, seconds: u64) -> Instant {
    world.now().mono + secs(seconds)
}

#[test]
fn with_no_listener_nothing_is_queued_and_one_that_comes_later_is_told_all_there_is() {
    let mut world = World::new();
    let (_, relayed) = bound(&mut world, udp(1));
    assert_eq!(changes(&mut world), []);
    world.shards[0].report_routes(true);
    let [RouteChange::Install(route)] = changes(&mut world)[..] else {
        panic!("one route")
    };
    assert_eq!((route.relayed.0, route.peer.0), (relayed, addr(PEER)));
    world.reload(|config| config.policy = policy(&["192.0.2.0/24"]));
    world.shards[0].report_routes(false);
    assert_eq!(changes(&mut world), [], "what was queued is forgotten");
}

#[test]
fn a_channel_is_installed_with_its_deadlines_and_replaced_when_they_change() {
    let mut world = listening();
    let mut routes = BTreeMap::new();
    let (mut client, relayed) = bound(&mut world, udp(1));
    assert_eq!(installed(&mut world, &mut routes), 1);
    let route = routes[&NUMBER];
    assert_eq!(route.client, client.client.five_tuple);
    assert_eq!((route.relayed.0, route.peer.0), (relayed, addr(PEER)));
    assert_eq!(
        (route.to_peer_until, route.to_client_until),
        (after(&world, 600), after(&world, 300))
    );
    // Only a permission for this peer's address, then a Refresh that ends no later than the
    // channel.
    world.pass(secs(100));
    client.request(&mut world, &create_permission(&[addr("192.0.2.1:1")]));
    client.request(&mut world, &refresh(600));
    assert_eq!(installed(&mut world, &mut routes), 1);
    let route = routes[&NUMBER];
    assert_eq!(
        (route.to_peer_until, route.to_client_until),
        (after(&world, 500), after(&world, 300))
    );
    client.bind(&mut world, NUMBER, addr(PEER));
    assert!(installed(&mut world, &mut routes) >= 1);
    let route = routes[&NUMBER];
    assert_eq!(
        (route.to_peer_until, route.to_client_until),
        (after(&world, 600), after(&world, 300))
    );
    // A request that changes nothing is not reported.
    client.request(&mut world, &create_permission(&[addr("192.0.2.9:1")]));
    assert_eq!(installed(&mut world, &mut routes), 0);
    client.request(&mut world, &refresh(0));
    assert_eq!(installed(&mut world, &mut routes), 1);
    assert!(routes.is_empty());
}

#[test]
fn a_route_lasts_no_longer_than_its_allocation() {
    let mut world = listening();
    let mut routes = BTreeMap::new();
    let (mut client, _) = bound(&mut world, udp(1));
    world.pass(secs(300));
    client.bind(&mut world, NUMBER, addr(PEER));
    installed(&mut world, &mut routes);
    assert_eq!(routes[&NUMBER].to_peer_until, after(&world, 300));
    client.request(&mut world, &refresh(600));
    installed(&mut world, &mut routes);
    assert_eq!(routes[&NUMBER].to_peer_until, after(&world, 600));
}

#[test]
fn a_reload_removes_what_it_denies_and_installs_what_it_allows_again() {
    let mut world = listening();
    let mut routes = BTreeMap::new();
    bound(&mut world, udp(1));
    installed(&mut world, &mut routes);
    world.reload(|config| config.policy = policy(&["192.0.2.0/24"]));
    assert_eq!(installed(&mut world, &mut routes), 1);
    assert!(routes.is_empty());
    world.reload(|config| config.policy = policy(&[]));
    assert_eq!(installed(&mut world, &mut routes), 1);
    assert_eq!(routes[&NUMBER].peer.0, addr(PEER));
    world.reload(|_| {});
    assert_eq!(installed(&mut world, &mut routes), 0, "the same word again is no news");
}

#[test]
fn streams_dtls_and_peers_of_this_server_are_the_cores_alone() {
    let mut world = listening();
    for (n, transport) in [(1, Transport::Tcp), (2, Transport::Tls), (3, Transport::Dtls)] {
        bound(&mut world, client_over(n, transport));
    }
    let (mut client, relayed) = {
        let mut client = udp(4);
        let relayed = client.request(&mut world, &allocate()).relayed()[0];
        (client, relayed)
    };
    let mut other = udp(5);
    other.request(&mut world, &allocate());
    other.bind(&mut world, NUMBER, relayed);
    client.request(&mut world, &create_permission(&[addr(PEER)]));
    assert_eq!(changes(&mut world), []);
}

#[test]
fn a_client_that_moves_takes_its_route_along_and_one_that_is_away_has_none() {
    let mut world = World::with(|config| config.mobility = Some(Mobility { grace: secs(120) }));
    world.shards[0].report_routes(true);
    let mut routes = BTreeMap::new();
    let ticket = |answer: &Answer| answer.attribute(AttributeType::MOBILITY_TICKET).unwrap();
    let mut old = udp(1);
    let first = ticket(&old.request(&mut world, &allocate().with(AttributeType::MOBILITY_TICKET, [])));
    old.bind(&mut world, NUMBER, addr(PEER));
    installed(&mut world, &mut routes);
    assert_eq!(routes[&NUMBER].client, old.client.five_tuple);
    let resume = |ticket: &[u8]| {
        request(relay_proto::wire::message::Method::Refresh).with(AttributeType::MOBILITY_TICKET, ticket)
    };
    let mut stream = client_over(2, Transport::Tcp);
    let second = ticket(&stream.request(&mut world, &resume(&first)));
    stream.channel_data(&mut world, NUMBER, b"x").sent();
    installed(&mut world, &mut routes);
    assert!(routes.is_empty(), "it has come to a stream");
    stream.disconnect(&mut world);
    assert_eq!(installed(&mut world, &mut routes), 0, "it is away");
    let mut new = udp(3);
    new.request(&mut world, &resume(&second));
    installed(&mut world, &mut routes);
    assert_eq!(routes[&NUMBER].client, new.client.five_tuple);
}

fn udp(n: u16) -> Client {
    client_over(n, Transport::Udp)
}
