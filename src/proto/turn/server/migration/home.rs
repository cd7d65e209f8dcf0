//! Mobility on the home shard, which owns the allocation.

use std::sync::Arc;

use super::message::{ArrivingAllocation, Ask, Decision, MigrationGrant, MigrationMessage};
use crate::base::address::Family;
use crate::base::rate::Rate;
use crate::base::time::{Instant, Now};
use crate::turn::output::{Command, EndReason};
use crate::turn::refusal::Refusal;
use crate::turn::server::Server;
use crate::turn::shared::quotas::AddressUnit;
use crate::turn::shared::tickets::TicketName;
use crate::turn::state::allocation::{FAMILIES, open_sockets};
use crate::turn::state::mobile::{Pending, Visit};
use crate::turn::types::{AllocationId, RelayId};

impl Server {
    /// A client on another five-tuple, perhaps of another shard, requests its allocation.
    pub(super) fn handle_ask(&mut self, now: Instant, ask: Box<Ask>) {
        let visit = ask.visit;
        let id = match self.shared.tickets.find(&ask.ticket) {
            // The allocation has moved since the request was sent, so the request follows it.
            Some(home) if home.shard != self.shard.index => {
                return self.send_migration(home.shard, MigrationMessage::Ask(ask));
            }
            Some(home) => match home.moving_to {
                Some(next) => return self.send_migration(next, MigrationMessage::Ask(ask)),
                None => Some(home.id),
            },
            None => None,
        };
        let decision = self.decide(now, id, &ask).unwrap_or_else(Decision::Refused);
        let granted = matches!(decision, Decision::Granted(_));
        self.send_migration(visit.shard, MigrationMessage::Answer(visit, decision));
        if let Some(id) = id
            && granted
            && self.forward.is_away(id)
        {
            // There is no old path to keep until the new one works.
            self.dispatch(now, id, false);
        }
    }

    /// Checks everything before it changes anything: a refused request has no effect.
    fn decide(&mut self, now: Instant, id: Option<AllocationId>, ask: &Ask) -> Result<Decision, Refusal> {
        let id = id.ok_or(Refusal::TicketUnknown)?;
        self.expire(now, id);
        let limits = Arc::clone(&self.config);
        let limits = &limits.limits;
        let allocation = self.allocations.get_mut(id).ok_or(Refusal::TicketUnknown)?;
        if !allocation.session.is_same_login(&ask.session) {
            return Err(Refusal::WrongUser);
        }
        let mobile = allocation.mobile.as_deref().ok_or(Refusal::TicketUnknown)?;
        let replaced = mobile.current == ask.ticket && mobile.current_until.is_some_and(|until| until <= now);
        if replaced {
            return Err(Refusal::TicketUnknown);
        }
        let rate = Rate::per_second(limits.permission_requests_per_second);
        if !allocation.requests.admit(now, rate) {
            return Ok(Decision::Limited);
        }
        let families = self.families(now, id, ask.family)?;
        if ask.lifetime == Some(0) {
            self.delete(now, id, &families);
            return Ok(Decision::Deleted);
        }
        let unit = self.unit_for(id, ask.visit)?;
        let lifetime = self.lifetime(ask.lifetime, self.age(now, id));
        self.extend(now, id, &families, lifetime);
        let ticket = self.rotate(id, &ask.ticket);
        self.replace_pending(id, Some(Pending { visit: ask.visit, unit }), true);
        self.counters.migrations_granted.add(1);
        Ok(Decision::Granted(MigrationGrant {
            home: self.shard.index,
            id,
            lifetime,
            until: now + lifetime,
            ticket,
        }))
    }

    /// The quota unit of the new address, if the allocation counts for another one.
    fn unit_for(&mut self, id: AllocationId, visit: Visit) -> Result<Option<AddressUnit>, Refusal> {
        let ip = visit.client.five_tuple.client.ip();
        let Some(allocation) = self.allocations.get_mut(id).filter(|it| !it.quota.covers(ip)) else {
            return Ok(None);
        };
        let pending = allocation.mobile.as_deref_mut().and_then(|it| it.pending.as_mut());
        if let Some(pending) = pending
            && pending.unit.as_ref().is_some_and(|unit| unit.covers(ip))
        {
            return Ok(pending.unit.take());
        }
        Ok(Some(self.shared.quotas.address(ip, &self.config.limits)?))
    }

    /// Issues a new ticket. Of the two existing ones it keeps the one in the request, because the
    /// owner may not receive this response.
    fn rotate(&mut self, id: AllocationId, shown: &TicketName) -> TicketName {
        let ticket = self.rng.array();
        let Some(mobile) = self.allocations.get_mut(id).and_then(|it| it.mobile.as_deref_mut()) else {
            return ticket;
        };
        let mut over = mobile.next.replace(ticket);
        if over.as_ref() == Some(shown) {
            over = Some(core::mem::replace(&mut mobile.current, *shown));
            mobile.current_until = None;
        }
        if let Some(over) = over {
            self.shared.tickets.remove(&over);
        }
        self.shared.tickets.set(ticket, self.shard.index, id);
        ticket
    }

    /// Replaces the pending move, of which there is at most one. With `tell`, informs the client of
    /// the replaced one.
    fn replace_pending(&mut self, id: AllocationId, by: Option<Pending>, tell: bool) {
        let mobile = self.allocations.get_mut(id).and_then(|it| it.mobile.as_deref_mut());
        let Some(mobile) = mobile else { return };
        let before = core::mem::replace(&mut mobile.pending, by);
        if let Some(before) = before.filter(|_| tell) {
            self.send_migration(before.visit.shard, MigrationMessage::Gone(before.visit));
        }
    }

    /// Data has arrived on the new path.
    pub(super) fn handle_fetch(&mut self, now: Instant, visit: Visit, id: AllocationId) {
        self.expire(now, id);
        if self.is_pending(id, visit) {
            self.dispatch(now, id, true);
        } else {
            // It ended, or its client asked from a third five-tuple.
            self.send_migration(visit.shard, MigrationMessage::Gone(visit));
        }
    }

    /// The new path closed before it was used.
    pub(super) fn handle_withdrawal(&mut self, visit: Visit, id: AllocationId) {
        if self.is_pending(id, visit) {
            self.replace_pending(id, None, false);
        }
    }

    fn is_pending(&self, id: AllocationId, visit: Visit) -> bool {
        let mobile = self.allocations.get(id).and_then(|it| it.mobile.as_deref());
        mobile
            .and_then(|it| it.pending.as_ref())
            .is_some_and(|pending| pending.visit == visit)
    }

    /// Sends an allocation to the shard of its client's new path. From here on this shard does not
    /// own it.
    fn dispatch(&mut self, now: Instant, id: AllocationId, fetched: bool) {
        let mobile = self.allocations.get_mut(id).and_then(|it| it.mobile.as_deref_mut());
        let Some((mobile, pending)) = mobile.and_then(|mobile| mobile.pending.take().map(|pending| (mobile, pending)))
        else {
            return;
        };
        let visit = pending.visit;
        for name in core::iter::once(&mobile.current).chain(&mobile.next) {
            self.shared.tickets.move_to(name, visit.shard);
        }
        let (Some(mut allocation), Some(flow)) = (self.allocations.remove(id), self.forward.take(id, visit.shard))
        else {
            return;
        };
        self.timers.cancel(id.index);
        if let Some(unit) = pending.unit {
            allocation.quota.move_to(unit);
        }
        let old = flow.client().five_tuple;
        if !old.transport.is_stream() {
            self.transactions.remember(now, &old, allocation.transaction_id);
        }
        self.counters.allocations[old.transport as usize].sub(1);
        self.counters.allocations_left.add(1);
        if flow.is_away() {
            self.counters.away.sub(1);
        }
        for id in open_sockets(&allocation).into_iter().flatten() {
            self.commands.push_back(Command::DetachRelay { id });
        }
        let moved = ArrivingAllocation {
            visit,
            home: self.shard.index,
            allocation,
            flow,
            fetched,
        };
        self.send_migration(visit.shard, MigrationMessage::Arrive(Box::new(moved)));
    }

    /// A client's stream has closed. Its allocation ends (design decision D11), unless it has a
    /// ticket.
    pub(in crate::turn::server) fn depart(&mut self, now: Instant, id: AllocationId) {
        let mobile = self.allocations.get(id).and_then(|it| it.mobile.as_deref());
        let pending = mobile.map(|mobile| mobile.pending.is_some());
        let (Some(pending), Some(mobility)) = (pending, self.config.mobility) else {
            return self.end(now, id, EndReason::Disconnected);
        };
        self.expire(now, id);
        if pending {
            self.dispatch(now, id, false);
            return;
        }
        if !self.forward.leave(id) {
            return;
        }
        self.counters.away.add(1);
        for family in FAMILIES {
            let until = self.forward.until(id, family).min(now + mobility.grace);
            self.forward.set_until(id, family, until);
        }
        self.arm(now, id);
    }

    /// An allocation ends: its tickets become invalid, and a waiting visitor is informed.
    pub(in crate::turn::server) fn end_mobility(&mut self, mobile: crate::turn::state::mobile::Mobile) {
        for name in core::iter::once(&mobile.current).chain(&mobile.next) {
            self.shared.tickets.remove(name);
        }
        if let Some(Pending { visit, .. }) = mobile.pending {
            self.send_migration(visit.shard, MigrationMessage::Gone(visit));
        }
    }

    /// The relay socket of a migrated allocation cannot be used here, so the part of the allocation
    /// that needs it ends.
    pub fn handle_relay_lost(&mut self, now: Now, relay: RelayId) {
        let RelayId { allocation: id, family } = relay;
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        if self.forward.until(id, other) > now.mono {
            self.close_half(id, family);
        } else {
            self.end(now.mono, id, EndReason::SocketLost);
        }
    }
}
