//! `[external]`.

use core::time::Duration;

use super::{MINUTE, SECOND};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, External, OffOr, Ports};

const IPV4: ConfigKey = live(
    "ipv4",
    "The IPv4 address that the server announces to clients and peers. Auto: the address of the interface \
     that the default route uses. An address: behind 1:1 NAT, or if auto finds the wrong one. \
     `interface:`: the address of a network interface. A host name (`dns:NAME` if it has no dot): what \
     the name resolves to, for example with dynamic DNS. `stun:`: what that STUN server sees. Off: no \
     relaying over IPv4.",
);

const IPV6: ConfigKey = live("ipv6", "The same for IPv6.");

const PORTS: ConfigKey = restart(
    "ports",
    "The ports announced to clients and peers, if a NAT maps those in `relay.ports` to others: the same \
     number of ports, in the same order, with the same parity of the first. Auto: the same ports.",
);

const RECHECK: ConfigKey = live(
    "recheck",
    "How often to check whether the address has changed. Off: only at a reload.",
)
.kind("duration, at least 5s, or `\"off\"`");

const STUN_TIMEOUT: ConfigKey = live(
    "stun_timeout",
    "How long the STUN server may take.\n\n\
     Without a response the server does not start.",
);

pub(in crate::config) struct RawExternal {
    pub(in crate::config) ipv4: Located<External>,
    pub(in crate::config) ipv6: Located<External>,
    pub(in crate::config) ports: Located<Auto<Ports>>,
    pub(in crate::config) recheck: Located<OffOr<Duration>>,
    pub(in crate::config) stun_timeout: Located<Duration>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawExternal {
    RawExternal {
        ipv4: s.value(IPV4, External::Auto),
        ipv6: s.value(IPV6, External::Auto),
        ports: s.value(PORTS, Auto::Auto),
        recheck: s.value(RECHECK, OffOr(Some(MINUTE))),
        stun_timeout: s.within(STUN_TIMEOUT, 3 * SECOND, SECOND..=MINUTE),
    }
}

/// Name servers and STUN servers are others'.
const SHORTEST: Duration = Duration::from_secs(5);

/// Reports an address that would be looked for too often.
pub(in crate::config) fn check(external: &RawExternal, d: &mut Diagnostics) {
    if let OffOr(Some(recheck)) = external.recheck.value
        && recheck < SHORTEST
    {
        let diagnostic = Diagnostic::error("`external.recheck` is shorter than 5s").at(external.recheck.place);
        d.push(diagnostic.help("the default is \"1m\"; \"off\" looks again at a reload only"));
    }
}
