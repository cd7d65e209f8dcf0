//! A certificate of our own making, for a first run without one. Encrypts, but proves nothing to a client that was not
//! told to trust it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use zeroize::Zeroizing;

use super::{CertificateInfo, SelfSigned, TlsError, TlsProblem};
use crate::turn::time::UnixTime;

const DAY: u64 = 86_400;
/// Some systems refuse server certificates of more than 398 days.
const VALID_DAYS: u64 = 397;
/// Made anew when less is left.
const RENEW_DAYS: u64 = 30;

/// Whether `info` is good for `wanted`, and for a while yet.
pub(super) fn still_serves(info: &CertificateInfo, wanted: &SelfSigned, now: UnixTime) -> bool {
    let mut names = names(wanted);
    names.sort();
    let mut have = info.names.clone();
    have.sort();
    names == have && info.not_before <= now && now.0 + RENEW_DAYS * DAY < info.not_after.0
}

/// Names and addresses as they stand in the certificate. Never none.
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

/// A host name as a client would compare it; a realm need not be one.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<std::net::IpAddr>().is_err()
}

/// Makes a P-256 key and a certificate for it, and writes both: the key readable by its owner only.
pub(super) fn generate(
    certificate: &Path,
    private_key: &Path,
    wanted: &SelfSigned,
    now: UnixTime,
) -> Result<(), TlsError> {
    let library = |error: rcgen::Error| TlsError {
        file: certificate.to_owned(),
        problem: TlsProblem::Library(error.to_string()),
    };
    let names = names(wanted);
    let at = |unix: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(unix);
    let mut params = CertificateParams::new(names.clone()).map_err(library)?;
    // A day back: a client's clock may be behind ours.
    params.not_before = at(now.0.saturating_sub(DAY)).into();
    params.not_after = at(now.0 + (VALID_DAYS - 1) * DAY).into();
    params.distinguished_name.push(DnType::CommonName, names[0].as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(library)?;
    let signed = params.self_signed(&key).map_err(library)?;
    let key_pem = Zeroizing::new(key.serialize_pem());

    for (file, contents, mode) in [
        (private_key, key_pem.as_bytes(), 0o600),
        (certificate, signed.pem().as_bytes(), 0o644),
    ] {
        write(file, contents, mode).map_err(|error| TlsError {
            file: file.to_owned(),
            problem: TlsProblem::Unwritable(error.to_string()),
        })?;
    }
    Ok(())
}

/// Whole or not at all, and never readable by more than `mode` says.
fn write(file: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    // A leftover of an interrupted run; it may have another mode.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut handle = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    handle.write_all(contents)?;
    handle.sync_all()?;
    fs::rename(new, file)
}
