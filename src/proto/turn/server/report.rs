//! Refusals are counted, and reported to the operator.

use std::sync::Arc;

use super::Server;
use crate::base::address::FiveTuple;
use crate::turn::output::Event;
use crate::turn::refusal::{QUEUED_REFUSALS, Refusal, Refused};
use crate::turn::types::AllocationId;
use crate::wire::message::Method;

impl Server {
    /// Counts a refusal, and has it reported. `live` is the allocation it is about, as far as there is one.
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

    /// The same where one relayed address of two is refused and the other given.
    pub(super) fn report_half(&mut self, client: &FiveTuple, username: &Arc<str>, refusal: Refusal) {
        self.note(Refused {
            method: Method::Allocate,
            five_tuple: *client,
            username: Some(Arc::clone(username)),
            // A client may always ask for both; a server of one family is what the operator wants.
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

    /// Refusals since the last call that made no event, because too many were queued.
    pub fn take_unreported_refusals(&mut self) -> u64 {
        core::mem::take(&mut self.unreported_refusals)
    }

    /// Whether a refusal is part of an ordinary day. A redirection is what the operator asked for. A peer that cannot
    /// be reached is the peer's affair. And of the candidates a browser tries in vain only the first of an allocation
    /// counts, and only while no other peer was granted: where none ever is, that one line says why the call is silent.
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
