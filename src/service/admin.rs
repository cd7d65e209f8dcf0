//! The operator's listener: `/metrics`, `/healthz`, `/readyz`, and the credentials API where that is wanted.
//!
//! Loopback by default and without login: whoever reaches it may read it. Nothing here changes anything, and nothing
//! names a client or a user.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, middleware};

use super::api::{Api, Scheme};
use super::health::Health;
use super::metrics::Metrics;

/// Builds the router. `api`: served here too.
pub fn router(metrics: Arc<Metrics>, health: Arc<Health>, api: Option<&Api>) -> Router {
    let live = Arc::clone(&health);
    let own = Router::new()
        .route("/metrics", get(move || scrape(Arc::clone(&metrics))))
        .route("/healthz", get(async move || liveness(&live)))
        .route("/readyz", get(async move || readiness(&health)))
        .method_not_allowed_fallback(async || error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed here"))
        .layer(middleware::map_response(harden));
    let not_found = Router::new()
        .fallback(async || error(StatusCode::NOT_FOUND, "no such resource"))
        .layer(middleware::map_response(harden));
    let own = own.merge(not_found);
    match api {
        Some(api) => own.merge(api.routes(Scheme::Http)),
        None => own,
    }
}

async fn scrape(metrics: Arc<Metrics>) -> Response {
    // Reading /proc may wait for the kernel.
    let rendered = tokio::task::spawn_blocking(move || metrics.render()).await;
    match rendered {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        _ => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded"),
    }
}

fn liveness(health: &Health) -> Response {
    let liveness = health.liveness();
    (status(liveness.alive), Json(liveness)).into_response()
}

fn readiness(health: &Health) -> Response {
    let readiness = health.readiness();
    (status(readiness.ready), Json(readiness)).into_response()
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
