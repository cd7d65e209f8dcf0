//! `[peers]`.

use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{NetworkOrAddress, Placed, PortOrPorts};
use crate::turn::policy::REFLECTOR_PORTS;

pub(in crate::config) struct RawPeers {
    pub(in crate::config) allow: Located<Vec<Placed<NetworkOrAddress>>>,
    pub(in crate::config) deny: Located<Vec<Placed<NetworkOrAddress>>>,
    pub(in crate::config) only_allowed: Located<bool>,
    pub(in crate::config) denied_ports: Located<Vec<PortOrPorts>>,
    pub(in crate::config) nat64: Located<Vec<Placed<NetworkOrAddress>>>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawPeers {
    let mut reflectors: Vec<PortOrPorts> = REFLECTOR_PORTS.into_iter().map(PortOrPorts).collect();
    reflectors.sort_unstable_by_key(|ports| *ports.0.start());
    RawPeers {
        allow: s.value("allow", Vec::new()),
        deny: s.value("deny", Vec::new()),
        only_allowed: s.value("only_allowed", false),
        denied_ports: s.value("denied_ports", reflectors),
        nat64: s.value("nat64", Vec::new()),
    }
}
