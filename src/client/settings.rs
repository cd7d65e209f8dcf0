//! The settings that all clients of a server share.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use relay_net::udp::UdpOptions;
use rustls::ClientConfig;

/// The server's address, and the transport.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The server's transport address.
    pub server: SocketAddr,
    /// The client's address. Over UDP its socket is bound there.
    pub local: IpAddr,
    /// The transport of the messages.
    pub link: ClientLink,
    /// SO_RCVBUF of a stream, in bytes; `None`: the system's choice.
    pub receive_buffer: Option<usize>,
    /// Bound on each connect, TLS handshake and request.
    pub timeout: Duration,
}

/// The transport of a client's messages.
#[derive(Clone, Debug)]
pub enum ClientLink {
    /// UDP, with these socket options.
    Udp(UdpOptions),
    /// TCP.
    Tcp,
    /// TLS over TCP. The server name is the server's IP address.
    Tls(Arc<ClientConfig>),
}
