//! The longest messages of a stream through a running shard: relayed if a datagram can hold their
//! data, otherwise dropped, and the connection stays open.

use relay::turn::DropReason;
use relay_testkit_server::*;

//= STUN-MSG-24
//= TURN-DATA-05
#[test]
fn the_longest_messages_of_a_stream_are_relayed_or_dropped_and_the_stream_lives() {
    let (server, peer) = (TestServer::start(1), Peer::new());
    let mut client = server.tcp_client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    let data: Vec<u8> = (0..65_535u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for size in [65_480, 65_507] {
        client.send_indication(peer.addr(), &data[..size]);
        assert_eq!(
            peer.recv(),
            (data[..size].to_vec(), relayed),
            "{size} bytes in a Send indication"
        );
        client.send_channel(0x4000, &data[..size]);
        assert_eq!(
            peer.recv(),
            (data[..size].to_vec(), relayed),
            "{size} bytes on a channel"
        );
    }
    let too_long = |server: &TestServer| server.count(|c| c.dropped[DropReason::TooLong as usize].get());
    let before = too_long(&server);
    client.send_channel(0x4000, &data[..65_508]);
    client.send_channel(0x4000, &data);
    client.send_indication(peer.addr(), &data[..65_512]);
    client.send_channel(0x4000, b"next");
    assert_eq!(peer.recv(), (b"next".to_vec(), relayed));
    server.becomes("dropped as too long", before + 3, too_long);
    // And back: the longest datagram on loopback.
    peer.send(relayed, &data[..65_507]);
    let expected = Incoming::Channel {
        number: 0x4000,
        data: data[..65_507].to_vec(),
    };
    assert_eq!(client.incoming(), expected);
}
