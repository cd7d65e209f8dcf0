//! Errors of ACME orders, worded for the operator.

use core::fmt;

use rustls_acme::OrderError;
use rustls_acme::acme::{AcmeError, Auth, ChallengeType, Identifier};
use serde_json::Value;

use crate::machine::certificate::TlsError;

/// Why there is no certificate.
#[derive(Debug)]
pub(super) enum Problem {
    /// The authority could not reach this server by a name. Holds the name, and the authority's
    /// reason.
    NotFound { name: String, detail: String },
    /// The authority refuses.
    Refused(String),
    /// The connection to the authority fails.
    Unreachable(String),
    /// The authority does not answer, or never decides.
    Silence,
    /// Account or certificate cannot be stored.
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
            Self::Unreachable(why) => write!(f, "the connection to it fails: {why}"),
            Self::Silence => f.write_str("it does not come to a decision. Its status page may say why"),
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
                refusal(&text).map_or_else(|| Self::Unreachable(transport(&text)), Self::Refused)
            }
            OrderError::Acme(AcmeError::Io(error)) => Self::Unreachable(transport(&format!("{error:?}"))),
            OrderError::Acme(AcmeError::Json(_) | AcmeError::MissingHeader(_)) => {
                Self::Unreachable("what answers is no ACME server; check `tls.acme.directory`".to_owned())
            }
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

/// Translates the library's error to a cause and what to check. The library embeds errors of the
/// system and of TLS in Rust's debug format, and gives no other access to them.
fn transport(text: &str) -> String {
    const KNOWN: [(&[&str], &str); 10] = [
        (
            &["UnknownIssuer", "CaUsedAsEndEntity", "SelfSigned"],
            "its certificate is from an authority this server does not know; set `tls.acme.root` to that authority's \
             root certificate, or look for a proxy that ends TLS in between",
        ),
        (
            &["NotValidForName"],
            "its certificate is for another name; check the host in `tls.acme.directory`",
        ),
        (
            &["Expired", "NotValidYet"],
            "its certificate is not valid at the time of this machine; check its clock with `date`",
        ),
        (
            &["InvalidContentType", "InvalidMessage", "CorruptMessage"],
            "what answers does not speak TLS; check the port in `tls.acme.directory`",
        ),
        (
            &["ConnectionRefused"],
            "the connection is refused; check host and port in `tls.acme.directory`, and the firewall",
        ),
        (
            &["NetworkUnreachable", "HostUnreachable", "NetworkDown"],
            "there is no way to it; check this machine's addresses and routes",
        ),
        (
            &["TimedOut", "timed out"],
            "it does not answer in time; let connections to its TCP port out of this network",
        ),
        (
            &[
                "failed to lookup",
                "Name or service not known",
                "Temporary failure in name",
                "resolve",
                "InvalidDnsName",
            ],
            "its name cannot be looked up; check `tls.acme.directory` and this machine's name servers",
        ),
        (
            &["ConnectionReset", "UnexpectedEof", "BrokenPipe", "ConnectionAborted"],
            "it closes the connection; a firewall or proxy in between may be why",
        ),
        (
            &["AlertReceived", "HandshakeFailure", "TlsConnect"],
            "the TLS handshake fails; look for a proxy that ends TLS in between",
        ),
    ];
    if let Some((_, rest)) = text.split_once("non 2xx http status: ") {
        let status = rest.split(' ').next().unwrap_or_default();
        return format!("it answers with HTTP status {status}; check `tls.acme.directory`");
    }
    let known = KNOWN
        .iter()
        .find(|(words, _)| words.iter().any(|word| text.contains(word)));
    known.map_or_else(
        || "the request fails; check that connections to it are let out of this network".to_owned(),
        |(_, told)| (*told).to_owned(),
    )
}

/// The detail of a problem document (RFC 7807) that the library's error quotes.
fn refusal(text: &str) -> Option<String> {
    let start = text.find("\"{")?;
    let body = text[start..].strip_prefix('"')?.strip_suffix('"')?;
    // Rust's escapes; those that occur in JSON mean the same there.
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
    fn transport_errors_are_one_sentence_with_what_to_check_and_no_rust() {
        for (text, check) in [
            (
                "http error: ConnectError(TlsConnect(Custom { kind: InvalidData, error: InvalidCertificate(UnknownIssuer) }))",
                "tls.acme.root",
            ),
            (
                "http error: ConnectError(TcpConnect(Os { code: 111, kind: ConnectionRefused, message: \"x\" }))",
                "firewall",
            ),
            (
                "http error: ConnectError(TcpConnect(Os { code: 110, kind: TimedOut, message: \"x\" }))",
                "let connections",
            ),
            (
                "io error: Custom { kind: Uncategorized, error: \"failed to lookup address information\" }",
                "name servers",
            ),
            (
                "http error: X(InvalidCertificate(NotValidForNameContext { expected: A }))",
                "another name",
            ),
            ("http error: X(InvalidCertificate(ExpiredContext { time: A }))", "clock"),
            ("http error: X(InvalidMessage(InvalidContentType))", "port"),
            ("non 2xx http status: 404 \"<html>\"", "status 404"),
            ("http error: X(Os { kind: NetworkUnreachable })", "routes"),
            ("http error: X(Os { kind: ConnectionReset })", "closes"),
            (
                "http error: X(TlsConnect(AlertReceived(HandshakeFailure)))",
                "handshake",
            ),
            ("something { new: Here }", "let out"),
        ] {
            let told = Problem::Unreachable(transport(text)).to_string();
            assert!(told.contains(check), "{told}");
            assert!(!told.contains(['{', '}', '(', ')', '"']), "{told}");
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

    #[test]
    fn what_an_order_ends_in_is_told_by_its_kind() {
        let order = |error: &str| {
            let text = format!(r#"{{"status":"invalid","identifiers":[],"authorizations":[],"finalize":"u"{error}}}"#);
            serde_json::from_str(&text).expect("an order")
        };
        let told = |error: OrderError| Problem::from(error).to_string();
        let refused = order(r#","error":{"type":"x","detail":"a.test is blocked"}"#);
        assert_eq!(told(OrderError::BadOrder(refused)), "it refuses: a.test is blocked");
        assert_eq!(told(OrderError::BadOrder(order(""))), "it refuses: it gives no reason");
        let silent = told(OrderError::ProcessingTimeout(order("")));
        assert!(silent.contains("does not come to a decision"), "{silent}");
        let trying = told(OrderError::TooManyAttemptsAuth("a.test".into()));
        assert!(trying.contains("a.test (it is still trying)"), "{trying}");
        let header = told(OrderError::Acme(AcmeError::MissingHeader("location")));
        assert!(header.contains("no ACME server"), "{header}");
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let refused = told(OrderError::Acme(AcmeError::Io(io)));
        assert!(refused.contains("the connection is refused"), "{refused}");
    }
}
