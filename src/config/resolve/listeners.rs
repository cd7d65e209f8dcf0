//! Where to listen: names and `*` to addresses, and whether two things want the same socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::reader::diagnostic::Diagnostic;
use super::super::reader::value::BindHost;
use super::super::sections::Raw;
use super::super::sections::listener::{Protocol, RawListener};
use super::super::settings::ListenerSettings;
use super::Context;
use crate::base::address::Family;
use crate::turn::config::RelayConfig;

/// A listener as written, and as resolved.
pub(super) type Resolved<'a> = (&'a RawListener, ListenerSettings);

/// All listeners; one that cannot be resolved has no addresses, and is reported.
pub(super) fn resolve<'a>(raw: &'a Raw, cx: &mut Context<'_>) -> Vec<Resolved<'a>> {
    let mut all = Vec::new();
    for listener in &raw.listeners.value {
        let speaks = |protocol| listener.protocols.value.iter().any(|p| p.0 == protocol);
        let addresses = addresses(listener, cx);
        all.push((
            listener,
            ListenerSettings {
                label: listener.bind.value.to_string(),
                addresses,
                udp: speaks(Protocol::Udp),
                dtls: speaks(Protocol::Dtls),
                tcp: speaks(Protocol::Tcp),
                tls: speaks(Protocol::Tls),
                https: speaks(Protocol::Https),
                optional: listener.optional.value,
                proxy_protocol: listener.proxy_protocol.value.0,
                trusted_proxies: listener.trusted_proxies.value.iter().map(|net| net.value.0).collect(),
            },
        ));
    }
    all
}

fn addresses(listener: &RawListener, cx: &mut Context<'_>) -> Vec<SocketAddr> {
    let bind = &listener.bind.value;
    let port = bind.port;
    match &bind.host {
        BindHost::Any => {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let has_v6 = cx.env.can_bind(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            if has_v6 { vec![v4, v6] } else { vec![v4] }
        }
        BindHost::Ip(ip) => {
            if !cx.env.can_bind(*ip) {
                let diagnostic = cx.here(format!(
                    "cannot listen on {bind}: {ip} is not an address of this machine"
                ));
                cx.d.push(
                    diagnostic
                        .at(listener.bind.place)
                        .help(format!("write \"*:{port}\" for every address")),
                );
            }
            vec![SocketAddr::new(*ip, port)]
        }
        BindHost::Name(name) => match cx.env.resolve(name, port) {
            Ok(mut found) => {
                found.sort_unstable();
                found.dedup();
                found
            }
            Err(error) => {
                let diagnostic = cx.here(format!("cannot listen on {bind}: {name} cannot be looked up: {error}"));
                cx.d.push(
                    diagnostic
                        .at(listener.bind.place)
                        .help("correct the name, or write an address"),
                );
                Vec::new()
            }
        },
    }
}

/// Reports everything that wants a socket another thing has.
pub(super) fn check_overlaps(raw: &Raw, all: &[Resolved<'_>], relay: Option<&RelayConfig>, cx: &mut Context<'_>) {
    for (index, (written, listener)) in all.iter().enumerate() {
        for (earlier_written, earlier) in &all[..index] {
            let shares = (is_udp(listener) && is_udp(earlier)) || (is_stream(listener) && is_stream(earlier));
            if shares && overlap(&listener.addresses, &earlier.addresses) {
                let message = format!("the listeners on {} and {} overlap", earlier.label, listener.label);
                let diagnostic = Diagnostic::error(message).at(written.bind.place);
                let diagnostic = diagnostic.also(earlier_written.bind.place, "the other");
                cx.d.push(
                    diagnostic.help("put all protocols of a port into one listener, or give them different addresses"),
                );
            }
        }
        relay_ports(raw, written, listener, relay, cx);
    }
    admin(raw, all, cx);
}

fn admin(raw: &Raw, all: &[Resolved<'_>], cx: &mut Context<'_>) {
    let Some(admin) = raw.admin.address.value.0 else { return };
    let clash = |listener: &ListenerSettings| is_stream(listener) && overlap(&listener.addresses, &[admin]);
    if let Some((written, listener)) = all.iter().find(|(_, listener)| clash(listener)) {
        let message = format!("`admin.address` {admin} overlaps the listener on {}", listener.label);
        let place = raw.admin.address.place.or(written.bind.place);
        let other = raw.admin.address.place.and(written.bind.place);
        let diagnostic = Diagnostic::error(message).at(place).also(other, "the listener");
        cx.d.push(diagnostic.help("give the admin listener another port"));
    }
}

fn relay_ports(
    raw: &Raw,
    written: &RawListener,
    listener: &ListenerSettings,
    relay: Option<&RelayConfig>,
    cx: &mut Context<'_>,
) {
    let ports = &raw.relay.ports;
    let port = written.bind.value.port;
    if !is_udp(listener) || !ports.value.0.contains(&port) {
        return;
    }
    // Relay sockets on other addresses do not mind; where they will be is not known while theirs is missing.
    let apart = relay.is_none_or(|relay| {
        let binds = [relay.ipv4, relay.ipv6]
            .into_iter()
            .flatten()
            .map(|address| SocketAddr::new(address.bind, port));
        !overlap(&listener.addresses, &binds.collect::<Vec<_>>())
    });
    if !apart {
        let message = format!("the listener on {} uses a port out of `relay.ports`", listener.label);
        let diagnostic = Diagnostic::error(message).at(written.bind.place.or(ports.place));
        let diagnostic = diagnostic.also(ports.place, "the relay ports");
        cx.d.push(diagnostic.help("move the listener, or end the range of relay ports before it"));
    }
}

pub(super) const fn is_udp(listener: &ListenerSettings) -> bool {
    listener.udp || listener.dtls
}

pub(super) const fn is_stream(listener: &ListenerSettings) -> bool {
    listener.tcp || listener.tls || listener.https
}

/// Whether some of the one and some of the other cannot both be bound.
pub(super) fn overlap(some: &[SocketAddr], others: &[SocketAddr]) -> bool {
    let clash = |a: &SocketAddr, b: &SocketAddr| {
        a.port() == b.port()
            && Family::of(a.ip()) == Family::of(b.ip())
            && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
    };
    some.iter().any(|a| others.iter().any(|b| clash(a, b)))
}
