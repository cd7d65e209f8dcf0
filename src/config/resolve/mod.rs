//! From the checked configuration to [`Settings`]: reads the files it names, looks up names and addresses.

mod addresses;
mod capacity;
mod discovery;
mod forced;
mod front_door;
mod listeners;
mod opened;
mod redirect;
mod secrets;
mod state_dir;
mod tls;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};

use self::capacity::Capacity;
use super::offer::offer;
use super::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use super::reader::effective::Effective;
use super::reader::value::{Auto, NetworkOrAddress, OneOf, Placed, is_host_name};
use super::sections::Raw;
use super::sections::log::Format;
use super::sections::turn::tcp_allocations::RawTcp;
use super::settings::{
    AdminSettings, ApiKey, ApiSettings, FirstRun, ListenerSettings, LogSettings, Part, Settings, StreamSettings,
};
use super::{Purpose, access};
use crate::base::address::Transport;
use crate::config::log_level::without_spaces;
use crate::machine::Machine;
use crate::machine::external::announced_host;
use crate::machine::network::Interface;
use crate::shard::DtlsLimits;
use crate::turn::config::discovery::Discovery;
use crate::turn::config::forced::ForcedRelay;
use crate::turn::config::limits::Limits;
use crate::turn::config::{Config, Mobility, RelayConfig, TcpConfig};
use crate::turn::login::credential::Credentials;
use crate::turn::login::nonce::NonceKey;
use crate::turn::policy::{PeerPolicy, PolicyConfig};

/// Begins the name of a file that systemd hands to the service (LoadCredential=), in place of a path.
const CREDENTIAL: &str = "credential:";
/// Where systemd puts such files.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What building needs beside the configuration.
pub(super) struct Context<'a> {
    pub(super) env: &'a dyn Machine,
    pub(super) purpose: Purpose,
    /// The configuration file, if it is one.
    pub(super) file: Option<&'a Path>,
    pub(super) d: &'a mut Diagnostics,
    pub(super) effective: &'a mut Effective,
    pub(super) machine: MachineAddresses,
}

/// This machine's addresses.
#[derive(Default)]
pub(super) struct MachineAddresses {
    /// Of its interfaces.
    interfaces: Vec<Interface>,
    /// Whatever leads to it.
    networks: Vec<IpNet>,
}

impl MachineAddresses {
    fn has(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.networks.iter().any(|net| net.contains(&ip))
    }
}

impl Context<'_> {
    /// Relative paths start at the directory of the file they are written in; those in the environment, where the
    /// server was started.
    fn path(&self, path: &Path, place: Option<SourceSpan>) -> PathBuf {
        let file = self
            .file
            .filter(|file| place.is_some_and(|place| self.d.is_in(place, file)));
        file.and_then(Path::parent)
            .map_or_else(|| path.to_owned(), |base| base.join(path))
    }

    /// A file that the server reads: a path as above, or `credential:NAME`, a file that systemd hands to the service.
    /// `None`: there is none, and the diagnostics say why.
    fn file(&mut self, file: &Path, place: Option<SourceSpan>) -> Option<PathBuf> {
        let Some(name) = file.to_str().and_then(|text| text.strip_prefix(CREDENTIAL)) else {
            return Some(self.path(file, place));
        };
        if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
            let message = format!("{name:?} is no name of a credential");
            let help = "write the name that stands in LoadCredential=, for example `credential:secret`";
            self.d.push(Diagnostic::error(message).at(place).help(help));
            return None;
        }
        let Some(dir) = self.env.variable(CREDENTIALS_DIRECTORY) else {
            let message = format!("`{CREDENTIAL}{name}` is not there: {CREDENTIALS_DIRECTORY} is not set");
            let help = format!(
                "systemd sets it for a unit with LoadCredential={name}:/path/of/the/file; by hand, as root while the unit \
                 runs: {CREDENTIALS_DIRECTORY}=/run/credentials/relay.service"
            );
            let diagnostic = match self.purpose {
                // By hand: systemd hands it over when the service starts.
                Purpose::Check => Diagnostic::warning(message),
                Purpose::Serve | Purpose::Reload | Purpose::Mint => Diagnostic::error(message),
            };
            self.d.push(diagnostic.at(place).help(help));
            return None;
        };
        Some(Path::new(&dir).join(name))
    }

    /// What to do about a file that cannot be read; `missing` is for one that is not there.
    fn read_help(&self, error: &io::Error, path: &Path, missing: impl Into<String>) -> Option<String> {
        match error.kind() {
            io::ErrorKind::NotFound => {
                let credentials = self.env.variable(CREDENTIALS_DIRECTORY);
                let name = credentials.as_ref().and_then(|dir| path.strip_prefix(dir).ok());
                let similar = access::similar(path);
                Some(match (name, similar) {
                    (Some(name), similar) => {
                        let add = format!("add to the unit: LoadCredential={}:/path/of/the/file", name.display());
                        let handed = similar.as_deref().and_then(Path::file_name);
                        handed.map_or(add.clone(), |other| {
                            format!("{add}; or did you mean `{CREDENTIAL}{}`?", other.display())
                        })
                    }
                    (None, Some(similar)) => {
                        format!("did you mean {}? Otherwise {}", similar.display(), missing.into())
                    }
                    (None, None) => missing.into(),
                })
            }
            io::ErrorKind::PermissionDenied => Some(access::help(path, &self.env.user())),
            io::ErrorKind::IsADirectory => Some("name the file in it".into()),
            _ => None,
        }
    }

    /// What this machine or its network lacks: an error where the server runs, a warning where the configuration is
    /// checked.
    fn here(&self, message: impl Into<String>) -> Diagnostic {
        match self.purpose {
            Purpose::Serve => Diagnostic::error(message).here(),
            Purpose::Reload | Purpose::Check | Purpose::Mint => Diagnostic::warning(message).here(),
        }
    }
}

/// Builds the settings. `None` if something went wrong; what, is in the diagnostics.
pub(super) fn build(raw: &Raw, cx: &mut Context<'_>) -> Option<Settings> {
    cx.machine = machine(cx);
    let state_dir = state_dir::find(raw, cx);
    secrets::warn_of_open_file(raw, cx);
    let mut lacking = Vec::new();
    let files = part(Part::Credentials, &mut lacking, cx, |cx| {
        secrets::read(raw, state_dir.as_deref(), cx)
    });
    let tls = part(Part::Certificates, &mut lacking, cx, |cx| {
        tls::check(raw, state_dir.as_deref(), cx)
    });
    let found = addresses::find(raw, cx);
    let resolved = listeners::resolve(raw, cx);
    let relay = found.as_ref().map(|found| &found.relay);
    listeners::check_overlaps(raw, &resolved, relay, cx);
    redirect::check(&raw.turn.redirect, &resolved, relay, cx);
    front_door::check(raw, &resolved, cx);
    admin(raw, cx);
    // What is not known yet, or wrong and reported, is no reason to say that there is no listener.
    let all_known = !raw.lacks_listeners && resolved.iter().all(|(_, listener)| !listener.addresses.is_empty());
    let discovery = discovery::build(&raw.nat_discovery, &resolved, all_known, cx);
    let listeners: Vec<ListenerSettings> = resolved.into_iter().map(|(_, listener)| listener).collect();
    let forced = forced_relay(raw, &listeners, all_known, cx);
    // With mistakes nothing is made: the server will not start.
    if cx.d.has_errors() {
        return None;
    }
    let secrets = secrets::finish(raw, files, state_dir.as_deref(), cx)?;
    let found = found.unwrap_or_else(|| addresses::FoundAddresses::none(raw));
    let none = lacking.contains(&Part::Certificates).then(Default::default);
    let (tls, served) = tls.or(none)?;
    let api = api_settings(raw, secrets.api_keys, &found, &listeners, &forced, cx);
    tls::check_names(raw, &api, &served, cx);
    check_reach(raw, &api, &listeners, cx);
    let (peers, policy) = policy(raw, cx, &listeners, &found.relay)?;
    let workers = workers(raw, cx);
    let capacity = capacity::divide(raw, &found.relay, &listeners, workers, cx);
    Some(Settings {
        realm: raw.top.realm.value.clone(),
        // Only where nothing is kept there can it be missing.
        state_dir: state_dir.unwrap_or_default(),
        workers,
        api,
        turn: turn_config(
            raw,
            (
                capacity::limits(raw, &capacity, cx),
                tcp_config(&raw.turn.tcp, &capacity),
            ),
            (secrets.credentials, secrets.nonce_key),
            policy,
            found.relay,
            discovery,
            forced,
        ),
        external: found.settings,
        peers,
        tls,
        stream: stream_settings(raw, &capacity, cx),
        front_door: front_door::bounded(raw, &capacity, cx),
        dtls: dtls_limits(raw, cx),
        udp: raw.udp.clone(),
        admin: admin_settings(raw),
        log: log_settings(raw),
        shutdown_timeout: raw.top.shutdown_timeout.value,
        first_run: first_run(secrets.first_run, found.told),
        listeners,
        lacking,
    })
}

/// What first-run set-up did: the file of the secret, and whether it was made just now; the addresses found.
fn first_run(secret: Option<(PathBuf, bool)>, external: Vec<(IpAddr, String)>) -> FirstRun {
    let (secret_file, secret_is_new) = secret.unzip();
    FirstRun {
        secret_file,
        secret_is_new: secret_is_new.unwrap_or(false),
        external,
    }
}

fn log_settings(raw: &Raw) -> LogSettings {
    LogSettings {
        level: without_spaces(&raw.log.level.value),
        json: raw.log.format.value.0 == Format::Json,
        client_ip: raw.log.client_ip.value.0,
        allocation_lines_per_second: raw.log.allocation_lines_per_second.value,
    }
}

/// Reads a part that a reload can leave as it is. What is wrong there is no mistake of the other parts then.
fn part<T>(part: Part, lacking: &mut Vec<Part>, cx: &mut Context<'_>, read: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let before = cx.d.len();
    let read = read(cx);
    if cx.purpose == Purpose::Reload && cx.d.soften(before) {
        lacking.push(part);
    }
    read
}

/// Where they are not known, nothing of this machine could be closed to peers. A running server knows them by itself.
fn machine(cx: &mut Context<'_>) -> MachineAddresses {
    let read = cx
        .env
        .interfaces()
        .and_then(|interfaces| Ok((interfaces, cx.env.networks()?)));
    match read {
        Ok((interfaces, networks)) => MachineAddresses { interfaces, networks },
        Err(error) => {
            let message = format!("the addresses of this machine cannot be read: {error}");
            let diagnostic = match cx.purpose {
                Purpose::Serve => Diagnostic::error(message),
                Purpose::Reload | Purpose::Check | Purpose::Mint => Diagnostic::warning(message),
            };
            cx.d.push(diagnostic.help(
                "peers may not reach what is here, so the server must know it: let it use netlink \
                 (RestrictAddressFamilies=AF_NETLINK in a unit, rtnetlink in a sandbox)",
            ));
            MachineAddresses::default()
        }
    }
}

fn workers(raw: &Raw, cx: &mut Context<'_>) -> usize {
    match raw.top.workers.value {
        Auto::Given(workers) => usize::try_from(workers).unwrap_or(1),
        Auto::Auto => {
            let workers = cx.env.cores().max(1);
            cx.effective.note("workers", workers.to_string());
            workers
        }
    }
}

fn api_settings(
    raw: &Raw,
    keys: Vec<ApiKey>,
    found: &addresses::FoundAddresses,
    listeners: &[ListenerSettings],
    forced: &ForcedRelay,
    cx: &mut Context<'_>,
) -> ApiSettings {
    let api = &raw.api;
    let (host, host_from_address) = api_host(raw, found, cx);
    let uris = match &api.uris.value {
        Auto::Given(uris) => uris.iter().map(|uri| uri.value.clone()).collect(),
        Auto::Auto => Vec::new(),
    };
    let mut settings = ApiSettings {
        enabled: api.enabled.value,
        host,
        host_from_address,
        uris,
        forced_uris: Vec::new(),
        uris_from_listeners: matches!(api.uris.value, Auto::Auto),
        forced: forced.everyone,
        relay_only: api.relay_only.value,
        keys,
        open: api.open.value,
        query_key: api.query_key.value,
        cors_origins: api
            .cors_origins
            .value
            .iter()
            .map(|origin| origin.value.clone())
            .collect(),
        default_ttl: api.default_ttl.value,
        max_ttl: api.max_ttl.value,
        mints_per_minute_per_key: api.mints_per_minute_per_key.value,
        mints_per_minute_per_ip: api.mints_per_minute_per_ip.value,
        mints_per_minute_per_network: capacity::per_network(
            "api.mints_per_minute_per_network",
            &api.mints_per_minute_per_network,
            api.mints_per_minute_per_ip.value,
            None,
            cx,
        ),
    };
    offer(&mut settings, listeners, forced);
    if settings.uris_from_listeners || forced.everyone {
        cx.effective.note("api.uris", settings.uris.join(" "));
    }
    settings
}

/// The host in minted URIs, and whether it is the external address.
fn api_host(raw: &Raw, found: &addresses::FoundAddresses, cx: &mut Context<'_>) -> (String, bool) {
    match &raw.api.host.value {
        Auto::Given(host) => (host.clone(), false),
        Auto::Auto => {
            // A name without a dot means nothing to clients elsewhere.
            let realm = Some(&raw.top.realm.value).filter(|realm| is_host_name(realm) && realm.contains('.'));
            let (host, from_address) =
                realm.map_or_else(|| (announced_host(&found.relay), true), |realm| (realm.clone(), false));
            cx.effective.note("api.host", host.clone());
            (host, from_address)
        }
    }
}

/// Whether there is anything to hand out that clients can reach.
fn check_reach(raw: &Raw, api: &ApiSettings, listeners: &[ListenerSettings], cx: &mut Context<'_>) {
    let mints = api.enabled && (api.open || !api.keys.is_empty());
    let resolved = listeners.iter().all(|listener| !listener.addresses.is_empty());
    if !mints || !api.uris.is_empty() || !api.uris_from_listeners || !resolved {
        return;
    }
    let message = format!(
        "the credentials API has no URI to hand out: no listener can be reached as {}, all are on loopback",
        api.host
    );
    // The server starts, because TURN itself may be in use; the API answers 503.
    let diagnostic = match cx.purpose {
        Purpose::Check => Diagnostic::error(message),
        Purpose::Serve | Purpose::Reload | Purpose::Mint => Diagnostic::warning(message),
    };
    let place = raw.listeners.value.first().and_then(|listener| listener.bind.place);
    cx.d.push(
        diagnostic
            .at(place.or(raw.api.keys.place))
            .help("listen on \"*:443\", or write the URIs clients reach into `api.uris`"),
    );
}

fn policy(
    raw: &Raw,
    cx: &mut Context<'_>,
    listeners: &[ListenerSettings],
    relay: &RelayConfig,
) -> Option<(PolicyConfig, Arc<PeerPolicy>)> {
    let nets = |list: &[Placed<NetworkOrAddress>]| list.iter().map(|net| net.value.0).collect();
    let config = PolicyConfig {
        allow: nets(&raw.peers.allow.value),
        deny: nets(&raw.peers.deny.value),
        only_allowed: raw.peers.only_allowed.value,
        own: listeners
            .iter()
            .flat_map(|l| l.addresses.clone())
            .chain(raw.admin.address.value.0)
            .collect(),
        local: cx.machine.networks.clone(),
        backends: front_door::resolve(raw, cx),
        redirects: [&raw.turn.redirect.ipv4, &raw.turn.redirect.ipv6]
            .iter()
            .filter_map(|it| it.value.0)
            .collect(),
        relay_ips: relay.own_ips().collect(),
        relay_ports: relay.announced_ports(),
        nat64: nets(&raw.peers.nat64.value).into_iter().filter_map(ipv6_net).collect(),
        denied_ports: raw
            .peers
            .denied_ports
            .value
            .iter()
            .map(|ports| ports.0.clone())
            .collect(),
    };
    match PeerPolicy::new(config.clone()) {
        Ok(policy) => {
            opened::warn(raw, &policy, &config, relay, cx);
            Some((config, Arc::new(policy)))
        }
        Err(error) => {
            cx.d.push(Diagnostic::error(format!("`peers`: {error}")).at(raw.peers.nat64.place));
            None
        }
    }
}

fn ipv6_net(net: IpNet) -> Option<Ipv6Net> {
    match net {
        IpNet::V6(net) => Some(net),
        IpNet::V4(_) => None,
    }
}

fn turn_config(
    raw: &Raw,
    (limits, tcp): (Limits, Option<TcpConfig>),
    (credentials, nonce_key): (Arc<Credentials>, Option<NonceKey>),
    policy: Arc<PeerPolicy>,
    relay: RelayConfig,
    discovery: Option<Arc<Discovery>>,
    forced: ForcedRelay,
) -> Config {
    Config {
        realm: raw.top.realm.value.clone(),
        software: Some(raw.turn.software.value.clone()).filter(|software| !software.is_empty()),
        credentials,
        policy,
        relay,
        binding: raw.turn.binding.value,
        rfc3489_binding: raw.turn.compat.rfc3489_binding.value,
        forced,
        challenge: raw.turn.challenge.value.0,
        icmp: raw.turn.icmp.value.0,
        nonce_lifetime: raw.turn.nonce_lifetime.value,
        nonce_key,
        default_lifetime: raw.turn.default_lifetime.value,
        max_lifetime: raw.turn.max_lifetime.value,
        max_session: raw.turn.max_session.value.0,
        rfc5766_channels: raw.turn.compat.rfc5766_channels.value,
        redirect: redirect::build(&raw.turn.redirect),
        mobility: raw.turn.mobility.enabled.value.then_some(Mobility {
            grace: raw.turn.mobility.grace.value,
        }),
        discovery,
        tcp,
        limits,
    }
}

fn tcp_config(raw: &RawTcp, capacity: &Capacity) -> Option<TcpConfig> {
    raw.enabled.value.then(|| TcpConfig {
        peer_ports: raw.peer_ports.value.iter().map(|ports| ports.0.clone()).collect(),
        connections_per_allocation: raw.connections_per_allocation.value,
        connections: capacity.peers,
        max_bytes: raw
            .max_bytes
            .value
            .0
            .as_ref()
            .and_then(|bytes| u64::try_from(bytes.0).ok()),
    })
}

fn forced_relay(raw: &Raw, listeners: &[ListenerSettings], all_known: bool, cx: &mut Context<'_>) -> ForcedRelay {
    let section = &raw.forced_relay;
    let forced = ForcedRelay {
        everyone: section.everyone.value,
        ports: section.ports.value.iter().map(|port| port.0).collect(),
        transports: Transport::ALL.map(|transport| section.transports.value.contains(&OneOf(transport))),
        binding: section.binding.value,
    };
    if all_known {
        forced::against_listeners(raw, &forced, listeners, cx.d);
    }
    forced
}

fn admin(raw: &Raw, cx: &mut Context<'_>) {
    let address = &raw.admin.address;
    if let Some(admin) = address.value.0
        && !cx.env.can_bind(admin.ip())
    {
        let message = format!("`admin.address`: {} is not an address of this machine", admin.ip());
        let diagnostic = cx.here(message).at(address.place);
        cx.d.push(diagnostic.help("write an address of this machine, such as \"127.0.0.1:13478\", or \"off\""));
    }
}

fn admin_settings(raw: &Raw) -> AdminSettings {
    AdminSettings {
        address: raw.admin.address.value.0,
        hosts: raw
            .admin
            .hosts
            .value
            .iter()
            .map(|host| host.value.to_ascii_lowercase())
            .collect(),
        api: raw.admin.api.value,
    }
}

fn dtls_limits(raw: &Raw, cx: &mut Context<'_>) -> DtlsLimits {
    let limits = raw.dtls.limits.clone();
    DtlsLimits {
        associations_per_network: capacity::per_network(
            "dtls.associations_per_network",
            &raw.dtls.associations_per_network,
            limits.associations_per_ip,
            Some(limits.associations),
            cx,
        ),
        ..limits
    }
}

fn stream_settings(raw: &Raw, capacity: &Capacity, cx: &mut Context<'_>) -> StreamSettings {
    let limits = &raw.limits;
    StreamSettings {
        max_connections: capacity.connections,
        max_connections_per_ip: limits.connections_per_ip.value,
        max_connections_per_network: capacity::per_network(
            "limits.connections_per_network",
            &limits.connections_per_network,
            limits.connections_per_ip.value,
            Some(capacity.connections),
            cx,
        ),
        max_new_connections_per_second: limits.new_connections_per_second.value,
        max_handshakes: limits.handshakes.value,
        handshake_timeout: limits.handshake_timeout.value,
        idle_timeout: limits.idle_timeout.value,
        unauthenticated_requests: limits.unauthenticated_requests.value,
        limits: limits.stream.clone(),
    }
}
