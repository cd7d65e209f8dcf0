//! The phases of the process, and their order.

/// The phase of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Sockets are still being bound.
    Starting,
    /// In service.
    Serving,
    /// In service, while the configuration is reloaded.
    Reloading,
    /// New clients are refused; every allocation ends.
    Stopping,
    /// Every allocation has ended; the process ends next.
    Stopped,
}

impl Phase {
    /// Every phase: `ALL[x as usize] == x`.
    pub const ALL: [Self; 5] = [
        Self::Starting,
        Self::Serving,
        Self::Reloading,
        Self::Stopping,
        Self::Stopped,
    ];

    /// Whether `next` may follow.
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Starting, Self::Serving)
                | (Self::Serving, Self::Reloading)
                | (Self::Reloading, Self::Serving)
                | (Self::Starting | Self::Serving | Self::Reloading, Self::Stopping)
                | (Self::Stopping, Self::Stopped)
        )
    }

    /// Whether the process is shutting down.
    pub const fn is_ending(self) -> bool {
        matches!(self, Self::Stopping | Self::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_stops_does_not_serve_again_and_a_reload_is_over_before_the_next() {
        for (place, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, place);
            assert!(!phase.may_become(phase) && !phase.may_become(Phase::Starting));
            assert_eq!(phase.may_become(Phase::Stopping), !phase.is_ending());
        }
        assert!(Phase::Serving.may_become(Phase::Reloading) && Phase::Reloading.may_become(Phase::Serving));
        assert!(!Phase::Starting.may_become(Phase::Reloading));
        assert!(!Phase::Stopping.may_become(Phase::Serving) && !Phase::Serving.may_become(Phase::Stopped));
    }
}
