//! Options of client and backend sockets.

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::Duration;

use crate::net::stream::KERNEL_UNSENT;

/// An idle connection is probed after this long, and at this interval.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Sets socket options. A refused option is no reason to close the connection.
pub(super) fn prepare(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(3);
    let set = socket
        .set_tcp_nodelay(true)
        .and(socket.set_tcp_notsent_lowat(KERNEL_UNSENT))
        .and(socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "socket option refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_is_answered_without_delay_and_probed_when_nothing_moves() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&socket);
        assert!(socket.nodelay().unwrap());
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }
}
