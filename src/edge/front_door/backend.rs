//! A server behind the front door, the limits that all of them share, and the outcome of
//! forwarding.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::pace::BodyPace;
use super::places::BackendPlaces;
use super::splice::SpliceEnd;
use crate::config::settings::{BackendAddress, FrontDoorSettings};
use crate::edge::backend_addresses::BackendAddresses;

/// The outcome of a request for the web server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The web server answered.
    Answered,
    /// It accepted WebSocket.
    Upgraded,
    /// It failed, and the client gets an error.
    Failed(Failure),
}

/// Why the web server gave no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not forwarded: no single Host, CONNECT, or no path.
    Refused,
    /// Not forwarded: the backends have too many connections and requests.
    Busy,
    /// The connection to the web server failed.
    Unreachable,
    /// It answered with something that is not HTTP, or closed the connection.
    Unusable,
    /// It did not answer in time.
    Late,
    /// The request's body arrived too slowly.
    Slow,
}

impl Forwarded {
    /// Every one: `ALL[x.index()] == x`.
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::Upgraded,
        Self::Failed(Failure::Refused),
        Self::Failed(Failure::Busy),
        Self::Failed(Failure::Unreachable),
        Self::Failed(Failure::Unusable),
        Self::Failed(Failure::Late),
        Self::Failed(Failure::Slow),
    ];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Answered => 0,
            Self::Upgraded => 1,
            Self::Failed(why) => 2 + why as usize,
        }
    }

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Upgraded => "upgraded",
            Self::Failed(Failure::Refused) => "refused",
            Self::Failed(Failure::Busy) => "busy",
            Self::Failed(Failure::Unreachable) => "unreachable",
            Self::Failed(Failure::Unusable) => "unusable",
            Self::Failed(Failure::Late) => "late",
            Self::Failed(Failure::Slow) => "slow",
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Refused => (StatusCode::BAD_REQUEST, "This request cannot be forwarded.\n"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "Too many requests at a time.\n"),
            Self::Unreachable => (
                StatusCode::BAD_GATEWAY,
                "The server behind this one cannot be reached.\n",
            ),
            Self::Unusable => (
                StatusCode::BAD_GATEWAY,
                "The server behind this one gave no usable answer.\n",
            ),
            Self::Late => (
                StatusCode::GATEWAY_TIMEOUT,
                "The server behind this one did not answer in time.\n",
            ),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "The request came too slowly.\n"),
        };
        (status, text).into_response()
    }
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct BackendCounters {
    ends: [AtomicU64; SpliceEnd::ALL.len()],
    forwarded: [AtomicU64; Forwarded::ALL.len()],
}

impl BackendCounters {
    pub(super) fn count_end(&self, end: SpliceEnd) {
        self.ends[end as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_forwarded(&self, forwarded: Forwarded) {
        self.forwarded[forwarded.index()].fetch_add(1, Relaxed);
    }

    /// Spliced connections with this end.
    pub fn ends(&self, end: SpliceEnd) -> u64 {
        self.ends[end as usize].load(Relaxed)
    }

    /// Requests for the web server with this outcome.
    pub fn forwarded(&self, forwarded: Forwarded) -> u64 {
        self.forwarded[forwarded.index()].load(Relaxed)
    }
}

/// Limits of forwarding, shared by all backends.
#[derive(Clone, Debug)]
pub(super) struct BackendBounds {
    pub(super) places: BackendPlaces,
    /// For the lookup of the backend's name and the connect.
    pub(super) connect_timeout: Duration,
    /// For the first byte of an HTTP response.
    pub(super) answer_timeout: Duration,
    /// For the first bytes from both ends.
    pub(super) first_bytes_timeout: Duration,
    /// The required pace of a request's body.
    pub(super) pace: BodyPace,
    /// A connection without any bytes is closed after this.
    pub(super) idle_timeout: Duration,
}

impl BackendBounds {
    pub(super) fn new(settings: &FrontDoorSettings) -> Self {
        Self {
            places: BackendPlaces::new(settings.connections),
            connect_timeout: settings.connect_timeout,
            answer_timeout: settings.answer_timeout,
            first_bytes_timeout: settings.first_bytes_timeout,
            pace: BodyPace::from(settings),
            idle_timeout: settings.idle_timeout,
        }
    }
}

/// One server.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) address: BackendAddress,
    pub(super) addresses: BackendAddresses,
}

impl Backend {
    pub(super) fn new(address: BackendAddress, addresses: &BackendAddresses) -> Self {
        Self {
            address,
            addresses: addresses.clone(),
        }
    }

    /// Connects to the first address that answers.
    pub(super) async fn connect(&self, bounds: &BackendBounds) -> Option<TcpStream> {
        let connecting = async {
            let found = self.addresses.look_up(&self.address).await?;
            TcpStream::connect(&found[..]).await
        };
        match timeout(bounds.connect_timeout, connecting).await {
            Ok(Ok(socket)) => Some(socket),
            Ok(Err(error)) => {
                self.tell_failure(&error.to_string());
                None
            }
            Err(_) => {
                self.tell_failure("no answer in time");
                None
            }
        }
    }

    /// Logs the failure for the operator.
    pub(super) fn tell_failure(&self, error: &str) {
        tracing::warn!(
            backend = %self.address,
            error,
            "a backend of the front door cannot be reached, so its clients are refused; check that it runs at this address"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_requests_is_counted_apart() {
        for (index, forwarded) in Forwarded::ALL.into_iter().enumerate() {
            assert_eq!(forwarded.index(), index);
            let label = forwarded.as_str();
            assert_eq!(Forwarded::ALL.iter().filter(|other| other.as_str() == label).count(), 1);
        }
    }
}
