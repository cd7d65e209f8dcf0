//! What the shard asks the core about clients: which are unauthenticated, which have an allocation,
//! and by which path to answer.

use relay_proto::base::address::Transport;
use relay_proto::turn::types::Link;
use relay_proto::turn::{DropReason, Response};
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

#[test]
fn another_layer_asks_strangers_under_the_limits_of_challenges() {
    let mut world = World::with(|config| {
        (config.limits.challenges_per_second, config.limits.challenge_burst) = (20, 3);
    });
    let now = world.now();
    let (one, other) = (five_tuple(1, Transport::Dtls), five_tuple(2, Transport::Dtls));
    for _ in 0..3 {
        assert_eq!(world.shards[0].may_ask(now, &one), Ok(()));
    }
    assert_eq!(world.shards[0].may_ask(now, &one), Err(DropReason::ChallengeLimited));
    assert_eq!(world.shards[0].may_ask(now, &other), Ok(()), "another source");
    let mut stranger = client_over(1, Transport::Udp);
    assert_eq!(
        stranger.send_plain(&mut world, &allocate()).code_or_success(),
        None,
        "it is one budget"
    );
}

#[test]
fn an_answer_is_to_a_stranger_until_it_has_an_allocation() {
    let mut world = World::new();
    let (mut client, mut response) = (client(1), Response::new());
    let binding = request(Method::Binding).plain();
    let now = world.now();
    let mut to_stranger = |world: &mut World, client: &Client, packet: &[u8]| {
        _ = world.shards[0].handle_client(now, &client.client, packet, &mut response);
        assert!(!response.bytes().is_empty());
        response.is_to_stranger()
    };
    assert!(to_stranger(&mut world, &client, &binding));
    assert!(to_stranger(&mut world, &client, &allocate().plain()), "a challenge");
    client.allocate(&mut world);
    assert!(!to_stranger(&mut world, &client, &binding));
    let refresh = client.signed(&refresh(600));
    assert!(!to_stranger(&mut world, &client, &refresh));
}

#[test]
fn a_client_is_served_while_it_has_an_allocation() {
    let mut world = World::new();
    let mut client = client(1);
    let served = |world: &mut World, client: &Client| {
        let served = world.shards[0].find_allocation(&client.client);
        assert_eq!(world.shards[0].has_or_awaits_allocation(&client.client), served);
        served
    };
    assert!(!served(&mut world, &client));
    client.allocate(&mut world);
    assert!(served(&mut world, &client));
    assert_eq!(client.request(&mut world, &refresh(0)).code(), 0);
    assert!(!served(&mut world, &client));
}

#[test]
fn datagrams_for_a_client_go_the_way_its_last_request_came() {
    let mut world = World::new();
    let mut client = client_over(1, Transport::Udp);
    let (relayed, peer) = (client.allocate(&mut world), addr("192.0.2.1:7000"));
    client.permit(&mut world, &[peer]);
    client.client.link = Link(0xB);
    client.permit(&mut world, &[peer]);
    let Delivered::Data { client: to, .. } = world.peer(peer, relayed, b"x") else {
        panic!("a Data indication");
    };
    assert_eq!(to, client.client);
}
