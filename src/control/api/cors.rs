//! Cross-origin requests. Where a key is needed, an exact list of origins applies: never `*`, and
//! never the request's own origin unchecked. Without a key (`api.open`), pages of every origin may
//! read the responses, because there is nothing to protect.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::settings::ApiSettings;

/// Whose pages may read a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    Everyone,
    /// Those of the request's origin, which is on the list.
    Origin(HeaderValue),
    Nobody,
}

impl Readers {
    /// Whose pages may read the response to a request with these headers. Origins are compared byte
    /// for byte.
    pub(super) fn of(request: &HeaderMap, settings: &ApiSettings) -> Self {
        if settings.open {
            return Self::Everyone;
        }
        let listed = |origin: &&HeaderValue| {
            let mut list = settings.cors_origins.iter();
            list.any(|allowed| allowed.as_bytes() == origin.as_bytes())
        };
        let origin = request.get(header::ORIGIN).filter(listed);
        origin.cloned().map_or(Self::Nobody, Self::Origin)
    }

    /// Marks a response for caches and, where the page may read it, for the browser.
    pub(super) fn mark(self, headers: &mut HeaderMap) {
        let allowed = match self {
            // The same for every origin, and never with the browser's credentials: `*` excludes
            // them.
            Self::Everyone => HeaderValue::from_static("*"),
            Self::Origin(origin) => {
                headers.insert(header::VARY, HeaderValue::from_static("Origin"));
                origin
            }
            Self::Nobody => {
                headers.insert(header::VARY, HeaderValue::from_static("Origin"));
                return;
            }
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        let exposed = HeaderValue::from_static("retry-after, relay-credential-ttl, relay-credential-expires");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Whether the request is a CORS preflight.
pub(super) fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The response to a preflight from an allowed origin.
pub(super) fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}
