//! A server in service. It waits for a signal, the watchdog's next beat, a change of a certificate
//! or an address, and the end of a worker.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::task::{JoinError, JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::exit::{EXIT_BUG, EXIT_FAILED};
use super::external_address::{ExternalAddressMonitor, ProbeResults};
use super::life::Life;
use super::offered::{forced_path_missing, offer_only_what_is_bound};
use super::orders::{Orders, Todo};
use super::own_address::OwnAddressMonitor;
use super::signals::{Signals, StopSignals};
use super::{log, peer_policy, reload, systemd};
use crate::base::time::UnixTime;
use crate::config::reader::diagnostic::Diagnostics;
use crate::config::settings::Settings;
use crate::config::{self, InForce, Loaded};
use crate::control::api::Api;
use crate::control::health::Health;
use crate::control::operator::ReloadReport;
use crate::control::process_counters::{ProbeOutcome, ProcessCounters, ReloadOutcome};
use crate::edge::backend_addresses::BackendAddresses;
use crate::edge::certificates::acme::Acme;
use crate::edge::certificates::{TlsStore, report};
use crate::edge::listeners::ListenAddresses;
use crate::machine::ThisMachine;
use crate::machine::certificate::CertificateOutcome;
use crate::net::clock::unix_now;
use crate::shard::Shards;

/// Interval at which the certificates' files are polled.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which certificates are loaded again although their files have not changed.
const DAY: Duration = Duration::from_secs(86_400);
/// Longest interval between two checks of the workers' heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// What the end may take beyond `shutdown_timeout`, to join threads.
const GRACE: Duration = Duration::from_secs(1);

/// A serving process.
pub(super) struct ServingProcess {
    /// The configuration in force, for reloads.
    pub(super) in_force: Arc<InForce>,
    pub(super) settings: Settings,
    /// Monitors what leads to this machine.
    pub(super) own_address: OwnAddressMonitor,
    /// Monitors the addresses of the servers behind this one.
    pub(super) backend_addresses: BackendAddresses,
    pub(super) places: ListenAddresses,
    pub(super) tls: Option<Arc<TlsStore>>,
    pub(super) acme: Option<Arc<Acme>>,
    pub(super) shards: Arc<Shards>,
    pub(super) api: Api,
    pub(super) health: Arc<Health>,
    pub(super) process: Arc<ProcessCounters>,
    /// One accept loop for each TCP listener. All end when the process stops.
    pub(super) doors: JoinSet<()>,
    pub(super) life: Life,
    /// Orders of operators.
    pub(super) orders: Orders,
    /// The control interface, until the process ends.
    pub(super) control: JoinSet<()>,
}

/// The result of loading the certificates of each source.
type Outcomes = Vec<CertificateOutcome>;
type Reloading = JoinHandle<Result<(Loaded, Outcomes), Diagnostics>>;
/// How certificates are loaded again.
type Look = fn(&TlsStore, UnixTime) -> Outcomes;

impl ServingProcess {
    /// Runs until SIGTERM, SIGINT, the end of a drain, or a failure.
    pub(super) async fn run(mut self, mut signals: Signals) -> u8 {
        let watchdog = systemd::watchdog_interval();
        let mut heartbeat = ticks(watchdog.unwrap_or(HEARTBEAT_INTERVAL).min(HEARTBEAT_INTERVAL));
        let mut files = ticks(WATCH_INTERVAL);
        let mut days = ticks(DAY);
        days.reset();
        let mut external_address = ExternalAddressMonitor::new(&self.settings, self.machine());
        let mut reloading: Option<Reloading> = None;
        // What asked for another reload while one is under way.
        let mut reload_again = None;
        let mut looking: Option<JoinHandle<Outcomes>> = None;
        let mut due: Option<Look> = None;
        loop {
            tokio::select! {
                name = signals.stop.next() => return self.stop(name, signals.stop).await,
                _ = signals.hangup.recv() => {
                    if reloading.is_some() {
                        reload_again = Some("SIGHUP");
                    } else {
                        reloading = Some(self.begin_reload("SIGHUP"));
                    }
                }
                order = self.orders.next() => {
                    if self.orders.take(order) == Todo::Reload {
                        if reloading.is_some() {
                            reload_again = Some("relay reload");
                        } else {
                            reloading = Some(self.begin_reload("relay reload"));
                        }
                    }
                }
                loaded = outcome(&mut reloading) => {
                    self.end_reload(loaded);
                    external_address = ExternalAddressMonitor::new(&self.settings, self.machine());
                    reloading = reload_again.take().map(|why| self.begin_reload(why));
                }
                _ = heartbeat.tick() => {
                    if watchdog.is_some() && self.health.liveness().alive {
                        systemd::alive();
                    }
                    if self.orders.tick(self.health.allocations()) {
                        return self.stop("drained", signals.stop).await;
                    }
                }
                // A renewed certificate is served from the next handshake on.
                _ = files.tick() => {
                    if looking.is_none() {
                        looking = self.begin_look(due.take().unwrap_or(TlsStore::poll_files));
                    }
                }
                // Each day the log warns of a certificate that expires soon; a self-signed one is
                // renewed.
                _ = days.tick() => due = Some(TlsStore::reload),
                outcomes = outcome(&mut looking) => {
                    looking = None;
                    self.certificates_changed(&outcomes.unwrap_or_default());
                }
                installed = installed(self.tls.as_deref()) => self.certificates_changed(&installed),
                results = external_address.probe(&self.settings) => self.external_address_probed(&mut external_address, results),
                read = self.own_address.read() => self.own_address_changed(read),
                () = self.backend_addresses.changed() => self.backends_changed(),
                Some(ended) = self.doors.join_next() => {
                    let error = ended.err().map(|error| error.to_string()).unwrap_or_default();
                    tracing::error!(error, "a listener ended; this is a bug, and the process ends");
                    return EXIT_BUG;
                }
            }
        }
    }

    fn begin_reload(&mut self, why: &str) -> Reloading {
        self.orders.reload_begins();
        self.life.reloading(why);
        let in_force = Arc::clone(&self.in_force);
        // Reading files, resolving names and asking a STUN server may take long.
        let machine = self.machine();
        let tls = self.tls.clone();
        spawn_blocking(move || {
            let loaded = config::reload(&in_force, &machine)?;
            let certificates = tls.map_or_else(Vec::new, |tls| tls.reload(unix_now()));
            Ok((loaded, certificates))
        })
    }

    /// Polls the certificates' files on a thread that may block.
    fn begin_look(&self, look: Look) -> Option<JoinHandle<Outcomes>> {
        let tls = Arc::clone(self.tls.as_ref()?);
        Some(spawn_blocking(move || look(&tls, unix_now())))
    }

    /// The machine, for queries while clients are served.
    fn machine(&self) -> ThisMachine {
        ThisMachine {
            own: Some(self.shards.own_sockets()),
        }
    }

    fn end_reload(&mut self, loaded: Result<Result<(Loaded, Outcomes), Diagnostics>, JoinError>) {
        let (outcome, report) = match loaded {
            Ok(Ok((loaded, certificates))) => {
                log::diagnostics(&loaded.warnings);
                let diagnostics = loaded.warnings.render(false);
                let (outcome, waiting, failed) = self.apply(loaded, certificates);
                (
                    outcome,
                    ReloadReport {
                        diagnostics,
                        waiting,
                        failed,
                        ..ReloadReport::of(outcome)
                    },
                )
            }
            Ok(Err(diagnostics)) => {
                log::diagnostics(&diagnostics);
                let diagnostics = diagnostics.render(false);
                let outcome = ReloadOutcome::Failure;
                (
                    outcome,
                    ReloadReport {
                        diagnostics,
                        ..ReloadReport::of(outcome)
                    },
                )
            }
            Err(error) => {
                tracing::error!(%error, "the configuration cannot be read");
                (ReloadOutcome::Failure, ReloadReport::of(ReloadOutcome::Failure))
            }
        };
        self.orders.reload_ended(&report);
        self.process.reloaded(unix_now(), outcome);
        self.life.reloaded(outcome);
    }

    /// Applies every part that can take effect.
    fn apply(&mut self, loaded: Loaded, certificates: Outcomes) -> (ReloadOutcome, Vec<String>, Vec<String>) {
        self.in_force = Arc::new(loaded.in_force);
        let merged = reload::merge(&self.settings, loaded.settings, loaded.waiting);
        let (mut settings, waiting, mut failed) = (merged.settings, merged.waiting, merged.failed);
        if let Some(message) = forced_path_missing(&settings, &self.places) {
            if settings.turn.forced.everyone {
                settings.turn.forced.clone_from(&self.settings.turn.forced);
                settings.api.forced = self.settings.api.forced;
                failed.push(message);
            } else {
                tracing::warn!("{message}");
            }
        }
        offer_only_what_is_bound(&mut settings, &self.places);
        if !report::outcomes(&certificates) && !failed.iter().any(|part| part == reload::CERTIFICATES) {
            failed.push(reload::CERTIFICATES.to_owned());
        }
        if let Some(acme) = &self.acme {
            acme.try_again();
        }
        self.settings = settings;
        self.put_in_force();
        self.health.set_settings(&self.settings);
        for part in &failed {
            tracing::error!("not reloaded: {part}");
        }
        if !waiting.is_empty() {
            tracing::warn!(waiting = waiting.join(", "), "these changes need a restart");
        }
        let outcome = if failed.is_empty() && waiting.is_empty() {
            ReloadOutcome::Success
        } else {
            ReloadOutcome::Partial
        };
        (outcome, waiting, failed)
    }

    /// New allocations use the external address of the probe.
    fn external_address_probed(&mut self, external_address: &mut ExternalAddressMonitor, results: ProbeResults) {
        let process = &self.process;
        if !external_address.apply(results, &mut self.settings, |outcome| process.probed(outcome)) {
            return;
        }
        offer_only_what_is_bound(&mut self.settings, &self.places);
        self.put_in_force();
    }

    /// Puts the present settings into force in workers and API.
    fn put_in_force(&self) {
        let Settings { turn, api, .. } = &self.settings;
        self.shards.set_config(Arc::new(turn.clone()));
        self.api.set_config(api.clone(), Arc::clone(&turn.credentials));
    }

    /// Peers may not reach this machine's addresses.
    fn own_address_changed(&mut self, read: io::Result<Vec<IpNet>>) {
        let outcome = self.own_address.apply(read, &mut self.settings);
        self.process.read_machine(outcome);
        if outcome == ProbeOutcome::Changed {
            self.shards.set_config(Arc::new(self.settings.turn.clone()));
        }
    }

    /// Peers may not reach the servers behind this one, whatever their names resolve to.
    fn backends_changed(&mut self) {
        if peer_policy::know_backends(&mut self.settings, self.backend_addresses.all()) {
            tracing::info!("the address of a server behind this one changed; peers may not reach it");
            self.shards.set_config(Arc::new(self.settings.turn.clone()));
        }
    }

    /// Reports certificates that changed, or failed to load, while clients are served.
    fn certificates_changed(&self, outcomes: &[CertificateOutcome]) {
        if let Some(tls) = &self.tls {
            report::changes(outcomes, tls, &self.settings.front_door, &self.settings.api);
        }
    }

    /// Refuses new clients, ends every allocation, and stays within the configured time.
    async fn stop(mut self, name: &str, mut signals: StopSignals) -> u8 {
        let limit = self.settings.shutdown_timeout;
        self.life.stopping(name, limit, GRACE);
        let shards = Arc::clone(&self.shards);
        let ending = async {
            let workers = spawn_blocking(move || shards.shutdown(limit));
            while self.doors.join_next().await.is_some() {}
            workers.await
        };
        let code = tokio::select! {
            ended = timeout(limit + GRACE, ending) => match ended {
                Ok(Ok(true)) => 0,
                Ok(Ok(false)) | Err(_) => {
                    tracing::warn!("the time to stop is over; remaining connections are closed");
                    0
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "a worker could not be stopped");
                    EXIT_BUG
                }
            },
            name = signals.next() => {
                tracing::warn!("{name} again: stopping at once");
                return EXIT_FAILED;
            }
        };
        self.control.shutdown().await;
        self.life.stopped();
        code
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The result of the work under way. Waits for ever if there is none.
async fn outcome<T>(work: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match work {
        Some(handle) => handle.await,
        None => core::future::pending().await,
    }
}

/// Certificates that were obtained and installed; waits for ever where there is none.
async fn installed(tls: Option<&TlsStore>) -> Outcomes {
    match tls {
        Some(tls) => tls.installed().await.into_iter().map(Ok).collect(),
        None => core::future::pending().await,
    }
}
