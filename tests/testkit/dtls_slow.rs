//! A DTLS client that performs the handshake one flight at a time, and stops where the test wants.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;

use openssl::ssl::{Ssl, SslStream};

use crate::dtls_client::DtlsClient;
use crate::turn::PATIENCE;

/// Performs the handshake up to a valid cookie, and returns the ClientHello with it.
pub fn hello_with_cookie(server: SocketAddr) -> (UdpSocket, Vec<u8>) {
    hello_with_cookie_from([127, 0, 0, 1], server)
}

/// The same for a client at this address.
pub fn hello_with_cookie_from(address: [u8; 4], server: SocketAddr) -> (UdpSocket, Vec<u8>) {
    let mut client = SlowClient::new(from(address, server));
    client.step();
    (client.socket, client.outbound.remove(0))
}

/// A socket at this address that sends to `server`.
pub fn from(address: [u8; 4], server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::from((address, 0))).unwrap();
    socket.connect(server).unwrap();
    socket
}

/// A client that performs the handshake one flight at a time.
pub struct SlowClient {
    pub socket: UdpSocket,
    stream: SslStream<Datagrams>,
    /// The other end of the socket that `stream` uses.
    wire: UnixDatagram,
    /// Its next flight.
    outbound: Vec<Vec<u8>>,
}

impl SlowClient {
    pub fn new(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (ours, wire) = UnixDatagram::pair().unwrap();
        for end in [&ours, &wire] {
            end.set_nonblocking(true).unwrap();
        }
        let mut ssl = Ssl::new(&DtlsClient::context()).unwrap();
        ssl.set_mtu(1200).unwrap();
        let stream = SslStream::new(ssl, Datagrams(ours)).unwrap();
        let mut client = Self {
            socket,
            stream,
            wire,
            outbound: Vec::new(),
        };
        client.think();
        client
    }

    /// Advances as far as possible with what has arrived. `true`: the handshake is complete.
    fn think(&mut self) -> bool {
        let complete = self.stream.connect().is_ok();
        let mut buffer = [0; 2048];
        while let Ok(len) = self.wire.recv(&mut buffer) {
            self.outbound.push(buffer[..len].to_vec());
        }
        complete
    }

    pub fn send_flight(&mut self) {
        for datagram in self.outbound.drain(..) {
            self.socket.send(&datagram).unwrap();
        }
    }

    /// Sends its flight, and receives until it has another one. `true`: the handshake is complete.
    pub fn step(&mut self) -> bool {
        self.send_flight();
        let mut complete = false;
        while !complete && self.outbound.is_empty() {
            let mut buffer = [0; 2048];
            let len = self.socket.recv(&mut buffer).expect("an answer of the server");
            self.wire.send(&buffer[..len]).unwrap();
            complete = self.think();
        }
        complete
    }
}

struct Datagrams(UnixDatagram);

impl std::io::Read for Datagrams {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.recv(buf)
    }
}

impl std::io::Write for Datagrams {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.send(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A record of `len` bytes that cannot be valid before the handshake is complete: OpenSSL drops it
/// silently.
pub fn early_record(len: u16) -> Vec<u8> {
    let mut record = vec![23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1];
    record.extend(len.to_be_bytes());
    record.resize(13 + usize::from(len), 7);
    record
}
