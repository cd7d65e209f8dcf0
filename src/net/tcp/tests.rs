//! Tests of pipes over real sockets on loopback, and of shared addresses.

use relay_testkit::tls::tls_pair;

use super::*;

/// A connection: the remote end, which blocks, and ours, which does not.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    far.set_read_timeout(Some(core::time::Duration::from_secs(10))).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (far, near)
}

struct Joined {
    client: TcpStream,
    peer: TcpStream,
    near_client: TcpStream,
    near_peer: TcpStream,
    pipe: Pipe,
}

fn joined(received: &[u8], unsent: &[u8]) -> Joined {
    let ((client, near_client), (peer, near_peer)) = (pair(), pair());
    let pipe = Pipe::new(StreamParts {
        tls: None,
        received: received.to_vec(),
        unsent: unsent.to_vec(),
    });
    Joined {
        client,
        peer,
        near_client,
        near_peer,
        pipe,
    }
}

impl Joined {
    /// Pumps until nothing moves. Loopback delivers at once, but not always before the next call.
    fn pump(&mut self) -> Pumped {
        let mut total = Pumped::default();
        let mut quiet = 0;
        while quiet < 20 {
            let moved = self.pipe.pump(&self.near_client, &self.near_peer).unwrap();
            total.up += moved.up;
            total.down += moved.down;
            if moved == Pumped::default() {
                quiet += 1;
                std::thread::sleep(core::time::Duration::from_millis(1));
            } else {
                quiet = 0;
            }
        }
        total
    }
}

fn read_exactly(from: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

fn is_at_end(from: &mut TcpStream) -> bool {
    from.read(&mut [0; 16]).unwrap() == 0
}

//= TCP-ALLOC-10
#[test]
fn what_was_there_before_goes_first_in_both_directions() {
    let mut joined = joined(b"early ", b"response ");
    joined.client.write_all(b"up").unwrap();
    joined.peer.write_all(b"down").unwrap();
    let moved = joined.pump();
    assert_eq!(moved, Pumped { up: 2, down: 4 });
    assert_eq!(read_exactly(&mut joined.peer, 8), b"early up");
    assert_eq!(read_exactly(&mut joined.client, 13), b"response down");
    assert_eq!(joined.pipe.held(), 0);
    assert_eq!(joined.pipe.interest(), (Interest::Read, Interest::Read));
}

//= TCP-ALLOC-10
#[test]
fn a_side_that_does_not_read_stops_the_other_and_nothing_piles_up_or_is_lost() {
    let mut joined = joined(b"", b"");
    joined.peer.set_nonblocking(true).unwrap();
    let sent: Vec<u8> = (0..32 << 20).map(|i: u32| (i % 251) as u8).collect();
    let (mut taken, mut got) = (0, Vec::new());
    joined.client.set_nonblocking(true).unwrap();
    // The peer does not read. The sender must stop, and the pipe must hold at most one read.
    let mut idle = 0;
    while idle < 50 {
        let before = taken;
        if let Ok(len) = joined.client.write(&sent[taken..]) {
            taken += len;
        }
        let moved = joined.pipe.pump(&joined.near_client, &joined.near_peer).unwrap();
        assert!(joined.pipe.held() <= READ, "{} bytes", joined.pipe.held());
        if taken == before && moved == Pumped::default() {
            idle += 1;
            std::thread::sleep(core::time::Duration::from_millis(1));
        } else {
            idle = 0;
        }
    }
    assert!(taken < sent.len(), "the sender was not stopped");
    assert_eq!(joined.pipe.interest(), (Interest::None, Interest::ReadWrite));
    // Then the peer reads.
    let mut chunk = vec![0; 1 << 20];
    let mut rounds = 0;
    while got.len() < sent.len() {
        if let Ok(len) = joined.client.write(&sent[taken..]) {
            taken += len;
        }
        joined.pipe.pump(&joined.near_client, &joined.near_peer).unwrap();
        if let Ok(len) = joined.peer.read(&mut chunk) {
            got.extend_from_slice(&chunk[..len]);
        }
        rounds += 1;
        assert!(rounds < 1_000_000, "{} of {} bytes", got.len(), sent.len());
    }
    assert!(got == sent);
    assert_eq!(joined.pipe.held(), 0);
}

//= TCP-ALLOC-10
#[test]
fn an_end_is_passed_on_behind_the_data_and_the_other_direction_goes_on() {
    let mut joined = joined(b"", b"");
    joined.client.write_all(b"question").unwrap();
    joined.client.shutdown(Shutdown::Write).unwrap();
    joined.pump();
    assert_eq!(read_exactly(&mut joined.peer, 8), b"question");
    assert!(is_at_end(&mut joined.peer));
    assert!(joined.pipe.is_half_closed() && !joined.pipe.is_done());
    assert_eq!(joined.pipe.interest(), (Interest::None, Interest::Read));
    joined.peer.write_all(b"answer").unwrap();
    joined.peer.shutdown(Shutdown::Write).unwrap();
    joined.pump();
    assert_eq!(read_exactly(&mut joined.client, 6), b"answer");
    assert!(is_at_end(&mut joined.client));
    assert!(joined.pipe.is_done() && !joined.pipe.is_half_closed());
}

//= TCP-ALLOC-10
#[test]
fn an_end_in_the_last_read_of_a_turn_is_passed_on_in_that_turn() {
    // So many full reads that the last read of a turn finds the end. Nothing would wake the pipe
    // for it again.
    let bytes = vec![7; (ROUNDS as usize - 1) * READ];
    for up in [false, true] {
        let Joined {
            client,
            peer,
            near_client,
            near_peer,
            mut pipe,
        } = joined(b"", b"");
        let (mut from, near, mut to) = if up {
            (client, &near_client, peer)
        } else {
            (peer, &near_peer, client)
        };
        // Everything that fits must have arrived before the first read.
        socket2::SockRef::from(near).set_recv_buffer_size(4 << 20).unwrap();
        from.set_write_timeout(Some(core::time::Duration::from_secs(10)))
            .unwrap();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            to.read_to_end(&mut got).unwrap();
            // It stays open: closed in the same turn, it would end the other direction as well.
            (got.len(), to)
        });
        from.write_all(&bytes).unwrap();
        from.shutdown(Shutdown::Write).unwrap();
        // There is no event to wait for. A shorter sleep makes the test weaker but never fails it.
        std::thread::sleep(core::time::Duration::from_millis(100));
        // Pumped only while it requests events, as a worker does. The other direction stays open.
        let deadline = std::time::Instant::now() + core::time::Duration::from_secs(10);
        while !pipe.is_half_closed() {
            pipe.pump(&near_client, &near_peer).unwrap();
            let (at_client, at_peer) = pipe.interest();
            let asks = if up { at_client } else { at_peer };
            assert!(
                asks != Interest::None || !pipe.up.is_clear() || !pipe.down.is_clear() || pipe.is_half_closed(),
                "nothing would wake it: up {up}"
            );
            assert!(std::time::Instant::now() < deadline);
        }
        let (got, to) = reader.join().unwrap();
        assert_eq!(got, bytes.len());
        drop((from, to));
    }
}

//= TCP-ALLOC-10
#[test]
fn a_reset_is_an_error_whichever_side_it_comes_from() {
    for at_peer in [false, true] {
        let mut joined = joined(b"", b"");
        let (reset, other) = if at_peer {
            (joined.peer, joined.client)
        } else {
            (joined.client, joined.peer)
        };
        socket2::SockRef::from(&reset)
            .set_linger(Some(core::time::Duration::ZERO))
            .unwrap();
        drop(reset);
        let failed = (0..1000).any(|_| {
            std::thread::sleep(core::time::Duration::from_millis(1));
            joined.pipe.pump(&joined.near_client, &joined.near_peer).is_err()
        });
        assert!(failed, "reset by the peer: {at_peer}");
        drop(other);
    }
}

//= TCP-ALLOC-06
#[test]
fn a_connection_leaves_from_where_somebody_listens_and_others_still_reach_that() {
    for ip in ["127.0.0.1", "::1"] {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        let far = TcpListener::bind((ip, 0)).unwrap();
        // A port outside the kernel's ephemeral range, so that no other program has it by chance.
        let (relay, address) = (0..100)
            .map(|i| SocketAddr::new(ip, 9_200 + (std::process::id() % 500) as u16 + i))
            .find_map(|address| listen(address).ok().map(|relay| (relay, address)))
            .unwrap();
        let out = connect(address, far.local_addr().unwrap()).unwrap();
        assert_eq!(far.accept().unwrap().1, address);
        assert_eq!(out.local_addr().unwrap(), address);
        let incoming = TcpStream::connect(address).unwrap();
        let accepted = (0..1000).find_map(|_| {
            std::thread::sleep(core::time::Duration::from_millis(1));
            relay.accept().ok()
        });
        assert_eq!(accepted.unwrap().1, incoming.local_addr().unwrap());
    }
}

#[test]
fn where_another_program_listens_nobody_else_does() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = listen(other.local_addr().unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_connect_that_cannot_begin_is_an_error_and_one_that_has_begun_is_none() {
    let ours = "127.0.0.1:0".parse().unwrap();
    assert!(connect(ours, "[::1]:9".parse().unwrap()).is_err());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = connect(ours, listener.local_addr().unwrap()).unwrap();
    assert_eq!(listener.accept().unwrap().1, socket.local_addr().unwrap());
}

#[test]
fn what_is_held_is_what_was_read_and_not_written_yet_in_both_directions() {
    let pipe = Pipe::new(StreamParts {
        tls: None,
        received: b"12345".to_vec(),
        unsent: b"123".to_vec(),
    });
    assert_eq!(pipe.held(), 8);
}

#[test]
fn a_side_is_read_until_it_ends_and_while_nothing_waits_for_the_other() {
    use Interest::{None, Read, ReadWrite, Write};
    let lane = |pending: bool, ended: bool| Lane {
        pending: if pending { vec![1] } else { vec![] },
        ended,
        ..Lane::default()
    };
    for (up, down, client, peer) in [
        ((false, false), (false, false), Read, Read),
        ((true, false), (false, false), None, ReadWrite),
        ((false, false), (true, false), ReadWrite, None),
        ((true, false), (true, false), Write, Write),
        ((false, true), (false, false), None, Read),
        ((false, false), (false, true), Read, None),
        ((true, true), (false, true), None, Write),
        ((false, true), (true, true), Write, None),
    ] {
        let pipe = Pipe {
            tls: Option::None,
            up: lane(up.0, up.1),
            down: lane(down.0, down.1),
            closing: false,
        };
        assert_eq!(pipe.interest(), (client, peer), "{up:?} {down:?}");
    }
}

#[test]
fn an_empty_direction_keeps_little_memory() {
    for (capacity, kept) in [(KEPT - 1, KEPT - 1), (KEPT, KEPT), (KEPT + 1, 0)] {
        let mut lane = Lane {
            pending: Vec::with_capacity(capacity),
            start: 3,
            ..Lane::default()
        };
        lane.pending.extend_from_slice(b"abc");
        lane.clear();
        assert_eq!((lane.start, lane.pending.len(), lane.pending.capacity()), (0, 0, kept));
    }
}

#[test]
fn a_write_that_fails_is_an_error_and_one_to_a_full_socket_is_none() {
    let (_far, near) = pair();
    while write_once(&mut &near, &[0; 65_536]).unwrap() > 0 {}
    let (_far, near) = pair();
    near.shutdown(Shutdown::Write).unwrap();
    let error = write_once(&mut &near, b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_turn_moves_a_bounded_amount_unless_nothing_more_arrives() {
    let mut joined = joined(b"", b"");
    joined.client.set_nonblocking(true).unwrap();
    joined.peer.set_nonblocking(true).unwrap();
    for socket in [&joined.client, &joined.near_peer, &joined.peer, &joined.near_client] {
        let options = socket2::SockRef::from(socket);
        options.set_send_buffer_size(4 << 20).unwrap();
        options.set_recv_buffer_size(4 << 20).unwrap();
    }
    let bound = ROUNDS as usize * READ;
    let fill = |mut socket: &TcpStream| {
        let mut sent = 0;
        while sent < 2 * bound {
            match socket.write(&[7; 16_384]) {
                Ok(len) => sent += len,
                Err(_) => break,
            }
        }
        sent
    };
    let (up, down) = (fill(&joined.client), fill(&joined.peer));
    assert!(up > bound && down > bound, "the kernel takes {up} and {down}");
    let moved = joined.pipe.pump(&joined.near_client, &joined.near_peer).unwrap();
    for moved in [moved.up, moved.down] {
        assert!((READ as u64 + 1..=bound as u64).contains(&moved), "{moved}");
    }
    joined.pipe.client_hung_up();
    joined.pipe.peer_hung_up();
    let mut empty = vec![0; 1 << 20];
    let mut rest = joined.pipe.pump(&joined.near_client, &joined.near_peer).unwrap();
    assert!(rest.up > 0 && rest.down > 0);
    let deadline = std::time::Instant::now() + core::time::Duration::from_secs(10);
    while moved.up + rest.up < up as u64 || moved.down + rest.down < down as u64 {
        assert!(std::time::Instant::now() < deadline, "everything arrives: {rest:?}");
        // What had not arrived, or found the other side full.
        while joined.peer.read(&mut empty).is_ok() || joined.client.read(&mut empty).is_ok() {}
        let more = joined.pipe.pump(&joined.near_client, &joined.near_peer).unwrap();
        (rest.up, rest.down) = (rest.up + more.up, rest.down + more.down);
    }
}

/// A pipe whose client speaks TLS.
struct Sealed {
    client: rustls::ClientConnection,
    joined: Joined,
    /// What the client has decrypted so far.
    opened: Vec<u8>,
}

fn feed(server: &mut rustls::ServerConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        server.process_new_packets().unwrap();
    }
}

/// The client's outgoing bytes.
fn written(client: &mut rustls::ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn sealed(unsent: &[u8]) -> Sealed {
    let (client, server) = tls_pair(&[&rustls::version::TLS13]);
    let mut joined = joined(b"", b"");
    joined.pipe = Pipe::new(StreamParts {
        tls: Some(TlsSession::new(server)),
        received: Vec::new(),
        unsent: unsent.to_vec(),
    });
    joined.client.set_nonblocking(true).unwrap();
    joined.peer.set_nonblocking(true).unwrap();
    Sealed {
        client,
        joined,
        opened: Vec::new(),
    }
}

impl Sealed {
    fn send(&mut self, plaintext: &[u8]) {
        self.client.writer().write_all(plaintext).unwrap();
        self.joined.client.write_all(&written(&mut self.client)).unwrap();
    }

    /// Pumps, and decrypts what arrived; `true`: the server's connection has ended.
    fn pump(&mut self) -> (Pumped, bool) {
        let moved = self.joined.pump();
        let mut bytes = vec![0; 1 << 20];
        let mut ended = false;
        while let Ok(len) = self.joined.client.read(&mut bytes) {
            ended = len == 0;
            let mut bytes = &bytes[..len];
            while !bytes.is_empty() {
                self.client.read_tls(&mut bytes).unwrap();
                self.client.process_new_packets().unwrap();
                let _ = self.client.reader().read_to_end(&mut self.opened);
            }
            if ended {
                break;
            }
        }
        (moved, ended)
    }

    /// Pumps until `done` accepts what has moved and whether the server's connection has ended.
    #[track_caller]
    fn until(&mut self, what: &str, done: impl Fn(&mut Self, Pumped, bool) -> bool) {
        let deadline = std::time::Instant::now() + core::time::Duration::from_secs(10);
        let (mut total, mut ended) = (Pumped::default(), false);
        loop {
            let (moved, end) = self.pump();
            total.up += moved.up;
            total.down += moved.down;
            ended |= end;
            if done(self, total, ended) {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{what}: {total:?}, ended: {ended}"
            );
        }
    }
}

#[test]
fn over_tls_bytes_and_ends_go_through_as_they_do_without() {
    let mut pipe = sealed(b"answers first, ");
    pipe.joined.peer.set_nonblocking(false).unwrap();
    pipe.joined.peer.write_all(b"then the peer's").unwrap();
    pipe.until("what is for the client", |pipe, moved, ended| {
        assert!(!ended && moved.up == 0);
        moved.down == 15 && pipe.opened == b"answers first, then the peer's"
    });
    pipe.send(b"up there");
    pipe.until("what is for the peer", |_, moved, ended| {
        assert!(!ended && moved.down == 0);
        moved.up == 8
    });
    assert_eq!(read_exactly(&mut pipe.joined.peer, 8), b"up there");
    pipe.joined.peer.shutdown(Shutdown::Write).unwrap();
    pipe.until("the peer's end", |pipe, _, ended| {
        ended && pipe.client.process_new_packets().unwrap().peer_has_closed()
    });
    assert!(pipe.joined.pipe.is_half_closed());
    pipe.send(b"still here");
    pipe.until("the other direction", |_, moved, _| moved == Pumped { up: 10, down: 0 });
    assert_eq!(read_exactly(&mut pipe.joined.peer, 10), b"still here");
    pipe.client.send_close_notify();
    let goodbye = written(&mut pipe.client);
    pipe.joined.client.write_all(&goodbye).unwrap();
    pipe.until("the client's end", |pipe, _, _| pipe.joined.pipe.is_done());
    assert!(is_at_end(&mut pipe.joined.peer));
}

#[test]
fn over_tls_a_client_that_does_not_read_stops_the_peer_and_loses_nothing() {
    let mut pipe = sealed(b"");
    let mut sent = 0;
    let deadline = std::time::Instant::now() + core::time::Duration::from_secs(10);
    // Until the peer cannot send any more either.
    while let Ok(len) = pipe.joined.peer.write(&[5; 16_384]) {
        sent += len;
        pipe.joined
            .pipe
            .pump(&pipe.joined.near_client, &pipe.joined.near_peer)
            .unwrap();
        assert!(std::time::Instant::now() < deadline, "{sent} bytes and no end");
    }
    assert_eq!(pipe.joined.pipe.interest(), (Interest::ReadWrite, Interest::None));
    while pipe.opened.len() < sent {
        pipe.pump();
        assert!(
            std::time::Instant::now() < deadline,
            "{} of {sent} have come",
            pipe.opened.len()
        );
    }
    assert_eq!(pipe.joined.pipe.interest(), (Interest::Read, Interest::Read));
}

#[test]
fn over_tls_a_reset_by_the_client_is_an_error() {
    let mut pipe = sealed(b"");
    socket2::SockRef::from(&pipe.joined.client)
        .set_linger(Some(core::time::Duration::ZERO))
        .unwrap();
    let (gone, _) = pair();
    drop(std::mem::replace(&mut pipe.joined.client, gone));
    pipe.joined.peer.write_all(b"to nobody").unwrap();
    let deadline = std::time::Instant::now() + core::time::Duration::from_secs(10);
    while pipe
        .joined
        .pipe
        .pump_down(&pipe.joined.near_client, &pipe.joined.near_peer)
        .is_ok()
    {
        pipe.joined.peer.write_all(b"to nobody").unwrap();
        assert!(std::time::Instant::now() < deadline, "the reset is seen");
    }
}

#[test]
fn a_client_that_has_said_goodbye_before_it_was_joined_has_ended() {
    for goodbye in [true, false] {
        let (mut client, mut server) = tls_pair(&[&rustls::version::TLS13]);
        if goodbye {
            client.send_close_notify();
            feed(&mut server, &written(&mut client));
        }
        let mut joined = joined(b"", b"");
        joined.pipe = Pipe::new(StreamParts {
            tls: Some(TlsSession::new(server)),
            received: b"last words".to_vec(),
            unsent: Vec::new(),
        });
        joined.pump();
        assert_eq!(read_exactly(&mut joined.peer, 10), b"last words");
        assert_eq!(joined.pipe.is_half_closed(), goodbye);
    }
}
