//! Certificates: the configured ones are loaded once to see that they can be; else the place of the self-signed one.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::super::harmless::shown;
use super::super::reader::diagnostic::{Diagnostic, SourceSpan};
use super::super::sections::Raw;
use super::super::sections::listener::Protocol;
use super::super::settings::{AcmeSettings, ApiSettings, FrontDoorSettings, TlsSettings};
use super::super::{Purpose, access};
use super::{Context, front_door};
use crate::config::routed_names::hidden;
use crate::machine::certificate::{CertificateFiles, CertificateInfo, TlsWarning, inspect, trusted_roots, unnamed};
use crate::machine::files;

/// Where the self-signed certificate is kept, below the state directory.
const SELF_SIGNED: [&str; 2] = ["self-signed/certificate.pem", "self-signed/private_key.pem"];

const ONE_IS_MADE: &str = "without `certificate` and `private_key` one is made";

/// A file, and where it is written.
type Written = (PathBuf, Option<SourceSpan>);

/// `None` if they cannot be served.
pub(super) fn check(raw: &Raw, state_dir: Option<&Path>, cx: &mut Context<'_>) -> Option<(TlsSettings, Served)> {
    let mut pairs = Vec::new();
    if let (Some(certificate), Some(key)) = (&raw.tls.certificate, &raw.tls.private_key) {
        pairs.push([certificate, key]);
    }
    let more = raw.tls.certificates.value.iter();
    pairs.extend(more.map(|one| [&one.certificate, &one.private_key]));
    let none_written = pairs.is_empty();

    let front_door = front_door::settings(raw);
    let mut certificates = Vec::new();
    let mut served = Served::default();
    let mut good = true;
    if cx.purpose == Purpose::Mint {
        pairs.clear();
    }
    for pair in pairs {
        let [certificate, key] = pair.map(|file| Some((cx.file(&file.value, file.place)?, file.place)));
        // Why not, has been said.
        let (Some(certificate), Some(key)) = (certificate, key) else {
            continue;
        };
        good &= can_be_served(&certificate, &key, &front_door, &mut served, cx);
        certificates.push(CertificateFiles {
            certificate: certificate.0,
            private_key: key.0,
            state_dir: None,
        });
    }
    let acme = match raw.tls.acme.domains.value.is_empty() {
        true => None,
        false => Some(acme(raw, state_dir, cx)?),
    };
    let settings = TlsSettings {
        self_signed: self_signed(raw, state_dir, none_written && acme.is_none(), cx)?,
        certificates,
        acme,
    };
    good.then_some((settings, served))
}

/// What the configured files say, each with the place it is written at.
pub(super) type Served = Vec<(CertificateInfo, Option<SourceSpan>)>;

/// Warns of hosts in the URIs clients get that no certificate names.
pub(super) fn check_names(raw: &Raw, api: &ApiSettings, served: &Served, cx: &mut Context<'_>) {
    let domains = &raw.tls.acme.domains;
    let obtained = CertificateInfo {
        names: domains.value.iter().map(|name| name.value.clone()).collect(),
        not_before: cx.env.now(),
        not_after: cx.env.now(),
        fingerprint: String::new(),
        self_signed: false,
    };
    let mut all: Vec<(&CertificateInfo, Option<SourceSpan>)> =
        served.iter().map(|(info, place)| (info, *place)).collect();
    if !domains.value.is_empty() {
        all.push((&obtained, domains.place));
    }
    let Some((_, place)) = all.first().copied().filter(|_| api.enabled) else {
        return;
    };
    let uris = api.uris.iter().chain(&api.forced_uris).map(String::as_str);
    let infos: Vec<&CertificateInfo> = all.iter().map(|(info, _)| *info).collect();
    for unnamed in unnamed(uris, &infos) {
        let (message, help) = split(&unnamed.to_string());
        cx.d.push(Diagnostic::warning(message).at(place).maybe_help(help));
    }
}

fn acme(raw: &Raw, state_dir: Option<&Path>, cx: &mut Context<'_>) -> Option<AcmeSettings> {
    let raw = &raw.tls.acme;
    let Some(state_dir) = state_dir else {
        let message = "there is no directory to keep an ACME account and its certificate in";
        cx.d.push(Diagnostic::error(message).at(raw.domains.place).help("set `state_dir`"));
        return None;
    };
    let root = raw.root.as_ref().filter(|_| cx.purpose != Purpose::Mint);
    let root = root.and_then(|root| Some((cx.file(&root.value, root.place)?, root.place)));
    if let Some(root) = &root {
        if !readable(root, "root certificate", "the public authorities need none", cx) {
            return None;
        }
        if let Err(error) = trusted_roots(Some(&root.0)) {
            let diagnostic = Diagnostic::error(format!("`tls.acme.root`: {error}")).at(root.1);
            cx.d.push(diagnostic.help("it is a PEM file with the authority's root certificate"));
            return None;
        }
    }
    // Each authority has its own place: what a test authority gave is not served once the real one is asked.
    let digest = Sha256::digest(&raw.directory.value);
    let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = state_dir.join("acme").join(name);
    cx.effective.remark("tls.acme", format!("kept in {}", shown(&dir)));
    Some(AcmeSettings {
        state_dir: state_dir.to_owned(),
        domains: raw
            .domains
            .value
            .iter()
            .map(|name| name.value.to_ascii_lowercase())
            .collect(),
        contact: raw.contact.as_ref().map(|contact| contact.value.clone()),
        directory: raw.directory.value.clone(),
        root: root.map(|(file, _)| file),
        account: dir.join("account-key"),
        kept: dir.join("certificate.pem"),
    })
}

fn can_be_served(
    certificate: &Written,
    key: &Written,
    front_door: &FrontDoorSettings,
    served: &mut Served,
    cx: &mut Context<'_>,
) -> bool {
    // Both are tried before the pair is, so that two unreadable files are told of at once.
    let readable = [
        readable(certificate, "certificate", ONE_IS_MADE, cx),
        readable(key, "private key", ONE_IS_MADE, cx),
    ];
    if readable != [true, true] {
        return false;
    }
    let files = CertificateFiles {
        certificate: certificate.0.clone(),
        private_key: key.0.clone(),
        state_dir: None,
    };
    match inspect(&files, cx.env.now()) {
        Ok(loaded) => {
            served.push((loaded.info.clone(), certificate.1));
            for warning in &loaded.warnings {
                let (message, help) = split(&warning.to_string());
                let (place, help) = match warning {
                    TlsWarning::KeyReadableByOthers(file, _) => (key.1, Some(access::closing(file, cx.env))),
                    _ => (certificate.1, help),
                };
                cx.d.push(Diagnostic::warning(message).at(place).maybe_help(help));
            }
            for hidden in hidden(front_door, &loaded.info) {
                let (message, help) = split(&hidden.to_string());
                cx.d.push(Diagnostic::warning(message).at(certificate.1).maybe_help(help));
            }
            true
        }
        Err(error) => {
            let place = if error.file == key.0 { key.1 } else { certificate.1 };
            let (message, help) = split(&error.to_string());
            cx.d.push(Diagnostic::error(message).at(place).maybe_help(help));
            false
        }
    }
}

fn readable(file: &Written, what: &str, without: &str, cx: &mut Context<'_>) -> bool {
    let (path, place) = file;
    let Err(error) = files::read(path, files::MAX_PEM) else {
        return true;
    };
    let help = cx.read_help(&error, path, format!("correct the path; {without}"));
    let message = format!("cannot read the {what} {}: {error}", path.display());
    cx.d.push(Diagnostic::error(message).at(*place).maybe_help(help));
    false
}

/// Where one of our own making is or would be. `None`: one is needed, and there is no such place.
fn self_signed(raw: &Raw, state_dir: Option<&Path>, only: bool, cx: &mut Context<'_>) -> Option<CertificateFiles> {
    // One of the two alone is reported by the checks already.
    let only = only && raw.tls.certificate.is_none() && raw.tls.private_key.is_none();
    let needed = raw.listeners.value.iter().flat_map(|l| &l.protocols.value);
    let needed = needed
        .into_iter()
        .any(|protocol| matches!(protocol.0, Protocol::Dtls | Protocol::Tls | Protocol::Https));
    if only && state_dir.is_none() && needed {
        let message = "there is no certificate, and no directory to keep a self-signed one in";
        cx.d.push(Diagnostic::error(message).help("set `tls.certificate` and `tls.private_key`, or `state_dir`"));
        return None;
    }
    let dir = state_dir.unwrap_or_else(|| Path::new(""));
    let [certificate, private_key] = SELF_SIGNED.map(|file| dir.join(file));
    if only {
        cx.effective
            .remark("tls", format!("self-signed: {}", shown(&certificate)));
    }
    Some(CertificateFiles {
        certificate,
        private_key,
        state_dir: Some(dir.to_owned()),
    })
}

/// "What is wrong. What to do" apart.
fn split(text: &str) -> (String, Option<String>) {
    match text.split_once(". ") {
        Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
        None => (text.to_owned(), None),
    }
}
