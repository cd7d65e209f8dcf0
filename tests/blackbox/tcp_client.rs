//! The client's part of RFC 6062: TCP allocations, Connect, ConnectionBind, and the data after it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use relay::base::address::Transport;
use relay::wire::attribute::{self, AttributeType};
use relay::wire::message::{Class, Message, Method};

use crate::client::{Carrier, Client, Login, PATIENCE};

/// CONNECTION-ID.
pub(crate) type ConnectionId = u32;

impl Client {
    /// A TCP allocation: its relayed transport address, or the error code. `family` is 1 for IPv4,
    /// 2 for IPv6.
    pub(crate) fn allocate_tcp(&mut self, family: u8) -> Result<SocketAddr, u16> {
        let answer = self.request(Method::Allocate, |w| {
            w.attribute(AttributeType::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
            if family != 1 {
                w.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
            }
        });
        match answer.code() {
            0 => Ok(answer.address(AttributeType::XOR_RELAYED_ADDRESS)),
            code => Err(code),
        }
    }

    /// Connect: the CONNECTION-ID, or the error code.
    pub(crate) fn connect(&mut self, peer: SocketAddr) -> Result<ConnectionId, u16> {
        let answer = self.request(Method::Connect, |w| {
            w.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        match answer.code() {
            0 => Ok(connection_id(&answer.message())),
            code => Err(code),
        }
    }

    /// The next ConnectionAttempt indication: the peer and the CONNECTION-ID.
    pub(crate) fn attempt(&mut self, patience: Duration) -> Option<(SocketAddr, ConnectionId)> {
        let bytes = self.receive(patience)?;
        let message = Message::parse(&bytes).expect("an indication");
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Some(Method::ConnectionAttempt))
        );
        let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS);
        Some((peer.expect("decodable").expect("the peer"), connection_id(&message)))
    }

    pub(crate) fn connection_bind(&mut self, id: ConnectionId) -> u16 {
        self.request(Method::ConnectionBind, |w| {
            w.u32(AttributeType::CONNECTION_ID, id);
        })
        .code()
    }

    /// A separate connection, bound to `id`.
    pub(crate) fn data(transport: Transport, server: SocketAddr, login: &Login, id: ConnectionId) -> Data {
        let mut client = Self::over_transport(transport, server).with_login(login);
        assert_eq!(client.connection_bind(id), 0);
        let (carrier, early) = client.into_parts();
        let data = Data { carrier, early };
        data.socket().set_read_timeout(Some(PATIENCE)).expect("a timeout");
        data
    }
}

fn connection_id(message: &Message<'_>) -> ConnectionId {
    let id = message.decode(AttributeType::CONNECTION_ID, attribute::connection_id);
    id.expect("decodable").expect("CONNECTION-ID")
}

/// A client data connection.
pub(crate) struct Data {
    carrier: Carrier,
    early: Vec<u8>,
}

impl Data {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match &mut self.carrier {
            Carrier::Tcp(stream) => stream.write_all(bytes).expect("write"),
            Carrier::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()).expect("write"),
            _ => panic!("no stream"),
        }
    }

    /// Reads at most this many bytes; none at the end of the stream.
    fn read(&mut self, most: usize) -> Vec<u8> {
        if !self.early.is_empty() {
            let len = most.min(self.early.len());
            return self.early.drain(..len).collect();
        }
        let mut chunk = vec![0; most];
        let read = match &mut self.carrier {
            Carrier::Tcp(stream) => stream.read(&mut chunk),
            Carrier::Tls(stream) => stream.read(&mut chunk),
            _ => panic!("no stream"),
        };
        match read {
            Ok(len) => chunk.truncate(len),
            // An abrupt close counts as closed.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                chunk.clear()
            }
            Err(error) => panic!("read: {error}"),
        }
        chunk
    }

    pub(crate) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let more = self.read(len - bytes.len());
            assert!(!more.is_empty(), "closed after {} of {len} bytes", bytes.len());
            bytes.extend(more);
        }
        bytes
    }

    /// Whether the server closes it without further data.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.socket().set_read_timeout(Some(PATIENCE)).expect("a timeout");
        self.read(1).is_empty()
    }

    /// Ends its direction.
    pub(crate) fn finish(&mut self) {
        if let Carrier::Tls(stream) = &mut self.carrier {
            stream.conn.send_close_notify();
            stream.flush().expect("close_notify");
        }
        self.socket().shutdown(Shutdown::Write).expect("open");
    }

    fn socket(&self) -> &std::net::TcpStream {
        match &self.carrier {
            Carrier::Tcp(stream) => stream,
            Carrier::Tls(stream) => &stream.sock,
            _ => panic!("no stream"),
        }
    }
}
