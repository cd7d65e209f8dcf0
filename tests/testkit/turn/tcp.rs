//! The client's part of RFC 6062.

use std::net::{SocketAddr, TcpListener, TcpStream};

use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::{Class, Message, Method};
use relay_proto::wire::writer::MessageWriter;

use super::{Client, PATIENCE, error_code};

/// The next connection to a listener, and its source.
#[track_caller]
pub fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    // On Linux this bounds the wait for a connection too.
    socket2::SockRef::from(listener)
        .set_read_timeout(Some(PATIENCE))
        .unwrap();
    listener.accept().expect("a connection in time")
}

impl Client {
    /// Allocates an IPv4 relayed transport address for TCP.
    #[track_caller]
    pub fn allocate_tcp(&mut self) -> SocketAddr {
        self.allocate_over(6, &|_| {})
    }

    /// Connects to a peer; returns the CONNECTION-ID.
    #[track_caller]
    pub fn connect(&mut self, peer: SocketAddr) -> u32 {
        let response = self.succeed(Method::Connect, &|writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        connection_id(&Message::parse(&response).unwrap())
    }

    /// Sends a ConnectionBind directly followed by `data`, and returns once it has succeeded.
    #[track_caller]
    pub fn connection_bind(&mut self, id: u32, data: &[u8]) {
        let bind = |writer: &mut MessageWriter<'_>| {
            writer.u32(AttributeType::CONNECTION_ID, id);
        };
        let challenge = self.compose(Method::ConnectionBind, &bind);
        self.pipe.send(&challenge);
        let response = self.response(&challenge);
        let nonce = Message::parse(&response).unwrap().attribute(AttributeType::NONCE);
        self.nonce = Some(nonce.unwrap().to_vec());
        let request = self.compose(Method::ConnectionBind, &bind);
        self.pipe.send(&[&request, data].concat());
        let response = self.response(&request);
        let message = Message::parse(&response).unwrap();
        assert_eq!(message.class(), Class::Success, "{:?}", error_code(&message));
    }
}

pub(super) fn connection_id(message: &Message<'_>) -> u32 {
    let id = message.attribute(AttributeType::CONNECTION_ID).unwrap();
    u32::from_be_bytes(id.try_into().unwrap())
}
