use super::support::*;
use crate::stream::*;

fn conn(limits: StreamLimits) -> StreamConn {
    StreamConn::new(at(0), limits, None, Vec::new())
}

fn data(conn: &mut StreamConn, now: Instant, sequence: u16, len: usize) {
    let mut payload = vec![0xDD; len];
    payload[..2].copy_from_slice(&sequence.to_be_bytes());
    let message = channel_data(0x4000, &payload);
    conn.queue(now, QueueKind::Data, &message[..4], &message[4..], 0)
        .unwrap();
}

fn sequences(frames: &[Vec<u8>]) -> Vec<u16> {
    frames
        .iter()
        .filter(|frame| frame[0] == 0x40)
        .map(|frame| u16::from_be_bytes([frame[4], frame[5]]))
        .collect()
}

//= XPORT-18
#[test]
fn what_waited_too_long_is_dropped_and_the_newest_is_delivered() {
    let mut conn = conn(StreamLimits::default());
    let mut socket = Socket {
        window: 0,
        ..Socket::open()
    };
    for sequence in 0..100 {
        data(&mut conn, at(10 * u64::from(sequence)), sequence, 1000);
        let _ = conn.flush(at(10 * u64::from(sequence)), &mut socket).unwrap();
    }
    socket.window = usize::MAX;
    while conn.flush(at(1000), &mut socket).unwrap() == Flushed::Blocked {}
    // 150 ms before 1000: number 85 was queued at 850.
    assert_eq!(sequences(&split(&socket.outgoing)), (85..100).collect::<Vec<_>>());
    assert_eq!(
        conn.take_dropped(),
        Dropped {
            aged: 85,
            overflowed: 0
        }
    );
    assert_eq!(conn.take_dropped().total(), 0);
}

#[test]
fn age_is_exceeded_only_beyond_the_limit() {
    for (delay, delivered) in [(150, 1), (151, 0)] {
        let mut conn = conn(StreamLimits::default());
        let mut socket = Socket::open();
        data(&mut conn, at(0), 1, 100);
        assert_eq!(conn.flush(at(delay), &mut socket).unwrap(), Flushed::Done);
        assert_eq!(split(&socket.outgoing).len(), delivered, "after {delay} ms");
    }
}

#[test]
fn too_many_bytes_drop_the_oldest() {
    let limits = StreamLimits {
        queue_bytes: 10 * 1004,
        ..StreamLimits::default()
    };
    let mut conn = conn(limits);
    let mut socket = Socket::open();
    for sequence in 0..25 {
        data(&mut conn, at(0), sequence, 1000);
        assert!(conn.backlog(at(0)).0 <= 10 * 1004);
    }
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Done);
    assert_eq!(sequences(&split(&socket.outgoing)), (15..25).collect::<Vec<_>>());
    assert_eq!(
        conn.take_dropped(),
        Dropped {
            aged: 0,
            overflowed: 15
        }
    );
}

#[test]
fn a_frame_that_never_fits_is_dropped_alone() {
    let limits = StreamLimits {
        queue_bytes: 2000,
        ..StreamLimits::default()
    };
    let mut conn = conn(limits);
    data(&mut conn, at(0), 1, 1000);
    data(&mut conn, at(0), 2, 3000);
    let mut socket = Socket::open();
    let _ = conn.flush(at(0), &mut socket).unwrap();
    assert_eq!(sequences(&split(&socket.outgoing)), [1]);
    assert_eq!(conn.take_dropped().overflowed, 1);
}

#[test]
fn responses_survive_any_wait_and_go_first() {
    let mut conn = conn(StreamLimits::default());
    let mut socket = Socket {
        window: 0,
        ..Socket::open()
    };
    data(&mut conn, at(0), 1, 1000);
    conn.queue(at(0), QueueKind::Control, &stun(9, 8), &[], 0).unwrap();
    let _ = conn.flush(at(0), &mut socket).unwrap();
    data(&mut conn, at(10_000), 2, 1000);
    socket.window = usize::MAX;
    while conn.flush(at(10_000), &mut socket).unwrap() == Flushed::Blocked {}
    let frames = split(&socket.outgoing);
    assert_eq!(frames[0], stun(9, 8));
    assert_eq!(sequences(&frames), [2]);
}

#[test]
fn responses_no_one_reads_fill_their_queue_and_that_is_said() {
    let mut conn = conn(StreamLimits {
        control_bytes: 60,
        ..StreamLimits::default()
    });
    for id in 0..3 {
        assert_eq!(conn.queue(at(0), QueueKind::Control, &stun(id, 0), &[], 0), Ok(()));
    }
    assert_eq!(conn.queue(at(0), QueueKind::Control, &stun(4, 0), &[], 0), Err(Full));
}

#[test]
fn a_frame_begun_is_finished_however_old_it_gets() {
    let mut conn = conn(StreamLimits::default());
    let mut socket = Socket {
        window: 500,
        ..Socket::open()
    };
    data(&mut conn, at(0), 1, 1000);
    data(&mut conn, at(0), 2, 1000);
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Blocked);
    conn.queue(at(5), QueueKind::Control, &stun(7, 0), &[], 0).unwrap();
    socket.window = usize::MAX;
    while conn.flush(at(5000), &mut socket).unwrap() == Flushed::Blocked {}
    let frames = split(&socket.outgoing);
    assert_eq!(sequences(&frames), [1], "the second was too old");
    assert_eq!(frames[1], stun(7, 0), "control behind the frame begun");
}

#[test]
fn in_a_backlog_as_much_is_committed_at_a_time_as_the_client_takes_quickly() {
    for (pause, expected) in [
        (1, [8, 16, 16, 16]),
        (4, [8, 16, 16, 16]),
        (10, [4, 4, 4, 4]),
        (21, [4, 4, 4, 4]),
    ] {
        let mut conn = conn(StreamLimits {
            queue_age: Duration::from_secs(10),
            ..StreamLimits::default()
        });
        let mut socket = Socket {
            window: 0,
            ..Socket::open()
        };
        for sequence in 0..200 {
            data(&mut conn, at(0), sequence, 1020);
        }
        assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Blocked);
        socket.window = usize::MAX;
        for (flush, kib) in (1..).zip(expected) {
            let before = socket.outgoing.len();
            assert_eq!(conn.flush(at(flush * pause), &mut socket).unwrap(), Flushed::Blocked);
            assert_eq!(
                socket.outgoing.len() - before,
                kib * 1024,
                "pauses of {pause} ms, flush {flush}"
            );
        }
        while conn.flush(at(100), &mut socket).unwrap() == Flushed::Blocked {}
        assert_eq!(sequences(&split(&socket.outgoing)), (0..200).collect::<Vec<_>>());
    }
}

#[test]
fn a_client_that_slows_down_gets_smaller_portions_again() {
    let mut conn = conn(StreamLimits {
        queue_age: Duration::from_secs(10),
        ..StreamLimits::default()
    });
    let mut socket = Socket {
        window: 0,
        ..Socket::open()
    };
    for sequence in 0..200 {
        data(&mut conn, at(0), sequence, 1020);
    }
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Blocked);
    socket.window = usize::MAX;
    let mut committed = Vec::new();
    for now in [1, 2, 3, 50, 100] {
        let before = socket.outgoing.len();
        assert_eq!(conn.flush(at(now), &mut socket).unwrap(), Flushed::Blocked);
        committed.push((socket.outgoing.len() - before) / 1024);
    }
    assert_eq!(committed, [8, 16, 16, 8, 4]);
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let mut conn = conn(StreamLimits::default());
    let mut socket = Socket {
        window: 100,
        ..Socket::open()
    };
    data(&mut conn, at(0), 1, 1000);
    assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Blocked);
    assert_eq!(conn.poll_deadline(), Some(at(30_000)));
    // One accepted byte restarts the timeout.
    socket.window = 1;
    assert_eq!(conn.flush(at(20_000), &mut socket).unwrap(), Flushed::Blocked);
    assert_eq!(conn.poll_deadline(), Some(at(50_000)));
    // A refused one does not.
    assert_eq!(conn.flush(at(40_000), &mut socket).unwrap(), Flushed::Blocked);
    assert!(conn.handle_timeout(at(49_999)).is_ok());
    assert!(matches!(
        conn.handle_timeout(at(50_000)),
        Err(StreamError::WriteTimeout)
    ));
    socket.window = usize::MAX;
    assert_eq!(conn.flush(at(49_999), &mut socket).unwrap(), Flushed::Done);
    assert_eq!(conn.poll_deadline(), None);
}

#[test]
fn backlog_tells_bytes_and_age() {
    let mut conn = conn(StreamLimits::default());
    assert_eq!(conn.backlog(at(5)), (0, Duration::ZERO));
    data(&mut conn, at(10), 1, 1000);
    data(&mut conn, at(20), 2, 1000);
    assert_eq!(conn.backlog(at(50)), (2008, Duration::from_millis(40)));
}

/// The measurements at `millis` of a socket whose client accepts 250 bytes per millisecond, with
/// `outstanding` bytes in flight.
fn path(millis: u64, outstanding: u64) -> PathState {
    PathState {
        acknowledged: 250 * millis,
        outstanding,
        window: 64 * 1024,
        round_trip: Duration::from_millis(100),
        shortest_round_trip: Duration::from_millis(20),
    }
}

//= XPORT-18
#[test]
fn what_would_be_too_old_when_the_client_reads_it_is_dropped() {
    // Besides what is outstanding, the portion to be written counts: 4 KiB, 16 ms.
    for (outstanding, limit) in [(0, 96), (5_000, 76), (12_500, 46), (1_000_000, 37)] {
        for (age, delivered) in [(limit, 1), (limit + 1, 0)] {
            let mut conn = conn(StreamLimits::default());
            let mut socket = Socket {
                window: 0,
                ..Socket::open()
            };
            data(&mut conn, at(0), 0, 1000);
            assert_eq!(conn.flush(at(0), &mut socket).unwrap(), Flushed::Blocked);
            let sent_at = 200;
            for millis in [100, 150] {
                conn.observe(at(millis), path(millis, outstanding));
            }
            data(&mut conn, at(sent_at - age), 1, 1000);
            socket.window = usize::MAX;
            while conn.flush(at(sent_at), &mut socket).unwrap() == Flushed::Blocked {}
            let taken = sequences(&split(&socket.outgoing));
            assert_eq!(
                taken.len(),
                delivered,
                "{outstanding} bytes ahead, {age} ms old: {taken:?}"
            );
        }
    }
}

//= XPORT-18
#[test]
fn while_the_way_is_full_nothing_is_written_and_no_response_is_lost() {
    let mut conn = conn(StreamLimits::default());
    let mut socket = Socket::open();
    assert!(conn.wants_observation(at(0)));
    conn.observe(at(0), path(0, 40_000));
    assert!(!conn.wants_observation(at(49)));
    conn.observe(at(50), path(50, 40_000));
    data(&mut conn, at(50), 1, 1000);
    conn.queue(at(50), QueueKind::Control, &stun(7, 0), &[], 0).unwrap();
    // 160 ms of bytes on a path of 20 ms: 65 ms too many, of which 50 elapse before the next
    // observation.
    assert_eq!(conn.flush(at(50), &mut socket).unwrap(), Flushed::Held(at(100)));
    assert!(socket.outgoing.is_empty());
    assert!(conn.wants_observation(at(51)));
    data(&mut conn, at(100), 2, 1000);
    conn.observe(at(100), path(100, 27_500));
    assert_eq!(conn.flush(at(100), &mut socket).unwrap(), Flushed::Held(at(115)));
    conn.observe(at(115), path(115, 23_500));
    while conn.flush(at(115), &mut socket).unwrap() != Flushed::Done {}
    let frames = split(&socket.outgoing);
    assert_eq!(frames[0], stun(7, 0));
    assert_eq!(sequences(&frames), [2], "the first has become too old");
}

#[test]
fn a_client_behind_a_full_way_that_takes_nothing_is_given_up() {
    let mut conn = conn(StreamLimits::default());
    let mut socket = Socket::open();
    data(&mut conn, at(50), 1, 1000);
    for millis in [0, 50] {
        conn.observe(at(millis), path(0, 40_000));
    }
    assert_eq!(conn.flush(at(50), &mut socket).unwrap(), Flushed::Held(at(100)));
    assert!(conn.handle_timeout(at(30_049)).is_ok());
    assert!(matches!(
        conn.handle_timeout(at(30_050)),
        Err(StreamError::WriteTimeout)
    ));
}

#[test]
fn a_portion_grows_below_five_milliseconds_and_shrinks_beyond_twenty() {
    let mut conn = conn(StreamLimits::default());
    let mut next = |micros| conn.next_portion(Duration::from_micros(micros));
    assert_eq!([next(5000), next(4999), next(0)], [4096, 8192, 16_384]);
    assert_eq!([next(20_000), next(5000), next(20_001)], [16_384, 16_384, 8192]);
    assert_eq!([next(30_000), next(30_000)], [4096, 4096]);
}
