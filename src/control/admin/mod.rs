//! The operator's listener: `/metrics`, `/healthz`, `/readyz`, and the credentials API if it is
//! enabled here.
//!
//! It listens on loopback by default and has no login: every client that sends an allowed Host may
//! read it. It changes nothing, and shows no client and no user. A request for another host gets
//! the health status without figures.

pub mod counters;
mod hosts;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, middleware};

use self::counters::{AdminCounters, AdminRefusal};
use self::hosts::Hosts;
use super::api::{Api, Scheme};
use super::health::Health;
use super::metrics::Metrics;

/// Whether a request is for an allowed host.
#[derive(Clone, Copy)]
struct Known(bool);

/// Builds the router. `api`: routes to serve as well. `hosts` are allowed besides loopback and the
/// address a request arrived at.
pub fn router(
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    api: Option<&Api>,
    hosts: Vec<String>,
    counters: Arc<AdminCounters>,
) -> Router {
    let live = Arc::clone(&health);
    let own = Router::new()
        .route("/metrics", get(move || scrape(Arc::clone(&metrics))))
        .route(
            "/healthz",
            get(async move |Extension(known): Extension<Known>| liveness(&live, known)),
        )
        .route(
            "/readyz",
            get(async move |Extension(known): Extension<Known>| readiness(&health, known)),
        )
        .method_not_allowed_fallback(async || error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed here"))
        .layer(middleware::map_response(harden));
    let not_found = Router::new()
        .fallback(async || error(StatusCode::NOT_FOUND, "no such resource"))
        .layer(middleware::map_response(harden));
    let own = own.merge(not_found);
    let all = match api {
        Some(api) => own.merge(api.routes(Scheme::Http)),
        None => own,
    };
    let door = (Arc::new(Hosts::new(hosts)), counters);
    all.layer(middleware::from_fn_with_state(door, check_host))
}

async fn check_host(
    State((hosts, counters)): State<(Arc<Hosts>, Arc<AdminCounters>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let known = hosts.know(&request);
    let is_health = matches!(request.uri().path(), "/healthz" | "/readyz");
    if !known && !is_health {
        counters.count(AdminRefusal::Host);
        return harden(error(
            StatusCode::MISDIRECTED_REQUEST,
            "this host is not allowed; add it to admin.hosts",
        ))
        .await;
    }
    request.extensions_mut().insert(Known(known));
    next.run(request).await
}

async fn scrape(metrics: Arc<Metrics>) -> Response {
    // Reading /proc may block.
    let rendered = tokio::task::spawn_blocking(move || metrics.render()).await;
    match rendered {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        _ => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded"),
    }
}

fn liveness(health: &Health, known: Known) -> Response {
    let liveness = health.liveness();
    let status = status(liveness.alive);
    if known.0 {
        (status, Json(liveness)).into_response()
    } else {
        (status, Json(serde_json::json!({ "alive": liveness.alive }))).into_response()
    }
}

fn readiness(health: &Health, known: Known) -> Response {
    let readiness = health.readiness();
    let status = status(readiness.ready);
    if known.0 {
        (status, Json(readiness)).into_response()
    } else {
        (status, Json(serde_json::json!({ "ready": readiness.ready }))).into_response()
    }
}

fn status(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn error(status: StatusCode, reason: &str) -> Response {
    (status, Json(serde_json::json!({ "error": reason }))).into_response()
}

async fn harden(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, HeaderValue); 2] = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    response.headers_mut().extend(HEADERS);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_label() {
        assert_eq!(AdminRefusal::ALL.map(AdminRefusal::as_str), ["host", "displaced"]);
    }
}
