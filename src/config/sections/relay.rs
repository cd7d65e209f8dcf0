//! `[relay]`.

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Host, Ports};

const IPV4: ConfigKey = live(
    "ipv4",
    "Local address to which relay sockets are bound, or a name for it.\n\n\
     Auto: the external address if this machine has it, else the one that the default route uses; if they \
     differ, a NAT must map one to the other, and the lines printed at start name both. Change it if the \
     SFU is reached through another interface.",
)
.kind("address, host name or `\"auto\"`");

const IPV6: ConfigKey = live("ipv6", "The same for IPv6.").kind("address, host name or `\"auto\"`");

const PORTS: ConfigKey = restart(
    "ports",
    "UDP ports of relayed addresses, inclusive, 1024 or above.\n\n\
     An allocation takes one per family.",
);

pub(in crate::config) struct RawRelay {
    pub(in crate::config) ipv4: Located<Auto<Host>>,
    pub(in crate::config) ipv6: Located<Auto<Host>>,
    pub(in crate::config) ports: Located<Ports>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawRelay {
    RawRelay {
        ipv4: s.value(IPV4, Auto::Auto),
        ipv6: s.value(IPV6, Auto::Auto),
        ports: s.value(PORTS, Ports(49_152..=65_535)),
    }
}

/// Reports ports that cannot be relayed on, or are few.
pub(in crate::config) fn check(relay: &RawRelay, d: &mut Diagnostics) {
    let ports = &relay.ports;
    let (first, last) = (*ports.value.0.start(), *ports.value.0.end());
    if first < 1024 {
        let message = format!("`relay.ports`: {first} is below 1024, where well-known services are (RFC 8656 §7.2)");
        let last = last.max(2047);
        d.push(
            Diagnostic::error(message)
                .at(ports.place)
                .help(format!("begin at 1024 or above: \"1024-{last}\"")),
        );
    }
    let count = ports.value.count();
    if count < 64 && first >= 1024 {
        let message = format!("`relay.ports`: {count} ports serve at most {count} allocations at a time");
        d.push(
            Diagnostic::warning(message)
                .at(ports.place)
                .help("the default is \"49152-65535\""),
        );
    }
}
