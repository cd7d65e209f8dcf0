//! Serves the same certificates over DTLS, which another library implements.

use std::sync::Arc;

use super::TlsStore;
use crate::machine::certificate::{TlsError, TlsProblem};
use crate::net::dtls::{DtlsContext, Identity};

impl TlsStore {
    /// The certificates in service for DTLS listeners, chosen by the client's server name as on
    /// TCP.
    ///
    /// # Errors
    /// OpenSSL refuses a certificate that rustls accepts.
    pub fn dtls_context(&self) -> Result<DtlsContext, TlsError> {
        let choice = self.resolver.0.load_full();
        let chains: Vec<Vec<&[u8]>> = choice
            .all()
            .iter()
            .map(|certificate| certificate.chain().iter().map(AsRef::as_ref).collect())
            .collect();
        let identities: Vec<_> = choice
            .all()
            .iter()
            .zip(&chains)
            .map(|(certificate, chain)| Identity {
                chain,
                private_key: certificate.private_key(),
            })
            .collect();
        let chooser = Arc::clone(&choice);
        DtlsContext::new(&identities, move |host| chooser.index_of(host)).map_err(|error| TlsError {
            file: self.slots()[0].source.files().certificate.clone(),
            problem: TlsProblem::Library(error),
        })
    }
}
