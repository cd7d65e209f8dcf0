use std::io::Read;
use std::time::Duration;

use relay::base::address::Transport;
use relay::edge::front_door::{Accepts, ConnectionOutcome};
use relay::net::stream::KERNEL_UNSENT;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

//= XPORT-01
#[tokio::test]
async fn plain_turn_is_handed_over_with_every_byte() {
    let mut door = Door::open(ALL, limits());
    let mut client = door.connect().await;
    client.write_all(&stun(1)).await.unwrap();
    let new_stream = door.new_stream().await;
    assert_eq!(new_stream.transport, Transport::Tcp);
    assert_eq!(
        (new_stream.client, new_stream.server),
        (client.local_addr().unwrap(), door.address)
    );
    assert!(new_stream.tls.is_none());
    assert_eq!(new_stream.early, stun(1));
    let socket = SockRef::from(&new_stream.socket);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_notsent_lowat().unwrap(), KERNEL_UNSENT);
    let mut would_block = &new_stream.socket;
    assert_eq!(
        would_block.read(&mut [0; 20]).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    door.reaches(ConnectionOutcome::Tcp, 1).await;
    drop(new_stream);
    door.empties().await;
}

//= XPORT-12
#[tokio::test]
async fn turn_over_tls_reaches_the_shard_whole_and_is_answered() {
    for alpn in [&[][..], &[&b"stun.turn"[..]]] {
        let mut door = Door::open(ALL, limits());
        let mut client = door.connect_tls(alpn).await.unwrap();
        let sent = [stun(1), channel_data(b"abcd"), stun(2)];
        client.write_all(&sent.concat()).await.unwrap();
        let new_stream = door.new_stream().await;
        assert_eq!(new_stream.transport, Transport::Tls);
        assert_eq!(new_stream.early, sent.concat());
        let shard = tokio::spawn(serve_as_shard(new_stream, 4, stun(9)));
        client.write_all(&stun(3)).await.unwrap();
        let mut answer = [0; 20];
        in_time("the shard's answer", client.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(answer[..], stun(9)[..]);
        assert_eq!(shard.await.unwrap(), [&sent[..], &[stun(3)]].concat());
        door.reaches(ConnectionOutcome::Tls, 1).await;
        door.empties().await;
    }
}

#[tokio::test]
async fn a_client_that_sends_one_byte_at_a_time_loses_none() {
    let mut door = Door::open(ALL, limits());
    for tls in [false, true] {
        let sent = [stun(1), channel_data(b"abcd")].concat();
        let receive = if tls {
            let mut client = door.connect_tls(&[]).await.unwrap();
            for byte in &sent {
                client.write_all(&[*byte]).await.unwrap();
                client.flush().await.unwrap();
                // So that each comes alone.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            serve_as_shard(door.new_stream().await, 2, stun(9)).await
        } else {
            let client = door.connect().await;
            client.set_nodelay(true).unwrap();
            let dripping = tokio::spawn(drip(client, sent.clone(), Duration::from_millis(1)));
            let messages = serve_as_shard(door.new_stream().await, 2, stun(9)).await;
            dripping.abort();
            messages
        };
        assert_eq!(receive.concat(), sent, "over TLS: {tls}");
    }
}

#[tokio::test]
async fn a_large_first_flight_over_tls_is_handed_over_in_order() {
    let mut door = Door::open(ALL, limits());
    let mut client = door.connect_tls(&[]).await.unwrap();
    let sent: Vec<Vec<u8>> = (0..200).map(stun).collect();
    client.write_all(&sent.concat()).await.unwrap();
    let messages = serve_as_shard(door.new_stream().await, 200, stun(9)).await;
    assert_eq!(messages, sent);
}

#[tokio::test]
async fn plain_turn_is_closed_without_a_word_where_only_tls_is_served() {
    let door = Door::open(Accepts { tcp: false, ..ALL }, limits());
    let mut client = door.connect().await;
    client.write_all(&stun(1)).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    door.reaches(ConnectionOutcome::NotServed, 1).await;
    door.empties().await;
}

#[tokio::test]
async fn tls_is_closed_where_only_plain_turn_is_served() {
    let mut door = Door::open(
        Accepts {
            tcp: true,
            ..Accepts::default()
        },
        limits(),
    );
    assert!(door.connect_tls(&[]).await.is_err());
    door.reaches(ConnectionOutcome::NotServed, 1).await;
    // And a TURN client is served all the same.
    let mut client = door.connect().await;
    client.write_all(&stun(1)).await.unwrap();
    door.new_stream().await;
}

//= XPORT-11
//= XPORT-12
#[tokio::test]
async fn alpn_decides_what_may_be_spoken() {
    enum Then {
        Refused,
        Turn,
        NoHttp,
        Http,
        NoTurn,
    }
    let turn_port = Accepts { https: false, ..ALL };
    let cases: [(Accepts, &[&[u8]], Then); 11] = [
        (turn_port, &[], Then::Turn),
        (turn_port, &[b"stun.turn"], Then::Turn),
        (turn_port, &[b"stun.nat-discovery"], Then::Turn),
        (turn_port, &[b"h2"], Then::Refused),
        (turn_port, &[b"h2", b"http/1.1"], Then::Refused),
        (turn_port, &[], Then::NoHttp),
        (ALL, &[b"h2", b"http/1.1"], Then::Http),
        (ALL, &[], Then::Http),
        (ALL, &[b"h2"], Then::Refused),
        (ALL, &[b"stun.turn"], Then::NoHttp),
        (ALL, &[b"http/1.1"], Then::NoTurn),
    ];
    for (row, (accepts, alpn, then)) in cases.into_iter().enumerate() {
        let mut door = Door::open(accepts, limits());
        let client = door.connect_tls(alpn).await;
        if let Then::Refused = then {
            let error = client.expect_err("no protocol in common").to_string();
            assert!(error.contains("NoApplicationProtocol"), "row {row}: {error}");
            door.reaches(ConnectionOutcome::HandshakeFailed, 1).await;
            continue;
        }
        let mut client = client.unwrap_or_else(|error| panic!("row {row}: {error}"));
        let turn = matches!(then, Then::Turn | Then::NoTurn);
        let request = if turn {
            stun(1)
        } else {
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec()
        };
        client.write_all(&request).await.unwrap();
        match then {
            Then::Turn => assert_eq!(door.new_stream().await.early, stun(1), "row {row}"),
            Then::Http => assert!(
                until_closed(&mut client).await.starts_with(b"HTTP/1.1 200"),
                "row {row}"
            ),
            Then::Refused | Then::NoHttp | Then::NoTurn => {
                assert_eq!(until_closed(&mut client).await, b"", "row {row}");
                door.reaches(ConnectionOutcome::NotServed, 1).await;
            }
        }
    }
}
