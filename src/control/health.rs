//! Whether the process is alive, and whether it accepts more clients. The health endpoints and the
//! service manager's watchdog use the same answers.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use utoipa::ToSchema;

use super::drain::Drain;
use super::phase::Phase;
use crate::base::lock::lock;
use crate::config::settings::Settings;
use crate::machine::process;
use crate::net::clock::Clock;
use crate::turn::PortGauges;
use crate::turn::counters::Counters;

/// A worker whose loop has not run for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);
/// File descriptors reserved for the server itself: with fewer left it accepts no more clients.
const RESERVED_FDS: u64 = 64;

/// The phase of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Phase)]
pub enum ShownPhase {
    /// Sockets are still being bound.
    Starting,
    /// In service.
    Serving,
    /// No new clients.
    Stopping,
}

impl From<Phase> for ShownPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Starting => Self::Starting,
            Phase::Serving | Phase::Reloading => Self::Serving,
            Phase::Stopping | Phase::Stopped => Self::Stopping,
        }
    }
}

/// The state of the process, shared by all that report it.
pub struct Health {
    phase: AtomicU8,
    slowest_heartbeat: Box<dyn Fn() -> Duration + Send + Sync>,
    shards: Vec<Arc<Counters>>,
    relay_ports: Arc<PortGauges>,
    allocations_limit: AtomicU64,
    drain: Mutex<Drain>,
    /// Whether an operator drains the server.
    draining: AtomicBool,
}

/// The response of `/healthz`.
#[derive(Debug, Serialize)]
pub struct Liveness {
    /// Every worker's loop has run lately.
    pub alive: bool,
    /// Time since the slowest worker's loop ran, in milliseconds.
    pub slowest_heartbeat_ms: u64,
}

/// The response of `/readyz`: whether the server accepts more clients, and for how many it has
/// room.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// The server accepts more clients.
    pub ready: bool,
    /// Why it does not.
    pub reasons: Vec<&'static str>,
    /// The phase of the process.
    pub phase: ShownPhase,
    /// Worker threads.
    pub shards: usize,
    /// Live allocations.
    pub allocations: u64,
    /// Maximum of allocations.
    pub allocations_limit: u64,
    /// Free relay ports.
    pub relay_ports_free: u64,
    /// Relay ports in total.
    pub relay_ports_limit: u64,
    /// File descriptors that may still be opened; absent if there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_descriptors_free: Option<u64>,
}

impl Health {
    /// Begins in [`Phase::Starting`]. `slowest_heartbeat` gives the time since the slowest worker's
    /// loop ran.
    pub fn new(
        shards: Vec<Arc<Counters>>,
        relay_ports: Arc<PortGauges>,
        allocations_limit: u32,
        slowest_heartbeat: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Starting as u8),
            slowest_heartbeat: Box::new(slowest_heartbeat),
            shards,
            relay_ports,
            allocations_limit: AtomicU64::new(allocations_limit.into()),
            drain: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// The phase of the process.
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Relaxed))]
    }

    /// Enters a phase, which must be a successor of the present one.
    pub fn enter(&self, next: Phase) {
        let phase = self.phase();
        debug_assert!(phase.may_become(next), "{phase:?} is not followed by {next:?}");
        self.phase.store(next as u8, Relaxed);
    }

    /// Takes the settings in force.
    pub fn set_settings(&self, settings: &Settings) {
        self.set_allocations_limit(settings.turn.limits.allocations);
        self.drain()
            .follow(&settings.turn.redirect, &settings.listeners, Clock::default().mono());
    }

    /// Sets whether an operator drains the server.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Relaxed);
    }

    fn set_allocations_limit(&self, limit: u32) {
        self.allocations_limit.store(limit.into(), Relaxed);
    }

    fn drain(&self) -> std::sync::MutexGuard<'_, Drain> {
        // Every critical section ends with its only assignment, so a panic leaves no partial state.
        lock(&self.drain)
    }

    /// Whether every worker is alive.
    pub fn liveness(&self) -> Liveness {
        let age = (self.slowest_heartbeat)();
        Liveness {
            alive: age < STUCK_AFTER,
            slowest_heartbeat_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Live allocations.
    pub fn allocations(&self) -> u64 {
        self.shards
            .iter()
            .flat_map(|shard| &shard.allocations)
            .map(|gauge| gauge.get())
            .sum()
    }

    /// Whether the server accepts more clients.
    pub fn readiness(&self) -> Readiness {
        let phase = self.phase();
        let allocations = self.allocations();
        let allocations_limit = self.allocations_limit.load(Relaxed);
        let relay_ports_limit = self.relay_ports.total();
        let relay_ports_free = relay_ports_limit.saturating_sub(self.relay_ports.used());
        let file_descriptors_free = process::max_fds()
            .zip(process::open_fds())
            .map(|(max, open)| max.saturating_sub(open));

        let reasons = [
            (phase == Phase::Starting, "starting"),
            (phase.is_ending(), "stopping"),
            (self.draining.load(Relaxed), "an operator drains the server"),
            (
                self.drain().is_complete(Clock::default().mono()),
                "turn.redirect sends every new client to another server",
            ),
            (!self.liveness().alive, "a worker is stuck"),
            (allocations >= allocations_limit, "limits.allocations is reached"),
            (relay_ports_free == 0, "no relay port is free"),
            (
                file_descriptors_free.is_some_and(|free| free < RESERVED_FDS),
                "no file descriptors are left",
            ),
        ];
        let reasons = reasons
            .into_iter()
            .filter_map(|(holds, reason)| holds.then_some(reason))
            .collect::<Vec<_>>();
        Readiness {
            ready: reasons.is_empty(),
            reasons,
            phase: phase.into(),
            shards: self.shards.len(),
            allocations,
            allocations_limit,
            relay_ports_free,
            relay_ports_limit,
            file_descriptors_free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample;

    fn health(heartbeat: Duration) -> (Health, Arc<Counters>) {
        let shard = Arc::new(Counters::default());
        let ports = PortGauges::default();
        ports.total[0].set(2);
        let health = Health::new(vec![Arc::clone(&shard)], Arc::new(ports), 2, move || heartbeat);
        health.enter(Phase::Serving);
        (health, shard)
    }

    #[test]
    fn readiness_names_every_reason_and_liveness_only_a_stuck_worker() {
        let (health, shard) = health(Duration::ZERO);
        assert!(health.readiness().ready, "{:?}", health.readiness());
        health.enter(Phase::Stopping);
        shard.allocations[0].set(2);
        health.relay_ports.used[0].set(2);
        let readiness = health.readiness();
        assert!(!readiness.ready);
        assert_eq!(
            readiness.reasons,
            ["stopping", "limits.allocations is reached", "no relay port is free"]
        );
        assert!(health.liveness().alive);
    }

    #[test]
    fn one_allocation_below_the_limit_is_ready_and_at_the_limit_is_not() {
        let (health, shard) = health(Duration::ZERO);
        shard.allocations[1].set(1);
        health.relay_ports.used[0].set(1);
        assert!(health.readiness().ready);
        shard.allocations[2].set(1);
        assert!(!health.readiness().ready);
        health.set_allocations_limit(3);
        assert!(health.readiness().ready);
    }

    #[test]
    fn a_worker_is_stuck_only_after_its_bound() {
        assert!(health(STUCK_AFTER - Duration::from_millis(1)).0.liveness().alive);
        let (stuck, _) = health(STUCK_AFTER);
        assert!(!stuck.liveness().alive);
        assert_eq!(stuck.readiness().reasons, ["a worker is stuck"]);
    }

    #[test]
    fn new_settings_hold_for_readiness_at_once() {
        let (health, _) = health(Duration::ZERO);
        let mut settings = sample::settings(sample::BASE);
        settings.turn.limits.allocations = 77;
        health.set_settings(&settings);
        assert_eq!(health.readiness().allocations_limit, 77);
        // UDP is all that is served, and sent away at once.
        settings.turn.redirect.ipv4 = Some("203.0.113.20:443".parse().expect("an address"));
        health.set_settings(&settings);
        let reasons = health.readiness().reasons;
        assert!(
            reasons.len() == 1 && reasons[0].starts_with("turn.redirect"),
            "{reasons:?}"
        );
    }
}
