//! How an allocation (RFC 8656 §6) begins, is extended, shrinks and ends.

use core::time::Duration;
use std::sync::Arc;

use super::Server;
use crate::base::address::Family;
use crate::base::time::{Instant, Now};
use crate::turn::output::{Command, EndReason, Event};
use crate::turn::state::allocation::{FAMILIES, Socket};
use crate::turn::types::{AllocationId, Client, RelayId};

/// Deadline for the answer to OpenRelay, after which the Allocate has failed.
const OPENING: Duration = Duration::from_secs(30);

impl Server {
    /// The live allocation of a client. Ends an allocation that has expired.
    pub(super) fn live(&mut self, now: Now, client: &Client) -> Option<AllocationId> {
        let id = self.forward.allocation_of(&client.five_tuple)?;
        if self.forward.client(id)?.link != client.link {
            if client.five_tuple.transport.is_stream() {
                // The same addresses on a new connection: the connection of this allocation has
                // closed.
                self.depart(now.mono, id);
                return None;
            }
            self.forward.set_link(id, client.link);
        }
        self.expire(now.mono, id);
        self.allocations.get(id).map(|allocation| allocation.id)
    }

    /// Waits for the relay sockets of a new allocation.
    pub(super) fn await_sockets(&mut self, now: Instant, id: AllocationId) {
        self.timers.arm(now, id.index, now + OPENING);
    }

    /// Starts an allocation whose sockets are open, for `lifetime`.
    pub(super) fn begin(&mut self, now: Instant, id: AllocationId, lifetime: Duration) {
        let Some(allocation) = self.allocations.get_mut(id) else {
            return;
        };
        for family in FAMILIES {
            if let Socket::Open { relayed, .. } = allocation.sockets[family as usize] {
                allocation.relayed[family as usize] = Some(relayed);
                if allocation.tcp.is_some() {
                    self.forward.open_tcp(id, family, now + lifetime);
                    self.shared.directory.set_tcp(relayed, true);
                } else {
                    self.forward.open(id, self.shard.index, relayed, now + lifetime);
                }
            }
        }
        self.timers.arm(now, id.index, now + lifetime);
        if let Some(mobile) = allocation.mobile.as_deref() {
            self.shared.tickets.set(*mobile.newest(), self.shard.index, id);
        }
        let Some(&client) = self.forward.client(id) else { return };
        let transport = client.five_tuple.transport as usize;
        self.counters.allocations_started[transport].add(1);
        self.counters.allocations[transport].add(1);
        self.events.push_back(Event::AllocationBegan {
            id: allocation.session_id,
            five_tuple: client.five_tuple,
            username: Arc::clone(&allocation.session.username),
            relayed: allocation.relayed,
        });
    }

    /// Extends the relayed addresses of `families` (RFC 8656 §8.2).
    pub(super) fn extend(&mut self, now: Instant, id: AllocationId, families: &[Family], lifetime: Duration) {
        for &family in families {
            self.forward.set_until(id, family, now + lifetime);
        }
        self.arm(now, id);
    }

    /// Ends the expired parts of an allocation: none, one of its relayed transport addresses, or
    /// all of it.
    pub(super) fn expire(&mut self, now: Instant, id: AllocationId) {
        let Some(allocation) = self.allocations.get(id) else {
            return;
        };
        if allocation.opening.is_some() {
            return;
        }
        let over = FAMILIES.map(|family| self.forward.until(id, family) <= now);
        if over == [true, true] {
            self.end(now, id, EndReason::Expired);
            return;
        }
        for family in FAMILIES {
            if over[family as usize] {
                self.close_half(id, family);
            }
        }
    }

    /// The timer of a slot has fired.
    pub(super) fn handle_timer(&mut self, now: Instant, index: u32) {
        let Some(allocation) = self.allocations.at(index) else {
            return;
        };
        let id = allocation.id;
        if allocation.opening.is_some() {
            // The shard has not answered in time.
            self.end(now, id, EndReason::Expired);
            return;
        }
        self.expire(now, id);
        self.arm(now, id);
    }

    /// Sets the timer to the next deadline of an allocation.
    pub(super) fn arm(&mut self, now: Instant, id: AllocationId) {
        let next = FAMILIES
            .map(|family| self.forward.until(id, family))
            .into_iter()
            .filter(|&until| until > now)
            .min();
        if let Some(next) = next {
            self.timers.arm(now, id.index, next);
        }
    }

    /// Deletes one relayed transport address of an allocation that keeps the other (RFC 8656 §8.2).
    pub(super) fn close_half(&mut self, id: AllocationId, family: Family) {
        let Some(allocation) = self.allocations.get_mut(id) else {
            return;
        };
        let socket = core::mem::replace(&mut allocation.sockets[family as usize], Socket::Absent);
        let port = match socket {
            Socket::Absent => return,
            Socket::Opening { port, .. } => port,
            Socket::Open { port, relayed } => {
                if allocation.tcp.is_some() {
                    self.shared.directory.set_tcp(relayed, false);
                }
                port
            }
        };
        self.forward.close(id, family);
        self.commands.push_back(Command::CloseRelay {
            id: RelayId { allocation: id, family },
        });
        // Last, so that no peer connects again.
        self.close_connections(id, family);
        self.commands.push_back(Command::FreePort { port });
    }

    /// Ends an allocation: releases sockets, ports, routes, timer and quota, and reports the end.
    pub(super) fn end(&mut self, now: Instant, id: AllocationId, why: EndReason) {
        for family in FAMILIES {
            self.close_half(id, family);
        }
        let Some(allocation) = self.allocations.remove(id) else {
            return;
        };
        let away = self.forward.is_away(id);
        let Some((client, traffic)) = self.forward.remove(id) else {
            return;
        };
        self.timers.cancel(id.index);
        if let Some(mobile) = allocation.mobile {
            self.end_mobility(*mobile);
        }
        if allocation.opening.is_some() {
            // It never began, so there is nothing to report.
            return;
        }
        let Client { five_tuple, link } = client;
        if five_tuple.transport.is_stream() {
            // The client learns of it at once, and does not send into an allocation that is gone.
            if matches!(why, EndReason::Shutdown | EndReason::Operator | EndReason::Revoked) {
                self.commands.push_back(Command::CloseStream { link });
            }
        } else {
            self.transactions.remember(now, &five_tuple, allocation.transaction_id);
        }
        self.counters.allocations_ended[why as usize].add(1);
        self.counters.allocations[five_tuple.transport as usize].sub(1);
        self.counters.away.sub(u64::from(away));
        self.events.push_back(Event::AllocationEnded {
            id: allocation.session_id,
            five_tuple,
            username: Arc::clone(&allocation.session.username),
            relayed: allocation.relayed,
            traffic,
            age: now - allocation.requested,
            why,
        });
    }
}
