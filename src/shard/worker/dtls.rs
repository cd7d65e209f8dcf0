//! A worker's DTLS clients: records in and out, and steps of handshakes.

use std::net::IpAddr;
use std::ops::Range;

use super::Worker;
use crate::base::address::FiveTuple;
use crate::net::dtls::{DtlsError, Listened, client_hello};
use crate::net::udp::Datagram;
use crate::shard::counters::{DtlsClose, DtlsDrop};
use crate::shard::shares::ProcessUnit;
use crate::shard::table::dtls::{Dtls, DtlsReceived, HandshakeStep, NewAssociation, NextMessage, SealError, over_dtls};
use crate::shard::token::Token;
use crate::shard::udp::to_listener;
use crate::turn::DropReason;
use crate::turn::types::Client;

/// Where the messages of a datagram are put for the core.
enum Room {
    /// In place of the datagram in the slab, which must not be cleared in the middle of a batch.
    InPlace(Range<usize>),
    /// Behind everything else in the slab.
    Behind,
}

impl Worker {
    /// A datagram that begins like a DTLS record, at `packet` in the slab.
    pub(super) fn receive_dtls(&mut self, listener: u32, client: &FiveTuple, packet: Range<usize>, tos: u8) {
        let five_tuple = over_dtls(client);
        let bytes = self.udp.recv.slab().get(packet.clone()).unwrap_or_default();
        let Some(dtls) = &mut self.dtls else { return };
        let hello = client_hello(bytes);
        let Some(slot) = dtls.find(&five_tuple) else {
            match hello {
                None => self.stats.dtls_drop(DtlsDrop::NoAssociation),
                Some(_) => self.listen(listener, five_tuple, packet),
            }
            return;
        };
        match dtls.receive(slot, hello.as_ref().map(|hello| &hello.random), bytes) {
            Some(DtlsReceived::NewHandshake) => self.listen(listener, five_tuple, packet),
            Some(DtlsReceived::Records(generation)) => self.take_records(slot, generation, Room::InPlace(packet), tos),
            Some(DtlsReceived::QueueFull) => self.stats.dtls_drop(DtlsDrop::Queue),
            Some(DtlsReceived::Handshake) | None => {}
        }
    }

    /// A ClientHello that belongs to no association.
    fn listen(&mut self, listener: u32, five_tuple: FiveTuple, packet: Range<usize>) {
        let bytes = self.udp.recv.slab().get(packet).unwrap_or_default();
        let (Some(dtls), Some(hello)) = (&mut self.dtls, client_hello(bytes)) else {
            return;
        };
        match dtls.listen(self.now.mono, &five_tuple, hello.record) {
            Listened::Spent => self.stats.dtls_drop(DtlsDrop::CookieSpent),
            Listened::Accepted(association) => {
                let rest = (!hello.rest.is_empty()).then(|| hello.rest.into());
                let random = hello.random;
                if let Some(old) = dtls.find(&five_tuple) {
                    self.remove_dtls(old, DtlsClose::Replaced);
                }
                let unit = match self.take_share(&five_tuple) {
                    Ok(unit) => unit,
                    Err(reason) => {
                        self.stats.dtls_drop(reason);
                        return;
                    }
                };
                let new = NewAssociation {
                    association,
                    five_tuple,
                    listener,
                    random,
                    rest,
                    unit,
                };
                if let Some(dtls) = &mut self.dtls {
                    dtls.insert(self.now.mono, new);
                    self.stats.dtls_associations.add(1);
                    self.stats.dtls_half_open.add(1);
                }
            }
            Listened::Asked if self.server.may_ask(self.now, &five_tuple).is_err() => {
                dtls.drain(|_| {});
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

    /// A new association's share of all associations. Where they are in use, or too many handshakes
    /// are under way, the source that has the most without an allocation, or the most handshakes,
    /// loses its oldest ([`crate::base::shares`]).
    ///
    /// # Errors
    /// Why it may not begin.
    fn take_share(&mut self, client: &FiveTuple) -> Result<ProcessUnit, DtlsDrop> {
        let ip = client.client.ip();
        let dtls = self.dtls.as_mut().ok_or(DtlsDrop::Limit)?;
        match dtls.take_share(self.now.mono, ip)? {
            Ok(unit) => {
                if let Some(slot) = dtls.displace_handshake(ip) {
                    self.remove_dtls(slot, DtlsClose::Displaced);
                }
                Ok(unit)
            }
            Err(share) => {
                let slot = self.next_to_displace(ip);
                let unit = slot.and_then(|slot| self.remove_dtls(slot, DtlsClose::Displaced));
                unit.map(|unit| unit.transfer(share)).ok_or(DtlsDrop::Limit)
            }
        }
    }

    /// The association that is evicted for one more of `ip`.
    fn next_to_displace(&mut self, ip: IpAddr) -> Option<u32> {
        loop {
            let (slot, client) = self.dtls.as_mut()?.displace(ip)?;
            // One that has an allocation by now stays.
            if !self.server.has_or_awaits_allocation(&client) {
                return Some(slot);
            }
        }
    }

    /// Hands every message of the datagram that the association in `slot` has just been given to
    /// the core.
    fn take_records(&mut self, slot: u32, generation: u32, mut room: Room, tos: u8) {
        let mut taken = 0;
        let outcome = loop {
            let Some(dtls) = &mut self.dtls else { return };
            let (message, client) = match dtls.next_message(slot, generation) {
                NextMessage::Message(message, client) => (message, client),
                NextMessage::Done => break Ok(()),
                NextMessage::Ended(error) => break Err(error),
                // The association ended because an answer could not be sent.
                NextMessage::Gone => return,
            };
            taken += 1;
            let packet = match &mut room {
                Room::InPlace(left) => self.udp.recv.overwrite(left, message),
                Room::Behind => {
                    if self.udp.recv.free() == 0 {
                        self.udp.finish(self.now.mono);
                    }
                    self.udp.recv.store(message, &[])
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

    /// Does what is due: sends lost flights again, and does one step of one handshake.
    pub(super) fn advance_dtls(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        if dtls.has_due_flights(self.now.mono) {
            self.retransmit();
        }
        let Some(dtls) = &mut self.dtls else { return };
        let Some((slot, generation, step)) = dtls.step(self.now.mono) else {
            return;
        };
        match step {
            HandshakeStep::UnderWay => drop(self.flush_dtls(slot)),
            HandshakeStep::Established(pending) => {
                self.stats.dtls_half_open.sub(1);
                self.stats.dtls_handshakes.add(1);
                self.flush_dtls(slot);
                // Messages may stand in the client's last datagram, or already wait behind it.
                self.take_records(slot, generation, Room::Behind, 0);
                for datagram in pending {
                    let Some(client) = self.dtls.as_mut().and_then(|dtls| dtls.by_token(slot, generation)) else {
                        return;
                    };
                    client.receive(&datagram);
                    self.take_records(slot, generation, Room::Behind, 0);
                }
            }
            HandshakeStep::Failed => {
                // The alert says why.
                self.flush_dtls(slot);
                self.remove_dtls(slot, DtlsClose::Failed);
            }
        }
    }

    /// Sends every flight again that is due.
    fn retransmit(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        for slot in dtls.begin_retransmission() {
            let Some(dtls) = &mut self.dtls else { return };
            match dtls.retransmit(self.now.mono, slot) {
                Ok(true) => drop(self.flush_dtls(slot)),
                Ok(false) => {}
                Err(_) => drop(self.remove_dtls(slot, DtlsClose::Failed)),
            }
        }
    }

    /// Sends `header`, the bytes at `data` in the slab and `padding` zeros as one record to the
    /// client of this token.
    pub(super) fn send_dtls(&mut self, token: (u32, u32), header: &[u8], data: Range<usize>, padding: usize, tos: u8) {
        let data = self.udp.recv.slab().get(data).unwrap_or_default();
        let len = header.len() + data.len() + padding;
        let Some(message) = self.dtls.as_mut().and_then(|dtls| dtls.message_mut(len)) else {
            self.counters.drop_packet(DropReason::TooLong);
            return;
        };
        let (front, back) = message.split_at_mut(header.len());
        front.copy_from_slice(header);
        let (front, back) = back.split_at_mut(data.len());
        front.copy_from_slice(data);
        back.fill(0);
        self.seal_dtls(token, len, tos);
    }

    /// Sends what is in the response buffer as one record to the client of this token.
    pub(super) fn respond_dtls(&mut self, token: (u32, u32)) {
        let response = self.response.bytes();
        let len = response.len();
        let Some(dtls) = &mut self.dtls else { return };
        // A response is no longer than a record.
        if let Some(message) = dtls.message_mut(len) {
            message.copy_from_slice(response);
            self.seal_dtls(token, len, 0);
        }
        let (slot, generation) = token;
        let Some(client) = self.dtls.as_mut().and_then(|dtls| dtls.by_token(slot, generation)) else {
            return;
        };
        if client.count_answer(self.response.is_to_stranger()) >= self.unauthenticated_requests {
            self.close_dtls(slot, DtlsClose::Unauthenticated);
        }
    }

    /// Sends the first `len` bytes of the message buffer. A record that would not fit into a packet
    /// is not sent.
    fn seal_dtls(&mut self, (slot, generation): (u32, u32), len: usize, tos: u8) {
        let Some(dtls) = &mut self.dtls else { return };
        match dtls.seal(slot, generation, len) {
            Ok((listener, client)) => drop(self.send_records(listener, &client, tos)),
            Err(SealError::TooLong) => self.counters.drop_packet(DropReason::TooLong),
            Err(SealError::Gone) => self.counters.drop_packet(DropReason::Gone),
            Err(SealError::Failed) => {
                self.counters.drop_packet(DropReason::Gone);
                self.remove_dtls(slot, DtlsClose::Failed);
            }
        }
    }

    /// Sends what the association in `slot` has to send. Returns how many datagrams.
    fn flush_dtls(&mut self, slot: u32) -> usize {
        let Some((listener, client)) = self.dtls.as_mut().and_then(|dtls| dtls.at(slot)).map(|it| it.path()) else {
            return 0;
        };
        self.send_records(listener, &client, 0)
    }

    fn send_records(&mut self, listener: u32, client: &Client, tos: u8) -> usize {
        let Some(dtls) = &self.dtls else { return 0 };
        let (udp, now) = (&mut self.udp, self.now.mono);
        dtls.drain(|record| {
            let datagram = Datagram {
                header: record,
                tos,
                ..to_listener(listener, client, 0..0)
            };
            udp.push_to_client(now, client, &datagram);
        })
    }

    /// Ends an association with close_notify.
    pub(super) fn close_dtls(&mut self, slot: u32, reason: DtlsClose) {
        if let Some(client) = self.dtls.as_mut().and_then(|dtls| dtls.at(slot)) {
            client.close();
            self.flush_dtls(slot);
            self.remove_dtls(slot, reason);
        }
    }

    /// Forgets an association; its allocation ends with this turn, because no client can come back
    /// to it. Returns its share of all associations.
    fn remove_dtls(&mut self, slot: u32, reason: DtlsClose) -> Option<ProcessUnit> {
        let client = self.dtls.as_mut()?.remove(slot)?;
        self.departed.push(client.client);
        self.stats.dtls_associations.sub(1);
        if !client.established {
            self.stats.dtls_half_open.sub(1);
        }
        self.stats.dtls_closed[reason as usize].add(1);
        Some(client.unit)
    }

    /// Ends an association whose time is up: a handshake not completed, or no allocation for too
    /// long.
    pub(super) fn check_dtls_deadline(&mut self, slot: u32) {
        let Some(dtls) = &mut self.dtls else { return };
        let server = &self.server;
        let has_or_awaits_allocation = |client: &Client| server.has_or_awaits_allocation(client);
        match dtls.expired(self.now.mono, slot, self.idle_timeout, has_or_awaits_allocation) {
            // Without close_notify: there is no key for it yet.
            Some(DtlsClose::HandshakeTimeout) => drop(self.remove_dtls(slot, DtlsClose::HandshakeTimeout)),
            Some(reason) => self.close_dtls(slot, reason),
            None => {}
        }
    }

    /// Ends every association with close_notify.
    pub(super) fn end_dtls(&mut self) {
        for slot in 0..self.dtls.as_ref().map_or(0, Dtls::slots) {
            self.close_dtls(slot, DtlsClose::Shutdown);
        }
    }
}

#[cfg(test)]
mod tests;
