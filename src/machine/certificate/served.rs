//! A certificate with its key, and what an operator should know of it.

use core::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::load;
use crate::base::time::UnixTime;

const DAY: u64 = 86_400;
/// Renewal is due before: ACME clients renew ninety days at thirty, so less means that it fails.
const SOON: u64 = 14 * DAY;
/// The same for certificates that live for less: with so much of their life left.
const SOON_PART: u64 = 6;

/// A certificate with its key, as served.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    private_key: Arc<Zeroizing<Vec<u8>>>,
    /// Of the key file.
    mode: u32,
    info: CertificateInfo,
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Names and addresses it is good for.
    pub names: Vec<String>,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// Made by ourselves: clients refuse it unless they are told to trust it.
    pub self_signed: bool,
}

/// Something an operator should know, although the certificate is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsWarning {
    /// The end of validity has passed: clients refuse it.
    Expired,
    /// The start of validity has not come: clients refuse it.
    NotYetValid,
    /// So many whole days are left.
    ExpiresIn(u64),
    /// It names no host and no address: clients refuse it.
    NoNames,
    /// It comes without the certificate of its issuer, which is named, and is no root that clients have.
    Alone(String),
    /// This certificate of the chain, from 1, is not that of the issuer of the one before.
    NotTheIssuer(usize),
    /// The end of validity of this certificate of the chain, from 1, has passed.
    IssuerExpired(usize),
    /// Others than its owner may read the key file: it, and its mode.
    KeyReadableByOthers(PathBuf, u32),
}

/// The outcome of loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedCertificates {
    /// What is served now.
    pub info: CertificateInfo,
    /// It differs from what was served before.
    pub changed: bool,
    /// It was made just now.
    pub generated: bool,
    /// What is wrong with it nevertheless.
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

    /// What it says of itself.
    pub const fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// The chain in DER, the server's own certificate first.
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
    /// What is wrong with its time at `now`.
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
        // A group is left alone: it is how services share a key.
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
