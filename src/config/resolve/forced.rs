//! Forced relay: whether those who are forced are served at all, and what else is still open.

use super::super::offer::{beside_path, is_on_path, serves_path};
use super::super::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use super::super::reader::value::Auto;
use super::super::sections::Raw;
use super::super::settings::ListenerSettings;
use crate::turn::config::forced::ForcedRelay;

/// What it comes to with the listeners there are.
pub(super) fn against_listeners(raw: &Raw, forced: &ForcedRelay, listeners: &[ListenerSettings], d: &mut Diagnostics) {
    let section = &raw.forced_relay;
    let Some((who, place)) = somebody(raw) else { return };
    if !listeners.iter().any(|listener| serves_path(listener, forced)) && !forced.ports.is_empty() {
        let message = format!(
            "no listener carries TURN on {}, where {who} must relay: nobody of them is served",
            ports(forced)
        );
        let diagnostic = Diagnostic::error(message).at(section.ports.place.or(place));
        d.push(
            diagnostic
                .help("add such a listener, or set `forced_relay.ports` to the ports of the listeners clients may use"),
        );
        return;
    }
    uris(raw, forced, who, d);
    let beside: Vec<_> = listeners.iter().map(|listener| beside_path(listener, forced)).collect();
    let open: Vec<_> = beside
        .iter()
        .filter(|listener| listener.carries_turn())
        .map(ListenerSettings::describe)
        .collect();
    if forced.everyone && !open.is_empty() {
        let message = format!(
            "everyone is forced to {}, but still open: {}; every Allocate there is refused",
            ports(forced),
            open.join(", ")
        );
        let diagnostic = Diagnostic::warning(message).at(section.everyone.place);
        d.push(diagnostic.help("leave nothing but the forced path in `[[listener]]`"));
    }
    binding(raw, forced, who, place, d);
}

/// Whom the configuration forces, and where it says so.
fn somebody(raw: &Raw) -> Option<(&'static str, Option<SourceSpan>)> {
    let user = raw.credentials.users.iter().find(|user| user.forced.value);
    let key = raw
        .api
        .keys
        .value
        .iter()
        .find(|key| raw.api.enabled.value && key.forced.value);
    if raw.forced_relay.everyone.value {
        Some(("everyone", raw.forced_relay.everyone.place))
    } else if let Some(key) = key {
        Some(("clients of forced API keys", key.forced.place))
    } else {
        user.map(|user| ("forced users", user.forced.place))
    }
}

/// URIs that were written down, against the path.
fn uris(raw: &Raw, forced: &ForcedRelay, who: &str, d: &mut Diagnostics) {
    let Auto::Given(uris) = &raw.api.uris.value else { return };
    if !raw.api.enabled.value || uris.is_empty() {
        return;
    }
    if !uris.iter().any(|uri| is_on_path(&uri.value, forced)) {
        let message = format!(
            "`api.uris` has no TURN URI for {}, where {who} must relay",
            ports(forced)
        );
        let diagnostic = Diagnostic::error(message).at(raw.api.uris.place);
        d.push(diagnostic.help("add one: \"turns:turn.example.org:443?transport=tcp\"; or write \"auto\""));
    } else if forced.everyone {
        for uri in uris.iter().filter(|uri| !is_on_path(&uri.value, forced)) {
            let message = format!(
                "`api.uris`: {:?} is never handed out, because everyone is forced to {}",
                uri.value,
                ports(forced)
            );
            d.push(Diagnostic::warning(message).at(uri.place).help("remove it"));
        }
    }
}

/// A Binding response tells an address that forced relay is there to hide.
fn binding(raw: &Raw, forced: &ForcedRelay, who: &str, place: Option<SourceSpan>, d: &mut Diagnostics) {
    let turn = &raw.turn.binding;
    if !turn.value || !(forced.binding || forced.everyone) {
        return;
    }
    let (message, help) = if forced.everyone {
        let message = "everyone is forced, but Binding is answered: a page that does not set iceTransportPolicy learns its own address from it";
        (message.to_owned(), "set `turn.binding = false`")
    } else {
        let message = format!(
            "Binding is answered where {who} must relay: a page that does not set iceTransportPolicy learns its own address from it"
        );
        (message, "set `forced_relay.binding = false`")
    };
    d.push(Diagnostic::warning(message).at(turn.place.or(place)).help(help));
}

fn ports(forced: &ForcedRelay) -> String {
    let ports: Vec<_> = forced.ports.iter().map(u16::to_string).collect();
    format!("port {}", ports.join(", "))
}
