//! The server's certificates: loaded, checked, made when there is none, chosen by the name a client asks for, swapped
//! while connections live.
//!
//! TLS 1.2 and 1.3 with forward secrecy only, no renegotiation, no 0-RTT (an Allocate must not be replayed), session
//! tickets under keys that rotate, ALPN of RFC 7443. A certificate that does not load never replaces one that did.
//!
//! Deliberately absent: talking to an ACME authority (`self::acme`); what that obtains is kept and served here.

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

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// The operator's files.
    Files(CertificateFiles),
    /// Files of ours: made, and made anew when they no longer serve.
    SelfSigned(CertificateFiles, SelfSigned),
    /// Obtained from an ACME authority and kept; until the first is there, one of our own making is served.
    Acme {
        /// Where it is kept, key and chain in one file.
        kept: CertificateFiles,
        /// Where the self-signed one is.
        until: CertificateFiles,
        /// What that says.
        wanted: SelfSigned,
    },
}

/// What a certificate of our own making says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// Host names; what is no host name is left out.
    pub names: Vec<String>,
    /// Addresses clients are told.
    pub addresses: Vec<IpAddr>,
}

/// One source, and how its files stand.
struct Slot {
    source: CertificateSource,
    files: Watch,
    /// What was last found wrong with them: said once, not at every look.
    last_reported: Option<TlsError>,
}

/// Answers every ClientHello with the certificate for the name it asks for, or else the first.
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
    /// Answers an ACME authority while it looks whether a name is ours.
    challenge: ArcSwapOption<ServerConfig>,
    changes: watch::Sender<()>,
    /// Certificates taken up, and changed ones that could not be.
    updates: [AtomicU64; 2],
    /// Which slot holds the certificate from an ACME authority.
    acme: Option<usize>,
    /// What was installed and not yet reported.
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
    /// Loads every certificate, or makes it. The first of `sources`, of which there is at least one, answers clients
    /// that name no host, or one that is in no certificate.
    ///
    /// # Errors
    /// What an operator has to mend, and where: everything that is wrong, not the first only.
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
            // Before they are read: a change while they are read is a change.
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

    /// Loads everything again. Live connections are not touched. As [`Self::poll_files`] it waits for file systems.
    ///
    /// One outcome for each source; where it is an error, as for [`Self::open`], the old certificate stays in service.
    pub fn reload(&self, now: UnixTime) -> Vec<CertificateOutcome> {
        let mut slots = self.slots();
        let all = slots.iter_mut().enumerate();
        let all: Vec<_> = all.map(|(index, slot)| self.load_again(index, slot, now)).collect();
        self.count(&all);
        all
    }

    /// Loads again what has changed on disk and come to rest. Called every few seconds; an error is told once, and tried
    /// again at every call, since the other of the two files may be on its way.
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

    /// Serves a certificate from an ACME authority, and keeps it. `pem` holds key and chain.
    ///
    /// # Errors
    /// When it is none, or cannot be kept; then it is served all the same.
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

    /// Waits for certificates that were installed, to be reported. For one who waits; can be dropped at any time.
    pub async fn installed(&self) -> Vec<LoadedCertificates> {
        self.news.notified().await;
        core::mem::take(&mut lock(&self.installed))
    }

    /// The certificate from an ACME authority, or the one that stands in for it.
    pub fn acme_certificate(&self) -> Option<CertificateInfo> {
        Some(self.resolver.0.load().all()[self.acme?].info().clone())
    }

    /// From now on an ACME authority that asks by TLS-ALPN-01 (RFC 8737) is answered with `config`, or not at all.
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
            // What the authority gave is not given up for one of our own making.
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

    /// Serves `certificate` from the next handshake on. `true`: it is another one than before.
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
        // A slot is changed in one step after all that can fail.
        lock(&self.slots)
    }

    /// For a listener that serves TURN, and with `https` HTTP as well.
    pub fn server_config(&self, https: bool) -> Arc<ServerConfig> {
        if https {
            self.turn_and_http.clone()
        } else {
            self.turn.clone()
        }
    }

    /// The configuration that answers this ClientHello.
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

    /// Tells whenever another certificate is in service, for those that do not ask at every handshake.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// When the first of them ends.
    pub fn soonest_expiry(&self) -> UnixTime {
        let choice = self.resolver.0.load();
        let ends = choice.all().iter().map(|certificate| certificate.info().not_after);
        // There is always one.
        ends.min().unwrap_or(UnixTime(0))
    }

    /// How often another certificate was taken up, and how often one could not be.
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

    /// Files that others write: another process, too, that shares our state.
    fn watched(&self) -> Vec<PathBuf> {
        match self {
            Self::Files(files) => vec![files.certificate.clone(), files.private_key.clone()],
            Self::Acme { kept, .. } => vec![kept.certificate.clone()],
            Self::SelfSigned(..) => Vec::new(),
        }
    }
}

/// Loads what is there; of our own making, also makes it. `true`: made just now.
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
            // Missing, or damaged: the authority will be asked for another.
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
        // Not ours to replace: something is there, and we cannot even look.
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
    // A client that offers ALPN, but nothing of this, is refused by rustls; one that offers none is served.
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.max_early_data_size = 0;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    // Tickets carry the state; nothing is kept here that strangers could make grow.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
