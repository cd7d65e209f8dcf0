//! ICMP messages about relayed datagrams (RFC 8656 §11.5), reported to the client in a Data
//! indication.
//!
//! That indication has no DATA, which RFC 5766 did not allow. Clients that only know RFC 5766 may
//! treat it as a fatal error (pion stops reading), so by default only clients that logged in with
//! RFC 8489 get it.

use super::Server;
use crate::base::address::Family;
use crate::base::rate::Rate;
use crate::base::time::Now;
use crate::turn::config::IcmpReports;
use crate::turn::response::Response;
use crate::turn::types::{Client, PeerAddr, RelayId};
use crate::wire::attribute;
use crate::wire::message::TransactionId;

/// Reports per second and allocation, so that a peer that is gone does not cause one report per
/// packet.
const REPORTS_PER_SECOND: u32 = 10;

/// An ICMP message that quotes a datagram sent from a relay socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedIcmp {
    /// Type, by the family of the relay socket: ICMPv4 or ICMPv6.
    pub icmp_type: u8,
    /// Code.
    pub code: u8,
    /// Next-hop MTU in bytes, if the message contains one.
    pub data: u32,
}

impl QuotedIcmp {
    const fn is_reported(self, family: Family) -> bool {
        match family {
            // Destination unreachable, time exceeded.
            Family::V4 => matches!(self.icmp_type, 3 | 11),
            // Destination unreachable, packet too big, time exceeded.
            Family::V6 => matches!(self.icmp_type, 1..=3),
        }
    }

    /// Error Data (§18.13): the MTU where the RFC requires it, otherwise 0.
    const fn error_data(self, family: Family) -> u32 {
        match (family, self.icmp_type, self.code) {
            (Family::V4, 3, 4) | (Family::V6, 2, _) => self.data,
            _ => 0,
        }
    }
}

impl Server {
    /// Handles an ICMP message about a datagram from relay socket `relay` to `peer`. `peer` is the
    /// quoted destination, whoever sent the message; its port is 0 if unknown. If the client should
    /// get a report, the indication is in `response`.
    pub fn handle_icmp(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: PeerAddr,
        icmp: QuotedIcmp,
        response: &mut Response,
    ) -> Option<Client> {
        if !icmp.is_reported(relay.family) || !self.forward.is_permitted(now.mono, relay, peer) {
            return None;
        }
        let allocation = self.allocations.get_mut(relay.allocation)?;
        let wanted = match self.config.icmp {
            IcmpReports::Auto => allocation.session.rfc8489,
            IcmpReports::Always => true,
            IcmpReports::Never => false,
        };
        if !wanted {
            return None;
        }
        if !allocation.reports.admit(now.mono, Rate::per_second(REPORTS_PER_SECOND)) {
            return None;
        }
        let report = attribute::Icmp {
            icmp_type: icmp.icmp_type,
            code: icmp.code.into(),
            data: icmp.error_data(relay.family),
        };
        let client = *self.forward.client(relay.allocation)?;
        let id = TransactionId(self.rng.array());
        response.icmp_indication(id, peer.0, report).then_some(client)
    }
}
