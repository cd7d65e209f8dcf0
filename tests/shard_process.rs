//! What a worker does when the process runs out of descriptors, and what the process does when a worker fails.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod shard_support;

use std::process::Command;
use std::sync::{Arc, Mutex};

use relay::shard::ShardConfig;
use relay::wire::attribute::AttributeType;
use relay::wire::message::{Message, Method};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shard_support::*;

/// One test at a time: starting a process takes descriptors.
static DESCRIPTORS: Mutex<()> = Mutex::new(());

/// Set in the child process that [`a_worker_that_panics_ends_the_process_with_a_reason`] starts.
const CHILD: &str = "RELAY_TEST_PANICKING_WORKER";

#[test]
fn without_descriptors_an_allocate_gets_508_and_later_ones_are_served_again() {
    let _alone = DESCRIPTORS.lock();
    let server = TestServer::start(1);
    let peer = Peer::new();
    let mut first = server.client();
    let relayed = first.allocate();
    first.bind(0x4000, peer.addr());
    let mut second = server.client();
    second.request(Method::Refresh, &|_| {});

    // Every descriptor up to the limit is taken.
    let limit = getrlimit(Resource::Nofile);
    let current = Some(limit.current.map_or(128, |current| current.min(128)));
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let response = second.request(Method::Allocate, &|writer| {
        writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
    });
    drop(hoard);
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(error_code(&Message::parse(&response).unwrap()), Some(508));
    assert!(server.stat(|s| s.relay_exhausted.get()) >= 1);

    first.send_channel(0x4000, b"the others never noticed");
    assert_eq!(peer.recv(), (b"the others never noticed".to_vec(), relayed));
    second.allocate();
}

#[test]
fn a_worker_that_panics_ends_the_process_with_a_reason() {
    if std::env::var_os(CHILD).is_some() {
        let config = ShardConfig {
            on_thread_start: Some(Arc::new(|_| panic!("as this test wants"))),
            ..ShardConfig::default()
        };
        let socket = relay::net::udp::UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UDP).unwrap();
        let shared = Arc::new(relay::turn::Shared::new([0; 32]));
        let _ = relay::shard::Shards::start(config, Arc::new(turn_config()), shared, vec![vec![socket]]);
        std::thread::sleep(PATIENCE);
        unreachable!("half alive");
    }
    let _alone = DESCRIPTORS.lock();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_worker_that_panics_ends_the_process_with_a_reason",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{stderr}");
    assert!(
        stderr.contains("as this test wants") && stderr.contains("worker 0 has failed"),
        "{stderr}"
    );
}
