//! Responses of the API: always JSON, and never a secret except the requested credential.

use core::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::limit::TooMany;
use crate::base::time::UnixTime;
use crate::config::settings::ApiSettings;
use crate::turn::login::credential::MintedCredential;

/// Lifetime of the credential in seconds, for bodies without a field for it.
pub(super) const TTL: HeaderName = HeaderName::from_static("relay-credential-ttl");
/// When the credential expires, in Unix seconds.
pub(super) const EXPIRES: HeaderName = HeaderName::from_static("relay-credential-expires");

/// A credential, and its lifetime for new allocations.
pub(super) struct Minted {
    /// USERNAME and password.
    pub(super) credential: MintedCredential,
    /// Its lifetime.
    pub(super) ttl: Duration,
    /// When it expires.
    pub(super) expiry: UnixTime,
    /// Whether only the forced path accepts it.
    pub(super) forced: bool,
}

/// The TURN REST draft's response.
#[derive(Serialize)]
struct DraftReply<'a> {
    username: &'a str,
    password: &'a str,
    ttl: u64,
    uris: Vec<&'a str>,
}

/// A W3C `RTCConfiguration` (only the members in use), for `new RTCPeerConnection()`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtcConfiguration {
    ice_servers: Vec<IceServer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ice_transport_policy: Option<&'static str>,
}

/// A W3C `RTCIceServer`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct IceServer {
    urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

impl RtcConfiguration {
    /// The configured URIs with `credential`, or those for a `forced` one. STUN URIs have an entry
    /// of their own, because some clients refuse a mixed one.
    pub fn new(settings: &ApiSettings, credential: &MintedCredential, forced: bool) -> Self {
        let (stun, turn): (Vec<_>, Vec<_>) = uris(settings, forced).iter().cloned().partition(|uri| is_stun(uri));
        let mut ice_servers = vec![IceServer {
            urls: turn,
            username: Some(credential.username.clone()),
            credential: Some(credential.password.clone()),
        }];
        if !stun.is_empty() {
            ice_servers.push(IceServer {
                urls: stun,
                username: None,
                credential: None,
            });
        }
        Self {
            ice_servers,
            ice_transport_policy: (forced || settings.relay_only).then_some("relay"),
        }
    }
}

fn uris(settings: &ApiSettings, forced: bool) -> &[String] {
    if forced { &settings.forced_uris } else { &settings.uris }
}

/// The TURN URIs for a credential, without STUN URIs.
pub fn turn_uris(settings: &ApiSettings, forced: bool) -> Vec<&str> {
    let uris = uris(settings, forced).iter().map(String::as_str);
    uris.filter(|uri| !is_stun(uri)).collect()
}

fn is_stun(uri: &str) -> bool {
    uri.starts_with("stun:") || uri.starts_with("stuns:")
}

impl Minted {
    /// In the TURN REST draft's format. Its `uris` are TURN URIs only.
    pub(super) fn draft(&self, settings: &ApiSettings) -> Response {
        let (username, password) = (&self.credential.username, &self.credential.password);
        Json(DraftReply {
            username,
            password,
            ttl: self.ttl.as_secs(),
            uris: turn_uris(settings, self.forced),
        })
        .into_response()
    }

    /// As a W3C `RTCConfiguration` that always has an `iceTransportPolicy`.
    pub(super) fn stunner(&self, settings: &ApiSettings) -> Response {
        let mut configuration = RtcConfiguration::new(settings, &self.credential, self.forced);
        configuration.ice_transport_policy.get_or_insert("all");
        Json(configuration).into_response()
    }

    /// As a W3C `RTCConfiguration`. The lifetime goes into headers, so that the body has only the
    /// members of that type.
    pub(super) fn ice_servers(&self, settings: &ApiSettings) -> Response {
        let numbers = [
            (TTL, HeaderValue::from(self.ttl.as_secs())),
            (EXPIRES, HeaderValue::from(self.expiry.0)),
        ];
        (
            HeaderMap::from_iter(numbers),
            Json(RtcConfiguration::new(settings, &self.credential, self.forced)),
        )
            .into_response()
    }
}

/// Why nothing was minted. No reason quotes the request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    /// 400.
    BadRequest(&'static str),
    /// 400.
    BadJson { line: usize, column: usize },
    /// 401.
    Unauthorized(&'static str),
    /// 403: a preflight from an origin that is not on the list.
    Origin,
    /// 403: a request with a key of the API that is not for the API.
    KeyElsewhere,
    /// 404.
    NotFound,
    /// 404: a path of the API in another notation.
    Spelling,
    /// 405.
    Method,
    /// 408: the body did not arrive in time.
    TooSlow,
    /// 413.
    TooLarge,
    /// 415.
    MediaType(&'static str),
    /// 429.
    TooMany(Duration),
    /// 503: this server cannot mint.
    Unavailable(&'static str),
}

impl From<TooMany> for ApiError {
    fn from(TooMany(wait): TooMany) -> Self {
        Self::TooMany(wait)
    }
}

#[derive(Serialize)]
struct ErrorReply<'a> {
    error: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let place;
        let (status, reason) = match &self {
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, *reason),
            Self::BadJson { line, column } => {
                place = format!("the body is not valid JSON at line {line}, column {column}");
                (StatusCode::BAD_REQUEST, place.as_str())
            }
            Self::Unauthorized(reason) => (StatusCode::UNAUTHORIZED, *reason),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "this origin is not on the list of allowed origins",
            ),
            Self::KeyElsewhere => (
                StatusCode::FORBIDDEN,
                "this request has a key of the API and is not for the API, so it is not passed on",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, "no such resource"),
            Self::Spelling => (
                StatusCode::NOT_FOUND,
                "the API's paths are written so: /turn, /ice, /v1/ice-servers, \
                 /v1/turn/keys/NAME/credentials/generate-ice-servers",
            ),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed here"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 8 KiB"),
            Self::MediaType(reason) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, *reason),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too many requests; see Retry-After"),
            Self::Unavailable(reason) => (StatusCode::SERVICE_UNAVAILABLE, *reason),
        };
        let mut response = (status, Json(ErrorReply { error: reason })).into_response();
        let headers = response.headers_mut();
        match self {
            Self::TooMany(wait) => {
                // Whole seconds, rounded up, so that a retry at that time succeeds.
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            }
            Self::Unauthorized(_) => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"relay\""),
                );
            }
            // The rest of the request is not read, so the connection cannot be reused.
            Self::TooLarge | Self::TooSlow => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_at_the_time_told_is_not_too_early() {
        let told = |millis| {
            let response = ApiError::TooMany(Duration::from_millis(millis)).into_response();
            response.headers()[header::RETRY_AFTER]
                .to_str()
                .map(str::to_owned)
                .expect("text")
        };
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_999, "60")] {
            assert_eq!(told(millis), seconds, "{millis} ms");
        }
    }
}
