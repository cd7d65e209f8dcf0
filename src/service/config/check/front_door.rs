//! Who may stand in front of the server.

use super::super::diagnostic::{Diagnostic, Diagnostics};
use super::super::schema::{Protocol, Raw, RawListener};
use super::super::settings::ProxyProtocol;

pub(super) fn check(raw: &Raw, d: &mut Diagnostics) {
    for listener in &raw.listeners.value {
        proxies(listener, d);
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
