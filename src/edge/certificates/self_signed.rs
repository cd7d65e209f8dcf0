//! A self-signed certificate for a first run without one. It encrypts, but proves nothing to a
//! client that does not trust it explicitly.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use zeroize::Zeroizing;

use super::{SelfSigned, own};
use crate::base::time::UnixTime;
use crate::machine::certificate::{CertificateFiles, CertificateInfo, TlsError, TlsProblem};

const DAY: u64 = 86_400;
/// Some systems refuse server certificates of more than 398 days.
const VALID_DAYS: u64 = 397;
/// Generate another when less is left.
const RENEW_DAYS: u64 = 30;

/// Whether `info` covers `wanted` and does not expire soon.
pub(super) fn still_serves(info: &CertificateInfo, wanted: &SelfSigned, now: UnixTime) -> bool {
    let mut names = names(wanted);
    names.sort();
    let mut have = info.names.clone();
    have.sort();
    names == have && info.not_before <= now && now.0 + RENEW_DAYS * DAY < info.not_after.0
}

/// Names and addresses in the certificate's notation. Never empty.
fn names(wanted: &SelfSigned) -> Vec<String> {
    let hosts = wanted.names.iter().filter(|name| is_host_name(name)).cloned();
    let mut all: Vec<String> = Vec::new();
    for name in hosts.chain(wanted.addresses.iter().map(ToString::to_string)) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    if all.is_empty() {
        all.push("localhost".to_owned());
    }
    all
}

/// A host name as clients compare it; a realm need not be one.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<std::net::IpAddr>().is_err()
}

/// Generates a P-256 key and a certificate for it, and writes both. Only the owner may read the
/// key.
pub(super) fn generate(files: &CertificateFiles, wanted: &SelfSigned, now: UnixTime) -> Result<(), TlsError> {
    let library = |error: rcgen::Error| TlsError {
        file: files.certificate.clone(),
        problem: TlsProblem::Library(error.to_string()),
    };
    let names = names(wanted);
    let at = |unix: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(unix);
    let mut params = CertificateParams::new(names.clone()).map_err(library)?;
    // One day earlier, for clients whose clock is behind.
    params.not_before = at(now.0.saturating_sub(DAY)).into();
    params.not_after = at(now.0 + (VALID_DAYS - 1) * DAY).into();
    params.distinguished_name.push(DnType::CommonName, names[0].as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(library)?;
    let signed = params.self_signed(&key).map_err(library)?;
    let key_pem = Zeroizing::new(key.serialize_pem());

    files.write(&files.private_key, key_pem.as_bytes(), own::PRIVATE)?;
    files.write(&files.certificate, signed.pem().as_bytes(), 0o644)
}
