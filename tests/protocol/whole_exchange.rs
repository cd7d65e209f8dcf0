//! The same exchange over every transport, for clients and relayed addresses of both IP versions.
//! What a client sends reaches its peers unchanged, and what they send comes back, up to the size
//! limits of a datagram.

use std::net::SocketAddr;

use relay_proto::base::address::Transport;
use relay_proto::turn::DropReason;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use crate::every_client::*;
use relay_testkit::world::*;

const V4: u8 = 1;
const V6: u8 = 2;

fn peer_of(family: u8) -> SocketAddr {
    addr(if family == V4 {
        "192.0.2.1:7000"
    } else {
        "[2001:db8::1]:7000"
    })
}

/// Every client with an allocation of every family.
fn every_pair(mut story: impl FnMut(World, Client, SocketAddr, SocketAddr)) {
    for client in every_client() {
        for family in [V4, V6] {
            let (mut world, mut client) = (World::new(), client.clone());
            let relayed = client.request(&mut world, &allocate().family(family)).relayed()[0];
            assert_eq!(relayed.is_ipv4(), family == V4);
            story(world, client, relayed, peer_of(family));
        }
    }
}

//= XPORT-01
//= STUN-BIND-01
//= STUN-BIND-02
//= TURN-ALLOC-14
//= TURN-ALLOC-30
//= TURN-DATA-05
//= TURN-DATA-07
//= TURN-DATA-08
//= TURN-REFR-01
#[test]
fn a_whole_session_over_every_transport_and_ip_version() {
    every_pair(|mut world, mut client, relayed, peer| {
        let binding = client.send_plain(&mut world, &request(Method::Binding));
        assert_eq!(binding.mapped(), client.addr(), "{}", story(&client));
        client.permit(&mut world, &[peer]);
        let sent = client.send(&mut world, peer, b"by indication").sent();
        assert_eq!(
            (sent.to, sent.from.port(), &sent.data[..]),
            (peer, relayed.port(), &b"by indication"[..])
        );
        assert!(
            world.peer(peer, relayed, b"back").is_data(peer, b"back"),
            "{}",
            story(&client)
        );
        client.bind(&mut world, 0x4000, peer);
        let sent = client.channel_data(&mut world, 0x4000, b"by channel").sent();
        assert_eq!(
            (sent.to, sent.from.port(), &sent.data[..]),
            (peer, relayed.port(), &b"by channel"[..])
        );
        assert!(
            world.peer(peer, relayed, b"back").is_channel(0x4000, b"back"),
            "{}",
            story(&client)
        );
        assert_eq!(client.request(&mut world, &refresh(0)).lifetime(), secs(0));
        world.assert_empty();
        assert_eq!(world.peer(peer, relayed, b"late"), Delivered::Unreachable);
        assert_eq!(
            client.channel_data(&mut world, 0x4000, b"late"),
            Answer::Dropped(DropReason::NoAllocation)
        );
        assert_eq!(client.request(&mut world, &refresh(600)).code(), 437);
    });
}

//= XPORT-17
//= TURN-GEN-04
#[test]
fn every_five_tuple_is_a_client_of_its_own() {
    let mut world = World::new();
    let mut relayed = std::collections::BTreeSet::new();
    let mut clients = Vec::new();
    for v6 in [false, true] {
        for transport in Transport::ALL {
            for server in [3478, 443] {
                let mut client = client_of(1, transport, v6);
                client.client.five_tuple.server.set_port(server);
                relayed.insert(client.allocate(&mut world));
                clients.push(client);
            }
        }
    }
    assert_eq!(relayed.len(), 16);
    // Each ends only its own allocation.
    for (gone, client) in (1..).zip(&mut clients) {
        assert_eq!(client.request(&mut world, &refresh(0)).code(), 0);
        assert_eq!(world.shards[0].allocations(), 16 - gone);
        assert_eq!(client.request(&mut world, &refresh(600)).code(), 437);
    }
}

//= TURN-DATA-02
//= TURN-DATA-05
//= TURN-CHAN-13
//= TURN-CHAN-15
//= TURN-CHAN-16
//= STUN-MSG-24
#[test]
fn the_smallest_and_largest_application_data_goes_to_the_peer_unchanged() {
    every_pair(|mut world, mut client, relayed, peer| {
        client.bind(&mut world, 0x4000, peer);
        let most = if relayed.is_ipv4() { 65_507 } else { 65_527 };
        for size in (0..=9).chain([1199, 1200, 1500, most - 1, most]) {
            let data: Vec<u8> = (0..size).map(|n| (n * 7) as u8).collect();
            let sent = client.channel_data(&mut world, 0x4000, &data).sent();
            assert_eq!(sent.data, data, "{size} bytes, {}", story(&client));
            // Padding of up to three bytes is not part of the data, on every transport.
            for padding in 0..4 {
                let padded = [channel_data(0x4000, &data), vec![0xFF; padding]].concat();
                assert_eq!(world.packet(&client, &padded).sent().data, data);
            }
            if size <= 65_480 {
                assert_eq!(client.send(&mut world, peer, &data).sent().data, data);
            }
        }
        // The next one works after one that is too long.
        for size in [most + 1, 65_535] {
            let answer = client.channel_data(&mut world, 0x4000, &vec![0; size]);
            assert_eq!(
                answer,
                Answer::Dropped(DropReason::TooLong),
                "{size} bytes, {}",
                story(&client)
            );
        }
        client.channel_data(&mut world, 0x4000, b"x").sent();
        assert!(world.closed_streams.is_empty());
    });
}

//= TURN-DATA-02
//= TURN-DATA-07
//= TURN-DATA-09
//= TURN-CHAN-13
#[test]
fn what_a_peer_sends_arrives_as_long_as_it_can_be_expressed() {
    every_pair(|mut world, mut client, relayed, peer| {
        let stream = client.client.five_tuple.transport.is_stream();
        let datagram = if client.addr().is_ipv4() { 65_507 } else { 65_527 };
        // Header of a Data indication, and data rounded up to four.
        let header = if relayed.is_ipv4() { 36 } else { 48 };
        let by_indication = match stream {
            true => 65_532 - (header - 20),
            false => (datagram - header) / 4 * 4,
        };
        let by_channel = match client.client.five_tuple.transport {
            Transport::Tcp | Transport::Tls => 65_535,
            Transport::Dtls => (datagram - 4) / 4 * 4,
            Transport::Udp => datagram - 4,
        };
        let bytes = |size: usize| vec![0xA5; size];
        client.permit(&mut world, &[peer]);
        for size in [0, 1, 2, 3, 4, 1200, by_indication - 1, by_indication] {
            assert!(
                world.peer(peer, relayed, &bytes(size)).is_data(peer, &bytes(size)),
                "{size}, {}",
                story(&client)
            );
        }
        let too_long = Delivered::Dropped(DropReason::TooLong);
        assert_eq!(
            world.peer(peer, relayed, &bytes(by_indication + 1)),
            too_long,
            "{}",
            story(&client)
        );
        client.bind(&mut world, 0x4ABC, peer);
        for size in [0, 1, 2, 3, 4, 1200, by_channel - 1, by_channel] {
            assert!(
                world.peer(peer, relayed, &bytes(size)).is_channel(0x4ABC, &bytes(size)),
                "{size}, {}",
                story(&client)
            );
        }
        assert_eq!(
            world.peer(peer, relayed, &bytes(by_channel + 1)),
            too_long,
            "{}",
            story(&client)
        );
        assert_eq!(world.dropped(DropReason::TooLong), 2);
    });
}

//= TURN-DATA-10
//= TURN-NET-06
//= TURN-NET-07
//= TURN-ALLOC-09
#[test]
fn dont_fragment_is_obeyed_unless_a_datagram_changes_its_ip_version() {
    every_pair(|mut world, mut client, relayed, peer| {
        client.bind(&mut world, 0x4000, peer);
        let asked = send_indication(peer, b"x").with(AttributeType::DONT_FRAGMENT, []);
        let stream = client.client.five_tuple.transport.is_stream();
        let expected = stream || client.addr().is_ipv4() == relayed.is_ipv4();
        assert_eq!(
            client.send_plain(&mut world, &asked).sent().dont_fragment,
            expected,
            "{}",
            story(&client)
        );
        assert!(!client.send(&mut world, peer, b"x").sent().dont_fragment);
        assert!(!client.channel_data(&mut world, 0x4000, b"x").sent().dont_fragment);
    });
}

//= TURN-GEN-02
//= TURN-DATA-01
//= TURN-DATA-03
//= TURN-DATA-04
//= TURN-CHAN-11
//= STUN-MSG-18
#[test]
fn indications_and_channel_data_that_cannot_be_relayed_are_silent_everywhere() {
    every_pair(|mut world, mut client, relayed, peer| {
        client.permit(&mut world, &[peer]);
        let stranger = SocketAddr::from((peer_of(if relayed.is_ipv4() { V4 } else { V6 }).ip(), 0));
        let other = addr(if relayed.is_ipv4() {
            "192.0.2.9:1"
        } else {
            "[2001:db8::9]:1"
        });
        let indication = || message(relay_proto::wire::message::Class::Indication, Method::Send);
        let cases = [
            indication(),
            indication().peer(peer),
            indication().with(AttributeType::DATA, b"x"),
            indication()
                .with(AttributeType::XOR_PEER_ADDRESS, [0, 1, 2])
                .with(AttributeType::DATA, b"x"),
            indication()
                .with(AttributeType::XOR_PEER_ADDRESS, [0, 9, 0, 0, 1, 2, 3, 4])
                .with(AttributeType::DATA, b"x"),
            send_indication(peer, b"x").with(AttributeType(0x7FFE), []),
            send_indication(stranger, b"x"),
            send_indication(other, b"x"),
        ];
        for (n, case) in cases.iter().enumerate() {
            assert!(
                matches!(client.send_plain(&mut world, case), Answer::Dropped(_)),
                "case {n}, {}",
                story(&client)
            );
        }
        assert!(matches!(
            client.channel_data(&mut world, 0x4001, b"x"),
            Answer::Dropped(DropReason::NoChannel)
        ));
        assert!(world.closed_streams.is_empty());
        client.send(&mut world, peer, b"x").sent();
    });
}

//= TURN-GEN-06
//= TURN-GEN-08
//= TURN-ALLOC-36
//= TURN-PERM-08
//= TURN-CHAN-08
//= TURN-CHAN-10
#[test]
fn every_timer_runs_alike_everywhere() {
    let tick = std::time::Duration::from_nanos(1);
    every_pair(|mut world, mut client, relayed, peer| {
        client.request(&mut world, &refresh(1200));
        client.bind(&mut world, 0x4000, peer);
        world.pass_unnoticed(just_before(secs(300)));
        assert!(
            world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"),
            "{}",
            story(&client)
        );
        client.send(&mut world, peer, b"x").sent();
        world.pass_unnoticed(tick);
        let not_permitted = DropReason::NoPermission;
        assert_eq!(
            world.peer(peer, relayed, b"x"),
            Delivered::Dropped(not_permitted),
            "{}",
            story(&client)
        );
        assert_eq!(client.send(&mut world, peer, b"x"), Answer::Dropped(not_permitted));
        world.pass_unnoticed(just_before(secs(300)));
        client.channel_data(&mut world, 0x4000, b"x").sent();
        world.pass_unnoticed(tick);
        let no_channel = Answer::Dropped(DropReason::NoChannel);
        assert_eq!(
            client.channel_data(&mut world, 0x4000, b"x"),
            no_channel,
            "{}",
            story(&client)
        );
        client.bind(&mut world, 0x4001, peer);
        world.pass_unnoticed(secs(300));
        client.bind(&mut world, 0x4001, peer);
        world.pass_unnoticed(just_before(secs(300)));
        client.permit(&mut world, &[peer]);
        assert!(
            world.peer(peer, relayed, b"x").is_channel(0x4001, b"x"),
            "{}",
            story(&client)
        );
        world.pass_unnoticed(tick);
        let over = DropReason::NoAllocation;
        assert_eq!(
            world.peer(peer, relayed, b"x"),
            Delivered::Dropped(over),
            "{}",
            story(&client)
        );
        assert_eq!(client.channel_data(&mut world, 0x4001, b"x"), Answer::Dropped(over));
        assert_eq!(client.send(&mut world, peer, b"x"), Answer::Dropped(over));
        world.pass(secs(1));
        world.assert_empty();
    });
}

//= TURN-REFR-05
//= TURN-ALLOC-23
#[test]
fn a_refresh_without_family_moves_both_halves_of_a_dual_allocation() {
    for client in every_client() {
        let (mut world, mut client) = (World::new(), client);
        let relayed = client
            .request(&mut world, &allocate().also(V6).even_port(false))
            .relayed();
        assert!(
            relayed.iter().all(|relayed| relayed.port().is_multiple_of(2)),
            "EVEN-PORT is for both"
        );
        assert_eq!(client.request(&mut world, &refresh(900)).lifetime(), secs(900));
        world.pass(secs(800));
        client.permit(&mut world, &[peer_of(V4), peer_of(V6)]);
        world.pass_unnoticed(just_before(secs(100)));
        for (peer, relayed) in [(peer_of(V4), relayed[0]), (peer_of(V6), relayed[1])] {
            assert!(
                world.peer(peer, relayed, b"x").is_data(peer, b"x"),
                "{}",
                story(&client)
            );
        }
        world.pass(secs(1));
        world.assert_empty();
        let relayed = client.request(&mut world, &allocate().also(V6)).relayed();
        assert_eq!(
            (relayed.len(), client.request(&mut world, &refresh(0)).lifetime()),
            (2, secs(0))
        );
        world.assert_empty();
    }
}
