//! `[tls]`.

use std::path::PathBuf;

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Placed, is_host_name};
use axum::http::Uri;
use std::net::IpAddr;

const CERTIFICATE: ConfigKey = restart(
    "certificate",
    "PEM: the server's certificate, then its issuers.\n\n\
     Must contain the host name used in the URIs.",
)
.example("\"/etc/relay/fullchain.pem\"");

const PRIVATE_KEY: ConfigKey =
    restart("private_key", "PEM: the key, without a passphrase.").example("\"/etc/relay/privkey.pem\"");

const CERTIFICATES: ConfigKey = restart("certificates", "More certificates, for other names.");

const MORE_CERTIFICATE: ConfigKey = restart("certificate", "As `tls.certificate`.");

const MORE_PRIVATE_KEY: ConfigKey = restart("private_key", "As `tls.private_key`.");

const ACME_DOMAINS: ConfigKey = restart(
    "domains",
    "Obtain one certificate for these names from an ACME authority (RFC 8555), and renew it. Empty: \
     request none.",
)
.kind("list of host names");

const ACME_CONTACT: ConfigKey = restart("contact", "Address to which the authority may write.")
    .kind("mail address")
    .example("\"ops@example.org\"");

const ACME_DIRECTORY: ConfigKey = restart(
    "directory",
    "The authority's directory.\n\n\
     Using it means accepting its terms of service.",
)
.kind("URL");

const ACME_ROOT: ConfigKey = restart(
    "root",
    "PEM: root certificates that verify the authority, in addition to the public ones.\n\n\
     For an authority of your own.",
)
.example("\"/etc/relay/acme-root.pem\"");

/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

pub(in crate::config) struct RawTls {
    pub(in crate::config) certificate: Option<Located<PathBuf>>,
    pub(in crate::config) private_key: Option<Located<PathBuf>>,
    pub(in crate::config) certificates: Located<Vec<RawCertificate>>,
    pub(in crate::config) acme: RawAcme,
}

pub(in crate::config) struct RawAcme {
    pub(in crate::config) domains: Located<Vec<Placed<String>>>,
    pub(in crate::config) contact: Option<Located<String>>,
    pub(in crate::config) directory: Located<String>,
    pub(in crate::config) root: Option<Located<PathBuf>>,
}

pub(in crate::config) struct RawCertificate {
    pub(in crate::config) certificate: Located<PathBuf>,
    pub(in crate::config) private_key: Located<PathBuf>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawTls {
    RawTls {
        certificate: s.optional(CERTIFICATE),
        private_key: s.optional(PRIVATE_KEY),
        certificates: s.tables(CERTIFICATES, Vec::new(), |one, place| {
            let certificate = one.required(MORE_CERTIFICATE, "\"/etc/relay/second.pem\"", place);
            let private_key = one.required(MORE_PRIVATE_KEY, "\"/etc/relay/second-key.pem\"", place);
            Some(RawCertificate {
                certificate: certificate?,
                private_key: private_key?,
            })
        }),
        acme: s.section("acme", |s| RawAcme {
            domains: s.value(ACME_DOMAINS, Vec::new()),
            contact: s.optional(ACME_CONTACT),
            directory: s.value(ACME_DIRECTORY, LETS_ENCRYPT.to_owned()),
            root: s.optional(ACME_ROOT),
        }),
    }
}

/// Reports what is wrong with certificates.
pub(in crate::config) fn check(tls: &RawTls, d: &mut Diagnostics) {
    let lone = |d: &mut Diagnostics, there: &str, missing: &str, place| {
        let diagnostic = Diagnostic::error(format!("`tls.{there}` is set, `tls.{missing}` is not")).at(place);
        d.push(diagnostic.help("set both; without both, a self-signed certificate is made"));
    };
    match (&tls.certificate, &tls.private_key) {
        (Some(certificate), None) => lone(d, "certificate", "private_key", certificate.place),
        (None, Some(key)) => lone(d, "private_key", "certificate", key.place),
        _ => {}
    }
    acme(&tls.acme, d);
}

fn acme(acme: &RawAcme, d: &mut Diagnostics) {
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
    domains(acme, d);
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
}

fn domains(acme: &RawAcme, d: &mut Diagnostics) {
    let domains = &acme.domains.value;
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
