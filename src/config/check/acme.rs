//! Whether an ACME authority can be asked for the names that are written, and could answer.

use std::net::IpAddr;

use axum::http::Uri;

use super::super::reader::diagnostic::{Diagnostic, Diagnostics};
use super::super::reader::value::is_host_name;
use super::super::sections::Raw;
use super::super::sections::listener::{Protocol, RawListener};

pub(super) fn check(raw: &Raw, d: &mut Diagnostics) {
    let acme = &raw.tls.acme;
    if acme.domains.value.is_empty() {
        let contact = acme.contact.as_ref().map(|it| ("contact", it.place));
        let root = acme.root.as_ref().map(|it| ("root", it.place));
        for (key, place) in contact.into_iter().chain(root) {
            let message = format!("`tls.acme.{key}` is set, `tls.acme.domains` is not: no certificate is asked for");
            let help = "list the names of this server in `tls.acme.domains`";
            d.push(Diagnostic::error(message).at(place).help(help));
        }
        return;
    }
    domains(raw, d);
    if let Some(contact) = &acme.contact {
        let mail = contact.value.split_once('@');
        let good = mail.is_some_and(|(user, host)| !user.is_empty() && !user.contains(':') && is_host_name(host));
        if !good {
            let message = format!("`tls.acme.contact`: {:?} is not a mail address", contact.value);
            d.push(
                Diagnostic::error(message)
                    .at(contact.place)
                    .help("for example \"ops@example.org\""),
            );
        }
    }
    let directory = &acme.directory;
    let url = directory.value.parse::<Uri>();
    if !url.is_ok_and(|url| url.scheme_str() == Some("https") && url.host().is_some()) {
        let message = format!("`tls.acme.directory`: {:?} is not an https URL", directory.value);
        let help = "leave it out for Let's Encrypt, or write the URL of the authority's directory";
        d.push(Diagnostic::error(message).at(directory.place).help(help));
    }
    listeners(raw, d);
}

fn domains(raw: &Raw, d: &mut Diagnostics) {
    let domains = &raw.tls.acme.domains.value;
    for (index, domain) in domains.iter().enumerate() {
        let name = &domain.value;
        let (message, help) = if name.starts_with("*.") {
            ("is a wildcard, which takes a DNS challenge", "list each name")
        } else if name.parse::<IpAddr>().is_ok() || !is_host_name(name) || !name.contains('.') || name.ends_with('.') {
            ("is not a public host name", "for example \"turn.example.org\"")
        } else if domains[..index]
            .iter()
            .any(|earlier| earlier.value.eq_ignore_ascii_case(name))
        {
            ("is listed twice", "remove one")
        } else {
            continue;
        };
        let message = format!("`tls.acme.domains`: {name:?} {message}");
        d.push(Diagnostic::error(message).at(domain.place).help(help));
    }
}

/// The authority connects to port 443.
fn listeners(raw: &Raw, d: &mut Diagnostics) {
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
