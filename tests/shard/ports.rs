//! The pool of relay ports that all workers share, over real sockets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use relay::shard::ShardConfig;
use relay::turn::Counters;
use relay::turn::config::{Config, RelayAddress};
use relay::wire::attribute::AttributeType;
use relay::wire::error_code;
use relay::wire::message::{Class, Message, Method};
use relay_testkit_server::*;

/// Ports on an address that only this process uses, so that other tests do not interfere.
fn with_ports(ports: std::ops::RangeInclusive<u16>) -> Config {
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = IpAddr::from([127, 78, high, low | 1]);
    let mut config = turn_config();
    config.relay.ports = ports;
    config.relay.ipv4 = Some(RelayAddress {
        bind: ip,
        announced: ip,
    });
    config
}

/// A new client's relayed address, or `None` if no port is left.
fn allocation(server: &TestServer) -> Option<(Client, SocketAddr)> {
    let mut client = server.client();
    let response = client.request(Method::Allocate, &|writer| {
        writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
    });
    let message = Message::parse(&response).unwrap();
    if message.class() == Class::Success {
        let relayed = message.xor_address(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
        return Some((client, relayed.expect("a relayed address")));
    }
    let error = error_code::decode(message.attribute(AttributeType::ERROR_CODE).expect("an error"));
    assert_eq!(error.unwrap().code, 508);
    None
}

//= TURN-ALLOC-34
#[test]
fn eight_workers_use_a_range_to_its_last_port_and_every_port_again() {
    let config = with_ports(20_000..=20_099);
    let server = TestServer::start_with(8, "127.0.0.1:0", ShardConfig::default(), config);
    let mut clients: Vec<_> = std::iter::from_fn(|| allocation(&server)).collect();
    let ports: BTreeSet<u16> = clients.iter().map(|(_, relayed)| relayed.port()).collect();
    assert_eq!((clients.len(), ports), (100, (20_000..=20_099).collect()));
    let busy = |counters: &&Arc<Counters>| counters.allocations.iter().any(|live| live.get() > 0);
    assert!(
        server.shards.counters().iter().filter(busy).count() > 1,
        "spread over the workers"
    );
    // A released port can be bound again at once, on whichever worker requests it. Clients that are
    // finished keep their sockets: one with the address of another would be taken for it (RFC 8656
    // §7.2-2).
    let mut done = Vec::new();
    for n in 0..200 {
        let (mut client, port) = clients.swap_remove(n * 37 % clients.len());
        client.release();
        done.push(client);
        let deadline = std::time::Instant::now() + PATIENCE;
        let next = std::iter::repeat_with(|| allocation(&server))
            .take_while(|_| std::time::Instant::now() < deadline)
            .find_map(|found| found);
        let next = next.expect("the port that was given back is never free");
        assert_eq!(next.1, port);
        clients.push(next);
    }
    for (mut client, _) in clients {
        client.release();
    }
    server.eventually("every port is free", |server| server.shards.port_gauges().used() == 0);
    assert_eq!(server.stat(|stats| stats.relay_open_failed.get()), 0);
}
