//! A small TURN client and its peers, over any transport, and the matching server configuration.

mod client;
mod peer;
mod tcp;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

pub use client::{Client, Incoming, Messages, Pipe, Stream, decode, error_code};
pub use peer::Peer;
use relay_proto::turn::Config;
use relay_proto::turn::config::limits::Limits;
use relay_proto::turn::config::{Challenge, RelayAddress, RelayConfig, TcpConfig};
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, StaticUser};
use relay_proto::turn::policy::{PeerPolicy, PolicyConfig};
pub use tcp::accept;

pub const REALM: &str = "example.org";
pub const USER: &str = "alice";
pub const PASSWORD: &str = "correct horse battery staple";
/// The address of relay sockets. Peers of the tests are on 127.0.0.1.
pub const RELAY_IP: &str = "127.0.0.2";

/// Below the kernel's ephemeral ports, so that no peer of a test looks like a relayed address.
const RELAY_PORTS: RangeInclusive<u16> = 10_240..=32_767;

/// Long enough for a busy machine, short enough to fail.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before concluding that nothing arrives.
pub const SILENCE: Duration = Duration::from_millis(100);

/// Allows every peer of the tests except these.
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

pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 17) as u8).collect()
}
