//! What a worker does with its DTLS clients.

use std::net::IpAddr;
use std::ops::Range;

use super::Worker;
use crate::base::address::FiveTuple;
use crate::net::dtls::{DtlsError, Listened, client_hello};
use crate::net::udp::Datagram;
use crate::shard::counters::{DtlsClose, DtlsDrop};
use crate::shard::shares::{Bounds, Over, Unit};
use crate::shard::table::dtls::{Dtls, Newcomer, longest_message, over_dtls};
use crate::shard::token::Token;
use crate::shard::udp::to_listener;
use crate::turn::DropReason;
use crate::turn::types::Client;

/// Where the messages of a datagram are put for the core.
enum Room {
    /// In the place of the datagram in the slab: nothing may be sent and cleared in the middle of a batch.
    InPlace(Range<usize>),
    /// Behind everything else in the slab.
    Behind,
}

impl Worker {
    /// A datagram that begins like a DTLS record, at `packet` in the slab.
    pub(super) fn receive_dtls(&mut self, listener: u32, client: &FiveTuple, packet: Range<usize>, tos: u8) {
        let five_tuple = over_dtls(client);
        let bytes = self.carrier.recv.slab().get(packet.clone()).unwrap_or_default();
        let Some(dtls) = &mut self.dtls else { return };
        let hello = client_hello(bytes);
        let known = dtls.by_five_tuple.get(&five_tuple).copied();
        match (known, hello) {
            (None, None) => self.stats.dtls_drop(DtlsDrop::NoAssociation),
            (None, Some(_)) => self.listen(listener, five_tuple, packet),
            (Some(slot), hello) => {
                let generation = dtls.generation(slot);
                let Some(peer) = dtls.at(slot) else { return };
                if hello.is_some_and(|hello| hello.random != peer.random) {
                    // The client has begun anew. The old association lives until the cookie is good (RFC 6347 §4.2.8).
                    self.listen(listener, five_tuple, packet);
                } else if peer.established {
                    peer.association.receive(bytes);
                    self.take_records(slot, generation, Room::InPlace(packet), tos);
                } else if !dtls.postpone(slot, bytes) {
                    self.stats.dtls_drop(DtlsDrop::Queue);
                }
            }
        }
    }

    /// A ClientHello that belongs to no association.
    fn listen(&mut self, listener: u32, five_tuple: FiveTuple, packet: Range<usize>) {
        let bytes = self.carrier.recv.slab().get(packet).unwrap_or_default();
        let (Some(dtls), Some(hello)) = (&mut self.dtls, client_hello(bytes)) else {
            return;
        };
        let outcome = dtls.endpoint.listen(self.now.mono, &five_tuple, hello.record);
        match outcome {
            Listened::Spent => self.stats.dtls_drop(DtlsDrop::CookieSpent),
            Listened::Accepted(association) => {
                let rest = (!hello.rest.is_empty()).then(|| hello.rest.into());
                let random = hello.random;
                if let Some(&old) = dtls.by_five_tuple.get(&five_tuple) {
                    self.remove_dtls(old, DtlsClose::Replaced);
                }
                let unit = match self.take_unit(&five_tuple) {
                    Ok(unit) => unit,
                    Err(reason) => {
                        self.stats.dtls_drop(reason);
                        return;
                    }
                };
                let newcomer = Newcomer {
                    association,
                    five_tuple,
                    listener,
                    random,
                    rest,
                    unit,
                };
                if let Some(dtls) = &mut self.dtls {
                    dtls.insert(self.now.mono, newcomer);
                    self.stats.dtls_associations.add(1);
                    self.stats.dtls_half_open.add(1);
                }
            }
            Listened::Asked if self.server.may_ask(self.now, &five_tuple).is_err() => {
                dtls.endpoint.drain(|_| {});
                self.stats.dtls_drop(DtlsDrop::ChallengeLimited);
            }
            Listened::Asked => {
                self.stats.dtls_asked.add(1);
                let link = Token::Listener(listener).link();
                self.send_records(listener, &Client { five_tuple, link }, 0);
            }
            Listened::Refused => self.stats.dtls_drop(DtlsDrop::BadHello),
        }
    }

    /// A newcomer's share of all associations. Where they are used up, or too many handshakes are under way, the source that
    /// has the most without an allocation, or the most handshakes, loses its oldest ([`crate::base::shares`]).
    ///
    /// # Errors
    /// Why it may not begin.
    fn take_unit(&mut self, client: &FiveTuple) -> Result<Unit, DtlsDrop> {
        let ip = client.client.ip();
        let dtls = self.dtls.as_mut().ok_or(DtlsDrop::Limit)?;
        let bounds = Bounds {
            all: dtls.config.associations,
            per_source: dtls.config.associations_per_ip,
            per_network: dtls.config.associations_per_network,
        };
        let unit = match dtls.shared.caps.take(ip, bounds) {
            Ok(unit) => Ok(unit),
            Err(Over::All(share)) => Err(share),
            Err(Over::Source) => return Err(DtlsDrop::Limit),
        };
        // Second, so that what is refused anyway is not counted.
        if !dtls.shared.arrivals.admit(self.now.mono, ip) {
            return Err(DtlsDrop::TooFast);
        }
        match unit {
            Ok(unit) => {
                if dtls.half_open.len() >= dtls.config.handshakes
                    && let Some(slot) = dtls.half_open.displace(ip)
                {
                    self.remove_dtls(slot, DtlsClose::Displaced);
                }
                Ok(unit)
            }
            Err(share) => {
                let slot = self.next_to_yield(ip);
                let unit = slot.and_then(|slot| self.remove_dtls(slot, DtlsClose::Displaced));
                unit.map(|unit| unit.hand_over(share)).ok_or(DtlsDrop::Limit)
            }
        }
    }

    /// Who gives way to one more of `ip`.
    fn next_to_yield(&mut self, ip: IpAddr) -> Option<u32> {
        loop {
            let dtls = self.dtls.as_mut()?;
            let slot = dtls.yielding.displace(ip)?;
            let peer = dtls.at(slot)?;
            peer.yielding = None;
            // Whoever has an allocation by now stays.
            if !self.server.has_allocation(&peer.client) {
                return Some(slot);
            }
        }
    }

    /// Hands every message of the datagram that the association in `slot` has just been given to the core.
    fn take_records(&mut self, slot: u32, generation: u32, mut room: Room, tos: u8) {
        let mut taken = 0;
        let outcome = loop {
            let Some(dtls) = &mut self.dtls else { return };
            let Dtls { entries, message, .. } = dtls;
            let entry = entries
                .get_mut(slot as usize)
                .filter(|entry| entry.generation == generation);
            let Some(peer) = entry.and_then(|entry| entry.peer.as_deref_mut()) else {
                // An answer could not be sent.
                return;
            };
            let len = match peer.association.next_message(message) {
                Ok(Some(len)) => len,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            taken += 1;
            let client = peer.client;
            let packet = match &mut room {
                Room::InPlace(left) => self.carrier.recv.overwrite(left, &message[..len]),
                Room::Behind => {
                    if self.carrier.recv.free() == 0 {
                        self.carrier.finish(self.now.mono);
                    }
                    self.carrier.recv.store(&message[..len], &[])
                }
            };
            match packet {
                Some(packet) => self.handle_client(&client, packet, tos),
                None => self.counters.drop_packet(DropReason::TooLong),
            }
        };
        let sent = self.flush_dtls(slot);
        match outcome {
            Ok(()) if taken == 0 && sent == 0 => self.stats.dtls_drop(DtlsDrop::Discarded),
            Ok(()) => {}
            Err(DtlsError::Closed) => self.close_dtls(slot, DtlsClose::Client),
            Err(DtlsError::Failed) => drop(self.remove_dtls(slot, DtlsClose::Failed)),
        }
    }

    /// What is due: lost flights, and one step of one handshake.
    pub(super) fn advance_dtls(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        if dtls.next_timer.is_some_and(|at| at <= self.now.mono) {
            self.retransmit();
        }
        let Some(dtls) = &mut self.dtls else { return };
        let Some(slot) = dtls.todo.pop_front() else { return };
        let generation = dtls.generation(slot);
        let Some(peer) = dtls.at(slot) else { return };
        peer.queued = false;
        let datagram = peer.pending.pop_front();
        let progress = peer.association.handshake(datagram.as_deref());
        match progress {
            Ok(false) => {
                if !peer.pending.is_empty() {
                    dtls.queue(slot);
                }
                dtls.set_timer(self.now.mono, slot);
                self.flush_dtls(slot);
            }
            Ok(true) => {
                let pending = std::mem::take(&mut peer.pending);
                dtls.set_established(self.now.mono, slot);
                self.stats.dtls_half_open.sub(1);
                self.stats.dtls_handshakes.add(1);
                self.flush_dtls(slot);
                // Messages may be in the client's last datagram, or behind it already.
                self.take_records(slot, generation, Room::Behind, 0);
                for datagram in pending {
                    let Some(peer) = self.dtls.as_mut().and_then(|dtls| dtls.by_name(slot, generation)) else {
                        return;
                    };
                    peer.association.receive(&datagram);
                    self.take_records(slot, generation, Room::Behind, 0);
                }
            }
            Err(_) => {
                // The alert that tells the client why.
                self.flush_dtls(slot);
                self.remove_dtls(slot, DtlsClose::Failed);
            }
        }
    }

    /// Sends every flight again that is due.
    fn retransmit(&mut self) {
        let now = self.now.mono;
        let Some(dtls) = &mut self.dtls else { return };
        dtls.next_timer = None;
        let slots: Vec<u32> = dtls.half_open.iter().copied().collect();
        for slot in slots {
            let Some(dtls) = &mut self.dtls else { return };
            let Some(peer) = dtls.at(slot) else { continue };
            let due = peer.retransmit_at.is_some_and(|at| at <= now);
            if due && peer.association.handle_timeout().is_err() {
                self.remove_dtls(slot, DtlsClose::Failed);
                continue;
            }
            dtls.set_timer(now, slot);
            if due {
                self.flush_dtls(slot);
            }
        }
    }

    /// Sends `header`, the bytes at `data` in the slab and `padding` zeros as one record to the client named.
    pub(super) fn send_dtls(&mut self, name: (u32, u32), header: &[u8], data: Range<usize>, padding: usize, tos: u8) {
        let data = self.carrier.recv.slab().get(data).unwrap_or_default();
        let len = header.len() + data.len() + padding;
        let Some(message) = self.dtls.as_mut().and_then(|dtls| dtls.message.get_mut(..len)) else {
            self.counters.drop_packet(DropReason::TooLong);
            return;
        };
        let (front, back) = message.split_at_mut(header.len());
        front.copy_from_slice(header);
        let (front, back) = back.split_at_mut(data.len());
        front.copy_from_slice(data);
        back.fill(0);
        self.seal_dtls(name, len, tos);
    }

    /// Sends what is in the response buffer as one record to the client named.
    pub(super) fn respond_dtls(&mut self, name: (u32, u32)) {
        let response = self.response.bytes();
        let Some(dtls) = &mut self.dtls else { return };
        // A response is no longer than a record.
        if let Some(message) = dtls.message.get_mut(..response.len()) {
            message.copy_from_slice(response);
            self.seal_dtls(name, self.response.bytes().len(), 0);
        }
        let (slot, generation) = name;
        let Some(peer) = self.dtls.as_mut().and_then(|dtls| dtls.by_name(slot, generation)) else {
            return;
        };
        peer.strangers_answers = if self.response.is_to_stranger() {
            peer.strangers_answers + 1
        } else {
            0
        };
        if peer.strangers_answers >= self.unauthenticated_requests {
            self.close_dtls(slot, DtlsClose::Unauthenticated);
        }
    }

    /// Sends the first `len` bytes of the message buffer. A record that would not fit into a packet is not sent.
    fn seal_dtls(&mut self, (slot, generation): (u32, u32), len: usize, tos: u8) {
        let Some(dtls) = &mut self.dtls else { return };
        let (mtu, entry) = (dtls.config.mtu, dtls.entries.get_mut(slot as usize));
        let entry = entry.filter(|entry| entry.generation == generation);
        let Some(peer) = entry.and_then(|entry| entry.peer.as_deref_mut()) else {
            self.counters.drop_packet(DropReason::Gone);
            return;
        };
        if len > longest_message(mtu, peer.client.five_tuple.client) {
            self.counters.drop_packet(DropReason::TooLong);
        } else if peer.association.seal(&dtls.message[..len]).is_ok() {
            let (listener, client) = (peer.listener, peer.client);
            self.send_records(listener, &client, tos);
        } else {
            self.counters.drop_packet(DropReason::Gone);
            self.remove_dtls(slot, DtlsClose::Failed);
        }
    }

    /// Sends what the association in `slot` has to say. Returns how many datagrams.
    fn flush_dtls(&mut self, slot: u32) -> usize {
        let Some(peer) = self.dtls.as_mut().and_then(|dtls| dtls.at(slot)) else {
            return 0;
        };
        let (listener, client) = (peer.listener, peer.client);
        self.send_records(listener, &client, 0)
    }

    fn send_records(&mut self, listener: u32, client: &Client, tos: u8) -> usize {
        let Some(dtls) = &self.dtls else { return 0 };
        let (carrier, now) = (&mut self.carrier, self.now.mono);
        dtls.endpoint.drain(|record| {
            let datagram = Datagram {
                header: record,
                tos,
                ..to_listener(listener, client, 0..0)
            };
            carrier.push_to_client(now, client, &datagram);
        })
    }

    /// Ends an association with close_notify.
    pub(super) fn close_dtls(&mut self, slot: u32, reason: DtlsClose) {
        if let Some(peer) = self.dtls.as_mut().and_then(|dtls| dtls.at(slot)) {
            peer.association.close();
            self.flush_dtls(slot);
            self.remove_dtls(slot, reason);
        }
    }

    /// Forgets an association; its allocation ends with this turn, because nobody can come back to it.
    /// Returns its share of all associations.
    fn remove_dtls(&mut self, slot: u32, reason: DtlsClose) -> Option<Unit> {
        let peer = self.dtls.as_mut()?.remove(slot)?;
        self.departed.push(peer.client);
        self.stats.dtls_associations.sub(1);
        if !peer.established {
            self.stats.dtls_half_open.sub(1);
        }
        self.stats.dtls_closed[reason as usize].add(1);
        Some(peer.unit)
    }

    /// Ends an association whose time is up: a handshake not completed, or no allocation for too long.
    pub(super) fn check_dtls_deadline(&mut self, slot: u32) {
        let now = self.now.mono;
        let idle_timeout = self.idle_timeout;
        let Some(dtls) = &mut self.dtls else { return };
        let handshake_timeout = dtls.config.handshake_timeout;
        let Some(peer) = dtls.at(slot) else { return };
        if !peer.established {
            if now - peer.since >= handshake_timeout {
                self.remove_dtls(slot, DtlsClose::HandshakeTimeout);
            }
        } else if self.server.has_allocation(&peer.client) {
            peer.since = now;
            dtls.set_yielding(slot, false);
        } else if now - peer.since >= idle_timeout {
            self.close_dtls(slot, DtlsClose::Idle);
        } else {
            dtls.set_yielding(slot, true);
        }
    }

    /// Says goodbye to everybody.
    pub(super) fn end_dtls(&mut self) {
        for slot in 0..self.dtls.as_ref().map_or(0, Dtls::slots) {
            self.close_dtls(slot, DtlsClose::Shutdown);
        }
    }
}

#[cfg(test)]
mod tests;
