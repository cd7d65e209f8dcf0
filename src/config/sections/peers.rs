//! `[peers]`.

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{NetworkOrAddress, Placed, PortOrPorts};
use crate::turn::policy::REFLECTOR_PORTS;
use ipnet::{IpNet, Ipv6Net};
use std::net::{IpAddr, Ipv6Addr};

const ALLOW: ConfigKey = live(
    "allow",
    "Networks that clients may reach although they are private, such as the SFU's: `[\"10.0.8.0/24\"]`.\n\n\
     An address of this machine, or of a server behind it, opens only as a single address, if [the SFU \
     runs here](recipes/livekit.md#on-one-machine); clients can then reach every UDP program on it. The \
     listeners of this server and its other sockets stay closed.",
);

const DENY: ConfigKey = live(
    "deny",
    "Networks that clients may not reach, in addition to those that are always closed.\n\n\
     Where it overlaps `allow`, the longer prefix wins.",
);

const ONLY_ALLOWED: ConfigKey = live(
    "only_allowed",
    "Only `allow` is reachable: right if all media goes to your own SFU.",
);

const DENIED_PORTS: ConfigKey = live(
    "denied_ports",
    "UDP ports closed for every peer: services abused as reflectors.\n\n\
     Port 0 is always closed.",
);

const NAT64: ConfigKey = live(
    "nat64",
    "NAT64 prefixes of this network (RFC 6052), so that the policy recognises IPv4 addresses inside them.\n\n\
     `64:ff9b::/96` is built in. Inside `64:ff9b:1::/48` (RFC 8215) a peer is refused if a prefix of any \
     length would hide a refused address there, unless this list contains the prefix.",
);

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
        allow: s.value(ALLOW, Vec::new()),
        deny: s.value(DENY, Vec::new()),
        only_allowed: s.value(ONLY_ALLOWED, false),
        denied_ports: s.value(DENIED_PORTS, reflectors),
        nat64: s.value(NAT64, Vec::new()),
    }
}

/// Reports lists that contradict each other, or open what should stay closed.
pub(in crate::config) fn check(peers: &RawPeers, d: &mut Diagnostics) {
    for allow in &peers.allow.value {
        if let Some(deny) = peers.deny.value.iter().find(|deny| deny.value == allow.value) {
            let net = allow.value.0;
            let diagnostic = Diagnostic::error(format!("{net} is both allowed and denied")).at(deny.place);
            d.push(
                diagnostic
                    .also(allow.place, "allowed here")
                    .help("remove one; of different lengths the longer prefix wins"),
            );
        }
        if let Some(what) = opened_by(allow.value.0) {
            let message = format!("`peers.allow`: {} opens {what} to every client", allow.value.0);
            d.push(
                Diagnostic::warning(message)
                    .at(allow.place)
                    .help("allow the SFU's own addresses alone, as /32 or /128"),
            );
        }
    }
    if peers.only_allowed.value && peers.allow.value.is_empty() {
        let diagnostic =
            Diagnostic::error("`peers.only_allowed` is set and `peers.allow` is empty: no peer could be reached");
        d.push(
            diagnostic
                .at(peers.only_allowed.place)
                .help("list the SFU's networks in `peers.allow`"),
        );
    }
    for prefix in &peers.nat64.value {
        let message = match prefix.value.0 {
            IpNet::V4(net) => format!("`peers.nat64`: {net} is not an IPv6 prefix"),
            IpNet::V6(net) if ![32, 40, 48, 56, 64, 96].contains(&net.prefix_len()) => {
                format!("`peers.nat64`: {net} is none of the lengths of RFC 6052 §2.2")
            }
            IpNet::V6(_) => continue,
        };
        let help = "a NAT64 prefix is 32, 40, 48, 56, 64 or 96 bits long, for example \"2001:db8:64::/96\"";
        d.push(Diagnostic::error(message).at(prefix.place).help(help));
    }
    local_nat64(peers, d);
}

/// RFC 8215 leaves the length of the prefixes in there to the network.
fn local_nat64(peers: &RawPeers, d: &mut Diagnostics) {
    let local = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48));
    let named = |net: &IpNet| peers.nat64.value.iter().any(|one| one.value.0.contains(net));
    let opened = |net: &IpNet| local.contains(net) || net.contains(&local);
    let unnamed = peers.allow.value.iter().find(|one| {
        let net = &one.value.0;
        net.prefix_len() > 0 && opened(net) && !named(net)
    });
    if let Some(net) = unnamed {
        let message = format!(
            "`peers.allow`: the length of the NAT64 prefix in {} is not known",
            net.value.0
        );
        let help = "name it in `peers.nat64`; until then a peer is refused if any length would hide a refused address";
        d.push(Diagnostic::warning(message).at(net.place).help(help));
    }
}

/// What no client should reach, and `net` would let it.
fn opened_by(net: IpNet) -> Option<&'static str> {
    if net.prefix_len() == 0 {
        return Some("every address, private networks included,");
    }
    let holds = |ip: &str| ip.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip));
    if holds("169.254.169.254") || holds("fd00:ec2::254") || holds("100.100.100.200") {
        Some("the cloud's metadata service, which hands out credentials,")
    } else if (holds("127.0.0.1") && net.prefix_len() >= 8) || (holds("::1") && net.prefix_len() == 128) {
        Some("every service of this machine that listens on loopback")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_opens_what_no_client_should_reach_is_told_by_what_it_holds() {
        let metadata = Some("the cloud's metadata service, which hands out credentials,");
        let loopback = Some("every service of this machine that listens on loopback");
        for (net, opened) in [
            ("0.0.0.0/0", Some("every address, private networks included,")),
            ("169.254.169.254/32", metadata),
            ("100.64.0.0/10", metadata),
            ("fd00:ec2::/64", metadata),
            ("127.0.0.0/8", loopback),
            ("127.0.0.1/32", loopback),
            ("::1/128", loopback),
            // Somebody names half of all addresses, or a network; no program is meant.
            ("112.0.0.0/4", None),
            ("::/64", None),
            ("127.0.0.2/32", None),
            ("10.0.0.0/8", None),
        ] {
            assert_eq!(opened_by(net.parse().expect("a network")), opened, "{net}");
        }
    }
}
