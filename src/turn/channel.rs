//! ChannelBind (RFC 8656 §12.2): a number for a peer, for 600 s, and the permission with it.

use core::time::Duration;

use super::forward::{BindError, BindMost, BindUntil};
use super::permission::PERMISSION;
use super::request::Outcome;
use super::response::Reject;
use super::server::Server;
use super::time::Instant;
use super::types::{AllocationId, ChannelNumber, Client, PeerAddr, RelayedAddr};
use crate::wire::attribute::{self, AttributeType};
use crate::wire::message::Message;

/// Lifetime of a channel binding (RFC 8656 §12).
pub(super) const CHANNEL: Duration = Duration::from_secs(600);

const FIRST: u16 = 0x4000;
const LAST: u16 = 0x4FFF;
/// What RFC 5766 allowed.
const LAST_RFC5766: u16 = 0x7FFF;

impl Server {
    /// Takes a ChannelBind of an allocation's owner.
    pub(super) fn channel_bind(
        &mut self,
        now: Instant,
        client: &Client,
        id: AllocationId,
        message: &Message<'_>,
    ) -> Result<Outcome, Reject> {
        let number = message.decode(AttributeType::CHANNEL_NUMBER, attribute::channel_number)?;
        let number = ChannelNumber(number.ok_or(Reject::BadRequest)?);
        let peer = message
            .xor_address(AttributeType::XOR_PEER_ADDRESS)?
            .ok_or(Reject::BadRequest)?;
        let last = if self.config.rfc5766_channels {
            LAST_RFC5766
        } else {
            LAST
        };
        if !(FIRST..=last).contains(&number.0) || peer.port() == 0 {
            return Err(Reject::BadRequest);
        }
        let peer = PeerAddr(peer);
        if self.forward.conflicts(now, id, number, peer) {
            return Err(Reject::BadRequest);
        }
        self.check_family(now, id, &peer.0)?;
        self.check_client(client)?;
        self.check_peer(id, peer)?;
        let limits = &self.config.limits;
        let most = BindMost {
            channels: limits.channels.into(),
            permissions: limits.permissions.into(),
        };
        let until = BindUntil {
            channel: now + CHANNEL,
            permission: now + PERMISSION,
        };
        match self.forward.bind(now, id, number, peer, until, most) {
            Ok(()) => Ok(Outcome::Done),
            Err(BindError::Conflict) => Err(Reject::BadRequest),
            Err(BindError::Full) => Err(Reject::InsufficientCapacity),
        }
    }

    /// 403 for what the peer policy denies, and for the allocation's own relayed transport address.
    fn check_peer(&self, id: AllocationId, peer: PeerAddr) -> Result<(), Reject> {
        let own = self
            .allocations
            .get(id)
            .is_some_and(|it| it.relayed.contains(&Some(RelayedAddr(peer.0))));
        if own || self.config.policy.peer(peer).is_err() {
            return Err(Reject::Forbidden);
        }
        Ok(())
    }
}
