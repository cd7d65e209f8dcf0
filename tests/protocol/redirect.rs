//! Redirection (RFC 8489 §10): another server takes new clients while this one is drained.

use std::net::SocketAddr;

use relay::turn::config::Redirect;
use relay::turn::types::Transport;
use relay::wire::attribute::AttributeType;
use relay::wire::integrity::{Integrity, PasswordAlgorithm};
use relay::wire::message::Method;

use crate::world::*;

const ALTERNATE_V4: &str = "198.51.100.77:3478";
const ALTERNATE_V6: &str = "[2a00:1450:2::77]:5349";

/// The attribute's value for [`ALTERNATE_V4`] and [`ALTERNATE_V6`].
const PLAIN_V4: &[u8] = &[0, 1, 0x0D, 0x96, 198, 51, 100, 77];
const PLAIN_V6: &[u8] = &[
    0, 2, 0x14, 0xE5, 0x2A, 0, 0x14, 0x50, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77,
];

fn away() -> Redirect {
    Redirect {
        ipv4: Some(addr(ALTERNATE_V4)),
        ipv6: Some(addr(ALTERNATE_V6)),
        domain: Some("turn2.example.org".into()),
    }
}

fn drained(world: &mut World) {
    world.reload(|config| config.redirect = away());
}

fn from(address: &str, n: u16, transport: Transport) -> Client {
    let mut client = client_over(n, transport);
    client.client.five_tuple.client = SocketAddr::new(ip(address), 4000 + n);
    client
}

fn servers(answer: &Answer) -> Vec<Vec<u8>> {
    let Answer::Response(bytes) = answer else {
        panic!("not a response: {answer:?}")
    };
    let message = relay::wire::message::Message::parse(bytes).unwrap();
    let values = message.attributes_of(AttributeType::ALTERNATE_SERVER);
    values.map(<[u8]>::to_vec).collect()
}

//= STUN-BIND-11
#[test]
fn who_would_allocate_is_told_another_server_of_its_own_family_first() {
    for transport in Transport::ALL {
        let mut world = World::with(|config| config.redirect = away());
        for (source, expected) in [
            ("203.0.113.5", [PLAIN_V4, PLAIN_V6]),
            ("2a00:1450::5", [PLAIN_V6, PLAIN_V4]),
        ] {
            let mut client = from(source, 1, transport);
            let answer = client.request(&mut world, &allocate());
            assert_eq!(answer.code(), 300, "{transport}");
            assert_eq!(servers(&answer), expected, "{transport} from {source}");
            assert!(answer.is_signed(&client.key(), Integrity::Sha1), "{transport}");
            let domain = answer.attribute(AttributeType::ALTERNATE_DOMAIN);
            let certified = matches!(transport, Transport::Tls | Transport::Dtls);
            let expected = certified.then_some(&b"turn2.example.org"[..]);
            assert_eq!(
                domain.as_deref(),
                expected,
                "{transport}: a name for where there are certificates"
            );
        }
        world.assert_empty();
    }
}

//= STUN-BIND-11
#[test]
fn a_redirection_is_signed_the_way_its_request_was() {
    let mut world = World::with(|config| config.redirect = away());
    let mut client = client_over(1, Transport::Tls);
    client.algorithm = Some(PasswordAlgorithm::Sha256);
    client.integrity = Integrity::Sha256;
    let answer = client.request(&mut world, &allocate());
    assert_eq!(answer.code(), 300);
    assert!(answer.is_signed(&client.key(), Integrity::Sha256));
}

//= STUN-BIND-11
#[test]
fn strangers_and_bad_requests_are_told_nothing_of_the_other_server() {
    let mut world = World::with(|config| config.redirect = away());
    assert_eq!(client(1).send_plain(&mut world, &allocate()).code(), 401);
    let mut guessing = client(2).user("alice", "guessed");
    assert_eq!(guessing.request(&mut world, &allocate()).code(), 401);
    let mut unknown = client(3);
    let odd = allocate().with(AttributeType(0x7FFE), []);
    assert_eq!(unknown.request(&mut world, &odd).code(), 420);
    let bad = allocate().without(AttributeType::REQUESTED_TRANSPORT);
    assert_eq!(client(4).request(&mut world, &bad).code(), 400);
    assert_eq!(client(5).send_plain(&mut world, &request(Method::Binding)).code(), 0);
}

//= STUN-BIND-11
#[test]
fn a_client_whose_family_has_no_other_server_stays() {
    let mut world = World::with(|config| config.redirect = Redirect { ipv6: None, ..away() });
    assert_eq!(
        from("203.0.113.5", 1, Transport::Udp)
            .request(&mut world, &allocate())
            .code(),
        300
    );
    assert_eq!(
        from("2a00:1450::5", 2, Transport::Udp)
            .request(&mut world, &allocate())
            .code(),
        0
    );
}

//= STUN-BIND-11
#[test]
fn allocations_that_are_there_go_on_when_a_node_is_drained() {
    let mut world = World::new();
    let peer = addr("192.0.2.9:4000");
    let mut client = client(1);
    let relayed = client.allocate(&mut world);
    drained(&mut world);
    client.permit(&mut world, &[peer]);
    client.bind(&mut world, 0x4001, peer);
    assert_eq!(client.channel_data(&mut world, 0x4001, b"on").sent().data, b"on");
    assert!(world.peer(peer, relayed, b"back").is_channel(0x4001, b"back"));
    world.pass(secs(500));
    assert_eq!(client.request(&mut world, &refresh(600)).code(), 0);
    world.pass(secs(500));
    assert_eq!(
        client.request(&mut world, &allocate()).code(),
        437,
        "it has an allocation, and no other server knows that"
    );
    assert_eq!(client.request(&mut world, &refresh(0)).code(), 0);
    assert_eq!(
        client.request(&mut world, &allocate()).code(),
        300,
        "the next one is elsewhere"
    );
    world.reload(|config| config.redirect = Redirect::default());
    client.allocate(&mut world);
}

//= STUN-BIND-11
#[test]
fn a_reserved_port_is_still_had_from_the_node_that_reserved_it() {
    let mut world = World::new();
    let answer = client(1).request(&mut world, &allocate().even_port(true));
    let token = answer.token().unwrap();
    drained(&mut world);
    let answer = client(2).request(&mut world, &allocate().with(AttributeType::RESERVATION_TOKEN, token));
    assert_eq!(answer.code(), 0);
}
