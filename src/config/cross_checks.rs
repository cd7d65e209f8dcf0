//! What is wrong, or unwise, across sections, although each by itself is well written. Looks at the configuration alone:
//! files, names and addresses of the machine come in `resolve`.

use std::net::IpAddr;

use super::reader::diagnostic::{Diagnostic, Diagnostics};
use super::reader::value::{Auto, External, Host, Placed, ServerName, is_host_name, quoted};
use super::sections::Raw;
use super::sections::limits::MOST_ALLOCATIONS;
use super::sections::listener::{Protocol, RawListener};

/// Checks what looks at two sections; mistakes go to `d`.
pub(super) fn check(raw: &Raw, d: &mut Diagnostics) {
    acme_listeners(raw, d);
    addresses(raw, d);
    allocations(raw, d);
    external_ports(raw, d);
    tcp_allocations(raw, d);
    route_names(raw, d);
    front_door_served(raw, d);
    lifetimes(raw, d);
    api_served(raw, d);
}

/// The authority connects to port 443.
fn acme_listeners(raw: &Raw, d: &mut Diagnostics) {
    if raw.tls.acme.domains.value.is_empty() {
        return;
    }
    let place = raw.tls.acme.domains.place;
    let tls = |listener: &&RawListener| {
        let mut protocols = listener.protocols.value.iter();
        protocols.any(|protocol| matches!(protocol.0, Protocol::Tls | Protocol::Https))
    };
    let mut listeners = raw.listeners.value.iter().filter(tls).peekable();
    if raw.lacks_listeners {
        // Its protocols are not known.
    } else if listeners.peek().is_none() {
        let message = "`tls.acme.domains` is set, but no listener speaks TLS: the authority would not be answered";
        let help = "add \"tls\" or \"https\" to the protocols of the listener on port 443";
        d.push(Diagnostic::error(message).at(place).help(help));
    } else if !listeners.any(|listener| listener.bind.value.port == 443) {
        let message = "`tls.acme.domains` is set, but no listener on port 443 speaks TLS, and that is where the authority connects";
        let help = "all is well if port 443 is forwarded to a TLS listener; else add \"tls\" to one on *:443";
        d.push(Diagnostic::warning(message).at(place).help(help));
    }
}

fn addresses(raw: &Raw, d: &mut Diagnostics) {
    let families = [
        (
            "ipv4",
            "IPv4",
            &raw.external.ipv4,
            &raw.relay.ipv4,
            IpAddr::is_ipv4 as fn(&IpAddr) -> bool,
        ),
        ("ipv6", "IPv6", &raw.external.ipv6, &raw.relay.ipv6, IpAddr::is_ipv6),
    ];
    for (key, family, external, relay, is_family) in families {
        let wrong = |d: &mut Diagnostics, section: &str, ip: IpAddr, place| {
            let diagnostic = Diagnostic::error(format!("`{section}.{key}`: {ip} is not an {family} address")).at(place);
            let other = if key == "ipv4" { "ipv6" } else { "ipv4" };
            d.push(diagnostic.help(format!("set `{section}.{other}` instead")));
        };
        match external.value {
            External::Fixed(ip) if !is_family(&ip) => wrong(d, "external", ip, external.place),
            External::Fixed(ip) if ip.is_unspecified() || ip.is_multicast() => {
                let message = format!("`external.{key}`: nobody can send to {ip}");
                d.push(
                    Diagnostic::error(message)
                        .at(external.place)
                        .help("set the address clients reach, or \"auto\""),
                );
            }
            External::Off if relay.is_given() && !matches!(relay.value, Auto::Auto) => {
                let message = format!("`relay.{key}` is set, but {family} is switched off");
                let diagnostic = Diagnostic::error(message).at(relay.place).also(external.place, "here");
                d.push(diagnostic.help(format!("remove `relay.{key}`, or set `external.{key} = \"auto\"`")));
            }
            _ => {}
        }
        match relay.value {
            Auto::Given(Host::Ip(ip)) if !is_family(&ip) => wrong(d, "relay", ip, relay.place),
            Auto::Given(Host::Ip(ip)) if ip.is_multicast() => {
                let diagnostic = Diagnostic::error(format!("`relay.{key}`: {ip} is a multicast address"));
                d.push(
                    diagnostic
                        .at(relay.place)
                        .help("set an address of this machine, or \"auto\""),
                );
            }
            _ => {}
        }
    }
    if raw.external.ipv4.value == External::Off && raw.external.ipv6.value == External::Off {
        let diagnostic =
            Diagnostic::error("both `external.ipv4` and `external.ipv6` are off: nothing could be relayed");
        let diagnostic = diagnostic
            .at(raw.external.ipv6.place)
            .also(raw.external.ipv4.place, "the other");
        d.push(diagnostic.help("set one of them to \"auto\""));
    }
}

/// An allocation takes a port.
fn allocations(raw: &Raw, d: &mut Diagnostics) {
    let (ports, limit) = (&raw.relay.ports, &raw.limits.allocations);
    let count = ports.value.count();
    if let Auto::Given(allocations) = limit.value
        && allocations > i128::from(count)
        && allocations <= MOST_ALLOCATIONS
    {
        let message = format!("`limits.allocations` is {allocations}, but there are only {count} relay ports");
        let diagnostic = Diagnostic::warning(message).at(limit.place);
        d.push(
            diagnostic
                .also(ports.place, "the ports")
                .help("widen `relay.ports`, or leave `limits.allocations` away"),
        );
    }
}

/// Announced ports stand for bound ones.
fn external_ports(raw: &Raw, d: &mut Diagnostics) {
    let Auto::Given(announced) = &raw.external.ports.value else {
        return;
    };
    let bound = &raw.relay.ports;
    let problem = |d: &mut Diagnostics, message: String, help: String| {
        let diagnostic = Diagnostic::error(message).at(raw.external.ports.place);
        d.push(diagnostic.also(bound.place, "the bound ports").help(help));
    };
    let (first, count) = (*announced.0.start(), bound.value.count());
    if announced.count() != count {
        let message = format!(
            "`external.ports` has {} ports, `relay.ports` {count}: each stands for one",
            announced.count()
        );
        let fits = first.checked_add(bound.value.0.end() - bound.value.0.start());
        let help = fits.map_or_else(
            || "make both ranges as long as each other".to_owned(),
            |last| format!("for example {}", quoted(&format!("{first}-{last}"))),
        );
        problem(d, message, help);
    } else if first % 2 != bound.value.0.start() % 2 {
        let message =
            "`external.ports` and `relay.ports` must both begin with an even port, or both with an odd one".to_owned();
        let help = "clients may ask for an even port and the next (EVEN-PORT, RFC 8656 §7.2)".to_owned();
        problem(d, message, help);
    }
}

/// Clients ask over TCP or TLS.
fn tcp_allocations(raw: &Raw, d: &mut Diagnostics) {
    let tcp = &raw.turn.tcp;
    let mut protocols = raw
        .listeners
        .value
        .iter()
        .flat_map(|listener| &listener.protocols.value);
    if tcp.enabled.value
        && !raw.lacks_listeners
        && !protocols.any(|protocol| matches!(protocol.0, Protocol::Tcp | Protocol::Tls))
    {
        let message = "TCP allocations are on, and no listener speaks TCP or TLS: no client can ask for one (RFC 6062)";
        let help = "add \"tcp\" or \"tls\" to the protocols of a listener";
        d.push(Diagnostic::warning(message).at(tcp.enabled.place).help(help));
    }
}

fn route_names(raw: &Raw, d: &mut Diagnostics) {
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

fn front_door_served(raw: &Raw, d: &mut Diagnostics) {
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

fn lifetimes(raw: &Raw, d: &mut Diagnostics) {
    let (api, accepted) = (&raw.api, &raw.credentials.max_ttl);
    if api.default_ttl.value > api.max_ttl.value {
        let place = api.default_ttl.place.or(api.max_ttl.place);
        let diagnostic = Diagnostic::error("`api.default_ttl` is longer than `api.max_ttl`").at(place);
        d.push(diagnostic.help("shorten `default_ttl`, or raise `max_ttl`"));
    }
    if api.max_ttl.value > accepted.value {
        let place = api.max_ttl.place.or(accepted.place);
        let diagnostic =
            Diagnostic::error("`api.max_ttl` is longer than `credentials.max_ttl`: what is minted would be refused");
        let other = if api.max_ttl.is_given() { accepted.place } else { None };
        d.push(
            diagnostic
                .at(place)
                .also(other, "what is accepted")
                .help("make the two equal"),
        );
    }
}

/// Somebody must serve it.
fn api_served(raw: &Raw, d: &mut Diagnostics) {
    let api = &raw.api;
    let https = raw
        .listeners
        .value
        .iter()
        .any(|l| l.protocols.value.iter().any(|p| p.0 == Protocol::Https));
    let on_admin = raw.admin.api.value && raw.admin.address.value.0.is_some();
    let wanted = api.open.value || !api.keys.value.is_empty();
    if api.enabled.value && wanted && !raw.lacks_listeners && !https && !on_admin {
        let diagnostic =
            Diagnostic::warning("the credentials API is on, but no listener speaks \"https\" and `admin.api` is off");
        d.push(
            diagnostic
                .at(api.enabled.place.or(api.keys.place))
                .help("add \"https\" to a listener's protocols"),
        );
    }
}

/// Names that clients find in minted URIs, as far as they are written down, and those a certificate is obtained for: the
/// authority asks for it by them.
pub(super) fn own_names(raw: &Raw) -> Vec<String> {
    let host = match &raw.api.host.value {
        Auto::Given(host) => Some(host.as_str()),
        Auto::Auto => None,
    };
    let uris: &[_] = match &raw.api.uris.value {
        Auto::Given(uris) => uris,
        Auto::Auto => &[],
    };
    let told = uris.iter().filter_map(|uri| tls_host(&uri.value));
    let obtained = raw.tls.acme.domains.value.iter().map(|name| name.value.as_str());
    let names = host
        .into_iter()
        .chain([raw.top.realm.value.as_str()])
        .chain(told)
        .chain(obtained);
    names
        .filter(|name| is_host_name(name) && name.contains('.'))
        .map(|name| name.to_ascii_lowercase())
        .collect()
}

/// The host that clients of this URI name in their ClientHello, if they send one.
fn tls_host(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("turns:").or_else(|| uri.strip_prefix("stuns:"))?;
    rest.split([':', '?']).next()
}
