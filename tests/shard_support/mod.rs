//! A server of shards on loopback, and a small TURN client to talk to it, over UDP and TCP.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "helpers of tests; each test binary uses its part"
)]

mod client;
mod gate;
mod peer;
mod tcp;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use client::{Client, Incoming, Messages, Pipe, Stream, bursting, decode, error_code};
pub use gate::Gate;
pub use peer::Peer;
use relay::base::address::Transport;
use relay::net::stream::KERNEL_UNSENT;
use relay::net::udp::{Datagram, SendBatch, UdpOptions, UdpSocket};
use relay::shard::{ShardConfig, Shards, StreamHandover};
use relay::turn::config::limits::Limits;
use relay::turn::config::{Challenge, RelayAddress, RelayConfig, TcpConfig};
use relay::turn::login::credential::{Credentials, CredentialsConfig, StaticUser};
use relay::turn::policy::{PeerPolicy, PolicyConfig};
use relay::turn::{Config, Shared};
pub use tcp::accept;

pub const REALM: &str = "example.org";
pub const USER: &str = "alice";
pub const PASSWORD: &str = "correct horse battery staple";
/// Where relay sockets are bound; peers of the tests are on 127.0.0.1.
pub const RELAY_IP: &str = "127.0.0.2";

/// Below the kernel's ephemeral ports, so that no peer of a test looks like a relayed address.
const RELAY_PORTS: RangeInclusive<u16> = 10_240..=32_767;

/// Long enough for a busy machine, short enough to fail.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing is to come: how long that is believed.
pub const SILENCE: Duration = Duration::from_millis(100);

pub const UDP: UdpOptions = UdpOptions {
    receive_buffer: 4 << 20,
    send_buffer: 4 << 20,
    offload: true,
    errors: false,
    traffic_class: true,
};

/// Every peer of the tests but these.
pub fn policy(denied: &[&str]) -> PeerPolicy {
    PeerPolicy::new(PolicyConfig {
        allow: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        deny: denied.iter().map(|net| net.parse().unwrap()).collect(),
        relay_ips: vec![RELAY_IP.parse().unwrap(), "::1".parse().unwrap()],
        relay_ports: RELAY_PORTS,
        ..PolicyConfig::default()
    })
    .unwrap()
}

pub fn turn_config() -> Config {
    let credentials = Credentials::new(CredentialsConfig {
        realm: REALM.into(),
        users: vec![StaticUser {
            name: USER.into(),
            password: PASSWORD.to_owned().into(),
            forced: false,
        }],
        ..CredentialsConfig::default()
    })
    .unwrap();
    let relay_ip: IpAddr = RELAY_IP.parse().unwrap();
    let v6: IpAddr = "::1".parse().unwrap();
    let policy = policy(&[]);
    let relay = RelayConfig {
        ipv4: Some(RelayAddress {
            bind: relay_ip,
            announced: relay_ip,
        }),
        ipv6: Some(RelayAddress {
            bind: v6,
            announced: v6,
        }),
        ports: RELAY_PORTS,
        port_shift: 0,
    };
    Config {
        challenge: Challenge::Compact,
        nonce_lifetime: Duration::from_secs(3600),
        tcp: Some(TcpConfig {
            peer_ports: vec![1024..=65_535],
            connections_per_allocation: 8,
            connections: 1000,
            max_bytes: None,
        }),
        limits: Limits {
            allocations_per_user: 10_000,
            allocations_per_ip: 10_000,
            challenges_per_second: 10_000,
            challenge_burst: 10_000,
            bindings_per_second: 10_000,
            permission_requests_per_second: 10_000,
            ..Limits::default()
        },
        ..Config::new(REALM.into(), Arc::new(credentials), Arc::new(policy), relay)
    }
}

/// A running server.
pub struct TestServer {
    pub shards: Shards,
    pub udp: SocketAddr,
}

impl TestServer {
    pub fn start(workers: usize) -> Self {
        Self::start_with(workers, "127.0.0.1:0", ShardConfig::default(), turn_config())
    }

    pub fn start_with(workers: usize, listen: &str, config: ShardConfig, turn: Config) -> Self {
        let group = UdpSocket::bind_group(listen.parse().unwrap(), workers, &UDP).unwrap();
        let udp = group[0].local_addr();
        let sockets = group.into_iter().map(|socket| vec![socket]).collect();
        let shards = Shards::start(config, Arc::new(turn), Arc::new(Shared::new([7; 32])), sockets).unwrap();
        Self { shards, udp }
    }

    pub fn client(&self) -> Client {
        Client::udp(self.udp)
    }

    /// A client on a TCP connection, accepted here and handed over as the front door does.
    pub fn tcp_client(&self) -> Client {
        let (stream, handover) = tcp_pair(Vec::new());
        self.shards.adopt(handover);
        Client::tcp(stream)
    }

    /// A client with an allocation on a shard that had none.
    pub fn client_elsewhere(&self) -> (Client, SocketAddr) {
        let idle = |counters: &&relay::turn::Counters| counters.allocations.iter().all(|live| live.get() == 0);
        let empty: Vec<_> = self.shards.counters().iter().map(|it| &**it).filter(idle).collect();
        // The kernel deals clients out by hash: some client soon lands elsewhere.
        (0..500)
            .map(|_| {
                let mut client = self.client();
                let relayed = client.allocate();
                (client, relayed)
            })
            // Counted before the client was answered.
            .find(|_| !empty.iter().all(idle))
            .expect("a client on another shard")
    }

    /// A client with an allocation on this shard.
    #[track_caller]
    pub fn client_on(&self, shard: usize) -> (Client, SocketAddr) {
        let counters = &self.shards.counters()[shard];
        let began = || counters.allocations_began.iter().map(|cell| cell.get()).sum::<u64>();
        (0..500)
            .find_map(|_| {
                let before = began();
                let mut client = self.client();
                let relayed = client.allocate();
                // Counted before the client was answered.
                (began() > before).then_some((client, relayed))
            })
            .expect("a client on this shard")
    }

    /// Sum over the shards.
    pub fn stat(&self, of: impl Fn(&relay::shard::ShardCounters) -> u64) -> u64 {
        self.shards.shard_counters().iter().map(|counters| of(counters)).sum()
    }

    /// Sum over the shards.
    pub fn count(&self, of: impl Fn(&relay::turn::Counters) -> u64) -> u64 {
        self.shards.counters().iter().map(|counters| of(counters)).sum()
    }

    /// How often the busiest worker turns in a second, over more than one of them. A worker without traffic turns once.
    pub fn turns_per_second(&self) -> f64 {
        let seen = |stats: &relay::shard::ShardCounters| (stats.turns.get(), stats.heartbeat.get());
        let all = || self.shards.shard_counters().iter();
        let before: Vec<_> = all().map(|stats| seen(stats)).collect();
        let nanos = |stats, before: &(u64, u64)| seen(stats).1 - before.1;
        self.eventually("every worker turns", |_| {
            all()
                .zip(&before)
                .all(|(stats, before)| nanos(stats, before) >= 1_500_000_000)
        });
        let rates = all().zip(&before).map(|(stats, before)| {
            let turns = seen(stats).0 - before.0;
            turns as f64 * 1e9 / nanos(stats, before) as f64
        });
        rates.fold(0.0, f64::max)
    }

    /// Waits until `what` is `expected`: a worker counts what it did after a client has seen it.
    pub fn becomes<T: PartialEq + std::fmt::Debug>(&self, text: &str, expected: T, what: impl Fn(&Self) -> T) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is = what(self);
            if is == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{text}: waited for {expected:?}, and it is {is:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until `what` holds.
    pub fn eventually(&self, text: &str, what: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !what(self) {
            assert!(Instant::now() < deadline, "never: {text}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Both ends of a TCP connection: the client's, and the server's as it is handed to a shard.
pub fn tcp_pair(early: Vec<u8>) -> (TcpStream, StreamHandover) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
    stream.set_nodelay(true).unwrap();
    // No test waits longer for a server that has stopped reading, or that says nothing.
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (socket, client) = accept(&listener);
    let options = socket2::SockRef::from(&socket);
    options.set_tcp_nodelay(true).unwrap();
    options.set_tcp_notsent_lowat(KERNEL_UNSENT).unwrap();
    let server = socket.local_addr().unwrap();
    let handover = StreamHandover {
        socket,
        tls: None,
        early,
        client,
        server,
        transport: Transport::Tcp,
        guard: Box::new(Arc::new(())),
    };
    (stream, handover)
}

/// Sends `packets` in one go, several in one system call and GSO message, as a client that sends video does.
pub fn burst(from: &UdpSocket, to: SocketAddr, packets: &[Vec<u8>]) {
    let slab: Vec<u8> = packets.concat();
    let mut batch = SendBatch::new();
    let mut start = 0;
    for packet in packets {
        let datagram = Datagram {
            egress: 0,
            destination: to,
            source: None,
            tos: 0,
            dont_fragment: false,
            header: &[],
            data: start..start + packet.len(),
            padding: 0,
        };
        batch.push(&datagram).unwrap();
        start += packet.len();
    }
    batch.flush(&slab, relay::base::time::Instant::ZERO, |_| Some(from));
    assert_eq!(batch.take_stats().datagrams, packets.len() as u64);
}

pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 17) as u8).collect()
}
