//! Parses a request for a credential from a query string, a form or a JSON object.

use core::time::Duration;

use axum::http::{HeaderMap, header};
use serde_json::Value;

use super::reply::ApiError;
use crate::turn::login::credential::TimeLimited;

/// Parameters of the TURN REST draft, from the query string and a form body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RestDraftRequest {
    /// Must be `turn`.
    pub(super) service: Option<String>,
    /// The requested userid.
    pub(super) username: Option<String>,
    /// The requested lifetime in seconds.
    pub(super) ttl: Option<String>,
    /// `true` requests a forced credential.
    pub(super) forced: Option<String>,
    /// `key` or `api` of the query string, which proxies and servers log.
    pub(super) query_key: Option<String>,
    /// `key` or `api` of the form.
    pub(super) form_key: Option<String>,
}

impl RestDraftRequest {
    /// Reads both places. Unknown parameters are ignored, as the draft permits them.
    pub(super) fn parse(query: &str, form: &[u8]) -> Result<Self, ApiError> {
        let mut draft = Self::default();
        draft.read(query.as_bytes(), true)?;
        draft.read(form, false)?;
        Ok(draft)
    }

    fn read(&mut self, encoded: &[u8], query: bool) -> Result<(), ApiError> {
        for (name, value) in form_urlencoded::parse(encoded) {
            let place = match name.as_ref() {
                "service" => &mut self.service,
                "username" => &mut self.username,
                "ttl" => &mut self.ttl,
                "forced" => &mut self.forced,
                "key" | "api" if query => &mut self.query_key,
                "key" | "api" => &mut self.form_key,
                _ => continue,
            };
            // A key in base64 may contain `+`, which an unencoded form means as a space; no key
            // contains a space.
            let value = match name.as_ref() {
                "key" | "api" if value.contains(' ') => value.replace(' ', "+").into(),
                _ => value,
            };
            // Some clients send the key under both names.
            if place.as_deref().is_some_and(|earlier| earlier != value) {
                return Err(ApiError::BadRequest("a parameter is given twice with different values"));
            }
            *place = Some(value.into_owned());
        }
        Ok(())
    }
}

/// The optional JSON object of `POST /v1/ice-servers`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IceServersRequest {
    /// The requested userid.
    pub(super) username: Option<String>,
    /// The requested lifetime.
    pub(super) ttl: Option<Duration>,
    /// Whether a forced credential is requested.
    pub(super) forced: bool,
}

impl IceServersRequest {
    /// An empty body requests the defaults.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        // The parser's message may quote the body, so only line and column are reported.
        let value: Value = serde_json::from_slice(body).map_err(|e| ApiError::BadJson {
            line: e.line(),
            column: e.column(),
        })?;
        let Value::Object(members) = value else {
            return Err(ApiError::BadRequest("the body must be a JSON object"));
        };
        let mut request = Self::default();
        for (name, value) in members {
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("ttl", Value::Number(n)) => {
                    let seconds = n.as_u64().filter(|&s| s > 0).ok_or(ApiError::BadRequest(BAD_TTL))?;
                    request.ttl = Some(Duration::from_secs(seconds));
                }
                ("ttl", _) => return Err(ApiError::BadRequest(BAD_TTL)),
                // Cloudflare's name for the userid.
                ("username" | "customIdentifier", Value::String(s)) => request.username = Some(s),
                ("username" | "customIdentifier", _) => return Err(ApiError::BadRequest("username must be a string")),
                ("forced", Value::Bool(forced)) => request.forced = forced,
                ("forced", _) => return Err(ApiError::BadRequest(BAD_FORCED)),
                _ => return Err(ApiError::BadRequest("unknown member; known are: forced, ttl, username")),
            }
        }
        Ok(request)
    }
}

const BAD_FORCED: &str = "forced must be true or false";
const BAD_TTL: &str = "ttl must be a whole number of seconds above 0";

/// A lifetime in decimal digits. Digits that overflow mean the longest lifetime: the configured
/// maximum decides.
pub(super) fn ttl(text: &str) -> Result<Duration, ApiError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ApiError::BadRequest(BAD_TTL));
    }
    match text.parse::<u64>().unwrap_or(u64::MAX) {
        0 => Err(ApiError::BadRequest(BAD_TTL)),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

/// Reads `true` or `false`.
pub(super) fn forced(text: &str) -> Result<bool, ApiError> {
    text.parse().map_err(|_| ApiError::BadRequest(BAD_FORCED))
}

/// Checks a requested userid. It goes into log lines and STUN messages, so control characters and
/// text-direction marks are refused.
pub(super) fn userid(text: String) -> Result<Option<String>, ApiError> {
    let forbidden = |c: char| c.is_control() || is_format_control(c) || c == char::REPLACEMENT_CHARACTER;
    if text.is_empty() {
        Ok(None)
    } else if text.len() > TimeLimited::MAX_USERID {
        Err(ApiError::BadRequest("username is longer than 488 bytes"))
    } else if text.chars().any(forbidden) {
        Err(ApiError::BadRequest("username has control characters or is not UTF-8"))
    } else {
        Ok(Some(text))
    }
}

/// Characters that reorder or break the text around them: bidirectional controls, line and
/// paragraph separators.
fn is_format_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}' | '\u{feff}')
}

/// The key of an `Authorization: Bearer` header. `Err` for a header of another form.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let (scheme, key) = value.as_bytes().split_at_checked(7).unwrap_or_default();
    let key = key.trim_ascii();
    if values.next().is_some() || !scheme.eq_ignore_ascii_case(b"bearer ") || key.is_empty() {
        return Err(ApiError::Unauthorized("the Authorization header must read: Bearer KEY"));
    }
    Ok(Some(key))
}

/// Whether the body may be read as `wanted`: its media type is that or is absent.
pub(super) fn is_media_type(headers: &HeaderMap, wanted: &str) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let essence = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    //= REST-04
    #[test]
    fn a_lifetime_is_plain_digits_above_zero_and_a_huge_one_is_left_to_the_cap() {
        const CASES: &[(&str, Option<u64>)] = &[
            ("1", Some(1)),
            ("86400", Some(86400)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("0", None),
            ("000", None),
            ("-1", None),
            ("+1", None),
            (" 1", None),
            ("1.0", None),
            ("1e3", None),
            ("0x10", None),
            ("", None),
            ("\u{0661}", None),
        ];
        for (text, expected) in CASES {
            assert_eq!(ttl(text).ok().map(|d| d.as_secs()), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_userid_may_hold_colons_and_at_signs_but_nothing_that_disturbs_a_log_line() {
        let long = "x".repeat(TimeLimited::MAX_USERID);
        for good in ["alice", "a:b:c", "alice@example.org", "é", long.as_str()] {
            assert_eq!(userid(good.to_owned()).expect("good"), Some(good.to_owned()));
        }
        let longer = "x".repeat(TimeLimited::MAX_USERID + 1);
        for bad in [
            "a\nb",
            "\u{1b}[2J",
            "a\0",
            "\u{85}",
            "a\u{202e}b",
            "\u{2028}",
            "\u{fffd}",
            longer.as_str(),
        ] {
            userid(bad.to_owned()).expect_err(bad);
        }
        let Err(ApiError::BadRequest(text)) = userid(longer) else {
            panic!("a bad request")
        };
        assert!(text.contains(&TimeLimited::MAX_USERID.to_string()), "{text}");
        assert_eq!(userid(String::new()).expect("empty"), None);
    }

    #[test]
    fn json_members_of_the_wrong_kind_are_refused_and_null_means_absent() {
        let parse = |text: &str| IceServersRequest::parse(text.as_bytes());
        let wish = parse(r#"{"ttl":600,"username":"alice"}"#).expect("both");
        assert_eq!(
            wish,
            IceServersRequest {
                username: Some("alice".into()),
                ttl: Some(Duration::from_secs(600)),
                forced: false,
            }
        );
        assert!(parse(r#"{"forced":true}"#).expect("forced").forced);
        for defaults in ["", "  \r\n", "{}", r#"{"ttl":null,"username":null}"#] {
            assert_eq!(parse(defaults).expect(defaults), IceServersRequest::default());
        }
        for bad in [
            "[]",
            "1",
            "null x",
            r#"{"ttl":0}"#,
            r#"{"ttl":-1}"#,
            r#"{"ttl":1.5}"#,
            r#"{"ttl":"600"}"#,
            r#"{"ttl":1e400}"#,
            r#"{"username":7}"#,
            r#"{"forced":1}"#,
            r#"{"forced":"true"}"#,
            r#"{"tttl":7}"#,
            "{",
            "\u{feff}{}",
        ] {
            parse(bad).expect_err(bad);
        }
        IceServersRequest::parse(b"\xff").expect_err("not UTF-8");
        IceServersRequest::parse("[".repeat(8000).as_bytes()).expect_err("nested too deep");
    }

    #[test]
    fn a_parameter_given_twice_must_say_the_same() {
        let draft =
            RestDraftRequest::parse("service=turn&api=k&key=k&username=a%40b", b"").expect("both names of one key");
        assert_eq!(
            (draft.query_key.as_deref(), draft.username.as_deref()),
            (Some("k"), Some("a@b"))
        );
        RestDraftRequest::parse("key=a&api=b", b"").expect_err("two keys");
        RestDraftRequest::parse("ttl=1", b"ttl=2").expect_err("query against form");
        let draft = RestDraftRequest::parse("service=turn", b"key=secret&ttl=60").expect("form");
        assert_eq!((draft.query_key, draft.form_key.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn only_a_bearer_header_names_a_key() {
        let headers = |value: &[u8]| {
            HeaderMap::from_iter([(
                header::AUTHORIZATION,
                axum::http::HeaderValue::from_bytes(value).expect("header"),
            )])
        };
        for good in [&b"Bearer k"[..], b"bearer k", b"BEARER   k "] {
            assert_eq!(bearer(&headers(good)).expect("good"), Some(&b"k"[..]));
        }
        for bad in [&b"Bearer"[..], b"Bearer ", b"Basic a2V5", b"k", b""] {
            bearer(&headers(bad)).expect_err("bad");
        }
        assert_eq!(bearer(&HeaderMap::new()).expect("none"), None);
    }
}
