//! Log lines about certificates, from files and from an ACME authority.

use super::TlsStore;
use crate::config::routed_names::hidden;
use crate::config::settings::{ApiSettings, FrontDoorSettings};
use crate::machine::certificate::{CertificateOutcome, LoadedCertificates, unnamed};

/// Logs the results of loading certificates while the server runs. Warns of names that routes hide,
/// and of names that clients connect to and that no certificate contains. At start and at a reload
/// the configuration's own checks report those names.
pub fn changes(all: &[CertificateOutcome], tls: &TlsStore, front_door: &FrontDoorSettings, api: &ApiSettings) {
    for loaded in all.iter().flatten() {
        for hidden in hidden(front_door, &loaded.info) {
            tracing::warn!("{hidden}");
        }
    }
    if all.iter().flatten().any(|loaded| loaded.changed) {
        names(tls, api);
    }
    outcomes(all);
}

/// Warns of names that clients connect to and that no certificate contains.
fn names(tls: &TlsStore, api: &ApiSettings) {
    if !api.enabled {
        return;
    }
    let all = tls.certificates();
    let infos: Vec<_> = all.iter().map(|certificate| certificate.info()).collect();
    let uris = api.uris.iter().chain(&api.forced_uris).map(String::as_str);
    for unnamed in unnamed(uris, &infos) {
        tracing::warn!("{unnamed}");
    }
}

/// Logs the results of loading certificates. `false`: one of them could not be loaded.
pub fn outcomes(all: &[CertificateOutcome]) -> bool {
    for outcome in all {
        match outcome {
            Ok(loaded) => certificate(loaded),
            Err(error) => tracing::error!(%error, "a certificate cannot be used; the previous one stays in service"),
        }
    }
    all.iter().all(Result::is_ok)
}

/// Logs which certificate is served, and the warnings about it.
pub fn certificate(loaded: &LoadedCertificates) {
    let info = &loaded.info;
    if loaded.changed {
        tracing::info!(
            names = info.names.join(", "),
            not_after_unix = info.not_after.0,
            sha256 = info.fingerprint,
            self_signed = info.self_signed,
            "certificate in service"
        );
    }
    for warning in &loaded.warnings {
        tracing::warn!(names = info.names.join(", "), "{warning}");
    }
}
