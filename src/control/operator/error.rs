//! What is answered instead of what was asked for.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// A request that is not fulfilled. The body is `{"error": "…"}`.
#[derive(Debug)]
pub(super) enum ControlError {
    /// The request makes no sense.
    BadRequest(String),
    /// There is no such thing.
    NotFound(&'static str),
    /// The resource does not know the method.
    Method,
    /// There is no room.
    Full(&'static str),
    /// What was ordered could not be kept.
    NotKept(String),
    /// The server is ending.
    Ending,
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, text),
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text.to_owned()),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed here".to_owned()),
            Self::Full(text) => (StatusCode::INSUFFICIENT_STORAGE, text.to_owned()),
            Self::NotKept(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
            Self::Ending => (StatusCode::SERVICE_UNAVAILABLE, "the server is ending".to_owned()),
        };
        (status, Json(serde_json::json!({ "error": text }))).into_response()
    }
}
