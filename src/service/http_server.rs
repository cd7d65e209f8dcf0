//! Serves a router in the clear on a listener that only operators reach. Whoever comes is served, however many there are:
//! beyond so many connections the oldest gives way, and an answer takes milliseconds.

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

use super::admin::{AdminCounters, AdminRefusal};

/// Connections at once.
pub const MAX_CONNECTIONS: usize = 128;
/// A request's header must be complete within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after so long, however many requests it carried: scrapes every few seconds keep theirs.
const LIFETIME: Duration = Duration::from_secs(600);
/// Pause after the system could not accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Our end of a request's connection, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct ReachedAt(pub IpAddr);

/// Serves until `stop` says so. Answers under way are not waited for: they take milliseconds.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    counters: Arc<AdminCounters>,
    mut stop: watch::Receiver<bool>,
) {
    // By age.
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
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            counters.count(AdminRefusal::Displaced);
        }
        open.push_back(tokio::spawn(connection(socket, client, router.clone())));
    }
}

async fn connection(socket: TcpStream, client: SocketAddr, router: Router) {
    // Without an end there is nobody to answer.
    let Ok(reached) = socket.local_addr() else { return };
    let router = router
        .layer(axum::Extension(ConnectInfo::<SocketAddr>(client)))
        .layer(axum::Extension(ReachedAt(reached.ip().to_canonical())));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024);
    let connection = http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    // However it ends, it is over.
    let _ = timeout(LIFETIME, connection).await;
}
