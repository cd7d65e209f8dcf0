//! Workers end to end with TCP and TLS clients that are handed over as by the front door.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::base::address::Transport;
use relay::net::stream::StreamLimits;
use relay::shard::ShardConfig;
use relay::shard::counters::STREAM_CLOSE_REASONS;
use relay::turn::{Config, DropReason, EndReason};
use relay::wire::attribute::AttributeType;
use relay::wire::message::{Class, Message, Method};
use relay_testkit_server::*;

fn closed(server: &TestServer, reason: &str) -> u64 {
    let i = STREAM_CLOSE_REASONS.iter().position(|&r| r == reason).unwrap();
    server.stat(|s| s.streams_closed[i].get())
}

fn ended(server: &TestServer, why: EndReason) -> u64 {
    server.count(|c| c.allocations_ended[why as usize].get())
}

/// Reads until the end of the stream.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return bytes,
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("not closed: {error}"),
        }
    }
}

//= XPORT-04
#[test]
fn a_reserved_channel_number_passes_where_it_is_allowed_and_costs_its_message_alone_where_not() {
    for allowed in [true, false] {
        let turn = Config {
            rfc5766_channels: allowed,
            ..turn_config()
        };
        let server = TestServer::start_with(1, "127.0.0.1:0", ShardConfig::default(), turn);
        let peer = Peer::new();
        let mut client = server.tcp_client();
        let relayed = client.allocate();
        let number = if allowed { 0x7FFE } else { 0x4000 };
        client.bind(number, peer.addr());
        client.send_channel(0x5000, b"nobody bound this");
        client.send_channel(number, b"up");
        assert_eq!(peer.recv(), (b"up".to_vec(), relayed));
        peer.send(relayed, b"down");
        let data = b"down".to_vec();
        assert_eq!(client.incoming(), Incoming::Channel { number, data });
        let reason = if allowed {
            DropReason::NoChannel
        } else {
            DropReason::BadChannelData
        };
        server.becomes(&format!("dropped, allowed: {allowed}"), 1, |s| {
            s.count(|c| c.dropped[reason as usize].get())
        });
    }
}

//= TURN-CHAN-15
//= TURN-DATA-05
#[test]
fn application_data_of_every_size_passes_unchanged() {
    let server = TestServer::start(1);
    let (peer, other) = (Peer::new(), Peer::on("127.0.0.3:0"));
    let mut client = server.tcp_client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    client.permit(other.addr());
    for (seed, size) in [0, 1, 2, 3, 4, 5, 160, 1199, 1200, 1472, 9000, 60_000]
        .into_iter()
        .enumerate()
    {
        let data = pattern(size, seed);
        client.send_channel(0x4000, &data);
        assert_eq!(peer.recv(), (data.clone(), relayed), "{size} bytes up");
        peer.send(relayed, &data);
        assert_eq!(
            client.incoming(),
            Incoming::Channel {
                number: 0x4000,
                data: data.clone()
            },
            "{size} bytes down"
        );
        client.send_indication(other.addr(), &data);
        assert_eq!(other.recv(), (data.clone(), relayed), "{size} bytes up");
        other.send(relayed, &data);
        assert_eq!(
            client.incoming(),
            Incoming::Data {
                peer: other.addr(),
                data
            },
            "{size} bytes down"
        );
    }
}

//= XPORT-02
//= XPORT-09
#[test]
fn messages_may_be_split_and_joined_in_any_way() {
    let server = TestServer::start(1);
    let peer = Peer::new();
    let mut client = server.tcp_client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    let frames: Vec<u8> = (0..50u8)
        .flat_map(|i| client.channel_frame(0x4000, &vec![i; usize::from(i)]))
        .collect();
    client.pipe.send(&frames);
    for i in 0..50u8 {
        assert_eq!(peer.recv(), (vec![i; usize::from(i)], relayed));
    }
    for byte in client.channel_frame(0x4000, b"one byte at a time") {
        client.pipe.send(&[byte]);
    }
    assert_eq!(peer.recv().0, b"one byte at a time");
    let requests: Vec<Vec<u8>> = (0..20).map(|_| client.compose(Method::Binding, &|_| {})).collect();
    client.pipe.send(&requests.concat());
    for request in &requests {
        client.response(request);
    }
}

#[test]
fn what_the_front_door_has_read_already_is_not_lost() {
    let server = TestServer::start(1);
    let mut asker = Client::udp(server.udp);
    let request = asker.compose(Method::Binding, &|_| {});
    for cut in [1, 4, 19, 20] {
        let (mut stream, new_stream) = tcp_pair(request[..cut].to_vec());
        server.shards.add_stream(new_stream);
        stream.write_all(&request[cut..]).unwrap();
        let mut client = Client::tcp(stream);
        let response = client.response(&request);
        assert_eq!(Message::parse(&response).unwrap().class(), Class::Success);
    }
}

//= XPORT-08
#[test]
fn a_half_closed_stream_still_gets_its_pending_response() {
    let server = TestServer::start(1);
    let (stream, new_stream) = tcp_pair(Vec::new());
    server.shards.add_stream(new_stream);
    let mut client = Client::tcp(stream.try_clone().unwrap());
    // Gets the nonce.
    client.request(Method::Refresh, &|_| {});
    let request = client.compose(Method::Allocate, &|writer| {
        writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
    });
    (&stream).write_all(&request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let response = client.response(&request);
    assert_eq!(Message::parse(&response).unwrap().class(), Class::Success);
    assert!(client.pipe.recv(PATIENCE).is_none(), "and then the end");
    server.eventually("its allocation is gone", |s| ended(s, EndReason::Disconnected) == 1);
    server.eventually("its stream is gone", |s| s.stat(|c| c.streams.get()) == 0);
    server.becomes("closed", 1, |s| closed(s, "client"));
}

//= XPORT-07
#[test]
fn closing_a_stream_ends_its_allocation_and_frees_everything() {
    let mut turn = turn_config();
    turn.limits.allocations_per_user = 1;
    let server = TestServer::start_with(1, "127.0.0.1:0", ShardConfig::default(), turn);
    for round in 1..=3 {
        let mut client = server.tcp_client();
        let relayed = client.allocate();
        drop(client);
        server.eventually("the allocation ended", |s| ended(s, EndReason::Disconnected) == round);
        server.eventually("the port is free", |_| std::net::UdpSocket::bind(relayed).is_ok());
    }
}

#[test]
fn a_reset_stream_ends_its_allocation() {
    let server = TestServer::start(1);
    let (stream, new_stream) = tcp_pair(Vec::new());
    server.shards.add_stream(new_stream);
    let mut client = Client::tcp(stream.try_clone().unwrap());
    client.allocate();
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop((stream, client));
    server.eventually("the allocation ended", |s| ended(s, EndReason::Disconnected) == 1);
    server.eventually("the stream is gone", |s| s.stat(|c| c.streams.get()) == 0);
}

//= XPORT-03
#[test]
fn a_stream_that_speaks_something_else_is_closed_without_an_answer() {
    let server = TestServer::start(1);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 0, 5],
        &[0, 1, 0, 0, 1, 2, 3, 4, 5],
        &[0x80, 0, 0, 0],
    ] {
        let (mut stream, new_stream) = tcp_pair(Vec::new());
        server.shards.add_stream(new_stream);
        stream.write_all(garbage).unwrap();
        assert_eq!(read_to_end(&mut stream), b"", "{garbage:02x?}");
    }
    server.eventually("all are closed", |s| s.stat(|c| c.streams.get()) == 0);
}

#[test]
fn what_came_before_the_garbage_is_still_answered() {
    let server = TestServer::start(1);
    let (mut stream, new_stream) = tcp_pair(Vec::new());
    server.shards.add_stream(new_stream);
    let request = Client::udp(server.udp).compose(Method::Binding, &|_| {});
    stream.write_all(&[&request[..], b"GET /"].concat()).unwrap();
    let answer = read_to_end(&mut stream);
    assert_eq!(Message::parse(&answer).unwrap().class(), Class::Success);
}

//= XPORT-06
#[test]
fn a_stream_without_allocation_is_closed_when_idle_and_one_with_is_not() {
    let config = ShardConfig {
        idle_timeout: Duration::from_millis(300),
        ..ShardConfig::default()
    };
    let server = TestServer::start_with(1, "127.0.0.1:0", config, turn_config());
    let guard = Arc::new(());
    let (mut silent, mut new_stream) = tcp_pair(Vec::new());
    new_stream.guard = Box::new(Arc::clone(&guard));
    let mut busy = server.tcp_client();
    let relayed = busy.allocate();
    let start = Instant::now();
    server.shards.add_stream(new_stream);
    assert_eq!(read_to_end(&mut silent), b"");
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    server.eventually("it is counted", |s| closed(s, "idle") == 1);
    server.eventually("the front door is told", |_| Arc::strong_count(&guard) == 1);
    // The later stream has been idle and closed before the next packet of the one with an
    // allocation.
    let (mut later, new_stream) = tcp_pair(Vec::new());
    server.shards.add_stream(new_stream);
    assert_eq!(read_to_end(&mut later), b"");
    let peer = Peer::new();
    busy.bind(0x4000, peer.addr());
    peer.send(relayed, b"alive");
    assert_eq!(
        busy.incoming(),
        Incoming::Channel {
            number: 0x4000,
            data: b"alive".to_vec()
        }
    );
    busy.release();
    assert!(
        busy.pipe.recv(PATIENCE).is_none(),
        "its allocation gone, the stream is idle too"
    );
}

//= COMPAT-05
#[test]
fn a_stream_outlives_its_allocation_by_the_idle_time_out_and_may_allocate_again() {
    let config = ShardConfig {
        idle_timeout: Duration::from_millis(1500),
        ..ShardConfig::default()
    };
    let second = Duration::from_secs(1);
    let turn = Config {
        default_lifetime: second,
        max_lifetime: second,
        ..turn_config()
    };
    let server = TestServer::start_with(1, "127.0.0.1:0", config, turn);
    let mut client = server.tcp_client();
    let ended = |s: &TestServer| s.count(|c| c.allocations_ended[EndReason::Expired as usize].get());
    client.allocate();
    server.eventually("it has expired", |s| ended(s) == 1);
    client.allocate();
    server.eventually("the second has, too", |s| ended(s) == 2);
    let expired = Instant::now();
    assert!(client.pipe.recv(PATIENCE).is_none(), "the stream is closed");
    // Streams are checked once per second.
    let waited = expired.elapsed();
    assert!(waited >= Duration::from_millis(400) && waited < PATIENCE, "{waited:?}");
    server.becomes("closed", 1, |s| closed(s, "idle"));
}

#[test]
fn a_message_that_is_never_completed_ends_the_stream() {
    let limits = StreamLimits {
        frame_timeout: Duration::from_millis(300),
        ..StreamLimits::default()
    };
    let config = ShardConfig {
        stream: limits,
        ..ShardConfig::default()
    };
    let server = TestServer::start_with(1, "127.0.0.1:0", config, turn_config());
    let (mut stream, new_stream) = tcp_pair(Vec::new());
    server.shards.add_stream(new_stream);
    stream.write_all(&[0, 1, 0]).unwrap();
    assert_eq!(read_to_end(&mut stream), b"");
    server.eventually("it is counted", |s| closed(s, "frame_timeout") == 1);
}

//= XPORT-18
#[test]
fn a_slow_reader_loses_old_data_but_no_response_and_others_lose_nothing() {
    let server = TestServer::start(1);
    let (stream, new_stream) = tcp_pair(Vec::new());
    socket2::SockRef::from(&stream).set_recv_buffer_size(8192).unwrap();
    server.shards.add_stream(new_stream);
    let mut slow = Client::tcp(stream);
    let mut quick = server.tcp_client();
    let peer = Peer::new();
    let (to_slow, to_quick) = (slow.allocate(), quick.allocate());
    slow.bind(0x4000, peer.addr());
    quick.bind(0x4000, peer.addr());
    // 24 MB that are not read, and one packet in a hundred for a client that reads.
    for i in 0..20_000u32 {
        peer.send(to_slow, &[&i.to_be_bytes()[..], &[0; 1196]].concat());
        if i % 100 == 0 {
            peer.send(to_quick, &i.to_be_bytes());
            assert_eq!(
                quick.incoming(),
                Incoming::Channel {
                    number: 0x4000,
                    data: i.to_be_bytes().to_vec()
                }
            );
            // Peers send no faster than the server receives, so that the stream is the bottleneck.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let request = slow.compose(Method::Refresh, &|_| {});
    slow.pipe.send(&request);
    let response = slow.response(&request);
    assert_eq!(Message::parse(&response).unwrap().class(), Class::Success);
    server.eventually("drops are counted", |s| {
        s.count(|c| c.dropped[DropReason::StreamBackpressure as usize].get()) > 10_000
            && s.stat(|c| c.stream_dropped_aged.get()) > 0
            && s.stat(|c| c.stream_dropped_overflowed.get()) > 10_000
    });
    // What arrives is whole and in order: `response` has parsed every frame.
    peer.send(to_slow, &u32::MAX.to_be_bytes());
    let mut last = 0;
    loop {
        let Incoming::Channel { data, .. } = slow.incoming() else {
            panic!("only channel data")
        };
        let number = u32::from_be_bytes(data[..4].try_into().unwrap());
        assert!(number >= last);
        last = number;
        if number == u32::MAX {
            break;
        }
    }
}

#[test]
fn frames_of_one_batch_leave_in_few_writes() {
    let server = TestServer::start(1);
    let peer = Peer::new();
    let mut client = server.tcp_client();
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    for round in 0..50 {
        for i in 0..20 {
            peer.send(relayed, &pattern(1000, round + i));
        }
        for i in 0..20 {
            assert_eq!(
                client.incoming(),
                Incoming::Channel {
                    number: 0x4000,
                    data: pattern(1000, round + i)
                }
            );
        }
    }
    let flushes = server.stat(|s| s.stream_flushes.get());
    assert!(flushes < 1000, "{flushes} flushes for 1000 frames");
}

#[test]
fn clients_on_different_transports_reach_each_other() {
    for workers in [1, 3] {
        let server = TestServer::start(workers);
        let (mut a, mut b) = (server.tcp_client(), server.client());
        let (relayed_a, relayed_b) = (a.allocate(), b.allocate());
        a.bind(0x4000, relayed_b);
        b.permit(relayed_a);
        for (seed, size) in [0, 1, 1200, 5000].into_iter().enumerate() {
            let data = pattern(size, seed);
            a.send_channel(0x4000, &data);
            assert_eq!(
                b.incoming(),
                Incoming::Data {
                    peer: relayed_a,
                    data: data.clone()
                }
            );
            b.send_indication(relayed_a, &data);
            assert_eq!(a.incoming(), Incoming::Channel { number: 0x4000, data });
        }
    }
}

#[test]
fn streams_are_spread_over_the_shards() {
    let server = TestServer::start(4);
    let mut clients: Vec<Client> = (0..40)
        .map(|i| {
            let client = server.tcp_client();
            server.eventually("adopted", |s| s.stat(|c| c.streams.get()) == i + 1);
            client
        })
        .collect();
    for counters in server.shards.shard_counters() {
        assert_eq!(counters.streams.get(), 10);
    }
    for client in &mut clients {
        client.allocate();
    }
}

#[test]
fn shutdown_closes_every_stream() {
    let server = TestServer::start(2);
    let guard = Arc::new(());
    let mut clients: Vec<Client> = (0..6)
        .map(|_| {
            let (stream, mut new_stream) = tcp_pair(Vec::new());
            new_stream.guard = Box::new(Arc::clone(&guard));
            server.shards.add_stream(new_stream);
            let mut client = Client::tcp(stream);
            client.allocate();
            client
        })
        .collect();
    assert!(server.shards.shutdown(Duration::from_secs(5)));
    assert_eq!(Arc::strong_count(&guard), 1);
    for client in &mut clients {
        assert!(client.pipe.recv(PATIENCE).is_none());
    }
}

/// A client's TLS over TCP, driven by blocking I/O.
struct Tls(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Read for Tls {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Tls {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Tls {
    fn patience(&self, timeout: Duration) {
        self.0.sock.set_read_timeout(Some(timeout)).unwrap();
    }
}

/// A TLS client with a complete handshake, handed over.
fn tls_client(server: &TestServer) -> Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let certificate = made.cert.der().clone();
    let server_config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client_config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (stream, mut new_stream) = tcp_pair(Vec::new());
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(client_config), name).unwrap();
    let accepting = std::thread::spawn(move || {
        let mut connection = rustls::ServerConnection::new(Arc::new(server_config)).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut new_stream.socket).unwrap();
        }
        new_stream.tls = Some(Box::new(connection));
        new_stream.transport = Transport::Tls;
        new_stream
    });
    let mut tls = rustls::StreamOwned::new(connection, stream);
    tls.conn.complete_io(&mut tls.sock).unwrap();
    server.shards.add_stream(accepting.join().unwrap());
    Client::new(Pipe::Tcp {
        stream: Box::new(Tls(tls)),
        buffer: Vec::new(),
    })
}

#[test]
fn a_tls_client_is_served_like_any_other() {
    let server = TestServer::start(1);
    let peer = Peer::new();
    let mut client = tls_client(&server);
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    for (seed, size) in [0, 1, 3, 1200, 16_384, 60_000].into_iter().enumerate() {
        let data = pattern(size, seed);
        client.send_channel(0x4000, &data);
        assert_eq!(peer.recv(), (data.clone(), relayed), "{size} bytes up");
        peer.send(relayed, &data);
        assert_eq!(
            client.incoming(),
            Incoming::Channel { number: 0x4000, data },
            "{size} bytes down"
        );
    }
    server.becomes("allocations over TLS", 1, |s| {
        s.count(|c| c.allocations[Transport::Tls as usize].get())
    });
}

#[test]
fn a_tls_client_is_told_of_the_end_by_close_notify() {
    let server = TestServer::start(1);
    let mut client = tls_client(&server);
    client.allocate();
    assert!(server.shards.shutdown(Duration::from_secs(5)));
    let Pipe::Tcp { stream, .. } = &mut client.pipe else {
        unreachable!()
    };
    // Without close_notify rustls would report an unexpected end of file.
    assert_eq!(
        stream.read(&mut [0; 64]).unwrap(),
        0,
        "close_notify came before the FIN"
    );
}
