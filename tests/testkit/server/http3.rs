//! A server of shards that forwards QUIC: the counterpart of `TestServer`.

use std::net::SocketAddr;
use std::sync::Arc;

use relay::net::udp::UdpSocket;
use relay::shard::{Http3Config, Http3Limits, Listener, ShardConfig, Shards, SharedBackend};
use relay::turn::Shared;

use crate::{TestServer, UDP, turn_config};

pub fn start_http3(workers: usize, listen: &str, http3: Option<Http3Config>) -> TestServer {
    let config = ShardConfig {
        http3,
        ..ShardConfig::default()
    };
    start_http3_with(workers, listen, config)
}

pub fn start_http3_with(workers: usize, listen: &str, config: ShardConfig) -> TestServer {
    let group = UdpSocket::bind_group(listen.parse().unwrap(), workers, &UDP).unwrap();
    let udp = group[0].local_addr();
    let listener = |socket| Listener {
        http3: true,
        dtls: true,
        ..Listener::from(socket)
    };
    let sockets: Vec<_> = group.into_iter().map(|socket| vec![listener(socket)]).collect();
    let shared = Arc::new(Shared::new([7; 32]));
    let shards = Shards::start(config, Arc::new(turn_config()), shared, sockets).unwrap();
    TestServer { shards, udp }
}

/// With a rate that no test reaches by accident.
pub fn passed_to(backend: SocketAddr, change: impl FnOnce(&mut Http3Config)) -> Http3Config {
    let shared = SharedBackend::default();
    shared.store(Some(Arc::new(backend)));
    let mut config = Http3Config {
        limits: Http3Limits {
            new_flows_per_second: 100_000,
            ..Http3Limits::default()
        },
        ..Http3Config::new(shared)
    };
    change(&mut config);
    config
}
