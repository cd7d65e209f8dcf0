//! CreatePermission (RFC 8656 §9, §10.2): permits peers by IP address, for exactly 300 s.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::Server;
use super::request::{Authenticated, Request, RequestOutcome, is_mapped};
use crate::base::address::Family;
use crate::base::time::Instant;
use crate::turn::policy::Denied;
use crate::turn::refusal::Refusal;
use crate::turn::state::allocation::PERMISSION;
use crate::turn::types::AllocationId;
use crate::wire::attribute::AttributeType;

impl Server {
    /// Handles a CreatePermission from the owner of an allocation: installs or refreshes all
    /// permissions it names, or none.
    pub(super) fn create_permission(
        &mut self,
        request: &Authenticated<'_>,
        id: AllocationId,
    ) -> Result<RequestOutcome, Refusal> {
        let Request { now, message, .. } = request.request();
        let now = now.mono;
        let peers: SmallVec<[SocketAddr; 8]> = message
            .xor_addresses(AttributeType::XOR_PEER_ADDRESS)
            .collect::<Result<_, _>>()?;
        if peers.is_empty() {
            return Err(Refusal::BadRequest);
        }
        for peer in &peers {
            self.check_family(now, id, peer)?;
        }
        for &peer in &peers {
            let allowed = self.config.policy.permission(peer.ip());
            allowed.map_err(|rule| Refusal::PeerDenied { peer, rule })?;
        }
        let ips: SmallVec<[IpAddr; 8]> = peers.iter().map(SocketAddr::ip).collect();
        let limit = self.config.limits.permissions;
        self.forward
            .permit(now, id, &ips, now + PERMISSION, limit.into())
            .map_err(|_| Refusal::PermissionsFull { limit })?;
        self.peer_granted(id);
        Ok(RequestOutcome::Done)
    }

    /// 443 unless the allocation has a relayed transport address of the peer's family.
    pub(super) fn check_family(&self, now: Instant, id: AllocationId, peer: &SocketAddr) -> Result<(), Refusal> {
        // ::ffff:a.b.c.d belongs to neither family. It is refused because it is mapped.
        if is_mapped(peer) {
            return Err(Refusal::PeerDenied {
                peer: *peer,
                rule: Denied::Embedded,
            });
        }
        if self.forward.until(id, Family::of(peer.ip())) <= now {
            return Err(Refusal::FamilyMismatch { peer: Some(*peer) });
        }
        Ok(())
    }
}
