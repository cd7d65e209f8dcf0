//! The workers' DTLS configuration: its limits, and the certificates of TLS.

use std::sync::Arc;

use super::TlsStore;
use crate::config::settings::Settings;
use crate::machine::certificate::TlsError;
use crate::net::dtls::SharedContext;
use crate::shard::DtlsConfig;

/// `None`: no listener speaks DTLS. Otherwise workers receive changed certificates from now on.
///
/// # Errors
/// The certificates cannot be served over DTLS.
pub(crate) fn config(settings: &Settings, tls: Option<&Arc<TlsStore>>) -> Result<Option<DtlsConfig>, TlsError> {
    let Some(tls) = tls.filter(|_| settings.listeners.iter().any(|listener| listener.dtls)) else {
        return Ok(None);
    };
    // Subscribe before reading the certificates: a change in between must count.
    let changes = tls.changes();
    let contexts: SharedContext = tls.dtls_context()?.into_shared();
    tokio::spawn(follow(Arc::clone(tls), changes, Arc::clone(&contexts)));
    Ok(Some(DtlsConfig {
        limits: settings.dtls.clone(),
        new_associations_per_second: settings.stream.max_new_connections_per_second,
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
                "cannot serve the changed certificate over DTLS; the old one stays in service"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::config::sample;
    use crate::edge::certificates::{CertificateSource, SelfSigned};
    use crate::machine::certificate::CertificateFiles;
    use crate::net::clock::unix_now;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn each_key_of_dtls_reaches_the_workers_and_so_does_a_changed_certificate() {
        let dir = std::env::temp_dir().join(format!("relay-dtls-{}", std::process::id()));
        let source = |made: &str| {
            let files = CertificateFiles {
                certificate: dir.join(made).join("cert.pem"),
                private_key: dir.join(made).join("key.pem"),
                state_dir: Some(dir.join(made)),
            };
            let wanted = SelfSigned {
                names: vec!["localhost".into()],
                addresses: Vec::new(),
            };
            CertificateSource::SelfSigned(files, wanted)
        };
        let open = |made: &str| TlsStore::open(vec![source(made)], unix_now()).expect("certificates").0;
        let store = Arc::new(open("one"));

        let mut settings = sample::settings(sample::BASE);
        let made = |settings: &Settings, tls| config(settings, tls).expect("they can be served");
        assert!(made(&settings, Some(&store)).is_none(), "no listener speaks it");
        settings.listeners[0].dtls = true;
        assert!(made(&settings, None).is_none());
        settings.stream.max_new_connections_per_second = 11;
        settings.stream.handshake_timeout = 12 * SECOND;
        settings.dtls.mtu = 1313;
        let made = made(&settings, Some(&store)).expect("a listener speaks it");
        assert_eq!(made.limits, settings.dtls);
        assert_eq!(made.new_associations_per_second, 11);
        assert_eq!(made.handshake_timeout, 12 * SECOND);
        assert!(!made.quick_retransmission);

        let before = made.contexts.load_full();
        open("other");
        for file in ["cert.pem", "key.pem"] {
            std::fs::rename(dir.join("other").join(file), dir.join("one").join(file)).expect("made");
        }
        assert!(
            store
                .reload(unix_now())
                .iter()
                .all(|loaded| loaded.as_ref().is_ok_and(|it| it.changed))
        );
        let changed = tokio::time::timeout(20 * SECOND, async {
            while Arc::ptr_eq(&before, &made.contexts.load_full()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        changed.await.expect("the workers get the other certificate");
        std::fs::remove_dir_all(dir).expect("was made");
    }
}
