//! Every key there is, with its type, default and bounds. `config/relay.toml` and `docs/configuration.md` list the same
//! keys; tests hold the three together.

mod choices;
mod forced_relay;
mod front_door;
mod listener;
mod tcp;
mod turn;

use core::time::Duration;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;

use super::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use super::reader::document::{Node, Table};
use super::reader::effective::Effective;
use super::reader::section::{KeyPlace, Located, Reader, Section};
use super::reader::value::{
    Auto, Bytes, External, Host, NetworkOrAddress, OffOr, OneOf, Placed, Port, PortOrPorts, Ports, Secrecy, SecretText,
};
use super::settings::ClientIp;
use crate::turn::config::limits::Limits;
use crate::turn::policy::REFLECTOR_PORTS;

pub(super) use listener::RawListener;
pub(super) use tcp::RawTcp;
pub(super) use turn::{RawRedirect, RawTurn};

/// Where the operator's listener is unless told otherwise: in no registry, and in no list of metrics exporters.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 13_478);

/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The configuration as written, typed and with places; not yet checked for sense.
pub(super) struct Raw {
    pub(super) realm: Located<String>,
    pub(super) state_dir: Located<Auto<PathBuf>>,
    pub(super) workers: Located<Auto<i128>>,
    pub(super) start_timeout: Located<Duration>,
    pub(super) shutdown_timeout: Located<Duration>,
    pub(super) credentials: RawCredentials,
    pub(super) tls: RawTls,
    pub(super) external: RawExternal,
    pub(super) relay: RawRelay,
    pub(super) peers: RawPeers,
    pub(super) turn: RawTurn,
    pub(super) nat_discovery: RawNatDiscovery,
    pub(super) forced_relay: forced_relay::RawForcedRelay,
    pub(super) limits: RawLimits,
    pub(super) front_door: front_door::RawFrontDoor,
    pub(super) udp: RawUdp,
    pub(super) dtls: RawDtls,
    pub(super) api: RawApi,
    pub(super) admin: RawAdmin,
    pub(super) log: RawLog,
    pub(super) listeners: Located<Vec<RawListener>>,
    /// A listener is missing from `listeners` because its `bind` is wrong, which is reported: nothing follows from its
    /// absence.
    pub(super) lacks_listeners: bool,
}

pub(super) struct RawCredentials {
    pub(super) secret_file: Option<Located<PathBuf>>,
    pub(super) secret_files: Located<Vec<Placed<PathBuf>>>,
    pub(super) secrets: Located<Vec<Placed<SecretText>>>,
    pub(super) max_ttl: Located<Duration>,
    pub(super) skew: Located<Duration>,
    pub(super) users: Vec<RawUser>,
}

pub(super) struct RawUser {
    pub(super) name: Located<String>,
    /// `None`: missing or wrong, and reported.
    pub(super) password: Option<SecretOrFile>,
    pub(super) forced: Located<bool>,
}

/// A secret written down, or the file that holds it.
pub(super) enum SecretOrFile {
    Text(Located<SecretText>),
    File(Located<PathBuf>),
}

pub(super) struct RawTls {
    pub(super) certificate: Option<Located<PathBuf>>,
    pub(super) private_key: Option<Located<PathBuf>>,
    pub(super) certificates: Located<Vec<RawCertificate>>,
    pub(super) acme: RawAcme,
}

pub(super) struct RawAcme {
    pub(super) domains: Located<Vec<Placed<String>>>,
    pub(super) contact: Option<Located<String>>,
    pub(super) directory: Located<String>,
    pub(super) root: Option<Located<PathBuf>>,
}

pub(super) struct RawCertificate {
    pub(super) certificate: Located<PathBuf>,
    pub(super) private_key: Located<PathBuf>,
}

pub(super) struct RawExternal {
    pub(super) ipv4: Located<External>,
    pub(super) ipv6: Located<External>,
    pub(super) ports: Located<Auto<Ports>>,
    pub(super) recheck: Located<OffOr<Duration>>,
    pub(super) stun_timeout: Located<Duration>,
}

pub(super) struct RawRelay {
    pub(super) ipv4: Located<Auto<Host>>,
    pub(super) ipv6: Located<Auto<Host>>,
    pub(super) ports: Located<Ports>,
}

pub(super) struct RawPeers {
    pub(super) allow: Located<Vec<Placed<NetworkOrAddress>>>,
    pub(super) deny: Located<Vec<Placed<NetworkOrAddress>>>,
    pub(super) only_allowed: Located<bool>,
    pub(super) denied_ports: Located<Vec<PortOrPorts>>,
    pub(super) nat64: Located<Vec<Placed<NetworkOrAddress>>>,
}

pub(super) struct RawNatDiscovery {
    pub(super) enabled: Located<bool>,
    pub(super) ipv4: Located<Vec<Placed<IpAddr>>>,
    pub(super) ipv6: Located<Vec<Placed<IpAddr>>>,
    pub(super) announced_ipv4: Located<Vec<Placed<IpAddr>>>,
    pub(super) announced_ipv6: Located<Vec<Placed<IpAddr>>>,
    pub(super) ports: Located<Vec<Port>>,
    pub(super) max_padding: Located<u16>,
}

pub(super) struct RawLimits {
    pub(super) allocations: Located<Auto<i128>>,
    pub(super) allocations_per_network: Located<Auto<u32>>,
    /// All but those, which depend on the relay ports.
    pub(super) core: Limits,
    pub(super) connections: Located<usize>,
    pub(super) connections_per_ip: Located<usize>,
    pub(super) connections_per_network: Located<Auto<usize>>,
    pub(super) new_connections_per_second: Located<u32>,
    pub(super) handshakes: Located<usize>,
    pub(super) handshake_timeout: Located<Duration>,
    pub(super) idle_timeout: Located<Duration>,
    pub(super) unauthenticated_requests: Located<u32>,
    pub(super) frame_timeout: Located<Duration>,
    pub(super) write_timeout: Located<Duration>,
    pub(super) queue_bytes: Located<Bytes>,
    pub(super) queue_age: Located<Duration>,
}

pub(super) struct RawUdp {
    pub(super) receive_buffer: Located<Bytes>,
    pub(super) send_buffer: Located<Bytes>,
    pub(super) relay_buffer: Located<Bytes>,
    pub(super) offload: Located<bool>,
    pub(super) slots: Located<usize>,
    pub(super) mailbox: Located<Bytes>,
    pub(super) pause_micros: Located<u32>,
}

pub(super) struct RawDtls {
    pub(super) mtu: Located<usize>,
    pub(super) associations: Located<u32>,
    pub(super) associations_per_ip: Located<u32>,
    pub(super) associations_per_network: Located<Auto<u32>>,
    pub(super) associations_per_cookie: Located<u32>,
    pub(super) handshakes: Located<usize>,
}

pub(super) struct RawApi {
    pub(super) enabled: Located<bool>,
    pub(super) host: Located<Auto<String>>,
    pub(super) uris: Located<Auto<Vec<Placed<String>>>>,
    pub(super) relay_only: Located<bool>,
    pub(super) open: Located<bool>,
    pub(super) query_key: Located<bool>,
    pub(super) cors_origins: Located<Vec<Placed<String>>>,
    pub(super) default_ttl: Located<Duration>,
    pub(super) max_ttl: Located<Duration>,
    pub(super) mints_per_minute_per_key: Located<u32>,
    pub(super) mints_per_minute_per_ip: Located<u32>,
    pub(super) mints_per_minute_per_network: Located<Auto<u32>>,
    pub(super) keys: Located<Vec<RawKey>>,
}

pub(super) struct RawKey {
    pub(super) name: Located<String>,
    /// `None`: missing or wrong, and reported.
    pub(super) key: Option<SecretOrFile>,
    pub(super) choose_username: Located<bool>,
    pub(super) forced: Located<bool>,
}

pub(super) struct RawAdmin {
    pub(super) address: Located<OffOr<SocketAddr>>,
    pub(super) hosts: Located<Vec<Placed<String>>>,
    pub(super) api: Located<bool>,
}

pub(super) struct RawLog {
    pub(super) level: Located<String>,
    pub(super) format: Located<OneOf<Format>>,
    pub(super) client_ip: Located<OneOf<ClientIp>>,
    pub(super) allocation_lines_per_second: Located<u32>,
}

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

/// What a listener speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Udp,
    Dtls,
    Tcp,
    Tls,
    Https,
}

/// What reading gives: the values, the effective configuration, and the name of every key.
pub(super) struct Reading {
    pub(super) raw: Raw,
    pub(super) effective: Effective,
    pub(super) keys: Vec<KeyPlace>,
    /// Those of `keys` without their last part that are lists of tables: `listener`.
    pub(super) lists: Vec<String>,
}

/// Reads the whole of `table`; mistakes go to `diagnostics`.
pub(super) fn read(table: Table, diagnostics: &mut Diagnostics) -> Reading {
    let defaults = listener::defaults(diagnostics);
    let (raw, read) = Reader::run(table, diagnostics, |top| read_top(top, defaults));
    Reading {
        raw,
        effective: read.effective,
        keys: read.keys,
        lists: read.lists,
    }
}

/// All keys, and all lists of tables.
pub(super) struct Known {
    keys: Vec<KeyPlace>,
    pub(super) lists: Vec<String>,
    words: HashSet<String>,
}

impl Known {
    /// The name of every key, with its section.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.path.as_str())
    }

    /// Whether there is a key of this name.
    pub(super) fn has(&self, path: &str) -> bool {
        self.kind(path).is_some()
    }

    /// What a key holds. `None`: there is no such key.
    pub(super) fn kind(&self, path: &str) -> Option<Secrecy> {
        self.keys.iter().find(|key| key.path == path).map(|key| key.kind)
    }

    /// Whether it is a word out of the names of keys and sections.
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.words.contains(&word.to_ascii_lowercase())
    }
}

/// What the schema knows.
pub(super) fn known() -> &'static Known {
    static KNOWN: LazyLock<Known> = LazyLock::new(|| {
        let reading = read(Table { entries: Vec::new() }, &mut Diagnostics::default());
        let parts = reading
            .keys
            .iter()
            .flat_map(|key| key.path.split(['.', '_']).chain(key.path.split('.')));
        Known {
            words: parts.map(str::to_owned).collect(),
            keys: reading.keys,
            lists: reading.lists,
        }
    });
    &KNOWN
}

fn read_top(top: &mut Section<'_, '_>, default_listeners: Vec<Node>) -> Raw {
    let mut lacks_listeners = false;
    let mut listener = |s: &mut Section<'_, '_>, place: Option<SourceSpan>| {
        let read = listener::read(s, place);
        lacks_listeners |= read.is_none() && place.is_some();
        read
    };
    Raw {
        realm: top.value("realm", "relay".to_owned()),
        state_dir: top.value("state_dir", Auto::Auto),
        workers: top.value("workers", Auto::Auto),
        start_timeout: top.within("start_timeout", MINUTE, Duration::ZERO..=10 * MINUTE),
        shutdown_timeout: top.within("shutdown_timeout", 10 * SECOND, SECOND..=10 * MINUTE),
        credentials: top.section("credentials", read_credentials),
        tls: top.section("tls", read_tls),
        external: top.section("external", |s| RawExternal {
            ipv4: s.value("ipv4", External::Auto),
            ipv6: s.value("ipv6", External::Auto),
            ports: s.value("ports", Auto::Auto),
            recheck: s.value("recheck", OffOr(Some(MINUTE))),
            stun_timeout: s.within("stun_timeout", 3 * SECOND, SECOND..=MINUTE),
        }),
        relay: top.section("relay", |s| RawRelay {
            ipv4: s.value("ipv4", Auto::Auto),
            ipv6: s.value("ipv6", Auto::Auto),
            ports: s.value("ports", Ports(49_152..=65_535)),
        }),
        peers: top.section("peers", read_peers),
        turn: top.section("turn", turn::read),
        nat_discovery: top.section("nat_discovery", |s| RawNatDiscovery {
            enabled: s.value("enabled", false),
            ipv4: s.value("ipv4", Vec::new()),
            ipv6: s.value("ipv6", Vec::new()),
            announced_ipv4: s.value("announced_ipv4", Vec::new()),
            announced_ipv6: s.value("announced_ipv6", Vec::new()),
            ports: s.value("ports", vec![Port(3478), Port(3479)]),
            max_padding: s.number("max_padding", 1500, 0..=1500),
        }),
        forced_relay: top.section("forced_relay", forced_relay::read),
        limits: top.section("limits", read_limits),
        front_door: top.section("front_door", front_door::read),
        udp: top.section("udp", |s| RawUdp {
            receive_buffer: s.within("receive_buffer", Bytes(4 << 20), Bytes(64 << 10)..=Bytes(1 << 30)),
            send_buffer: s.within("send_buffer", Bytes(4 << 20), Bytes(64 << 10)..=Bytes(1 << 30)),
            relay_buffer: s.within("relay_buffer", Bytes(1 << 20), Bytes(16 << 10)..=Bytes(64 << 20)),
            offload: s.value("offload", true),
            slots: s.number("slots", 64, 8..=1024),
            mailbox: s.within("mailbox", Bytes(256 << 10), Bytes(128 << 10)..=Bytes(64 << 20)),
            pause_micros: s.number("pause_micros", 100, 0..=1000),
        }),
        dtls: top.section("dtls", |s| RawDtls {
            mtu: s.number("mtu", 1500, 576..=9000),
            associations: s.number("associations", 16_384, 1..=16_777_216),
            associations_per_ip: s.number("associations_per_ip", 256, 1..=16_777_216),
            associations_per_network: s.auto_number("associations_per_network", 1..=16_777_216),
            associations_per_cookie: s.number("associations_per_cookie", 4, 1..=1000),
            handshakes: s.number("handshakes", 512, 1..=65_536),
        }),
        api: top.section("api", read_api),
        admin: top.section("admin", read_admin),
        log: top.section("log", |s| RawLog {
            level: s.value("level", "info".to_owned()),
            format: s.value("format", OneOf(Format::Text)),
            client_ip: s.value("client_ip", OneOf(ClientIp::Full)),
            allocation_lines_per_second: s.number("allocation_lines_per_second", 1000, 1..=1_000_000),
        }),
        listeners: top.tables("listener", default_listeners, &mut listener),
        lacks_listeners,
    }
}

fn read_admin(s: &mut Section<'_, '_>) -> RawAdmin {
    RawAdmin {
        address: s.value("address", OffOr(Some(DEFAULT_ADMIN))),
        hosts: s.value("hosts", Vec::new()),
        api: s.value("api", true),
    }
}

fn read_tls(s: &mut Section<'_, '_>) -> RawTls {
    RawTls {
        certificate: s.optional("certificate"),
        private_key: s.optional("private_key"),
        certificates: s.tables("certificates", Vec::new(), |one, place| {
            let certificate = one.required("certificate", "\"/etc/relay/second.pem\"", place);
            let private_key = one.required("private_key", "\"/etc/relay/second-key.pem\"", place);
            Some(RawCertificate {
                certificate: certificate?,
                private_key: private_key?,
            })
        }),
        acme: s.section("acme", |s| RawAcme {
            domains: s.value("domains", Vec::new()),
            contact: s.optional("contact"),
            directory: s.value("directory", LETS_ENCRYPT.to_owned()),
            root: s.optional("root"),
        }),
    }
}

fn read_credentials(s: &mut Section<'_, '_>) -> RawCredentials {
    RawCredentials {
        secret_file: s.optional("secret_file"),
        secret_files: s.value("secret_files", Vec::new()),
        secrets: s.value("secrets", Vec::new()),
        max_ttl: s.within("max_ttl", 25 * HOUR, MINUTE..=365 * DAY),
        skew: s.within("skew", MINUTE, Duration::ZERO..=HOUR),
        users: s
            .tables("users", Vec::new(), |user, place| {
                let name = user.required("name", "\"alice\"", place);
                let password = secret_or_file(user, "password", "password_file", place);
                let forced = user.value("forced", false);
                Some(RawUser {
                    name: name?,
                    password,
                    forced,
                })
            })
            .value,
    }
}

fn secret_or_file(
    s: &mut Section<'_, '_>,
    key: &'static str,
    file_key: &'static str,
    place: Option<SourceSpan>,
) -> Option<SecretOrFile> {
    if !s.has(key) && !s.has(file_key) {
        let diagnostic = Diagnostic::error(format!("`{}`: `{key}` is missing", s.path())).at(place);
        s.report(diagnostic.help(format!("add a `{key}` or a `{file_key}`")));
    }
    optional_secret_or_file(s, key, file_key)
}

fn optional_secret_or_file(s: &mut Section<'_, '_>, key: &'static str, file_key: &'static str) -> Option<SecretOrFile> {
    let text = s.optional::<SecretText>(key);
    let file = s.optional::<PathBuf>(file_key);
    if let (Some(text), Some(file)) = (&text, &file) {
        let diagnostic = Diagnostic::error(format!("there is both a `{key}` and a `{file_key}`")).at(file.place);
        s.report(
            diagnostic
                .also(text.place, "here is the other")
                .help("keep one of them"),
        );
    }
    text.map(SecretOrFile::Text).or_else(|| file.map(SecretOrFile::File))
}

fn read_peers(s: &mut Section<'_, '_>) -> RawPeers {
    let mut reflectors: Vec<PortOrPorts> = REFLECTOR_PORTS.into_iter().map(PortOrPorts).collect();
    reflectors.sort_unstable_by_key(|ports| *ports.0.start());
    RawPeers {
        allow: s.value("allow", Vec::new()),
        deny: s.value("deny", Vec::new()),
        only_allowed: s.value("only_allowed", false),
        denied_ports: s.value("denied_ports", reflectors),
        nat64: s.value("nat64", Vec::new()),
    }
}

fn read_limits(s: &mut Section<'_, '_>) -> RawLimits {
    let d = Limits::default();
    let most = 16_777_216;
    let allocations = s.value("allocations", Auto::Auto);
    let core = Limits {
        allocations: d.allocations,
        allocations_per_user: s.number("allocations_per_user", d.allocations_per_user, 1..=most).value,
        allocations_per_ip: s.number("allocations_per_ip", d.allocations_per_ip, 1..=most).value,
        allocations_per_network: d.allocations_per_network,
        permissions: s.number("permissions", d.permissions, 1..=4096).value,
        channels: s.number("channels", d.channels, 1..=4096).value,
        reservations_per_user: s
            .number("reservations_per_user", d.reservations_per_user, 0..=most)
            .value,
        challenges_per_second: s
            .number("challenges_per_second", d.challenges_per_second, 1..=most)
            .value,
        challenge_burst: s.number("challenge_burst", d.challenge_burst, 1..=most).value,
        all_challenges_per_second: s
            .number("all_challenges_per_second", d.all_challenges_per_second, 1..=most)
            .value,
        bindings_per_second: s.number("bindings_per_second", d.bindings_per_second, 1..=most).value,
        login_failures_per_second: s
            .number("login_failures_per_second", d.login_failures_per_second, 1..=most)
            .value,
        permission_requests_per_second: s
            .number(
                "permission_requests_per_second",
                d.permission_requests_per_second,
                1..=most,
            )
            .value,
        allocation_requests_per_second: s
            .number(
                "allocation_requests_per_second",
                d.allocation_requests_per_second,
                1..=most,
            )
            .value,
        user_requests_per_second: s
            .number("user_requests_per_second", d.user_requests_per_second, 1..=most)
            .value,
    };
    RawLimits {
        allocations,
        allocations_per_network: s.auto_number("allocations_per_network", 1..=most),
        core,
        connections: s.number("connections", 16_384, 1..=16_777_216),
        connections_per_ip: s.number("connections_per_ip", 256, 1..=16_777_216),
        connections_per_network: s.auto_number("connections_per_network", 1..=16_777_216),
        new_connections_per_second: s.number("new_connections_per_second", 20, 1..=16_777_216),
        handshakes: s.number("handshakes", 1024, 1..=65_536),
        handshake_timeout: s.within("handshake_timeout", 10 * SECOND, SECOND..=2 * MINUTE),
        idle_timeout: s.within("idle_timeout", 10 * SECOND, SECOND..=HOUR),
        unauthenticated_requests: s.number("unauthenticated_requests", 16, 2..=1_000_000),
        frame_timeout: s.within("frame_timeout", 10 * SECOND, SECOND..=2 * MINUTE),
        write_timeout: s.within("write_timeout", 30 * SECOND, SECOND..=10 * MINUTE),
        queue_bytes: s.within("queue_bytes", Bytes(256 << 10), Bytes(80 << 10)..=Bytes(64 << 20)),
        queue_age: s.within(
            "queue_age",
            Duration::from_millis(150),
            Duration::from_millis(10)..=10 * SECOND,
        ),
    }
}

fn read_api(s: &mut Section<'_, '_>) -> RawApi {
    RawApi {
        enabled: s.value("enabled", true),
        host: s.value("host", Auto::Auto),
        uris: s.value("uris", Auto::Auto),
        relay_only: s.value("relay_only", false),
        open: s.value("open", false),
        query_key: s.value("query_key", false),
        cors_origins: s.value("cors_origins", Vec::new()),
        default_ttl: s.within("default_ttl", DAY, MINUTE..=365 * DAY),
        max_ttl: s.within("max_ttl", DAY, MINUTE..=365 * DAY),
        mints_per_minute_per_key: s.number("mints_per_minute_per_key", 600, 0..=1_000_000),
        mints_per_minute_per_ip: s.number("mints_per_minute_per_ip", 600, 0..=1_000_000),
        mints_per_minute_per_network: s.auto_number("mints_per_minute_per_network", 0..=16_000_000),
        keys: s.tables("keys", Vec::new(), |key, place| {
            let name = key.required("name", "\"app\"", place);
            let secret = secret_or_file(key, "key", "key_file", place);
            let choose_username = key.value("choose_username", false);
            let forced = key.value("forced", false);
            Some(RawKey {
                name: name?,
                key: secret,
                choose_username,
                forced,
            })
        }),
    }
}
