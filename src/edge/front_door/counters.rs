//! The outcome of connections. Labels come from closed sets.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The outcome of a connection at the front door. Every accepted connection has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionOutcome {
    /// Plain TURN: passed to a shard.
    Tcp,
    /// TURN over TLS: passed to a shard.
    Tls,
    /// HTTPS: served.
    Https,
    /// Forwarded to a backend by its server name, still encrypted.
    Routed,
    /// The backend of its server name could not be reached.
    BackendDown,
    /// The backends have too many connections and requests.
    TooManyRouted,
    /// Refused: too many connections in total.
    TooManyConnections,
    /// Refused: too many connections from one source.
    TooManyFromSource,
    /// Refused: too many connections from one network.
    TooManyFromNetwork,
    /// Refused: the source, or its network, opens connections too fast.
    TooFast,
    /// Lost its place to another connection before it was classified: its source had the most.
    Evicted,
    /// No first byte in time, or too few to classify it.
    Silent,
    /// Sent a PROXY header, or connected where only proxies may, and is no trusted proxy.
    UntrustedProxy,
    /// A trusted proxy sent no PROXY header, a malformed one, or one with the addresses of another
    /// open connection.
    BadProxyHeader,
    /// TLS handshake not complete in time.
    HandshakeTimeout,
    /// TLS handshake failed: no common version, cipher or ALPN, or no TLS at all.
    HandshakeFailed,
    /// After the handshake, too few bytes in time to classify it.
    SilentTls,
    /// The client closed first.
    ClientClosed,
    /// A protocol this listener does not serve.
    NotServed,
    /// Unknown protocol.
    Unrecognised,
    /// The server stopped first.
    Stopped,
    /// A bug: its task panicked.
    Panicked,
}

impl ConnectionOutcome {
    /// Every outcome: `ALL[x as usize] == x`.
    pub const ALL: [Self; 22] = [
        Self::Tcp,
        Self::Tls,
        Self::Https,
        Self::Routed,
        Self::BackendDown,
        Self::TooManyRouted,
        Self::TooManyConnections,
        Self::TooManyFromSource,
        Self::TooManyFromNetwork,
        Self::TooFast,
        Self::Evicted,
        Self::Silent,
        Self::UntrustedProxy,
        Self::BadProxyHeader,
        Self::HandshakeTimeout,
        Self::HandshakeFailed,
        Self::SilentTls,
        Self::ClientClosed,
        Self::NotServed,
        Self::Unrecognised,
        Self::Stopped,
        Self::Panicked,
    ];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
            Self::Routed => "routed",
            Self::BackendDown => "backend_down",
            Self::TooManyRouted => "too_many_routed",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyFromSource => "too_many_from_source",
            Self::TooManyFromNetwork => "too_many_from_network",
            Self::TooFast => "too_fast",
            Self::Evicted => "evicted",
            Self::Silent => "silent",
            Self::UntrustedProxy => "untrusted_proxy",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeFailed => "handshake_failed",
            Self::SilentTls => "silent_tls",
            Self::ClientClosed => "client_closed",
            Self::NotServed => "not_served",
            Self::Unrecognised => "unrecognised",
            Self::Stopped => "stopped",
            Self::Panicked => "panicked",
        }
    }
}

/// Why an accept failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// The connection was closed already, or the network failed.
    Connection,
    /// This process or machine is out of file descriptors or memory.
    Exhausted,
}

impl AcceptError {
    /// Every kind: `ALL[x as usize] == x`.
    pub const ALL: [Self; 2] = [Self::Connection, Self::Exhausted];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Exhausted => "exhausted",
        }
    }
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct FrontDoorCounters {
    accepted: AtomicU64,
    outcomes: [AtomicU64; ConnectionOutcome::ALL.len()],
    accept_errors: [AtomicU64; AcceptError::ALL.len()],
    shed: AtomicU64,
}

impl FrontDoorCounters {
    pub(super) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(super) fn count(&self, outcome: ConnectionOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_accept_error(&self, error: AcceptError) {
        self.accept_errors[error as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_shed(&self) {
        self.shed.fetch_add(1, Relaxed);
    }

    /// Connections accepted. Those without an outcome are still being classified.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Connections with this outcome.
    pub fn outcome(&self, outcome: ConnectionOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    /// Accepts that failed.
    pub fn accept_errors(&self, error: AcceptError) -> u64 {
        self.accept_errors[error as usize].load(Relaxed)
    }

    /// Connections closed at once for lack of a file descriptor.
    pub fn shed(&self) -> u64 {
        self.shed.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_place_and_label() {
        for (index, outcome) in ConnectionOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            assert_eq!(
                ConnectionOutcome::ALL
                    .iter()
                    .filter(|other| other.as_str() == outcome.as_str())
                    .count(),
                1
            );
        }
        for (index, error) in AcceptError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, index);
        }
    }

    #[test]
    fn what_could_not_be_accepted_is_counted_by_its_reason() {
        assert_eq!(AcceptError::ALL.map(AcceptError::as_str), ["connection", "exhausted"]);
        let counters = FrontDoorCounters::default();
        assert_eq!(counters.shed(), 0);
        for _ in 0..3 {
            counters.count_shed();
        }
        counters.count_accept_error(AcceptError::Exhausted);
        assert_eq!(counters.shed(), 3);
        assert_eq!(AcceptError::ALL.map(|error| counters.accept_errors(error)), [0, 1]);
    }
}
