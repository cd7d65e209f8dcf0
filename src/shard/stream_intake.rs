//! A client's stream on its way to a shard: from the front door, told apart and ready for TURN, or from another shard.

use core::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};

use crate::base::address::Transport;
use crate::net::epoll::Waker;

/// Ends a stream at the shard that has it, soon.
pub type Displace = Box<dyn FnOnce() + Send>;

/// What counts an open connection, until it is dropped.
pub trait StreamGuard: Send {
    /// Its client has logged in: from here on it gives way to nobody.
    fn settle(&mut self);

    /// `displace` is to be called if it has to give way to another connection.
    fn when_displaced(&mut self, displace: Displace);
}

/// A connection that nobody counts, but may watch.
impl StreamGuard for Arc<()> {
    fn settle(&mut self) {}

    fn when_displaced(&mut self, _: Displace) {}
}

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
    pub guard: Box<dyn StreamGuard>,
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

/// Leads to one shard.
#[derive(Clone)]
pub(super) struct HandoverSender {
    queue: mpsc::SyncSender<StreamHandover>,
    waker: Waker,
}

impl HandoverSender {
    /// Hands a stream over. Never waits: with too many on their way already it is closed, and `false` returned.
    pub(super) fn adopt(&self, stream: StreamHandover) -> bool {
        let sent = self.queue.try_send(stream).is_ok();
        if sent {
            self.waker.wake();
        }
        sent
    }
}

/// A way to each shard on which `most` streams may be under way; the wakers are the shards'.
pub(super) fn channels(most: usize, wakers: &[Waker]) -> (Vec<HandoverSender>, Vec<mpsc::Receiver<StreamHandover>>) {
    let channel = |waker: &Waker| {
        let (queue, taken) = mpsc::sync_channel(most);
        let waker = waker.clone();
        (HandoverSender { queue, waker }, taken)
    };
    wakers.iter().map(channel).unzip()
}
