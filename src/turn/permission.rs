//! CreatePermission (RFC 8656 §9, §10.2): lets peers in by IP address, for exactly 300 s.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::request::{Outcome, is_mapped};
use super::response::Reject;
use super::server::Server;
use super::time::Instant;
use super::types::{AllocationId, Family};
use crate::wire::attribute::AttributeType;
use crate::wire::message::Message;

/// Lifetime of a permission (RFC 8656 §9): not negotiable.
pub(super) const PERMISSION: Duration = Duration::from_secs(300);

impl Server {
    /// Takes a CreatePermission of an allocation's owner: installs or refreshes all permissions it names, or none.
    pub(super) fn create_permission(
        &mut self,
        now: Instant,
        id: AllocationId,
        message: &Message<'_>,
    ) -> Result<Outcome, Reject> {
        let peers: SmallVec<[SocketAddr; 8]> = message
            .xor_addresses(AttributeType::XOR_PEER_ADDRESS)
            .collect::<Result<_, _>>()?;
        if peers.is_empty() {
            return Err(Reject::BadRequest);
        }
        for peer in &peers {
            self.check_family(now, id, peer)?;
        }
        let ips: SmallVec<[IpAddr; 8]> = peers.iter().map(SocketAddr::ip).collect();
        if ips.iter().any(|&ip| self.config.policy.permission(ip).is_err()) {
            return Err(Reject::Forbidden);
        }
        let most = usize::from(self.config.limits.permissions);
        match self.forward.permit(now, id, &ips, now + PERMISSION, most) {
            Ok(()) => Ok(Outcome::Done),
            Err(_) => Err(Reject::InsufficientCapacity),
        }
    }

    /// 443 unless the allocation has a relayed transport address of the peer's family.
    pub(super) fn check_family(&self, now: Instant, id: AllocationId, peer: &SocketAddr) -> Result<(), Reject> {
        // ::ffff:a.b.c.d has no family to speak of: it is refused for what it is.
        if is_mapped(peer) {
            return Err(Reject::Forbidden);
        }
        if self.forward.until(id, Family::of(peer.ip())) <= now {
            return Err(Reject::FamilyMismatch);
        }
        Ok(())
    }
}
