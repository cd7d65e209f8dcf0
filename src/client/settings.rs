//! What every client of a server has in common.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use relay_net::udp::UdpOptions;
use rustls::ClientConfig;

/// Where a client connects to, and how.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The server's transport address.
    pub server: SocketAddr,
    /// The client's address. Over UDP its socket is bound there.
    pub local: IpAddr,
    /// What carries the messages.
    pub link: ClientLink,
    /// SO_RCVBUF of a stream, in bytes; `None`: the system's choice.
    pub receive_buffer: Option<usize>,
    /// How long a connection, a TLS handshake or the answer to a request may take, each.
    pub timeout: Duration,
}

/// What carries a client's messages.
#[derive(Clone, Debug)]
pub enum ClientLink {
    /// UDP, with a socket set up like this.
    Udp(UdpOptions),
    /// TCP.
    Tcp,
    /// TLS over TCP. The name asked for is the server's IP address.
    Tls(Arc<ClientConfig>),
}
