//! TCP allocations (RFC 6062) on several workers: a client's connection reaches the worker that
//! owns the peer connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use relay::net::stream::StreamLimits;
use relay::shard::ShardConfig;
use relay::shard::counters::STREAM_CLOSE_REASONS;
use relay::turn::Config;
use relay::turn::output::ConnectionEnd;
use relay::wire::attribute::AttributeType;
use relay::wire::message::{Message, Method};
use relay_testkit_server::*;

fn moved(server: &TestServer) -> u64 {
    let i = STREAM_CLOSE_REASONS.iter().position(|&r| r == "moved").unwrap();
    server.stat(|s| s.streams_closed[i].get())
}

fn ended(server: &TestServer, why: ConnectionEnd) -> u64 {
    server.count(|c| c.tcp.ended[why as usize].get())
}

/// A peer that listens, and the client's connection as the peer sees it.
fn connected(client: &mut Client) -> (TcpStream, u32) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let id = client.connect(listener.local_addr().unwrap());
    let (peer, _) = accept(&listener);
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    (peer, id)
}

fn read_exactly(from: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

/// The stream of a client that has bound it, and the bytes already received.
fn stream_of(client: Client) -> Box<dyn Stream> {
    match client.pipe {
        Pipe::Tcp { stream, buffer } => {
            assert!(buffer.is_empty());
            stream
        }
        _ => unreachable!("a stream"),
    }
}

//= TCP-ALLOC-10
#[test]
fn bytes_right_behind_connection_bind_are_the_peers_whichever_worker_they_arrive_at() {
    for workers in [1, 2, 3] {
        let server = TestServer::start(workers);
        let mut control = server.tcp_client();
        control.allocate_tcp();
        for round in 0..4 {
            let (mut peer, id) = connected(&mut control);
            // One more worker is busy each time, so that the next connection goes to another.
            let _other: Vec<Client> = (0..round).map(|_| server.tcp_client()).collect();
            let mut client = server.tcp_client();
            client.connection_bind(id, b"not STUN at all");
            assert_eq!(read_exactly(&mut peer, 15), b"not STUN at all");
            peer.write_all(b"down").unwrap();
            let mut stream = stream_of(client);
            stream.patience(PATIENCE);
            assert_eq!(read_exactly(&mut stream, 4), b"down");
        }
        // Once into the pipe and, if necessary, before that from worker to worker.
        server.eventually("every stream has moved", |server| match workers {
            1 => moved(server) == 4,
            _ => (5..=8).contains(&moved(server)),
        });
        assert_eq!(
            server.stat(|s| s.streams_refused.load(std::sync::atomic::Ordering::Relaxed)),
            0
        );
        server.eventually("all but the control connection and idle ones are gone", |server| {
            ended(server, ConnectionEnd::Closed) == 4
        });
    }
}

//= TCP-ALLOC-10
#[test]
fn a_reset_by_the_client_closes_the_peer_and_by_the_peer_the_client() {
    let server = TestServer::start(1);
    let mut control = server.tcp_client();
    control.allocate_tcp();
    for at_peer in [true, false] {
        let (mut peer, id) = connected(&mut control);
        let (stream, new_stream) = tcp_pair(Vec::new());
        server.shards.add_stream(new_stream);
        let mut handle = stream.try_clone().unwrap();
        let mut client = Client::tcp(stream);
        client.connection_bind(id, b"");
        let mut gone = [0; 8];
        if at_peer {
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            handle.set_read_timeout(Some(PATIENCE)).unwrap();
            assert!(matches!(handle.read(&mut gone), Ok(0) | Err(_)));
        } else {
            socket2::SockRef::from(&handle)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop((handle, client));
            assert!(matches!(peer.read(&mut gone), Ok(0) | Err(_)));
        }
    }
    server.eventually("both are over", |server| ended(server, ConnectionEnd::Closed) == 2);
}

#[test]
fn a_peer_that_resets_before_it_is_bound_is_forgotten() {
    let server = TestServer::start(1);
    let mut control = server.tcp_client();
    control.allocate_tcp();
    let (peer, _) = connected(&mut control);
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    server.eventually("it is over", |server| ended(server, ConnectionEnd::Closed) == 1);
    server.becomes("connections", 0, |s| s.count(|c| c.tcp.connections.get()));
}

#[test]
fn a_half_closed_connection_in_which_nothing_moves_is_closed_and_an_open_one_is_not() {
    let config = ShardConfig {
        stream: StreamLimits {
            write_timeout: Duration::from_millis(300),
            ..StreamLimits::default()
        },
        ..ShardConfig::default()
    };
    let server = TestServer::start_with(1, "127.0.0.1:0", config, turn_config());
    let mut control = server.tcp_client();
    control.allocate_tcp();
    let (mut idle_peer, id) = connected(&mut control);
    let mut idle = server.tcp_client();
    idle.connection_bind(id, b"");
    let (mut peer, id) = connected(&mut control);
    let mut client = server.tcp_client();
    client.connection_bind(id, b"");
    peer.shutdown(Shutdown::Write).unwrap();
    let mut stream = stream_of(client);
    stream.patience(PATIENCE);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "the end is passed on");
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "and the other direction given up");
    server.eventually("it is over", |server| ended(server, ConnectionEnd::Closed) == 1);
    idle.pipe.send(b"still here");
    assert_eq!(read_exactly(&mut idle_peer, 10), b"still here");
}

/// Connections in progress from this machine to `peer`: state 2 is SYN-SENT.
fn being_made(peer: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", peer.port());
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2].ends_with(&port) && row[3] == "02").count()
}

//= TCP-ALLOC-05
#[test]
fn a_connect_under_way_to_a_peer_that_a_reload_denies_is_answered_447_and_leaves_nothing() {
    let server = TestServer::start(1);
    let mut control = server.tcp_client();
    control.allocate_tcp();
    // A peer that does not answer: its backlog has room for one.
    let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    peer.bind(&SocketAddr::from(([127, 0, 0, 5], 0)).into()).unwrap();
    peer.listen(0).unwrap();
    let address = peer.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    let request = control.compose(Method::Connect, &|writer| {
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, address);
    });
    control.pipe.send(&request);
    server.eventually("it is being connected", |_| being_made(address) == 1);
    // Another of its peers, with a connection that is not bound yet.
    let (mut pending, _) = connected(&mut control);

    server.shards.set_config(Arc::new(Config {
        policy: Arc::new(policy(&["127.0.0.5/32"])),
        ..turn_config()
    }));
    let response = control.response(&request);
    assert_eq!(error_code(&Message::parse(&response).unwrap()), Some(447));
    server.eventually("its socket is closed", |_| being_made(address) == 0);
    server.becomes("connections", 1, |s| s.count(|c| c.tcp.connections.get()));
    server.becomes("failed", 1, |s| ended(s, ConnectionEnd::ConnectFailed));

    server.shards.set_config(Arc::new(Config {
        policy: Arc::new(policy(&["127.0.0.0/8"])),
        ..turn_config()
    }));
    assert!(
        matches!(pending.read(&mut [0; 8]), Ok(0) | Err(_)),
        "this one is closed"
    );
    server.becomes("closed by the policy", 1, |s| ended(s, ConnectionEnd::Policy));
    // And the client gets no indication.
    let binding = control.compose(Method::Binding, &|_| {});
    control.pipe.send(&binding);
    control.response(&binding);
}

//= TCP-ALLOC-11
#[test]
fn a_shutdown_closes_peers_pending_and_bound() {
    let server = TestServer::start(2);
    let mut control = server.tcp_client();
    let relayed = control.allocate_tcp();
    control.permit("127.0.0.1:1".parse().unwrap());
    let (mut bound, id) = connected(&mut control);
    let mut client = server.tcp_client();
    client.connection_bind(id, b"");
    let mut pending = TcpStream::connect_timeout(&relayed, PATIENCE).unwrap();
    pending.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(control.incoming(), Incoming::Attempt { .. }));
    assert!(server.shards.shutdown(Duration::from_secs(5)));
    for peer in [&mut bound, &mut pending] {
        assert!(matches!(peer.read(&mut [0; 8]), Ok(0) | Err(_)));
    }
    assert!(TcpStream::connect_timeout(&relayed, PATIENCE).is_err());
}
