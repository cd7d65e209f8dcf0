//! Start-up: from a checked configuration to a serving process.
//!
//! ```text
//! changes of addresses → file descriptors → certificate → every socket → workers → front door, admin → ready
//! ```

use core::net::IpAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

use super::banner;
use super::life::Life;
use super::log::{self, LogGuard};
use super::offered::{forced_path_missing, offer_only_what_is_bound};
use super::orders::Orders;
use super::own_address::OwnAddressMonitor;
use super::server::ServingProcess;
use crate::config::settings::{ClientIp, ListenerSettings, Settings};
use crate::config::{InForce, Loaded};
use crate::control::admin::counters::AdminCounters;
use crate::control::api::Api;
use crate::control::health::Health;
use crate::control::metrics::{Metrics, Sources};
use crate::control::operator::socket::{self, ControlSocket};
use crate::control::operator::{Operator, OperatorSources};
use crate::control::process_counters::ProcessCounters;
use crate::control::{admin, http_server};
use crate::edge::backend_addresses::BackendAddresses;
use crate::edge::certificates::acme::Acme;
use crate::edge::certificates::{CertificateSource, SelfSigned, TlsStore, report};
use crate::edge::front_door::proxy::Proxies;
use crate::edge::front_door::{Accepts, Backends, FrontDoor, FrontDoorLimits};
use crate::edge::listeners::{self, Bound};
use crate::machine::certificate::CertificateFiles;
use crate::machine::files::own::StateDir;
use crate::machine::process;
use crate::net::clock::unix_now;
use crate::shard::{Listener, LogClient, ShardConfig, Shards};
use crate::turn;
use crate::turn::login::credential::MintedCredential;

/// Interval of the reports on omitted log lines.
const LEFT_OUT_INTERVAL: Duration = Duration::from_secs(60);

/// Starts everything.
///
/// # Errors
/// Every error, one line each. Nothing stays bound.
pub(super) async fn start(loaded: Loaded, log: &LogGuard) -> Result<ServingProcess, Vec<String>> {
    let Loaded {
        mut settings,
        warnings,
        source,
        in_force,
        ..
    } = loaded;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), configuration = source, "starting");
    log::diagnostics(&warnings);
    let mut notes = Vec::new();
    let own_address = OwnAddressMonitor::new().map_err(|error| {
        vec![format!(
            "the system does not report changes of this machine's addresses: {error}"
        )]
    })?;
    if let Err(error) = process::raise_max_fds() {
        tracing::warn!(%error, "the limit on file descriptors cannot be raised");
    }
    let certificates = open_certificates(&settings, &mut notes).await?;
    let bound = listeners::bind(&settings).map_err(|failures| lines(&failures))?;
    notes.extend(bound.left_out());
    if let Some(message) = forced_path_missing(&settings, &bound.places) {
        if settings.turn.forced.everyone {
            return Err(vec![message]);
        }
        notes.push(message);
    }
    offer_only_what_is_bound(&mut settings, &bound.places);
    let trial = first_run(&settings, &mut notes);

    let server = serve(in_force, settings, certificates, (bound, own_address), log)?;
    tokio::spawn(tell_what_was_left_out(log.caps()));
    server.life.serving();
    banner::print(&server.settings, &server.places, &notes, trial.as_ref());
    server.life.ready();
    Ok(server)
}

fn lines(errors: &[impl ToString]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// The certificates, and the ACME client.
type Certificates = (Option<Arc<TlsStore>>, Option<Arc<Acme>>);

/// Opens the certificates if a listener needs one, on a thread that may block.
async fn open_certificates(settings: &Settings, notes: &mut Vec<String>) -> Result<Certificates, Vec<String>> {
    let needs_one = |listener: &ListenerSettings| listener.dtls || listener.tls || listener.https;
    if !settings.listeners.iter().any(needs_one) {
        return Ok((None, None));
    }
    let sources = certificate_sources(settings, notes);
    let acme = settings.tls.acme.clone();
    let open = move || {
        let (store, loaded) = TlsStore::open(sources, unix_now()).map_err(|errors| lines(&errors))?;
        let store = Arc::new(store);
        let acme = acme.map(|acme| Acme::new(acme, Arc::clone(&store))).transpose();
        let acme = acme.map_err(|error| lines(&[error]))?;
        Ok((store, acme.map(Arc::new), loaded))
    };
    let (store, acme, loaded) = spawn_blocking(open)
        .await
        .unwrap_or_else(|error| Err(vec![format!("the certificates cannot be read: {error}")]))?;
    loaded.iter().for_each(report::certificate);
    Ok((Some(store), acme))
}

/// The configured files, then ACME; without either a self-signed one.
fn certificate_sources(settings: &Settings, notes: &mut Vec<String>) -> Vec<CertificateSource> {
    let tls = &settings.tls;
    let mut sources: Vec<_> = tls.certificates.iter().cloned().map(CertificateSource::Files).collect();
    if let Some(acme) = &tls.acme {
        let mut wanted = self_signed(settings);
        wanted.names.extend(acme.domains.iter().cloned());
        sources.push(CertificateSource::Acme {
            kept: CertificateFiles {
                state_dir: Some(acme.state_dir.clone()),
                certificate: acme.kept.clone(),
                private_key: acme.kept.clone(),
            },
            until: tls.self_signed.clone(),
            wanted,
        });
    }
    if sources.is_empty() {
        sources.push(CertificateSource::SelfSigned(
            tls.self_signed.clone(),
            self_signed(settings),
        ));
        notes.push(format!(
            "the certificate is self-signed ({}), so clients refuse turns: and https: unless told otherwise; set \
             tls.certificate and tls.private_key, or tls.acme.domains",
            tls.self_signed.certificate.display()
        ));
    }
    sources
}

/// Names and addresses in a self-signed certificate: the name in the minted URIs, the announced
/// addresses, this machine.
fn self_signed(settings: &Settings) -> SelfSigned {
    let mut wanted = SelfSigned {
        names: vec!["localhost".into()],
        addresses: vec![IpAddr::from([127, 0, 0, 1])],
    };
    match settings.api.host.parse() {
        Ok(ip) => wanted.addresses.push(ip),
        Err(_) => wanted.names.insert(0, settings.api.host.clone()),
    }
    let relay = [settings.turn.relay.ipv4, settings.turn.relay.ipv6];
    wanted
        .addresses
        .extend(relay.into_iter().flatten().map(|relay| relay.announced));
    wanted.addresses.sort_unstable();
    wanted.addresses.dedup();
    wanted.names.dedup();
    wanted
}

/// Reports what was generated because nothing was configured. Mints a credential for a trial if the
/// secret is new, or if standard output is a terminal: a log need not contain one for every start.
fn first_run(settings: &Settings, notes: &mut Vec<String>) -> Option<MintedCredential> {
    for (ip, how) in &settings.first_run.external {
        tracing::info!(%ip, how, "address for clients");
    }
    let file = settings.first_run.secret_file.as_ref()?.display();
    notes.push(if settings.first_run.secret_is_new {
        format!("no secret is configured, so one was made; it is kept in {file}")
    } else {
        format!("no secret is configured; the one in {file} is used")
    });
    if settings.api.enabled && settings.api.keys.is_empty() && !settings.api.open {
        notes.push("no application can mint credentials over HTTP yet: add [[api.keys]]".to_owned());
    }
    if !settings.first_run.secret_is_new && !banner::is_watched() {
        return None;
    }
    let credentials = &settings.turn.credentials;
    let minted = if settings.api.forced {
        credentials.mint_forced(unix_now(), settings.api.default_ttl, Some("first-run"))
    } else {
        credentials.mint(unix_now(), settings.api.default_ttl, Some("first-run"))
    };
    minted
        .inspect_err(|error| tracing::warn!(%error, "no credential to try the server with"))
        .ok()
}

/// Reports at an interval, until the process ends.
async fn tell_what_was_left_out(caps: Arc<log::LineBudgets>) {
    loop {
        tokio::time::sleep(LEFT_OUT_INTERVAL).await;
        caps.tell();
    }
}

/// Starts workers, front door and admin listener.
fn serve(
    in_force: InForce,
    settings: Settings,
    (tls, acme): Certificates,
    (bound, own_address): (Bound, OwnAddressMonitor),
    log: &LogGuard,
) -> Result<ServingProcess, Vec<String>> {
    let addresses = BackendAddresses::new(settings.peers.backends.clone());
    addresses.follow(&settings.front_door);
    let shards = start_workers(&settings, tls.as_ref(), &addresses, bound.udp)?;
    let api = Api::new(settings.api.clone(), Arc::clone(&settings.turn.credentials), unix_now);
    let backends = Backends::with_addresses(&settings.front_door, &addresses);
    let health = Arc::new(health(&settings, &shards));
    let https = api.front_door(Arc::clone(&health), backends.http());
    let adopting = Arc::clone(&shards);
    let limits = FrontDoorLimits::from(&settings.stream);
    let door = FrontDoor::new(
        limits,
        log_client(&settings),
        tls.clone(),
        https,
        backends,
        move |stream| adopting.add_stream(stream),
    );

    let (life, endings) = Life::new(Arc::clone(&health));
    let doors = open_doors(&door, bound.tcp, &endings.doors)?;

    // The front door is open, so it can answer an authority that validates.
    if let Some(acme) = &acme {
        tokio::spawn(Arc::clone(acme).run());
    }
    let process = Arc::new(ProcessCounters::new(unix_now()));
    if let Some(socket) = bound.admin {
        let certificates = (tls.clone(), acme.clone());
        let sources = sources(&shards, &door, &api, &health, &process, certificates, log);
        open_admin(&settings, asynchronous(socket)?, sources, &api, endings.admin)?;
    }
    let (orders, ordering) = Orders::new(log.filter());
    let operator = OperatorSources {
        shards: Arc::clone(&shards),
        health: Arc::clone(&health),
        process: Arc::clone(&process),
        orders: ordering,
        state_dir: Some(settings.state_dir.clone()).filter(|dir| !dir.as_os_str().is_empty()),
        max_ttl: settings.turn.credentials.max_ttl(),
    };
    let operator = Operator::new(operator).map_err(|error| vec![error])?;
    let control = open_control(&settings, &operator);
    Ok(ServingProcess {
        in_force: Arc::new(in_force),
        settings,
        own_address,
        backend_addresses: addresses,
        places: bound.places,
        tls,
        acme,
        shards,
        api,
        health,
        process,
        doors,
        life,
        orders,
        control,
    })
}

/// The admin listener.
fn open_admin(
    settings: &Settings,
    socket: TcpListener,
    mut sources: Sources,
    api: &Api,
    stopping: watch::Receiver<bool>,
) -> Result<(), Vec<String>> {
    let counters = Arc::new(AdminCounters::default());
    sources.admin = Arc::clone(&counters);
    let health = Arc::clone(&sources.health);
    let metrics = Metrics::new(sources).map_err(|error| vec![format!("the metrics cannot be registered: {error}")])?;
    let api = (settings.api.enabled && settings.admin.api).then_some(api);
    let hosts = settings.admin.hosts.clone();
    let router = admin::router(Arc::new(metrics), health, api, hosts, Arc::clone(&counters));
    tokio::spawn(http_server::serve(socket, router, counters, stopping));
    Ok(())
}

/// The control interface on its socket. If it fails, the server serves without it.
fn open_control(settings: &Settings, operator: &Operator) -> JoinSet<()> {
    let mut control = JoinSet::new();
    let runtime = std::env::var_os(socket::RUNTIME_VARIABLE).filter(|it| !it.is_empty());
    let directory = match &runtime {
        // systemd names one directory here for each RuntimeDirectory=.
        Some(directories) => std::env::split_paths(directories).next().unwrap_or_default(),
        None => settings.state_dir.clone(),
    };
    let opened = if directory.as_os_str().is_empty() {
        Err(io::Error::other("there is no state_dir"))
    } else if runtime.is_some() {
        ControlSocket::open(&directory)
    } else {
        StateDir::make(&directory).and_then(|_| ControlSocket::open(&directory))
    };
    match opened {
        Ok(socket) => {
            tracing::info!(socket = %socket.path().display(), "control interface");
            control.spawn(socket.serve(operator.router()));
        }
        Err(error) => tracing::info!(
            directory = %directory.display(),
            %error,
            "no control interface: `relay status` and similar commands do not work; give this server its own state_dir"
        ),
    }
    control
}

/// Opens the front door at each of its listeners.
fn open_doors(
    door: &Arc<FrontDoor>,
    listeners: Vec<(std::net::TcpListener, ListenerSettings)>,
    stopping: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, Vec<String>> {
    let mut doors = JoinSet::new();
    for (socket, listener) in listeners {
        let (accepts, proxies) = (Accepts::from(&listener), Proxies::from(&listener));
        doors.spawn(Arc::clone(door).serve(asynchronous(socket)?, accepts, proxies, stopping.clone()));
    }
    Ok(doors)
}

fn health(settings: &Settings, shards: &Arc<Shards>) -> Health {
    let alive = Arc::clone(shards);
    let health = Health::new(
        shards.counters().to_vec(),
        shards.port_gauges(),
        settings.turn.limits.allocations,
        move || alive.heartbeat_ages().into_iter().max().unwrap_or_default(),
    );
    health.set_settings(settings);
    health
}

fn start_workers(
    settings: &Settings,
    tls: Option<&Arc<TlsStore>>,
    addresses: &BackendAddresses,
    sockets: Vec<Vec<Listener>>,
) -> Result<Arc<Shards>, Vec<String>> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| vec![format!("the system returns no random numbers: {error}")])?;
    let config = Arc::new(settings.turn.clone());
    let shards = Shards::start(
        shard_config(settings, tls, addresses)?,
        config,
        Arc::new(turn::Shared::new(seed)),
        sockets,
    );
    shards
        .map(Arc::new)
        .map_err(|error| vec![format!("the workers cannot be started: {error}")])
}

fn asynchronous(socket: std::net::TcpListener) -> Result<TcpListener, Vec<String>> {
    TcpListener::from_std(socket).map_err(|error| vec![format!("a listener cannot be watched: {error}")])
}

const fn log_client(settings: &Settings) -> LogClient {
    match settings.log.client_ip {
        ClientIp::Full => LogClient::Full,
        ClientIp::Truncated => LogClient::Truncated,
        ClientIp::Off => LogClient::Off,
    }
}

#[cfg_attr(
    not(feature = "dtls"),
    expect(unused_variables, reason = "DTLS alone asks for certificates")
)]
fn shard_config(
    settings: &Settings,
    tls: Option<&Arc<TlsStore>>,
    addresses: &BackendAddresses,
) -> Result<ShardConfig, Vec<String>> {
    let stream = &settings.stream;
    Ok(ShardConfig {
        #[cfg(feature = "dtls")]
        dtls: crate::edge::certificates::dtls_context::config(settings, tls).map_err(|error| lines(&[error]))?,
        stream: stream.limits.clone(),
        idle_timeout: stream.idle_timeout,
        unauthenticated_requests: stream.unauthenticated_requests,
        allocation_lines: settings.log.allocation_lines_per_second,
        http3: crate::edge::http3_backend::config(settings, addresses),
        relay: settings.udp.relay,
        slots: settings.udp.slots,
        mailbox: settings.udp.mailbox,
        pause: settings.udp.pause,
        log_client: log_client(settings),
        local_listeners: settings
            .listeners
            .iter()
            .flat_map(|listener| listener.addresses.iter().copied())
            .filter(|address| address.ip().is_loopback())
            .collect(),
        ..ShardConfig::default()
    })
}

fn sources(
    shards: &Arc<Shards>,
    door: &Arc<FrontDoor>,
    api: &Api,
    health: &Arc<Health>,
    process: &Arc<ProcessCounters>,
    (tls, acme): Certificates,
    log: &LogGuard,
) -> Sources {
    let (lost, caps) = (log.lost_lines(), log.caps());
    Sources {
        turn: shards.counters().to_vec(),
        relay_ports: shards.port_gauges(),
        shards: shards.shard_counters().to_vec(),
        front_door: Arc::clone(door),
        api: api.counters(),
        health: Arc::clone(health),
        process: Arc::clone(process),
        lost_log_lines: Box::new(move || lost.dropped_lines() as u64),
        left_out_log_lines: Box::new(move || caps.left_out()),
        admin: Arc::default(),
        tls,
        acme,
    }
}

#[cfg(test)]
mod tests;
