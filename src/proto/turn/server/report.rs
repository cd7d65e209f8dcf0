//! Counts refusals and reports them to the operator.

use std::sync::Arc;

use super::Server;
use crate::base::address::FiveTuple;
use crate::turn::output::Event;
use crate::turn::refusal::{QUEUED_REFUSALS, Refusal, Refused};
use crate::turn::types::AllocationId;
use crate::wire::message::Method;

impl Server {
    /// Counts and reports a refusal. `live` is the allocation that it concerns, if any.
    pub(super) fn report(
        &mut self,
        client: &FiveTuple,
        username: Option<Arc<str>>,
        live: Option<AllocationId>,
        method: Method,
        refusal: Refusal,
    ) {
        let routine = self.is_routine(live, &refusal);
        self.note(Refused {
            method,
            five_tuple: *client,
            username,
            refusal,
            routine,
            half: false,
        });
    }

    /// As [`Self::report`], when one of two relayed addresses is refused and the other granted.
    pub(super) fn report_half(&mut self, client: &FiveTuple, username: &Arc<str>, refusal: Refusal) {
        self.note(Refused {
            method: Method::Allocate,
            five_tuple: *client,
            username: Some(Arc::clone(username)),
            // A client may always request both, and the operator chose to serve one family only.
            routine: refusal == Refusal::FamilyNotSupported,
            refusal,
            half: true,
        });
    }

    fn note(&mut self, refused: Refused) {
        self.counters.refusals.count(&refused.refusal);
        if self.queued_refusals >= QUEUED_REFUSALS {
            self.unreported_refusals += 1;
            return;
        }
        self.queued_refusals += 1;
        self.events.push_back(Event::Refused(Box::new(refused)));
    }

    /// Refusals since the last call without an event, because too many were queued.
    pub fn take_unreported_refusals(&mut self) -> u64 {
        core::mem::take(&mut self.unreported_refusals)
    }

    /// Whether a refusal is routine. The operator configured the redirection. An unreachable peer
    /// is the peer's problem. Of the candidates that a browser tries in vain, only the first of an
    /// allocation counts, and only while no other peer was granted: if none ever is, this one line
    /// explains why the call has no media.
    fn is_routine(&mut self, live: Option<AllocationId>, refusal: &Refusal) -> bool {
        if !refusal.is_about_a_candidate() {
            return matches!(refusal, Refusal::Redirected { .. } | Refusal::PeerUnreachable { .. });
        }
        let Some(allocation) = live.and_then(|id| self.allocations.get_mut(id)) else {
            return false;
        };
        core::mem::replace(&mut allocation.judged_a_peer, true)
    }
}
