//! Reads PEM files into a certificate and its private key.

use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

use super::error::Binary;
use super::{Certificate, CertificateFiles, CertificateInfo, TlsError, TlsProblem, TlsWarning};
use crate::base::time::UnixTime;
use crate::machine::files::{self, Contents, own};

/// Reads both files.
pub(crate) fn load(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    self_signed: bool,
) -> Result<Certificate, TlsError> {
    let pem = |file| read_pem(file, files.state_dir.as_deref()).map_err(|problem| at(file, problem));
    let (certificate, private_key) = (pem(&files.certificate)?, pem(&files.private_key)?);
    let bytes = (&certificate.bytes[..], &private_key.bytes[..]);
    parse(bytes, private_key.mode, files, provider, self_signed)
}

fn at(file: &Path, problem: TlsProblem) -> TlsError {
    TlsError {
        file: file.to_owned(),
        problem,
    }
}

/// Parses the contents of `files`. `mode` is that of the key file.
pub(crate) fn parse(
    (chain, key): (&[u8], &[u8]),
    mode: u32,
    files: &CertificateFiles,
    provider: &CryptoProvider,
    self_signed: bool,
) -> Result<Certificate, TlsError> {
    let CertificateFiles {
        certificate,
        private_key,
        ..
    } = files;
    let chain = parse_chain(chain).map_err(|problem| at(certificate, problem))?;
    let der = parse_key(key).map_err(|problem| at(private_key, problem))?;
    let private_key_der = Zeroizing::new(der.secret_der().to_vec());
    let key = provider
        .key_provider
        .load_private_key(der)
        .map_err(|error| at(private_key, TlsProblem::BadKey(error.to_string())))?;
    let info = describe(&chain[0], self_signed).map_err(|problem| at(certificate, problem))?;
    let belongs = |position: usize| {
        let certified = CertifiedKey::new(chain[position..].to_vec(), key.clone());
        !matches!(
            certified.keys_match(),
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch))
        )
    };
    if !belongs(0) {
        return Err(match (1..chain.len()).find(|&position| belongs(position)) {
            Some(position) => at(certificate, TlsProblem::WrongOrder(position + 1)),
            None => at(private_key, TlsProblem::Mismatch(certificate.to_owned())),
        });
    }
    let key = CertifiedKey::new(chain, key);
    Ok(Certificate::new(key, private_key_der, mode, info))
}

/// Reads a PEM file: the operator's, or one that the server keeps below `state_dir`.
pub(super) fn read_pem(file: &Path, state_dir: Option<&Path>) -> Result<Contents, TlsProblem> {
    let read = match state_dir {
        None => files::read(file, files::MAX_PEM),
        Some(dir) => own::read(dir, file, files::MAX_PEM),
    };
    let Contents { bytes, mode } = read.map_err(|error| TlsProblem::of_read(&error))?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(TlsProblem::Utf16);
    }
    let bytes = without_byte_order_marks(bytes);
    Ok(Contents { bytes, mode })
}

/// Removes byte order marks. Editors write them at the start of a file, and `cat` moves them into
/// the middle, where they would hide the PEM block that follows.
fn without_byte_order_marks(bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if !holds(&bytes, MARK) {
        return bytes;
    }
    let mut clean = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut rest = &bytes[..];
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        clean.extend_from_slice(&rest[..at]);
        rest = &rest[at + MARK.len()..];
    }
    clean.extend_from_slice(rest);
    clean
}

/// The certificates of a chain, at least one.
fn parse_chain(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let chain = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsProblem::BadPem(error.to_string()))?;
    match chain.is_empty() {
        false => Ok(chain),
        true if holds(bytes, b"PRIVATE KEY-----") => Err(TlsProblem::KeyInsteadOfCertificate),
        true => Err(match binary(bytes) {
            Some(Binary::PrivateKey | Binary::EncryptedKey) => TlsProblem::KeyInsteadOfCertificate,
            other => other.map_or(TlsProblem::NoCertificate, TlsProblem::Binary),
        }),
    }
}

fn parse_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    if holds(bytes, b"BEGIN ENCRYPTED PRIVATE KEY") || holds(bytes, b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsProblem::EncryptedKey);
    }
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if holds(bytes, b"BEGIN CERTIFICATE") => TlsProblem::CertificateInsteadOfKey,
        pem::Error::NoItemsFound => match binary(bytes) {
            Some(Binary::Certificate | Binary::Pkcs7 { .. }) => TlsProblem::CertificateInsteadOfKey,
            other => other.map_or(TlsProblem::NoKey, TlsProblem::Binary),
        },
        error => TlsProblem::BadPem(error.to_string()),
    })
}

/// Recognises the format of a file without a PEM block that we read.
fn binary(bytes: &[u8]) -> Option<Binary> {
    if holds(bytes, b"BEGIN PKCS7") {
        return Some(Binary::Pkcs7 { pem: true });
    }
    if parse_x509_certificate(bytes).is_ok() {
        return Some(Binary::Certificate);
    }
    // The first element of the outermost SEQUENCE identifies the other formats.
    const VERSION_3: &[u8] = &[0x02, 0x01, 0x03];
    const OID_PKCS7: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];
    const OID_PKCS5: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05];
    let inside = inside_sequence(bytes)?;
    if inside.starts_with(VERSION_3) {
        Some(Binary::Pkcs12)
    } else if inside.starts_with(OID_PKCS7) {
        Some(Binary::Pkcs7 { pem: false })
    } else if PrivateKeyDer::try_from(bytes).is_ok() {
        Some(Binary::PrivateKey)
    } else {
        let algorithm = inside_sequence(inside)?;
        algorithm.starts_with(OID_PKCS5).then_some(Binary::EncryptedKey)
    }
}

/// The contents of a SEQUENCE in DER, behind its tag and length.
fn inside_sequence(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [0x30, 0..=0x7f, inside @ ..] => Some(inside),
        [0x30, more @ 0x81..=0x84, inside @ ..] => inside.get(usize::from(more & 0x7f)..),
        _ => None,
    }
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Finds what makes clients refuse a chain: a certificate that its successor did not issue, and an
/// expired issuer.
pub(super) fn broken_links(chain: &[CertificateDer<'_>], now: UnixTime) -> Vec<TlsWarning> {
    let parsed: Vec<_> = chain
        .iter()
        .filter_map(|one| parse_x509_certificate(one).ok())
        .collect();
    let mut warnings = Vec::new();
    for (index, pair) in parsed.windows(2).enumerate() {
        let [(_, one), (_, next)] = pair else { continue };
        if one.issuer().as_raw() != next.subject().as_raw() {
            warnings.push(TlsWarning::NotTheIssuer(index + 2));
        }
    }
    for (index, (_, issuer)) in parsed.iter().enumerate().skip(1) {
        let end = u64::try_from(issuer.validity().not_after.timestamp()).unwrap_or(0);
        if now.0 >= end {
            warnings.push(TlsWarning::IssuerExpired(index + 1));
        }
    }
    if let [(_, alone)] = &parsed[..]
        && alone.issuer().as_raw() != alone.subject().as_raw()
        && !is_public_root(alone.issuer().as_raw())
    {
        warnings.push(TlsWarning::Alone(alone.issuer().to_string()));
    }
    warnings
}

/// Whether clients have the certificate of this subject (DER, with its outer SEQUENCE) among their
/// roots.
fn is_public_root(subject: &[u8]) -> bool {
    // Trust anchors hold the contents of the SEQUENCE.
    webpki_roots::TLS_SERVER_ROOTS
        .iter()
        .any(|root| subject.ends_with(root.subject.as_ref()) && subject.len() <= root.subject.len() + 6)
}

/// The fields of a certificate that operators need.
fn describe(certificate: &CertificateDer<'_>, self_signed: bool) -> Result<CertificateInfo, TlsProblem> {
    let (_, parsed) =
        parse_x509_certificate(certificate).map_err(|error| TlsProblem::BadCertificate(error.to_string()))?;
    let time = |timestamp: i64| UnixTime(u64::try_from(timestamp).unwrap_or(0));
    let names = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name).collect(),
        Ok(None) => Vec::new(),
        Err(error) => return Err(TlsProblem::BadCertificate(error.to_string())),
    };
    Ok(CertificateInfo {
        names,
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
        fingerprint: Sha256::digest(certificate)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        self_signed,
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            16 => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_root_is_known_by_its_whole_name() {
        let inside = webpki_roots::TLS_SERVER_ROOTS[0].subject.as_ref();
        let behind = |header: &[u8]| [header, inside].concat();
        assert!(is_public_root(&behind(&[0x30, 0x82, 0, 0])));
        assert!(is_public_root(&behind(&[0x30; 6])));
        assert!(!is_public_root(&behind(&[0x30; 7])), "it only ends like one");
        assert!(!is_public_root(b"\x30\x03abc"));
    }
}
