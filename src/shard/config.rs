//! How the shards work. Nothing in it concerns the protocol.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::log::LogClient;
#[cfg(feature = "dtls")]
use crate::net::dtls::SharedContext;
use crate::net::stream::StreamLimits;
use crate::net::udp::UdpOptions;

/// What a worker calls with its index when its thread starts.
pub type ThreadStart = Arc<dyn Fn(usize) + Send + Sync>;

/// How the shards work. Nothing in it concerns the protocol.
#[derive(Clone)]
pub struct ShardConfig {
    /// Bounds of one stream.
    pub stream: StreamLimits,
    /// A stream is closed after this long without an allocation.
    pub idle_timeout: Duration,
    /// Answers a stream or DTLS association has before it logs in; then it is closed.
    pub unauthenticated_requests: u32,
    /// Lines about allocations, per second.
    pub allocation_lines: u32,
    /// TURN over DTLS; `None`: not served.
    #[cfg(feature = "dtls")]
    pub dtls: Option<DtlsConfig>,
    /// QUIC for a web server behind this one; `None`: there is none.
    pub http3: Option<Http3Config>,
    /// How relay sockets are set up.
    pub relay: UdpOptions,
    /// Receive slots of a shard, 64 KiB each: what it takes in before it sends.
    pub slots: usize,
    /// Bytes of the mailbox between each two shards.
    pub mailbox: usize,
    /// Longest pause to let packets gather at moderate load (`shard::pace`); zero: none.
    pub pause: Duration,
    /// How much of a client's address the log shows.
    pub log_client: LogClient,
    /// Listeners for TCP that are bound to loopback: a client from there is not taken for a proxy.
    pub local_listeners: Vec<SocketAddr>,
    /// Called first thing in each worker's thread: to pin it to a core, or to restrict what it may
    /// do.
    pub on_thread_start: Option<ThreadStart>,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            stream: StreamLimits::default(),
            idle_timeout: Duration::from_secs(10),
            unauthenticated_requests: 16,
            allocation_lines: 1000,
            #[cfg(feature = "dtls")]
            dtls: None,
            http3: None,
            relay: UdpOptions {
                // The memory is used only while packets wait in it; the system's maximum may be
                // lower.
                receive_buffer: 1 << 20,
                send_buffer: 1 << 20,
                offload: true,
                errors: true,
                traffic_class: true,
            },
            slots: 64,
            mailbox: 256 * 1024,
            pause: Duration::from_micros(100),
            log_client: LogClient::Full,
            local_listeners: Vec::new(),
            on_thread_start: None,
        }
    }
}

impl fmt::Debug for ShardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardConfig")
            .field("stream", &self.stream)
            .field("idle_timeout", &self.idle_timeout)
            .field("relay", &self.relay)
            .field("slots", &self.slots)
            .field("mailbox", &self.mailbox)
            .field("pause", &self.pause)
            .field("log_client", &self.log_client)
            .finish_non_exhaustive()
    }
}

/// Time for a handshake, unless the configuration says otherwise.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// New connections or associations per second and source, after a burst, unless the configuration
/// says otherwise.
pub const NEW_PER_SECOND: u32 = 20;

/// Limits of DTLS clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DtlsLimits {
    /// Longest IP packet in bytes that carries a record to a client.
    pub mtu: usize,
    /// Associations of all shards together.
    pub associations: u32,
    /// Of these, from one source (IPv4 address, IPv6 /64).
    pub associations_per_ip: u32,
    /// Of these, from one network (IPv4 /24, IPv6 /48).
    pub associations_per_network: u32,
    /// Associations a cookie is good for.
    pub associations_per_cookie: u32,
    /// Handshakes under way in one shard; beyond it the source with the most loses one.
    pub handshakes: usize,
}

impl Default for DtlsLimits {
    fn default() -> Self {
        Self {
            mtu: 1500,
            associations: 16_384,
            associations_per_ip: 256,
            associations_per_network: 4096,
            associations_per_cookie: 4,
            handshakes: 512,
        }
    }
}

/// How DTLS is served.
#[cfg(feature = "dtls")]
#[derive(Clone)]
pub struct DtlsConfig {
    /// The certificates, to be swapped while associations live.
    pub contexts: SharedContext,
    /// Limits of clients.
    pub limits: DtlsLimits,
    /// Associations of a source that may begin in a second, once `associations_per_ip` have begun
    /// at once; of a network as many times that as it may have.
    pub new_associations_per_second: u32,
    /// A handshake must be complete within this.
    pub handshake_timeout: Duration,
    /// For tests: lost flights are sent again after 100 ms instead of a second.
    pub quick_retransmission: bool,
}

#[cfg(feature = "dtls")]
impl DtlsConfig {
    /// With `contexts`, and the defaults of the configuration file.
    pub fn new(contexts: SharedContext) -> Self {
        Self {
            contexts,
            limits: DtlsLimits::default(),
            new_associations_per_second: NEW_PER_SECOND,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            quick_retransmission: false,
        }
    }
}

/// Where the backend is; `None` while that is not known.
pub type SharedBackend = Arc<ArcSwapOption<SocketAddr>>;

/// Limits of HTTP/3 clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http3Limits {
    /// Flows of all shards together, at most [`Self::MOST_FLOWS`].
    pub flows: u32,
    /// Of these, from one source (IPv4 address, IPv6 /64).
    pub flows_per_ip: u32,
    /// Of these, from one network (IPv4 /24, IPv6 /48).
    pub flows_per_network: u32,
    /// Flows that may begin in a second, in all shards together; the first ones of their sources
    /// before others.
    pub new_flows_per_second: u32,
    /// A flow on which nothing comes is forgotten after this.
    pub idle_timeout: Duration,
}

impl Http3Limits {
    /// Bound on [`Self::flows`].
    pub const MOST_FLOWS: u32 = 65_536;
}

impl Default for Http3Limits {
    fn default() -> Self {
        Self {
            flows: 4096,
            flows_per_ip: 256,
            flows_per_network: 2048,
            new_flows_per_second: 200,
            // Either end of a QUIC connection gives up sooner: browsers after 30 s, web servers
            // after 75 s at most.
            idle_timeout: Duration::from_secs(120),
        }
    }
}

/// How HTTP/3 is passed on.
#[derive(Clone, Debug)]
pub struct Http3Config {
    /// To be swapped when its name leads elsewhere; flows stay with the one they began with.
    pub backend: SharedBackend,
    /// Limits of clients.
    pub limits: Http3Limits,
    /// The client must have shown within this that it hears the backend.
    pub handshake_timeout: Duration,
}

impl Http3Config {
    /// With `backend`, and the defaults of the configuration file.
    pub fn new(backend: SharedBackend) -> Self {
        Self {
            backend,
            limits: Http3Limits::default(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }
}
