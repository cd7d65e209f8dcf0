//! `[turn.tcp_allocations]`.

use super::super::reader::section::{Located, Section};
use super::super::reader::value::{Bytes, OffOr, PortOrPorts};

/// TCP allocations (RFC 6062).
pub(in super::super) struct RawTcp {
    pub(in super::super) enabled: Located<bool>,
    pub(in super::super) peer_ports: Located<Vec<PortOrPorts>>,
    pub(in super::super) connections_per_allocation: Located<u16>,
    pub(in super::super) connections: Located<u32>,
    pub(in super::super) max_bytes: Located<OffOr<Bytes>>,
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
