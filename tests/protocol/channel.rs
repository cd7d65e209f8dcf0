//! ChannelBind and ChannelData (RFC 8656 §12).

use std::time::Duration;

use relay_proto::base::address::Transport;
use relay_proto::turn::DropReason;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

const NO_CHANNEL: Answer = Answer::Dropped(DropReason::NoChannel);

fn bound() -> (World, Client, std::net::SocketAddr, std::net::SocketAddr) {
    let mut world = World::new();
    let (mut client, peer) = (client(1), addr("192.0.2.1:7000"));
    let relayed = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer);
    (world, client, relayed, peer)
}

//= TURN-CHAN-01
//= TURN-CHAN-03
#[test]
fn number_and_peer_must_be_there_and_well_formed() {
    let mut world = World::new();
    let (mut client, peer) = (client(1), addr("192.0.2.1:7000"));
    client.allocate(&mut world);
    let number = |value: &[u8]| request(Method::ChannelBind).with(AttributeType::CHANNEL_NUMBER, value);
    let cases = [
        number(&[0x40, 0, 0, 0]),
        request(Method::ChannelBind).peer(peer),
        number(&[0x40, 0]).peer(peer),
        number(&[0x40, 0, 0, 0, 0, 0, 0, 0]).peer(peer),
        number(&[0x40, 0, 0, 0]).with(AttributeType::XOR_PEER_ADDRESS, [0, 1, 2]),
        channel_bind(0x4000, addr("192.0.2.1:0")),
    ];
    for (n, message) in cases.iter().enumerate() {
        assert_eq!(client.request(&mut world, message).code(), 400, "case {n}");
    }
    assert_eq!(
        client
            .request(&mut world, &number(&[0x40, 0, 0xFF, 0xFF]).peer(peer))
            .code(),
        0,
        "RFFU is ignored"
    );
}

//= TURN-CHAN-02
//= COMPAT-02
//= D6
#[test]
fn channel_numbers_are_0x4000_to_0x4fff_unless_old_clients_are_served() {
    const CASES: [(u16, u16, u16); 8] = [
        (0x0000, 400, 400),
        (0x3FFF, 400, 400),
        (0x4000, 0, 0),
        (0x4FFF, 0, 0),
        (0x5000, 400, 0),
        (0x7FFF, 400, 0),
        (0x8000, 400, 400),
        (0xFFFF, 400, 400),
    ];
    for (n, (number, strict, lenient)) in (1..).zip(CASES) {
        for (old, code) in [(false, strict), (true, lenient)] {
            let mut world = World::with(|config| config.rfc5766_channels = old);
            let (mut client, peer) = (client(n), addr("192.0.2.1:7000"));
            client.allocate(&mut world);
            let answer = client.request(&mut world, &channel_bind(number, peer));
            assert_eq!(answer.code(), code, "{number:#06x} {old}");
            if code == 0 {
                assert_eq!(client.channel_data(&mut world, number, b"x").sent().to, peer);
            }
        }
    }
}

//= TURN-CHAN-04
#[test]
fn a_number_has_one_peer_and_a_peer_one_number() {
    let (mut world, mut client, relayed, peer) = bound();
    for (number, to) in [
        (0x4000, "192.0.2.1:7001"),
        (0x4000, "192.0.2.2:7000"),
        (0x4001, "192.0.2.1:7000"),
        // A bad request has precedence, whoever the other peer is.
        (0x4000, "[2001:db8::9]:7000"),
        (0x4000, "10.0.0.1:7000"),
    ] {
        assert_eq!(
            client.request(&mut world, &channel_bind(number, addr(to))).code(),
            400,
            "{number:#06x} {to}"
        );
    }
    assert_eq!(
        world.peer(addr("192.0.2.2:7000"), relayed, b"x"),
        Delivered::Dropped(DropReason::NoPermission)
    );
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x").sent().to, peer);
    assert_eq!(client.channel_data(&mut world, 0x4001, b"x"), NO_CHANNEL);
    // Another port of the same address is another peer.
    client.bind(&mut world, 0x4001, addr("192.0.2.1:7001"));
}

//= TURN-CHAN-04
#[test]
fn a_refused_bind_refreshes_nothing() {
    let (mut world, mut client, relayed, peer) = bound();
    world.pass(secs(299));
    assert_eq!(client.request(&mut world, &channel_bind(0x4001, peer)).code(), 400);
    world.pass(secs(1));
    assert_eq!(
        world.peer(peer, relayed, b"x"),
        Delivered::Dropped(DropReason::NoPermission)
    );
}

//= TURN-CHAN-05
//= TURN-CHAN-08
//= TURN-GEN-05
#[test]
fn the_same_bind_again_starts_both_timers_anew() {
    let (mut world, mut client, relayed, peer) = bound();
    client.request(&mut world, &refresh(3600));
    world.pass(secs(250));
    let packet = client.signed(&channel_bind(0x4000, peer));
    assert_eq!(world.packet(&client, &packet).code(), 0);
    assert_eq!(world.packet(&client, &packet).code(), 0, "a copy is a copy");
    world.pass_unnoticed(just_before(secs(300)));
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
    world.pass_unnoticed(secs(300));
    client.channel_data(&mut world, 0x4000, b"x").sent();
    world.pass_unnoticed(Duration::from_nanos(1));
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x"), NO_CHANNEL);
}

//= TURN-CHAN-06
#[test]
fn peers_that_cannot_or_must_not_be_reached_are_refused() {
    let (mut world, mut client, relayed, _) = bound();
    let cases = [
        ("[2001:db8::1]:7000".to_owned(), 443),
        ("10.0.0.1:7000".to_owned(), 403),
        ("[::ffff:192.0.2.9]:7000".to_owned(), 403),
        ("192.0.2.9:53".to_owned(), 403),
        ("198.51.100.1:3478".to_owned(), 403),
        (relayed.to_string(), 403),
    ];
    for (peer, code) in cases {
        assert_eq!(
            client.request(&mut world, &channel_bind(0x4001, addr(&peer))).code(),
            code,
            "{peer}"
        );
        assert_eq!(client.channel_data(&mut world, 0x4001, b"x"), NO_CHANNEL);
    }
}

//= TURN-CHAN-06
#[test]
fn channels_are_bounded() {
    let mut world = World::with(|config| config.limits.channels = 2);
    let mut client = client(1);
    client.allocate(&mut world);
    let peer = |n: u16| addr(&format!("192.0.2.1:{}", 7000 + n));
    client.bind(&mut world, 0x4000, peer(0));
    client.bind(&mut world, 0x4001, peer(1));
    assert_eq!(client.request(&mut world, &channel_bind(0x4002, peer(2))).code(), 508);
    client.bind(&mut world, 0x4001, peer(1));
    client.request(&mut world, &refresh(3600));
    world.pass(secs(600));
    client.nonce = None;
    client.bind(&mut world, 0x4002, peer(2));
}

//= TURN-CHAN-07
#[test]
fn a_bind_installs_the_permission() {
    let (mut world, mut client, relayed, _) = bound();
    let other_port = addr("192.0.2.1:9999");
    assert!(world.peer(other_port, relayed, b"x").is_data(other_port, b"x"));
    client.send(&mut world, other_port, b"x").sent();
}

//= TURN-CHAN-08
//= TURN-CHAN-09
#[test]
fn after_600_seconds_the_number_and_the_peer_are_free_again() {
    let (mut world, mut client, relayed, peer) = bound();
    client.request(&mut world, &refresh(3600));
    world.pass(secs(400));
    client.permit(&mut world, &[peer]);
    world.pass_unnoticed(just_before(secs(200)));
    client.channel_data(&mut world, 0x4000, b"x").sent();
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
    world.pass_unnoticed(Duration::from_nanos(1));
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x"), NO_CHANNEL);
    assert!(
        world.peer(peer, relayed, b"x").is_data(peer, b"x"),
        "permitted, but no channel"
    );
    client.bind(&mut world, 0x4001, peer);
    client.bind(&mut world, 0x4000, addr("192.0.2.2:7000"));
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4001, b"x"));
}

//= TURN-CHAN-10
//= D9
#[test]
fn when_the_permission_lapses_the_channel_goes_on_outwards_only() {
    let (mut world, mut client, relayed, peer) = bound();
    world.pass(secs(301));
    assert_eq!(
        world.peer(peer, relayed, b"x"),
        Delivered::Dropped(DropReason::NoPermission)
    );
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x").sent().to, peer);
    client.permit(&mut world, &[peer]);
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
}

//= TURN-CHAN-11
//= TURN-GEN-02
#[test]
fn channel_data_needs_a_channel_and_an_allocation() {
    let (mut world, mut client, ..) = bound();
    assert_eq!(client.channel_data(&mut world, 0x4001, b"x"), NO_CHANNEL);
    let mut stranger = relay_testkit::world::client(2);
    assert_eq!(
        stranger.channel_data(&mut world, 0x4000, b"x"),
        Answer::Dropped(DropReason::NoAllocation)
    );
}

//= TURN-CHAN-12
//= TURN-CHAN-13
//= TURN-CHAN-16
//= TURN-DATA-05
#[test]
fn the_length_field_rules() {
    let (mut world, client, relayed, peer) = bound();
    let packet = |len: u8, data: &[u8]| [&[0x40, 0, 0, len], data].concat();
    let bad = Answer::Dropped(DropReason::BadChannelData);
    assert_eq!(world.packet(&client, &packet(10, b"sixsix")), bad);
    assert_eq!(world.packet(&client, &[0x40, 0, 0]), bad);
    assert_eq!(world.packet(&client, &packet(4, b"fourmor")).sent().data, b"four");
    assert_eq!(world.packet(&client, &packet(0, b"")).sent().data, b"");
    let sent = world.packet(&client, &packet(3, b"odd")).sent();
    assert_eq!(
        (sent.from.port(), sent.to, &sent.data[..]),
        (relayed.port(), peer, &b"odd"[..])
    );
    assert!(world.peer(peer, relayed, b"").is_channel(0x4000, b""));
}

//= XPORT-04
#[test]
fn reserved_channel_numbers_are_dropped() {
    let (mut world, client, ..) = bound();
    for first in [0x50, 0x7F] {
        let packet = [first, 0, 0, 1, 0xAA];
        assert_eq!(
            world.packet(&client, &packet),
            Answer::Dropped(DropReason::BadChannelData)
        );
    }
}

//= TURN-CHAN-14
#[test]
fn channel_data_keeps_nothing_alive() {
    let (mut world, mut client, relayed, peer) = bound();
    client.request(&mut world, &refresh(3600));
    for _ in 0..300 {
        client.channel_data(&mut world, 0x4000, b"x").sent();
        assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
        world.pass(secs(1));
    }
    assert_eq!(
        world.peer(peer, relayed, b"x"),
        Delivered::Dropped(DropReason::NoPermission)
    );
    world.pass(secs(300));
    assert_eq!(client.channel_data(&mut world, 0x4000, b"x"), NO_CHANNEL);
}

//= TURN-CHAN-15
//= TURN-CHAN-16
#[test]
fn channel_data_is_padded_on_a_stream_and_over_dtls() {
    for transport in Transport::ALL {
        let mut world = World::new();
        let (mut client, peer) = (client_over(1, transport), addr("192.0.2.1:7000"));
        let relayed = client.allocate(&mut world);
        client.bind(&mut world, 0x4000, peer);
        for len in 0..=5usize {
            let expected = match transport {
                Transport::Udp => 0,
                Transport::Tcp | Transport::Tls | Transport::Dtls => len.next_multiple_of(4) - len,
            };
            match world.peer(peer, relayed, &[7; 5][..len]) {
                Delivered::Channel { padding, data, .. } => assert_eq!((padding, data.len()), (expected, len)),
                other => panic!("{other:?}"),
            }
        }
    }
}

//= TURN-CHAN-17
#[test]
fn all_4096_channels_can_be_bound() {
    let mut world = World::with(|config| config.limits.channels = 4096);
    let (mut client, peer) = (client(1), |n: u16| addr(&format!("192.0.2.1:{}", 20_000 + n)));
    client.allocate(&mut world);
    for n in 0..4096 {
        client.bind(&mut world, 0x4000 + n, peer(n));
    }
    for n in [0, 1, 2047, 4095] {
        assert_eq!(client.channel_data(&mut world, 0x4000 + n, b"x").sent().to, peer(n));
    }
}
