//! Reads and parses certificate files, and checks them as clients do.
//!
//! Making certificates and serving them is the edge's.

mod error;
pub(crate) mod load;
mod names;
mod roots;
mod served;

use std::path::{Path, PathBuf};

use rustls::crypto::aws_lc_rs;

pub use self::error::{TlsError, TlsProblem};
pub use self::names::{Unnamed, unnamed};
pub(crate) use self::roots::trusted_roots;
pub use self::served::{Certificate, CertificateInfo, LoadedCertificates, TlsWarning};
use super::files::own;
use crate::base::time::UnixTime;

/// What became of the certificate of one source.
pub type CertificateOutcome = Result<LoadedCertificates, TlsError>;

/// A certificate and its key on disk. Both may be in one file.
#[derive(Default, Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM chain; the server's own certificate comes first.
    pub certificate: PathBuf,
    /// PEM key.
    pub private_key: PathBuf,
    /// The state directory, if the files stand below it. `None`: they belong to the operator.
    pub state_dir: Option<PathBuf>,
}

impl CertificateFiles {
    /// Writes `contents` to `file`, one of the two, which stand below `state_dir`.
    pub(crate) fn write(&self, file: &Path, contents: &[u8], mode: u32) -> Result<(), TlsError> {
        let written = match &self.state_dir {
            Some(dir) => own::write(dir, file, contents, mode),
            None => unreachable!("the operator's files are only read"),
        };
        written.map_err(|error| TlsError::unwritable(file, &error))
    }
}

/// Reads the operator's files, and checks whether clients accept them.
///
/// # Errors
/// The file to correct, and what is wrong with it.
pub fn inspect(files: &CertificateFiles, now: UnixTime) -> Result<LoadedCertificates, TlsError> {
    let certificate = load::load(files, &aws_lc_rs::default_provider(), false)?;
    Ok(LoadedCertificates::new(
        &certificate,
        &files.private_key,
        now,
        true,
        false,
    ))
}
