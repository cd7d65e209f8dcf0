//! `[tls]`.

use std::path::PathBuf;

use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::Placed;

/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

pub(in crate::config) struct RawTls {
    pub(in crate::config) certificate: Option<Located<PathBuf>>,
    pub(in crate::config) private_key: Option<Located<PathBuf>>,
    pub(in crate::config) certificates: Located<Vec<RawCertificate>>,
    pub(in crate::config) acme: RawAcme,
}

pub(in crate::config) struct RawAcme {
    pub(in crate::config) domains: Located<Vec<Placed<String>>>,
    pub(in crate::config) contact: Option<Located<String>>,
    pub(in crate::config) directory: Located<String>,
    pub(in crate::config) root: Option<Located<PathBuf>>,
}

pub(in crate::config) struct RawCertificate {
    pub(in crate::config) certificate: Located<PathBuf>,
    pub(in crate::config) private_key: Located<PathBuf>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawTls {
    RawTls {
        certificate: s.optional("certificate"),
        private_key: s.optional("private_key"),
        certificates: s.tables("certificates", Vec::new(), |one, place| {
            let certificate = one.required("certificate", "\"/etc/relay/second.pem\"", place);
            let private_key = one.required("private_key", "\"/etc/relay/second-key.pem\"", place);
            Some(RawCertificate {
                certificate: certificate?,
                private_key: private_key?,
            })
        }),
        acme: s.section("acme", |s| RawAcme {
            domains: s.value("domains", Vec::new()),
            contact: s.optional("contact"),
            directory: s.value("directory", LETS_ENCRYPT.to_owned()),
            root: s.optional("root"),
        }),
    }
}
