//! Why there is no certificate, in words for an operator.

use core::fmt;

use rustls_acme::OrderError;
use rustls_acme::acme::{AcmeError, Auth, ChallengeType, Identifier};
use serde_json::Value;

use super::super::tls_store::TlsError;

/// What is in the way.
#[derive(Debug)]
pub(super) enum Problem {
    /// The authority has looked for us at a name, and not found us: the name, and what it says.
    NotFound { name: String, detail: String },
    /// The authority says no.
    Refused(String),
    /// The authority cannot be talked to.
    Unreachable(String),
    /// It does not answer, or never decides.
    Silence,
    /// Account or certificate cannot be kept.
    Kept(TlsError),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { name, detail } => write!(
                f,
                "it could not reach this server as {name} ({detail}). TCP port 443 of {name} must lead to a TLS listener \
                 here: check the name's A and AAAA records, firewalls, and that no proxy in between ends TLS"
            ),
            Self::Refused(detail) => write!(f, "it refuses: {detail}"),
            Self::Unreachable(error) => write!(
                f,
                "it cannot be talked to ({error}). Connections to it must be let out; if its own certificate is from a \
                 private authority, set `tls.acme.root`"
            ),
            Self::Silence => f.write_str("it does not come to a decision. Its own state page may say why"),
            Self::Kept(error) => write!(f, "{error}"),
            Self::Other(error) => f.write_str(error),
        }
    }
}

impl From<OrderError> for Problem {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::BadAuth(auth) => not_found(auth),
            OrderError::TooManyAttemptsAuth(name) => Self::NotFound {
                name,
                detail: "it is still trying".to_owned(),
            },
            OrderError::BadOrder(order) => {
                let detail = order.error.and_then(|error| error.detail);
                Self::Refused(detail.unwrap_or_else(|| "it gives no reason".to_owned()))
            }
            OrderError::ProcessingTimeout(_) => Self::Silence,
            OrderError::Acme(AcmeError::HttpRequest(error)) => {
                let text = error.to_string();
                refusal(&text).map_or_else(|| Self::Unreachable(text), Self::Refused)
            }
            OrderError::Acme(AcmeError::Io(error)) => Self::Unreachable(error.to_string()),
            other => Self::Other(other.to_string()),
        }
    }
}

fn not_found(auth: Auth) -> Problem {
    let Identifier::Dns(name) = auth.identifier;
    let ours = auth
        .challenges
        .into_iter()
        .filter(|it| it.typ == ChallengeType::TlsAlpn01);
    let detail = ours.filter_map(|challenge| challenge.error?.detail).next();
    Problem::NotFound {
        name,
        detail: detail.unwrap_or_else(|| "it gives no reason".to_owned()),
    }
}

/// What a problem document (RFC 7807) says that is quoted in the text of the library's error.
fn refusal(text: &str) -> Option<String> {
    let start = text.find("\"{")?;
    let body = text[start..].strip_prefix('"')?.strip_suffix('"')?;
    // Rust's escapes, of which those in JSON are the same in JSON.
    let body: Value =
        serde_json::from_str(&body.replace("\\\"", "\"").replace("\\\\", "\\").replace("\\n", "\n")).ok()?;
    Some(body["detail"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authoritys_own_words_are_told() {
        let body = "{\n \"type\": \"urn:ietf:params:acme:error:rateLimited\",\n \"detail\": \"too many \\\"failures\\\" for a.test\"\n}";
        let text = format!("non 2xx http status: 429 {body:?}");
        assert_eq!(refusal(&text).as_deref(), Some("too many \"failures\" for a.test"));
        for text in ["io error: Kind(NotFound)", "non 2xx http status: 502 \"<html>\"", ""] {
            assert_eq!(refusal(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_that_does_not_lead_here_is_told_with_what_to_check() {
        let auth = r#"{"status":"invalid","identifier":{"type":"dns","value":"a.test"},"challenges":[
            {"type":"http-01","url":"u","token":"t"},
            {"type":"tls-alpn-01","url":"u","token":"t","error":{"type":"x","detail":"connection refused"}}]}"#;
        let auth: Auth = serde_json::from_str(auth).expect("an authorization");
        let text = Problem::from(OrderError::BadAuth(auth)).to_string();
        for part in ["a.test", "connection refused", "port 443", "A and AAAA"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
