//! `[nat_discovery]`.

use std::net::IpAddr;

use crate::config::reader::key::{ConfigKey, with_listeners};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Placed, Port};

const ENABLED: ConfigKey = with_listeners(
    "enabled",
    "Let clients find out how the NATs before them behave (RFC 5780).\n\n\
     Off: CHANGE-REQUEST, RESPONSE-PORT and PADDING are unknown attributes (420).",
);

const IPV4: ConfigKey = with_listeners("ipv4", "Two IPv4 addresses of this machine, or none.");

const IPV6: ConfigKey = with_listeners("ipv6", "Two IPv6 addresses of this machine, or none.");

const ANNOUNCED_IPV4: ConfigKey = with_listeners(
    "announced_ipv4",
    "The addresses at which clients reach those, in the same order, if they differ (1:1 NAT).",
);

const ANNOUNCED_IPV6: ConfigKey = with_listeners("announced_ipv6", "The same for IPv6.");

const PORTS: ConfigKey =
    with_listeners("ports", "A listener must serve UDP on each address with each of them.").kind("list of two ports");

const MAX_PADDING: ConfigKey = with_listeners(
    "max_padding",
    "Most bytes of PADDING in a response: the MTU of the outgoing path.\n\n\
     Never more than in the request.",
);

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
        enabled: s.value(ENABLED, false),
        ipv4: s.value(IPV4, Vec::new()),
        ipv6: s.value(IPV6, Vec::new()),
        announced_ipv4: s.value(ANNOUNCED_IPV4, Vec::new()),
        announced_ipv6: s.value(ANNOUNCED_IPV6, Vec::new()),
        ports: s.value(PORTS, vec![Port(3478), Port(3479)]),
        max_padding: s.number(MAX_PADDING, 1500, 0..=1500),
    }
}
