//! Send and Data indications (RFC 8656 §11), and what they share with channels.

use relay_proto::base::address::Transport;
use relay_proto::turn::DropReason;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::{Class, Method};

use relay_testkit::world::*;

fn permitted() -> (World, Client, std::net::SocketAddr, std::net::SocketAddr) {
    permitted_to(client(1))
}

fn permitted_to(mut client: Client) -> (World, Client, std::net::SocketAddr, std::net::SocketAddr) {
    let mut world = World::new();
    let peer = addr("192.0.2.1:7000");
    let relayed = client.allocate(&mut world);
    client.permit(&mut world, &[peer]);
    (world, client, relayed, peer)
}

fn indication() -> Message {
    message(Class::Indication, Method::Send)
}

//= TURN-DATA-01
#[test]
fn a_send_without_peer_or_data_goes_nowhere() {
    let (mut world, mut client, _, peer) = permitted();
    let cases = [
        indication().peer(peer),
        indication().with(AttributeType::DATA, b"x"),
        indication()
            .with(AttributeType::XOR_PEER_ADDRESS, [0, 1, 2])
            .with(AttributeType::DATA, b"x"),
        send_indication(peer, b"x").with(AttributeType::DONT_FRAGMENT, [0; 4]),
    ];
    for message in cases {
        assert_eq!(
            client.send_plain(&mut world, &message),
            Answer::Dropped(DropReason::IncompleteIndication)
        );
    }
}

//= STUN-MSG-18
#[test]
fn a_send_with_an_unknown_required_attribute_is_dropped() {
    let (mut world, mut client, _, peer) = permitted();
    let unknown = send_indication(peer, b"x").with(AttributeType(0x7FFE), []);
    assert_eq!(
        client.send_plain(&mut world, &unknown),
        Answer::Dropped(DropReason::UnknownAttribute)
    );
    let optional = send_indication(peer, b"x").with(AttributeType(0xC057), []);
    client.send_plain(&mut world, &optional).sent();
}

//= TURN-DATA-02
//= TURN-DATA-05
//= TURN-DATA-07
#[test]
fn data_of_every_size_goes_through_unchanged() {
    let (mut world, mut client, relayed, peer) = permitted();
    for size in [0, 1, 2, 3, 4, 160, 1200, 1500, 9000, 65_000] {
        let data: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let sent = client.send(&mut world, peer, &data).sent();
        assert_eq!(
            (sent.from.port(), sent.to, sent.data),
            (relayed.port(), peer, data.clone())
        );
        match world.peer(peer, relayed, &data) {
            Delivered::Data {
                client: to,
                peer: from,
                data: received,
            } => {
                assert_eq!((to, from, received), (client.client, peer, data));
            }
            other => panic!("{size} bytes: {other:?}"),
        }
    }
}

//= TURN-DATA-03
#[test]
fn a_send_makes_no_permission() {
    let (mut world, mut client, relayed, _) = permitted();
    let stranger = addr("192.0.2.2:7000");
    for _ in 0..2 {
        assert_eq!(
            client.send(&mut world, stranger, b"x"),
            Answer::Dropped(DropReason::NoPermission)
        );
        assert_eq!(
            world.peer(stranger, relayed, b"x"),
            Delivered::Dropped(DropReason::NoPermission)
        );
    }
}

//= TURN-DATA-04
#[test]
fn denied_ports_are_not_reached_even_with_a_permission() {
    let (mut world, mut client, relayed, peer) = permitted();
    for port in [0, 53, 123, 11_211] {
        let to = (peer.ip(), port).into();
        assert_eq!(
            client.send(&mut world, to, b"x"),
            Answer::Dropped(DropReason::PeerDenied),
            "port {port}"
        );
        assert_eq!(
            world.peer(to, relayed, b"x"),
            Delivered::Dropped(DropReason::PeerDenied),
            "port {port}"
        );
        client.send(&mut world, peer, b"x").sent();
    }
    let mapped = addr("[::ffff:192.0.2.1]:7000");
    assert_eq!(
        client.send(&mut world, mapped, b"x"),
        Answer::Dropped(DropReason::PeerDenied)
    );
}

//= TURN-DATA-06
#[test]
fn a_dual_allocation_sends_from_the_relay_of_the_peers_family() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.request(&mut world, &allocate().also(2)).relayed();
    let (peer4, peer6) = (addr("192.0.2.1:7000"), addr("[2001:db8::1]:7000"));
    client.permit(&mut world, &[peer4, peer6]);
    let from = |answer: Answer| answer.sent().from;
    let (from4, from6) = (
        from(client.send(&mut world, peer4, b"x")),
        from(client.send(&mut world, peer6, b"x")),
    );
    assert!(from4.is_ipv4() && from4.port() == relayed[0].port());
    assert!(from6.is_ipv6() && from6 == relayed[1]);
    assert!(world.peer(peer6, relayed[1], b"abc").is_data(peer6, b"abc"));
}

//= TURN-DATA-06
#[test]
fn a_peer_of_the_other_family_cannot_be_reached() {
    let (mut world, mut client, ..) = permitted();
    let peer = addr("[2001:db8::1]:7000");
    assert_eq!(
        client.send(&mut world, peer, b"x"),
        Answer::Dropped(DropReason::FamilyMismatch)
    );
}

//= TURN-DATA-08
#[test]
fn once_a_channel_is_bound_data_comes_by_it_and_a_send_still_works() {
    let (mut world, mut client, relayed, peer) = permitted();
    assert!(world.peer(peer, relayed, b"x").is_data(peer, b"x"));
    client.bind(&mut world, 0x4005, peer);
    assert!(world.peer(peer, relayed, b"x").is_channel(0x4005, b"x"));
    client.send(&mut world, peer, b"x").sent();
}

//= TURN-DATA-09
#[test]
fn datagrams_too_long_for_the_client_are_dropped() {
    let (mut world, mut client, relayed, peer) = permitted_to(client_over(1, Transport::Udp));
    let long = vec![0; 65_507];
    assert_eq!(
        world.peer(peer, relayed, &long),
        Delivered::Dropped(DropReason::TooLong)
    );
    client.bind(&mut world, 0x4000, peer);
    assert_eq!(
        world.peer(peer, relayed, &long),
        Delivered::Dropped(DropReason::TooLong)
    );
    assert!(world.peer(peer, relayed, &long[4..]).is_channel(0x4000, &long[4..]));
}

#[test]
fn a_stream_client_cannot_send_more_than_a_datagram_holds() {
    let mut world = World::new();
    let (mut client, peer) = (client_over(1, Transport::Tcp), addr("192.0.2.1:7000"));
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer);
    let too_long = Answer::Dropped(DropReason::TooLong);
    assert_eq!(client.channel_data(&mut world, 0x4000, &[0; 65_508]), too_long);
    assert_eq!(
        client.channel_data(&mut world, 0x4000, &[0; 65_507]).sent().data.len(),
        65_507
    );
}

//= TURN-DATA-10
//= TURN-NET-07
#[test]
fn dont_fragment_is_for_one_datagram_of_the_clients_own_ip_version() {
    let (mut world, mut client, _, peer) = permitted_to(client_over(1, Transport::Udp));
    let message = send_indication(peer, b"x").with(AttributeType::DONT_FRAGMENT, []);
    assert!(client.send_plain(&mut world, &message).sent().dont_fragment);
    assert!(!client.send(&mut world, peer, b"x").sent().dont_fragment);

    let mut v6 = client_over(2, Transport::Udp);
    v6.client.five_tuple.client = addr("[2001:db8:1::1]:5000");
    v6.allocate(&mut world);
    v6.permit(&mut world, &[peer]);
    assert!(!v6.send_plain(&mut world, &message).sent().dont_fragment);
}

//= TURN-GEN-02
//= STUN-AUTH-23
#[test]
fn indications_are_not_authenticated_and_need_an_allocation() {
    let (mut world, mut client, _, peer) = permitted();
    let signed = send_indication(peer, b"x").with(AttributeType::DATA, b"y");
    let packet = client.clone().user("mallory", "guess").signed(&signed);
    assert_eq!(world.packet(&client, &packet).sent().data, b"x");
    let answer = relay_testkit::world::client(2).send(&mut world, peer, b"x");
    assert_eq!(answer, Answer::Dropped(DropReason::NoAllocation));
    client.request(&mut world, &refresh(0));
    assert_eq!(
        client.send(&mut world, peer, b"x"),
        Answer::Dropped(DropReason::NoAllocation)
    );
}

//= STUN-MSG-13
#[test]
fn of_two_peers_in_a_send_the_first_is_meant() {
    let (mut world, mut client, _, peer) = permitted();
    let other = addr("192.0.2.2:7000");
    client.permit(&mut world, &[other]);
    let message = indication().peer(peer).peer(other).with(AttributeType::DATA, b"x");
    assert_eq!(client.send_plain(&mut world, &message).sent().to, peer);
}

#[test]
fn our_own_listener_is_neither_sent_to_nor_heard() {
    let (mut world, mut client, relayed, _) = permitted();
    let listener = addr("198.51.100.1:3478");
    assert_eq!(client.request(&mut world, &create_permission(&[listener])).code(), 403);
    // A permission for the relay's address is valid, and admits nothing from a listener there.
    world.reload(|config| config.policy = policy(&[]));
    client.permit(&mut world, &[relayed]);
    let from_listener = (relayed.ip(), 3478).into();
    assert_eq!(
        world.peer(from_listener, relayed, b"401"),
        Delivered::Dropped(DropReason::PeerDenied)
    );
}
