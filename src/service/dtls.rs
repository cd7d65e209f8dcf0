//! DTLS as the workers serve it: its bounds, and the certificates that TCP is served with.

use std::sync::Arc;

use super::config::settings::Settings;
use super::tls_store::{TlsError, TlsStore};
use crate::net::dtls::SharedContext;
use crate::shard::DtlsConfig;

/// `None`: no listener speaks DTLS. From here on, a changed certificate reaches the workers by itself.
///
/// # Errors
/// The certificates cannot be served over DTLS.
pub(super) fn config(settings: &Settings, tls: Option<&Arc<TlsStore>>) -> Result<Option<DtlsConfig>, TlsError> {
    let Some(tls) = tls.filter(|_| settings.listeners.iter().any(|listener| listener.dtls)) else {
        return Ok(None);
    };
    // Before they are taken: a change meanwhile is a change.
    let changes = tls.changes();
    let contexts: SharedContext = tls.dtls_context()?.into_shared();
    tokio::spawn(follow(Arc::clone(tls), changes, Arc::clone(&contexts)));
    let dtls = &settings.dtls;
    Ok(Some(DtlsConfig {
        mtu: dtls.mtu,
        associations: dtls.associations,
        associations_per_ip: dtls.associations_per_ip,
        associations_per_network: dtls.associations_per_network,
        associations_per_cookie: dtls.associations_per_cookie,
        new_associations_per_second: settings.stream.max_new_connections_per_second,
        handshakes: dtls.handshakes,
        handshake_timeout: settings.stream.handshake_timeout,
        ..DtlsConfig::new(contexts)
    }))
}

async fn follow(tls: Arc<TlsStore>, mut changes: tokio::sync::watch::Receiver<()>, contexts: SharedContext) {
    while changes.changed().await.is_ok() {
        match tls.dtls_context() {
            Ok(context) => contexts.store(Arc::new(context)),
            Err(error) => tracing::error!(
                %error,
                "the changed certificate cannot be served over DTLS, which goes on with the old one"
            ),
        }
    }
}
