//! What relaying over a stream costs in heap allocations, after warm-up: none of ours. rustls makes one per record, which
//! is why many frames share a record.

#![allow(unsafe_code, reason = "an allocator cannot be written without")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, of which some tell what they measured"
)]

#[path = "support/counting_allocator.rs"]
mod counting_allocator;

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use counting_allocator::allocations;
use relay::net::stream::{Flushed, QueueKind, StreamConn, StreamLimits};
use relay::turn::time::Instant;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Application data of one frame.
const DATA: [u8; 1200] = [7; 1200];
const HEADER: [u8; 4] = [0x40, 0x00, 0x04, 0xB0];
/// Frames of one round.
const FRAMES: usize = 50;

/// Bytes to be read, in pieces as a socket would give them; what is written is thrown away, and taken in pieces too.
struct Socket<'a> {
    incoming: &'a [u8],
    per_read: usize,
    per_write: usize,
}

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.incoming.len().min(self.per_read).min(buf.len());
        let (now, later) = self.incoming.split_at(len);
        buf[..len].copy_from_slice(now);
        self.incoming = later;
        if len == 0 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(len)
        }
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len().min(self.per_write))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(bufs.iter().map(|buf| buf.len()).sum::<usize>().min(self.per_write))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One round: everything in, everything out. Returns messages taken.
fn relay(conn: &mut StreamConn, socket: &mut Socket<'_>) -> usize {
    let mut messages = 0;
    while conn.receive(Instant::ZERO, socket).unwrap().bytes > 0 {
        while conn.next_message().unwrap().is_some() {
            messages += 1;
        }
    }
    for _ in 0..FRAMES {
        conn.queue(Instant::ZERO, QueueKind::Data, &HEADER, &DATA, 0).unwrap();
    }
    while conn.flush(Instant::ZERO, socket).unwrap() == Flushed::Blocked {}
    messages
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn relaying_over_tcp_does_not_touch_the_heap() {
    let incoming = [&HEADER[..], &DATA].concat().repeat(FRAMES);
    // Whole reads and writes, and such that cut frames.
    for (per_read, per_write) in [(usize::MAX, usize::MAX), (1000, 1000), (1500, 7001)] {
        let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), None, Vec::new());
        conn.set_authenticated();
        let mut round = || {
            relay(
                &mut conn,
                &mut Socket {
                    incoming: &incoming,
                    per_read,
                    per_write,
                },
            )
        };
        round();
        let count = allocations(|| {
            for _ in 0..20 {
                assert_eq!(round(), FRAMES);
            }
        });
        assert_eq!(count, 0, "reads of {per_read}, writes of {per_write}");
    }
}

#[test]
fn many_streams_share_their_buffers() {
    let incoming = [&HEADER[..], &DATA].concat().repeat(FRAMES);
    let mut streams: Vec<_> = (0..100)
        .map(|_| {
            let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), None, Vec::new());
            conn.set_authenticated();
            conn
        })
        .collect();
    let mut socket = Socket {
        incoming: &incoming,
        per_read: usize::MAX,
        per_write: usize::MAX,
    };
    assert_eq!(relay(&mut streams[0], &mut socket), FRAMES);
    // The first to be served has warmed up for all.
    let count = allocations(|| {
        for conn in &mut streams[1..] {
            socket.incoming = &incoming;
            relay(conn, &mut socket);
        }
    });
    assert_eq!(count, 0);
    assert_eq!(streams.iter().map(StreamConn::memory).sum::<usize>(), 0);
}

#[test]
fn relaying_over_tls_costs_one_allocation_per_record() {
    let (mut client, server) = tls_pair();
    let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), Some(server), Vec::new());
    conn.set_authenticated();
    let mut round = |frames_per_record: usize| {
        let mut incoming = Vec::new();
        for _ in 0..FRAMES / frames_per_record {
            let plaintext = [&HEADER[..], &DATA].concat().repeat(frames_per_record);
            client.writer().write_all(&plaintext).unwrap();
            while client.wants_write() {
                client.write_tls(&mut incoming).unwrap();
            }
        }
        let mut socket = Socket {
            incoming: &incoming,
            per_read: usize::MAX,
            per_write: usize::MAX,
        };
        allocations(|| assert_eq!(relay(&mut conn, &mut socket), FRAMES))
    };
    round(1);
    // 50 frames of 1204 bytes leave in four records of at most 16 KiB.
    let out = FRAMES.div_ceil(16 * 1024 / 1204);
    for frames_per_record in [1, 10] {
        let count = round(frames_per_record);
        let records = FRAMES / frames_per_record + out;
        // The buffer in which rustls keeps ciphertext grows and shrinks a little.
        println!(
            "{frames_per_record} frames a record: {count} allocations for {records} records, {} frames",
            2 * FRAMES
        );
        assert!(count <= records + 5, "{count} allocations for {records} records");
    }
}

/// A client and a server after their handshake.
fn tls_pair() -> (ClientConnection, Box<ServerConnection>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("relay.test").unwrap()).unwrap();
    let mut server = Box::new(ServerConnection::new(Arc::new(server)).unwrap());
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (client, server)
}
