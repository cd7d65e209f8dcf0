//! `[[listener]]`, and those there are where none is written.

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use crate::config::reader::document::{self, Node, Value};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Bind, Choice, NetworkOrAddress, OneOf, Placed};
use crate::config::settings::ProxyProtocol;

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
    let bind = s.required("bind", "\"*:443\"", place);
    let built = |protocol: &Protocol| cfg!(feature = "dtls") || *protocol != Protocol::Dtls;
    let all = Protocol::ALL.iter().map(|(_, protocol)| *protocol);
    let all = all.filter(built).map(OneOf).collect();
    let names_proxies = s.has("trusted_proxies");
    let proxy_protocol = s.value("proxy_protocol", OneOf(ProxyProtocol::Off));
    if proxy_protocol.value.0 != ProxyProtocol::Off && !names_proxies {
        let message = format!("`{}`: `trusted_proxies` is missing", s.path());
        let help = "list the addresses of the proxies, for example `trusted_proxies = [\"10.0.0.5\"]`";
        s.report(Diagnostic::error(message).at(proxy_protocol.place).help(help));
    }
    Some(RawListener {
        protocols: s.value("protocols", all),
        optional: s.value("optional", false),
        proxy_protocol,
        trusted_proxies: s.value("trusted_proxies", Vec::new()),
        bind: bind?,
    })
}
