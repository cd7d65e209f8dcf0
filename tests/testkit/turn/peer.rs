//! A peer of the clients, over UDP.

use std::net::{SocketAddr, UdpSocket};

use super::{PATIENCE, SILENCE};

/// A peer on loopback.
pub struct Peer {
    pub socket: UdpSocket,
}

impl Peer {
    pub fn new() -> Self {
        Self::on("127.0.0.1:0")
    }

    pub fn on(addr: &str) -> Self {
        let socket = UdpSocket::bind(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub fn send(&self, to: SocketAddr, data: &[u8]) {
        self.socket.send_to(data, to).unwrap();
    }

    #[track_caller]
    pub fn recv(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.socket.recv_from(&mut buffer).expect("a datagram at the peer");
        buffer.truncate(len);
        (buffer, from)
    }

    pub fn hears_nothing(&self) -> bool {
        self.socket.set_read_timeout(Some(SILENCE)).unwrap();
        let nothing = self.socket.recv_from(&mut [0; 2048]).is_err();
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        nothing
    }
}
