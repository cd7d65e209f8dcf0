//! The trusted certificate authorities.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::load::read_pem;
use super::{TlsError, TlsProblem};

/// Trust anchors: the public certificate authorities, and those in `file`.
///
/// # Errors
/// When `file` cannot be read, or contains no certificate.
pub(crate) fn trusted_roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let Some(file) = file else { return Ok(roots) };
    for certificate in read_roots(file)? {
        roots.add(certificate).map_err(|error| TlsError {
            file: file.to_owned(),
            problem: TlsProblem::BadCertificate(error.to_string()),
        })?;
    }
    Ok(roots)
}

/// The certificates of a PEM file, at least one.
fn read_roots(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let at = |problem| TlsError {
        file: file.to_owned(),
        problem,
    };
    let bytes = read_pem(file, None).map_err(at)?.bytes;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err(at(TlsProblem::NoCertificate)),
        Ok(all) => Ok(all),
        Err(error) => Err(at(TlsProblem::BadPem(error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn roots_of_a_file_are_trusted_besides_the_public_ones() {
        let directory = std::env::temp_dir().join(format!("relay-roots-{}", std::process::id()));
        fs::create_dir(&directory).expect("a directory");
        let file = directory.join("root.pem");
        let with = |text: &str| {
            fs::write(&file, text).expect("write");
            trusted_roots(Some(&file))
                .map(|roots| roots.len())
                .map_err(|error| error.problem)
        };
        let public = trusted_roots(None).expect("the public ones").len();
        assert!(public > 0);
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["ca.test".to_owned()]).expect("names");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        assert_eq!(with(&pem), Ok(public + 1));
        assert_eq!(with("nothing\n"), Err(TlsProblem::NoCertificate));
        assert!(matches!(with(&pem.replacen('M', "!", 1)), Err(TlsProblem::BadPem(_))));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(with(garbage), Err(TlsProblem::BadCertificate(_))));
        fs::remove_dir_all(&directory).expect("was made");
    }
}
