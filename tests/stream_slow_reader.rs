//! A client on a real socket that reads slower than it is sent to: what it gets is fresh, whole, and counted, and it gets
//! every response.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, of which some tell what they measured"
)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use relay_net::path_state;
use relay_net::stream::{Dropped, Flushed, KERNEL_UNSENT, QueueKind, StreamConn, StreamLimits};
use relay_proto::base::time::Instant as CoreInstant;
use relay_testkit::tls::tls_configs;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use socket2::{Domain, SockRef, Socket, Type};

/// Application data of one frame.
const DATA: usize = 996;
/// A response, between media: its number stands in its transaction id.
const RESPONSE: [u8; 20] = [1, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Frames between two of them.
const RESPONSES_EVERY: u64 = 25;
/// 4 Mbit/s.
const OFFERED: Duration = Duration::from_millis(2);
/// 2 Mbit/s.
const READ: (usize, Duration) = (2500, Duration::from_millis(10));
const FOR: Duration = Duration::from_millis(2500);
/// What was not offered in time by more than this is not offered at all: a machine that stalls is no burst.
const LATE: Duration = Duration::from_millis(20);
/// Everything ends by then, however slow the machine.
const END: Duration = Duration::from_secs(60);
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

/// What [`serve`] did.
struct Served {
    frames: u64,
    responses: u64,
    dropped: Dropped,
    /// The most queued, and the most memory held, in bytes.
    most_queued: usize,
    most_held: usize,
}

/// Sends stamped frames and numbered responses for a while, and what is queued then, as a shard would.
fn serve(mut socket: TcpStream, mut conn: StreamConn, begun: Instant) -> Served {
    socket.set_nonblocking(true).unwrap();
    let now = || CoreInstant::ZERO + begun.elapsed();
    let mut served = Served {
        frames: 0,
        responses: 0,
        dropped: Dropped::default(),
        most_queued: 0,
        most_held: 0,
    };
    let mut flushed = Flushed::Done;
    let header = [0x40, 0x00, 0x03, 0xE4];
    let mut next = begun.elapsed();
    while next < FOR || flushed != Flushed::Done {
        assert!(begun.elapsed() < END, "everything that is left can be sent");
        next = next.max(begun.elapsed().saturating_sub(LATE));
        while next < FOR && begun.elapsed() >= next {
            next += OFFERED;
            let mut data = [0; DATA];
            data[..8].copy_from_slice(&u64::try_from(begun.elapsed().as_micros()).unwrap().to_be_bytes());
            data[8..16].copy_from_slice(&served.frames.to_be_bytes());
            conn.queue(now(), QueueKind::Data, &header, &data, 0).unwrap();
            if served.frames.is_multiple_of(RESPONSES_EVERY) {
                let mut response = RESPONSE;
                response[12..].copy_from_slice(&served.responses.to_be_bytes());
                conn.queue(now(), QueueKind::Control, &response, &[], 0).unwrap();
                served.responses += 1;
            }
            served.frames += 1;
        }
        served.most_queued = served.most_queued.max(conn.backlog(now()).0);
        served.most_held = served.most_held.max(conn.memory());
        let due = match flushed {
            Flushed::Done => true,
            Flushed::Held(until) => now() >= until,
            Flushed::Blocked => {
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                poll(&mut fds, PollTimeout::from(1_u8)).unwrap() > 0
            }
        };
        if due {
            if conn.wants_observation(now()) {
                conn.observe(now(), path_state(socket.as_fd()).unwrap());
            }
            flushed = conn.flush(now(), &mut socket).unwrap();
        }
        if flushed != Flushed::Blocked {
            thread::sleep(Duration::from_millis(1));
        }
        let dropped = conn.take_dropped();
        served.dropped.aged += dropped.aged;
        served.dropped.overflowed += dropped.overflowed;
    }
    served
}

/// Reads to the end; returns the age and number of each frame, and how many responses came.
fn read(mut stream: impl Read, begun: Instant) -> (Vec<(Duration, u64)>, u64) {
    let (mut frames, mut responses) = (Vec::new(), 0);
    let mut message = [0; 4 + DATA];
    while stream.read_exact(&mut message[..4]).is_ok() {
        if message[..4] == RESPONSE[..4] {
            if stream.read_exact(&mut message[4..20]).is_err() {
                break;
            }
            let number = u64::from_be_bytes(message[12..20].try_into().unwrap());
            assert_eq!(number, responses, "every response comes, in order");
            responses += 1;
            continue;
        }
        assert_eq!(message[..4], [0x40, 0x00, 0x03, 0xE4], "frames are whole");
        if stream.read_exact(&mut message[4..]).is_err() {
            break;
        }
        let stamp = u64::from_be_bytes(message[4..12].try_into().unwrap());
        let number = u64::from_be_bytes(message[12..20].try_into().unwrap());
        let now = begun.elapsed();
        if now > SETTLING && now < FOR {
            frames.push((now - Duration::from_micros(stamp), number));
        }
    }
    (frames, responses)
}

fn judge(name: &str, read: (Vec<(Duration, u64)>, u64), served: &Served) {
    let (mut frames, responses) = read;
    assert!(frames.is_sorted_by_key(|&(_, number)| number), "in order");
    frames.sort_unstable();
    let at = |part: f64| frames[((frames.len() - 1) as f64 * part) as usize].0;
    let dropped = served.dropped;
    println!(
        "{name}: {} of {} frames measured, age p50 {:?}, p99 {:?}, worst {:?}; {dropped:?}; most queued {} B, held {} B",
        frames.len(),
        served.frames,
        at(0.5),
        at(0.99),
        at(1.0),
        served.most_queued,
        served.most_held,
    );
    assert_eq!(responses, served.responses, "every response comes");
    assert!(frames.len() > 200, "the client is served at its own pace");
    assert!(dropped.aged > 200, "what it cannot take is dropped");
    assert!(served.most_queued <= 128 * 1024 && served.most_held <= 256 * 1024);
    // Idle machines have 110 ms and 140 ms here, and a queue that only fills has a second and rises: the bounds leave room
    // for a busy machine, whose reader is late itself. The exact ones are held in virtual time (`net::stream::tests`).
    assert!(at(0.5) < Duration::from_millis(400), "p50 {:?}", at(0.5));
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
    judge("tcp", reader.join().unwrap(), &served);
}

//= XPORT-18
#[test]
fn over_tls_a_slow_reader_gets_fresh_media() {
    let (client, server) = connected();
    let (client_tls, server_tls) = tls_configs(rustls::DEFAULT_VERSIONS);
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
    judge("tls", reader.join().unwrap(), &served);
}
