//! The same tests over another transport or IP version.

use std::sync::OnceLock;

use relay_proto::base::address::Transport;

const VARIABLE: &str = "RELAY_PROTOCOL_OVER";

/// The transport of `client`: `udp`, `tcp`, `tls` or `dtls`, followed by 6 for IPv6.
pub(super) fn way() -> (Transport, bool) {
    static WAY: OnceLock<(Transport, bool)> = OnceLock::new();
    *WAY.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_else(|_| "udp".into());
        let name = text.strip_suffix('6').unwrap_or(&text);
        let transport = Transport::ALL.into_iter().find(|transport| transport.as_str() == name);
        let transport = transport.unwrap_or_else(|| panic!("{VARIABLE}={text}: no such transport"));
        (transport, name != text)
    })
}
