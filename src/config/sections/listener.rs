//! `[[listener]]`, and those there are where none is written.

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use crate::config::reader::document::{self, Node, Value};
use crate::config::reader::key::{ConfigKey, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Bind, Choice, NetworkOrAddress, OneOf, Placed};
use crate::config::settings::ProxyProtocol;

/// The list of them.
pub(super) const LISTENER: ConfigKey = restart(
    "listener",
    "Where clients connect. Each block is one port; one block replaces all of the defaults.",
)
.default("the three above");

const BIND: ConfigKey = restart(
    "bind",
    "Where it listens. `\"*:443\"`: every address, IPv4 and IPv6. `\"192.0.2.1:443\"`, \
     `\"[2001:db8::1]:443\"`: one. `\"name:443\"`: all addresses of the name, resolved at start.",
);

const PROTOCOLS: ConfigKey = restart(
    "protocols",
    "What it speaks: the first four carry TURN, `https` is the API. All can share a port.\n\n\
     The server distinguishes them by their first bytes. `dtls` needs a program built with the feature of that name (on by default).",
)
.default("all five");

const OPTIONAL: ConfigKey = restart(
    "optional",
    "If this user may not bind it, log that and serve the others.",
);

const PROXY_PROTOCOL: ConfigKey = restart(
    "proxy_protocol",
    "Whether TCP connections come from proxies that send the client's address in a PROXY \
     header.\n\n\
     [Who may send one](#listener) depends on it and on `trusted_proxies`.",
);

const TRUSTED_PROXIES: ConfigKey = restart(
    "trusted_proxies",
    "Addresses of those proxies: `[\"10.0.0.5\", \"10.0.1.0/28\"]`.\n\n\
     A header from any other address is not trusted.",
);

/// What is listened on where no `[[listener]]` is written. Ordinary users may not bind 443: that one is optional.
#[cfg(feature = "dtls")]
const DEFAULT_LISTENERS: &str = r#"[[listener]]
bind = "*:3478"
protocols = ["udp", "tcp"]

[[listener]]
bind = "*:5349"
protocols = ["dtls", "tls", "tcp"]

[[listener]]
bind = "*:443"
protocols = ["udp", "dtls", "tcp", "tls", "https"]
optional = true
"#;

/// The same, of a program built without DTLS.
#[cfg(not(feature = "dtls"))]
const DEFAULT_LISTENERS: &str = r#"[[listener]]
bind = "*:3478"
protocols = ["udp", "tcp"]

[[listener]]
bind = "*:5349"
protocols = ["tls", "tcp"]

[[listener]]
bind = "*:443"
protocols = ["udp", "tcp", "tls", "https"]
optional = true
"#;

/// What a listener speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Protocol {
    Udp,
    Dtls,
    Tcp,
    Tls,
    Https,
}

impl Choice for Protocol {
    const ALL: &'static [(&'static str, Self)] = &[
        ("udp", Self::Udp),
        ("dtls", Self::Dtls),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("https", Self::Https),
    ];
}

impl Choice for ProxyProtocol {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("optional", Self::Optional),
        ("required", Self::Required),
    ];
}

pub(in crate::config) struct RawListener {
    pub(in crate::config) bind: Located<Bind>,
    pub(in crate::config) protocols: Located<Vec<OneOf<Protocol>>>,
    pub(in crate::config) optional: Located<bool>,
    pub(in crate::config) proxy_protocol: Located<OneOf<ProxyProtocol>>,
    pub(in crate::config) trusted_proxies: Located<Vec<Placed<NetworkOrAddress>>>,
}

/// The default listeners, as a tree.
pub(super) fn defaults(diagnostics: &mut Diagnostics) -> Vec<Node> {
    let source = diagnostics.add_source("built-in defaults", DEFAULT_LISTENERS);
    let (mut table, _) = document::parse(DEFAULT_LISTENERS, source, diagnostics);
    match table.take("listener").map(|entry| entry.node.value) {
        Some(Value::List(list)) => list,
        _ => Vec::new(),
    }
}

/// `None`: where it listens is missing or wrong, and reported.
pub(super) fn read(s: &mut Section<'_, '_>, place: Option<SourceSpan>) -> Option<RawListener> {
    let bind = s.required(BIND, "\"*:443\"", place);
    let built = |protocol: &Protocol| cfg!(feature = "dtls") || *protocol != Protocol::Dtls;
    let all = Protocol::ALL.iter().map(|(_, protocol)| *protocol);
    let all = all.filter(built).map(OneOf).collect();
    let protocols = s.value(PROTOCOLS, all);
    let optional = s.value(OPTIONAL, false);
    let names_proxies = s.has(TRUSTED_PROXIES.name);
    let proxy_protocol = s.value(PROXY_PROTOCOL, OneOf(ProxyProtocol::Off));
    if proxy_protocol.value.0 != ProxyProtocol::Off && !names_proxies {
        let message = format!("`{}`: `trusted_proxies` is missing", s.path());
        let help = "list the addresses of the proxies, for example `trusted_proxies = [\"10.0.0.5\"]`";
        s.report(Diagnostic::error(message).at(proxy_protocol.place).help(help));
    }
    Some(RawListener {
        protocols,
        optional,
        proxy_protocol,
        trusted_proxies: s.value(TRUSTED_PROXIES, Vec::new()),
        bind: bind?,
    })
}

/// Reports listeners that serve nobody; where one is missing because it is wrong, nothing follows from its absence.
pub(in crate::config) fn check(list: &Located<Vec<RawListener>>, lacks_listeners: bool, d: &mut Diagnostics) {
    if list.value.is_empty() && list.is_given() && !lacks_listeners {
        let diagnostic = Diagnostic::error("the list of listeners is empty: nothing would be served").at(list.place);
        d.push(diagnostic.help("remove it for the default listeners, or add `[[listener]]` with a `bind`"));
    }
    for listener in &list.value {
        proxies(listener, d);
        let protocols = &listener.protocols;
        if protocols.value.is_empty() {
            let diagnostic = Diagnostic::error(format!("the listener on {} has no protocols", listener.bind.value));
            d.push(
                diagnostic
                    .at(protocols.place)
                    .help("it can have \"udp\", \"dtls\", \"tcp\", \"tls\", \"https\""),
            );
        }
        if !cfg!(feature = "dtls") && protocols.value.contains(&OneOf(Protocol::Dtls)) {
            let diagnostic = Diagnostic::error(format!(
                "the listener on {} shall speak DTLS, and this program was built without it",
                listener.bind.value
            ));
            d.push(
                diagnostic
                    .at(protocols.place)
                    .help("remove \"dtls\" here, or build with `--features dtls`"),
            );
        }
        for (index, protocol) in protocols.value.iter().enumerate() {
            if protocols.value[..index].contains(protocol) {
                let diagnostic = Diagnostic::warning(format!(
                    "the listener on {} names a protocol twice",
                    listener.bind.value
                ));
                d.push(diagnostic.at(protocols.place));
            }
        }
    }
    let serves_turn = |protocols: &Located<Vec<OneOf<Protocol>>>| {
        protocols.value.iter().any(|protocol| protocol.0 != Protocol::Https)
    };
    if !list.value.is_empty() && !lacks_listeners && !list.value.iter().any(|listener| serves_turn(&listener.protocols))
    {
        let diagnostic = Diagnostic::error("no listener speaks TURN").at(list.value[0].protocols.place);
        d.push(diagnostic.help("add \"udp\", \"dtls\", \"tcp\" or \"tls\" to its protocols"));
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
