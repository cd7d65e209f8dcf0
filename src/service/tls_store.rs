//! The server's certificate: loaded, checked, made when there is none, swapped while connections live.
//!
//! TLS 1.2 and 1.3 with forward secrecy only, no renegotiation, no 0-RTT (an Allocate must not be replayed), session
//! tickets under keys that rotate, ALPN of RFC 7443. A certificate that does not load never replaces one that did.
//!
//! Deliberately absent: watching files and asking for certificates; several certificates by name.

mod error;
mod load;
mod self_signed;
#[cfg(test)]
mod tests;

use core::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub use self::error::{TlsError, TlsProblem};
use crate::turn::time::UnixTime;

/// ALPN of TURN and of STUN usages (RFC 7443 §4).
pub const ALPN_TURN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];
/// ALPN of HTTP/1.1, offered only where HTTP is served.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSource {
    /// PEM chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// PEM key.
    pub private_key: PathBuf,
    /// The files are ours: made, and made anew when they no longer serve.
    pub self_signed: Option<SelfSigned>,
}

/// What a certificate of our own making says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// Host names; what is no host name is left out.
    pub names: Vec<String>,
    /// Addresses clients are told.
    pub addresses: Vec<IpAddr>,
}

/// What is being served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Names and addresses it is good for.
    pub names: Vec<String>,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// Made by ourselves: clients refuse it unless they are told to trust it.
    pub self_signed: bool,
}

/// Something an operator should know, although the certificate is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsWarning {
    /// The end of validity has passed: clients refuse it.
    Expired,
    /// The start of validity has not come: clients refuse it.
    NotYetValid,
    /// So many whole days are left.
    ExpiresIn(u64),
    /// It names no host and no address: clients refuse it.
    NoNames,
    /// Others than its owner may read the key file: its mode.
    KeyReadableByOthers(u32),
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("the certificate has expired: clients refuse it. Renew it and reload"),
            Self::NotYetValid => {
                f.write_str("the certificate is not valid yet: clients refuse it. Check the clock of this machine")
            }
            Self::ExpiresIn(days) => write!(f, "the certificate expires in {days} days. Renew it and reload"),
            Self::NoNames => {
                f.write_str("the certificate has no subjectAltName: clients refuse it. Ask for one with the host name")
            }
            Self::KeyReadableByOthers(mode) => {
                write!(
                    f,
                    "the private key file has mode {mode:04o}: others can read it. `chmod 600` it"
                )
            }
        }
    }
}

/// The outcome of loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What is served now.
    pub info: CertificateInfo,
    /// It differs from what was served before.
    pub changed: bool,
    /// It was made just now.
    pub generated: bool,
    /// What is wrong with it nevertheless.
    pub warnings: Vec<TlsWarning>,
}

/// A certificate with its key, as served.
struct Served {
    key: Arc<CertifiedKey>,
    info: CertificateInfo,
}

/// Answers every ClientHello with the one certificate there is, whatever name it asks for.
#[derive(Clone)]
struct Resolver(Arc<ArcSwap<Served>>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.load().info).finish()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

/// The certificate and the TLS configurations that serve it.
#[derive(Debug)]
pub struct TlsStore {
    source: CertificateSource,
    provider: Arc<CryptoProvider>,
    resolver: Resolver,
    turn: Arc<ServerConfig>,
    turn_and_http: Arc<ServerConfig>,
}

impl TlsStore {
    /// Loads the certificate, or makes it.
    ///
    /// # Errors
    /// What an operator has to mend, and where.
    pub fn open(source: CertificateSource, now: UnixTime) -> Result<(Self, Loaded), TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (served, generated) = obtain(&source, &provider, now)?;
        let loaded = report(&source, &served.info, now, true, generated);
        let resolver = Resolver(Arc::new(ArcSwap::from_pointee(served)));
        let config = |alpn: &[&[u8]]| server_config(&source, &provider, &resolver, alpn);
        let turn = config(&ALPN_TURN)?;
        let turn_and_http = config(&[ALPN_TURN[0], ALPN_TURN[1], ALPN_HTTP])?;
        Ok((
            Self {
                source,
                provider,
                resolver,
                turn,
                turn_and_http,
            },
            loaded,
        ))
    }

    /// Loads the files again. Live connections are not touched.
    ///
    /// # Errors
    /// As for [`Self::open`]; then the old certificate stays in service.
    pub fn reload(&self, now: UnixTime) -> Result<Loaded, TlsError> {
        let (served, generated) = obtain(&self.source, &self.provider, now)?;
        let changed = served.info.fingerprint != self.resolver.0.load().info.fingerprint;
        let loaded = report(&self.source, &served.info, now, changed, generated);
        self.resolver.0.store(Arc::new(served));
        Ok(loaded)
    }

    /// For a listener that serves TURN, and with `https` HTTP as well.
    pub fn server_config(&self, https: bool) -> Arc<ServerConfig> {
        if https {
            self.turn_and_http.clone()
        } else {
            self.turn.clone()
        }
    }

    /// What is being served.
    pub fn info(&self) -> CertificateInfo {
        self.resolver.0.load().info.clone()
    }
}

/// Loads what is there; of our own making, also makes it. `true`: made just now.
fn obtain(source: &CertificateSource, provider: &CryptoProvider, now: UnixTime) -> Result<(Served, bool), TlsError> {
    let load = || {
        let (key, info) = load::load(&source.certificate, &source.private_key, provider)?;
        Ok(Served {
            key: Arc::new(key),
            info: CertificateInfo {
                self_signed: source.self_signed.is_some(),
                ..info
            },
        })
    };
    let Some(wanted) = &source.self_signed else {
        return Ok((load()?, false));
    };
    match load() {
        Ok(served) if self_signed::still_serves(&served.info, wanted, now) => Ok((served, false)),
        // Not ours to replace: the files are there, and we are not even allowed to look.
        Err(error) if matches!(error.problem, TlsProblem::NotPermitted) => Err(error),
        Ok(_) | Err(_) => {
            self_signed::generate(&source.certificate, &source.private_key, wanted, now)?;
            Ok((load()?, true))
        }
    }
}

fn report(source: &CertificateSource, info: &CertificateInfo, now: UnixTime, changed: bool, generated: bool) -> Loaded {
    const DAY: u64 = 86_400;
    /// Renewal is due before: ACME clients renew at 30 days, so less means that it fails.
    const SOON: u64 = 14;
    let mut warnings = Vec::new();
    if now >= info.not_after {
        warnings.push(TlsWarning::Expired);
    } else if now < info.not_before {
        warnings.push(TlsWarning::NotYetValid);
    } else if (info.not_after.0 - now.0) / DAY < SOON {
        warnings.push(TlsWarning::ExpiresIn((info.not_after.0 - now.0) / DAY));
    }
    if info.names.is_empty() {
        warnings.push(TlsWarning::NoNames);
    }
    if let Some(mode) = load::mode_open_to_others(&source.private_key) {
        warnings.push(TlsWarning::KeyReadableByOthers(mode));
    }
    Loaded {
        info: info.clone(),
        changed,
        generated,
        warnings,
    }
}

fn server_config(
    source: &CertificateSource,
    provider: &Arc<CryptoProvider>,
    resolver: &Resolver,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = |error: rustls::Error| TlsError {
        file: source.certificate.clone(),
        problem: TlsProblem::Library(error.to_string()),
    };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver.clone()));
    // A client that offers ALPN, but nothing of this, is refused by rustls; one that offers none is served.
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.max_early_data_size = 0;
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
    config.send_tls13_tickets = 1;
    // Tickets carry the state; nothing is kept here that strangers could make grow.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
