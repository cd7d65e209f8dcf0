//! `[turn.tcp_allocations]`.

use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Bytes, OffOr, PortOrPorts};

/// TCP allocations (RFC 6062).
pub(in crate::config) struct RawTcp {
    pub(in crate::config) enabled: Located<bool>,
    pub(in crate::config) peer_ports: Located<Vec<PortOrPorts>>,
    pub(in crate::config) connections_per_allocation: Located<u16>,
    pub(in crate::config) connections: Located<u32>,
    pub(in crate::config) max_bytes: Located<OffOr<Bytes>>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawTcp {
    RawTcp {
        enabled: s.value("enabled", false),
        peer_ports: s.value("peer_ports", vec![PortOrPorts(1024..=65_535)]),
        connections_per_allocation: s.number("connections_per_allocation", 8, 1..=1024),
        connections: s.number("connections", 1024, 1..=16_777_216),
        max_bytes: s.value("max_bytes", OffOr(Some(Bytes(1 << 30)))),
    }
}
