//! Hostile clients: garbage, stalled handshakes, one byte per second. Other clients are served
//! meanwhile, and sockets are closed in time.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use relay::base::address::Transport;

use crate::client::{Client, PATIENCE};
use crate::harness::{EchoPeer, SECRET, Server, minted};

/// Short limits, so that a test can exceed them.
const IMPATIENT: &str =
    "[peers]\nallow = [\"127.0.0.2/32\"]\n\n[limits]\nhandshake_timeout = 2\nidle_timeout = 2\nframe_timeout = 2\n";

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn good_client_is_served(server: &Server, id: &str) {
    let peer = EchoPeer::start();
    for (transport, address) in [
        (Transport::Udp, server.plain),
        (Transport::Tcp, server.door),
        (Transport::Tls, server.door),
        (Transport::Tls, server.tls),
        (Transport::Dtls, server.door),
    ] {
        let started = Instant::now();
        let mut client = Client::over_transport(transport, address).with_login(&minted(SECRET, 600, id));
        client.allocate().expect("allocated");
        assert_eq!(client.channel_bind(0x4000, peer.address), 0);
        client.send_channel(0x4000, b"still here");
        assert!(client.receive_data(PATIENCE).is_some(), "{transport}");
        assert_eq!(client.refresh(0), 0);
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{transport} took {:?}",
            started.elapsed()
        );
    }
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .map(Iterator::count)
        .unwrap_or_default()
}

fn wait_until_files_are(server: &Server, at_most: usize, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let now = open_files(server.pid());
        if now <= at_most {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{now} descriptors, {at_most} expected:\n{}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

//= STUN-MSG-01
//= XPORT-03
#[test]
fn garbage_on_every_port_harms_nobody() {
    let mut server = Server::start_with(IMPATIENT);
    let before = open_files(server.pid());
    let ports: [SocketAddr; 4] = [server.plain, server.tls, server.door, server.admin];
    let mut held = Vec::new();
    for seed in 0..60 {
        let bytes = noise(seed * 7919 + 3, 300);
        for port in ports {
            let mut stream = TcpStream::connect(port).expect("the listener accepts");
            // The server may close before it has received everything.
            let _ = stream.write_all(&bytes);
            held.push(stream);
        }
        for port in [server.plain, server.door] {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            for first in [0x00, 0x01, 0x16, 0x40, 0x4f, 0x50, 0x80, 0xff] {
                let mut datagram = bytes.clone();
                datagram[0] = first;
                socket.send_to(&datagram, port).expect("sent");
                socket
                    .send_to(&datagram[..(seed as usize * 5) % 300], port)
                    .expect("sent");
            }
        }
    }
    good_client_is_served(&server, "meanwhile");
    wait_until_files_are(&server, before, Duration::from_secs(12));
    server.wait_for_metric_of_at_least("relay_dropped_packets_total", "", 1.0);
    server.assert_healthy();
}

//= XPORT-06
#[test]
fn a_handshake_that_never_finishes_and_a_silent_client_are_gone_in_time() {
    let mut server = Server::start_with(IMPATIENT);
    let before = open_files(server.pid());
    let mut held = Vec::new();
    for n in 0..50 {
        for port in [server.tls, server.door] {
            let mut stream = TcpStream::connect(port).expect("the listener accepts");
            // The start of a ClientHello; every second client sends nothing at all.
            if n % 2 == 0 {
                stream
                    .write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03])
                    .expect("written");
            }
            held.push(stream);
        }
    }
    good_client_is_served(&server, "meanwhile");
    wait_until_files_are(&server, before, Duration::from_secs(10));
    server.assert_healthy();
}

//= XPORT-06
#[test]
fn one_byte_a_second_does_not_hold_a_socket() {
    let mut server = Server::start_with(IMPATIENT);
    let before = open_files(server.pid());
    // A Binding request with a long attribute, byte by byte: progress that never completes a
    // message.
    let mut request = vec![0x00, 0x01, 0x01, 0x00, 0x21, 0x12, 0xa4, 0x42];
    request.extend([7; 12]);
    request.extend([0x80, 0x22, 0x00, 0xfc]);
    let mut slow: Vec<TcpStream> = [server.plain, server.door, server.tls]
        .iter()
        .map(|p| TcpStream::connect(p).expect("accepts"))
        .collect();
    let mut gone = [false; 3];
    let started = Instant::now();
    for byte in request.iter().take(9) {
        for (stream, gone) in slow.iter_mut().zip(&mut gone) {
            *gone = *gone || stream.write_all(&[*byte]).is_err();
        }
        if started.elapsed() < Duration::from_secs(1) {
            good_client_is_served(&server, "meanwhile");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    wait_until_files_are(&server, before, Duration::from_secs(3));
    server.assert_healthy();
}
