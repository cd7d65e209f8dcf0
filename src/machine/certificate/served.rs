//! A certificate with its key, and the warnings about it.

use core::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::load;
use crate::base::time::UnixTime;

const DAY: u64 = 86_400;
/// Warn this long before the end of validity. ACME clients renew certificates of ninety days when
/// thirty are left, so at fourteen the renewal fails.
const SOON: u64 = 14 * DAY;
/// For certificates with a shorter lifetime: warn when this fraction of it is left.
const SOON_PART: u64 = 6;

/// A certificate with its key, as served.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    private_key: Arc<Zeroizing<Vec<u8>>>,
    /// Mode of the key file.
    mode: u32,
    info: CertificateInfo,
}

/// The fields of a certificate that operators need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Names and addresses it is valid for.
    pub names: Vec<String>,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// The server generated it. Clients refuse it unless they trust it explicitly.
    pub self_signed: bool,
}

/// A warning: the certificate is served nevertheless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsWarning {
    /// The validity has ended: clients refuse it.
    Expired,
    /// The validity has not begun: clients refuse it.
    NotYetValid,
    /// Whole days until the end of validity.
    ExpiresIn(u64),
    /// It contains no host name and no address: clients refuse it.
    NoNames,
    /// The chain lacks the certificate of this issuer, which is not among the roots that clients
    /// have.
    Alone(String),
    /// This certificate of the chain, counted from 1, did not issue the one before it.
    NotTheIssuer(usize),
    /// The validity of this certificate of the chain, counted from 1, has ended.
    IssuerExpired(usize),
    /// Users other than the owner may read the key file. Holds its path and its mode.
    KeyReadableByOthers(PathBuf, u32),
}

/// The result of loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedCertificates {
    /// The certificate served now.
    pub info: CertificateInfo,
    /// Whether it differs from the one served before.
    pub changed: bool,
    /// Whether it was generated just now.
    pub generated: bool,
    /// Warnings about it.
    pub warnings: Vec<TlsWarning>,
}

impl Certificate {
    pub(super) fn new(key: CertifiedKey, private_key: Zeroizing<Vec<u8>>, mode: u32, info: CertificateInfo) -> Self {
        Self {
            mode,
            key: Arc::new(key),
            private_key: Arc::new(private_key),
            info,
        }
    }

    /// The fields of it that operators need.
    pub const fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// The chain in DER; the server's own certificate comes first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// The private key in DER: PKCS #8, PKCS #1 or SEC 1, as it was in the file.
    pub fn private_key(&self) -> &[u8] {
        &self.private_key
    }

    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl CertificateInfo {
    /// The warning about its validity at `now`.
    fn untimely(&self, now: UnixTime) -> Option<TlsWarning> {
        if now >= self.not_after {
            return Some(TlsWarning::Expired);
        }
        if now < self.not_before {
            return Some(TlsWarning::NotYetValid);
        }
        let left = self.not_after.0 - now.0;
        let life = self.not_after.0 - self.not_before.0;
        (left < SOON.min(life / SOON_PART)).then_some(TlsWarning::ExpiresIn(left / DAY))
    }
}

impl LoadedCertificates {
    /// `key` is the file of its key.
    pub(crate) fn new(certificate: &Certificate, key: &Path, now: UnixTime, changed: bool, generated: bool) -> Self {
        let info = certificate.info();
        let mut warnings = Vec::from_iter(info.untimely(now));
        if info.names.is_empty() {
            warnings.push(TlsWarning::NoNames);
        }
        warnings.extend(load::broken_links(certificate.chain(), now));
        // Read access for the group is allowed: that is how services share a key.
        if certificate.mode & 0o007 != 0 {
            warnings.push(TlsWarning::KeyReadableByOthers(key.to_owned(), certificate.mode));
        }
        Self {
            info: info.clone(),
            changed,
            generated,
            warnings,
        }
    }
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("the certificate has expired: clients refuse it. Renew it"),
            Self::NotYetValid => {
                f.write_str("the certificate is not valid yet: clients refuse it. Check the clock of this machine")
            }
            Self::ExpiresIn(0) => f.write_str("the certificate expires within a day. Renew it"),
            Self::ExpiresIn(days) => write!(f, "the certificate expires in {days} days. Renew it"),
            Self::NoNames => {
                f.write_str("the certificate has no subjectAltName: clients refuse it. Ask for one with the host name")
            }
            Self::Alone(issuer) => write!(
                f,
                "the file holds the server's certificate alone: clients that lack its issuer's ({issuer}) refuse it. \
                 Append the issuer's certificate, or use the file that is usually named fullchain.pem; all is well if \
                 your clients trust that issuer as a root"
            ),
            Self::NotTheIssuer(position) => write!(
                f,
                "certificate number {position} of the chain is not the issuer of the one before it: clients may refuse \
                 the chain. Put each issuer behind what it issued"
            ),
            Self::IssuerExpired(position) => write!(
                f,
                "certificate number {position} of the chain has expired: clients may refuse the chain. Renew it, or \
                 get the issuer's present certificate"
            ),
            Self::KeyReadableByOthers(file, mode) => {
                let file = file.display();
                write!(
                    f,
                    "the private key file {file} has mode {mode:04o}: others can read it. `chmod o-rwx {file}`"
                )
            }
        }
    }
}
