//! Serves a router in the clear on a listener that only operators reach.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

/// Connections at once.
const MAX_CONNECTIONS: usize = 128;
/// A request's header must be complete within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after so long, however many requests it carried: scrapes every few seconds keep theirs.
const LIFETIME: Duration = Duration::from_secs(600);
/// Pause after the system could not accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` says so. Answers under way are not waited for: they take milliseconds.
pub async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|&stop| stop) => return,
        };
        let Ok((socket, client)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        let router = router.clone().layer(axum::Extension(ConnectInfo::<SocketAddr>(client)));
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(16 * 1024);
            let connection = http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
            // However it ends, it is over.
            let _ = timeout(LIFETIME, connection).await;
            drop(place);
        });
    }
}
