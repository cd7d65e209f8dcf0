//! HTTP/1.1 inside TLS: short requests to the credentials API, or longer ones to the web server
//! behind this one.

use core::convert::Infallible;
use std::io::Cursor;
use std::net::SocketAddr;
use std::pin::pin;

use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::FrontDoorLimits;
use super::backends::Backends;
use super::connection_info::ConnectionInfo;
use super::pace::Paced;
use super::splice::Watched;
use super::stop::stopped;

/// Longest head of a request, in bytes; a longer one gets 431.
const MAX_HEAD: usize = 8192;
/// Bytes to read and discard at most, so that a reset does not destroy the refusal.
const MAX_LINGER: u64 = 64 * 1024;

const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 48\r\n\
    Connection: close\r\n\r\nThis port speaks HTTPS and TURN. Use https://.\r\n";

/// Serves requests of one client until it is done, its time is up, or the server stops. `early` was
/// read already. With a web server in `backends`, the last request may go on while no pause exceeds
/// the idle limit.
pub(super) async fn serve(
    tls: TlsStream<TcpStream>,
    early: Vec<u8>,
    client: SocketAddr,
    visit: ConnectionInfo,
    router: axum::Router,
    limits: &FrontDoorLimits,
    backends: &Backends,
) {
    let ConnectionInfo { activity, mut stop, .. } = visit.clone();
    let (reader, writer) = tokio::io::split(tls);
    let both = tokio::io::join(Cursor::new(early).chain(reader), writer);
    let io = TokioIo::new(Watched::new(both, activity.clone()));
    let pace = backends.pace();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        request.extensions_mut().insert(visit.clone());
        let router = router.clone();
        async move {
            let request = request.map(|body| Body::new(Paced::new(body, pace)));
            match router.oneshot(request).await {
                Ok(response) => Ok::<_, Infallible>(response),
                Err(never) => match never {},
            }
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.http_header_timeout)
            .max_buf_size(MAX_HEAD)
            .serve_connection(io, service)
            .with_upgrades()
    );
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(limits.http_lifetime) => {}
        () = stopped(&mut stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Some(patience) = backends.http_patience() {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = activity.rests_for(patience) => return,
            () = stopped(&mut stop) => {}
        }
    }
    let _ = timeout(limits.stop_timeout, connection).await;
}

/// Answers a plaintext request with the hint to use `https://`.
pub(super) async fn refuse_plain(socket: &mut TcpStream) {
    if socket.write_all(PLAIN_HTTP).await.is_err() || socket.shutdown().await.is_err() {
        return;
    }
    // Closing with the request unread would reset the connection, and the client might never see
    // the response.
    let _ = tokio::io::copy(&mut socket.take(MAX_LINGER), &mut tokio::io::sink()).await;
}
