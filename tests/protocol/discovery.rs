//! NAT behaviour discovery (RFC 5780): the source, the destination and the length of responses.

use std::net::SocketAddr;
use std::sync::Arc;

use relay_proto::base::address::Transport;
use relay_proto::turn::config::discovery::{Discovery, OwnAddress};
use relay_proto::turn::{DropReason, ResponseRoute};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

/// A server behind 1:1 NAT for IPv4, and with its own addresses for IPv6.
pub(crate) fn discovery() -> Discovery {
    let own = |local: &str, announced: &str| OwnAddress {
        local: ip(local),
        announced: ip(announced),
    };
    Discovery {
        ipv4: Some([own("10.1.2.3", "198.51.100.1"), own("10.1.2.4", "198.51.100.2")]),
        ipv6: Some([
            own("2a00:1450:1::1", "2a00:1450:1::1"),
            own("2a00:1450:1::2", "2a00:1450:1::2"),
        ]),
        ports: [3478, 3479],
        max_padding: 1500,
    }
}

fn served() -> World {
    World::with(|config| config.discovery = Some(Arc::new(discovery())))
}

pub(crate) fn client_at(server: &str, transport: Transport) -> Client {
    let mut client = client_over(1, transport);
    client.client.five_tuple.server = addr(server);
    client.client.five_tuple.client = addr(if addr(server).is_ipv4() {
        "203.0.113.5:4000"
    } else {
        "[2a00:1450::5]:4000"
    });
    client
}

fn binding() -> Message {
    request(Method::Binding)
}

fn change(flags: u8) -> Message {
    binding().with(AttributeType::CHANGE_REQUEST, [0, 0, 0, flags])
}

fn response_port(port: u16) -> Message {
    binding().with(
        AttributeType::RESPONSE_PORT,
        [&port.to_be_bytes()[..], &[0, 0]].concat(),
    )
}

/// A plain address attribute of a response.
fn plain(answer: &Answer, kind: AttributeType) -> SocketAddr {
    let value = answer.attribute(kind).unwrap_or_else(|| panic!("no {kind}"));
    let port = u16::from_be_bytes([value[2], value[3]]);
    match value[1] {
        1 => SocketAddr::from((<[u8; 4]>::try_from(&value[4..]).unwrap(), port)),
        2 => SocketAddr::from((<[u8; 16]>::try_from(&value[4..]).unwrap(), port)),
        family => panic!("family {family}"),
    }
}

/// The four addresses of both families, bound and announced.
fn places() -> [[(&'static str, &'static str); 4]; 2] {
    [
        [
            ("10.1.2.3:3478", "198.51.100.1:3478"),
            ("10.1.2.3:3479", "198.51.100.1:3479"),
            ("10.1.2.4:3478", "198.51.100.2:3478"),
            ("10.1.2.4:3479", "198.51.100.2:3479"),
        ],
        [
            ("[2a00:1450:1::1]:3478", "[2a00:1450:1::1]:3478"),
            ("[2a00:1450:1::1]:3479", "[2a00:1450:1::1]:3479"),
            ("[2a00:1450:1::2]:3478", "[2a00:1450:1::2]:3478"),
            ("[2a00:1450:1::2]:3479", "[2a00:1450:1::2]:3479"),
        ],
    ]
}

//= NATD-02
//= NATD-03
#[test]
fn a_response_comes_from_the_place_asked_for_and_tells_it_and_the_opposite_one() {
    let mut world = served();
    for places in places() {
        for (at, (local, _)) in places.iter().enumerate() {
            let mut client = client_at(local, Transport::Udp);
            // The bits of an index are those of the flags: port and address.
            for (flags, moved) in [(0, 0), (2, 1), (4, 2), (6, 3), (0xF9, 0), (0xFF, 3)] {
                let answer = client.send_plain(&mut world, &change(flags));
                let (from, told) = places[at ^ moved];
                assert_eq!((answer.code(), answer.mapped()), (0, client.addr()));
                assert_eq!(plain(&answer, AttributeType::MAPPED_ADDRESS), client.addr());
                assert_eq!(
                    plain(&answer, AttributeType::RESPONSE_ORIGIN),
                    addr(told),
                    "{local}, {flags:#04x}"
                );
                assert_eq!(
                    plain(&answer, AttributeType::OTHER_ADDRESS),
                    addr(places[at ^ 3].1),
                    "{local}"
                );
                let expected = (moved != 0).then(|| ResponseRoute {
                    from: addr(from),
                    to: client.addr(),
                });
                assert_eq!(world.route(), expected, "{local}, {flags:#04x}");
            }
            let answer = client.send_plain(&mut world, &binding());
            // Over IPv6 the shortest request leaves no room to send an address twice (reflection).
            let expected: &[u16] = if client.addr().is_ipv4() {
                &[0x0020, 0x0001, 0x802B, 0x802C]
            } else {
                &[0x0020, 0x802B, 0x802C]
            };
            assert_eq!(answer.kinds(), expected, "also without any request");
            assert_eq!(world.route(), None);
        }
    }
    let answer = client_at("10.1.2.3:3478", Transport::Udp)
        .send_plain(&mut world, &binding().with(AttributeType::CHANGE_REQUEST, [0, 0, 6]));
    assert_eq!(answer.code(), 400, "a wrong length");
}

//= NATD-01
//= NATD-02
#[test]
fn other_listeners_know_nothing_of_it() {
    let mut world = served();
    for server in ["10.1.2.3:443", "10.9.9.9:3478", "[2a00:1450:1::3]:3478"] {
        let mut client = client_at(server, Transport::Udp);
        assert_eq!(client.send_plain(&mut world, &binding()).kinds(), [0x0020]);
        for message in [
            change(6),
            response_port(5000),
            binding().with(AttributeType::PADDING, [0; 8]),
        ] {
            assert_eq!(client.send_plain(&mut world, &message).code(), 420, "{server}");
        }
    }
    world.reload(|config| config.discovery = None);
    let mut client = client_at("10.1.2.3:3478", Transport::Udp);
    assert_eq!(client.send_plain(&mut world, &change(0)).code(), 420, "switched off");
}

//= NATD-04
#[test]
fn a_response_goes_to_another_port_of_its_source_and_never_to_another_address() {
    let mut world = served();
    let mut client = client_at("10.1.2.3:3478", Transport::Udp);
    for message in [
        response_port(5000),
        binding().with(AttributeType::RESPONSE_PORT, [0x13, 0x88]),
    ] {
        let answer = client.send_plain(&mut world, &message);
        assert_eq!((answer.code(), answer.mapped()), (0, client.addr()));
        let route = world.route().unwrap();
        assert_eq!(
            (route.from, route.to),
            (addr("10.1.2.3:3478"), addr("203.0.113.5:5000"))
        );
    }
    let both = response_port(5000).with(AttributeType::CHANGE_REQUEST, [0, 0, 0, 6]);
    assert_eq!(client.send_plain(&mut world, &both).code(), 0);
    let route = world.route().unwrap();
    assert_eq!(
        (route.from, route.to),
        (addr("10.1.2.4:3479"), addr("203.0.113.5:5000"))
    );
    client.send_plain(&mut world, &response_port(4000));
    assert_eq!(world.route(), None, "its own port is no other");
    assert_eq!(client.send_plain(&mut world, &response_port(0)).code(), 400);
    let long = binding().with(AttributeType::RESPONSE_PORT, [0x13, 0x88, 0, 0, 203, 0, 113, 9]);
    assert_eq!(client.send_plain(&mut world, &long).code(), 400);
    // An error goes back to the sender.
    let bad = response_port(5000).with(AttributeType(0x7FFE), []);
    assert_eq!(client.send_plain(&mut world, &bad).code(), 420);
    assert_eq!(world.route(), None);
}

//= NATD-05
#[test]
fn padding_is_answered_with_padding_up_to_the_mtu_and_never_with_more_than_came() {
    let mut world = served();
    let mut client = client_at("10.1.2.3:3478", Transport::Udp);
    for (asked, answered) in [(0, 0), (5, 5), (1500, 1500), (1501, 1500), (20_000, 1500)] {
        let answer = client.send_plain(&mut world, &binding().with(AttributeType::PADDING, vec![0xAA; asked]));
        let padding = answer.attribute(AttributeType::PADDING).unwrap();
        assert_eq!(
            padding,
            vec![0; answered],
            "{asked} bytes: nothing comes back that was sent"
        );
    }
    let mut world = World::with(|config| {
        config.discovery = Some(Arc::new(Discovery {
            max_padding: 8,
            ..discovery()
        }));
    });
    let answer = client.send_plain(&mut world, &binding().with(AttributeType::PADDING, [0; 100]));
    assert_eq!(
        answer.attribute(AttributeType::PADDING).map(|padding| padding.len()),
        Some(8)
    );
    let both = response_port(5000).with(AttributeType::PADDING, [0; 100]);
    assert_eq!(client.send_plain(&mut world, &both).code(), 400);
    assert_eq!(world.route(), None);
}

//= NATD-05
#[test]
fn where_there_is_one_way_back_every_wish_for_another_is_refused() {
    let mut world = served();
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut client = client_at("10.1.2.4:3478", transport);
        for message in [
            change(0),
            change(6),
            response_port(5000),
            binding().with(AttributeType::PADDING, [0; 8]),
        ] {
            let answer = client.send_plain(&mut world, &message);
            assert_eq!((answer.code(), world.route()), (420, None), "{transport}");
        }
        let answer = client.send_plain(&mut world, &binding());
        assert_eq!(
            plain(&answer, AttributeType::RESPONSE_ORIGIN),
            addr("198.51.100.2:3478"),
            "{transport}"
        );
        assert_eq!(
            plain(&answer, AttributeType::OTHER_ADDRESS),
            addr("198.51.100.1:3479"),
            "{transport}"
        );
    }
}

//= NATD-02
#[test]
fn it_is_under_the_limit_and_the_switch_of_binding_and_in_no_other_request() {
    let mut world = World::with(|config| {
        config.discovery = Some(Arc::new(discovery()));
        config.limits.bindings_per_second = 2;
    });
    let mut client = client_at("10.1.2.3:3478", Transport::Udp);
    let mut answers = |world: &mut World| client.send_plain(world, &change(6));
    assert_eq!(answers(&mut world).code(), 0);
    assert_eq!(answers(&mut world).code(), 0);
    assert_eq!(answers(&mut world), Answer::Dropped(DropReason::BindingLimited));
    world.reload(|config| config.binding = false);
    assert_eq!(answers(&mut world), Answer::Dropped(DropReason::BindingDisabled));
    let odd = allocate().with(AttributeType::CHANGE_REQUEST, [0, 0, 0, 6]);
    assert_eq!(client.request(&mut world, &odd).code(), 420);
}
