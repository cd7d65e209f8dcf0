//! `[nat_discovery]`.

use std::net::IpAddr;

use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Placed, Port};

pub(in crate::config) struct RawNatDiscovery {
    pub(in crate::config) enabled: Located<bool>,
    pub(in crate::config) ipv4: Located<Vec<Placed<IpAddr>>>,
    pub(in crate::config) ipv6: Located<Vec<Placed<IpAddr>>>,
    pub(in crate::config) announced_ipv4: Located<Vec<Placed<IpAddr>>>,
    pub(in crate::config) announced_ipv6: Located<Vec<Placed<IpAddr>>>,
    pub(in crate::config) ports: Located<Vec<Port>>,
    pub(in crate::config) max_padding: Located<u16>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawNatDiscovery {
    RawNatDiscovery {
        enabled: s.value("enabled", false),
        ipv4: s.value("ipv4", Vec::new()),
        ipv6: s.value("ipv6", Vec::new()),
        announced_ipv4: s.value("announced_ipv4", Vec::new()),
        announced_ipv6: s.value("announced_ipv6", Vec::new()),
        ports: s.value("ports", vec![Port(3478), Port(3479)]),
        max_padding: s.number("max_padding", 1500, 0..=1500),
    }
}
