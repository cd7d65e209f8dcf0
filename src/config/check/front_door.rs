//! Who may stand in front of the server, and which servers behind it.

use super::super::reader::diagnostic::{Diagnostic, Diagnostics};
use super::super::reader::value::{Placed, ServerName};
use super::super::resolve::own_names;
use super::super::sections::Raw;
use super::super::sections::listener::{Protocol, RawListener};
use super::super::settings::ProxyProtocol;

pub(super) fn check(raw: &Raw, d: &mut Diagnostics) {
    for listener in &raw.listeners.value {
        proxies(listener, d);
    }
    names(raw, d);
    served(raw, d);
}

fn names(raw: &Raw, d: &mut Diagnostics) {
    let own = own_names(raw);
    let mut before: Vec<&Placed<ServerName>> = Vec::new();
    for route in &raw.front_door.routes.value {
        if route.names.value.is_empty() {
            let message = format!("the route to {} has no names", route.backend.value);
            let diagnostic = Diagnostic::error(message).at(route.names.place);
            d.push(diagnostic.help("list the host names of that server: `names = [\"www.example.org\"]`"));
        }
        for name in &route.names.value {
            let text = &name.value.0;
            if own.contains(text) {
                let message = format!("`front_door.route.names`: {text} is the name of this server");
                let diagnostic = Diagnostic::error(message).at(name.place);
                d.push(
                    diagnostic.help("give the other server another name; HTTP can share this one by `http_upstream`"),
                );
            }
            if let Some(other) = before.iter().find(|other| other.value == name.value) {
                let diagnostic = Diagnostic::error(format!("`front_door.route.names`: {text} is there twice"));
                let diagnostic = diagnostic.at(name.place).also(other.place, "the other");
                d.push(diagnostic.help("a name leads to one server; remove one of them"));
            }
            before.push(name);
        }
    }
}

fn served(raw: &Raw, d: &mut Diagnostics) {
    if raw.lacks_listeners {
        return;
    }
    let listeners = &raw.listeners.value;
    let speaks = |listener: &RawListener, one: &[Protocol]| {
        let protocols = &listener.protocols.value;
        protocols.iter().any(|protocol| one.contains(&protocol.0))
    };
    let https = |listener: &RawListener| speaks(listener, &[Protocol::Https]);
    let http3 = |listener: &RawListener| https(listener) && speaks(listener, &[Protocol::Udp, Protocol::Dtls]);
    let front_door = &raw.front_door;
    let backend = &front_door.http3.backend;
    if backend.value.0.is_some() && !listeners.is_empty() && !listeners.iter().any(http3) {
        let message = "`front_door.http3.backend` is set, but no listener speaks HTTPS and has a UDP socket";
        let diagnostic = Diagnostic::error(message).at(backend.place);
        d.push(diagnostic.help("add \"https\" and \"udp\" to the protocols of the listener on 443"));
    }
    if listeners.is_empty() || listeners.iter().any(https) {
        return;
    }
    let upstream = front_door.http_upstream.value.0.as_ref();
    let keys = [
        (
            "front_door.route",
            (!front_door.routes.value.is_empty()).then_some(front_door.routes.place),
        ),
        (
            "front_door.http_upstream",
            upstream.map(|_| front_door.http_upstream.place),
        ),
    ];
    for (key, place) in keys {
        if let Some(place) = place {
            let diagnostic = Diagnostic::error(format!("`{key}` is set, but no listener speaks HTTPS")).at(place);
            d.push(diagnostic.help("add \"https\" to the protocols of the listener on 443"));
        }
    }
}

fn proxies(listener: &RawListener, d: &mut Diagnostics) {
    let (protocol, trusted) = (&listener.proxy_protocol, &listener.trusted_proxies);
    let bind = &listener.bind.value;
    let example = "for example `trusted_proxies = [\"10.0.0.5\"]`";
    if protocol.value.0 == ProxyProtocol::Off {
        if !trusted.value.is_empty() {
            let message = format!("the listener on {bind} has `trusted_proxies`, but its `proxy_protocol` is off");
            d.push(
                Diagnostic::error(message).at(trusted.place).help(
                    "add `proxy_protocol = \"required\"`, or \"optional\" where clients connect directly as well",
                ),
            );
        }
        return;
    }
    if trusted.is_given() && trusted.value.is_empty() {
        let message = format!("the listener on {bind} reads the PROXY protocol, but from nobody");
        let diagnostic = Diagnostic::error(message).at(protocol.place);
        d.push(diagnostic.help(format!("list the addresses of the proxies, {example}")));
    }
    for net in trusted.value.iter().filter(|net| net.value.0.prefix_len() == 0) {
        let message = format!(
            "`listener.trusted_proxies`: {} lets every client claim any address",
            net.value.0
        );
        let diagnostic = Diagnostic::error(message).at(net.place);
        d.push(diagnostic.help(format!("list the addresses of the proxies alone, {example}")));
    }
    if !listener
        .protocols
        .value
        .iter()
        .any(|protocol| protocol.0 != Protocol::Udp)
    {
        let message =
            format!("the listener on {bind} reads the PROXY protocol, which comes over TCP, but speaks UDP alone");
        d.push(
            Diagnostic::error(message)
                .at(protocol.place)
                .help("remove `proxy_protocol`, or add \"tcp\", \"tls\" or \"https\" to its protocols"),
        );
    }
}
