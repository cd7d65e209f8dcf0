//! Reports each phase of the process to readiness, the service manager, the listeners and the log.

use core::time::Duration;
use std::sync::Arc;

use tokio::sync::watch;

use super::systemd;
use crate::control::health::Health;
use crate::control::phase::Phase;
use crate::control::process_counters::ReloadOutcome;

/// The only value that sets the phase of the process.
pub(super) struct Life {
    health: Arc<Health>,
    stop_doors: watch::Sender<bool>,
    /// The admin listener answers until the process has stopped, or this is dropped.
    stop_admin: watch::Sender<bool>,
}

/// What ends with a phase: the accept loops of the front door, and the admin listener. Each ends
/// when it holds `true`.
pub(super) struct Endings {
    pub(super) doors: watch::Receiver<bool>,
    pub(super) admin: watch::Receiver<bool>,
}

impl Life {
    pub(super) fn new(health: Arc<Health>) -> (Self, Endings) {
        let (stop_doors, doors) = watch::channel(false);
        let (stop_admin, admin) = watch::channel(false);
        let life = Self {
            health,
            stop_doors,
            stop_admin,
        };
        (life, Endings { doors, admin })
    }

    /// Everything is bound; the front door is open.
    pub(super) fn serving(&self) {
        self.health.enter(Phase::Serving);
    }

    /// The notes for the operator are printed.
    pub(super) fn ready(&self) {
        systemd::ready("serving");
    }

    /// A reload begins. `why`: a signal or an order.
    pub(super) fn reloading(&self, why: &str) {
        tracing::info!("{why}: reading the configuration again");
        self.health.enter(Phase::Reloading);
        systemd::reloading();
    }

    /// A reload ended.
    pub(super) fn reloaded(&self, outcome: ReloadOutcome) {
        self.health.enter(Phase::Serving);
        match outcome {
            ReloadOutcome::Success => {
                tracing::info!("reloaded");
                systemd::ready("serving");
            }
            ReloadOutcome::Partial => {
                tracing::warn!("reloaded in part: the parts named above are unchanged, everything else is in force");
                systemd::ready("serving; a part of the latest reload is not in force");
            }
            ReloadOutcome::Failure => {
                tracing::error!("not reloaded: the previous configuration stays in force");
                systemd::ready("serving; the latest reload failed");
            }
        }
    }

    /// The signal `name` stops the process, all of it within `limit`; joining threads may take
    /// `grace` more.
    pub(super) fn stopping(&self, name: &str, limit: Duration, grace: Duration) {
        tracing::info!(
            allocations = self.health.allocations(),
            within_secs = limit.as_secs(),
            "{name}: stopping; no new clients"
        );
        self.health.enter(Phase::Stopping);
        systemd::stopping("stopping", limit + grace);
        self.stop_doors.send_replace(true);
    }

    /// Every allocation has ended, or its time is over.
    pub(super) fn stopped(&self) {
        self.health.enter(Phase::Stopped);
        self.stop_admin.send_replace(true);
        tracing::info!("stopped");
    }
}
