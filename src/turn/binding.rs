//! Binding (RFC 8489 §12): a client learns its server-reflexive address. Needs no login and keeps no state.

use std::sync::Arc;

use super::output::{DropReason, Verdict};
use super::response::{Reject, Reply, Response};
use super::server::Server;
use super::time::Now;
use super::types::Client;
use crate::wire::attribute::AttributeType;
use crate::wire::message::{Message, Method};

impl Server {
    /// Takes a Binding request. MESSAGE-INTEGRITY is not required, and not verified: ICE agents may well add it.
    pub(super) fn handle_binding(
        &mut self,
        now: Now,
        client: &Client,
        message: &Message<'_>,
        response: &mut Response,
    ) -> Verdict {
        self.count_request(Method::Binding);
        if !self.config.binding {
            return Verdict::Drop(DropReason::BindingDisabled);
        }
        let stream = client.five_tuple.transport.is_stream();
        let source = client.five_tuple.client;
        if !stream
            && !self
                .shared
                .limiters
                .admit_binding(now.mono, source.ip(), &self.config.limits)
        {
            return Verdict::Drop(DropReason::BindingLimited);
        }
        let config = Arc::clone(&self.config);
        let reply = Reply::to(message, Method::Binding, stream, config.software.as_deref());
        let unknown = message.unknown_required();
        if !unknown.is_empty() {
            return self.answer_error(&reply, &Reject::UnknownAttributes(unknown), response);
        }
        let written = response.success(&reply, |writer| {
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, source);
        });
        debug_assert!(written, "a Binding response fits its buffer");
        Verdict::Respond
    }
}
