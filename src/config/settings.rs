//! The configuration after parsing, merging and checking: what the rest of `service` reads. No TOML here.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::machine::certificate::CertificateFiles;
use crate::machine::external::Plan;
use crate::net::stream::StreamLimits;
use crate::net::udp::UdpOptions;
use crate::shard::{DtlsLimits, Http3Limits};
use crate::turn;
use crate::turn::policy::PolicyConfig;

/// The whole effective configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The realm; also the host name in minted URIs unless [`ApiSettings::host`] says otherwise.
    pub realm: String,
    /// Secrets, nonces of first run and the self-signed certificate are kept here.
    pub state_dir: PathBuf,
    /// Worker threads (shards); resolved, at least 1.
    pub workers: usize,
    /// Everything that is listened on, resolved; `optional` where a bind failure is said and survived.
    pub listeners: Vec<ListenerSettings>,
    /// The core's part. Its `credentials` and `policy` are built from this file as well.
    pub turn: turn::config::Config,
    /// How the external addresses in `turn.relay` were found, and are looked for again.
    pub external: ExternalSettings,
    /// What `turn.policy` was made from, to be made again for other addresses.
    pub peers: PolicyConfig,
    /// Certificates for TLS listeners and the front door.
    pub tls: TlsSettings,
    /// Bounds on what strangers can make the server hold open.
    pub stream: StreamSettings,
    /// What is passed on to other servers.
    pub front_door: FrontDoorSettings,
    /// Receive and send buffers of UDP sockets and batch sizes.
    pub udp: UdpSettings,
    /// DTLS associations.
    pub dtls: DtlsLimits,
    /// Credentials API.
    pub api: ApiSettings,
    /// Metrics, health.
    pub admin: AdminSettings,
    /// Logs.
    pub log: LogSettings,
    /// How long a SIGTERM may take.
    pub shutdown_timeout: Duration,
    /// What first-run set-up did, to be told at start-up.
    pub first_run: FirstRun,
    /// Parts that a reload could not read: those in force stay.
    pub lacking: Vec<Part>,
}

/// A part of the configuration that a reload can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Secrets, users and keys: their files cannot be read.
    Credentials,
    /// Certificates cannot be used.
    Certificates,
}

impl Settings {
    /// Whether the configuration binds anybody to the forced path.
    pub fn forces_somebody(&self) -> bool {
        self.turn.forced.everyone
            || self.turn.credentials.has_forced_users()
            || (self.api.enabled && self.api.keys.iter().any(|key| key.forced))
    }
}

/// One address with the protocols accepted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// As written, for messages: `*:443`, `turn.example.org:3478`.
    pub label: String,
    /// Resolved; `*` becomes `0.0.0.0` and, where the machine has IPv6, `[::]` (IPV6_V6ONLY set).
    pub addresses: Vec<SocketAddr>,
    /// STUN and TURN over UDP.
    pub udp: bool,
    /// TURN over DTLS, on the same UDP socket.
    pub dtls: bool,
    /// Plain STUN and TURN over TCP.
    pub tcp: bool,
    /// TURN over TLS.
    pub tls: bool,
    /// HTTPS: the credentials API behind the same TLS.
    pub https: bool,
    /// From the built-in defaults: where the bind is not permitted, say so and serve the rest.
    pub optional: bool,
    /// Whether TCP clients come through proxies that tell whom they speak for.
    pub proxy_protocol: ProxyProtocol,
    /// Where those proxies are.
    pub trusted_proxies: Vec<IpNet>,
}

/// Who connects to a listener over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Clients. PROXY headers are refused from everybody.
    #[default]
    Off,
    /// Proxies, each connection with a PROXY header; and clients, whose PROXY headers are refused.
    Optional,
    /// Proxies alone, each connection with a PROXY header. Anybody else is refused.
    Required,
}

impl ListenerSettings {
    /// Whether TURN is spoken here over any transport.
    pub const fn carries_turn(&self) -> bool {
        self.udp || self.tcp || self.tls || self.dtls
    }

    /// For messages: `*:443 (udp, tls)`.
    pub fn describe(&self) -> String {
        let all = [
            (self.udp, "udp"),
            (self.tcp, "tcp"),
            (self.tls, "tls"),
            (self.dtls, "dtls"),
            (self.https, "https"),
        ];
        let spoken: Vec<_> = all
            .into_iter()
            .filter_map(|(speaks, name)| speaks.then_some(name))
            .collect();
        format!("{} ({})", self.label, spoken.join(", "))
    }
}

/// How external addresses are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalSettings {
    /// One for each family that is not off.
    pub plans: Vec<Plan>,
    /// How often to look again. `None`: at a reload only.
    pub recheck: Option<Duration>,
}

/// Where certificates come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The operator's, the default first.
    pub certificates: Vec<CertificateFiles>,
    /// One more is asked for by ACME, and comes behind them.
    pub acme: Option<AcmeSettings>,
    /// Where one of our own making is kept, in the state directory; it is made where there is no other. Clients will
    /// refuse it unless told otherwise.
    pub self_signed: CertificateFiles,
}

/// Whom to ask for a certificate, and for which names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// Account and certificate stand below it.
    pub state_dir: PathBuf,
    /// Host names, at least one.
    pub domains: Vec<String>,
    /// Mail address the authority may write to.
    pub contact: Option<String>,
    /// URL of the authority's directory (RFC 8555 §7.1.1).
    pub directory: String,
    /// PEM file with certificates to trust the authority by, besides the public ones.
    pub root: Option<PathBuf>,
    /// The account's key is kept here.
    pub account: PathBuf,
    /// Key and chain are kept here, in one file.
    pub kept: PathBuf,
}

/// Bounds on TCP and TLS clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// Open client connections in all.
    pub max_connections: usize,
    /// Open client connections per IP address.
    pub max_connections_per_ip: usize,
    /// Open client connections per network (IPv4 /24, IPv6 /48).
    pub max_connections_per_network: usize,
    /// New client connections per second and IP address, once `max_connections_per_ip` have come at once.
    pub max_new_connections_per_second: u32,
    /// Connections that have not shown yet what they want; over it the source with the most loses one.
    pub max_handshakes: usize,
    /// A TLS handshake, and the first bytes, must be complete within this.
    pub handshake_timeout: Duration,
    /// Without an allocation a stream is closed after this long.
    pub idle_timeout: Duration,
    /// Requests that are answered on a connection before it logs in.
    pub unauthenticated_requests: u32,
    /// Bounds of one stream.
    pub limits: StreamLimits,
}

/// Other servers behind the front door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontDoorSettings {
    /// Server names that are passed on still encrypted.
    pub routes: Vec<RouteSettings>,
    /// Names of this server, which no wildcard of a route takes away; lower case.
    pub own_names: Vec<String>,
    /// Where HTTP goes that is not ours.
    pub http_upstream: Option<BackendAddress>,
    /// Where QUIC goes, which is never ours.
    pub http3: Http3Settings,
    /// Connections and requests that may be with backends at a time.
    pub connections: usize,
    /// For connecting to a backend, looking up its name included.
    pub connect_timeout: Duration,
    /// For the first byte of an answer over HTTP.
    pub answer_timeout: Duration,
    /// For the first bytes of both ends of a connection, of a request's body, and for the answer to WebSocket.
    pub first_bytes_timeout: Duration,
    /// Bytes per second that the body of a request must keep up.
    pub body_rate: u64,
    /// How far it may fall behind that.
    pub body_pause: Duration,
    /// For the whole body of a request.
    pub body_timeout: Duration,
    /// A connection to a backend on which nothing moves is closed after this.
    pub idle_timeout: Duration,
}

impl FrontDoorSettings {
    /// Every server that something is passed on to.
    pub fn backends(&self) -> impl Iterator<Item = &BackendAddress> {
        let routes = self.routes.iter().map(|route| &route.backend);
        routes.chain(&self.http_upstream).chain(&self.http3.backend)
    }
}

impl Default for FrontDoorSettings {
    fn default() -> Self {
        Self {
            routes: Vec::new(),
            own_names: Vec::new(),
            http_upstream: None,
            http3: Http3Settings::default(),
            connections: 4096,
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(60),
            first_bytes_timeout: Duration::from_secs(10),
            body_rate: 1024,
            body_pause: Duration::from_secs(30),
            body_timeout: Duration::from_secs(3600),
            idle_timeout: Duration::from_secs(600),
        }
    }
}

/// HTTP/3, for a web server behind this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http3Settings {
    /// `None`: QUIC is not passed on.
    pub backend: Option<BackendAddress>,
    /// Limits of clients.
    pub limits: Http3Limits,
}

/// Names that lead to another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// Lower case; `*.example.org` stands for every name one label below.
    pub names: Vec<String>,
    /// The server.
    pub backend: BackendAddress,
    /// It is told the client's address in a PROXY header, version 2.
    pub proxy_header: bool,
}

/// Where a server behind this one is; a name is looked up for each connection (that of [`Http3Settings`], now and then).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendAddress {
    /// Host name, or IP address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl core::fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// UDP sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpSettings {
    /// Of listeners.
    pub listener: UdpOptions,
    /// Of relayed addresses.
    pub relay: UdpOptions,
    /// Receive slots of a worker, 64 KiB each.
    pub slots: usize,
    /// Mailbox between each two workers, bytes.
    pub mailbox: usize,
    /// Longest pause of a worker to let packets gather; zero: none.
    pub pause: Duration,
}

/// The REST endpoint that mints credentials.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Served at all.
    pub enabled: bool,
    /// Host name or address in minted URIs.
    pub host: String,
    /// `host` is the external address, since nothing else is known: to be another one when that is.
    pub host_from_address: bool,
    /// URIs handed out, in order of preference.
    pub uris: Vec<String>,
    /// URIs for forced logins: those of the forced path.
    pub forced_uris: Vec<String>,
    /// The URIs were made from the listeners (`config::offer`): to be made again where some could not be bound.
    pub uris_from_listeners: bool,
    /// Whatever is minted is forced (`forced_relay.everyone`).
    pub forced: bool,
    /// `iceTransportPolicy: "relay"` in the modern form.
    pub relay_only: bool,
    /// Keys that may mint. Empty and not `open`: nobody may.
    pub keys: Vec<ApiKey>,
    /// No key needed: a public test server.
    pub open: bool,
    /// The draft's `key=` in the query string is accepted (it ends up in logs).
    pub query_key: bool,
    /// Origins allowed by CORS, compared exactly.
    pub cors_origins: Vec<String>,
    /// Lifetime of minted credentials when none is asked for.
    pub default_ttl: Duration,
    /// Longest lifetime; a longer wish is clamped.
    pub max_ttl: Duration,
    /// Mints per minute and key.
    pub mints_per_minute_per_key: u32,
    /// Mints per minute and client IP address.
    pub mints_per_minute_per_ip: u32,
    /// Mints per minute and network of client addresses (IPv4 /24, IPv6 /48).
    pub mints_per_minute_per_network: u32,
}

/// A key for the credentials API.
#[derive(Clone)]
pub struct ApiKey {
    /// Name in logs.
    pub name: String,
    /// The key itself; never shown.
    pub key: String,
    /// May choose the userid; otherwise the server does.
    pub choose_username: bool,
    /// Whatever it mints is forced.
    pub forced: bool,
}

impl core::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ApiKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The operator's listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where; loopback by default. `None`: switched off.
    pub address: Option<SocketAddr>,
    /// Names and addresses it is reached by, beside its own and those of loopback; lower case.
    pub hosts: Vec<String>,
    /// The credentials API is served here too.
    pub api: bool,
}

/// How logs look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `tracing` filter: `info`, `relay=debug`.
    pub level: String,
    /// One JSON object a line.
    pub json: bool,
    /// Show client addresses: whole, truncated (/24, /48) or not at all.
    pub client_ip: ClientIp,
    /// Lines about allocations, per second.
    pub allocation_lines_per_second: u32,
}

/// How much of a client's address a log line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientIp {
    /// All of it.
    Full,
    /// IPv4 /24, IPv6 /48.
    Truncated,
    /// None of it.
    Off,
}

/// What was made because nothing was configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstRun {
    /// A secret was generated, or found from an earlier run, in this file.
    pub secret_file: Option<PathBuf>,
    /// The secret was generated just now.
    pub secret_is_new: bool,
    /// External addresses found by themselves and how, for the log.
    pub external: Vec<(IpAddr, String)>,
}
