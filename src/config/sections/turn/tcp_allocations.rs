//! `[turn.tcp_allocations]`.

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
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

/// Reports what would relay nothing.
pub(super) fn check(tcp: &RawTcp, d: &mut Diagnostics) {
    if tcp.enabled.value && tcp.peer_ports.value.is_empty() {
        let diagnostic = Diagnostic::error("`turn.tcp_allocations.peer_ports` is empty: no peer could be reached");
        let help = "name the ports of your peers, or switch TCP allocations off";
        d.push(diagnostic.at(tcp.peer_ports.place).help(help));
    }
    if tcp.max_bytes.value == OffOr(Some(Bytes(0))) {
        let diagnostic = Diagnostic::error("`turn.tcp_allocations.max_bytes` is 0: nothing would be relayed");
        let help = "for example \"1GiB\", or \"off\" for no bound";
        d.push(diagnostic.at(tcp.max_bytes.place).help(help));
    }
}
