//! Responses on a stream before any login.

use std::io::{Read, Write};

use relay::shard::ShardConfig;
use relay::shard::counters::STREAM_CLOSE_REASONS;
use relay::wire::message::{Class, Message, Method};
use relay_testkit_server::*;

fn closed(server: &TestServer, reason: &str) -> u64 {
    let i = STREAM_CLOSE_REASONS.iter().position(|&r| r == reason).unwrap();
    server.stat(|s| s.streams_closed[i].get())
}

//= XPORT-04
#[test]
fn a_stream_is_answered_so_many_requests_without_a_login_and_then_closed() {
    let server = TestServer::start(1);
    for (n, method) in [Method::Allocate, Method::Binding].into_iter().enumerate() {
        let (mut stream, new_stream) = tcp_pair(Vec::new());
        server.shards.add_stream(new_stream);
        let mut asker = Client::udp(server.udp);
        let requests: Vec<u8> = (0..64).flat_map(|_| asker.compose(method, &|_| {})).collect();
        stream.write_all(&requests).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        if let Err(error) = stream.read_to_end(&mut bytes) {
            // Data that it had not read yet.
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        let (mut rest, mut answers) = (&bytes[..], 0);
        while !rest.is_empty() {
            rest = &rest[20 + usize::from(u16::from_be_bytes([rest[2], rest[3]]))..];
            answers += 1;
        }
        assert_eq!(answers, 16, "{method:?}");
        server.becomes("streams closed for it", n as u64 + 1, |s| closed(s, "unauthenticated"));
    }
}

//= XPORT-04
#[test]
fn a_login_begins_the_count_anew_and_a_client_of_an_allocation_is_not_counted() {
    let config = ShardConfig {
        unauthenticated_requests: 3,
        ..ShardConfig::default()
    };
    let server = TestServer::start_with(1, "127.0.0.1:0", config, turn_config());
    let mut client = server.tcp_client();
    // 401 and a successful login, alternately.
    for _ in 0..5 {
        client.nonce = None;
        let response = client.request(Method::Refresh, &|_| {});
        assert_eq!(error_code(&Message::parse(&response).unwrap()), Some(437));
    }
    client.nonce = None;
    client.allocate();
    for _ in 0..10 {
        let request = Client::udp(server.udp).compose(Method::Binding, &|_| {});
        client.pipe.send(&request);
        assert_eq!(
            Message::parse(&client.response(&request)).unwrap().class(),
            Class::Success
        );
    }
    client.release();
    assert_eq!(closed(&server, "unauthenticated"), 0);
}
