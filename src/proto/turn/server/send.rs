//! Send indications (RFC 8656 §11.2). They are not authenticated, get no response and extend
//! nothing.

use super::Server;
use super::request::is_mapped;
use crate::base::time::Now;
use crate::turn::output::{DataRange, DropReason, Verdict};
use crate::turn::types::{Client, PeerAddr};
use crate::wire::attribute::{self, AttributeType};
use crate::wire::message::Message;

impl Server {
    /// Handles a Send indication.
    pub(super) fn handle_send(&mut self, now: Now, client: &Client, message: &Message<'_>) -> Verdict {
        // RFC 8489 §6.3.2.
        if !message.unknown_required().is_empty() {
            return Verdict::Drop(DropReason::UnknownAttribute);
        }
        let dont_fragment = message.decode(AttributeType::DONT_FRAGMENT, attribute::dont_fragment);
        let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS);
        let data = message.attribute_range(AttributeType::DATA);
        let (Ok(Some(peer)), Some(data), Ok(dont_fragment)) = (peer, data, dont_fragment) else {
            return Verdict::Drop(DropReason::IncompleteIndication);
        };
        if is_mapped(&peer) {
            return Verdict::Drop(DropReason::PeerDenied);
        }
        let data = DataRange::from(data);
        let dont_fragment = dont_fragment.is_some();
        let verdict = self
            .forward
            .relay_send(now.mono, &client.five_tuple, PeerAddr(peer), data, dont_fragment);
        self.or_hold(verdict, client, message.bytes())
    }
}
