//! Places at the backends: a few addresses that hold all of them leave room for everybody else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use relay::edge::front_door::{ConnectionOutcome, SpliceEnd};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::recorder::Recorder;
use crate::support::*;

/// Places, sources that hold them, and how many each holds.
const PLACES: usize = 64;
const SOURCES: u8 = 16;
const EACH: usize = PLACES / SOURCES as usize;

async fn connect_from(door: &Door, source: IpAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    in_time("a connection", socket.connect(door.address)).await.unwrap()
}

async fn tls_from(door: &Door, source: IpAddr) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("relay.test").unwrap();
    let handshake = connector(&[]).connect(name, connect_from(door, source).await);
    in_time("the end of the TLS handshake", handshake).await.unwrap()
}

/// A source of the flood, each in a network of its own.
fn source(n: u8) -> IpAddr {
    IpAddr::from([127, 1, n, 1])
}

const PAGE: &[u8] = b"GET /page HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n\r\n";
const UPLOAD: &[u8] =
    b"POST /up HTTP/1.1\r\nHost: relay.test\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\nx";

//= XPORT-21
#[tokio::test]
async fn sixteen_addresses_that_trickle_bodies_leave_every_honest_client_served() {
    let mut web = Recorder::start().await;
    web.settings.connections = PLACES;
    let door = Door::before(limits(), &web.settings);
    let mut tricklers = Vec::new();
    for n in 0..SOURCES {
        for _ in 0..EACH {
            let mut client = tls_from(&door, source(n)).await;
            client.write_all(UPLOAD).await.unwrap();
            tricklers.push(tokio::spawn(async move {
                while client.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }));
        }
    }
    eventually("every place to be taken", || door.door.backends().open() == PLACES).await;
    // One holds a place of its own, and keeps it.
    let mut slow = tls_from(&door, IpAddr::from([127, 2, 0, 1])).await;
    slow.write_all(UPLOAD).await.unwrap();
    eventually("its request to be passed on", || door.door.backends().displaced() >= 1).await;
    for n in 0..40 {
        let mut client = tls_from(&door, IpAddr::from([127, 3, n, 1])).await;
        client.write_all(PAGE).await.unwrap();
        let answer = until_closed(&mut client).await;
        assert!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "{n}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(door.door.backends().open() <= PLACES);
    in_time("its body to be taken", slow.write_all(&[b'x'; 99_999]))
        .await
        .unwrap();
    let mut answer = [0; 13];
    in_time("an answer", slow.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 ");
    tricklers.iter().for_each(tokio::task::JoinHandle::abort);
    drop(slow);
    door.empties().await;
    assert_eq!(door.door.backends().open(), 0);
}

//= XPORT-21
#[tokio::test]
async fn connections_of_a_route_and_websocket_give_way_to_clients_with_fewer_as_well() {
    let (listener, mut settings) = backend_of_all().await;
    settings.connections = 4;
    let door = Door::before(limits(), &settings);
    let hello = client_hello_for("www.example.org");
    let mut held = Vec::new();
    for n in 0..4 {
        if n % 2 == 0 {
            let mut client = connect_from(&door, source(1)).await;
            client.write_all(&hello).await.unwrap();
            let (far, _) = in_time("a connection to the backend", listener.accept()).await.unwrap();
            held.push((Some(client), None, far));
        } else {
            let mut client = tls_from(&door, source(1)).await;
            let ask = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            client.write_all(ask).await.unwrap();
            let (mut far, _) = in_time("a connection to the web server", listener.accept())
                .await
                .unwrap();
            let agree = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            far.write_all(agree).await.unwrap();
            let mut answer = [0; 13];
            in_time("an answer", client.read_exact(&mut answer)).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 101 ");
            held.push((None, Some(client), far));
        }
    }
    let counters = door.door.backends().counters();
    let mut honest = Vec::new();
    for n in 0..3 {
        let mut client = connect_from(&door, IpAddr::from([127, 4, n, 1])).await;
        client.write_all(&hello).await.unwrap();
        let (mut far, _) = in_time("a connection to the backend", listener.accept()).await.unwrap();
        in_time("its ClientHello", far.read_exact(&mut vec![0; hello.len()]))
            .await
            .unwrap();
        honest.push((client, far));
        let count = u64::from(n) + 1;
        eventually("one of the many to give way", || {
            counters.ends(SpliceEnd::Displaced) == count
        })
        .await;
    }
    assert_eq!(door.door.backends().displaced(), 3);
    // One each: nobody gives way any more.
    let mut late = connect_from(&door, IpAddr::from([127, 5, 0, 1])).await;
    late.write_all(&hello).await.unwrap();
    assert_eq!(until_closed(&mut late).await, b"");
    door.reaches(ConnectionOutcome::TooManyRouted, 1).await;
    for (client, far) in &mut honest {
        far.write_all(b"still here").await.unwrap();
        let mut text = [0; 10];
        in_time("what the backend says", client.read_exact(&mut text))
            .await
            .unwrap();
    }
}
