//! What the log says of certificates.

use crate::machine::certificate::LoadedCertificates;

/// Logs which certificate is served, and what is wrong with it nevertheless.
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
