//! Obtains a certificate from an ACME authority (RFC 8555) by TLS-ALPN-01 (RFC 8737): the authority
//! connects to port 443 of each name, and the front door answers. No other port needs to be open.
//!
//! [`TlsStore`] serves and stores certificates. This module requests one when there is none, when
//! the names have changed, and when a third of the lifetime is left. An error is one log line with
//! what to do; the next try follows by itself.
//!
//! It has no other challenges, no external account binding, no revocation.

mod problem;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_acme::{AccountCache, AcmeConfig, CertCache, EventError, EventOk};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use self::problem::Problem;
use super::TlsStore;
use crate::base::time::UnixTime;
use crate::config::settings::AcmeSettings;
use crate::machine::certificate::{CertificateInfo, TlsError, TlsProblem, trusted_roots};
use crate::machine::files::{self, own};
use crate::net::clock::unix_now;

/// An order that takes longer has failed: the authority does not answer.
const ORDER_TIMEOUT: Duration = Duration::from_secs(600);
/// Minimum wait after an order, and after the first failure; each further failure doubles it. Let's
/// Encrypt allows five failures per hour and name.
const PAUSE: Duration = Duration::from_secs(60);
/// Longest wait, and the longest time between looks at the clock: machines sleep, and clocks are
/// set.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The ACME client.
#[derive(Debug)]
pub struct Acme {
    settings: AcmeSettings,
    client: Arc<ClientConfig>,
    tls: Arc<TlsStore>,
    again: Notify,
    /// Orders that succeeded, and orders that failed.
    orders: [AtomicU64; 2],
}

impl Acme {
    /// Requests nothing before [`Self::run`].
    ///
    /// # Errors
    /// When `settings.root` cannot be read.
    pub fn new(settings: AcmeSettings, tls: Arc<TlsStore>) -> Result<Self, TlsError> {
        Ok(Self {
            client: client(settings.root.as_deref())?,
            settings,
            tls,
            again: Notify::new(),
            orders: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    /// Runs until the process ends.
    pub async fn run(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let certificate = self.tls.acme_certificate();
            let due = certificate.map_or(Duration::ZERO, |it| due_in(&it, &self.settings.domains, unix_now()));
            let wait = if !due.is_zero() {
                due.min(LONGEST_PAUSE)
            } else if self.try_order(failures).await {
                failures = 0;
                PAUSE
            } else {
                failures += 1;
                pause(failures)
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.again.notified() => failures = 0,
            }
        }
    }

    /// Tries again at once if an order has failed: the operator may have removed the cause.
    pub fn try_again(&self) {
        self.again.notify_one();
    }

    /// The numbers of orders that succeeded, and that failed.
    pub fn orders(&self) -> [u64; 2] {
        [self.orders[0].load(Relaxed), self.orders[1].load(Relaxed)]
    }

    async fn try_order(&self, failures: u32) -> bool {
        let names = self.settings.domains.join(", ");
        tracing::info!(names, directory = self.settings.directory, "asking for a certificate");
        let outcome = self.order().await;
        self.orders[usize::from(outcome.is_err())].fetch_add(1, Relaxed);
        match outcome {
            Ok(()) => true,
            Err(problem) => {
                let next = pause(failures + 1).as_secs() / 60;
                tracing::error!(
                    names,
                    "no certificate from {}: {problem}. Next try in {next} min, or at a reload",
                    self.settings.directory
                );
                false
            }
        }
    }

    /// Requests a certificate. It is in service afterwards.
    async fn order(&self) -> Result<(), Problem> {
        let contact = self.settings.contact.iter().map(|contact| format!("mailto:{contact}"));
        let kept = Kept {
            state_dir: self.settings.state_dir.clone(),
            account: self.settings.account.clone(),
            tls: Arc::clone(&self.tls),
        };
        let mut state = AcmeConfig::new_with_client_config(&self.settings.domains, Arc::clone(&self.client))
            .contact(contact)
            .directory(&self.settings.directory)
            .cache(kept)
            .state();
        self.tls.answer_challenges(Some(state.challenge_rustls_config()));
        let order = async {
            loop {
                match state.next().await {
                    Some(Ok(EventOk::CertCacheStore)) => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(EventError::Order(error))) => return Err(Problem::from(error)),
                    Some(Err(
                        EventError::AccountCacheLoad(error)
                        | EventError::AccountCacheStore(error)
                        | EventError::CertCacheLoad(error)
                        | EventError::CertCacheStore(error),
                    )) => return Err(Problem::Kept(error)),
                    Some(Err(error @ (EventError::CachedCertParse(_) | EventError::NewCertParse(_)))) => {
                        return Err(Problem::Other(error.to_string()));
                    }
                    None => return Err(Problem::Other("the client ended".to_owned())),
                }
            }
        };
        let outcome = timeout(ORDER_TIMEOUT, order).await;
        self.tls.answer_challenges(None);
        outcome.unwrap_or(Err(Problem::Silence))
    }
}

/// Pause after this many failures in a row.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (PAUSE * (1 << doublings)).min(LONGEST_PAUSE)
}

/// How long the certificate in service lasts for these names. Renewal begins when a third of its
/// lifetime is left.
fn due_in(info: &CertificateInfo, domains: &[String], now: UnixTime) -> Duration {
    let others = info.names.len() != domains.len() || domains.iter().any(|name| !info.names.contains(name));
    if info.self_signed || others {
        return Duration::ZERO;
    }
    let life = info.not_after.0.saturating_sub(info.not_before.0);
    Duration::from_secs((info.not_after.0 - life / 3).saturating_sub(now.0))
}

fn client(root: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError {
            file: root.unwrap_or(Path::new("")).to_owned(),
            problem: TlsProblem::Library(error.to_string()),
        })?;
    Ok(Arc::new(
        config
            .with_root_certificates(trusted_roots(root)?)
            .with_no_client_auth(),
    ))
}

/// Storage for account and certificate.
struct Kept {
    state_dir: PathBuf,
    account: PathBuf,
    tls: Arc<TlsStore>,
}

#[async_trait]
impl CertCache for Kept {
    type EC = TlsError;

    /// None: an order runs only if another certificate is needed.
    async fn load_cert(&self, _: &[String], _: &str) -> Result<Option<Vec<u8>>, TlsError> {
        Ok(None)
    }

    async fn store_cert(&self, _: &[String], _: &str, pem: &[u8]) -> Result<(), TlsError> {
        let (tls, pem) = (Arc::clone(&self.tls), Zeroizing::new(pem.to_vec()));
        self.waiting(move || tls.install(&pem, unix_now())).await.map(drop)
    }
}

#[async_trait]
impl AccountCache for Kept {
    type EA = TlsError;

    async fn load_account(&self, _: &[String], _: &str) -> Result<Option<Vec<u8>>, TlsError> {
        let (dir, file) = (self.state_dir.clone(), self.account.clone());
        self.waiting(move || match own::read(&dir, &file, files::MAX_PEM) {
            Ok(key) => Ok(Some(key.bytes.to_vec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TlsError {
                file,
                problem: TlsProblem::of_read(&error),
            }),
        })
        .await
    }

    async fn store_account(&self, _: &[String], _: &str, key: &[u8]) -> Result<(), TlsError> {
        let (dir, file, key) = (
            self.state_dir.clone(),
            self.account.clone(),
            Zeroizing::new(key.to_vec()),
        );
        self.waiting(move || {
            own::write(&dir, &file, &key, own::PRIVATE).map_err(|error| TlsError::unwritable(&file, &error))
        })
        .await
    }
}

impl Kept {
    /// Accesses the file system on a thread that may block.
    async fn waiting<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, TlsError> + Send + 'static,
    ) -> Result<T, TlsError> {
        spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(TlsError {
                file: self.account.clone(),
                problem: TlsProblem::Library(error.to_string()),
            })
        })
    }
}

#[cfg(test)]
mod tests;
