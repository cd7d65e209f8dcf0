//! NAT behaviour discovery (RFC 5780) on two loopback addresses and two ports: every response
//! leaves from the right socket.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use relay::wire::attribute::AttributeType;
use relay::wire::message::{Class, Message, Method, TransactionId};
use relay::wire::writer::MessageWriter;

use crate::client::{Client, PATIENCE};
use crate::harness::Server;
use crate::programs::run;
use relay_testkit::ports::free_port;

const IPS: [&str; 2] = ["127.0.0.1", "127.0.0.5"];

struct Places {
    server: Server,
    ports: [u16; 2],
}

impl Places {
    /// Listeners on each address separately, or on all addresses at once, for which the kernel
    /// needs the source.
    fn start(wildcard: bool) -> Self {
        let ports = [free_port(), free_port()];
        let binds: Vec<String> = if wildcard {
            ports.map(|port| format!("*:{port}")).into()
        } else {
            let all = IPS.iter().flat_map(|ip| ports.map(|port| format!("{ip}:{port}")));
            all.collect()
        };
        let listeners: String = binds
            .iter()
            .map(|bind| format!("[[listener]]\nbind = \"{bind}\"\nprotocols = [\"udp\", \"tcp\"]\n"))
            .collect();
        let server = Server::start_with(&format!(
            "[nat_discovery]\nenabled = true\nipv4 = {IPS:?}\nports = {ports:?}\n{listeners}"
        ));
        Self { server, ports }
    }

    fn at(&self, ip: usize, port: usize) -> SocketAddr {
        let ip: IpAddr = IPS[ip].parse().expect("an address");
        SocketAddr::new(ip, self.ports[port])
    }
}

fn binding(attributes: &[(AttributeType, &[u8])]) -> Vec<u8> {
    let mut buf = [0; 4096];
    let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Binding, TransactionId([7; 12]));
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    let len = writer.finish().expect("it fits");
    buf[..len].to_vec()
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// The next datagram, which must be a success response, and its source.
fn answer(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buf = [0; 4096];
    let (len, from) = socket.recv_from(&mut buf).expect("an answer");
    let message = Message::parse(&buf[..len]).expect("well-formed");
    assert_eq!(
        (message.class(), message.method()),
        (Class::Success, Some(Method::Binding))
    );
    (buf[..len].to_vec(), from)
}

//= NATD-03
//= NATD-04
//= NATD-05
#[test]
fn answers_leave_from_the_place_and_go_to_the_port_that_was_asked_for() {
    for wildcard in [false, true] {
        let places = Places::start(wildcard);
        let client = socket();
        let elsewhere = socket();
        let port = elsewhere.local_addr().expect("bound").port();
        for (ip, port_index) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let to = places.at(ip, port_index);
            for flags in [0, 2, 4, 6] {
                let change = [0, 0, 0, flags];
                client
                    .send_to(&binding(&[(AttributeType::CHANGE_REQUEST, &change)]), to)
                    .expect("sent");
                let expected = places.at(
                    ip ^ usize::from(flags & 4 != 0),
                    port_index ^ usize::from(flags & 2 != 0),
                );
                assert_eq!(
                    answer(&client).1,
                    expected,
                    "to {to}, flags {flags}, wildcard: {wildcard}"
                );
                let port = port.to_be_bytes();
                client
                    .send_to(
                        &binding(&[
                            (AttributeType::CHANGE_REQUEST, &change),
                            (AttributeType::RESPONSE_PORT, &[port[0], port[1], 0, 0]),
                        ]),
                        to,
                    )
                    .expect("sent");
                assert_eq!(answer(&elsewhere).1, expected, "to {to}, flags {flags}, another port");
            }
        }
        client
            .send_to(&binding(&[(AttributeType::PADDING, &[1; 1500])]), places.at(0, 0))
            .expect("sent");
        let (bytes, _) = answer(&client);
        assert!(
            bytes.len() > 1500,
            "{} bytes came, more than one packet holds",
            bytes.len()
        );
        let mut stream = Client::tcp(places.at(1, 0));
        let refused = stream.try_request(Method::Binding, |w| {
            w.attribute(AttributeType::CHANGE_REQUEST, &[0, 0, 0, 6]);
        });
        assert_eq!(refused.expect("an answer").code(), 420);
        let told = stream.try_request(Method::Binding, |_| {}).expect("an answer");
        assert!(told.message().attribute(AttributeType::OTHER_ADDRESS).is_some());
        assert_eq!(
            places.server.metric("relay_dropped_packets_total", "reason=\"gone\""),
            0.0
        );
    }
}

//= NATD-02
//= NATD-03
#[test]
fn a_discovery_client_finds_out_how_the_way_to_the_server_maps_and_filters() {
    let places = Places::start(false);
    let port = places.ports[0].to_string();
    let printed = run(
        "turnutils_natdiscovery",
        &["-m", "-f", "-P", "-L", IPS[0], "-p", &port, IPS[0]],
    );
    for found in [
        "No NAT! (Endpoint Independent Mapping)",
        "NAT with Endpoint Independent Mapping!",
        "NAT with Endpoint Independent Filtering!",
    ] {
        assert!(printed.contains(found), "{found} is not in:\n{printed}");
    }
}
