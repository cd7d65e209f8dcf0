//! Pipes over real sockets on loopback, and who may share an address.

use super::*;

/// A connection: the far end, which waits, and ours, which does not.
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
    /// Pumps until nothing more moves; loopback delivers at once, but not always before the next call.
    fn pump(&mut self) -> Moved {
        let mut total = Moved::default();
        let mut quiet = 0;
        while quiet < 20 {
            let moved = self.pipe.pump(&self.near_client, &self.near_peer).unwrap();
            total.up += moved.up;
            total.down += moved.down;
            if moved == Moved::default() {
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
    assert_eq!(moved, Moved { up: 2, down: 4 });
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
    // Nobody reads at the peer: the sender is stopped, and what is held stays within one read.
    let mut idle = 0;
    while idle < 50 {
        let before = taken;
        if let Ok(len) = joined.client.write(&sent[taken..]) {
            taken += len;
        }
        let moved = joined.pipe.pump(&joined.near_client, &joined.near_peer).unwrap();
        assert!(joined.pipe.held() <= READ, "{} bytes", joined.pipe.held());
        if taken == before && moved == Moved::default() {
            idle += 1;
            std::thread::sleep(core::time::Duration::from_millis(1));
        } else {
            idle = 0;
        }
    }
    assert!(taken < sent.len(), "the sender was not stopped");
    assert_eq!(joined.pipe.interest(), (Interest::None, Interest::ReadWrite));
    // Then somebody does.
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
    // So many full reads that the end is what the last read of a turn finds; nothing would wake the pipe for it again.
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
        // All of it that fits is to be there before the first read.
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
        // Nothing tells when that is. Sooner, the test sees less, and does not fail.
        std::thread::sleep(core::time::Duration::from_millis(100));
        // Pumped only while it asks for something, as a worker does; the other direction stays open.
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
        // A port the kernel does not deal out, so that it is nobody else's by chance.
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
