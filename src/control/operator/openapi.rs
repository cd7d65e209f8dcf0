//! The interface as an OpenAPI 3.1 document, generated from the types and handlers.
//! `docs/openapi.json` is the same text.

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::OpenApi;

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "relay: control interface",
        description = "Queries and orders of an operator to a running server, on a Unix socket whose file \
                       permissions are the login."
    ),
    // For query parameters, whose type does not define it.
    components(schemas(super::sessions::Sort)),
    paths(
        super::process::status,
        super::sessions::list,
        super::sessions::one,
        super::sessions::end,
        super::revocations::list,
        super::revocations::add,
        super::revocations::remove,
        super::orders::drain,
        super::orders::undrain,
        super::orders::reload,
        super::orders::log,
    )
)]
struct Document;

/// The document as JSON.
pub fn document() -> String {
    let text = Document::openapi().to_pretty_json();
    // It contains plain values only, which JSON can always represent.
    text.unwrap_or_default() + "\n"
}

/// `GET /v1/openapi.json`.
pub(super) async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document())
}
