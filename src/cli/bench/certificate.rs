//! The server's certificate is not what is measured, and a test server has often made its own.

use std::sync::Arc;

use relay_client::AnyCertificate;
use rustls::{ClientConfig, Error};

/// A TLS client that takes any certificate; that the server has its key is checked. No secret is sent through it: TURN
/// proves a password without telling it.
pub(super) fn tls_client() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"stun.turn".to_vec()];
    Ok(Arc::new(config))
}
