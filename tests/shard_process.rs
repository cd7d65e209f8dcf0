//! What a worker does when the process runs out of descriptors, and what the process does when a worker fails.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay::shard::counters::{Http3Drop, Http3End};
use relay::shard::{Http3Config, ShardConfig};
use relay::wire::attribute::AttributeType;
use relay::wire::message::{Message, Method};
use relay_testkit_server::http3::{passed_to, start_http3};
use relay_testkit_server::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// One test at a time: starting a process takes descriptors.
static DESCRIPTORS: Mutex<()> = Mutex::new(());

/// Set in the child process that [`a_worker_that_panics_ends_the_process_with_a_reason`] starts.
const CHILD: &str = "RELAY_TEST_PANICKING_WORKER";

/// Every descriptor up to a limit, until dropped.
struct Hoard {
    limit: Rlimit,
    files: Vec<std::fs::File>,
}

impl Hoard {
    fn take() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let current = Some(limit.current.map_or(128, |current| current.min(128)));
        setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
        let files = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        Self { limit, files }
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        self.files.clear();
        setrlimit(Resource::Nofile, self.limit).unwrap();
    }
}

/// Of this process.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn without_descriptors_no_http3_flow_begins_and_one_that_ends_gives_its_own_back() {
    let _alone = DESCRIPTORS.lock();
    let backend = Peer::new();
    let soon = |config: &mut Http3Config| config.handshake_timeout = Duration::from_secs(1);
    let server = start_http3(1, "127.0.0.1:0", Some(passed_to(backend.addr(), soon)));
    let udp = server.udp;
    let client = Peer::new();
    let mut initial = vec![0xC0, 0, 0, 0, 1, 8];
    initial.resize(1200, 0);

    let hoard = Hoard::take();
    client.send(udp, &initial);
    server.eventually("there is no socket", |s| {
        s.stat(|c| c.http3_dropped[Http3Drop::NoSocket as usize].get()) == 1
    });
    drop(hoard);
    server.becomes("flows", 0, |s| s.stat(|s| s.http3_flows.get()));

    let before = open_files();
    client.send(udp, &initial);
    assert_eq!(backend.recv().0, initial);
    server.eventually("it is forgotten", |s| {
        s.stat(|c| c.http3_ended[Http3End::Unproven as usize].get()) == 1
    });
    // Another test may have some of its own for a moment.
    server.eventually("its descriptor is back", |_| open_files() <= before);
}

#[test]
fn without_descriptors_an_allocate_gets_508_and_later_ones_are_served_again() {
    let _alone = DESCRIPTORS.lock();
    let server = TestServer::start(1);
    let peer = Peer::new();
    let mut first = server.client();
    let relayed = first.allocate();
    first.bind(0x4000, peer.addr());
    let mut second = server.client();
    second.request(Method::Refresh, &|writer| {
        writer.u32(AttributeType::LIFETIME, 0);
    });

    let hoard = Hoard::take();
    let response = second.request(Method::Allocate, &|writer| {
        writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
    });
    drop(hoard);
    assert_eq!(error_code(&Message::parse(&response).unwrap()), Some(508));
    server.eventually("it is counted as exhausted", |s| {
        s.stat(|s| s.relay_exhausted.get()) >= 1
    });

    first.send_channel(0x4000, b"the others never noticed");
    assert_eq!(peer.recv(), (b"the others never noticed".to_vec(), relayed));
    second.allocate();
}

#[test]
fn without_descriptors_peers_wait_to_be_accepted_and_the_worker_does_not_turn_for_nothing() {
    let _alone = DESCRIPTORS.lock();
    let server = TestServer::start(1);
    let mut client = server.tcp_client();
    let relayed = client.allocate_tcp();
    client.permit("127.0.0.1:1".parse().unwrap());
    let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    peer.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();

    let hoard = Hoard::take();
    peer.connect_timeout(&relayed.into(), PATIENCE).unwrap();
    let turns = server.turns_per_second();
    let exhausted = server.stat(|s| s.relay_exhausted.get());
    drop(hoard);
    assert!(exhausted >= 1, "there was a descriptor left");
    assert!(turns < 100.0, "{turns} turns a second");
    let told = client.incoming();
    assert!(matches!(told, Incoming::Attempt { .. }), "{told:?}");
}

#[test]
fn without_descriptors_a_connect_fails_alone_and_the_next_succeeds() {
    let _alone = DESCRIPTORS.lock();
    let server = TestServer::start(1);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let mut client = server.tcp_client();
    client.allocate_tcp();
    client.permit(peer);

    let hoard = Hoard::take();
    let response = client.request(Method::Connect, &|writer| {
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
    });
    drop(hoard);
    assert_eq!(error_code(&Message::parse(&response).unwrap()), Some(447));
    server.eventually("it is counted as exhausted", |s| {
        s.stat(|s| s.relay_exhausted.get()) >= 1
    });
    client.connect(peer);
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
        // The worker's end has to end this process meanwhile.
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
