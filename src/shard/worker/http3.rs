//! A worker's HTTP/3 flows: datagrams between clients and the backend.

use std::ops::Range;

use super::Worker;
use crate::net::udp::Datagram;
use crate::shard::counters::{Http3Drop, Http3End};
use crate::shard::table::http3::{Begun, Http3, Http3Flow};
use crate::shard::token::Token;
use crate::shard::udp::to_listener;
use crate::turn::Server;
use crate::turn::types::Client;
use crate::wire::quic;

/// Messages taken from one backend socket in a turn.
const BATCH: usize = 8;
/// Datagrams from backends in a turn, beyond which no further socket is read: a download can wait,
/// media cannot.
const TURN_DATAGRAMS: u64 = 256;

/// What a five-tuple's datagrams belong to.
#[derive(Clone, Copy, Debug)]
pub(super) enum FiveTupleOwner {
    Turn,
    /// The flow in this slot.
    Flow(u32),
    Unclaimed,
}

fn owner_of(server: &mut Server, http3: Option<&Http3>, client: &Client) -> FiveTupleOwner {
    if server.find_allocation(client) {
        return FiveTupleOwner::Turn;
    }
    let flow = http3.and_then(|http3| http3.find(&client.five_tuple));
    flow.map_or(FiveTupleOwner::Unclaimed, FiveTupleOwner::Flow)
}

impl Worker {
    /// Passes a datagram to the backend, if it belongs to a flow or may begin one. `owner` is kept
    /// between the datagrams of one client. Returns whether the datagram is done with.
    pub(super) fn pass_to_backend(
        &mut self,
        client: &Client,
        packet: &Range<usize>,
        tos: u8,
        owner: &mut Option<FiveTupleOwner>,
    ) -> bool {
        let bytes = self.udp.recv.slab().get(packet.clone()).unwrap_or_default();
        if quic::is_stun_or_dtls(bytes) {
            return false;
        }
        let owner = owner.get_or_insert_with(|| owner_of(&mut self.server, self.http3.as_ref(), client));
        let slot = match *owner {
            FiveTupleOwner::Flow(slot) => slot,
            FiveTupleOwner::Unclaimed if quic::may_begin(bytes) && !self.has_association(client) => {
                let Some(slot) = self.begin_flow(client) else {
                    return true;
                };
                *owner = FiveTupleOwner::Flow(slot);
                slot
            }
            FiveTupleOwner::Turn | FiveTupleOwner::Unclaimed => return false,
        };
        self.send_to_backend(slot, packet.clone(), tos);
        true
    }

    fn has_association(&self, client: &Client) -> bool {
        self.dtls
            .as_ref()
            .is_some_and(|dtls| dtls.has_association(&client.five_tuple))
    }

    /// Begins the flow of a client. `None`: it may not begin, which is counted.
    fn begin_flow(&mut self, client: &Client) -> Option<u32> {
        let http3 = self.http3.as_mut()?;
        let Some(backend) = http3.backend() else {
            self.stats.http3_drop(Http3Drop::NoBackend);
            return None;
        };
        let begun = match http3.begin(self.now.mono, *client, backend) {
            Ok(begun) => begun,
            Err(reason) => {
                self.stats.http3_drop(reason);
                return None;
            }
        };
        self.stats.http3_flows.add(1);
        self.stats.http3_unproven.add(1);
        self.stats.http3_began.add(1);
        let Begun {
            slot,
            generation,
            displaced,
        } = begun;
        if let Some((slot, flow)) = displaced {
            self.flow_ended(slot, &flow, Http3End::Displaced);
        }
        let token = Token::Http3 { slot, generation };
        match self.udp.open_flow(&self.epoll, slot, token, backend) {
            Ok(()) => Some(slot),
            Err(error) => {
                self.stats.http3_drop(Http3Drop::NoSocket);
                if self.http3.as_mut()?.may_warn_of_no_socket(self.now.mono) {
                    let shard = self.index;
                    tracing::warn!(target: "relay::shard", shard, %backend, %error, "cannot open a socket for HTTP/3");
                }
                self.end_flow(slot, Http3End::Failed);
                None
            }
        }
    }

    fn send_to_backend(&mut self, slot: u32, packet: Range<usize>, tos: u8) {
        let bytes = self.udp.recv.slab().get(packet.clone()).unwrap_or_default();
        let Some(http3) = &mut self.http3 else { return };
        if http3.receive_from_client(self.now.mono, slot, bytes) {
            self.stats.http3_unproven.sub(1);
        }
        let Some(flow) = http3.at(slot) else { return };
        self.stats.http3_datagrams[0].add(1);
        self.stats.http3_bytes[0].add(bytes.len() as u64);
        let datagram = Datagram {
            egress: self.udp.sockets.flow_egress(slot),
            destination: flow.backend,
            source: None,
            tos,
            // As the client sends it: the client probes the path's MTU (RFC 9000 §14).
            dont_fragment: true,
            header: &[],
            data: packet,
            padding: 0,
        };
        self.udp.push(self.now.mono, &datagram);
    }

    /// Reads the backend sockets among the first `ready` events. The first one differs from turn to
    /// turn, because a turn may not reach all.
    pub(super) fn receive_backends(&mut self, ready: usize) {
        let begin = self.turns as usize % ready.max(1);
        let end = self.packets + TURN_DATAGRAMS;
        for i in (begin..ready).chain(0..begin) {
            if self.packets >= end {
                return;
            }
            if let Some(event) = self.epoll.event(i)
                && let Token::Http3 { slot, generation } = Token::from_bits(event.token)
            {
                if self.udp.recv.free() == 0 {
                    self.send_datagrams();
                }
                self.receive_backend(slot, generation, event.error);
            }
        }
    }

    fn receive_backend(&mut self, slot: u32, generation: u32, error: bool) {
        let Some(http3) = &mut self.http3 else { return };
        let Some(&mut Http3Flow { client, backend, .. }) = http3.by_token(slot, generation) else {
            return;
        };
        if self.server.has_or_awaits_allocation(&client) {
            self.end_flow(slot, Http3End::Allocation);
            return;
        }
        if error && let Some(error) = self.udp.sockets.flow(slot).and_then(|socket| socket.take_pending()) {
            self.stats.http3_backend_errors.add(1);
            if http3.may_warn_of_unreachable(self.now.mono) {
                tracing::warn!(
                    target: "relay::shard", shard = self.index, %backend, %error,
                    "the HTTP/3 backend of the front door cannot be reached; is it running there?"
                );
            }
        }
        let Token::Listener(listener) = Token::from_link(client.link) else {
            return;
        };
        for i in self.udp.receive(|sockets| sockets.flow(slot), BATCH) {
            let Some(received) = self.udp.recv.slot(i) else {
                continue;
            };
            for packet in received.datagrams() {
                self.count_datagram();
                if received.source != backend {
                    // It arrived before the socket was connected.
                    self.stats.http3_drop(Http3Drop::Stranger);
                } else {
                    self.send_from_backend(slot, listener, &client, packet, received.tos);
                }
            }
        }
    }

    fn send_from_backend(&mut self, slot: u32, listener: u32, client: &Client, packet: Range<usize>, tos: u8) {
        let bytes = self.udp.recv.slab().get(packet.clone()).unwrap_or_default();
        let Some(flow) = self.http3.as_mut().and_then(|http3| http3.at(slot)) else {
            return;
        };
        if !flow.receive_from_backend(self.now.mono, bytes) {
            self.stats.http3_drop(Http3Drop::Unproven);
            return;
        }
        self.stats.http3_datagrams[1].add(1);
        self.stats.http3_bytes[1].add(bytes.len() as u64);
        let datagram = Datagram {
            tos,
            dont_fragment: true,
            ..to_listener(listener, client, packet)
        };
        self.udp.push_to_client(self.now.mono, client, &datagram);
    }

    /// Ends a flow whose deadline has passed, or whose five-tuple has an allocation now.
    pub(super) fn check_flow(&mut self, slot: u32) {
        let Some(http3) = &mut self.http3 else { return };
        let expired = http3.expired(self.now.mono, slot);
        let Some(flow) = http3.at(slot) else { return };
        let taken = self.server.has_or_awaits_allocation(&flow.client);
        if let Some(why) = expired.or(taken.then_some(Http3End::Allocation)) {
            self.end_flow(slot, why);
        }
    }

    fn end_flow(&mut self, slot: u32, why: Http3End) {
        if let Some((flow, _unit)) = self.http3.as_mut().and_then(|http3| http3.remove(slot)) {
            self.flow_ended(slot, &flow, why);
        }
    }

    fn flow_ended(&mut self, slot: u32, flow: &Http3Flow, why: Http3End) {
        self.udp.close_flow(self.now.mono, slot);
        self.stats.http3_flows.sub(1);
        if !flow.is_proven() {
            self.stats.http3_unproven.sub(1);
        }
        self.stats.http3_ended[why as usize].add(1);
        tracing::debug!(
            target: "relay::http3",
            client = %self.log_client.show(flow.client.five_tuple.client),
            backend = %flow.backend,
            up_bytes = flow.to_backend,
            down_bytes = flow.to_client,
            why = why.as_str(),
            "HTTP/3 flow ended"
        );
    }

    /// Ends every flow.
    pub(super) fn end_flows(&mut self) {
        for slot in 0..self.http3.as_ref().map_or(0, Http3::slots) {
            self.end_flow(slot, Http3End::Shutdown);
        }
    }
}
