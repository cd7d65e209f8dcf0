//! Chooses a certificate by the client's server name (SNI, RFC 6066 §3).

use std::collections::HashMap;
use std::sync::Arc;

use crate::machine::certificate::Certificate;

/// Certificates by name.
#[derive(Debug)]
pub(super) struct CertificateSelection {
    /// Never empty; the first is the default.
    all: Vec<Arc<Certificate>>,
    /// Names in lower case, including wildcards such as `*.example.org`. A name in several
    /// certificates belongs to the first.
    by_name: HashMap<String, usize>,
}

impl CertificateSelection {
    pub(super) fn new(all: Vec<Arc<Certificate>>) -> Self {
        let mut by_name = HashMap::new();
        for (index, certificate) in all.iter().enumerate() {
            for name in &certificate.info().names {
                by_name.entry(name.to_ascii_lowercase()).or_insert(index);
            }
        }
        Self { all, by_name }
    }

    pub(super) fn all(&self) -> &[Arc<Certificate>] {
        &self.all
    }

    /// The certificate for `host`, possibly by a wildcard; without one, or without a name, the
    /// first.
    pub(super) fn of(&self, host: Option<&str>) -> &Certificate {
        &self.all[self.index_of(host)]
    }

    /// The same, as an index.
    pub(super) fn index_of(&self, host: Option<&str>) -> usize {
        let index = host.and_then(|host| {
            let host = host.to_ascii_lowercase();
            // A wildcard matches one label, the leftmost (RFC 9525 §6.3).
            let wildcard = || host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
            let exact = self.by_name.get(&host);
            exact.or_else(|| self.by_name.get(&wildcard()?)).copied()
        });
        index.unwrap_or(0)
    }
}
