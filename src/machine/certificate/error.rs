//! Errors of certificate and key files, worded for the operator.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The file to look at.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: TlsProblem,
}

/// Kinds of errors of certificate and key files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsProblem {
    /// There is no such file.
    Missing,
    /// The server's user may not read it.
    NotPermitted,
    /// Reading failed for another reason.
    Unreadable(String),
    /// It could not be written.
    Unwritable(String),
    /// It contains no certificate.
    NoCertificate,
    /// It contains a private key and no certificate: the two files are swapped.
    KeyInsteadOfCertificate,
    /// It contains no private key.
    NoKey,
    /// It contains a certificate and no private key: the two files are swapped.
    CertificateInsteadOfKey,
    /// The key is protected by a pass phrase.
    EncryptedKey,
    /// DER or another binary form, where PEM is needed.
    Binary(Binary),
    /// Text in UTF-16, as some editors save it.
    Utf16,
    /// PEM that cannot be decoded.
    BadPem(String),
    /// The first certificate cannot be parsed.
    BadCertificate(String),
    /// The private key is damaged, or its kind is not supported.
    BadKey(String),
    /// The private key belongs to no certificate in this file.
    Mismatch(PathBuf),
    /// The private key belongs to this certificate of the chain, counted from 1, and not to the
    /// first.
    WrongOrder(usize),
    /// The TLS library refuses it.
    Library(String),
}

/// A binary format, or one that is not PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// A certificate in DER.
    Certificate,
    /// A private key in DER, without a pass phrase.
    PrivateKey,
    /// A private key in DER, encrypted.
    EncryptedKey,
    /// Certificates in PKCS #7, in DER or PEM.
    Pkcs7 {
        /// Whether it is PEM.
        pem: bool,
    },
    /// Certificates and a key in PKCS #12.
    Pkcs12,
}

impl Binary {
    /// The name of the format, and the OpenSSL command that converts it to PEM.
    const fn says(self) -> (&'static str, &'static str) {
        match self {
            Self::Certificate => ("a certificate in DER", "openssl x509 -inform der"),
            Self::PrivateKey => ("a private key in DER", "openssl pkey -inform der"),
            Self::EncryptedKey => ("an encrypted private key in DER", "openssl pkey -inform der"),
            Self::Pkcs7 { pem: false } => ("certificates in PKCS #7", "openssl pkcs7 -inform der -print_certs"),
            Self::Pkcs7 { pem: true } => ("certificates in PKCS #7", "openssl pkcs7 -print_certs"),
            Self::Pkcs12 => ("PKCS #12", "openssl pkcs12 -nodes"),
        }
    }
}

impl TlsError {
    /// `file` could not be written.
    pub(crate) fn unwritable(file: &Path, error: &io::Error) -> Self {
        Self {
            file: file.to_owned(),
            problem: TlsProblem::Unwritable(error.to_string()),
        }
    }
}

impl TlsProblem {
    /// Whether the error concerns access to the file only, so that its contents may be valid.
    pub(crate) const fn is_of_the_place(&self) -> bool {
        matches!(self, Self::NotPermitted | Self::Unreadable(_))
    }

    /// A file could not be read.
    pub(crate) fn of_read(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::NotPermitted,
            _ => Self::Unreadable(error.to_string()),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        match &self.problem {
            TlsProblem::Missing => f.write_str(
                "no such file. Correct the path, or remove both `certificate` and `private_key` from [tls] to run \
                 with a self-signed certificate",
            ),
            TlsProblem::NotPermitted => f.write_str(
                "this user may not read it. Give the user the server runs as read access to the file and to every \
                 directory above it",
            ),
            TlsProblem::Unreadable(error) => write!(f, "cannot be read: {error}"),
            TlsProblem::Unwritable(error) => {
                write!(f, "cannot be written: {error}. Check `state_dir` and who owns it")
            }
            TlsProblem::NoCertificate => {
                f.write_str("holds no certificate: a PEM file with BEGIN CERTIFICATE is needed")
            }
            TlsProblem::KeyInsteadOfCertificate => f.write_str(
                "holds a private key where the certificate should be. Are `certificate` and `private_key` swapped?",
            ),
            TlsProblem::NoKey => f.write_str(
                "holds no private key: a PEM file with BEGIN PRIVATE KEY (or RSA or EC PRIVATE KEY) is needed",
            ),
            TlsProblem::CertificateInsteadOfKey => f.write_str(
                "holds a certificate where the private key should be. Are `certificate` and `private_key` swapped?",
            ),
            TlsProblem::EncryptedKey => f.write_str(
                "the private key is protected by a pass phrase. Store it without one: \
                 `openssl pkey -in old.pem -out new.pem`",
            ),
            TlsProblem::Binary(binary) => {
                let ((what, command), file) = (binary.says(), self.file.display());
                write!(
                    f,
                    "holds {what}, and PEM is needed. Convert it: `{command} -in {file} -out {file}.pem`"
                )
            }
            TlsProblem::Utf16 => f.write_str("is saved as UTF-16, and PEM is ASCII. Save it as UTF-8 or ASCII"),
            TlsProblem::BadPem(error) => write!(f, "is damaged: {error}"),
            TlsProblem::BadCertificate(error) => write!(f, "the first certificate cannot be parsed: {error}"),
            TlsProblem::BadKey(error) => write!(f, "the private key cannot be used: {error}"),
            TlsProblem::Mismatch(certificate) => write!(
                f,
                "the private key does not belong to the certificate in {}. Use the key it was issued for",
                certificate.display()
            ),
            TlsProblem::WrongOrder(position) => write!(
                f,
                "the private key belongs to certificate number {position} of the chain. The server's own certificate \
                 must come first, then its issuers"
            ),
            TlsProblem::Library(error) => write!(f, "cannot be served: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}
