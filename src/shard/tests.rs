//! What unit tests of a shard share.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use relay_testkit_net::tcp_sockets;

use super::NewStream;
use crate::base::address::Transport;

/// Both ends of a TCP connection: the client's, and the server's as it is handed to a worker.
pub(super) fn tcp_pair(early: Vec<u8>) -> (TcpStream, NewStream) {
    let (stream, socket, client) = tcp_sockets();
    let server = socket.local_addr().unwrap();
    let new_stream = NewStream {
        socket,
        tls: None,
        early,
        client,
        server,
        transport: Transport::Tcp,
        guard: Box::new(Arc::new(())),
    };
    (stream, new_stream)
}

/// What `act` writes to the log, a line for each, levels and targets first.
pub(super) fn lines(act: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let target = sink.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || target.clone())
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}
