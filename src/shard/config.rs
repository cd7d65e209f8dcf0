//! How the shards work. Nothing in it concerns the protocol.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::log::LogClient;
#[cfg(feature = "dtls")]
use super::table::dtls::DtlsConfig;
use super::table::http3::Http3Config;
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
    /// Listeners for TCP that are bound to loopback: clients from there are nobody's proxy.
    pub local_listeners: Vec<SocketAddr>,
    /// Called first thing in each worker's thread: to pin it to a core, or to restrict what it may do.
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
                // The memory is used only while packets wait in it; the system's maximum may be lower.
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
