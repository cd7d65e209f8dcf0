//! Allocations (RFC 8656 §6): what is known of one beside its routes, and how it begins, shrinks and ends.
//!
//! An [`Allocation`] is a plain value: with its routes in the forward table and the relay sockets in the shard it is all
//! there is to it. Nothing here is touched by a relayed packet.

use core::time::Duration;
use std::sync::Arc;

use super::allocate::OpenError;
use super::auth::Session;
use super::mobility::Mobile;
use super::output::{Command, EndReason, Event};
use super::owner::Owner;
use super::ports::{RelayPort, Want};
use super::quota::{QuotaUnit, ReservationUnit};
use super::refusal::Refusal;
use super::server::Server;
use super::shared::Token;
use super::tcp::TcpRelay;
use super::types::{AllocationId, Client, RelayId, RelayedAddr};
use crate::base::address::Family;
use crate::base::rate::Bucket;
use crate::base::time::{Instant, Now};
use crate::wire::message::TransactionId;

/// Both families, in the order in which everything is kept.
pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Between OpenRelay and its answer this much may pass; then the Allocate has failed.
const OPENING: Duration = Duration::from_secs(30);

/// One allocation, apart from its routes.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) id: AllocationId,
    /// The login of the Allocate: every other request must be by the same user.
    pub(super) session: Arc<Session>,
    pub(super) sockets: [Socket; 2],
    /// What the client was given, also after a half of it is gone.
    pub(super) relayed: [Option<RelayedAddr>; 2],
    /// Of the Allocate, to know a retransmission.
    pub(super) transaction_id: TransactionId,
    /// When the Allocate arrived.
    pub(super) requested: Instant,
    /// RESERVATION-TOKEN in the success response.
    pub(super) token: Option<Token>,
    /// ADDRESS-ERROR-CODE in the success response.
    pub(super) unavailable: Option<(Family, u16)>,
    /// `Some` until the relay sockets are there.
    pub(super) opening: Option<Box<Opening>>,
    /// Of a TCP allocation (RFC 6062): its connections with peers.
    pub(super) tcp: Option<Box<TcpRelay>>,
    /// Knows its client's requests from others'.
    pub(super) owner: Owner,
    /// CreatePermission, ChannelBind and Connect requests.
    pub(super) requests: Bucket,
    /// ICMP reports.
    pub(super) reports: Bucket,
    /// A peer was granted, or one was refused and that reported: further refused candidates are no news.
    pub(super) judged_a_peer: bool,
    /// This allocation's share; goes back when it is dropped.
    pub(super) quota: QuotaUnit,
    /// Its client asked for a mobility ticket.
    pub(super) mobile: Option<Box<Mobile>>,
}

/// A relay socket.
#[derive(Debug)]
pub(super) enum Socket {
    /// Not wanted, could not be had, or gone.
    Absent,
    /// Being opened.
    Opening { port: RelayPort, relayed: RelayedAddr },
    /// Bound.
    Open { port: RelayPort, relayed: RelayedAddr },
}

impl Socket {
    pub(super) const NONE: [Self; 2] = [Self::Absent, Self::Absent];
}

/// An Allocate whose relay sockets are being opened.
#[derive(Debug)]
pub(super) struct Opening {
    /// What to take instead when a port turns out to be in use by someone else. `None`: only that one will do.
    pub(super) want: Option<Want>,
    /// Held on to, so that they are not tried twice.
    pub(super) failed: Vec<RelayPort>,
    pub(super) lifetime: Duration,
    /// The port behind an even one.
    pub(super) reserved: Option<RelayPort>,
    /// The user's share for it.
    pub(super) reservation: Option<ReservationUnit>,
    /// The request had a FINGERPRINT.
    pub(super) fingerprint: bool,
    /// Why the last socket that failed could not be opened.
    pub(super) error: Option<OpenError>,
    /// Why one of the two relayed addresses that were asked for is not given.
    pub(super) half: Option<Refusal>,
}

/// Allocations by slot of the forward table.
#[derive(Debug, Default)]
pub(super) struct Allocations(Vec<Option<Box<Allocation>>>);

impl Allocations {
    pub(super) fn insert(&mut self, allocation: Allocation) {
        let index = allocation.id.index as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(Box::new(allocation));
    }

    pub(super) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.at(id.index).filter(|allocation| allocation.id == id)
    }

    pub(super) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.0
            .get_mut(id.index as usize)?
            .as_deref_mut()
            .filter(|allocation| allocation.id == id)
    }

    /// Whatever allocation is in this slot.
    pub(super) fn at(&self, index: u32) -> Option<&Allocation> {
        self.0.get(index as usize)?.as_deref()
    }

    pub(super) fn ids(&self) -> Vec<AllocationId> {
        self.0.iter().flatten().map(|allocation| allocation.id).collect()
    }

    /// Takes an allocation out; its routes and its timer stay.
    pub(super) fn remove(&mut self, id: AllocationId) -> Option<Box<Allocation>> {
        self.get(id)?;
        let removed = self.0.get_mut(id.index as usize)?.take();
        while let Some(None) = self.0.last() {
            self.0.pop();
        }
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
        removed
    }
}

impl Server {
    /// The allocation of a client, if it has one; one that has run out is ended here and does not count.
    pub(super) fn live(&mut self, now: Now, client: &Client) -> Option<AllocationId> {
        let id = self.forward.allocation_of(&client.five_tuple)?;
        if self.forward.client(id)?.link != client.link {
            if client.five_tuple.transport.is_stream() {
                // The same addresses, another connection: the one this allocation came by is closed.
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

    /// Makes an allocation whose sockets are open live for `lifetime`.
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
        self.counters.allocations_began[transport].add(1);
        self.counters.allocations[transport].add(1);
        self.events.push_back(Event::AllocationBegan {
            id,
            five_tuple: client.five_tuple,
            username: Arc::clone(&allocation.session.username),
            relayed: allocation.relayed,
        });
    }

    /// Moves the expiry of the halves of `families` (RFC 8656 §8.2).
    pub(super) fn extend(&mut self, now: Instant, id: AllocationId, families: &[Family], lifetime: Duration) {
        for &family in families {
            self.forward.set_until(id, family, now + lifetime);
        }
        self.arm(now, id);
    }

    /// Ends what has run out of an allocation: nothing, one of its relayed transport addresses, or all of it.
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
            // The shard owes an answer, and does not give it.
            self.end(now, id, EndReason::Expired);
            return;
        }
        self.expire(now, id);
        self.arm(now, id);
    }

    /// Sets the timer to the next thing that happens to an allocation.
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

    /// Deletes one relayed transport address of an allocation that keeps its other (RFC 8656 §8.2).
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
        // Only now, so that nobody connects again.
        self.close_connections(id, family);
        self.commands.push_back(Command::FreePort { port });
    }

    /// Ends an allocation: sockets, ports, routes, timer and quota go, and the operator is told.
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
            // It never began: there is nothing to tell.
            return;
        }
        let Client { five_tuple, link } = client;
        if five_tuple.transport.is_stream() {
            if why == EndReason::Shutdown {
                self.commands.push_back(Command::CloseStream { link });
            }
        } else {
            self.transactions.remember(now, &five_tuple, allocation.transaction_id);
        }
        self.counters.allocations_ended[why as usize].add(1);
        self.counters.allocations[five_tuple.transport as usize].sub(1);
        self.counters.away.sub(u64::from(away));
        self.events.push_back(Event::AllocationEnded {
            id,
            five_tuple,
            username: Arc::clone(&allocation.session.username),
            relayed: allocation.relayed,
            traffic,
            age: now - allocation.requested,
            why,
        });
    }
}
