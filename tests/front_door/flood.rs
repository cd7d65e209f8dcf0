//! Half-open connections by the thousand, and a client that is slow as the way to it is long.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use relay::config::settings::ProxyProtocol;
use relay::edge::front_door::proxy::Proxies;
use relay::edge::front_door::{ConnectionOutcome, FrontDoorLimits};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::*;

/// Places for half-open connections.
const PLACES: usize = 64;
/// Connections of the storm that come while a slow client waits for an answer: more than there are places.
const MEANWHILE: usize = 2 * PLACES;
/// Slow clients, one after the other.
const CLIENTS: u8 = 31;

/// Connections that are begun and never finished, from `sources` by turns.
struct Storm {
    server: SocketAddr,
    sources: Vec<Ipv4Addr>,
    begun: usize,
    held: VecDeque<TcpStream>,
}

impl Storm {
    fn new(door: &Door, sources: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self {
            server: door.address,
            sources: sources.into_iter().collect(),
            begun: 0,
            held: VecDeque::new(),
        }
    }

    /// Begins `count` more of them, each with the first bytes of a ClientHello. It keeps all that may be open still.
    async fn rages(&mut self, count: usize) {
        for _ in 0..count {
            let source = self.sources[self.begun % self.sources.len()];
            self.begun += 1;
            let mut client = connect_from(source, self.server).await;
            // It may have been closed already.
            let _ = client.write_all(&[0x16, 0x03, 0x01]).await;
            self.held.push_back(client);
            if self.held.len() > 2 * PLACES {
                self.held.pop_front();
            }
        }
    }
}

async fn connect_from(source: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    in_time("a connection", socket.connect(server)).await.unwrap()
}

/// A TLS handshake and a first request, with the storm raging before every flight. `false`: the server closed on it.
async fn is_served(source: Ipv4Addr, storm: &mut Storm, door: &mut Door) -> bool {
    let mut socket = connect_from(source, door.address).await;
    let name = ServerName::try_from("relay.test").unwrap();
    let mut tls = ClientConnection::new(connector(&[]).config().clone(), name).unwrap();
    while tls.is_handshaking() || tls.wants_write() {
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight).unwrap();
        }
        storm.rages(MEANWHILE).await;
        if socket.write_all(&flight).await.is_err() {
            return false;
        }
        let mut answer = vec![0; 4096];
        while tls.is_handshaking() && !tls.wants_write() {
            match in_time("the answer", socket.read(&mut answer)).await {
                Ok(len @ 1..) => {
                    let mut bytes = &answer[..len];
                    while !bytes.is_empty() {
                        tls.read_tls(&mut bytes).unwrap();
                        tls.process_new_packets().unwrap();
                    }
                }
                _ => return false,
            }
        }
    }
    std::io::Write::write_all(&mut tls.writer(), &stun(1)).unwrap();
    let mut request = Vec::new();
    tls.write_tls(&mut request).unwrap();
    storm.rages(MEANWHILE).await;
    if socket.write_all(&request).await.is_err() {
        return false;
    }
    // A connection that is closed now is not handed over, and nothing else is.
    tokio::select! {
        biased;
        new_stream = door.handovers.recv() => new_stream.is_some_and(|new_stream| new_stream.client == socket.local_addr().unwrap()),
        _ = until_closed(&mut socket) => false,
    }
}

fn few_places() -> FrontDoorLimits {
    FrontDoorLimits {
        connections: 100_000,
        connections_per_source: 100_000,
        connections_per_network: 100_000,
        new_connections_per_second: 100_000,
        unproven: PLACES,
        ..limits()
    }
}

/// Every one of 31 is served although the places turn over twice between any two of its flights. Where the oldest gives way
/// none is.
async fn all_are_served(sources: impl IntoIterator<Item = Ipv4Addr>, client: impl Fn(u8) -> Ipv4Addr) {
    let mut door = Door::open(ALL, few_places());
    let mut storm = Storm::new(&door, sources);
    storm.rages(MEANWHILE).await;
    let mut served = 0;
    for n in 0..CLIENTS {
        served += u8::from(is_served(client(n), &mut storm, &mut door).await);
    }
    assert_eq!(served, CLIENTS);
    assert!(door.door.unproven_connections() <= PLACES);
    drop(storm);
    door.empties().await;
}

#[tokio::test]
async fn in_a_flood_from_32_addresses_of_as_many_networks_slow_clients_are_served() {
    let sources = (1..=32).map(|n| Ipv4Addr::new(127, 1, n, 1));
    all_are_served(sources, |_| Ipv4Addr::new(127, 0, 0, 1)).await;
}

#[tokio::test]
async fn in_a_flood_from_the_addresses_of_one_network_slow_clients_are_served_two_at_a_time() {
    // As many as there are places, each with one: a client is told from them by its network alone.
    let sources = (1..=250).map(|n| Ipv4Addr::new(127, 1, 1, n));
    let mut door = Door::open(ALL, few_places());
    let mut storm = Storm::new(&door, sources);
    storm.rages(MEANWHILE).await;
    let second = connect_from(Ipv4Addr::new(127, 0, 0, 1), door.address).await;
    for _ in 0..4 {
        assert!(is_served(Ipv4Addr::new(127, 0, 0, 1), &mut storm, &mut door).await);
    }
    // All the while it had two places, and loses none.
    let mut second = second;
    second.write_all(&stun(2)).await.unwrap();
    assert_eq!(door.new_stream().await.client, second.local_addr().unwrap());
    drop((storm, second));
    door.empties().await;
}

#[tokio::test]
async fn in_a_flood_from_neighbours_slow_clients_are_served() {
    let sources = (1..=32).map(|n| Ipv4Addr::new(127, 1, 1, n));
    all_are_served(sources, |_| Ipv4Addr::new(127, 1, 1, 200)).await;
}

#[tokio::test]
async fn a_flood_by_a_proxy_is_its_clients_and_not_the_proxys() {
    let proxies = Proxies {
        protocol: ProxyProtocol::Required,
        trusted: vec!["127.0.0.0/8".parse().unwrap()],
    };
    let mut door = Door::behind(proxies, few_places());
    let mut honest = door.connect().await;
    honest
        .write_all(b"PROXY TCP6 2001:db8:8::1 2001:db8::1 1000 443\r\n")
        .await
        .unwrap();
    eventually("it waits for the client", || door.door.unproven_connections() == 1).await;
    let mut flood = Vec::new();
    for n in 0..4 * PLACES {
        // Every one from another /64 of one /48.
        let mut proxy = door.connect().await;
        let header = format!("PROXY TCP6 2001:db8:7:{n:x}::1 2001:db8::1 1000 443\r\n");
        proxy.write_all(header.as_bytes()).await.unwrap();
        flood.push(proxy);
    }
    door.reaches(ConnectionOutcome::Evicted, 3 * PLACES as u64 + 1).await;
    honest.write_all(&stun(1)).await.unwrap();
    assert_eq!(door.new_stream().await.client, "[2001:db8:8::1]:1000".parse().unwrap());
    drop(flood);
    door.empties().await;
}

#[tokio::test]
async fn one_ipv6_48_does_not_take_all_connections() {
    let proxies = Proxies {
        protocol: ProxyProtocol::Required,
        trusted: vec!["127.0.0.0/8".parse().unwrap()],
    };
    let bounds = FrontDoorLimits {
        connections: 16,
        connections_per_source: 2,
        connections_per_network: 8,
        ..limits()
    };
    let mut door = Door::behind(proxies, bounds);
    let mut held = Vec::new();
    for n in 0..12 {
        let mut proxy = door.connect().await;
        let header = format!("PROXY TCP6 2001:db8:7:{n:x}::1 2001:db8::1 1000 443\r\n");
        // What is refused may be reset before.
        let _ = proxy.write_all(&[header.as_bytes(), &stun(n)].concat()).await;
        if n < 8 {
            held.push((door.new_stream().await, proxy));
        } else {
            assert_eq!(until_closed(&mut proxy).await, b"");
        }
    }
    door.reaches(ConnectionOutcome::TooManyFromNetwork, 4).await;
    let mut other = door.connect().await;
    other
        .write_all(&[&b"PROXY TCP6 2001:db8:8::1 2001:db8::1 1000 443\r\n"[..], &stun(1)].concat())
        .await
        .unwrap();
    drop(door.new_stream().await);
    drop((held, other));
    door.empties().await;
}

#[tokio::test]
async fn where_connections_are_used_up_by_silent_ones_who_has_none_is_served() {
    let bounds = FrontDoorLimits {
        connections: 32,
        ..limits()
    };
    let mut door = Door::open(ALL, bounds);
    let sources: Vec<_> = (1..=4).map(|n| Ipv4Addr::new(127, 1, n, 1)).collect();
    let mut held = Vec::new();
    for n in 0..32 {
        let mut client = connect_from(sources[n % 4], door.address).await;
        client.write_all(&stun(1)).await.unwrap();
        let mut new_stream = door.new_stream().await;
        let (displace, displaced) = std::sync::mpsc::channel();
        new_stream
            .guard
            .when_displaced(Box::new(move || displace.send(()).unwrap()));
        if n % 4 == 0 {
            // These have logged in.
            new_stream.guard.set_authenticated();
        }
        held.push((new_stream, displaced, client));
    }
    let mut newcomer = door.connect().await;
    newcomer.write_all(&stun(1)).await.unwrap();
    assert_eq!(door.new_stream().await.client, newcomer.local_addr().unwrap());
    let displaced: Vec<_> = held
        .iter()
        .map(|(_, displaced, _)| displaced.try_recv().is_ok())
        .collect();
    assert_eq!(
        displaced.iter().position(|&displaced| displaced),
        Some(1),
        "the oldest of who has most"
    );
    assert_eq!(displaced.iter().filter(|&&displaced| displaced).count(), 1);
    assert_eq!(door.door.displaced_connections(), 1);
    held.clear();
    door.empties().await;
}

#[tokio::test]
async fn an_http_connection_that_gives_way_is_closed() {
    let bounds = FrontDoorLimits {
        connections: 3,
        ..limits()
    };
    let door = Door::open(ALL, bounds);
    let mut busy = Vec::new();
    for _ in 0..3 {
        let mut client = door.connect_tls(&[b"http/1.1"]).await.unwrap();
        client
            .write_all(b"GET /endless HTTP/1.1\r\nHost: relay.test\r\n\r\n")
            .await
            .unwrap();
        in_time("the request", door.started.notified()).await;
        busy.push(client);
    }
    let newcomer = connect_from(Ipv4Addr::new(127, 1, 1, 1), door.address).await;
    assert_eq!(until_closed(&mut busy[0]).await, b"");
    assert_eq!(door.door.displaced_connections(), 1);
    eventually("the others to stay", || door.door.open_connections() == 3).await;
    drop((busy, newcomer));
    door.empties().await;
}
