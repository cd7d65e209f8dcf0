//! NAT behaviour discovery: two addresses, two ports, and a listener at each of the four places.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::reader::diagnostic::Diagnostic;
use super::super::reader::section::Located;
use super::super::reader::value::Placed;
use super::super::sections::nat_discovery::RawNatDiscovery;
use super::Context;
use super::listeners::{Resolved, overlap};
use crate::turn::config::discovery::{Discovery, OwnAddress};

const SECTION: &str = "docs/configuration.md shows a whole `[nat_discovery]`";

/// The core's part; `None` where it is off, or wrong and reported.
pub(super) fn build(
    raw: &RawNatDiscovery,
    all: &[Resolved<'_>],
    all_known: bool,
    cx: &mut Context<'_>,
) -> Option<Arc<Discovery>> {
    if !raw.enabled.value {
        return None;
    }
    let ipv4 = addresses("ipv4", &raw.ipv4, &raw.announced_ipv4, cx);
    let ipv6 = addresses("ipv6", &raw.ipv6, &raw.announced_ipv6, cx);
    if raw.ipv4.value.is_empty() && raw.ipv6.value.is_empty() {
        let message = "`nat_discovery` needs two addresses of this machine, and has none (RFC 5780 §6)";
        let diagnostic = Diagnostic::error(message).at(raw.enabled.place);
        cx.d.push(diagnostic.help("set `nat_discovery.ipv4` or `nat_discovery.ipv6` to a list of two"));
    }
    let ports = match raw.ports.value[..] {
        [first, second] if first != second => [first.0, second.0],
        _ => {
            let diagnostic = Diagnostic::error("`nat_discovery.ports`: two different ports are needed");
            cx.d.push(diagnostic.at(raw.ports.place).help("for example [3478, 3479]"));
            return None;
        }
    };
    for (key, pair) in [(&raw.ipv4, ipv4), (&raw.ipv6, ipv6)] {
        for ip in pair.into_iter().flatten() {
            for port in ports.into_iter().filter(|_| all_known) {
                listener(key, SocketAddr::new(ip.local, port), all, cx);
            }
        }
    }
    Some(Arc::new(Discovery {
        ipv4,
        ipv6,
        ports,
        max_padding: raw.max_padding.value,
    }))
}

/// The two addresses of a family, each with what clients are told.
fn addresses(
    key: &str,
    local: &Located<Vec<Placed<IpAddr>>>,
    announced: &Located<Vec<Placed<IpAddr>>>,
    cx: &mut Context<'_>,
) -> Option<[OwnAddress; 2]> {
    let local_pair = pair(key, key, local, cx);
    let announced_pair = pair(&format!("announced_{key}"), key, announced, cx);
    for ip in &local.value {
        if !cx.env.can_bind(ip.value) {
            let message = format!("`nat_discovery.{key}`: {} is not an address of this machine", ip.value);
            let help =
                format!("write the local address here, and what clients reach in `nat_discovery.announced_{key}`");
            let diagnostic = cx.here(message).at(ip.place).help(help);
            cx.d.push(diagnostic);
        }
    }
    if local.value.is_empty() && !announced.value.is_empty() {
        let message = format!("`nat_discovery.announced_{key}` is set, `nat_discovery.{key}` is not");
        cx.d.push(Diagnostic::error(message).at(announced.place).help(SECTION));
    }
    let local = local_pair?;
    let announced = announced_pair.unwrap_or(local);
    let one = |n: usize| OwnAddress {
        local: local[n],
        announced: announced[n],
    };
    Some([one(0), one(1)])
}

/// Two different addresses of one family, if there are any.
fn pair(key: &str, family: &str, list: &Located<Vec<Placed<IpAddr>>>, cx: &mut Context<'_>) -> Option<[IpAddr; 2]> {
    for ip in &list.value {
        let what = if ip.value.is_ipv4() { "ipv4" } else { "ipv6" };
        if what != family || ip.value.is_unspecified() || ip.value.is_multicast() {
            let message = format!("`nat_discovery.{key}`: {} is not one host's {family} address", ip.value);
            cx.d.push(Diagnostic::error(message).at(ip.place).help(SECTION));
        }
    }
    match &list.value[..] {
        [] => None,
        [first, second] if first.value != second.value => Some([first.value, second.value]),
        _ => {
            let message = format!("`nat_discovery.{key}`: two different addresses are needed");
            cx.d.push(Diagnostic::error(message).at(list.place).help(SECTION));
            None
        }
    }
}

/// Responses leave from every place, whether or not requests come there first.
fn listener(key: &Located<Vec<Placed<IpAddr>>>, place: SocketAddr, all: &[Resolved<'_>], cx: &mut Context<'_>) {
    let found = all
        .iter()
        .find(|(_, listener)| listener.udp && overlap(&listener.addresses, &[place]));
    match found {
        None => {
            let message = format!("`nat_discovery`: no listener is at {place} with UDP");
            let help = format!("add a `[[listener]]` with bind = \"*:{}\" and \"udp\"", place.port());
            cx.d.push(Diagnostic::error(message).at(key.place).help(help));
        }
        Some((written, listener)) if listener.optional => {
            let message = format!("`nat_discovery`: the listener on {} is optional", listener.label);
            let diagnostic = Diagnostic::warning(message).at(key.place);
            cx.d.push(
                diagnostic
                    .also(written.bind.place, "the listener")
                    .help("where it cannot be bound, clients are told a place that does not answer"),
            );
        }
        Some(_) => {}
    }
}
