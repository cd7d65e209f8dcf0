//! The server's certificates: loads, checks and generates them, chooses one by the client's server
//! name, and replaces them while connections live.
//!
//! TLS 1.2 and 1.3 with forward secrecy only, no renegotiation, no 0-RTT (an Allocate must not be
//! replayed), session tickets under rotating keys, ALPN of RFC 7443. A certificate that does not
//! load never replaces one that did.
//!
//! `self::acme` talks to the ACME authority; its certificates are stored and served here.

pub mod acme;
#[cfg(feature = "dtls")]
mod dtls;
#[cfg(feature = "dtls")]
pub(crate) mod dtls_context;
pub mod report;
mod selection;
mod self_signed;
#[cfg(test)]
mod tests;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_acme::is_tls_alpn_challenge;
use tokio::sync::{Notify, watch};

use self::selection::CertificateSelection;
use crate::base::lock::lock;
use crate::base::time::UnixTime;
use crate::machine::certificate::{
    Certificate, CertificateFiles, CertificateInfo, CertificateOutcome, LoadedCertificates, TlsError, TlsProblem, load,
};
use crate::machine::file_watch::Watch;
use crate::machine::files::own;

/// ALPN of TURN and of STUN usages (RFC 7443 §4).
pub const ALPN_TURN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];
/// ALPN of HTTP/1.1, offered only where HTTP is served.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// The source of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// The operator's files.
    Files(CertificateFiles),
    /// The server's files: generated, and generated again when they no longer serve.
    SelfSigned(CertificateFiles, SelfSigned),
    /// Obtained from an ACME authority and stored. Until the first one arrives, a self-signed one
    /// is served.
    Acme {
        /// The file of the obtained certificate: key and chain.
        kept: CertificateFiles,
        /// The files of the self-signed one.
        until: CertificateFiles,
        /// Names and addresses in the self-signed one.
        wanted: SelfSigned,
    },
}

/// Names and addresses in a self-signed certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// Host names; the certificate omits invalid ones.
    pub names: Vec<String>,
    /// Announced addresses.
    pub addresses: Vec<IpAddr>,
}

/// One source, and the state of its files.
struct Slot {
    source: CertificateSource,
    files: Watch,
    /// The last error of its files, which is logged once and not at every poll.
    last_reported: Option<TlsError>,
}

/// Answers every ClientHello with the certificate for its server name, or else the first.
#[derive(Clone)]
struct Resolver(Arc<ArcSwap<CertificateSelection>>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.load()).finish()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().of(hello.server_name()).key())
    }
}

/// The certificates and the TLS configurations that serve them.
pub struct TlsStore {
    provider: Arc<CryptoProvider>,
    slots: Mutex<Vec<Slot>>,
    /// One certificate for each slot.
    resolver: Resolver,
    turn: Arc<ServerConfig>,
    turn_and_http: Arc<ServerConfig>,
    /// Answers an ACME authority that validates a name.
    challenge: ArcSwapOption<ServerConfig>,
    changes: watch::Sender<()>,
    /// Certificates loaded, and changed ones that failed to load.
    updates: [AtomicU64; 2],
    /// The slot of the certificate from an ACME authority.
    acme: Option<usize>,
    /// Installed certificates that are not reported yet.
    installed: Mutex<Vec<LoadedCertificates>>,
    news: Notify,
}

impl fmt::Debug for TlsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStore")
            .field("resolver", &self.resolver)
            .finish_non_exhaustive()
    }
}

impl TlsStore {
    /// Loads or generates every certificate. `sources` must not be empty. The first certificate
    /// answers clients without a server name, or with one in no certificate.
    ///
    /// # Errors
    /// Every error in the files, with the file to correct.
    ///
    /// # Panics
    /// Without any source.
    pub fn open(
        sources: Vec<CertificateSource>,
        now: UnixTime,
    ) -> Result<(Self, Vec<LoadedCertificates>), Vec<TlsError>> {
        assert!(!sources.is_empty(), "a store of certificates has at least one source");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (mut slots, mut certificates, mut loaded, mut errors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for source in sources {
            // Taken before reading: a change during the read counts as a change.
            let files = Watch::new(source.watched());
            match obtain(&source, &provider, now) {
                Ok((certificate, generated)) => {
                    let key = &source.files().private_key;
                    loaded.push(LoadedCertificates::new(&certificate, key, now, true, generated));
                    certificates.push(Arc::new(certificate));
                    slots.push(Slot {
                        source,
                        files,
                        last_reported: None,
                    });
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let first = slots[0].source.files().certificate.clone();
        let is_acme = |slot: &Slot| matches!(slot.source, CertificateSource::Acme { .. });
        let acme = slots.iter().position(is_acme);
        let resolver = Resolver(Arc::new(ArcSwap::from_pointee(CertificateSelection::new(certificates))));
        let config = |alpn: &[&[u8]]| {
            server_config(&provider, &resolver, alpn).map_err(|error| {
                vec![TlsError {
                    file: first.clone(),
                    problem: TlsProblem::Library(error.to_string()),
                }]
            })
        };
        let turn = config(&ALPN_TURN)?;
        let turn_and_http = config(&[ALPN_TURN[0], ALPN_TURN[1], ALPN_HTTP])?;
        let store = Self {
            provider,
            slots: Mutex::new(slots),
            resolver,
            turn,
            turn_and_http,
            challenge: ArcSwapOption::empty(),
            changes: watch::Sender::new(()),
            updates: [AtomicU64::new(0), AtomicU64::new(0)],
            acme,
            installed: Mutex::default(),
            news: Notify::new(),
        };
        Ok((store, loaded))
    }

    /// Loads everything again. Live connections keep theirs. Like [`Self::poll_files`] it blocks on
    /// file systems.
    ///
    /// One result for each source. After an error, as for [`Self::open`], the old certificate stays
    /// in service.
    pub fn reload(&self, now: UnixTime) -> Vec<CertificateOutcome> {
        let mut slots = self.slots();
        let all = slots.iter_mut().enumerate();
        let all: Vec<_> = all.map(|(index, slot)| self.load_again(index, slot, now)).collect();
        self.count(&all);
        all
    }

    /// Loads files that have changed on disk and then stayed unchanged for one poll. Called every
    /// few seconds. Reports an error once and retries at every call, because the second of two
    /// files may follow later.
    pub fn poll_files(&self, now: UnixTime) -> Vec<CertificateOutcome> {
        let mut news = Vec::new();
        for (index, slot) in self.slots().iter_mut().enumerate() {
            if !slot.files.is_due() {
                continue;
            }
            let before = slot.last_reported.take();
            let outcome = self.load_again(index, slot, now);
            if outcome.is_ok() || slot.last_reported != before {
                news.push(outcome);
            }
        }
        self.count(&news);
        news
    }

    /// Serves a certificate from an ACME authority, and stores it. `pem` holds key and chain.
    ///
    /// # Errors
    /// When it is invalid, or cannot be stored; in the latter case it is served nevertheless.
    pub fn install(&self, pem: &[u8], now: UnixTime) -> CertificateOutcome {
        let Some(index) = self.acme else {
            unreachable!("only the ACME client keeps certificates, and it has a place here");
        };
        let slots = self.slots();
        let slot = &slots[index];
        let files = slot.source.files();
        let certificate = load::parse((pem, pem), own::PRIVATE, files, &self.provider, false)?;
        let changed = self.replace(index, certificate.clone());
        let loaded = LoadedCertificates::new(&certificate, &files.private_key, now, changed, false);
        lock(&self.installed).push(loaded.clone());
        self.news.notify_one();
        files.write(&files.certificate, pem, own::PRIVATE)?;
        Ok(loaded)
    }

    /// Waits for installed certificates that are to be reported. For one waiter. Cancel-safe.
    pub async fn installed(&self) -> Vec<LoadedCertificates> {
        self.news.notified().await;
        core::mem::take(&mut lock(&self.installed))
    }

    /// The certificate from an ACME authority, or the self-signed one in its place.
    pub fn acme_certificate(&self) -> Option<CertificateInfo> {
        Some(self.resolver.0.load().all()[self.acme?].info().clone())
    }

    /// Sets the answer to an ACME authority that validates by TLS-ALPN-01 (RFC 8737); `None` ends
    /// it.
    pub fn answer_challenges(&self, config: Option<Arc<ServerConfig>>) {
        self.challenge.store(config);
    }

    fn count(&self, outcomes: &[CertificateOutcome]) {
        for outcome in outcomes {
            if outcome.as_ref().map_or(true, |loaded| loaded.changed) {
                self.updates[usize::from(outcome.is_err())].fetch_add(1, Relaxed);
            }
        }
    }

    fn load_again(&self, index: usize, slot: &mut Slot, now: UnixTime) -> CertificateOutcome {
        let own = self.resolver.0.load().all()[index].info().self_signed;
        let obtained = match &slot.source {
            // A self-signed certificate never replaces one from the authority.
            CertificateSource::Acme { kept, .. } if !own => {
                load::load(kept, &self.provider, false).map(|certificate| (certificate, false))
            }
            source => obtain(source, &self.provider, now),
        };
        let (certificate, generated) = match obtained {
            Ok(obtained) => obtained,
            Err(error) => {
                slot.last_reported = Some(error.clone());
                return Err(error);
            }
        };
        slot.files.take();
        slot.last_reported = None;
        let changed = self.replace(index, certificate.clone());
        let key = &slot.source.files().private_key;
        Ok(LoadedCertificates::new(&certificate, key, now, changed, generated))
    }

    /// Serves `certificate` from the next handshake on. `true`: it differs from the one before.
    fn replace(&self, index: usize, certificate: Certificate) -> bool {
        let old = self.resolver.0.load();
        if old.all()[index].info().fingerprint == certificate.info().fingerprint {
            return false;
        }
        let mut all = old.all().to_vec();
        all[index] = Arc::new(certificate);
        self.resolver.0.store(Arc::new(CertificateSelection::new(all)));
        self.changes.send_replace(());
        true
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        // A slot changes in one step after everything that can fail, so a panic leaves no partial
        // state.
        lock(&self.slots)
    }

    /// For a listener that serves TURN, and with `https` also HTTP.
    pub fn server_config(&self, https: bool) -> Arc<ServerConfig> {
        if https {
            self.turn_and_http.clone()
        } else {
            self.turn.clone()
        }
    }

    /// The TLS configuration for this ClientHello.
    pub fn answer(&self, hello: &ClientHello<'_>, https: bool) -> Arc<ServerConfig> {
        let challenge = self.challenge.load();
        match &*challenge {
            Some(config) if is_tls_alpn_challenge(hello) => config.clone(),
            _ => self.server_config(https),
        }
    }

    /// Every certificate in service; the first is the default.
    pub fn certificates(&self) -> Vec<Arc<Certificate>> {
        self.resolver.0.load().all().to_vec()
    }

    /// Notifies of changed certificates, for users that do not resolve at every handshake.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// When the first of them expires.
    pub fn soonest_expiry(&self) -> UnixTime {
        let choice = self.resolver.0.load();
        let ends = choice.all().iter().map(|certificate| certificate.info().not_after);
        // There is always one.
        ends.min().unwrap_or(UnixTime(0))
    }

    /// How many certificates were loaded, and how many changed ones failed to load.
    pub fn updates(&self) -> [u64; 2] {
        [self.updates[0].load(Relaxed), self.updates[1].load(Relaxed)]
    }
}

impl CertificateSource {
    const fn files(&self) -> &CertificateFiles {
        match self {
            Self::Files(files) | Self::SelfSigned(files, _) | Self::Acme { kept: files, .. } => files,
        }
    }

    /// Files that others write, including another process that shares the state directory.
    fn watched(&self) -> Vec<PathBuf> {
        match self {
            Self::Files(files) => vec![files.certificate.clone(), files.private_key.clone()],
            Self::Acme { kept, .. } => vec![kept.certificate.clone()],
            Self::SelfSigned(..) => Vec::new(),
        }
    }
}

/// Loads the certificate, or generates a self-signed one. `true`: generated just now.
fn obtain(
    source: &CertificateSource,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(Certificate, bool), TlsError> {
    match source {
        CertificateSource::Files(files) => Ok((load::load(files, provider, false)?, false)),
        CertificateSource::SelfSigned(files, wanted) => own(files, wanted, provider, now),
        CertificateSource::Acme { kept, until, wanted } => match load::load(kept, provider, false) {
            Ok(certificate) => Ok((certificate, false)),
            Err(error) if error.problem.is_of_the_place() => Err(error),
            // Missing, or damaged: the ACME client will request another.
            Err(_) => own(until, wanted, provider, now),
        },
    }
}

fn own(
    files: &CertificateFiles,
    wanted: &SelfSigned,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(Certificate, bool), TlsError> {
    match load::load(files, provider, true) {
        Ok(certificate) if self_signed::still_serves(certificate.info(), wanted, now) => Ok((certificate, false)),
        // A file may exist that cannot even be examined, so it must not be replaced.
        Err(error) if error.problem.is_of_the_place() => Err(error),
        Ok(_) | Err(_) => {
            self_signed::generate(files, wanted, now)?;
            Ok((load::load(files, provider, true)?, true))
        }
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    resolver: &Resolver,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver.clone()));
    // rustls refuses a client that offers ALPN without one of these, and serves one that offers
    // none.
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.max_early_data_size = 0;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    // Tickets carry the state, so clients cannot make the server's memory grow.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
