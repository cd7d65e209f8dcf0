mod forged;

use std::time::Duration as StdDuration;

use super::*;

const OPTIONS: UdpOptions = UdpOptions {
    receive_buffer: 4 << 20,
    send_buffer: 4 << 20,
    offload: true,
    errors: false,
    traffic_class: true,
};
const NOW: Instant = Instant::ZERO;

fn bind(addr: &str, options: UdpOptions) -> UdpSocket {
    UdpSocket::bind(addr.parse().unwrap(), &options).unwrap()
}

/// Waits until the socket has a pending error, and leaves it there.
fn wait_for_error(socket: &UdpSocket) {
    let mut polled = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::empty())];
    let patience = rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(
        rustix::event::poll(&mut polled, Some(&patience)),
        Ok(1),
        "an error comes"
    );
    assert!(polled[0].revents().contains(rustix::event::PollFlags::ERR));
}

fn datagram(to: &UdpSocket, data: std::ops::Range<usize>) -> Datagram<'static> {
    Datagram {
        egress: 0,
        destination: to.local_addr(),
        source: None,
        tos: 0,
        dont_fragment: false,
        header: &[],
        data,
        padding: 0,
    }
}

/// Receives until there are `want` datagrams or no more arrive.
fn receive(socket: &UdpSocket, want: usize) -> Vec<(Vec<u8>, Slot)> {
    let mut batch = RecvBatch::new(8);
    let mut out = Vec::new();
    for _ in 0..500 {
        batch.clear();
        for i in batch.receive(socket, 8).unwrap() {
            let slot = batch.slot(i).unwrap();
            out.extend(slot.datagrams().map(|range| (batch.slab()[range].to_vec(), slot)));
        }
        if out.len() >= want {
            break;
        }
        std::thread::sleep(StdDuration::from_millis(1));
    }
    out
}

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed * 13) as u8).collect()
}

/// Sends `sizes` as one batch, each after a header, and checks what arrives, byte for byte and in
/// order.
fn round_trip(from: &UdpSocket, to: &UdpSocket, sizes: &[usize], header: &[u8], padding: usize) -> SendStats {
    let mut slab = Vec::new();
    let mut batch = SendBatch::new();
    for (seed, &size) in sizes.iter().enumerate() {
        let start = slab.len();
        slab.extend(bytes(size, seed));
        batch
            .push(&Datagram {
                header,
                padding,
                ..datagram(to, start..start + size)
            })
            .unwrap();
    }
    batch.flush(&slab, NOW, |_| Some(from));
    assert!(batch.is_empty());
    let got = receive(to, sizes.len());
    assert_eq!(got.len(), sizes.len(), "sizes {sizes:?}");
    for (seed, ((body, slot), &size)) in got.iter().zip(sizes).enumerate() {
        assert_eq!(
            *body,
            [header, &bytes(size, seed), &vec![0; padding]].concat(),
            "datagram {seed} of {size} bytes"
        );
        assert_eq!(slot.source, from.local_addr());
    }
    batch.take_stats()
}

#[test]
fn datagrams_of_every_size_arrive_unchanged_alone_and_in_runs() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    for size in 0..=1472 {
        let stats = round_trip(&a, &b, &[size; 3], &[], 0);
        assert_eq!(stats.datagrams, 3);
        let messages = if size == 0 { 3 } else { 1 };
        assert_eq!(stats.messages, messages, "size {size}: an empty datagram is no segment");
    }
}

#[test]
fn mixed_sizes_keep_their_order_and_join_only_where_the_kernel_can_cut_them_again() {
    for (a, b) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
        let (a, b) = (bind(a, OPTIONS), bind(b, OPTIONS));
        // With headers: 104 104 64 | 104 | 124 124 4 | 11. Without: 100 100 60 | 100 | 120 120 | 0
        // | 7.
        let stats = round_trip(&a, &b, &[100, 100, 60, 100, 120, 120, 0, 7], b"head", 0);
        assert_eq!(
            (stats.messages, stats.gso_messages),
            (4, 2),
            "a lone header is a shorter last one: {stats:?}"
        );
        let stats = round_trip(&a, &b, &[100, 100, 60, 100, 120, 120, 0, 7], &[], 0);
        assert_eq!((stats.messages, stats.gso_messages), (5, 2), "{stats:?}");
    }
}

#[test]
fn headers_and_padding_are_gathered_around_each_datagram() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    for padding in 0..=3 {
        let stats = round_trip(&a, &b, &[1201; 12], &bytes(48, 1), padding);
        assert_eq!((stats.calls, stats.messages, stats.gso_datagrams), (1, 1, 12));
    }
}

#[test]
fn runs_beyond_64_segments_or_64_kib_are_split() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    assert_eq!(round_trip(&a, &b, &[100; 64], &[], 0).messages, 1);
    assert_eq!(round_trip(&a, &b, &[100; 65], &[], 0).messages, 2);
    assert_eq!(round_trip(&a, &b, &[1300; 50], &[], 0).messages, 1, "65000 bytes");
    assert_eq!(round_trip(&a, &b, &[1300; 51], &[], 0).messages, 2);
    // The largest possible datagrams; each takes its own slot.
    assert_eq!(round_trip(&a, &b, &[65_507, 65_506, 40_000], &[], 0).messages, 3);
}

#[test]
fn a_batch_of_more_than_one_call_arrives_whole() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    let sizes: Vec<usize> = (1..=150).collect();
    let stats = round_trip(&a, &b, &sizes, b"x", 0);
    assert_eq!((stats.calls, stats.messages), (3, 150));
}

#[test]
fn without_offload_everything_goes_and_comes_one_by_one() {
    let plain = UdpOptions {
        offload: false,
        ..OPTIONS
    };
    let (a, b) = (bind("127.0.0.1:0", plain), bind("127.0.0.1:0", plain));
    assert!(!a.uses_gro() && !a.uses_gso());
    let stats = round_trip(&a, &b, &[1200; 12], b"head", 1);
    assert_eq!((stats.messages, stats.gso_messages, stats.calls), (12, 0, 1));
    // Offload on one side only.
    let c = bind("127.0.0.1:0", OPTIONS);
    round_trip(&c, &b, &[1200; 12], &[], 0);
    round_trip(&a, &c, &[1200; 12], &[], 0);
}

#[test]
fn a_coalesced_run_arrives_as_one_slot() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    assert!(b.uses_gro() && a.uses_gso(), "this kernel has both");
    let mut batch = SendBatch::new();
    let slab = bytes(2500, 0);
    for range in [0..1000, 1000..2000, 2000..2500] {
        batch.push(&datagram(&b, range)).unwrap();
    }
    batch.flush(&slab, NOW, |_| Some(&a));
    let mut recv = RecvBatch::new(2);
    let slots = recv.receive(&b, 2).unwrap();
    assert_eq!(slots, 0..1);
    let sizes: Vec<usize> = recv.slot(0).unwrap().datagrams().map(|r| r.len()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
}

#[test]
fn sockets_are_served_in_groups_and_each_flow_in_order() {
    let from = [bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS)];
    let to = bind("127.0.0.1:0", OPTIONS);
    let slab = bytes(100, 0);
    let mut batch = SendBatch::new();
    for i in 0..10usize {
        batch
            .push(&Datagram {
                egress: (i % 2) as u32,
                ..datagram(&to, i * 10..i * 10 + 10)
            })
            .unwrap();
    }
    batch.flush(&slab, NOW, |egress| from.get(egress as usize));
    let stats = batch.take_stats();
    assert_eq!(
        (stats.calls, stats.messages, stats.gso_datagrams),
        (2, 2, 10),
        "interleaved packets still join"
    );
    let got = receive(&to, 10);
    for (parity, socket) in from.iter().enumerate() {
        let flow: Vec<_> = got
            .iter()
            .filter(|(_, s)| s.source == socket.local_addr())
            .map(|(b, _)| b.clone())
            .collect();
        let want: Vec<_> = (0..10)
            .filter(|i| i % 2 == parity)
            .map(|i| slab[i * 10..i * 10 + 10].to_vec())
            .collect();
        assert_eq!(flow, want);
    }
}

#[test]
fn a_missing_socket_and_a_refused_destination_are_counted_and_stop_nothing() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    let slab = bytes(100, 0);
    let mut batch = SendBatch::new();
    let port_0 = "127.0.0.1:0".parse().unwrap();
    batch
        .push(&Datagram {
            egress: 9,
            ..datagram(&b, 0..10)
        })
        .unwrap();
    batch
        .push(&Datagram {
            egress: 9,
            ..datagram(&b, 0..10)
        })
        .unwrap();
    batch
        .push(&Datagram {
            destination: port_0,
            ..datagram(&b, 0..10)
        })
        .unwrap();
    batch
        .push(&Datagram {
            destination: "[::1]:9".parse().unwrap(),
            ..datagram(&b, 0..10)
        })
        .unwrap();
    batch
        .push(&Datagram {
            destination: "255.255.255.255:9".parse().unwrap(),
            ..datagram(&b, 0..10)
        })
        .unwrap();
    batch
        .push(&Datagram {
            source: Some("192.0.2.1".parse().unwrap()),
            ..datagram(&b, 0..10)
        })
        .unwrap();
    batch.push(&datagram(&b, 0..10)).unwrap();
    batch.flush(&slab, NOW, |egress| (egress == 0).then_some(&a));
    let stats = batch.take_stats();
    assert_eq!(stats.gone, 2);
    assert_eq!(stats.datagrams, 1);
    assert_eq!(stats.failed.iter().sum::<u64>(), 4, "{stats:?}");
    assert!(
        stats.failed[SendError::Invalid as usize] >= 1 && stats.failed[SendError::Forbidden as usize] == 1,
        "{stats:?}"
    );
    assert_eq!(receive(&b, 1).len(), 1);
    assert_eq!(batch.take_stats(), SendStats::default());
}

#[test]
fn a_datagram_too_long_for_udp_is_counted() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    let slab = vec![0; 65_536];
    let mut batch = SendBatch::new();
    batch.push(&datagram(&b, 0..65_508)).unwrap();
    batch.flush(&slab, NOW, |_| Some(&a));
    assert_eq!(batch.take_stats().failed[SendError::TooLong as usize], 1);
}

//= STUN-MSG-09
#[test]
fn a_wildcard_socket_tells_and_sets_the_local_address() {
    for (wildcard, client, ips) in [
        ("0.0.0.0:0", "127.0.0.1:0", ["127.0.0.1", "127.0.0.77"]),
        ("[::]:0", "[::1]:0", ["::1", "::1"]),
    ] {
        let server = bind(wildcard, OPTIONS);
        assert!(server.is_wildcard());
        for ip in ips {
            let client = bind(client, OPTIONS);
            let ip = ip.parse().unwrap();
            let target = SocketAddr::new(ip, server.local_addr().port());
            let mut batch = SendBatch::new();
            batch
                .push(&Datagram {
                    destination: target,
                    ..datagram(&server, 0..4)
                })
                .unwrap();
            batch.flush(b"ping", NOW, |_| Some(&client));
            let got = receive(&server, 1);
            assert_eq!(got[0].1.local, Some(ip));
            batch
                .push(&Datagram {
                    source: got[0].1.local,
                    ..datagram(&client, 0..4)
                })
                .unwrap();
            batch.flush(b"pong", NOW, |_| Some(&server));
            assert_eq!(receive(&client, 1)[0].1.source, target);
        }
    }
}

//= TURN-NET-06
#[test]
fn the_traffic_class_is_told_and_set_and_separates_messages() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let (a, b) = (bind(addr, OPTIONS), bind(addr, OPTIONS));
        let mut batch = SendBatch::new();
        for tos in [0xb8, 0xb8, 0x03, 0] {
            batch
                .push(&Datagram {
                    tos,
                    ..datagram(&b, 0..4)
                })
                .unwrap();
        }
        batch.flush(b"data", NOW, |_| Some(&a));
        assert_eq!(batch.take_stats().messages, 3);
        let classes: Vec<u8> = receive(&b, 4).iter().map(|(_, slot)| slot.tos).collect();
        assert_eq!(classes, [0xb8, 0xb8, 0x03, 0]);
    }
}

//= TURN-NET-05
#[test]
fn an_icmp_error_costs_no_datagram_and_is_reported_once() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let a = bind(
            addr,
            UdpOptions {
                errors: true,
                ..OPTIONS
            },
        );
        let b = bind(addr, OPTIONS);
        let closed = bind(addr, OPTIONS).local_addr();
        let mut batch = SendBatch::new();
        batch
            .push(&Datagram {
                destination: closed,
                ..datagram(&b, 0..4)
            })
            .unwrap();
        batch.flush(b"data", NOW, |_| Some(&a));
        wait_for_error(&a);
        // The pending error would fail the next call, whether it receives or sends. Neither may
        // lose a datagram.
        batch.push(&datagram(&b, 0..4)).unwrap();
        batch.flush(b"data", NOW, |_| Some(&a));
        assert_eq!(batch.take_stats().datagrams, 2);
        assert_eq!(receive(&b, 1).len(), 1);
        let error = a.take_error().unwrap();
        assert_eq!(error.destination, closed);
        assert_eq!(
            (error.kind, error.code),
            if a.local_addr().is_ipv6() { (1, 4) } else { (3, 3) }
        );
        assert_eq!(a.take_error(), None);
    }
}

#[test]
fn a_pending_error_is_returned_by_receive_once() {
    let a = bind(
        "127.0.0.1:0",
        UdpOptions {
            errors: true,
            ..OPTIONS
        },
    );
    let closed = bind("127.0.0.1:0", OPTIONS).local_addr();
    let mut batch = SendBatch::new();
    batch
        .push(&Datagram {
            destination: closed,
            ..datagram(&a, 0..1)
        })
        .unwrap();
    batch.flush(b"x", NOW, |_| Some(&a));
    wait_for_error(&a);
    let mut recv = RecvBatch::new(1);
    assert_eq!(
        recv.receive(&a, 1).unwrap_err().raw_os_error(),
        Some(libc::ECONNREFUSED)
    );
    assert_eq!(recv.receive(&a, 1).unwrap(), 0..0);
}

//= TURN-DATA-10
#[test]
fn dont_fragment_applies_to_its_datagram_only() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let (a, b) = (bind(addr, OPTIONS), bind(addr, OPTIONS));
        let mut batch = SendBatch::new();
        for dont_fragment in [false, true, true, false] {
            batch
                .push(&Datagram {
                    dont_fragment,
                    ..datagram(&b, 0..4)
                })
                .unwrap();
        }
        batch.flush(b"data", NOW, |_| Some(&a));
        let stats = batch.take_stats();
        assert_eq!((stats.calls, stats.messages, stats.gso_messages), (3, 3, 1));
        assert_eq!(receive(&b, 4).len(), 4);
    }
}

/// Captures IPv4 headers; `None` without the privilege.
fn sniffer() -> Option<Socket> {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).ok()?;
    raw.set_read_timeout(Some(StdDuration::from_secs(5))).ok()?;
    Some(raw)
}

//= TURN-DATA-10
#[test]
fn df_is_set_on_the_wire_where_asked_for_and_nowhere_else() {
    let Some(raw) = sniffer() else {
        eprintln!("skipped: raw sockets need CAP_NET_RAW");
        return;
    };
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    let mut batch = SendBatch::new();
    for dont_fragment in [false, true, false] {
        batch
            .push(&Datagram {
                dont_fragment,
                ..datagram(&b, 0..4)
            })
            .unwrap();
    }
    batch.flush(b"data", NOW, |_| Some(&a));
    let mut bits = Vec::new();
    while bits.len() < 3 {
        let mut packet = [0; 2048];
        let len = io::Read::read(&mut &raw, &mut packet).unwrap();
        if len == 32 && packet[20..22] == a.local_addr().port().to_be_bytes() {
            bits.push(packet[6] & 0x40 != 0);
        }
    }
    assert_eq!(bits, [false, true, false]);
}

#[test]
fn a_group_shares_one_port_and_refuses_a_foreign_one() {
    let group = UdpSocket::bind_group("127.0.0.1:0".parse().unwrap(), 3, &OPTIONS).unwrap();
    assert_eq!(group.len(), 3);
    let addr = group[0].local_addr();
    assert!(addr.port() > 0 && group.iter().all(|s| s.local_addr() == addr));
    let second = UdpSocket::bind_group(addr, 2, &OPTIONS).unwrap_err();
    assert_eq!(
        second.kind(),
        io::ErrorKind::AddrInUse,
        "a second server is told, not let in"
    );
    drop(group);
    assert_eq!(UdpSocket::bind_group(addr, 1, &OPTIONS).unwrap().len(), 1);
}

#[test]
fn a_full_batch_says_so_and_loses_nothing() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    let mut batch = SendBatch::new();
    let header = [7; 1000];
    let mut pushed = 0;
    while batch
        .push(&Datagram {
            header: &header,
            ..datagram(&b, 0..0)
        })
        .is_ok()
    {
        pushed += 1;
    }
    assert!(pushed >= 60, "{pushed}");
    batch.flush(&[], NOW, |_| Some(&a));
    assert_eq!(receive(&b, pushed).len(), pushed);
    assert_eq!(
        batch.push(&Datagram {
            header: &[0; 70_000],
            ..datagram(&b, 0..0)
        }),
        Err(Full),
        "never fits"
    );
    let mut small = 0;
    while batch
        .push(&Datagram {
            egress: small,
            ..datagram(&b, 0..1)
        })
        .is_ok()
    {
        small += 1;
    }
    assert_eq!(small, 1024);
}

#[test]
fn copies_are_kept_until_the_batch_is_cleared() {
    let mut batch = RecvBatch::new(2);
    let a = batch.store(b"head", b"tail").unwrap();
    let b = batch.store(&[1; 60_000], b"").unwrap();
    assert_eq!(batch.free(), 1);
    let c = batch.store(&[2; 60_000], b"end").unwrap();
    assert_eq!(batch.free(), 0);
    assert_eq!(batch.store(&[3; 6_000], b""), None);
    assert_eq!(&batch.slab()[a], b"headtail");
    assert!(batch.slab()[b].iter().all(|&x| x == 1));
    assert_eq!(&batch.slab()[c][60_000..], b"end");
    let empty = batch.store(b"", b"").unwrap();
    assert!(empty.is_empty());
    batch.clear();
    assert_eq!(batch.store(&[0; 65_729], b""), None, "larger than any message");
    assert!(batch.store(&[0; relay_proto::wire::framing::MAX_FRAME], b"").is_some());
}

#[test]
fn a_full_slab_takes_nothing_and_clearing_frees_it() {
    let (a, b) = (bind("127.0.0.1:0", OPTIONS), bind("127.0.0.1:0", OPTIONS));
    for _ in 0..2 {
        let mut batch = SendBatch::new();
        for len in [1, 2, 3] {
            batch.push(&datagram(&b, 0..len)).unwrap();
        }
        batch.flush(b"abc", NOW, |_| Some(&a));
    }
    let mut recv = RecvBatch::new(2);
    assert_eq!(recv.receive(&b, 1).unwrap(), 0..1);
    assert_eq!(recv.receive(&b, 8).unwrap(), 1..2);
    assert_eq!(recv.receive(&b, 8).unwrap(), 2..2, "no slot, no loss");
    assert!(recv.slot(2).is_none());
    recv.clear();
    assert_eq!(recv.receive(&b, 8).unwrap(), 0..2);
}

#[test]
fn a_size_the_kernel_refuses_is_tried_again_later_and_a_device_that_cannot_never() {
    let socket = bind("127.0.0.1:0", OPTIONS);
    assert_eq!(socket.gso_limit(NOW), 65_535);
    socket.refuse_gso(libc::EMSGSIZE, 1400, NOW);
    assert_eq!(socket.gso_limit(NOW), 1399);
    assert_eq!(socket.gso_limit(NOW + (GSO_RETRY - StdDuration::from_nanos(1))), 1399);
    assert_eq!(socket.gso_limit(NOW + GSO_RETRY), 65_535);
    socket.refuse_gso(libc::EIO, 1400, NOW);
    assert!(!socket.uses_gso());
    assert_eq!(socket.gso_limit(NOW + GSO_RETRY * 100), 0);
}
