//! A server of shards on loopback.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::base::address::Transport;
use relay::net::udp::UdpSocket;
use relay::shard::{NewStream, ShardConfig, Shards};
use relay::turn::{Config, Shared};
use relay_testkit::turn::{Client, PATIENCE, turn_config};
use relay_testkit_net::{UDP, tcp_sockets};

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
        let (stream, new_stream) = tcp_pair(Vec::new());
        self.shards.add_stream(new_stream);
        Client::tcp(stream)
    }

    /// A client with an allocation on a shard that had none.
    pub fn client_elsewhere(&self) -> (Client, SocketAddr) {
        let idle = |counters: &&relay::turn::Counters| counters.allocations.iter().all(|live| live.get() == 0);
        let empty: Vec<_> = self.shards.counters().iter().map(|it| &**it).filter(idle).collect();
        // The kernel distributes clients by hash, so some client soon reaches another shard.
        (0..500)
            .map(|_| {
                let mut client = self.client();
                let relayed = client.allocate();
                (client, relayed)
            })
            // Counted before the client got its response.
            .find(|_| !empty.iter().all(idle))
            .expect("a client on another shard")
    }

    /// A client with an allocation on this shard.
    #[track_caller]
    pub fn client_on(&self, shard: usize) -> (Client, SocketAddr) {
        let counters = &self.shards.counters()[shard];
        let began = || counters.allocations_started.iter().map(|cell| cell.get()).sum::<u64>();
        (0..500)
            .find_map(|_| {
                let before = began();
                let mut client = self.client();
                let relayed = client.allocate();
                // Counted before the client got its response.
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

    /// Turns per second of the busiest worker, measured over more than a second. A worker without
    /// traffic turns once.
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

    /// Waits until `what` is `expected`: a worker counts its work after a client has seen the
    /// result.
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

/// Both ends of a TCP connection: the client's, and the server's as handed to a shard.
pub fn tcp_pair(early: Vec<u8>) -> (TcpStream, NewStream) {
    let (stream, socket, client) = tcp_sockets();
    let server = socket.local_addr().unwrap();
    let new_stream = NewStream {
        socket,
        tls: None,
        early,
        client,
        server,
        transport: Transport::Tcp,
        guard: Box::new(Arc::new(())),
    };
    (stream, new_stream)
}
