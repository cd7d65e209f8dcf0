//! Application data through the program, on every transport.

use relay::base::address::Transport;

use crate::client::{Client, PATIENCE, SILENCE};
use crate::harness::{EchoPeer, SECRET, Server, minted};
use relay_testkit::dtls_client::DtlsClient;

/// Every combination of a transport and one of the server's listeners.
fn ways(server: &Server) -> [(Transport, std::net::SocketAddr); 10] {
    [
        (Transport::Udp, server.plain),
        (Transport::Tcp, server.plain),
        (Transport::Tls, server.tls),
        (Transport::Tcp, server.tls),
        (Transport::Udp, server.door),
        (Transport::Tcp, server.door),
        (Transport::Tls, server.door),
        (Transport::Dtls, server.tls),
        (Transport::Dtls, server.door),
        (Transport::Udp, server.plain),
    ]
}

/// Application data of all alignments, and longer than a packet where possible.
fn sizes(transport: Transport) -> &'static [usize] {
    match transport {
        Transport::Dtls => &[0, 1, 2, 3, 4, 5, 160, 1200, 1396],
        _ => &[0, 1, 2, 3, 4, 5, 160, 1200, 1473],
    }
}

//= XPORT-01
//= TURN-DATA-05
//= TURN-CHAN-15
#[test]
fn every_transport_reaches_a_udp_peer_by_indications_and_channels() {
    let mut server = Server::start();
    let peer = EchoPeer::start();
    let mut relayed = Vec::new();
    for (n, (transport, address)) in ways(&server).into_iter().enumerate() {
        let mut client = Client::over_transport(transport, address).with_login(&minted(SECRET, 600, &format!("u{n}")));
        relayed.push(
            client
                .allocate()
                .unwrap_or_else(|code| panic!("{transport} to {address}: {code}")),
        );
        assert_eq!(client.create_permission(peer.address), 0);
        for &size in sizes(transport) {
            let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
            client.send_indication(peer.address, &data);
            let back = client
                .receive_data(PATIENCE)
                .unwrap_or_else(|| panic!("{transport}: {size} bytes lost"));
            assert_eq!(
                back,
                (Err(peer.address), data),
                "{transport}, {size} bytes by indication"
            );
        }
        assert_eq!(client.channel_bind(0x4000, peer.address), 0);
        for &size in sizes(transport) {
            let data: Vec<u8> = (0..size).map(|i| !(i as u8)).collect();
            client.send_channel(0x4000, &data);
            let back = client
                .receive_data(PATIENCE)
                .unwrap_or_else(|| panic!("{transport}: {size} bytes lost"));
            assert_eq!(back, (Ok(0x4000), data), "{transport}, {size} bytes by channel");
        }
        assert_eq!(client.refresh(0), 0);
    }
    let mut sources = peer.sources();
    sources.sort();
    relayed.sort();
    relayed.dedup();
    assert_eq!(sources, relayed, "the peer saw the relayed addresses and nothing else");
    server.assert_healthy();
}

//= STUN-BIND-01
#[test]
fn binding_tells_the_source_address_on_every_listener() {
    let server = Server::start();
    for (transport, address) in ways(&server) {
        let mut client = Client::over_transport(transport, address);
        assert_eq!(client.binding(), Some(client.local_addr()), "{transport} to {address}");
    }
}

//= design §4: relay-to-relay
#[test]
fn two_relayed_clients_reach_each_other_on_any_pair_of_transports() {
    let server = Server::start();
    let ways = ways(&server);
    for (n, (&(first, to_first), &(second, to_second))) in ways.iter().zip(ways.iter().rev()).enumerate() {
        let mut a = Client::over_transport(first, to_first).with_login(&minted(SECRET, 600, &format!("a{n}")));
        let mut b = Client::over_transport(second, to_second).with_login(&minted(SECRET, 600, &format!("b{n}")));
        let (at_a, at_b) = (a.allocate().expect("allocated"), b.allocate().expect("allocated"));
        assert_eq!(a.create_permission(at_b), 0);
        a.send_indication(at_b, b"too early");
        assert_eq!(b.receive_data(SILENCE), None, "{first} to {second}: b has not let a in");
        assert_eq!(b.channel_bind(0x4001, at_a), 0);
        a.send_indication(at_b, b"hello");
        assert_eq!(
            b.receive_data(PATIENCE),
            Some((Ok(0x4001), b"hello".to_vec())),
            "{first} to {second}"
        );
        b.send_channel(0x4001, b"well met");
        assert_eq!(
            a.receive_data(PATIENCE),
            Some((Err(at_b), b"well met".to_vec())),
            "{second} to {first}"
        );
    }
}

//= XPORT-07
//= XPORT-16
#[test]
fn closing_the_stream_frees_the_allocation_at_once() {
    let server = Server::start_with("[limits]\nallocations_per_user = 1\n");
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let login = minted(SECRET, 600, "only-one");
        for round in 0..3 {
            let mut client = Client::over_transport(transport, server.door).with_login(&login);
            let deadline = std::time::Instant::now() + PATIENCE;
            let mut outcome = client.allocate();
            while outcome == Err(486) && std::time::Instant::now() < deadline {
                outcome = client.allocate();
            }
            assert!(outcome.is_ok(), "{transport}, round {round}: {outcome:?}");
            client.close();
        }
    }
}

#[test]
fn a_beginning_and_an_end_are_logged_with_traffic_and_reason() {
    let server = Server::start();
    let peer = EchoPeer::start();
    let mut client = Client::udp(server.plain).with_login(&minted(SECRET, 600, "logged-user"));
    let relayed = client.allocate().expect("allocated");
    assert_eq!(client.channel_bind(0x4000, peer.address), 0);
    for _ in 0..10 {
        client.send_channel(0x4000, &[7; 100]);
        assert!(client.receive_data(PATIENCE).is_some());
    }
    assert_eq!(client.refresh(0), 0);
    server.wait_for_log("released");
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("logged-user")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for line in &lines {
        assert!(line.contains(&relayed.to_string()) && line.contains("udp"), "{line}");
    }
    assert!(
        lines[1].matches("1000").count() >= 2,
        "ten times 100 bytes each way: {}",
        lines[1]
    );
}

//= XPORT-16
#[test]
fn what_would_make_a_record_too_long_for_a_packet_is_dropped_and_counted() {
    let server = Server::start();
    let peer = EchoPeer::start();
    let mut client = Client::over_transport(Transport::Dtls, server.door).with_login(&minted(SECRET, 600, "long"));
    assert!(client.allocate().is_ok());
    assert_eq!(client.channel_bind(0x4000, peer.address), 0);
    // 1500 bytes hold IP and UDP headers, a record of 37 bytes more than its message, a ChannelData
    // header, and padding.
    let most = (1500 - 28 - 37 - 4) / 4 * 4;
    client.send_channel(0x4000, &vec![1; most + 1]);
    assert_eq!(client.receive_data(SILENCE), None);
    client.send_channel(0x4000, &vec![2; most]);
    assert_eq!(client.receive_data(PATIENCE), Some((Ok(0x4000), vec![2; most])));
    server.wait_for_metric("relay_dropped_packets_total", "reason=\"too_long\"", 1.0);
}

//= XPORT-13
#[test]
fn stun_channel_data_and_dtls_share_a_five_tuple_and_are_told_apart() {
    let mut server = Server::start();
    let socket = DtlsClient::socket(server.door);
    let plain = socket.try_clone().expect("a second handle");
    let mut dtls = DtlsClient::on(socket, 1200).expect("a DTLS handshake");
    let request = [
        0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
    ];
    let mut answer = [0; 1500];
    for _ in 0..3 {
        plain.send(&request).expect("sent");
        plain.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        plain.recv(&mut answer).expect("an answer in the clear");
        assert_eq!(answer[..2], [1, 1]);
        dtls.send(&request).expect("sent");
        dtls.receive(&mut answer, PATIENCE).expect("an answer in a record");
        assert_eq!(answer[..2], [1, 1]);
        // ChannelData without an allocation, and invalid bytes.
        plain.send(&[0x40, 0, 0, 0]).expect("sent");
        plain.send(&[0xFF; 20]).expect("sent");
    }
    server.assert_healthy();
}
