//! What the front door gives to a shard: a client's stream, told apart and ready for TURN.

use core::any::Any;
use core::fmt;
use std::net::{SocketAddr, TcpStream};

use crate::turn::types::Transport;

/// A connection changing hands. Its socket is non-blocking.
pub struct StreamHandover {
    /// The socket.
    pub socket: TcpStream,
    /// The TLS connection on it, its handshake complete.
    pub tls: Option<Box<rustls::ServerConnection>>,
    /// Plaintext read from it already.
    pub early: Vec<u8>,
    /// The client's address, canonical.
    pub client: SocketAddr,
    /// Our address on this connection, canonical.
    pub server: SocketAddr,
    /// [`Transport::Tcp`] or [`Transport::Tls`].
    pub transport: Transport,
    /// Dropped when the stream is closed: the front door counts open connections by it.
    pub guard: Box<dyn Any + Send>,
}

impl fmt::Debug for StreamHandover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandover")
            .field("client", &self.client)
            .field("server", &self.server)
            .field("transport", &self.transport)
            .field("early", &self.early.len())
            .finish_non_exhaustive()
    }
}
