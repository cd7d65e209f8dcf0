//! The errors of the control interface.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request fails. The body is `{"error": "…"}`.
#[derive(Debug)]
pub(super) enum ControlError {
    /// The request is invalid.
    BadRequest(String),
    /// The resource does not exist.
    NotFound(&'static str),
    /// The resource does not support the method.
    Method,
    /// A limit is reached.
    Full(&'static str),
    /// The order is in force but could not be stored.
    NotKept(String),
    /// The server is shutting down.
    Ending,
}

/// The body of an error response.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// The reason.
    error: String,
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, text),
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text.to_owned()),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed here".to_owned()),
            Self::Full(text) => (StatusCode::INSUFFICIENT_STORAGE, text.to_owned()),
            Self::NotKept(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
            Self::Ending => (StatusCode::SERVICE_UNAVAILABLE, "the server is ending".to_owned()),
        };
        (status, Json(ErrorBody { error })).into_response()
    }
}
