//! Serves a router in plaintext on a listener that only operators reach. It accepts every
//! connection: beyond a maximum it closes the oldest one, because a response takes milliseconds.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::admin::counters::{AdminCounters, AdminRefusal};
use crate::config::bounds::ADMIN_CONNECTIONS;

/// A request's header must arrive completely within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after this long, however many requests it carried. Scrapes every few
/// seconds reuse theirs until then.
const LIFETIME: Duration = Duration::from_secs(600);
/// Pause after accept failed.
const PAUSE: Duration = Duration::from_millis(100);

/// The local address of a request's connection, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct ReachedAt(pub IpAddr);

/// Serves until `stop` fires. Does not wait for responses under way: they take milliseconds.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    counters: Arc<AdminCounters>,
    mut stop: watch::Receiver<bool>,
) {
    // Oldest first.
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|&stop| stop) => return,
        };
        let Ok((socket, client)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= ADMIN_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            counters.count(AdminRefusal::Displaced);
        }
        open.push_back(tokio::spawn(connection(socket, client, router.clone())));
    }
}

async fn connection(socket: TcpStream, client: SocketAddr, router: Router) {
    // Without a peer address there is no client to answer.
    let Ok(reached) = socket.local_addr() else { return };
    let router = router
        .layer(axum::Extension(ConnectInfo::<SocketAddr>(client)))
        .layer(axum::Extension(ReachedAt(reached.ip().to_canonical())));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024);
    let connection = http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    // Errors end the connection, and need no handling.
    let _ = timeout(LIFETIME, connection).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    struct Served {
        address: SocketAddr,
        counters: Arc<AdminCounters>,
        /// Whether the server has stopped.
        stop: watch::Sender<bool>,
        ended: JoinHandle<()>,
    }

    async fn served() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let counters = Arc::new(AdminCounters::default());
        let (stop, stopping) = watch::channel(false);
        let router = Router::new().route("/", get(async || "here"));
        let ended = tokio::spawn(serve(listener, router, Arc::clone(&counters), stopping));
        Served {
            address,
            counters,
            stop,
            ended,
        }
    }

    impl Served {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("a connection")
        }

        fn displaced(&self) -> u64 {
            self.counters.refused(AdminRefusal::Displaced)
        }
    }

    /// Whether a request gets a response. The connection stays open.
    async fn answered(socket: &mut TcpStream) -> bool {
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let mut answer = Vec::new();
        // An error of the write means that the connection has ended.
        let _ = socket.write_all(request).await;
        while !answer.ends_with(b"here") {
            if !matches!(socket.read_buf(&mut answer).await, Ok(1..)) {
                return false;
            }
        }
        true
    }

    #[tokio::test]
    async fn the_oldest_connection_gives_way_and_those_that_ended_take_no_place() {
        let served = served().await;
        let mut open = VecDeque::new();
        for _ in 0..ADMIN_CONNECTIONS {
            let mut socket = served.connect().await;
            assert!(answered(&mut socket).await);
            open.push_back(socket);
        }
        assert_eq!(served.displaced(), 0, "as many as there may be");
        let mut oldest = open.pop_front().expect("many");
        let mut newest = served.connect().await;
        assert!(answered(&mut newest).await);
        assert_eq!(served.displaced(), 1);
        assert!(!answered(&mut oldest).await, "it has given way");
        assert!(answered(&mut open[0]).await, "and no other one");

        // Each of these ends before the next one begins.
        drop(open);
        for _ in 0..2 * ADMIN_CONNECTIONS {
            let mut socket = served.connect().await;
            let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            socket.write_all(request).await.expect("it is served");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.ends_with("here"), "{answer}");
        }
        assert!(answered(&mut newest).await, "nobody had to give way");
    }

    #[tokio::test]
    async fn nobody_is_served_any_more_when_it_is_said() {
        let served = served().await;
        served.stop.send_replace(true);
        let ended = timeout(Duration::from_secs(20), served.ended).await;
        ended.expect("it ends").expect("without a panic");
        // Another test may have received the port meanwhile, but not for long.
        let refused = async { while TcpStream::connect(served.address).await.is_ok() {} };
        timeout(Duration::from_secs(20), refused).await.expect("nobody listens");
    }

    /// The paused clock advances by itself when nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_soon() {
        let served = served().await;
        let begin = Instant::now();
        let mut silent = served.connect().await;
        let _ = silent.read(&mut [0]).await;
        assert!(
            (HEADER_TIMEOUT..HEADER_TIMEOUT * 2).contains(&begin.elapsed()),
            "{:?}",
            begin.elapsed()
        );
    }
}
