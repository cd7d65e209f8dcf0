use super::*;

const TO: &str = "192.0.2.1:1000";

fn datagram(len: usize) -> Datagram<'static> {
    Datagram {
        egress: 0,
        destination: TO.parse().unwrap(),
        source: None,
        tos: 0,
        dont_fragment: false,
        header: &[],
        data: 0..len,
        padding: 0,
    }
}

/// Datagrams in each message of socket `egress`.
fn messages(queue: &Queue, egress: u32) -> Vec<u16> {
    let group = (0..).map_while(|i| queue.group(i)).find(|group| group.egress == egress);
    let mut next = group.map_or(NONE, |group| group.first);
    let mut counts = Vec::new();
    while next != NONE {
        let message = queue.message(next);
        counts.push(message.datagrams);
        next = message.next;
    }
    counts
}

fn queued(datagrams: impl IntoIterator<Item = Datagram<'static>>) -> Vec<u16> {
    let mut queue = Queue::new();
    for datagram in datagrams {
        queue.push(&datagram).unwrap();
    }
    messages(&queue, 0)
}

fn sizes(sizes: &[usize]) -> Vec<u16> {
    queued(sizes.iter().map(|&len| datagram(len)))
}

#[test]
fn datagrams_of_one_size_join_and_a_shorter_one_is_the_last() {
    assert_eq!(sizes(&[100, 100, 100]), [3]);
    assert_eq!(sizes(&[100, 99, 99]), [2, 1]);
    assert_eq!(sizes(&[100, 101]), [1, 1]);
    assert_eq!(sizes(&[100, 0, 100]), [1, 1, 1]);
    assert_eq!(sizes(&[0, 0]), [1, 1]);
    assert_eq!(sizes(&[1, 1]), [2]);
}

#[test]
fn a_message_takes_as_many_datagrams_and_bytes_as_the_kernel_does() {
    let segments = usize::from(GSO_SEGMENTS);
    assert_eq!(sizes(&vec![10; segments + 1]), [GSO_SEGMENTS, 1]);
    // 65,000 bytes and no more.
    assert_eq!(sizes(&[1300; 51]), [50, 1]);
    assert_eq!(sizes(&[13_000, 13_000, 13_000, 13_000, 13_000]), [5]);
    assert_eq!(sizes(&[21_667, 21_667, 21_666]), [3]);
    assert_eq!(sizes(&[21_667, 21_667, 21_667]), [2, 1]);
}

#[test]
fn only_datagrams_that_are_sent_alike_join() {
    let other = |change: fn(&mut Datagram<'static>)| {
        let mut other = datagram(10);
        change(&mut other);
        queued([datagram(10), other])
    };
    assert_eq!(other(|_| {}), [2]);
    assert_eq!(other(|it| it.destination = "192.0.2.1:1001".parse().unwrap()), [1, 1]);
    assert_eq!(other(|it| it.source = Some("192.0.2.9".parse().unwrap())), [1, 1]);
    assert_eq!(other(|it| it.tos = 4), [1, 1]);
    assert_eq!(other(|it| it.dont_fragment = true), [1, 1]);
}

#[test]
fn what_leaves_by_one_socket_stays_in_order_and_apart_from_others() {
    let mut queue = Queue::new();
    for (egress, len) in [(3, 10), (0, 7), (3, 20), (0, 7), (3, 20)] {
        let datagram = Datagram {
            egress,
            ..datagram(len)
        };
        queue.push(&datagram).unwrap();
    }
    assert_eq!((messages(&queue, 3), messages(&queue, 0)), (vec![1, 2], vec![2]));
    assert_eq!([0, 1].map(|i| queue.group(i).unwrap().egress), [3, 0], "who came first");
    assert!(queue.group(2).is_none() && !queue.is_empty());
    queue.clear();
    assert!(queue.group(0).is_none() && queue.is_empty());
    queue.push(&datagram(5)).unwrap();
    assert_eq!((messages(&queue, 0), messages(&queue, 3)), (vec![1], vec![]));
}

/// The bytes of each datagram of message 0.
fn bytes(queue: &Queue, slab: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    let mut next = queue.message(0).first_piece;
    while next != NONE {
        let piece = queue.piece(next);
        all.last_mut().unwrap().extend_from_slice(queue.bytes(piece, slab));
        if piece.last {
            all.push(Vec::new());
        }
        next = piece.next;
    }
    assert_eq!(all.pop(), Some(Vec::new()), "every datagram has a last piece");
    all
}

#[test]
fn a_datagram_is_its_header_its_data_and_its_padding() {
    let mut queue = Queue::new();
    let mut push = |header: &'static [u8], data, padding| {
        let datagram = Datagram {
            header,
            data,
            padding,
            ..datagram(0)
        };
        queue.push(&datagram).unwrap();
    };
    push(b"ab", 1..4, 3);
    push(b"cd", 4..9, 1);
    push(b"", 0..8, 0);
    push(b"alone", 0..0, 0);
    let slab = b"0123456789";
    let expected = [&b"ab123\0\0\0"[..], b"cd45678\0", b"01234567", b"alone"];
    assert_eq!(bytes(&queue, slab), expected);
    let mut at = queue.cursor(0).unwrap();
    let mut left = vec![queue.datagrams_from(at)];
    for _ in 0..3 {
        while !queue.piece(at.piece).last {
            at.piece = queue.piece(at.piece).next;
        }
        at.piece = queue.piece(at.piece).next;
        left.push(queue.datagrams_from(at));
    }
    assert_eq!(left, [4, 3, 2, 1]);
    at.piece = NONE;
    assert_eq!(queue.datagrams_from(at), 0);
    assert!(queue.cursor(NONE).is_none());
    // A range outside the slab is empty.
    assert_eq!(queue.bytes(queue.piece(1), b"01"), b"");
}

#[test]
fn a_datagram_of_nothing_is_one_too() {
    let mut queue = Queue::new();
    queue.push(&datagram(0)).unwrap();
    assert_eq!(bytes(&queue, b""), [b""]);
    assert_eq!(queue.datagrams_from(queue.cursor(0).unwrap()), 1);
}

#[test]
fn a_batch_takes_so_many_messages() {
    let mut queue = Queue::new();
    let to = |n: usize| Datagram {
        tos: (n % 2) as u8,
        ..datagram(1)
    };
    let taken = (0..5000).take_while(|&n| queue.push(&to(n)).is_ok()).count();
    assert_eq!(taken, MAX_MESSAGES);
    queue.clear();
    assert_eq!(queue.push(&to(0)), Ok(()));
}

#[test]
fn a_batch_takes_so_many_pieces() {
    let mut queue = Queue::new();
    let three = Datagram {
        header: b"x",
        padding: 1,
        ..datagram(1)
    };
    let taken = (0..5000).take_while(|_| queue.push(&three).is_ok()).count();
    assert_eq!(taken, MAX_PIECES / PIECES_PER_DATAGRAM);
}

#[test]
fn a_batch_takes_so_many_bytes_of_headers() {
    let header = vec![7; MAX_ARENA - PADDING - 1000];
    let of = |len: usize| Datagram {
        header: &header[..len],
        ..datagram(0)
    };
    let mut queue = Queue::new();
    queue.push(&of(header.len())).unwrap();
    assert_eq!(queue.push(&of(1001)), Err(Full));
    assert_eq!(queue.push(&of(1000)), Ok(()));
    assert_eq!(queue.push(&of(1)), Err(Full));
    assert_eq!(queue.push(&of(0)), Ok(()));
}
