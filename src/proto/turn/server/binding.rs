//! Binding (RFC 8489 §12): reports its server-reflexive address to a client. Needs no login and
//! keeps no state.

use std::sync::Arc;

use super::Server;
use super::discovery::{DiscoveryAddress, DiscoveryRequest};
use crate::base::address::{FiveTuple, Transport};
use crate::base::time::Now;
use crate::turn::login::auth::Asker;
use crate::turn::output::{DropReason, Verdict};
use crate::turn::refusal::Refusal;
use crate::turn::response::{Reply, Response, ResponseRoute};
use crate::turn::types::{Client, Path};
use crate::wire::attribute::AttributeType;
use crate::wire::classic::ClassicBinding;
use crate::wire::message::{Message, Method};

impl Server {
    /// Handles a Binding request. MESSAGE-INTEGRITY is neither required nor verified; ICE agents
    /// may add it.
    pub(super) fn handle_binding(
        &mut self,
        now: Now,
        client: &Client,
        message: &Message<'_>,
        response: &mut Response,
    ) -> Verdict {
        let asker = match self.admit_binding(now, client) {
            Ok(asker) => asker,
            Err(reason) => return Verdict::Drop(reason),
        };
        let verdict = self.answer_binding(client, message, response);
        if asker == Asker::Stranger {
            response.mark_stranger();
        }
        verdict
    }

    fn answer_binding(&self, client: &Client, message: &Message<'_>, response: &mut Response) -> Verdict {
        let FiveTuple {
            client: source,
            server,
            transport,
        } = client.five_tuple;
        let config = Arc::clone(&self.config);
        let reply = Reply::to(message, Method::Binding, &client.five_tuple, config.software.as_deref());
        if let Some(place) = config
            .discovery
            .as_deref()
            .and_then(|places| DiscoveryAddress::of(places, server))
        {
            return match DiscoveryRequest::of(message, place, source, transport) {
                Ok(request) => answer_discovery(&reply, client.five_tuple, request, response),
                Err(refusal) => self.answer_error(&reply, &refusal, response),
            };
        }
        let unknown = message.unknown_required();
        if !unknown.is_empty() {
            return self.answer_error(&reply, &Refusal::UnknownAttributes { types: unknown }, response);
        }
        let written = response.success(&reply, |writer| {
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, source);
        });
        debug_assert!(written, "a Binding response fits its buffer");
        Verdict::Respond
    }

    /// Handles messages without the magic cookie. Only the Binding request of RFC 3489 is answered,
    /// if enabled, and only over UDP (RFC 5389 §12.2), the one transport of those clients.
    pub(super) fn handle_classic(
        &mut self,
        now: Now,
        client: &Client,
        packet: &[u8],
        response: &mut Response,
    ) -> Verdict {
        if client.five_tuple.transport == Transport::Dtls {
            return self.refuse_classic(packet, response);
        }
        if client.five_tuple.transport != Transport::Udp {
            return Verdict::Drop(DropReason::NotTurn);
        }
        let Some(request) = ClassicBinding::parse(packet) else {
            return Verdict::Drop(DropReason::NotTurn);
        };
        if !self.config.rfc3489_binding {
            return Verdict::Drop(DropReason::Rfc3489);
        }
        if let Err(reason) = self.admit_binding(now, client) {
            return Verdict::Drop(reason);
        }
        if !request.unknown.is_empty() {
            self.counters.error_response(420);
        }
        let written = response.classic(&request, client.five_tuple.client);
        debug_assert!(written, "a Binding response fits its buffer");
        Verdict::Respond
    }

    /// DTLS came after RFC 3489. A request gets an error response, anything else is dropped (RFC
    /// 8489 §11).
    fn refuse_classic(&self, packet: &[u8], response: &mut Response) -> Verdict {
        let Some(request) = ClassicBinding::parse(packet) else {
            return Verdict::Drop(DropReason::NotTurn);
        };
        self.count_request(Method::Binding);
        self.counters.error_response(500);
        let written = response.classic_refusal(request.id);
        debug_assert!(written, "an error response fits its buffer");
        response.mark_stranger();
        Verdict::Respond
    }

    /// Counts a Binding request and checks whether it may be answered. The client of an allocation
    /// has its own budget, which only a sender that also forges its port can use.
    fn admit_binding(&mut self, now: Now, client: &Client) -> Result<Asker, DropReason> {
        self.count_request(Method::Binding);
        let closed = !self.config.forced.binding && self.path(client) == Path::Forced;
        if closed || !self.config.binding {
            return Err(DropReason::BindingDisabled);
        }
        let limits = &self.config.limits;
        let live = self.forward.allocation_of(&client.five_tuple);
        if let Some(allocation) = live.and_then(|id| self.allocations.get_mut(id)) {
            let admitted = allocation.owner.admit_binding(now.mono, limits);
            return admitted.then_some(Asker::Owner).ok_or(DropReason::BindingLimited);
        }
        let FiveTuple { client, transport, .. } = client.five_tuple;
        let limiters = &self.shared.limiters;
        if transport.is_stream() || limiters.admit_binding(now.mono, client.ip(), limits) {
            Ok(Asker::Stranger)
        } else {
            Err(DropReason::BindingLimited)
        }
    }
}

/// Answers a request for NAT behaviour discovery (RFC 5780 §6.1).
fn answer_discovery(
    reply: &Reply<'_>,
    five_tuple: FiveTuple,
    request: DiscoveryRequest<'_>,
    response: &mut Response,
) -> Verdict {
    let source = five_tuple.client;
    let mut write = |mapped: bool| {
        response.success(reply, |writer| {
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, source);
            if mapped {
                writer.address(AttributeType::MAPPED_ADDRESS, source);
            }
            writer
                .address(AttributeType::RESPONSE_ORIGIN, request.from.announced())
                .address(AttributeType::OTHER_ADDRESS, request.other.announced());
            if let Some(padding) = request.padding {
                writer.zeros(AttributeType::PADDING, padding);
            }
        })
    };
    // Over IPv6 the shortest requests leave no room to send the address twice.
    let written = write(true) || write(false);
    debug_assert!(written, "a Binding response fits its buffer, and its request");
    let route = ResponseRoute {
        from: request.from.local(),
        to: request.to,
    };
    if (route.from, route.to) != (five_tuple.server, source) {
        response.divert(route);
    }
    Verdict::Respond
}
