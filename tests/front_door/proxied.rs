//! Behind a proxy: whom its PROXY header speaks for, and whose header is believed.

use std::net::SocketAddr;
use std::time::Duration;

use relay::base::address::Transport;
use relay::config::settings::ProxyProtocol;
use relay::edge::front_door::proxy::Proxies;
use relay::edge::front_door::{ConnectionOutcome, FrontDoorLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 49153 443\r\n";
const CLIENT: &str = "192.0.2.7:49153";
const SERVER: &str = "198.51.100.1:443";

fn proxies(protocol: ProxyProtocol, trusted: &str) -> Proxies {
    Proxies {
        protocol,
        trusted: vec![trusted.parse().unwrap()],
    }
}

fn required() -> Proxies {
    proxies(ProxyProtocol::Required, "127.0.0.0/8")
}

fn v2(rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    bytes.extend(u16::try_from(12 + rest.len()).unwrap().to_be_bytes());
    bytes.extend([192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x01, 1, 187]);
    bytes.extend(rest);
    bytes
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

//= XPORT-19
#[tokio::test]
async fn a_trusted_proxy_tells_the_client_of_plain_turn_in_either_version() {
    let mut door = Door::behind(required(), limits());
    for header in [V1.to_vec(), v2(&[]), v2(&[0x04, 0, 2, 1, 2])] {
        let mut proxy = door.connect().await;
        proxy.write_all(&[&header[..], &stun(1)].concat()).await.unwrap();
        let new_stream = door.new_stream().await;
        assert_eq!((new_stream.client, new_stream.server), (at(CLIENT), at(SERVER)));
        assert_eq!(new_stream.transport, Transport::Tcp);
        assert_eq!(serve_as_shard(new_stream, 1, channel_data(b"back")).await, [stun(1)]);
        let mut answer = [0; 8];
        in_time("the answer", proxy.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer[..], channel_data(b"back"));
    }
    door.empties().await;
}

//= XPORT-19
#[tokio::test]
async fn tls_follows_the_header_and_http_knows_the_client() {
    let mut door = Door::behind(required(), limits());
    let mut proxy = door.connect().await;
    proxy
        .write_all(&v2(&[0x02, 0, 4, b'x', b'.', b'y', b'z']))
        .await
        .unwrap();
    let mut client = tls(proxy).await;
    client.write_all(&stun(2)).await.unwrap();
    let new_stream = door.new_stream().await;
    assert_eq!((new_stream.client, new_stream.transport), (at(CLIENT), Transport::Tls));
    assert_eq!(serve_as_shard(new_stream, 1, stun(3)).await, [stun(2)]);

    let mut proxy = door.connect().await;
    proxy.write_all(V1).await.unwrap();
    let mut client = tls(proxy).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = until_closed(&mut client).await;
    assert!(
        answer.ends_with(CLIENT.as_bytes()),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

async fn tls(socket: TcpStream) -> tokio_rustls::client::TlsStream<TcpStream> {
    let name = rustls::pki_types::ServerName::try_from("relay.test").unwrap();
    let handshake = connector(&[]).connect(name, socket);
    in_time("the end of the TLS handshake", handshake).await.unwrap()
}

//= XPORT-19
#[tokio::test]
async fn a_header_may_come_byte_by_byte_but_not_for_ever() {
    let mut door = Door::behind(required(), limits());
    let mut proxy = door.connect().await;
    proxy.set_nodelay(true).unwrap();
    for byte in [&v2(&[])[..], &stun(4)].concat() {
        proxy.write_all(&[byte]).await.unwrap();
        // So that each comes alone.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let new_stream = door.new_stream().await;
    assert_eq!(new_stream.client, at(CLIENT));
    drop((new_stream, proxy));

    let hasty = FrontDoorLimits {
        handshake_timeout: Duration::from_millis(200),
        ..limits()
    };
    let door = Door::behind(required(), hasty);
    let proxy = door.connect().await;
    proxy.set_nodelay(true).unwrap();
    assert!(drip(proxy, V1.to_vec(), Duration::from_millis(20)).await < V1.len());
    door.reaches(ConnectionOutcome::Silent, 1).await;
    door.empties().await;
}

//= XPORT-19
#[tokio::test]
async fn a_header_from_anybody_else_is_refused() {
    for (proxies, address) in [
        (Proxies::default(), "off"),
        (proxies(ProxyProtocol::Optional, "192.0.2.0/24"), "optional"),
        (proxies(ProxyProtocol::Required, "192.0.2.0/24"), "required"),
    ] {
        let mut door = Door::behind(proxies, limits());
        for (count, header) in (1..).zip([V1.to_vec(), v2(&[])]) {
            let mut client = door.connect().await;
            // Where nobody but proxies may connect, it may be closed before this is written.
            let _ = client.write_all(&[&header[..], &stun(1)].concat()).await;
            assert_eq!(until_closed(&mut client).await, b"", "{address}");
            door.reaches(ConnectionOutcome::UntrustedProxy, count).await;
        }
        assert!(door.handovers.try_recv().is_err());
        door.empties().await;
    }
}

//= XPORT-19
#[tokio::test]
async fn where_it_is_optional_clients_are_themselves_and_where_it_is_required_they_are_refused() {
    let mut door = Door::behind(proxies(ProxyProtocol::Optional, "192.0.2.0/24"), limits());
    let mut client = door.connect().await;
    client.write_all(&stun(5)).await.unwrap();
    assert_eq!(door.new_stream().await.client, client.local_addr().unwrap());

    let door = Door::behind(proxies(ProxyProtocol::Required, "192.0.2.0/24"), limits());
    let mut client = door.connect().await;
    let _ = client.write_all(&stun(5)).await;
    until_closed(&mut client).await;
    door.reaches(ConnectionOutcome::UntrustedProxy, 1).await;
}

//= XPORT-19
#[tokio::test]
async fn a_trusted_proxy_must_send_a_header_and_a_good_one() {
    let door = Door::behind(proxies(ProxyProtocol::Optional, "127.0.0.0/8"), limits());
    let hello = client_hello();
    for (count, bytes) in (1..).zip([&stun(6)[..], &hello[..], b"PROXY TCP4 a b 1 2\r\n", b"PROXY TCP9 \r\n"]) {
        let mut proxy = door.connect().await;
        proxy.write_all(bytes).await.unwrap();
        assert_eq!(until_closed(&mut proxy).await, b"");
        door.reaches(ConnectionOutcome::BadProxyHeader, count).await;
    }
    door.empties().await;
}

//= XPORT-19
#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let mut door = Door::behind(required(), limits());
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";
    for header in [&b"PROXY UNKNOWN\r\n"[..], local] {
        let mut proxy = door.connect().await;
        proxy.write_all(&[header, &stun(7)].concat()).await.unwrap();
        let new_stream = door.new_stream().await;
        assert_eq!(new_stream.client, proxy.local_addr().unwrap());
        assert_eq!(new_stream.server, door.address);
    }
    // A check that only wants to see the port open.
    drop(door.connect().await);
    door.reaches(ConnectionOutcome::ClientClosed, 1).await;
}

//= XPORT-19
#[tokio::test]
async fn connections_are_counted_for_the_client_behind_the_proxy() {
    let one_each = FrontDoorLimits {
        connections_per_source: 1,
        ..limits()
    };
    let mut door = Door::behind(required(), one_each);
    let mut held = Vec::new();
    for (index, source) in ["192.0.2.7", "192.0.2.8", "192.0.2.9"].into_iter().enumerate() {
        let mut proxy = door.connect().await;
        let header = format!("PROXY TCP4 {source} 198.51.100.1 {} 443\r\n", 1000 + index);
        proxy.write_all(&[header.as_bytes(), &stun(8)].concat()).await.unwrap();
        held.push((door.new_stream().await, proxy));
    }
    let mut second = door.connect().await;
    second
        .write_all(b"PROXY TCP4 192.0.2.8 198.51.100.1 2000 443\r\n")
        .await
        .unwrap();
    until_closed(&mut second).await;
    door.reaches(ConnectionOutcome::TooManyFromSource, 1).await;
    drop(held);
    door.empties().await;
}
