//! Mobility on the visited shard, which the client has moved to.

use core::time::Duration;
use std::sync::Arc;

use super::message::{ArrivingAllocation, Ask, Decision, MigrationGrant, MigrationMessage};
use super::visitors::{State, Visitor};
use crate::base::address::FiveTuple;
use crate::base::queue::take_first;
use crate::base::time::{Instant, Now};
use crate::turn::login::session::Session;
use crate::turn::output::{DropReason, EndReason, Event, Verdict};
use crate::turn::refusal::Refusal;
use crate::turn::response::{Reply, Response};
use crate::turn::server::Server;
use crate::turn::server::request::{Authenticated, Request, RequestOutcome, whole_seconds};
use crate::turn::shared::tickets::TicketName;
use crate::turn::state::allocation::{FAMILIES, open_sockets};
use crate::turn::state::mobile::Visit;
use crate::turn::state::transactions::RETRANSMISSION;
use crate::turn::types::{AllocationId, Client, RelayId};
use crate::wire::attribute::{self, AttributeType};
use crate::wire::message::{Message, Method, TransactionId};

impl Server {
    /// Whether an Allocate requests a ticket, by an empty MOBILITY-TICKET (RFC 8016 §3.1).
    pub(in crate::turn::server) fn wants_ticket(&self, message: &Message<'_>) -> Result<bool, Refusal> {
        match message.attribute(AttributeType::MOBILITY_TICKET) {
            None => Ok(false),
            Some(ticket) if !ticket.is_empty() => Err(Refusal::BadRequest),
            Some(_) if self.config.mobility.is_none() => Err(Refusal::MobilityForbidden),
            Some(_) => Ok(true),
        }
    }

    /// Handles a Refresh with MOBILITY-TICKET (RFC 8016 §3.2).
    pub(in crate::turn::server) fn resume(
        &mut self,
        request: &Authenticated<'_>,
        ticket: &[u8],
    ) -> Result<RequestOutcome, Refusal> {
        let session = request.session();
        let Request {
            now,
            client,
            message,
            live,
            ..
        } = request.request();
        let now = now.mono;
        if ticket.is_empty() {
            return Err(Refusal::BadRequest);
        }
        if self.config.mobility.is_none() {
            return Err(Refusal::MobilityForbidden);
        }
        let lifetime = message.decode(AttributeType::LIFETIME, attribute::lifetime)?;
        let family = message.decode(AttributeType::REQUESTED_ADDRESS_FAMILY, attribute::address_family)?;
        let transaction_id = message.transaction_id();
        if lifetime == Some(0) && self.transactions.contains(now, &client.five_tuple, transaction_id) {
            return Ok(RequestOutcome::Lifetime(Duration::ZERO));
        }
        if let Some(id) = live {
            return self.moved_already(now, id, session, transaction_id);
        }
        let name = self.shared.tickets.read(ticket);
        let home = name.and_then(|name| Some((name, self.shared.tickets.find(&name)?)));
        if let Some(visitor) = self.visitors.at(client) {
            if !visitor.session.is_same_login(session) {
                return Err(Refusal::AllocationExists);
            }
            match visitor.state {
                State::Granted(grant) | State::Fetching(grant) if visitor.transaction_id == transaction_id => {
                    return Ok(self.granted(grant.until - now, &grant.ticket));
                }
                State::Asked if visitor.transaction_id == transaction_id && client.five_tuple.transport.is_stream() => {
                    return Ok(self.hold_copy(client, message.bytes()));
                }
                State::Asked | State::Fetching(_) => return Ok(RequestOutcome::Silent(DropReason::Retransmission)),
                // The client has given up on its first request, so its allocation is requested
                // anew.
                State::Granted(grant) if home.is_some_and(|(_, at)| (at.shard, at.id) == (grant.home, grant.id)) => {}
                State::Granted(_) => return Err(Refusal::AllocationExists),
            }
        }
        let (ticket, home) = home.ok_or(Refusal::TicketUnknown)?;
        self.check_newcomer(client, session)?;
        self.withdraw(&client.five_tuple);
        let visit = self.visitors.begin(self.shard.index, client, session, message);
        let ask = Ask {
            visit,
            ticket,
            session: Arc::clone(session),
            lifetime,
            family,
        };
        self.send_migration(home.shard, MigrationMessage::Ask(Box::new(ask)));
        Ok(RequestOutcome::Waiting)
    }

    /// The five-tuple has an allocation. Only a copy of the Refresh that moved it here is answered
    /// again.
    fn moved_already(
        &self,
        now: Instant,
        id: AllocationId,
        session: &Session,
        transaction_id: TransactionId,
    ) -> Result<RequestOutcome, Refusal> {
        let allocation = self.allocations.get(id).ok_or(Refusal::AllocationExists)?;
        let mobile = allocation.mobile.as_deref();
        let mobile = mobile.filter(|mobile| {
            let by = mobile.moved_by.filter(|&(_, until)| now < until);
            by.is_some_and(|(by, _)| by == transaction_id) && allocation.session.is_same_login(session)
        });
        let mobile = mobile.ok_or(Refusal::AllocationExists)?;
        let until = FAMILIES.map(|family| self.forward.until(id, family)).into_iter().max();
        Ok(self.granted(until.unwrap_or(now) - now, mobile.newest()))
    }

    fn granted(&self, lifetime: Duration, ticket: &TicketName) -> RequestOutcome {
        RequestOutcome::Resumed(lifetime, self.shared.tickets.text(ticket))
    }

    /// The home shard's answer to a Refresh with a ticket.
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        visit: Visit,
        decision: Decision,
        response: &mut Response,
    ) -> Option<Client> {
        if let Decision::Granted(grant) = decision
            && let Some(visitor) = self.visitors.by_client.get_mut(&visit.client.five_tuple)
            && visitor.visit == visit
        {
            visitor.state = State::Granted(grant);
            let (session, reply) = (
                Arc::clone(&visitor.session),
                (visitor.transaction_id, visitor.fingerprint),
            );
            // Copies of the request get the same response.
            visitor.held_bytes = 0;
            let copies = core::mem::take(&mut visitor.held);
            self.visitors
                .again
                .extend(copies.into_iter().map(|packet| (visit.client, packet)));
            let ticket = self.shared.tickets.text(&grant.ticket);
            self.reply(&visit, &session, reply, response, Ok((grant.lifetime, Some(&ticket))));
            return Some(visit.client);
        }
        let Some(visitor) = self.visitors.remove(&visit) else {
            if let Decision::Granted(grant) = decision {
                // The client has left meanwhile.
                self.send_migration(grant.home, MigrationMessage::Withdraw(visit, grant.id));
            }
            return None;
        };
        let result = match decision {
            Decision::Refused(refusal) => Err(refusal),
            Decision::Limited => {
                let _ = self.count(Verdict::Drop(DropReason::PermissionLimited));
                self.take_again(*visitor);
                return None;
            }
            Decision::Deleted | Decision::Granted(_) => {
                if !visit.client.five_tuple.transport.is_stream() {
                    self.transactions
                        .remember(now, &visit.client.five_tuple, visitor.transaction_id);
                }
                Ok((Duration::ZERO, None))
            }
        };
        let reply = (visitor.transaction_id, visitor.fingerprint);
        self.reply(&visit, &visitor.session, reply, response, result);
        self.take_again(*visitor);
        Some(visit.client)
    }

    fn reply(
        &mut self,
        visit: &Visit,
        session: &Session,
        (transaction_id, fingerprint): (TransactionId, bool),
        response: &mut Response,
        result: Result<(Duration, Option<&[u8]>), Refusal>,
    ) {
        let stream = visit.client.five_tuple.transport.is_stream();
        let config = Arc::clone(&self.config);
        let software = config.software.as_deref();
        let reply = Reply::later(Method::Refresh, transaction_id, fingerprint, stream, software).signed(session);
        match result {
            Ok((lifetime, ticket)) => {
                let written = response.success(&reply, |writer| {
                    writer.u32(AttributeType::LIFETIME, whole_seconds(lifetime));
                    if let Some(ticket) = ticket {
                        writer.attribute(AttributeType::MOBILITY_TICKET, ticket);
                    }
                });
                debug_assert!(written, "a success response fits its buffer");
            }
            Err(refusal) => {
                let _ = self.refuse(&visit.client, None, session, &reply, refusal, response);
            }
        }
    }

    /// Holds a packet whose allocation is still on its way from another shard, and fetches the
    /// allocation: it moves when the first data arrives on the new path (RFC 8016 §3.2). Other
    /// requests of its owner on the new path need it as well. `None`: the client does not wait for
    /// an allocation.
    pub(in crate::turn::server) fn hold(&mut self, client: &Client, packet: &[u8]) -> Option<Verdict> {
        if !self.visitors.contains(client) {
            return None;
        }
        let visitor = self.visitors.by_client.get_mut(&client.five_tuple)?;
        let grant = *visitor.grant()?;
        if !visitor.hold(packet) {
            return Some(Verdict::Drop(DropReason::Moving));
        }
        if let State::Granted(_) = visitor.state {
            visitor.state = State::Fetching(grant);
            let visit = visitor.visit;
            self.send_migration(grant.home, MigrationMessage::Fetch(visit, grant.id));
        }
        Some(Verdict::Waiting)
    }

    /// Handles a copy of a Refresh that has no response yet. Over UDP it is a retransmission, and
    /// one response answers both. A stream loses nothing: coturn's client sends two there and
    /// expects two responses.
    fn hold_copy(&mut self, client: &Client, packet: &[u8]) -> RequestOutcome {
        let visitor = self.visitors.by_client.get_mut(&client.five_tuple);
        if visitor.is_some_and(|visitor| visitor.hold(packet)) {
            RequestOutcome::Waiting
        } else {
            RequestOutcome::Silent(DropReason::Moving)
        }
    }

    /// Holds a request of the owner of the awaited allocation.
    pub(in crate::turn::server) fn hold_request(
        &mut self,
        client: &Client,
        session: &Session,
        packet: &[u8],
    ) -> Option<RequestOutcome> {
        let visitor = self.visitors.at(client)?;
        if !visitor.session.is_same_login(session) {
            return None;
        }
        match self.hold(client, packet)? {
            Verdict::Drop(reason) => Some(RequestOutcome::Silent(reason)),
            _ => Some(RequestOutcome::Waiting),
        }
    }

    /// The verdict on a client's data, unless its allocation is still on its way here.
    pub(in crate::turn::server) fn or_hold(&mut self, verdict: Verdict, client: &Client, packet: &[u8]) -> Verdict {
        if verdict == Verdict::Drop(DropReason::NoAllocation) {
            return self.hold(client, packet).unwrap_or(verdict);
        }
        verdict
    }

    /// The next held packet, to be passed to [`Self::handle_client`] again. Drain after every
    /// migration.
    pub fn poll_held(&mut self) -> Option<(Client, Box<[u8]>)> {
        take_first(&mut self.visitors.again)
    }

    /// A waiting client has disconnected, or asks anew.
    pub(in crate::turn::server) fn withdraw(&mut self, five_tuple: &FiveTuple) {
        let Some(visitor) = self.visitors.by_client.remove(five_tuple) else {
            return;
        };
        let visit = visitor.visit;
        // An unanswered request is withdrawn when its answer arrives.
        if let Some(&MigrationGrant { home, id, .. }) = visitor.grant() {
            self.send_migration(home, MigrationMessage::Withdraw(visit, id));
        }
        self.take_again(*visitor);
    }

    /// The awaited allocation will not arrive.
    pub(super) fn handle_gone(&mut self, visit: Visit) {
        if let Some(visitor) = self.visitors.remove(&visit) {
            self.take_again(*visitor);
        }
    }

    fn take_again(&mut self, visitor: Visitor) {
        let client = visitor.visit.client;
        let held = visitor.held.into_iter().map(|packet| (client, packet));
        self.visitors.again.extend(held);
    }

    /// An allocation has arrived. Returns the new ids of its relay sockets.
    pub(super) fn handle_arrival(&mut self, at: Now, moved: ArrivingAllocation) -> [Option<RelayId>; 2] {
        let now = at.mono;
        let ArrivingAllocation {
            visit,
            home,
            mut allocation,
            flow,
            fetched,
        } = moved;
        let visitor = self.visitors.remove(&visit);
        let was = flow.client().five_tuple;
        let client = visitor.as_ref().map(|visitor| visitor.visit.client);
        let id = self
            .forward
            .adopt(flow, client.map(|client| (client, self.path(&client))));
        allocation.id = id;
        if let Some(mobile) = allocation.mobile.as_deref_mut() {
            if let Some(visitor) = &visitor {
                mobile.moved_by = Some((visitor.transaction_id, now + RETRANSMISSION));
                allocation.session = Arc::clone(&visitor.session);
            }
            if visitor.is_some() && fetched {
                // A client that sends data has received the new ticket.
                if let Some(next) = mobile.next.take() {
                    let over = core::mem::replace(&mut mobile.current, next);
                    self.shared.tickets.remove(&over);
                    mobile.current_until = None;
                }
            } else if visitor.is_some() {
                mobile.current_until = mobile.next.map(|_| now + RETRANSMISSION);
            }
            for &name in core::iter::once(&mobile.current).chain(&mobile.next) {
                self.shared.tickets.set(name, self.shard.index, id);
            }
        }
        let transport = client.map_or(was.transport, |client| client.five_tuple.transport);
        self.counters.allocations[transport as usize].add(1);
        self.counters.allocations_arrived.add(1);
        if client.is_none() {
            self.counters.away.add(1);
        }
        self.events.push_back(Event::AllocationMoved {
            id: allocation.session_id,
            from: home,
            was,
            client: client.map(|client| client.five_tuple),
            username: Arc::clone(&allocation.session.username),
            relayed: allocation.relayed,
        });
        let sockets = open_sockets(&allocation);
        self.allocations.insert(*allocation);
        self.arm(now, id);
        self.expire(now, id);
        if self.stopping {
            self.end(now, id, EndReason::Shutdown);
        }
        // It was on its way while the sessions of its user were ended.
        self.end_if_revoked(at, id);
        if let Some(visitor) = visitor {
            self.take_again(*visitor);
        }
        sockets
    }

    /// Stops migration: no allocation is handed over, and those that still arrive end.
    pub(in crate::turn::server) fn stop_mobility(&mut self) {
        self.stopping = true;
        self.visitors.clear();
    }
}
