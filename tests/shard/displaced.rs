//! A stream that the front door evicts in favour of another.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;

use relay::shard::counters::STREAM_CLOSE_REASONS;
use relay::shard::stream_intake::{Displace, NewStream, StreamGuard};
use relay::wire::message::Method;
use relay_testkit_server::*;

fn displaced(server: &TestServer) -> u64 {
    let i = STREAM_CLOSE_REASONS.iter().position(|&r| r == "displaced").unwrap();
    server.stat(|s| s.streams_closed[i].get())
}

/// Counts a connection as the front door does, and lets the test end it.
struct Guard {
    settled: std::sync::mpsc::Sender<()>,
    displace: Arc<std::sync::Mutex<Option<Displace>>>,
}

impl StreamGuard for Guard {
    fn set_authenticated(&mut self) {
        self.settled.send(()).unwrap();
    }

    fn when_displaced(&mut self, displace: Displace) {
        *self.displace.lock().unwrap() = Some(displace);
    }
}

/// A client on an evictable stream, and how to evict it.
struct Watched {
    client: Client,
    stream: TcpStream,
    displace: Displace,
}

impl Watched {
    fn new(server: &TestServer) -> Self {
        let displace = Arc::default();
        let (stream, new_stream) = tcp_pair(Vec::new());
        let guard = Box::new(Guard {
            settled: std::sync::mpsc::channel().0,
            displace: Arc::clone(&displace),
        });
        server.shards.add_stream(NewStream { guard, ..new_stream });
        let mut client = Client::tcp(stream.try_clone().unwrap());
        client.request(Method::Binding, &|_| {});
        let displace = displace.lock().unwrap().take().expect("the worker has said how");
        Self {
            client,
            stream,
            displace,
        }
    }

    #[track_caller]
    fn assert_served(&mut self) {
        self.client.request(Method::Binding, &|_| {});
    }
}

#[track_caller]
fn assert_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // However it was closed.
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn it_is_the_stream_that_was_meant_and_never_one_that_came_after_it() {
    let server = TestServer::start(2);
    let mut all: Vec<Watched> = (0..6).map(|_| Watched::new(&server)).collect();
    // One from the middle of each worker's list.
    for n in [3, 2] {
        let Watched {
            displace, mut stream, ..
        } = all.remove(n);
        displace();
        assert_closed(&mut stream);
        for other in &mut all {
            other.assert_served();
        }
    }
    server.becomes("displaced", 2, displaced);
    // The stream to evict has already closed by itself, and others have arrived meanwhile.
    let Watched { displace, .. } = all.remove(1);
    server.becomes("streams", 3, |s| s.stat(|s| s.streams.get()));
    all.extend((0..4).map(|_| Watched::new(&server)));
    displace();
    for other in &mut all {
        other.assert_served();
    }
    assert_eq!((displaced(&server), server.stat(|s| s.streams.get())), (2, 7));
}

#[test]
fn a_stream_whose_place_is_wanted_is_closed_and_one_that_has_logged_in_stays() {
    let server = TestServer::start(2);
    for logs_in in [false, true] {
        let (settled, has_settled) = std::sync::mpsc::channel();
        let displace = Arc::default();
        let (stream, new_stream) = tcp_pair(Vec::new());
        let guard = Box::new(Guard {
            settled,
            displace: Arc::clone(&displace),
        });
        server.shards.add_stream(NewStream { guard, ..new_stream });
        let mut watched = stream.try_clone().unwrap();
        let mut client = Client::tcp(stream);
        client.request(Method::Binding, &|_| {});
        if logs_in {
            client.allocate();
            assert!(has_settled.try_recv().is_ok(), "before it is answered");
        }
        let displace = displace.lock().unwrap().take().expect("the worker has said how");
        displace();
        if logs_in {
            // Whichever came first, the message has been processed when the next request is
            // answered.
            client.request(Method::Refresh, &|_| {});
        } else {
            assert_closed(&mut watched);
            assert!(has_settled.try_recv().is_err());
        }
        server.becomes("displaced", 1, displaced);
    }
}
