//! A client on a real socket that reads slower than it is sent to: what it gets is fresh, whole, and counted.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, of which some tell what they measured"
)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use relay::net::stream::{Dropped, Flushed, KERNEL_UNSENT, QueueKind, StreamConn, StreamLimits};
use relay::turn::time::Instant as CoreInstant;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use socket2::{Domain, SockRef, Socket, Type};

/// Application data of one frame.
const DATA: usize = 996;
/// 4 Mbit/s.
const OFFERED: Duration = Duration::from_millis(2);
/// 2 Mbit/s.
const READ: (usize, Duration) = (2500, Duration::from_millis(10));
const FOR: Duration = Duration::from_millis(2500);
/// A connection fills its buffers before it is in the state that is measured.
const SETTLING: Duration = Duration::from_millis(800);

/// A socket read no faster than [`READ`] says.
struct Throttled {
    socket: TcpStream,
    begun: Instant,
    read: usize,
}

impl Read for Throttled {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (bytes, pause) = READ;
        let due = pause.mul_f64(self.read as f64 / bytes as f64);
        thread::sleep(due.saturating_sub(self.begun.elapsed()));
        let len = buf.len().min(bytes);
        let read = self.socket.read(&mut buf[..len])?;
        self.read += read;
        Ok(read)
    }
}

impl Write for Throttled {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pair of connected sockets; the client has a small receive buffer.
fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(8192).unwrap();
    client.connect(&listener.local_addr().unwrap().into()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let options = SockRef::from(&server);
    options.set_tcp_nodelay(true).unwrap();
    options.set_tcp_notsent_lowat(KERNEL_UNSENT).unwrap();
    (client.into(), server)
}

/// Sends stamped frames for a while, as a shard would; returns how many, what was dropped, and the longest queue.
fn serve(mut socket: TcpStream, mut conn: StreamConn, begun: Instant) -> (u64, Dropped, usize) {
    socket.set_nonblocking(true).unwrap();
    let now = || CoreInstant::ZERO + begun.elapsed();
    let (mut sent, mut dropped, mut longest, mut blocked) = (0_u64, Dropped::default(), 0, false);
    let header = [0x40, 0x00, 0x03, 0xE4];
    while begun.elapsed() < FOR {
        while begun.elapsed() >= OFFERED * u32::try_from(sent).unwrap() {
            let mut data = [0; DATA];
            data[..8].copy_from_slice(&u64::try_from(begun.elapsed().as_micros()).unwrap().to_be_bytes());
            data[8..16].copy_from_slice(&sent.to_be_bytes());
            conn.queue(now(), QueueKind::Data, &header, &data, 0).unwrap();
            sent += 1;
        }
        longest = longest.max(conn.backlog(now()).0);
        if !blocked {
            blocked = conn.flush(now(), &mut socket).unwrap() == Flushed::Blocked;
        }
        let interest = if blocked {
            PollFlags::POLLOUT
        } else {
            PollFlags::empty()
        };
        let mut fds = [PollFd::new(socket.as_fd(), interest)];
        if poll(&mut fds, PollTimeout::from(1_u8)).unwrap() > 0 {
            blocked = false;
        }
        let more = conn.take_dropped();
        dropped.aged += more.aged;
        dropped.overflowed += more.overflowed;
    }
    // What is queued now the client will not see.
    (sent, dropped, longest)
}

/// Reads frames to the end; returns the age and number of each.
fn read(mut stream: impl Read, begun: Instant) -> Vec<(Duration, u64)> {
    let mut frames = Vec::new();
    let mut frame = [0; 4 + DATA];
    while stream.read_exact(&mut frame).is_ok() {
        assert_eq!(frame[..4], [0x40, 0x00, 0x03, 0xE4], "frames are whole");
        let stamp = u64::from_be_bytes(frame[4..12].try_into().unwrap());
        let number = u64::from_be_bytes(frame[12..20].try_into().unwrap());
        let now = begun.elapsed();
        if now > SETTLING && now < FOR {
            frames.push((now - Duration::from_micros(stamp), number));
        }
    }
    frames
}

fn judge(name: &str, mut frames: Vec<(Duration, u64)>, served: (u64, Dropped, usize)) {
    let (sent, dropped, longest) = served;
    assert!(frames.is_sorted_by_key(|&(_, number)| number), "in order");
    frames.sort_unstable();
    let at = |part: f64| frames[((frames.len() - 1) as f64 * part) as usize].0;
    println!(
        "{name}: {} of {sent} frames measured, age p50 {:?}, p99 {:?}, worst {:?}; {dropped:?}; longest queue {longest} B",
        frames.len(),
        at(0.5),
        at(0.99),
        at(1.0),
    );
    assert!(frames.len() > 200, "the client is served at its own pace");
    assert!(dropped.aged > 200, "what it cannot take is dropped");
    assert!(longest <= 256 * 1024);
    // The queue's 150 ms, and what the kernel and the client's buffer hold. Far from seconds, on a busy machine too.
    assert!(at(0.99) < Duration::from_millis(600), "p99 {:?}", at(0.99));
}

//= XPORT-18
#[test]
fn over_tcp_a_slow_reader_gets_fresh_media() {
    let (client, server) = connected();
    let begun = Instant::now();
    let conn = StreamConn::new(CoreInstant::ZERO, StreamLimits::default(), None, Vec::new());
    let reader = thread::spawn(move || {
        read(
            Throttled {
                socket: client,
                begun,
                read: 0,
            },
            begun,
        )
    });
    let served = serve(server, conn, begun);
    judge("tcp", reader.join().unwrap(), served);
}

//= XPORT-18
#[test]
fn over_tls_a_slow_reader_gets_fresh_media() {
    let (client, server) = connected();
    let (client_tls, server_tls) = configs();
    let handshaken = thread::spawn(move || {
        let mut server = server;
        let mut tls = ServerConnection::new(server_tls).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut server).unwrap();
        }
        (server, tls)
    });
    let mut tls = ClientConnection::new(client_tls, ServerName::try_from("relay.test").unwrap()).unwrap();
    let mut client = client;
    while tls.is_handshaking() {
        tls.complete_io(&mut client).unwrap();
    }
    let (server, server_tls) = handshaken.join().unwrap();
    let begun = Instant::now();
    let conn = StreamConn::new(
        CoreInstant::ZERO,
        StreamLimits::default(),
        Some(Box::new(server_tls)),
        Vec::new(),
    );
    let throttled = Throttled {
        socket: client,
        begun,
        read: 0,
    };
    let reader = thread::spawn(move || read(StreamOwned::new(tls, throttled), begun));
    let served = serve(server, conn, begun);
    judge("tls", reader.join().unwrap(), served);
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
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
    (Arc::new(client), Arc::new(server))
}
