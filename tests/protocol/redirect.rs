//! Redirection (RFC 8489 §10): another server takes new clients while this one drains.

use std::net::SocketAddr;

use relay_proto::base::address::Transport;
use relay_proto::turn::Refusal;
use relay_proto::turn::config::redirect::{Alternate, Redirect};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::{Integrity, PasswordAlgorithm};
use relay_proto::wire::message::Method;

use crate::refusals::only;
use relay_testkit::world::*;

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
        transports: [true; Transport::ALL.len()],
        serve_others: None,
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
    let message = relay_proto::wire::message::Message::parse(bytes).unwrap();
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

/// Clients that cannot follow are still served, for a time that counts from the first redirection.
//= STUN-BIND-11
#[test]
fn clients_over_transports_that_are_not_named_are_served_until_a_deadline() {
    let only_udp = || Redirect {
        transports: Transport::ALL.map(|transport| transport == Transport::Udp),
        serve_others: Some(secs(3600)),
        ..away()
    };
    let codes = |world: &mut World, n: u16| {
        Transport::ALL.map(|transport| {
            let mut client = client_over(n + transport as u16, transport);
            client.request(world, &allocate()).code()
        })
    };
    let mut world = World::new();
    world.pass(secs(5000));
    assert_eq!(codes(&mut world, 10), [0; 4]);
    world.reload(|config| config.redirect = only_udp());
    assert_eq!(codes(&mut world, 20), [300, 0, 0, 0]);
    // Another address, or a reload of another setting, does not restart the time.
    world.pass(secs(1800));
    world.reload(|config| {
        config.redirect = Redirect {
            ipv4: Some(addr("198.51.100.78:3478")),
            ..only_udp()
        };
    });
    world.pass_unnoticed(just_before(secs(1800)));
    assert_eq!(codes(&mut world, 30), [300, 0, 0, 0]);
    world.pass_unnoticed(secs(1));
    assert_eq!(codes(&mut world, 40), [300; 4]);
    // Removed and set again: the time restarts.
    world.reload(|config| config.redirect = Redirect::default());
    assert_eq!(codes(&mut world, 50), [0; 4]);
    world.reload(|config| config.redirect = only_udp());
    assert_eq!(codes(&mut world, 60), [300, 0, 0, 0]);

    let mut never = World::new();
    never.reload(|config| {
        config.redirect = Redirect {
            serve_others: None,
            ..only_udp()
        };
    });
    never.pass(secs(1_000_000));
    assert_eq!(codes(&mut never, 70), [300, 0, 0, 0]);
    let mut nobody = World::new();
    nobody.reload(|config| {
        config.redirect = Redirect {
            transports: [false; 4],
            ..only_udp()
        };
    });
    assert_eq!(codes(&mut nobody, 80), [0; 4], "not even over UDP");
    nobody.pass(secs(3600));
    assert_eq!(codes(&mut nobody, 90), [300; 4]);
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

#[test]
fn a_redirected_client_is_counted_and_routine() {
    let (v4, v6) = (addr("192.0.2.99:3478"), addr("[2001:db8::99]:3478"));
    let mut world = World::with(|config| {
        config.redirect.ipv4 = Some(v4);
        config.redirect.ipv6 = Some(v6);
        config.redirect.transports = [true; Transport::ALL.len()];
    });
    let mut client = client(1);
    let (server, other) = if client.client.five_tuple.client.is_ipv4() {
        (v4, v6)
    } else {
        (v6, v4)
    };
    assert_eq!(client.request(&mut world, &allocate()).code(), 300);
    let refused = only(&mut world);
    let to = Alternate {
        server,
        other: Some(other),
        domain: None,
    };
    assert_eq!((refused.refusal, refused.routine), (Refusal::Redirected { to }, true));
}

#[test]
fn an_operators_drain_refuses_newcomers_at_once_and_leaves_live_calls_alone() {
    let mut world = World::sharded(2, |_| {});
    let mut live = client_over(1, Transport::Udp);
    live.allocate(&mut world);
    let to = Redirect {
        transports: Transport::ALL.map(|transport| transport == Transport::Udp),
        ..away()
    };
    world.shared.set_draining(Some(to));
    assert!(world.shared.is_draining());
    // Those that can follow are sent on, the others are refused, at every shard.
    for (n, transport, shard, code) in [
        (2, Transport::Udp, 0, 300),
        (3, Transport::Udp, 1, 300),
        (4, Transport::Tls, 0, 508),
        (5, Transport::Tcp, 1, 508),
    ] {
        let mut client = client_over(n, transport).at_shard(shard);
        assert_eq!(client.request(&mut world, &allocate()).code(), code, "{transport:?}");
    }
    assert_eq!(live.request(&mut world, &refresh(600)).code(), 0);
    live.permit(&mut world, &[addr("192.0.2.1:7000")]);
    world.shared.set_draining(Some(Redirect::default()));
    assert_eq!(
        client_over(6, Transport::Udp).request(&mut world, &allocate()).code(),
        508,
        "nowhere to go"
    );
    world.shared.set_draining(None);
    client_over(7, Transport::Tls).allocate(&mut world);
}
