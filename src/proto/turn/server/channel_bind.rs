//! ChannelBind (RFC 8656 §12.2): binds a number to a peer for 600 s, and installs the permission.

use super::Server;
use super::request::{Authenticated, Request, RequestOutcome};
use crate::turn::forward::{BindError, BindMost, BindUntil};
use crate::turn::refusal::Refusal;
use crate::turn::state::allocation::{CHANNEL, PERMISSION};
use crate::turn::types::{AllocationId, ChannelNumber, PeerAddr, RelayedAddr};
use crate::wire::attribute::{self, AttributeType};

const FIRST: u16 = 0x4000;
const LAST: u16 = 0x4FFF;
/// The last channel number of RFC 5766.
const LAST_RFC5766: u16 = 0x7FFF;

impl Server {
    /// Handles a ChannelBind from the owner of an allocation.
    pub(super) fn channel_bind(
        &mut self,
        request: &Authenticated<'_>,
        id: AllocationId,
    ) -> Result<RequestOutcome, Refusal> {
        let Request {
            now, client, message, ..
        } = request.request();
        let now = now.mono;
        let number = message.decode(AttributeType::CHANNEL_NUMBER, attribute::channel_number)?;
        let number = ChannelNumber(number.ok_or(Refusal::BadRequest)?);
        let peer = message
            .xor_address(AttributeType::XOR_PEER_ADDRESS)?
            .ok_or(Refusal::BadRequest)?;
        let last = if self.config.rfc5766_channels {
            LAST_RFC5766
        } else {
            LAST
        };
        let conflict = || Refusal::ChannelConflict { number: number.0 };
        if !(FIRST..=last).contains(&number.0) {
            return Err(conflict());
        }
        if peer.port() == 0 {
            return Err(Refusal::BadRequest);
        }
        let peer = PeerAddr(peer);
        if self.forward.conflicts(now, id, number, peer) {
            return Err(conflict());
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
            Ok(()) => {
                self.peer_granted(id);
                Ok(RequestOutcome::Done)
            }
            Err(BindError::Conflict) => Err(conflict()),
            Err(BindError::Full) => Err(Refusal::ChannelsFull {
                channels: limits.channels,
                permissions: limits.permissions,
            }),
        }
    }

    /// 403 if the peer policy denies the peer, or if it is the allocation's own relayed transport
    /// address.
    fn check_peer(&self, id: AllocationId, peer: PeerAddr) -> Result<(), Refusal> {
        let PeerAddr(peer) = peer;
        let own = self
            .allocations
            .get(id)
            .is_some_and(|it| it.relayed.contains(&Some(RelayedAddr(peer))));
        if own {
            return Err(Refusal::PeerIsItself { peer });
        }
        match self.config.policy.peer(PeerAddr(peer)) {
            Ok(_) => Ok(()),
            Err(rule) => Err(Refusal::PeerDenied { peer, rule }),
        }
    }
}
