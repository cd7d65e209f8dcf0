use proptest::collection::vec;
use proptest::prelude::*;

use super::support::*;
use crate::stream::*;

fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (any::<u8>(), 0..30_u16).prop_map(|(id, words)| stun(id, words * 4)),
        (0x4000..0x5000_u16, vec(any::<u8>(), 0..300)).prop_map(|(number, data)| channel_data(number, &data)),
    ]
}

proptest! {
    /// The messages are the same for every chunking, and for every place at which the front door
    /// stopped reading.
    #[test]
    fn any_chunking_gives_the_same_messages(
        frames in vec(frame(), 0..20),
        cuts in vec(1..200_usize, 0..40),
        early in 0..100_usize,
    ) {
        let bytes = frames.concat();
        let (early, mut left) = bytes.split_at(early.min(bytes.len()));
        let mut conn = StreamConn::new(at(0), StreamLimits::default(), None, early.to_vec());
        conn.set_authenticated();
        let mut got = messages(&mut conn).unwrap();
        for cut in cuts {
            let (chunk, rest) = left.split_at(cut.min(left.len()));
            got.extend(receive_all(&mut conn, at(0), &mut Socket::sent(chunk)).unwrap());
            left = rest;
        }
        got.extend(receive_all(&mut conn, at(0), &mut Socket::sent(left)).unwrap());
        prop_assert_eq!(got, frames);
        prop_assert_eq!(conn.poll_deadline(), None);
        prop_assert!(conn.memory() <= 4096);
    }

    /// No input causes a panic, and the output is never longer than the input.
    #[test]
    fn garbage_never_panics(chunks in vec(vec(any::<u8>(), 0..100), 0..20), authenticated: bool) {
        let mut conn = StreamConn::new(at(0), StreamLimits::default(), None, Vec::new());
        if authenticated {
            conn.set_authenticated();
        }
        let total: usize = chunks.iter().map(Vec::len).sum();
        let mut got = 0;
        for chunk in &chunks {
            match receive_all(&mut conn, at(0), &mut Socket::sent(chunk)) {
                Ok(messages) => got += messages.iter().map(Vec::len).sum::<usize>(),
                Err(_) => break,
            }
        }
        prop_assert!(got <= total);
    }

    /// With short writes, full sockets and elapsing time, only whole frames leave, each kind in
    /// order. Every response is delivered. Every data frame is delivered or counted as dropped. The
    /// limits hold at every step.
    #[test]
    fn what_leaves_is_whole_frames_in_order(
        steps in vec((0..4_u8, 0..600_usize, 0..80_u64), 1..120),
        per_write in 1..2000_usize,
    ) {
        let limits = StreamLimits { queue_bytes: 4000, control_bytes: 2000, ..StreamLimits::default() };
        let mut conn = StreamConn::new(at(0), limits, None, Vec::new());
        let mut socket = Socket { window: 0, per_write, ..Socket::open() };
        let (mut now, mut sequence) = (0, 0_u32);
        let (mut data, mut control) = (Vec::new(), Vec::new());
        for (action, amount, pause) in steps {
            now += pause;
            match action {
                0 | 1 => {
                    sequence += 1;
                    let payload = [&sequence.to_be_bytes()[..], &vec![0; amount]].concat();
                    let message = channel_data(0x4000, &payload);
                    let padding = message.len() - 4 - payload.len();
                    conn.queue(at(now), QueueKind::Data, &message[..4], &payload, padding).unwrap();
                    data.push(message);
                }
                2 => {
                    sequence += 1;
                    let message = stun(u8::try_from(sequence % 256).unwrap(), 20);
                    if conn.queue(at(now), QueueKind::Control, &message[..20], &message[20..], 0).is_ok() {
                        control.push(message);
                    }
                }
                _ => {
                    socket.window += amount * 4;
                    let _ = conn.flush(at(now), &mut socket).unwrap();
                }
            }
            prop_assert!(conn.backlog(at(now)).0 <= 4000 + 2000 + 700);
        }
        socket.window = usize::MAX;
        while conn.flush(at(now), &mut socket).unwrap() == Flushed::Blocked {}
        let frames = split(&socket.outgoing);
        let (got_data, got_control): (Vec<_>, Vec<_>) = frames.into_iter().partition(|frame| frame[0] == 0x40);
        prop_assert_eq!(got_control, control);
        prop_assert_eq!(got_data.len() as u64 + conn.take_dropped().total(), data.len() as u64);
        let mut queued = data.iter();
        for frame in &got_data {
            prop_assert!(queued.any(|message| message == frame), "in order and unchanged");
        }
        prop_assert!(conn.memory() <= 4096);
    }
}
