//! Where clients are sent instead: another server, and not this one.

use std::net::{IpAddr, SocketAddr};

use super::super::reader::diagnostic::Diagnostic;
use super::super::reader::section::Located;
use super::super::reader::value::{OffOr, OneOf};
use super::super::sections::turn::redirect::RawRedirect;
use super::Context;
use super::listeners::{Resolved, overlap};
use crate::base::address::Transport;
use crate::turn::config::RelayConfig;
use crate::turn::config::redirect::Redirect;

/// The core's part.
pub(super) fn build(raw: &RawRedirect) -> Redirect {
    let domain = &raw.domain.value;
    Redirect {
        ipv4: raw.ipv4.value.0,
        ipv6: raw.ipv6.value.0,
        domain: (!domain.is_empty()).then(|| domain.as_str().into()),
        transports: Transport::ALL.map(|transport| raw.transports.value.contains(&OneOf(transport))),
        serve_others: raw.serve_others.value.0,
    }
}

/// Reports a redirection to ourselves, and clients that would not be redirected.
pub(super) fn check(raw: &RawRedirect, all: &[Resolved<'_>], relay: Option<&RelayConfig>, cx: &mut Context<'_>) {
    let relay = relay.into_iter().flat_map(|relay| [relay.ipv4, relay.ipv6]).flatten();
    let mut ours: Vec<IpAddr> = cx.machine.interfaces.iter().map(|interface| interface.ip).collect();
    ours.extend(relay.flat_map(|address| [address.bind, address.announced]));
    let families = [
        ("ipv4", "IPv4", &raw.ipv4, &raw.ipv6),
        ("ipv6", "IPv6", &raw.ipv6, &raw.ipv4),
    ];
    for (key, family, own, other) in families {
        match own.value.0 {
            // That is nobody, and reported.
            Some(address) if address.ip().is_unspecified() => {}
            Some(address) => to_ourselves(key, own, address, all, &ours, cx),
            None if other.value.0.is_some() => {
                let is_served = |address: &SocketAddr| address.is_ipv4() == (key == "ipv4");
                if all.iter().any(|(_, listener)| listener.addresses.iter().any(is_served)) {
                    let message = format!("`turn.redirect`: clients over {family} are not redirected, but served here");
                    cx.d.push(
                        Diagnostic::warning(message)
                            .at(other.place)
                            .help(format!("set `turn.redirect.{key}` as well")),
                    );
                }
            }
            None => {}
        }
    }
}

/// Clients ignore a redirection to where they have just been (RFC 8489 §10), and would have no server at all.
fn to_ourselves(
    key: &str,
    written: &Located<OffOr<SocketAddr>>,
    address: SocketAddr,
    all: &[Resolved<'_>],
    ours: &[IpAddr],
    cx: &mut Context<'_>,
) {
    // An announced address leads to the listeners whatever they are bound to.
    let ports = all
        .iter()
        .flat_map(|(_, listener)| &listener.addresses)
        .map(SocketAddr::port);
    let mapped = ours.contains(&address.ip()) && ports.into_iter().any(|port| port == address.port());
    let found = all.iter().find(|(_, listener)| {
        let bound = |at: &&SocketAddr| !at.ip().is_unspecified();
        let bound: Vec<_> = listener.addresses.iter().filter(bound).copied().collect();
        overlap(&bound, &[address])
    });
    if mapped || found.is_some() {
        let message = format!("`turn.redirect.{key}`: {address} is this server");
        let diagnostic = Diagnostic::error(message).at(written.place);
        let place = found.and_then(|(listener, _)| listener.bind.place);
        cx.d.push(
            diagnostic
                .also(place, "the listener")
                .help("set another server's address, or \"off\" to serve clients here"),
        );
    }
}
