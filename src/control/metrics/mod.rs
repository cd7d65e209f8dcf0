//! The metrics endpoint. A scrape sums the counters of all parts, and takes no lock on a packet
//! path.
//!
//! Names are `relay_<noun>_<unit>`; counters end in `_total`. Labels come from closed sets and
//! never contain an address or a username. Every label combination is present from the start, so
//! that an alert can be written before the first event. The table in `docs/operations.md` lists all
//! of them, and a test compares the two.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use self::exposition::{Exposition, Sample};
use super::admin::counters::{AdminCounters, AdminRefusal};
use super::api::counters::{ApiCounters, ApiRoute, CODES};
use super::health::Health;
use super::process_counters::{ProbeOutcome, ProcessCounters, ReloadOutcome};
use crate::edge::certificates::TlsStore;
use crate::edge::certificates::acme::Acme;
use crate::edge::front_door::FrontDoor;
use crate::machine::process;
use crate::shard::counters::ShardCounters;
use crate::turn::PortGauges;
use crate::turn::counters::Counters;

mod core_families;
mod dtls_families;
mod exposition;
mod front_door_families;
mod http3_families;
mod shard_families;

/// Everything that has counters.
pub struct Sources {
    /// One per shard.
    pub turn: Vec<Arc<Counters>>,
    /// Of all shards.
    pub relay_ports: Arc<PortGauges>,
    /// One per shard.
    pub shards: Vec<Arc<ShardCounters>>,
    /// Connections.
    pub front_door: Arc<FrontDoor>,
    /// The credentials API.
    pub api: Arc<ApiCounters>,
    /// Phase and heartbeats.
    pub health: Arc<Health>,
    /// The process as a whole.
    pub process: Arc<ProcessCounters>,
    /// Lost log lines so far.
    pub lost_log_lines: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Omitted log lines so far: there were too many of their kind.
    pub left_out_log_lines: Box<dyn Fn() -> u64 + Send + Sync>,
    /// The admin listener.
    pub admin: Arc<AdminCounters>,
    /// The certificates, if any listener needs one.
    pub tls: Option<Arc<TlsStore>>,
    /// The ACME client, if it is configured.
    pub acme: Option<Arc<Acme>>,
}

/// Renders the metrics.
pub struct Metrics(Registry);

impl Metrics {
    /// Registers every family.
    ///
    /// # Errors
    /// When a family has an invalid or duplicate name, which a test rules out.
    pub fn new(sources: Sources) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(Relay::new(sources)?))?;
        Ok(Self(registry))
    }

    /// The text format, version 0.0.4.
    ///
    /// # Errors
    /// When a family cannot be encoded, which a test rules out.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.0.gather())
    }
}

/// Collects on demand: nothing is stored between two scrapes.
struct Relay {
    sources: Sources,
    descriptions: Vec<Desc>,
}

impl Relay {
    fn new(sources: Sources) -> prometheus::Result<Self> {
        // The registry requires descriptions in advance; a first collection supplies them.
        let describe = |family: MetricFamily| {
            let labels = family
                .get_metric()
                .first()
                .map(|metric| metric.get_label())
                .unwrap_or_default();
            let labels = labels.iter().map(|label| label.name().to_owned()).collect();
            Desc::new(
                family.name().to_owned(),
                family.help().to_owned(),
                labels,
                Default::default(),
            )
        };
        let descriptions = collect(&sources)
            .into_iter()
            .map(describe)
            .collect::<prometheus::Result<_>>()?;
        Ok(Self { sources, descriptions })
    }
}

impl Collector for Relay {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        collect(&self.sources)
    }
}

fn collect(sources: &Sources) -> Vec<MetricFamily> {
    let mut out = Exposition::default();
    core_families::collect(&sources.turn, &sources.relay_ports, &mut out);
    shard_families::collect(&sources.shards, &mut out);
    front_door_families::collect(&sources.front_door, &mut out);
    api(&sources.api, &mut out);
    service(sources, &mut out);
    certificates(sources, &mut out);
    process(&sources.process, &mut out);
    out.finish()
}

fn api(counters: &ApiCounters, out: &mut Exposition) {
    let responses = ApiRoute::ALL.into_iter().flat_map(|route| {
        CODES.iter().enumerate().map(move |(i, code)| {
            Sample::with(
                [("code", &code.to_string()), ("route", route.as_str())],
                counters.responses(route, i),
            )
        })
    });
    out.counter(
        "relay_api_responses_total",
        "HTTP responses of the credentials API, by route and status code.",
        responses,
    );
}

fn service(sources: &Sources, out: &mut Exposition) {
    let version = env!("CARGO_PKG_VERSION");
    out.gauge(
        "relay_build_info",
        "Always 1; the version is a label.",
        [Sample::with([("version", version)], 1_u64)],
    );
    let heartbeat = Duration::from_millis(sources.health.liveness().slowest_heartbeat_ms);
    out.gauge(
        "relay_worker_heartbeat_age_seconds",
        "Time since the loop of the slowest worker last ran, seconds.",
        Sample::plain(heartbeat.as_secs_f64()),
    );
    let readiness = sources.health.readiness();
    out.gauge(
        "relay_ready",
        "1 while /readyz reports ready.",
        Sample::plain(readiness.ready),
    );
    out.gauge(
        "relay_allocations_limit",
        "Maximum of allocations.",
        Sample::plain(readiness.allocations_limit),
    );
    let reloads = &sources.process.reloads;
    out.counter(
        "relay_config_reloads_total",
        "Configuration reloads, by outcome.",
        ReloadOutcome::ALL.map(|it| Sample::with([("outcome", it.as_str())], reloads[it as usize].load(Relaxed))),
    );
    out.gauge(
        "relay_config_last_reload_successful",
        "1 if the latest reload is completely in force, else 0.",
        Sample::plain(sources.process.last_reload_failed.load(Relaxed) == 0),
    );
    out.gauge(
        "relay_config_loaded_timestamp_seconds",
        "When the configuration in force was loaded, Unix time.",
        Sample::plain(sources.process.last_reload.load(Relaxed)),
    );
    let by_outcome = |counts: &[AtomicU64; 3]| {
        ProbeOutcome::ALL.map(|it| Sample::with([("outcome", it.as_str())], counts[it as usize].load(Relaxed)))
    };
    out.counter(
        "relay_external_address_checks_total",
        "Checks of the external addresses, by result.",
        by_outcome(&sources.process.probes),
    );
    out.counter(
        "relay_own_address_reads_total",
        "Addresses of this machine read again after a change, by result.",
        by_outcome(&sources.process.machine_reads),
    );
    out.counter(
        "relay_log_lines_lost_total",
        "Log lines dropped because the log could not be written fast enough.",
        Sample::plain((sources.lost_log_lines)()),
    );
    out.counter(
        "relay_log_lines_left_out_total",
        "Log lines omitted because there were too many of their kind.",
        Sample::plain((sources.left_out_log_lines)()),
    );
    out.counter(
        "relay_admin_refused_total",
        "Requests to the admin listener for a host that is not allowed, and connections closed in favour of newer ones.",
        AdminRefusal::ALL.map(|why| Sample::with([("reason", why.as_str())], sources.admin.refused(why))),
    );
}

fn certificates(sources: &Sources, out: &mut Exposition) {
    out.gauge(
        "relay_certificate_expiry_timestamp_seconds",
        "When the first of the served certificates expires, Unix time; 0 without one.",
        Sample::plain(sources.tls.as_ref().map_or(0, |tls| tls.soonest_expiry().0)),
    );
    let by_outcome = |[success, failure]: [u64; 2]| {
        [
            Sample::with([("outcome", "success")], success),
            Sample::with([("outcome", "failure")], failure),
        ]
    };
    out.counter(
        "relay_certificate_updates_total",
        "Changed certificates found, by whether they could be loaded.",
        by_outcome(sources.tls.as_ref().map_or([0, 0], |tls| tls.updates())),
    );
    out.counter(
        "relay_acme_orders_total",
        "Certificates requested by ACME, by outcome.",
        by_outcome(sources.acme.as_ref().map_or([0, 0], |acme| acme.orders())),
    );
}

/// Named as Prometheus' own client libraries do.
fn process(counters: &ProcessCounters, out: &mut Exposition) {
    out.counter(
        "process_cpu_seconds_total",
        "CPU time of all threads, seconds.",
        Sample::plain(process::cpu_seconds()),
    );
    out.gauge(
        "process_open_fds",
        "Open file descriptors.",
        Sample::plain(process::open_fds().unwrap_or(0)),
    );
    let max_fds = process::max_fds().map_or(f64::INFINITY, exposition::MetricValue::to_f64);
    out.gauge(
        "process_max_fds",
        "Maximum of file descriptors.",
        Sample::plain(max_fds),
    );
    let resident = process::resident_bytes().unwrap_or(0);
    out.gauge(
        "process_resident_memory_bytes",
        "Resident memory, bytes.",
        Sample::plain(resident),
    );
    out.gauge(
        "process_start_time_seconds",
        "When the process started, Unix time.",
        Sample::plain(counters.started.0),
    );
}
