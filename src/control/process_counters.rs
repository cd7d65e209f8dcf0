//! Counts events of the whole process: reloads and checks of addresses.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::time::UnixTime;

/// The result of a check of an address, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The same address as before.
    Same,
    /// Another address; new allocations use it.
    Changed,
    /// No address; the previous one stays.
    Failed,
}

impl ProbeOutcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Same, Self::Changed, Self::Failed];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Changed => "changed",
            Self::Failed => "failure",
        }
    }
}

/// The result of a reload, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// All of it is in force.
    Success,
    /// A part needs a restart, or failed.
    Partial,
    /// Nothing of it is in force.
    Failure,
}

impl ReloadOutcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Success, Self::Partial, Self::Failure];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Failure => "failure",
        }
    }
}

/// Counters of the process.
#[derive(Debug)]
pub struct ProcessCounters {
    pub(in crate::control) started: UnixTime,
    pub(in crate::control) reloads: [AtomicU64; 3],
    pub(in crate::control) probes: [AtomicU64; 3],
    pub(in crate::control) machine_reads: [AtomicU64; 3],
    pub(in crate::control) last_reload: AtomicU64,
    pub(in crate::control) last_reload_failed: AtomicU64,
}

impl ProcessCounters {
    /// The process began at `started`, with its first configuration in force.
    pub fn new(started: UnixTime) -> Self {
        Self {
            started,
            reloads: Default::default(),
            probes: Default::default(),
            machine_reads: Default::default(),
            last_reload: AtomicU64::new(started.0),
            last_reload_failed: AtomicU64::new(0),
        }
    }

    /// Counts a check of an external address.
    pub fn probed(&self, outcome: ProbeOutcome) {
        self.probes[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts a read of the machine's addresses.
    pub fn read_machine(&self, outcome: ProbeOutcome) {
        self.machine_reads[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts a reload.
    pub fn reloaded(&self, now: UnixTime, outcome: ReloadOutcome) {
        self.reloads[outcome as usize].fetch_add(1, Relaxed);
        self.last_reload_failed
            .store(u64::from(outcome != ReloadOutcome::Success), Relaxed);
        if outcome != ReloadOutcome::Failure {
            self.last_reload.store(now.0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_of_a_look_has_its_label() {
        assert_eq!(
            ProbeOutcome::ALL.map(ProbeOutcome::as_str),
            ["same", "changed", "failure"]
        );
    }

    #[test]
    fn each_outcome_of_a_reload_has_its_label() {
        assert_eq!(
            ReloadOutcome::ALL.map(ReloadOutcome::as_str),
            ["success", "partial", "failure"]
        );
    }
}
