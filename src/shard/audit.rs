//! Bounds the log lines about allocations: clients cause them, so all workers share one budget.
//! Omitted lines are counted, and their number is logged once a minute. The lines of a shutdown are
//! always written: one per allocation.

use crate::base::log_throttle::LeftOut;
use crate::base::rate::{Rate, SharedBucket};
use crate::base::time::Instant;
use crate::turn::Event;
use crate::turn::output::EndReason;

/// The budget saves up this many seconds: when a network fails, all its clients cause a line at
/// once.
const BURST: u32 = 20;

/// Bounds the lines of all workers together.
#[derive(Debug)]
pub(super) struct AuditLog {
    rate: Rate,
    lines: SharedBucket,
    left_out: LeftOut,
}

impl AuditLog {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            rate: Rate::new(per_second, per_second.saturating_mul(BURST)),
            lines: SharedBucket::default(),
            left_out: LeftOut::default(),
        }
    }

    /// Whether the line for `event`, which is about an allocation, may be written.
    pub(super) fn admit(&self, now: Instant, event: &Event) -> bool {
        let last = matches!(
            event,
            Event::AllocationEnded {
                why: EndReason::Shutdown,
                ..
            }
        );
        let admitted = last || self.lines.admit(now, self.rate);
        if !admitted {
            self.left_out.add(1);
        }
        admitted
    }

    /// Logs the number of omitted lines, once a minute. Call it every turn.
    pub(super) fn summarise(&self, now: Instant) {
        if self.left_out.is_due(now) {
            self.report_left_out();
        }
    }

    /// Logs the number of omitted lines at once: the process ends.
    pub(super) fn report_left_out(&self) {
        let count = self.left_out.take();
        if count > 0 {
            tracing::info!(
                target: "relay::allocation",
                count,
                help = "log.allocation_lines_per_second; relay_allocation_lines_left_out_total counts them",
                "more allocations began and ended than have a line"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::sync::Arc;

    use super::super::tests::lines;
    use super::*;
    use crate::base::address::{FiveTuple, Transport};
    use crate::turn::SessionId;
    use crate::turn::output::Traffic;

    fn ended(why: EndReason) -> Event {
        Event::AllocationEnded {
            id: SessionId::from_random([1; 12]),
            five_tuple: FiveTuple {
                client: "192.0.2.1:4000".parse().unwrap(),
                server: "198.51.100.1:3478".parse().unwrap(),
                transport: Transport::Udp,
            },
            username: Arc::from("alice"),
            relayed: [None; 2],
            traffic: Traffic::default(),
            age: Duration::ZERO,
            why,
        }
    }

    #[test]
    fn lines_about_allocations_have_a_bound_in_all_and_those_of_a_shutdown_none() {
        let audit = AuditLog::new(10);
        let admitted = |seconds, why| {
            let now = Instant::ZERO + Duration::from_secs(seconds);
            (0..1000).filter(|_| audit.admit(now, &ended(why))).count()
        };
        assert_eq!(admitted(0, EndReason::Released), 200, "twenty seconds' worth");
        assert_eq!(admitted(1, EndReason::Released), 10);
        assert_eq!(audit.left_out.take(), 800 + 990);
        assert_eq!(admitted(1, EndReason::Shutdown), 1000);
        assert_eq!(audit.left_out.take(), 0);
    }

    #[test]
    fn what_was_left_out_is_said_once_a_minute() {
        let audit = AuditLog::new(1);
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        assert!(!audit.left_out.is_due(at(0)), "there is nothing to say");
        for seconds in [0, 59] {
            for _ in 0..100 {
                let _ = audit.admit(at(seconds), &ended(EndReason::Expired));
            }
            assert_eq!(audit.left_out.is_due(at(seconds)), seconds == 0);
        }
        assert!(audit.left_out.is_due(at(60)));
    }
    #[test]
    fn the_line_says_how_many_were_left_out_and_there_is_none_where_none_were() {
        let audit = AuditLog::new(1);
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        assert_eq!(lines(|| audit.summarise(at(0))), [""; 0]);
        for _ in 0..23 {
            let _ = audit.admit(at(0), &ended(EndReason::Expired));
        }
        let said = lines(|| audit.summarise(at(0)));
        let [line] = &said[..] else { panic!("{said:?}") };
        assert!(
            line.starts_with("INFO relay::allocation: more allocations began and ended than have a line count=3 "),
            "{line}"
        );
        let _ = audit.admit(at(0), &ended(EndReason::Expired));
        assert_eq!(lines(|| audit.summarise(at(59))), [""; 0], "not yet");
        assert_eq!(lines(|| audit.report_left_out()).len(), 1);
        assert_eq!(lines(|| audit.report_left_out()), [""; 0], "it has been said");
    }
}
