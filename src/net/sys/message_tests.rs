use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;
use crate::sys::options;

fn pair(bind: &str) -> (UdpSocket, UdpSocket) {
    (UdpSocket::bind(bind).unwrap(), UdpSocket::bind(bind).unwrap())
}

fn to(addr: SocketAddr) -> Envelope {
    Envelope {
        destination: Some(addr),
        source: None,
        tos: 0,
        segment: None,
        ipv6: addr.is_ipv6(),
    }
}

fn receive_all(call: &mut ReceiveCall, socket: &UdpSocket, want: usize) -> Vec<(Vec<u8>, Received)> {
    let mut slab = vec![0u8; 8 * 65_536];
    let mut out = Vec::new();
    for _ in 0..200 {
        match call.receive(socket.as_fd(), slab.chunks_exact_mut(65_536)) {
            Ok(n) => {
                for i in 0..n {
                    let message = call.message(i);
                    out.push((slab[i * 65_536..][..message.len].to_vec(), message));
                }
            }
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
        if out.len() >= want {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    out
}

#[test]
fn gathered_messages_arrive_whole_and_in_order_over_both_families() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let (a, b) = pair(bind);
        let payload: Vec<u8> = (0..=255).cycle().take(2000).map(|x: u16| x as u8).collect();
        let mut call = SendCall::new(4, 8);
        let mut list = call.compose();
        for len in [0, 1, 1472, 2000] {
            list.message(&to(b.local_addr().unwrap()));
            list.part(b"head");
            list.part(&payload[..len]);
        }
        assert_eq!((list.len(), list.parts()), (4, 8));
        assert_eq!(list.seal().send(a.as_fd(), 0).unwrap(), 4);
        let got = receive_all(&mut ReceiveCall::new(8), &b, 4);
        let bodies: Vec<Vec<u8>> = got.iter().map(|(bytes, _)| bytes.clone()).collect();
        for (body, len) in bodies.iter().zip([0, 1, 1472, 2000]) {
            assert_eq!(body, &[b"head", &payload[..len]].concat());
        }
        assert!(
            got.iter()
                .all(|(_, m)| m.source == Some(a.local_addr().unwrap()) && !m.truncated)
        );
    }
}

#[test]
fn sending_can_go_on_behind_a_message_that_failed() {
    let (a, b) = pair("127.0.0.1:0");
    let mut call = SendCall::new(4, 4);
    let mut list = call.compose();
    list.message(&to(b.local_addr().unwrap()));
    list.part(b"first");
    list.message(&to("127.0.0.1:0".parse().unwrap()));
    list.part(b"port 0 is refused");
    list.message(&to(b.local_addr().unwrap()));
    list.part(b"third");
    let mut list = list.seal();
    assert_eq!(list.send(a.as_fd(), 0).unwrap(), 1);
    assert_eq!(list.send(a.as_fd(), 1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(list.send(a.as_fd(), 2).unwrap(), 1);
    assert_eq!(receive_all(&mut ReceiveCall::new(8), &b, 2)[1].0, b"third");
}

#[test]
fn one_message_at_a_time_comes_as_several_do() {
    let (a, b) = pair("127.0.0.1:0");
    for body in [&b"first"[..], b"", b"third"] {
        a.send_to(body, b.local_addr().unwrap()).unwrap();
    }
    let (mut call, mut slot) = (ReceiveCall::new(4), [0; 2048]);
    for body in [&b"first"[..], b"", b"third"] {
        assert_eq!(call.receive(b.as_fd(), [&mut slot[..]].into_iter()).unwrap(), 1);
        let message = call.message(0);
        assert_eq!((&slot[..message.len], message.truncated), (body, false));
        assert_eq!(message.source, Some(a.local_addr().unwrap()));
    }
    let error = call.receive(b.as_fd(), [&mut slot[..]].into_iter()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    a.send_to(b"too long", b.local_addr().unwrap()).unwrap();
    assert_eq!(call.receive(b.as_fd(), [&mut slot[..4]].into_iter()).unwrap(), 1);
    assert!(call.message(0).truncated);
}

#[test]
fn nothing_to_receive_is_would_block_and_a_small_slot_is_reported_truncated() {
    let (a, b) = pair("127.0.0.1:0");
    let mut call = ReceiveCall::new(2);
    let mut slot = [0u8; 4];
    let empty = call.receive(b.as_fd(), std::iter::once(&mut slot[..])).unwrap_err();
    assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    a.send_to(b"12345", b.local_addr().unwrap()).unwrap();
    assert_eq!(call.receive(b.as_fd(), std::iter::once(&mut slot[..])).unwrap(), 1);
    assert!(call.message(0).truncated);
}

#[test]
fn local_address_and_traffic_class_come_beside_each_datagram() {
    for (wildcard, target, ipv6) in [("0.0.0.0:0", "127.0.0.3", false), ("[::]:0", "::1", true)] {
        let b = UdpSocket::bind(wildcard).unwrap();
        options::set_packet_info(b.as_fd(), ipv6).unwrap();
        options::set_receive_traffic_class(b.as_fd(), ipv6).unwrap();
        let a = UdpSocket::bind(if ipv6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        let ip: IpAddr = target.parse().unwrap();
        let from: IpAddr = if ipv6 { ip } else { "127.0.0.9".parse().unwrap() };
        let envelope = Envelope {
            destination: Some(SocketAddr::new(ip, b.local_addr().unwrap().port())),
            source: Some(from),
            tos: 0xb9,
            segment: None,
            ipv6,
        };
        let mut call = SendCall::new(1, 1);
        let mut list = call.compose();
        list.message(&envelope);
        list.part(b"x");
        assert_eq!(list.seal().send(a.as_fd(), 0).unwrap(), 1);
        let got = receive_all(&mut ReceiveCall::new(1), &b, 1);
        let message = got[0].1;
        assert_eq!(
            message.ancillary,
            Ancillary {
                segment: None,
                local: Some(ip),
                tos: 0xb9
            }
        );
        assert_eq!(message.source.map(|s| s.ip()), Some(from));
    }
}

#[test]
fn a_refused_datagram_leaves_a_report_with_its_destination() {
    for (bind, ipv6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
        let a = UdpSocket::bind(bind).unwrap();
        options::set_receive_errors(a.as_fd(), ipv6).unwrap();
        assert_eq!(receive_error(a.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let closed = UdpSocket::bind(bind).unwrap().local_addr().unwrap();
        a.send_to(b"x", closed).unwrap();
        let report = (0..2000)
            .find_map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                receive_error(a.as_fd()).ok().flatten()
            })
            .unwrap();
        assert_eq!(report.destination, Some(closed));
        let port_unreachable = if ipv6 { (3, 1, 4) } else { (2, 3, 3) };
        assert_eq!(
            (report.error.origin, report.error.kind, report.error.code),
            port_unreachable
        );
        assert_eq!(report.error.errno, libc::ECONNREFUSED);
    }
}
