//! A client's stream on its way to a shard: from the front door, told apart and ready for TURN, or from another shard.

use core::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crate::base::address::Transport;

/// Ends a stream at the shard that has it, soon.
pub type Displace = Box<dyn FnOnce() + Send>;

/// What counts an open connection, until it is dropped.
pub trait StreamGuard: Send {
    /// Its client has logged in: from here on it gives way to nobody.
    fn set_authenticated(&mut self);

    /// `displace` is to be called if it has to give way to another connection.
    fn when_displaced(&mut self, displace: Displace);
}

/// A connection that nobody counts, but may watch.
impl StreamGuard for Arc<()> {
    fn set_authenticated(&mut self) {}

    fn when_displaced(&mut self, _: Displace) {}
}

/// A connection changing hands. Its socket is non-blocking.
pub struct NewStream {
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
    pub guard: Box<dyn StreamGuard>,
}

impl fmt::Debug for NewStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewStream")
            .field("client", &self.client)
            .field("server", &self.server)
            .field("transport", &self.transport)
            .field("early", &self.early.len())
            .finish_non_exhaustive()
    }
}
