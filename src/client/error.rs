//! Errors between client and server.

use core::fmt;
use core::time::Duration;
use std::error::Error;
use std::io;

use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::error_code;
use relay_proto::wire::message::{Message, Method};

/// Why a request has no success response.
#[derive(Debug)]
pub enum ClientError {
    /// The socket failed in this call.
    Io(&'static str, io::Error),
    /// The TLS session failed.
    Tls(rustls::Error),
    /// No response to a request of this method arrived within the timeout.
    Timeout(Method, Duration),
    /// An error response.
    Refused(ServerRefusal),
    /// The response is not STUN or TURN, or lacks a required attribute.
    Malformed(&'static str),
}

/// An error response (RFC 8489 §6.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRefusal {
    /// Method of the request.
    pub method: Method,
    /// ERROR-CODE, 300..=699.
    pub code: u16,
    /// The server's reason phrase, or the RFC's if the server sends none.
    pub reason: String,
    /// SOFTWARE, if the response has it.
    pub software: Option<String>,
}

impl ServerRefusal {
    /// Reads an error response. `None`: it has no valid ERROR-CODE.
    pub(crate) fn of(method: Method, response: &Message<'_>) -> Option<Self> {
        let error = error_code::decode(response.attribute(AttributeType::ERROR_CODE)?).ok()?;
        let reason = printable(error.reason);
        Some(Self {
            method,
            code: error.code,
            reason: if reason.is_empty() {
                error_code::reason(error.code).to_owned()
            } else {
                reason
            },
            software: response.attribute(AttributeType::SOFTWARE).map(printable),
        })
    }
}

/// A server's text for a terminal or a log, without characters that move the cursor or forge a
/// line.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars()
        .filter(|c| !c.is_control())
        .collect::<String>()
        .trim()
        .to_owned()
}

impl fmt::Display for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} {}", self.method, self.code, self.reason)?;
        match &self.software {
            Some(software) => write!(f, " (server: {software})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(action, error) => write!(f, "{action}: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Timeout(method, after) => write!(f, "{method:?}: no answer within {} s", after.as_secs()),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Malformed(what) => write!(f, "the server answers with {what}"),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::Timeout(..) | Self::Refused(_) | Self::Malformed(_) => None,
        }
    }
}

impl From<rustls::Error> for ClientError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

#[cfg(test)]
mod tests {
    use relay_proto::wire::message::{Class, TransactionId};
    use relay_proto::wire::writer::MessageWriter;

    use super::*;

    fn refusal(fill: impl FnOnce(&mut MessageWriter<'_>)) -> Option<ServerRefusal> {
        let mut buffer = [0; 256];
        let mut writer = MessageWriter::new(&mut buffer, Class::Error, Method::Allocate, TransactionId([7; 12]));
        fill(&mut writer);
        let length = writer.finish().unwrap();
        ServerRefusal::of(Method::Allocate, &Message::parse(&buffer[..length]).unwrap())
    }

    #[test]
    fn an_error_response_is_reported_in_the_words_of_the_server() {
        let said = refusal(|writer| {
            writer.attribute(AttributeType::ERROR_CODE, b"\0\0\x05\x08No\x1b[2J room\n");
            writer.attribute(AttributeType::SOFTWARE, b"other 4.6\r\nrelay bench: done");
        });
        assert_eq!(
            said.unwrap().to_string(),
            "Allocate: 508 No[2J room (server: other 4.6relay bench: done)"
        );
        let silent = refusal(|writer| {
            writer.attribute(AttributeType::ERROR_CODE, &error_code::header(0, 486));
        });
        assert_eq!(silent.unwrap().to_string(), "Allocate: 486 Allocation Quota Reached");
        assert_eq!(refusal(|_| {}), None);
    }
}
