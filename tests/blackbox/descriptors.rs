//! Few open files: an attacker that uses up all descriptors for clients stops neither allocations
//! nor health checks.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use relay::base::address::Transport;
use socket2::{Domain, Socket, Type};

use crate::client::{Client, PATIENCE};
use crate::harness::{SECRET, Server, minted};

/// Connects from `source` and becomes a TURN client that sends nothing more. `None`: refused.
fn silent(source: Ipv4Addr, server: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("loopback");
    socket.connect_timeout(&server.into(), PATIENCE).ok()?;
    let mut stream = TcpStream::from(socket);
    // The beginning of a Binding request.
    stream.write_all(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]).ok()?;
    Some(stream)
}

/// As many as allowed, and then more, from 16 addresses in 16 networks.
fn silent_crowd(server: &Server, count: u16) -> Vec<TcpStream> {
    let sources = (0..count).map(|n| Ipv4Addr::new(127, 3, (n % 16) as u8, 1));
    sources.filter_map(|source| silent(source, server.plain)).collect()
}

#[test]
fn silent_connections_stop_neither_allocations_nor_health_however_few_files_there_are() {
    relay::machine::process::raise_max_fds().expect("files for this test's own sockets");
    for (files, allocations) in [(1024, 300), (512, 60)] {
        let limits = "[limits]\nframe_timeout = \"2m\"\nidle_timeout = \"10m\"\n";
        let server = Server::start_with_files(files, limits);
        server.wait_for_log("LimitNOFILE");
        let crowd = silent_crowd(&server, 1100);
        assert!(crowd.len() > 100, "{}", crowd.len());
        // Until then there is room, and none is evicted.
        server.wait_for_metric_of_at_least("relay_connections_total", "outcome=\"too_many_connections\"", 1.0);
        let mut clients = Vec::new();
        for n in 0..allocations {
            let mut client = Client::udp(server.plain).with_login(&minted(SECRET, 600, &n.to_string()));
            client
                .allocate()
                .unwrap_or_else(|code| panic!("{files} files, allocation {n}: {code}\n{}", server.log()));
            clients.push(client);
        }
        for path in ["/healthz", "/metrics"] {
            let (status, _) = server.admin_get(path).expect("an answer");
            assert_eq!(status, 200, "{files} files: {path}");
        }
        // A source without a connection is served over TCP and TLS, and one of the crowd is
        // evicted.
        for transport in [Transport::Tcp, Transport::Tls] {
            let mut client = Client::over_transport(transport, server.tls).with_login(&minted(SECRET, 600, "late"));
            client.allocate().expect("allocated");
            // It stays, because otherwise the next one would find its place free.
            clients.push(client);
        }
        assert!(server.metric("relay_connections_displaced_total", "") >= 2.0);
        assert_eq!(server.metric("relay_accept_errors_total", "exhausted"), 0.0);
        assert_eq!(server.metric("relay_peer_socket_errors_total", "exhausted"), 0.0);
        drop((crowd, clients));
    }
}
