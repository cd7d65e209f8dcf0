use super::*;

fn slot(len: usize, stride: usize, usable: bool) -> Slot {
    Slot {
        source: "192.0.2.1:1".parse().unwrap(),
        local: None,
        tos: 0,
        start: 100,
        len,
        stride,
        usable,
    }
}

#[test]
fn a_slot_holds_datagrams_of_one_size_and_a_shorter_last_one() {
    let all = |len, stride| {
        let datagrams = slot(len, stride, true).datagrams();
        datagrams.map(|range| (range.start, range.end)).collect::<Vec<_>>()
    };
    assert_eq!(all(25, 10), [(100, 110), (110, 120), (120, 125)]);
    assert_eq!(all(20, 10), [(100, 110), (110, 120)]);
    assert_eq!(all(10, 10), [(100, 110)]);
    assert_eq!(all(0, 1), [(100, 100)], "an empty datagram is one too");
    assert_eq!(slot(25, 10, false).datagrams().count(), 0);
}

#[test]
fn copies_lie_one_behind_the_other_and_a_slot_is_filled_to_its_end() {
    let mut batch = RecvBatch::new(2);
    assert_eq!(batch.store(b"ab", b"c"), Some(0..3));
    assert_eq!(batch.store(b"", b"de"), Some(3..5));
    assert_eq!(&batch.slab()[..5], b"abcde");
    assert_eq!(batch.free(), 1);
    let rest = vec![7; STRIDE - 5];
    assert_eq!(batch.store(&rest, b""), Some(5..STRIDE));
    // It is full, and the next message starts another.
    assert_eq!(batch.free(), 1);
    assert_eq!(batch.store(b"", b""), Some(STRIDE..STRIDE));
    assert_eq!(batch.free(), 0);
    assert_eq!(batch.store(&[1; STRIDE], b""), Some(STRIDE..2 * STRIDE));
    assert_eq!(batch.store(b"x", b""), None);
    batch.clear();
    assert_eq!(batch.free(), 2);
    assert_eq!(batch.store(&[1; STRIDE], b"x"), None, "longer than a slot");
    assert_eq!(batch.free(), 2);
    assert_eq!(batch.store(b"x", b""), Some(0..1));
}

#[test]
fn messages_are_put_in_the_place_of_what_was_received_as_far_as_it_reaches() {
    let mut batch = RecvBatch::new(1);
    batch.store(b"0123456789", b"").unwrap();
    let mut room = 2..8;
    assert_eq!(batch.overwrite(&mut room, b"abc"), Some(2..5));
    assert_eq!(batch.overwrite(&mut room, b"defg"), None);
    assert_eq!(room, 5..8);
    assert_eq!(batch.overwrite(&mut room, b"def"), Some(5..8));
    assert_eq!(room, 8..8);
    assert_eq!(&batch.slab()[..10], b"01abcdef89");
}

#[test]
fn a_batch_has_a_slot_at_least_and_none_is_known_before_it_is_filled() {
    let batch = RecvBatch::new(0);
    assert_eq!((batch.free(), batch.slot(0), batch.truncated()), (1, None, 0));
}
