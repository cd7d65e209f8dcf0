//! The IP header of relayed datagrams on the loopback device: DSCP, ECN and DF.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Instant;

use nix::sys::socket::{setsockopt, sockopt};
use relay::wire::attribute::AttributeType;
use relay::wire::message::{Class, Method, TransactionId};
use relay::wire::writer::MessageWriter;
use relay_testkit_server::http3::{passed_to, start_http3};
use relay_testkit_server::*;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Expedited forwarding, ECN-capable.
const MEDIA: u32 = 0xB8 | 0x02;

/// Captures IPv4 headers.
struct Sniffer(Socket);

impl Sniffer {
    fn new() -> Self {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))
            .unwrap_or_else(|error| panic!("raw sockets need CAP_NET_RAW, which root has: {error}"));
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        // It captures all of loopback, so the packets of other tests must also fit until this one
        // reads.
        setsockopt(&raw, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        Self(raw)
    }

    /// Traffic class and DF of the next datagram from `from` to `to`.
    fn next(&mut self, from: SocketAddr, to: SocketAddr) -> (u8, bool) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let mut packet = [0; 2048];
            let len = self.0.read(&mut packet).unwrap();
            let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            if len >= 28 && packet[20..24] == ports {
                return (packet[1], packet[6] & 0x40 != 0);
            }
        }
        panic!("nothing from {from} to {to}");
    }
}

//= TURN-NET-06
#[test]
fn traffic_class_is_copied_between_udp_and_udp() {
    let mut wire = Sniffer::new();
    let (server, peer) = (TestServer::start(1), Peer::new());
    let mut client = server.client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    for tos in [MEDIA, 0, 0x03, 0x28] {
        let Pipe::Udp(socket) = &client.pipe else {
            unreachable!()
        };
        SockRef::from(socket).set_tos_v4(tos).unwrap();
        client.send_channel(0x4000, b"x");
        assert_eq!(wire.next(relayed, peer.addr()), (tos as u8, false), "{tos:#04x}");
        SockRef::from(&peer.socket).set_tos_v4(tos).unwrap();
        peer.send(relayed, b"back");
        assert_eq!(
            wire.next(server.udp, client.local_addr()),
            (tos as u8, false),
            "{tos:#04x}"
        );
    }
}

//= TURN-NET-06
#[test]
fn traffic_class_is_copied_between_clients_on_one_worker_and_on_two() {
    let server = TestServer::start(2);
    let (mut a, from) = server.client_on(0);
    for shard in [0, 1] {
        let (mut b, to) = server.client_on(shard);
        a.permit(to);
        b.permit(from);
        // From here on b receives nothing else.
        let mut wire = Sniffer::new();
        for tos in [MEDIA, 0, 0x03, 0x28] {
            let Pipe::Udp(socket) = &a.pipe else { unreachable!() };
            SockRef::from(socket).set_tos_v4(tos).unwrap();
            a.send_indication(to, b"x");
            let seen = wire.next(server.udp, b.local_addr());
            assert_eq!(seen, (tos as u8, false), "{tos:#04x} to worker {shard}");
        }
    }
    server.becomes("letters", 4, |s| s.stat(|s| s.mailbox_received.get()));
}

/// QUIC discovers the path MTU itself (RFC 9000 §14) and uses ECN (§13.4): a flow preserves both.
#[test]
fn quic_keeps_its_traffic_class_and_is_never_fragmented() {
    let mut wire = Sniffer::new();
    let (backend, client) = (Peer::new(), Peer::new());
    let server = start_http3(1, "127.0.0.1:0", Some(passed_to(backend.addr(), |_| {})));
    let mut long = vec![0xC0, 0, 0, 0, 1, 8];
    long.resize(1200, 0);
    for tos in [MEDIA, 0, 0x03] {
        SockRef::from(&client.socket).set_tos_v4(tos).unwrap();
        client.send(server.udp, &long);
        let (_, flow) = backend.recv();
        assert_eq!(wire.next(flow, backend.addr()), (tos as u8, true), "{tos:#04x}");
        SockRef::from(&backend.socket).set_tos_v4(tos).unwrap();
        backend.send(flow, b"back");
        assert_eq!(wire.next(server.udp, client.addr()), (tos as u8, true), "{tos:#04x}");
    }
}

//= TURN-NET-06
//= TURN-DATA-10
#[test]
fn from_a_stream_datagrams_are_best_effort_and_df_is_set_where_asked_for() {
    let mut wire = Sniffer::new();
    let (server, peer) = (TestServer::start(1), Peer::new());
    for stream in [true, false] {
        let mut client = if stream { server.tcp_client() } else { server.client() };
        let relayed = client.allocate();
        client.permit(peer.addr());
        for dont_fragment in [false, true, false] {
            let mut buffer = [0; 128];
            let id = TransactionId([3; 12]);
            let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::Send, id);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer.addr());
            if dont_fragment {
                writer.attribute(AttributeType::DONT_FRAGMENT, &[]);
            }
            writer.attribute(AttributeType::DATA, b"x");
            let len = writer.finish().unwrap();
            client.pipe.send(&buffer[..len]);
            assert_eq!(wire.next(relayed, peer.addr()), (0, dont_fragment), "stream: {stream}");
        }
    }
}
