//! `[turn.tcp_allocations]`.

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Bytes, OffOr, PortOrPorts};

const ENABLED: ConfigKey = live(
    "enabled",
    "TCP connections between clients and peers (RFC 6062), for clients that request such an allocation, \
     over TCP or TLS; browsers do not. It makes the server a proxy to every TCP service that `[peers]` \
     allows.\n\n\
     Decide on `peers` and `peer_ports` first. Grants allocations with REQUESTED-TRANSPORT 6. A reload may disable it: open \
     connections with peers are then closed.",
);

const PEER_PORTS: ConfigKey = live(
    "peer_ports",
    "Ports that a peer may have, whichever side connects.\n\n\
     Narrow it to the ports of your peers. `peers.denied_ports` applies as well.",
);

const CONNECTIONS_PER_ALLOCATION: ConfigKey = live(
    "connections_per_allocation",
    "Connections of one allocation at a time, including those being established.",
);

const CONNECTIONS: ConfigKey = live(
    "connections",
    "Limit for all allocations together.\n\n\
     Each connection takes a file descriptor, in addition to the one of the client's own connection, \
     which `limits.connections` counts.",
);

const MAX_BYTES: ConfigKey = live(
    "max_bytes",
    "A connection that has relayed this many bytes, both directions together, is closed.",
);

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
        enabled: s.value(ENABLED, false),
        peer_ports: s.value(PEER_PORTS, vec![PortOrPorts(1024..=65_535)]),
        connections_per_allocation: s.number(CONNECTIONS_PER_ALLOCATION, 8, 1..=1024),
        connections: s.number(CONNECTIONS, 1024, 1..=16_777_216),
        max_bytes: s.value(MAX_BYTES, OffOr(Some(Bytes(1 << 30)))),
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
