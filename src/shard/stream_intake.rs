//! A client's stream on its way to a shard: from the front door, which has classified it as TURN,
//! or from another shard.

use core::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crate::base::address::Transport;

/// Asks the shard that has a stream to close it.
pub type Displace = Box<dyn FnOnce() + Send>;

/// Counts an open connection until it is dropped.
pub trait StreamGuard: Send {
    /// Its client has logged in: the connection is no longer evicted in favour of another.
    fn set_authenticated(&mut self);

    /// Sets the function to call when the connection is evicted in favour of another.
    fn when_displaced(&mut self, displace: Displace);
}

/// For connections that are not counted. The end of the connection can be seen in the number of
/// references.
impl StreamGuard for Arc<()> {
    fn set_authenticated(&mut self) {}

    fn when_displaced(&mut self, _: Displace) {}
}

/// A stream for a shard. Its socket is non-blocking.
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
