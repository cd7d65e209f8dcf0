//! Carries out verdicts: they become datagrams, frames and hairpin packets to other shards.

use std::ops::Range;

use super::Worker;
use crate::net::stream::QueueKind;
use crate::net::udp::Datagram;
use crate::shard::hairpin_ring::HairpinHeader;
use crate::shard::token::Token;
use crate::shard::udp::to_listener;
use crate::turn::types::{AllocationId, Client};
use crate::turn::{DropReason, Frame, ResponseRoute, Verdict};

impl Worker {
    /// Carries out the verdict on the packet at `packet` in the slab. `client` is its sender,
    /// unless that is a peer. `tos` goes with the application data.
    pub(super) fn apply(&mut self, verdict: Verdict, client: Option<&Client>, packet: Range<usize>, tos: u8) {
        match verdict {
            Verdict::ToPeer {
                relay,
                peer,
                data,
                dont_fragment,
            } => {
                let datagram = Datagram {
                    egress: self.udp.sockets.relay_egress(relay),
                    destination: peer.0,
                    source: None,
                    tos,
                    dont_fragment,
                    header: &[],
                    data: within(&packet, data.as_range()),
                    padding: 0,
                };
                self.udp.push(self.now.mono, &datagram);
            }
            Verdict::ToClient { allocation, frame } => self.send_to_client(allocation, frame, packet, tos),
            Verdict::ToAllocation { shard, to, from, data } => {
                let data = within(&packet, data.as_range());
                self.send_hairpin(usize::from(shard), HairpinHeader { to, from, tos }, data);
            }
            Verdict::Respond => {
                if let Some(client) = client {
                    self.respond(client);
                }
            }
            Verdict::BindConnection(connection) => {
                if let Some(client) = client {
                    self.respond(client);
                    self.bind_connection(client.link, connection);
                }
            }
            Verdict::MoveStream { shard } => {
                if let Some(client) = client {
                    self.move_stream(client, usize::from(shard), packet);
                }
            }
            Verdict::Waiting | Verdict::Drop(_) => {}
        }
    }

    /// Sends data from one relayed address to another: in memory, not through the kernel.
    fn send_hairpin(&mut self, shard: usize, hairpin: HairpinHeader, data: Range<usize>) {
        if shard == self.index {
            self.receive_hairpin(hairpin, data);
            return;
        }
        let bytes = self.udp.recv.slab().get(data).unwrap_or_default();
        let sender = self.outlets.hairpins.get_mut(shard).and_then(Option::as_mut);
        if sender.is_some_and(|sender| sender.send(hairpin, bytes)) {
            self.stats.mailbox_sent.add(1);
        } else {
            self.stats.mailbox_full.add(1);
            self.counters.drop_packet(DropReason::MailboxFull);
        }
    }

    /// Handles application data for an allocation of this shard, sent by another allocation of this
    /// server.
    pub(super) fn receive_hairpin(&mut self, hairpin: HairpinHeader, data: Range<usize>) {
        let verdict = self
            .server
            .handle_relayed(self.now, hairpin.to, hairpin.from, data.len());
        // The data goes to a client, or follows an allocation that has moved. It never goes on to a
        // third.
        match verdict {
            Verdict::ToClient { allocation, frame } => self.send_to_client(allocation, frame, data, hairpin.tos),
            Verdict::ToAllocation { shard, .. } => self.send_hairpin(usize::from(shard), hairpin, data),
            _ => {}
        }
    }

    fn send_to_client(&mut self, allocation: AllocationId, frame: Frame, data: Range<usize>, tos: u8) {
        let Some(&client) = self.server.client(allocation) else {
            self.counters.drop_packet(DropReason::Gone);
            return;
        };
        let mut header = [0; Frame::MAX_HEADER];
        let len = frame.emit(data.len(), &mut header);
        let header = &header[..len];
        let padding = frame.padding(data.len(), client.five_tuple.transport);
        match Token::from_link(client.link) {
            Token::Stream { slot, generation } => {
                let bytes = self.udp.recv.slab().get(data).unwrap_or_default();
                match self
                    .streams
                    .by_token(slot, generation)
                    .filter(|stream| stream.closing.is_none())
                {
                    Some(stream) => {
                        // Data evicts older data, so it is never refused.
                        let _ = stream
                            .conn
                            .queue(self.now.mono, QueueKind::Data, header, bytes, padding);
                        self.streams.mark_dirty(slot);
                    }
                    None => self.counters.drop_packet(DropReason::Gone),
                }
            }
            Token::Listener(egress) => {
                let datagram = Datagram {
                    header,
                    padding,
                    tos,
                    ..to_listener(egress, &client, data)
                };
                self.udp.push_to_client(self.now.mono, &client, &datagram);
            }
            Token::Dtls { slot, generation } => self.send_dtls((slot, generation), header, data, padding, tos),
            _ => self.counters.drop_packet(DropReason::Gone),
        }
    }

    /// Sends what is in the response buffer.
    pub(super) fn respond(&mut self, client: &Client) {
        match Token::from_link(client.link) {
            Token::Stream { slot, generation } => {
                let Some(stream) = self.streams.by_token(slot, generation) else {
                    return;
                };
                if !stream.authenticated && self.server.has_or_awaits_allocation(client) {
                    stream.set_authenticated();
                }
                let queued = stream
                    .conn
                    .queue(self.now.mono, QueueKind::Control, self.response.bytes(), &[], 0);
                let strangers = stream.count_answer(self.response.is_to_stranger());
                self.streams.mark_dirty(slot);
                if queued.is_err() {
                    self.end_stream(slot, "control_queue");
                } else if strangers >= self.unauthenticated_requests {
                    self.end_stream(slot, "unauthenticated");
                }
            }
            Token::Listener(egress) => {
                // In NAT discovery (RFC 5780) it may leave from another address than the request
                // came to.
                let (egress, client) = match self.response.route() {
                    None => (Some(egress), *client),
                    Some(ResponseRoute { from, to }) => (self.udp.sockets.listener_at(from), client.seen_at(from, to)),
                };
                let Some(egress) = egress else {
                    self.counters.drop_packet(DropReason::Gone);
                    return;
                };
                let datagram = Datagram {
                    header: self.response.bytes(),
                    ..to_listener(egress, &client, 0..0)
                };
                self.udp.push_to_client(self.now.mono, &client, &datagram);
            }
            Token::Dtls { slot, generation } => self.respond_dtls((slot, generation)),
            _ => {}
        }
    }
}

/// `part` of what is at `whole`, in the slab.
fn within(whole: &Range<usize>, part: Range<usize>) -> Range<usize> {
    whole.start + part.start..whole.start + part.end
}
