//! Protects the API in front of a web server: the API's paths end here in every notation, and no
//! key of the API is passed on.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::access::Keys;
use super::counters::ApiRoute;
use super::reply::ApiError;
use super::{Api, MAX_BODY, Policy, request};

/// The API's paths, normalised. Paths that begin with [`GENERATE`] are the API's as well.
const PATHS: [&[u8]; 3] = [b"/turn", b"/ice", b"/v1/ice-servers"];
const GENERATE: &[u8] = b"/v1/turn/keys";

/// Passes a request on unless it is for the API or contains a key of the API.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let policy = api.policy.load_full();
    match check(&policy, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => {
            let response = refusal.into_response();
            api.counters.count(ApiRoute::Other, response.status());
            response
        }
    }
}

async fn check(policy: &Arc<Policy>, request: Request) -> Result<Request, ApiError> {
    if policy.settings.enabled && is_ours(request.method(), request.uri().path()) {
        return Err(ApiError::Spelling);
    }
    let keys = &policy.keys;
    if keys.is_empty() {
        return Ok(request);
    }
    if in_target(keys, request.uri()) || in_headers(keys, request.headers()) {
        return Err(ApiError::KeyElsewhere);
    }
    let may_be_form = request::is_media_type(request.headers(), "application/x-www-form-urlencoded");
    if !may_be_form || request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let (beginning, rest) = read_form(body).await?;
    if in_text(keys, &beginning) {
        return Err(ApiError::KeyElsewhere);
    }
    Ok(Request::from_parts(parts, joined(beginning, rest)))
}

/// Reads as much of a body as the API would, and returns the unread rest.
async fn read_form(mut body: Body) -> Result<(Vec<u8>, Option<Body>), ApiError> {
    let mut beginning = Vec::new();
    while let Some(frame) = body.frame().await {
        // The body arrives too slowly, or the client is gone.
        let frame = frame.map_err(|_| ApiError::TooSlow)?;
        // Trailers are not passed on.
        let Ok(data) = frame.into_data() else { continue };
        beginning.extend_from_slice(&data);
        if beginning.len() > MAX_BODY {
            return Ok((beginning, Some(body)));
        }
    }
    Ok((beginning, None))
}

fn joined(beginning: Vec<u8>, rest: Option<Body>) -> Body {
    let beginning = Bytes::from(beginning);
    match rest {
        None => Body::from(beginning),
        Some(rest) => Body::from_stream(stream::iter([Ok(beginning)]).chain(rest.into_data_stream())),
    }
}

fn in_target(keys: &Keys, uri: &Uri) -> bool {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    in_text(keys, target.as_bytes())
}

fn in_headers(keys: &Keys, headers: &HeaderMap) -> bool {
    headers.values().any(|value| {
        let value = value.as_bytes();
        in_text(keys, value) || basic(value).is_some_and(|login| keys.are_in(&login))
    })
}

/// Searches the text as it is, and decoded.
fn in_text(keys: &Keys, text: &[u8]) -> bool {
    keys.are_in(text) || (text.contains(&b'%') && keys.are_in(&decoded(text)))
}

/// The decoded login of `Basic` (RFC 7617).
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, login) = value.split_at_checked(6)?;
    let login = scheme.eq_ignore_ascii_case(b"basic ").then(|| login.trim_ascii())?;
    BASE64_STANDARD.decode(login).ok()
}

/// Whether some server may take `path` for one of the API's.
fn is_ours(method: &Method, path: &str) -> bool {
    let path = normalised(path);
    (path.is_empty() && method == Method::POST)
        || PATHS.contains(&path.as_slice())
        || path
            .strip_prefix(GENERATE)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The path as the most lenient server reads it: percent-encoding undone however often it was
/// applied, `\` for `/`, no parameters, no empty or dot segments, no slash at the end, nothing
/// after a NUL, `?` or `#`, in lower case.
fn normalised(path: &str) -> Vec<u8> {
    let decoded = decoded(path.as_bytes());
    let end = decoded.iter().position(|byte| b"\0?#".contains(byte));
    let path = &decoded[..end.unwrap_or(decoded.len())];
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| b"/\\".contains(byte)) {
        let segment = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        match segment.trim_ascii() {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            segment => segments.push(without_dots(segment)),
        }
    }
    let mut normalised = Vec::with_capacity(path.len());
    for segment in segments {
        normalised.push(b'/');
        normalised.extend(segment.iter().map(u8::to_ascii_lowercase));
    }
    normalised
}

/// Some file systems ignore dots and spaces at the end of a name.
fn without_dots(mut segment: &[u8]) -> &[u8] {
    while let [rest @ .., b'.' | b' '] = segment {
        segment = rest;
    }
    segment
}

/// Undoes percent-encoding until none is left, in one pass.
fn decoded(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    for &byte in text {
        out.push(byte);
        // A decoded byte may complete another sequence.
        while let [.., b'%', high, low] = out[..]
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            out.truncate(out.len() - 3);
            out.push(high << 4 | low);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    //= REST-14
    #[test]
    fn every_spelling_of_a_path_of_the_api_is_the_apis() {
        for path in [
            "/turn",
            "/turn/",
            "//turn",
            "/turn//",
            "/./turn/.",
            "/x/../turn",
            "/../turn",
            "/turn/x/..",
            "/%74urn",
            "/%2574urn",
            "/%25%37%34urn",
            "/%2e%2e/turn",
            "/x/%2e%2e%2fturn",
            "/TURN",
            "/Turn;jsessionid=1",
            "/;a=b/turn",
            "/turn;/",
            "\\turn",
            "/%5cturn",
            "/turn%2f",
            "/turn%00",
            "/turn%00.html",
            "/turn%3fx=1",
            "/turn%23x",
            "/turn%20",
            "/turn.",
            "/turn%09",
            "/ice/",
            "/v1/ice-servers/",
            "/v1//ice-servers",
            "/V1/Ice-Servers",
            "/v1%2fice-servers",
            "/v1/x/../ice-servers",
            "/v1/turn/keys/app/credentials/generate-ice-servers/",
            "/v1/turn/keys/a%2fb/credentials/generate-ice-servers",
            "/v1/turn/keys/app",
            "/v1/turn/keys",
        ] {
            assert!(is_ours(&Method::GET, path), "{path}");
        }
        for path in ["/", "//", "/.", "/;x", "/%2f", "/x/.."] {
            assert!(is_ours(&Method::POST, path), "{path}");
            assert!(!is_ours(&Method::GET, path), "{path}");
        }
        for path in [
            "/turner",
            "/turn/server",
            "/x/turn",
            "/turn/../x",
            "/ice-cream",
            "/v1",
            "/v1/ice-servers/x",
            "/v1/turn",
            "/v1/turn/keysmith",
            "/%",
            "/%zzturn",
            "*",
        ] {
            assert!(!is_ours(&Method::POST, path), "{path}");
        }
    }

    #[test]
    fn undoing_percent_encoding_takes_one_pass_however_deep_it_is() {
        let deep = format!("%{}41", "25".repeat(100_000));
        assert_eq!(decoded(deep.as_bytes()), b"A");
        assert_eq!(decoded(b"%%34%31 %4 %g1 %c3%a9"), "A %4 %g1 é".as_bytes());
    }

    #[tokio::test]
    async fn a_body_as_long_as_the_api_would_read_is_all_of_it() {
        for (len, more) in [(MAX_BODY, false), (MAX_BODY + 1, true)] {
            let read = read_form(Body::from(vec![b'a'; len])).await;
            let Ok((beginning, rest)) = read else {
                panic!("it is there")
            };
            assert_eq!((beginning.len(), rest.is_some()), (len, more));
        }
    }
}
