//! Forwards HTTP that is not the API's to the web server, request by request.
//!
//! hyper parses a request and writes it anew, so both servers see the same one and cannot disagree
//! about its end. Claims about the client or earlier proxies are replaced ([`headers`]), trailers
//! are dropped, and WebSocket is the only upgrade: `h2c` would carry requests past these rules.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tower::Service;

use super::backend::{Backend, BackendBounds, BackendCounters, Failure, Forwarded};
use super::connection_info::ConnectionInfo;
use super::headers;
use super::pace::TooSlow;
use super::places::BackendPlace;
use super::splice::{Beginning, splice};
use super::stop::over;
use crate::config::settings::BackendAddress;
use crate::edge::backend_addresses::BackendAddresses;

/// Maximum of idle connections kept for the next request.
const KEPT: usize = 32;
/// How long they are kept: shorter than servers keep theirs (Node.js: 5 s), so that the server
/// closes none during a request.
const KEPT_FOR: core::time::Duration = core::time::Duration::from_secs(4);

/// Looks the web server's name up, and registers its addresses.
#[derive(Clone, Debug)]
struct Lookup(BackendAddress, BackendAddresses);

impl Service<Name> for Lookup {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        let Self(backend, addresses) = self.clone();
        Box::pin(async move { Ok(addresses.look_up(&backend).await?.into_iter()) })
    }
}

/// The web server.
#[derive(Debug)]
pub(super) struct Upstream {
    backend: Backend,
    client: Client<HttpConnector<Lookup>, Body>,
    bounds: BackendBounds,
    counters: Arc<BackendCounters>,
}

impl Upstream {
    pub(super) fn new(backend: Backend, bounds: BackendBounds, counters: Arc<BackendCounters>) -> Self {
        let lookup = Lookup(backend.address.clone(), backend.addresses.clone());
        let mut connector = HttpConnector::new_with_resolver(lookup);
        connector.set_connect_timeout(Some(bounds.connect_timeout));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_FOR)
            .pool_max_idle_per_host(KEPT)
            .build(connector);
        Self {
            backend,
            client,
            bounds,
            counters,
        }
    }

    /// Answers a request with the web server's response.
    pub(super) async fn answer(&self, request: Request<Body>) -> Response {
        match self.forward(request).await {
            Ok(response) => response,
            Err(why) => {
                self.counters.count_forwarded(Forwarded::Failed(why));
                why.into_response()
            }
        }
    }

    async fn forward(&self, mut request: Request<Body>) -> Result<Response, Failure> {
        let visit = request.extensions_mut().remove::<ConnectionInfo>();
        let client = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let (Some(visit), Some(client)) = (visit, client) else {
            return Err(Failure::Refused);
        };
        let place = self.bounds.places.enter(client.ip(), visit.guard.displacement());
        let place = Arc::new(place.ok_or(Failure::Busy)?);
        let upgrade = request
            .extensions_mut()
            .remove::<OnUpgrade>()
            .filter(|_| headers::wants_websocket(request.headers()));
        let request = rewrite(request, &self.backend.address, client, upgrade.is_some())?;
        // It may outlast its response.
        let request = request.map(|body| holding(body, &place));

        // An answer to WebSocket takes no long computation, so a bound applies.
        let patience = match upgrade {
            Some(_) => self.bounds.first_bytes_timeout.min(self.bounds.answer_timeout),
            None => self.bounds.answer_timeout,
        };
        let response = tokio::select! {
            response = self.client.request(request) => response.map_err(|error| self.failed(&error))?,
            // A body that is still arriving keeps it alive.
            () = visit.activity.rests_for(patience) => return Err(Failure::Late),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(upgrade) = upgrade else {
                return Err(Failure::Unusable);
            };
            self.counters.count_forwarded(Forwarded::Upgraded);
            return Ok(self.switch(response, upgrade, visit, place));
        }
        self.counters.count_forwarded(Forwarded::Answered);
        let (mut parts, body) = response.into_parts();
        headers::drop_one_hop(&mut parts.headers);
        Ok(Response::from_parts(parts, holding(Body::new(body), &place)))
    }

    fn failed(&self, error: &hyper_util::client::legacy::Error) -> Failure {
        if TooSlow::is_cause_of(error) {
            return Failure::Slow;
        }
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        if error.is_connect() {
            self.backend.tell_failure(&cause);
            Failure::Unreachable
        } else {
            tracing::debug!(backend = %self.backend.address, error = cause, "the response of a backend is unusable");
            Failure::Unusable
        }
    }

    /// Both sides have accepted WebSocket: splices the two connections.
    fn switch(
        &self,
        mut response: Response<hyper::body::Incoming>,
        client: OnUpgrade,
        visit: ConnectionInfo,
        place: Arc<BackendPlace>,
    ) -> Response {
        let backend = hyper::upgrade::on(&mut response);
        let counters = Arc::clone(&self.counters);
        let (idle, first) = (self.bounds.idle_timeout, self.bounds.first_bytes_timeout);
        tokio::spawn(async move {
            let ConnectionInfo { guard, mut stop, .. } = visit;
            let (Ok(client), Ok(backend)) = tokio::join!(client, backend) else {
                return;
            };
            let displacement = guard.displacement();
            let over = over(&mut stop, &displacement);
            // A connection without a close frame is cut off (RFC 6455 §7.1.5), so the client gets
            // no end of TLS either.
            let spliced = splice(
                TokioIo::new(client),
                TokioIo::new(backend),
                idle,
                Beginning::Either(first),
                over,
            )
            .await;
            counters.count_end(spliced.end);
            drop((guard, place));
        });
        let (mut parts, _) = response.into_parts();
        headers::drop_one_hop(&mut parts.headers);
        headers::upgrade_to_websocket(&mut parts.headers);
        Response::from_parts(parts, Body::empty())
    }
}

/// A body that holds a place until its end.
fn holding(body: Body, place: &Arc<BackendPlace>) -> Body {
    let place = Arc::clone(place);
    Body::new(body.map_frame(move |frame| {
        let _held = &place;
        frame
    }))
}

/// The request as the web server gets it.
fn rewrite(
    request: Request<Body>,
    backend: &BackendAddress,
    client: SocketAddr,
    websocket: bool,
) -> Result<Request<Body>, Failure> {
    let (mut parts, body) = request.into_parts();
    let host = headers::host(&parts.uri, &parts.headers).ok_or(Failure::Refused)?;
    if parts.method == Method::CONNECT {
        return Err(Failure::Refused);
    }
    let path = parts.uri.path_and_query().ok_or(Failure::Refused)?;
    parts.uri = Uri::builder()
        .scheme("http")
        .authority(backend.to_string())
        .path_and_query(path.clone())
        .build()
        .map_err(|_| Failure::Refused)?;
    parts.version = Version::HTTP_11;

    headers::rewrite(&mut parts.headers, client.ip(), &host).ok_or(Failure::Refused)?;
    if websocket {
        headers::upgrade_to_websocket(&mut parts.headers);
    }
    Ok(Request::from_parts(parts, body))
}
