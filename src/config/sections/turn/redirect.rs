//! `[turn.redirect]`.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use super::super::HOUR;
use crate::base::address::Transport;
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{OffOr, OneOf, is_host_name};

const IPV4: ConfigKey = live(
    "ipv4",
    "Clients that send an Allocate here over IPv4 are redirected to this server (300 with \
     ALTERNATE-SERVER).\n\n\
     Existing allocations continue: [draining a node](operations.md#draining-a-node).",
);

const IPV6: ConfigKey = live(
    "ipv6",
    "The same for clients over IPv6.\n\n\
     A client whose address family has no entry is served here.",
);

const DOMAIN: ConfigKey = live(
    "domain",
    "The name in the other server's certificate (ALTERNATE-DOMAIN), for clients over TLS.\n\n\
     Not needed if both servers have a certificate for the same name.",
)
.kind("host name, or `\"\"`");

const TRANSPORTS: ConfigKey = live(
    "transports",
    "Transports over which clients are redirected at once. [What clients do with a \
     300](operations.md#who-follows) differs by transport: many end the call.",
);

const SERVE_OTHERS: ConfigKey = live(
    "serve_others",
    "How long this server serves clients over the other transports, from the reload that named a server \
     (or from the start); then it redirects them too. Off: as long as a server is named.",
);

/// The server that takes new clients in place of this one.
pub(in crate::config) struct RawRedirect {
    pub(in crate::config) ipv4: Located<OffOr<SocketAddr>>,
    pub(in crate::config) ipv6: Located<OffOr<SocketAddr>>,
    pub(in crate::config) domain: Located<String>,
    pub(in crate::config) transports: Located<Vec<OneOf<Transport>>>,
    pub(in crate::config) serve_others: Located<OffOr<Duration>>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawRedirect {
    RawRedirect {
        ipv4: s.value(IPV4, OffOr(None)),
        ipv6: s.value(IPV6, OffOr(None)),
        domain: s.value(DOMAIN, String::new()),
        transports: s.value(TRANSPORTS, vec![OneOf(Transport::Udp)]),
        serve_others: s.value(SERVE_OTHERS, OffOr(Some(HOUR))),
    }
}

/// Reports where nobody can be sent.
pub(super) fn check(redirect: &RawRedirect, d: &mut Diagnostics) {
    let families = [
        ("ipv4", "IPv4", &redirect.ipv4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
        ("ipv6", "IPv6", &redirect.ipv6, IpAddr::is_ipv6),
    ];
    for (key, family, address, is_family) in families {
        let Some(given) = address.value.0 else { continue };
        let ip = given.ip();
        if !is_family(&ip) {
            let message = format!("`turn.redirect.{key}`: {ip} is not an {family} address");
            let other = if key == "ipv4" { "ipv6" } else { "ipv4" };
            d.push(
                Diagnostic::error(message)
                    .at(address.place)
                    .help(format!("set `turn.redirect.{other}` instead")),
            );
        } else if ip.is_unspecified() || ip.is_multicast() {
            let message = format!("`turn.redirect.{key}`: nobody can allocate at {ip}");
            d.push(
                Diagnostic::error(message)
                    .at(address.place)
                    .help("set the address clients reach the other server at"),
            );
        }
    }
    let somewhere = redirect.ipv4.value.0.is_some() || redirect.ipv6.value.0.is_some();
    if somewhere && redirect.transports.value.is_empty() && redirect.serve_others.value.0.is_none() {
        let message = "`turn.redirect`: there is another server, but no client is ever sent to it";
        let diagnostic = Diagnostic::warning(message).at(redirect.transports.place);
        d.push(
            diagnostic
                .also(redirect.serve_others.place, "and here")
                .help("name a transport in `transports`, or set `serve_others` to a duration"),
        );
    }
    let domain = &redirect.domain;
    if domain.value.is_empty() {
        return;
    }
    if !is_host_name(&domain.value) || domain.value.len() > 127 {
        let message = format!("`turn.redirect.domain`: {:?} is not a host name", domain.value);
        d.push(
            Diagnostic::error(message)
                .at(domain.place)
                .help("write the name in the other server's certificate, or \"\""),
        );
    }
    if !somewhere {
        let diagnostic = Diagnostic::error("`turn.redirect.domain` is set, but there is no address to redirect to");
        d.push(
            diagnostic
                .at(domain.place)
                .help("set `turn.redirect.ipv4` or `turn.redirect.ipv6`: names are not looked up by clients"),
        );
    }
}
