use std::io::IoSlice;

use super::support::*;
use crate::stream::*;

fn conn() -> StreamConn {
    StreamConn::new(at(0), StreamLimits::default(), None, Vec::new())
}

fn sequence() -> Vec<Vec<u8>> {
    let mut all = vec![stun(1, 0), stun(2, 8)];
    all.extend((0..6).map(|len| channel_data(0x4000, &vec![7; len])));
    all.push(stun(3, 40));
    all
}

//= XPORT-02
#[test]
fn any_split_in_two_gives_the_same_messages() {
    let expected = sequence();
    let bytes = expected.concat();
    for cut in 0..=bytes.len() {
        let mut conn = conn();
        let mut got = receive_all(&mut conn, at(0), &mut Socket::sent(&bytes[..cut])).unwrap();
        got.extend(receive_all(&mut conn, at(1), &mut Socket::sent(&bytes[cut..])).unwrap());
        assert_eq!(got, expected, "cut at {cut}");
    }
}

//= XPORT-02
#[test]
fn one_byte_at_a_time_gives_the_same_messages() {
    let expected = sequence();
    let mut conn = conn();
    let mut got = Vec::new();
    for byte in expected.concat() {
        got.extend(receive_all(&mut conn, at(0), &mut Socket::sent(&[byte])).unwrap());
    }
    assert_eq!(got, expected);
}

//= XPORT-09
#[test]
fn one_read_brings_many_messages() {
    let expected: Vec<_> = (0..50).map(|id| stun(id, 8)).collect();
    let mut conn = conn();
    let mut socket = Socket::sent(&expected.concat());
    let received = conn.receive(at(0), &mut socket).unwrap();
    assert_eq!(
        received,
        Received {
            bytes: 50 * 28,
            more: false,
            closed: false
        }
    );
    assert_eq!(messages(&mut conn).unwrap(), expected);
}

#[test]
fn early_bytes_come_first_whether_whole_or_begun() {
    let expected = sequence();
    let bytes = expected.concat();
    for cut in 0..=bytes.len() {
        let mut conn = StreamConn::new(at(0), StreamLimits::default(), None, bytes[..cut].to_vec());
        let mut got = messages(&mut conn).unwrap();
        got.extend(receive_all(&mut conn, at(0), &mut Socket::sent(&bytes[cut..])).unwrap());
        assert_eq!(got, expected, "cut at {cut}");
    }
}

//= XPORT-04
#[test]
fn reserved_channel_numbers_are_handed_on_and_the_stream_stays_in_step() {
    let expected = [channel_data(0x5000, b"12345"), channel_data(0x7FFF, b""), stun(1, 0)];
    let bytes = expected.concat();
    for cut in 0..=bytes.len() {
        let mut conn = conn();
        let mut got = receive_all(&mut conn, at(0), &mut Socket::sent(&bytes[..cut])).unwrap();
        got.extend(receive_all(&mut conn, at(0), &mut Socket::sent(&bytes[cut..])).unwrap());
        assert_eq!(got, expected, "cut at {cut}");
    }
}

//= XPORT-03
#[test]
fn what_is_not_turn_is_an_error() {
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"\x80\x00\x00\x00",
        b"\x00\x01\x00\x00\x21\x12\xA4\x43",
        b"\xFF",
    ] {
        let result = receive_all(&mut conn(), at(0), &mut Socket::sent(garbage));
        assert!(matches!(result, Err(StreamError::Framing(_))), "{garbage:02x?}");
    }
}

//= XPORT-03
#[test]
fn an_http_request_is_no_message() {
    // "GE" is a channel number, and "T " a length above the limit for unauthenticated clients.
    let result = receive_all(&mut conn(), at(0), &mut Socket::sent(b"GET / HTTP/1.1\r\n\r\n"));
    assert!(matches!(result, Err(StreamError::FrameTooLong)));
}

#[test]
fn messages_before_authentication_are_short() {
    let limits = StreamLimits {
        unauthenticated_frame: 2048,
        ..StreamLimits::default()
    };
    let new = || StreamConn::new(at(0), limits.clone(), None, Vec::new());
    let fits = channel_data(0x4000, &[0; 2044]);
    assert_eq!(
        receive_all(&mut new(), at(0), &mut Socket::sent(&fits)).unwrap(),
        [fits]
    );
    let long = channel_data(0x4000, &[0; 2045]);
    let refused = receive_all(&mut new(), at(0), &mut Socket::sent(&long[..4]));
    assert!(
        matches!(refused, Err(StreamError::FrameTooLong)),
        "refused at its header"
    );
    let mut conn = new();
    conn.set_authenticated();
    assert_eq!(receive_all(&mut conn, at(0), &mut Socket::sent(&long)).unwrap(), [long]);
}

//= STUN-MSG-24
#[test]
fn after_authentication_the_longest_messages_there_are_pass() {
    let mut conn = conn();
    conn.set_authenticated();
    let longest = [channel_data(0x4000, &[9; 65535]), stun(1, 65532)];
    let bytes = [&longest[0][..], &longest[1][..], &longest[0][..]].concat();
    let messages = receive_all(&mut conn, at(0), &mut Socket::sent(&bytes)).unwrap();
    assert_eq!(messages, [&longest[0][..], &longest[1][..], &longest[0][..]]);
    assert!(conn.memory() <= 4096);
}

#[test]
fn the_longest_message_after_authentication_can_be_bounded() {
    let limits = StreamLimits {
        frame: 5000,
        ..StreamLimits::default()
    };
    let mut conn = StreamConn::new(at(0), limits, None, Vec::new());
    conn.set_authenticated();
    let longest = channel_data(0x4000, &[9; 4996]);
    assert!(receive_all(&mut conn, at(0), &mut Socket::sent(&longest)).is_ok());
    let longer = channel_data(0x4000, &[9; 4997]);
    assert!(matches!(
        receive_all(&mut conn, at(0), &mut Socket::sent(&longer[..4])),
        Err(StreamError::FrameTooLong)
    ));
}

#[test]
fn a_stranger_may_send_only_so_many_bytes() {
    let limits = StreamLimits {
        unauthenticated_bytes: 40,
        ..StreamLimits::default()
    };
    let mut conn = StreamConn::new(at(0), limits, None, Vec::new());
    let two = receive_all(&mut conn, at(0), &mut Socket::sent(&[stun(1, 0), stun(2, 0)].concat()));
    assert_eq!(two.unwrap().len(), 2);
    assert!(matches!(
        receive_all(&mut conn, at(0), &mut Socket::sent(&stun(3, 0))),
        Err(StreamError::UnauthenticatedBytes)
    ));
}

#[test]
fn an_authenticated_client_sends_without_end() {
    let limits = StreamLimits {
        unauthenticated_bytes: 40,
        ..StreamLimits::default()
    };
    let mut conn = StreamConn::new(at(0), limits, None, Vec::new());
    let mut socket = Socket::sent(&(0..100).flat_map(|id| stun(id, 0)).collect::<Vec<_>>());
    let _ = conn.receive(at(0), &mut socket).unwrap();
    assert!(conn.next_message().unwrap().is_some());
    conn.set_authenticated();
    assert_eq!(messages(&mut conn).unwrap().len(), 99);
}

#[test]
fn a_message_must_be_complete_in_time_counted_from_its_first_byte() {
    let mut conn = conn();
    let timeout = conn.limits.frame_timeout;
    assert_eq!(conn.poll_deadline(), None);
    let message = stun(1, 0);
    for (byte, second) in message[..10].iter().zip(0..) {
        assert!(
            receive_all(&mut conn, at(500 + 1000 * second), &mut Socket::sent(&[*byte]))
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(conn.poll_deadline(), Some(at(500) + timeout), "more bytes win no time");
    assert!(conn.handle_timeout(at(10_499)).is_ok());
    assert!(matches!(
        conn.handle_timeout(at(10_500)),
        Err(StreamError::FrameTimeout)
    ));
}

#[test]
fn the_time_for_the_next_message_begins_with_its_own_first_byte() {
    let mut conn = conn();
    let message = stun(1, 0);
    assert!(
        receive_all(&mut conn, at(0), &mut Socket::sent(&message[..19]))
            .unwrap()
            .is_empty()
    );
    let rest = [&message[19..], &message[..3]].concat();
    assert_eq!(
        receive_all(&mut conn, at(9000), &mut Socket::sent(&rest))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(conn.poll_deadline(), Some(at(19_000)));
    assert_eq!(
        receive_all(&mut conn, at(9500), &mut Socket::sent(&message[3..]))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(conn.poll_deadline(), None);
}

//= XPORT-08
#[test]
fn a_request_before_fin_is_still_there_to_be_answered() {
    let mut conn = conn();
    let mut socket = Socket::sent(&stun(1, 0));
    socket.fin = true;
    assert!(!conn.receive(at(0), &mut socket).unwrap().closed);
    assert_eq!(messages(&mut conn).unwrap().len(), 1);
    assert!(conn.receive(at(0), &mut socket).unwrap().closed);
    conn.queue(at(0), QueueKind::Control, &stun(1, 0), &[], 0).unwrap();
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert_eq!(socket.outgoing, stun(1, 0));
}

#[test]
fn a_read_is_bounded_and_says_so() {
    let mut conn = conn();
    conn.set_authenticated();
    let mut socket = Socket::sent(&channel_data(0x4000, &[0; 1020]).repeat(100));
    let received = conn.receive(at(0), &mut socket).unwrap();
    assert_eq!((received.bytes, received.more), (64 * 1024, true));
    assert_eq!(messages(&mut conn).unwrap().len(), 64);
    assert_eq!(receive_all(&mut conn, at(0), &mut socket).unwrap().len(), 36);
}

#[test]
fn an_idle_stream_holds_next_to_nothing() {
    let mut conn = conn();
    conn.set_authenticated();
    let mut socket = Socket::sent(&channel_data(0x4000, &[0; 1200]).repeat(50));
    receive_all(&mut conn, at(0), &mut socket).unwrap();
    for _ in 0..60 {
        conn.queue(at(0), QueueKind::Data, &[0x40, 0, 4, 0xB0], &[0; 1200], 0)
            .unwrap();
    }
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert_eq!(conn.memory(), 0);
    // With a partial message, little more than the message.
    receive_all(
        &mut conn,
        at(0),
        &mut Socket::sent(&channel_data(0x4000, &[0; 1200])[..1000]),
    )
    .unwrap();
    assert!(conn.memory() <= 4096);
}

#[test]
fn frames_go_out_in_one_write() {
    let mut conn = conn();
    let mut socket = Socket::open();
    for id in 0..10 {
        conn.queue(at(0), QueueKind::Data, &[0x40, id, 0, 5], b"hello", 3)
            .unwrap();
    }
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert_eq!(socket.writes, 1);
    let expected: Vec<_> = (0..10).map(|id| channel_data(0x4000 + id, b"hello")).collect();
    assert_eq!(split(&socket.outgoing), expected);
}

#[test]
fn a_failed_socket_is_an_error() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let mut conn = conn();
    conn.queue(at(0), QueueKind::Control, &stun(1, 0), &[], 0).unwrap();
    assert!(matches!(conn.flush(at(0), &mut Broken), Err(StreamError::Io(_))));
    assert!(matches!(conn.receive(at(0), &mut Broken), Err(StreamError::Io(_))));
}

/// A socket on which a signal interrupts every other call.
struct Interrupted {
    socket: Socket,
    calls: usize,
}

impl Interrupted {
    fn interrupt(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.calls % 2 == 1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

impl Read for Interrupted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.interrupt()?;
        self.socket.read(into)
    }
}

impl Write for Interrupted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.interrupt()?;
        self.socket.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.interrupt()?;
        self.socket.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_call_that_was_interrupted_is_made_again() {
    let mut conn = conn();
    let mut io = Interrupted {
        socket: Socket::sent(&stun(1, 0)),
        calls: 0,
    };
    let received = conn.receive(at(0), &mut io).unwrap();
    assert_eq!((received.bytes, received.more, received.closed), (20, false, false));
    assert_eq!(messages(&mut conn).unwrap(), [stun(1, 0)]);
    conn.queue(at(0), QueueKind::Control, &stun(2, 0), &[], 0).unwrap();
    assert_eq!(conn.flush(at(0), &mut io).unwrap(), Flushed::Done);
    assert_eq!(io.socket.outgoing, stun(2, 0));
}

#[test]
fn a_read_of_nothing_is_no_error_and_not_the_end() {
    let mut conn = conn();
    let received = conn.receive(at(0), &mut Socket::open()).unwrap();
    assert_eq!((received.bytes, received.more, received.closed), (0, false, false));
    let mut ended = Socket {
        fin: true,
        ..Socket::open()
    };
    let received = conn.receive(at(0), &mut ended).unwrap();
    assert_eq!((received.bytes, received.more, received.closed), (0, false, true));
}

#[test]
fn memory_is_that_of_what_waits() {
    let mut conn = conn();
    conn.set_authenticated();
    assert_eq!(conn.memory(), 0);
    let begun = &channel_data(0x4000, &[0; 3000])[..2500];
    receive_all(&mut conn, at(0), &mut Socket::sent(begun)).unwrap();
    let received = conn.memory();
    assert!((2500..=5000).contains(&received), "{received}");
    conn.queue(at(0), QueueKind::Data, &[0x40, 0, 3, 0xE8], &[0; 1000], 0)
        .unwrap();
    let with_data = conn.memory();
    assert!(with_data >= received + 1004, "{received} {with_data}");
    conn.queue(at(0), QueueKind::Control, &stun(1, 1000), &[], 0).unwrap();
    let with_both = conn.memory();
    assert!(
        with_both >= with_data + 1020 && with_both < 1 << 20,
        "{with_data} {with_both}"
    );
}

#[test]
fn a_stream_wants_to_write_what_is_queued_and_nothing_else() {
    let mut conn = conn();
    let mut socket = Socket::open();
    assert!(!conn.wants_write());
    conn.queue(at(0), QueueKind::Data, &[0x40, 0, 0, 4], b"data", 0)
        .unwrap();
    assert!(conn.wants_write());
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert!(!conn.wants_write());
    // Without TLS the close sends nothing.
    conn.close();
    assert!(!conn.wants_write());
}

#[test]
fn what_is_queued_when_a_stream_is_taken_apart_goes_along_and_so_does_what_was_received() {
    let mut conn = conn();
    receive_all(&mut conn, at(0), &mut Socket::sent(&stun(7, 8)[..9])).unwrap();
    conn.queue(at(0), QueueKind::Control, &stun(1, 0), &[], 0).unwrap();
    conn.queue(at(0), QueueKind::Data, &[0x40, 0, 0, 3], b"abc", 1).unwrap();
    let parts = conn.into_parts();
    assert_eq!(parts.received, &stun(7, 8)[..9]);
    assert_eq!(parts.unsent, [stun(1, 0), channel_data(0x4000, b"abc")].concat());
}

#[test]
fn an_error_says_what_is_wrong() {
    for (error, text) in [
        (StreamError::FrameTooLong, "message longer than allowed"),
        (StreamError::FrameTimeout, "message not completed in time"),
        (StreamError::WriteTimeout, "client takes no bytes"),
        (StreamError::Io(io::ErrorKind::BrokenPipe.into()), "socket: broken pipe"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}
