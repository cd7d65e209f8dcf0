//! Refresh (RFC 8656 §8.2): extends an allocation, or ends it.
//!
//! Permissions and channels have their own lifetimes and are not changed.

use core::time::Duration;

use super::Server;
use super::request::{Authenticated, Request, RequestOutcome};
use crate::base::address::Family;
use crate::base::time::Instant;
use crate::turn::output::EndReason;
use crate::turn::refusal::Refusal;
use crate::turn::state::allocation::FAMILIES;
use crate::turn::types::AllocationId;
use crate::wire::address::{FAMILY_IPV4, FAMILY_IPV6};
use crate::wire::attribute::{self, AttributeType};

impl Server {
    /// Handles a Refresh of an allocation from its owner.
    pub(super) fn refresh(&mut self, request: &Authenticated<'_>, id: AllocationId) -> Result<RequestOutcome, Refusal> {
        let Request {
            now, client, message, ..
        } = request.request();
        let now = now.mono;
        let requested = message.decode(AttributeType::REQUESTED_ADDRESS_FAMILY, attribute::address_family)?;
        let lifetime = message.decode(AttributeType::LIFETIME, attribute::lifetime)?;
        // A late copy of a Refresh that deleted something must not delete what was created since
        // (RFC 8489 §6.3.1).
        let transaction_id = message.transaction_id();
        if lifetime == Some(0) && self.transactions.contains(now, &client.five_tuple, transaction_id) {
            return Ok(RequestOutcome::Lifetime(Duration::ZERO));
        }
        let families = self.families(now, id, requested)?;
        if lifetime == Some(0) {
            self.delete(now, id, &families);
            if !client.five_tuple.transport.is_stream() {
                self.transactions.remember(now, &client.five_tuple, transaction_id);
            }
            return Ok(RequestOutcome::Lifetime(Duration::ZERO));
        }
        let lifetime = self.lifetime(lifetime, self.age(now, id));
        self.extend(now, id, &families, lifetime);
        Ok(RequestOutcome::Lifetime(lifetime))
    }

    /// The relayed transport addresses that a Refresh concerns: of a dual allocation, possibly one
    /// (§8.1).
    pub(super) fn families(
        &self,
        now: Instant,
        id: AllocationId,
        requested: Option<u8>,
    ) -> Result<Vec<Family>, Refusal> {
        let has: Vec<Family> = FAMILIES
            .into_iter()
            .filter(|&family| self.forward.until(id, family) > now)
            .collect();
        match requested {
            None => Ok(has),
            Some(FAMILY_IPV4) if has.contains(&Family::V4) => Ok(vec![Family::V4]),
            Some(FAMILY_IPV6) if has.contains(&Family::V6) => Ok(vec![Family::V6]),
            Some(_) => Err(Refusal::FamilyMismatch { peer: None }),
        }
    }

    /// The age of an allocation since its Allocate.
    pub(super) fn age(&self, now: Instant, id: AllocationId) -> Duration {
        self.allocations
            .get(id)
            .map_or(Duration::ZERO, |allocation| now - allocation.requested)
    }

    /// LIFETIME 0: ends the allocation, or one of its relayed addresses.
    pub(super) fn delete(&mut self, now: Instant, id: AllocationId, families: &[Family]) {
        let rest = FAMILIES
            .into_iter()
            .any(|f| !families.contains(&f) && self.forward.until(id, f) > now);
        if rest {
            families.iter().for_each(|&family| self.close_half(id, family));
        } else {
            self.end(now, id, EndReason::Released);
        }
    }
}
