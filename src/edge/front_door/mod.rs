//! The TCP side of every listener: accepts connections and finds their destination.
//!
//! ```text
//! accept -> admission -> [PROXY header] -> first byte --0x16--> ClientHello --its name--> backend, still encrypted
//!                                              |                    '--> TLS handshake -> first plaintext --STUN--> shard
//!                                              |                                 credentials API, upstream <--HTTP--'
//!                                              '--STUN, ChannelData--> shard
//! ```
//!
//! Nothing but accept waits in the accept loop. Each stage has a deadline, and each connection one
//! [`ConnectionOutcome`]. Unclassified connections share a bounded pool; when it is full, the
//! source with the most loses one ([`crate::base::shares`]), so half-open connections cannot
//! exclude others. First bytes are passed on with the connection. Bytes that failed as TURN are not
//! tried as HTTP, nor the reverse, and ALPN binds a client to its protocol.

mod accept;
mod admission;
mod backend;
mod backends;
mod classify;
mod connection;
mod connection_info;
mod counters;
mod headers;
mod http;
mod pace;
mod places;
mod preface;
pub mod proxy;
mod routes;
mod socket;
mod splice;
mod stop;
mod upstream;

use core::time::Duration;
use std::sync::Arc;

use self::admission::Admission;
pub use self::backend::{BackendCounters, Failure, Forwarded};
pub use self::backends::Backends;
pub use self::counters::{AcceptError, ConnectionOutcome, FrontDoorCounters};
pub use self::splice::SpliceEnd;
use super::certificates::TlsStore;
use crate::config::settings::{ListenerSettings, StreamSettings};
use crate::shard::LogClient;
use crate::shard::stream_intake::NewStream;

/// The protocols of a listener over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// Plain STUN and TURN.
    pub tcp: bool,
    /// STUN and TURN over TLS.
    pub tls: bool,
    /// HTTPS.
    pub https: bool,
}

impl From<&ListenerSettings> for Accepts {
    fn from(listener: &ListenerSettings) -> Self {
        Self {
            tcp: listener.tcp,
            tls: listener.tls,
            https: listener.https,
        }
    }
}

/// Limits of the front door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontDoorLimits {
    /// Open connections in total, including those in the shards.
    pub connections: usize,
    /// Open connections per source (IPv4 address, IPv6 /64).
    pub connections_per_source: usize,
    /// Open connections per network (IPv4 /24, IPv6 /48).
    pub connections_per_network: usize,
    /// New connections per second and source, after a burst of `connections_per_source`. A network
    /// may open as many times more as it may have connections.
    pub new_connections_per_second: u32,
    /// Connections that are not classified yet. Above it, the source with the most of them loses
    /// one.
    pub unproven: usize,
    /// For the first byte and the TLS handshake together, and again for the first plaintext.
    pub handshake_timeout: Duration,
    /// For the header of an HTTP request, including the pause before it.
    pub http_header_timeout: Duration,
    /// An HTTP connection is closed after this, however many requests it carried.
    pub http_lifetime: Duration,
    /// For HTTP requests to finish when the server stops.
    pub stop_timeout: Duration,
}

impl From<&StreamSettings> for FrontDoorLimits {
    fn from(settings: &StreamSettings) -> Self {
        Self {
            connections: settings.max_connections,
            connections_per_source: settings.max_connections_per_ip,
            connections_per_network: settings.max_connections_per_network,
            new_connections_per_second: settings.max_new_connections_per_second,
            // The rest is left to classified connections.
            unproven: settings.max_handshakes.min(settings.max_connections / 2),
            handshake_timeout: settings.handshake_timeout,
            http_header_timeout: Duration::from_secs(5),
            http_lifetime: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(2),
        }
    }
}

/// One for the whole process: all listeners share its limits.
pub struct FrontDoor {
    limits: FrontDoorLimits,
    log_client: LogClient,
    tls: Option<Arc<TlsStore>>,
    http: axum::Router,
    backends: Backends,
    streams: Box<dyn Fn(NewStream) + Send + Sync>,
    admission: Admission,
    counters: Arc<FrontDoorCounters>,
}

impl FrontDoor {
    /// `log_client` is how much of a client's address log lines show. `tls` is required if a
    /// listener serves TLS or HTTPS. `http` answers requests; it finds the client's address as
    /// `axum::extract::ConnectInfo<SocketAddr>`. `backends` are the servers that others are
    /// forwarded to. `streams` takes TURN clients and must not block.
    pub fn new(
        limits: FrontDoorLimits,
        log_client: LogClient,
        tls: Option<Arc<TlsStore>>,
        http: axum::Router,
        backends: Backends,
        streams: impl Fn(NewStream) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let counters = Arc::new(FrontDoorCounters::default());
        let admission = Admission::new(&limits);
        Arc::new(Self {
            limits,
            log_client,
            tls,
            http,
            backends,
            streams: Box::new(streams),
            admission,
            counters,
        })
    }

    /// The outcome of connections so far.
    pub fn counters(&self) -> &Arc<FrontDoorCounters> {
        &self.counters
    }

    /// The servers behind it.
    pub const fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Connections open now, including those in the shards.
    pub fn open_connections(&self) -> usize {
        self.admission.open()
    }

    /// Connections closed because there were too many and their source had the most.
    pub fn displaced_connections(&self) -> u64 {
        self.admission.displaced()
    }

    /// Connections that are not classified yet.
    pub fn unproven_connections(&self) -> usize {
        self.admission.unproven()
    }
}

impl core::fmt::Debug for FrontDoor {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FrontDoor")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
