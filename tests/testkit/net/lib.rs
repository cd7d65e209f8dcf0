//! What tests share and what needs our sockets and streams. Unit tests of `relay-net` cannot use
//! it, because for them it links another copy of their own package.

#![allow(
    missing_docs,
    clippy::new_without_default,
    clippy::unwrap_used,
    reason = "helpers of tests: one that fails is a test that fails"
)]

pub mod rounds;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket as StdUdpSocket};
use std::os::fd::AsFd;

use relay_net::stream::KERNEL_UNSENT;
use relay_net::udp::{Datagram, SendBatch, UdpOptions, UdpSocket};
use relay_testkit::turn::{Client, PATIENCE, Pipe, accept};

pub const UDP: UdpOptions = UdpOptions {
    receive_buffer: 4 << 20,
    send_buffer: 4 << 20,
    offload: true,
    errors: false,
    traffic_class: true,
};

/// One socket twice: to send to `server` with, and to `burst` with.
pub fn bursting(server: SocketAddr) -> (StdUdpSocket, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UDP).unwrap();
    let same = StdUdpSocket::from(socket.as_fd().try_clone_to_owned().unwrap());
    same.connect(server).unwrap();
    same.set_nonblocking(false).unwrap();
    (same, socket)
}

/// A client over UDP with a socket for [`burst`]. Not for data from peers, which the kernel would
/// coalesce.
pub fn bursting_client(server: SocketAddr) -> (Client, UdpSocket) {
    let (same, socket) = bursting(server);
    (Client::new(Pipe::Udp(same)), socket)
}

/// Both ends of a TCP connection, set up as the server and its clients do: the client's, the
/// server's, and its source.
pub fn tcp_sockets() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
    stream.set_nodelay(true).unwrap();
    // No test waits longer for a server that has stopped reading or sending.
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (socket, client) = accept(&listener);
    let options = socket2::SockRef::from(&socket);
    options.set_tcp_nodelay(true).unwrap();
    options.set_tcp_notsent_lowat(KERNEL_UNSENT).unwrap();
    (stream, socket, client)
}

/// Sends `packets` at once, several per system call and GSO message, like a client that sends
/// video.
pub fn burst(from: &UdpSocket, to: SocketAddr, packets: &[Vec<u8>]) {
    let slab: Vec<u8> = packets.concat();
    let mut batch = SendBatch::new();
    let mut start = 0;
    for packet in packets {
        let datagram = Datagram {
            egress: 0,
            destination: to,
            source: None,
            tos: 0,
            dont_fragment: false,
            header: &[],
            data: start..start + packet.len(),
            padding: 0,
        };
        batch.push(&datagram).unwrap();
        start += packet.len();
    }
    batch.flush(&slab, relay_proto::base::time::Instant::ZERO, |_| Some(from));
    assert_eq!(batch.take_stats().datagrams, packets.len() as u64);
}
