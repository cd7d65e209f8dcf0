//! The certificate: the configured one is loaded once to see that it can be; else the place of the self-signed one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::super::Purpose;
use super::super::diagnostic::{Diagnostic, Place};
use super::super::schema::{Protocol, Raw};
use super::super::settings::TlsSettings;
use super::Context;
use crate::service::tls_store::{CertificateSource, TlsStore};

/// Where the self-signed certificate is kept, below the state directory.
const SELF_SIGNED: [&str; 2] = ["self-signed/certificate.pem", "self-signed/private_key.pem"];

/// `None` if it cannot be served.
pub(super) fn check(raw: &Raw, state_dir: Option<&Path>, cx: &mut Context<'_>) -> Option<TlsSettings> {
    let (Some(certificate), Some(key)) = (&raw.tls.certificate, &raw.tls.private_key) else {
        return self_signed(raw, state_dir, cx);
    };
    let (certificate, key) = (
        (cx.path(&certificate.value, certificate.place), certificate.place),
        (cx.path(&key.value, key.place), key.place),
    );
    if cx.purpose == Purpose::Mint {
        return Some(TlsSettings {
            certificate: certificate.0,
            private_key: key.0,
            self_signed: false,
        });
    }
    // Both are tried before the pair is, so that two unreadable files are told of at once.
    let readable = [
        readable(&certificate, "certificate", cx),
        readable(&key, "private key", cx),
    ];
    if readable != [true, true] {
        return None;
    }
    let source = CertificateSource {
        certificate: certificate.0.clone(),
        private_key: key.0.clone(),
        self_signed: None,
    };
    match TlsStore::open(source, cx.env.now()) {
        Ok((_, loaded)) => {
            for warning in loaded.warnings {
                let (message, help) = split(&warning.to_string());
                cx.d.push(Diagnostic::warning(message).at(certificate.1).maybe_help(help));
            }
            Some(TlsSettings {
                certificate: certificate.0,
                private_key: key.0,
                self_signed: false,
            })
        }
        Err(error) => {
            let place = if error.file == key.0 { key.1 } else { certificate.1 };
            let (message, help) = split(&error.to_string());
            cx.d.push(Diagnostic::error(message).at(place).maybe_help(help));
            None
        }
    }
}

fn readable(file: &(PathBuf, Option<Place>), what: &str, cx: &mut Context<'_>) -> bool {
    let (path, place) = file;
    let Err(error) = File::open(path) else { return true };
    let help = match error.kind() {
        io::ErrorKind::NotFound => {
            Some("correct the path; without `certificate` and `private_key` one is made".to_owned())
        }
        io::ErrorKind::PermissionDenied => Some(format!(
            "let the user the server runs as (now number {}) read it, and enter every directory above it",
            cx.env.user_id()
        )),
        _ => None,
    };
    let message = format!("cannot read the {what} {}: {error}", path.display());
    cx.d.push(Diagnostic::error(message).at(*place).maybe_help(help));
    false
}

fn self_signed(raw: &Raw, state_dir: Option<&Path>, cx: &mut Context<'_>) -> Option<TlsSettings> {
    if raw.tls.certificate.is_some() || raw.tls.private_key.is_some() {
        return None;
    }
    let needed = raw.listeners.value.iter().flat_map(|l| &l.protocols.value);
    let needed = needed
        .into_iter()
        .any(|protocol| matches!(protocol.0, Protocol::Tls | Protocol::Https));
    if state_dir.is_none() && needed {
        let message = "there is no certificate, and no directory to keep a self-signed one in";
        cx.d.push(Diagnostic::error(message).help("set `tls.certificate` and `tls.private_key`, or `state_dir`"));
        return None;
    }
    let dir = state_dir.unwrap_or_else(|| Path::new(""));
    let [certificate, private_key] = SELF_SIGNED.map(|file| dir.join(file));
    cx.effective
        .remark("tls", format!("self-signed: {}", certificate.display()));
    Some(TlsSettings {
        certificate,
        private_key,
        self_signed: true,
    })
}

/// "What is wrong. What to do" apart.
fn split(text: &str) -> (String, Option<String>) {
    match text.split_once(". ") {
        Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
        None => (text.to_owned(), None),
    }
}
