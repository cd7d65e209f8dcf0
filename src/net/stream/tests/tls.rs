use std::io::IoSlice;

use super::support::*;
use crate::stream::*;
use crate::tls::TlsSession;

fn conn(pair: TlsPair) -> (rustls::ClientConnection, StreamConn) {
    let mut conn = StreamConn::new(at(0), StreamLimits::default(), Some(pair.server), Vec::new());
    conn.set_authenticated();
    (pair.client, conn)
}

//= XPORT-02
#[test]
fn any_split_of_the_ciphertext_gives_the_same_messages() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (mut client, mut conn) = conn(TlsPair::with_version(version));
        let expected = [stun(1, 0), channel_data(0x4000, b"12345"), stun(2, 8)];
        let mut cut = 0;
        loop {
            // Two records whose boundary is not that of a message.
            let plaintext = expected.concat();
            let bytes = [
                client_writes(&mut client, &plaintext[..30]),
                client_writes(&mut client, &plaintext[30..]),
            ]
            .concat();
            let mut got = receive_all(&mut conn, at(0), &mut Socket::sent(&bytes[..cut])).unwrap();
            got.extend(receive_all(&mut conn, at(0), &mut Socket::sent(&bytes[cut..])).unwrap());
            assert_eq!(got, expected, "cut at {cut}");
            if cut == bytes.len() {
                break;
            }
            cut += 1;
        }
    }
}

#[test]
fn plaintext_opened_before_the_hand_over_is_not_lost() {
    let mut pair = TlsPair::new();
    let message = stun(1, 8);
    let bytes = client_writes(&mut pair.client, &message[5..]);
    // One record and half of the next.
    feed_server(&mut pair.server, &bytes);
    let next = client_writes(&mut pair.client, &stun(2, 0));
    feed_server(&mut pair.server, &next[..10]);
    let mut conn = StreamConn::new(at(0), StreamLimits::default(), Some(pair.server), message[..5].to_vec());
    assert_eq!(messages(&mut conn).unwrap(), [message]);
    assert_eq!(
        receive_all(&mut conn, at(0), &mut Socket::sent(&next[10..])).unwrap(),
        [stun(2, 0)]
    );
}

#[test]
fn many_frames_share_one_record_and_one_write() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut socket = Socket::open();
    for _ in 0..13 {
        conn.queue(at(0), QueueKind::Data, &[0x40, 0, 4, 0xB0], &[5; 1200], 0)
            .unwrap();
    }
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert_eq!(socket.writes, 1);
    assert_eq!(records(&socket.outgoing), 1);
    assert_eq!(split(&client_reads(&mut client, &socket.outgoing)).len(), 13);
}

#[test]
fn no_frame_is_cut_by_a_record_unless_it_is_longer_than_one() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut socket = Socket::open();
    for len in [9000, 9000, 40_000, 100] {
        let message = channel_data(0x4001, &vec![1; len]);
        conn.queue(at(0), QueueKind::Data, &message[..4], &message[4..], 0)
            .unwrap();
    }
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    let lengths: Vec<_> = split(&client_reads(&mut client, &socket.outgoing))
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(lengths, [9004, 9004, 40_004, 104]);
    assert_eq!(records(&socket.outgoing), 1 + 1 + 3 + 1);
}

//= XPORT-18
#[test]
fn a_slow_reader_gets_the_newest_and_all_responses() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut socket = Socket {
        window: 0,
        ..Socket::open()
    };
    for sequence in 0..200_u64 {
        let now = at(10 * sequence);
        let payload = [vec![u8::try_from(sequence).unwrap()], vec![0; 999]].concat();
        conn.queue(now, QueueKind::Data, &[0x40, 0, 3, 0xE8], &payload, 0)
            .unwrap();
        if sequence == 20 {
            conn.queue(now, QueueKind::Control, &stun(20, 0), &[], 0).unwrap();
        }
        // 40 kB/s accepted, 100 kB/s offered.
        socket.window += 400;
        let _ = conn.flush(now, &mut socket).unwrap();
    }
    socket.window = usize::MAX;
    while conn.flush(at(2000), &mut socket).unwrap() == Flushed::Blocked {}
    let frames = split(&client_reads(&mut client, &socket.outgoing));
    assert!(frames.contains(&stun(20, 0)));
    let got: Vec<u8> = frames
        .iter()
        .filter(|frame| frame[0] == 0x40)
        .map(|frame| frame[4])
        .collect();
    assert!(got.is_sorted() && got.last() == Some(&199), "{got:?}");
    assert_eq!(got.len() as u64 + conn.take_dropped().aged, 200, "delivered or counted");
}

#[test]
fn short_writes_of_a_record_resume_where_they_stopped() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut socket = Socket {
        per_write: 7,
        ..Socket::open()
    };
    for id in 0..20 {
        conn.queue(at(0), QueueKind::Control, &stun(id, 40), &[], 0).unwrap();
    }
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert_eq!(split(&client_reads(&mut client, &socket.outgoing)).len(), 20);
}

#[test]
fn close_notify_from_the_client_ends_the_stream_behind_its_messages() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut bytes = client_writes(&mut client, &stun(1, 0));
    client.send_close_notify();
    bytes.extend(client_writes(&mut client, &[]));
    let received = conn.receive(at(0), &mut Socket::sent(&bytes)).unwrap();
    assert!(received.closed);
    assert_eq!(messages(&mut conn).unwrap(), [stun(1, 0)]);
}

#[test]
fn fin_without_close_notify_ends_the_stream_too() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut socket = Socket::sent(&client_writes(&mut client, &stun(1, 0)));
    socket.fin = true;
    assert!(!conn.receive(at(0), &mut socket).unwrap().closed);
    assert!(conn.receive(at(0), &mut socket).unwrap().closed);
}

#[test]
fn an_orderly_end_sends_what_is_queued_then_close_notify_once() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut socket = Socket::open();
    conn.queue(at(0), QueueKind::Control, &stun(1, 0), &[], 0).unwrap();
    conn.close();
    assert!(conn.wants_write());
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert!(!conn.wants_write());
    assert_eq!(client_reads(&mut client, &socket.outgoing), stun(1, 0));
    assert!(client.process_new_packets().unwrap().peer_has_closed());
    let sent = socket.outgoing.len();
    conn.close();
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert_eq!(socket.outgoing.len(), sent);
}

#[test]
fn a_broken_record_is_an_error_and_the_client_is_told() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut bytes = client_writes(&mut client, &stun(1, 0));
    *bytes.last_mut().unwrap() ^= 1;
    let mut socket = Socket::sent(&bytes);
    assert!(matches!(conn.receive(at(0), &mut socket), Err(StreamError::Tls(_))));
    assert!(conn.wants_write());
    let _ = conn.flush(at(0), &mut socket).unwrap();
    let mut alert = &socket.outgoing[..];
    client.read_tls(&mut alert).unwrap();
    assert!(matches!(
        client.process_new_packets(),
        Err(rustls::Error::AlertReceived(_))
    ));
}

#[test]
fn garbage_instead_of_records_is_an_error() {
    let (_, mut conn) = conn(TlsPair::new());
    assert!(matches!(
        conn.receive(at(0), &mut Socket::sent(&[0xFF; 300])),
        Err(StreamError::Tls(_))
    ));
}

#[test]
fn garbage_inside_records_is_an_error() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let bytes = client_writes(&mut client, &[0xFF; 300]);
    assert!(matches!(
        receive_all(&mut conn, at(0), &mut Socket::sent(&bytes)),
        Err(StreamError::Framing(_))
    ));
}

#[test]
fn a_record_that_drips_in_runs_out_of_time() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let bytes = client_writes(&mut client, &stun(1, 0));
    for (second, byte) in (0..).zip(&bytes[..9]) {
        assert!(
            receive_all(&mut conn, at(second * 1000), &mut Socket::sent(&[*byte]))
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(conn.poll_deadline(), Some(at(11_000)), "from the second byte on");
    assert!(matches!(
        conn.handle_timeout(at(11_000)),
        Err(StreamError::FrameTimeout)
    ));
    assert_eq!(
        receive_all(&mut conn, at(9500), &mut Socket::sent(&bytes[9..]))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(conn.poll_deadline(), None);
}

#[test]
fn a_key_update_alone_starts_no_deadline() {
    let (mut client, mut conn) = conn(TlsPair::new());
    client.refresh_traffic_keys().unwrap();
    let bytes = client_writes(&mut client, &[]);
    assert!(!bytes.is_empty());
    let mut socket = Socket::sent(&bytes);
    assert!(receive_all(&mut conn, at(0), &mut socket).unwrap().is_empty());
    assert_eq!(conn.poll_deadline(), None);
    // It is answered, and both directions work under new keys.
    conn.queue(at(0), QueueKind::Control, &stun(1, 0), &[], 0).unwrap();
    let _ = conn.flush(at(0), &mut socket).unwrap();
    assert_eq!(client_reads(&mut client, &socket.outgoing), stun(1, 0));
    let bytes = client_writes(&mut client, &stun(2, 0));
    assert_eq!(
        receive_all(&mut conn, at(0), &mut Socket::sent(&bytes)).unwrap(),
        [stun(2, 0)]
    );
}

#[test]
fn an_idle_tls_stream_holds_next_to_nothing_of_ours() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let mut socket = Socket::open();
    for _ in 0..100 {
        socket
            .incoming
            .extend(client_writes(&mut client, &channel_data(0x4000, &[0; 1200])));
        conn.queue(at(0), QueueKind::Data, &[0x40, 0, 4, 0xB0], &[0; 1200], 0)
            .unwrap();
    }
    assert_eq!(receive_all(&mut conn, at(0), &mut socket).unwrap().len(), 100);
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert!(conn.memory() <= 4096, "{}", conn.memory());
    assert_eq!(client_reads(&mut client, &socket.outgoing).len(), 100 * 1204);
}

fn records(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [_, _, _, high, low, rest @ ..] = bytes {
        bytes = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
        count += 1;
    }
    count
}

#[test]
fn what_is_sealed_and_not_written_is_counted() {
    let pair = TlsPair::new();
    let mut session = TlsSession::new(pair.server);
    // The remains of the handshake.
    let mut socket = Socket::open();
    while session.wants_write() {
        session.write(&mut socket).unwrap();
    }
    assert_eq!(session.unwritten(), 0);
    session
        .seal(&[IoSlice::new(&[1; 600]), IoSlice::new(&[2; 400])])
        .unwrap();
    assert_eq!(session.unwritten(), 1000);
    socket.per_write = 300;
    assert_eq!(session.write(&mut socket).unwrap(), 300);
    assert_eq!(session.unwritten(), 700);
    session.seal(&[IoSlice::new(&[3; 50])]).unwrap();
    assert_eq!(session.unwritten(), 750);
    while session.wants_write() {
        session.write(&mut socket).unwrap();
    }
    assert_eq!(session.unwritten(), 0, "headers and tags count for nothing");
    assert!(!session.has_ended());
}

#[test]
fn a_stream_over_tls_wants_to_write_its_end_and_what_is_sealed() {
    let (_client, mut conn) = conn(TlsPair::new());
    let mut socket = Socket::open();
    while conn.flush(at(0), &mut socket).unwrap() != Flushed::Done {}
    assert!(!conn.wants_write());
    conn.queue(at(0), QueueKind::Data, &[0x40, 0, 0, 4], b"data", 0)
        .unwrap();
    socket.window = 10;
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Blocked);
    // It is already in a record.
    assert!(conn.wants_write());
    socket.window = usize::MAX;
    while conn.flush(at(0), &mut socket).unwrap() != Flushed::Done {}
    assert!(!conn.wants_write());
    conn.close();
    assert!(conn.wants_write());
    while conn.flush(at(0), &mut socket).unwrap() != Flushed::Done {}
    assert!(!conn.wants_write());
}

#[test]
fn two_key_updates_in_the_middle_of_a_message_leave_it_its_time() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let message = stun(1, 40);
    let begun = client_writes(&mut client, &message[..10]);
    assert!(
        receive_all(&mut conn, at(0), &mut Socket::sent(&begun))
            .unwrap()
            .is_empty()
    );
    let deadline = conn.poll_deadline();
    assert!(deadline.is_some());
    for millis in [10, 20] {
        client.refresh_traffic_keys().unwrap();
        let update = client_writes(&mut client, b"");
        assert!(
            receive_all(&mut conn, at(millis), &mut Socket::sent(&update))
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(conn.poll_deadline(), deadline, "counted from its first byte");
}

#[test]
fn reads_of_nothing_at_all_start_no_deadline() {
    let (_client, mut conn) = conn(TlsPair::new());
    for millis in 0..4 {
        assert_eq!(conn.receive(at(millis), &mut Socket::open()).unwrap().bytes, 0);
        assert!(messages(&mut conn).unwrap().is_empty());
    }
    assert_eq!(conn.poll_deadline(), None);
}

//= XPORT-18
#[test]
fn what_is_in_a_record_already_is_ahead_of_what_is_written_next() {
    // 5,000 bytes, which the client reads in 20 ms. Without them the limit would be 96 ms.
    for (age, delivered) in [(76, 2), (77, 1)] {
        let (mut client, mut conn) = conn(TlsPair::new());
        let mut socket = Socket::open();
        while conn.flush(at(0), &mut socket).unwrap() != Flushed::Done {}
        socket.window = 0;
        let data = |conn: &mut StreamConn, now, len: u16| {
            let header = [&[0x40, 0][..], &len.to_be_bytes()].concat();
            conn.queue(now, QueueKind::Data, &header, &vec![0; usize::from(len)], 0)
                .unwrap();
        };
        data(&mut conn, at(0), 4996);
        assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Blocked);
        for millis in [100, 150] {
            let state = PathState {
                acknowledged: 250 * millis,
                outstanding: 0,
                window: 64 * 1024,
                round_trip: Duration::from_millis(100),
                shortest_round_trip: Duration::from_millis(20),
            };
            conn.observe(at(millis), state);
        }
        data(&mut conn, at(200 - age), 1000);
        socket.window = usize::MAX;
        while conn.flush(at(200), &mut socket).unwrap() != Flushed::Done {}
        let frames = split(&client_reads(&mut client, &socket.outgoing));
        assert_eq!(frames.len(), delivered, "{age} ms old");
    }
}

#[test]
fn a_message_and_then_a_key_update_start_no_deadline() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let bytes = client_writes(&mut client, &stun(1, 0));
    assert_eq!(
        receive_all(&mut conn, at(0), &mut Socket::sent(&bytes)).unwrap(),
        [stun(1, 0)]
    );
    client.refresh_traffic_keys().unwrap();
    let update = client_writes(&mut client, b"");
    assert!(
        receive_all(&mut conn, at(1), &mut Socket::sent(&update))
            .unwrap()
            .is_empty()
    );
    assert_eq!(conn.poll_deadline(), None);
}

#[test]
fn a_read_that_was_full_has_more_unless_the_client_has_said_goodbye() {
    let (mut client, mut conn) = conn(TlsPair::new());
    let bytes = client_writes(&mut client, &stun(1, 0));
    let received = conn.receive(at(0), &mut Socket::sent(&bytes)).unwrap();
    assert_eq!((received.more, received.closed), (false, false));
    let long: Vec<u8> = (0..4)
        .flat_map(|_| client_writes(&mut client, &channel_data(0x4000, &[0; 30_000])))
        .collect();
    let mut socket = Socket::sent(&long);
    let received = conn.receive(at(0), &mut socket).unwrap();
    assert_eq!((received.bytes, received.more, received.closed), (READ, true, false));
    while conn.receive(at(0), &mut socket).unwrap().more {}
    client.send_close_notify();
    let mut goodbye = Vec::new();
    client.write_tls(&mut goodbye).unwrap();
    goodbye.resize(READ + 1, 0);
    let received = conn.receive(at(0), &mut Socket::sent(&goodbye)).unwrap();
    assert_eq!((received.bytes, received.more, received.closed), (READ, false, true));
}
