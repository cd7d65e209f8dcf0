//! Certificates and what is agreed on: DTLS 1.2 with forward secrecy, no renegotiation, no resumption, ALPN of RFC 7443.

use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::PKey;
use openssl::ssl::{
    AlpnError, NameType, SniError, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef,
    SslSessionCacheMode, SslVersion, select_next_proto,
};
use openssl::x509::X509;

use super::cookie::Cookies;

use relay_proto::base::lock::lock;

/// What RFC 8489 §6.2.3 asks for, with forward secrecy; every client has it. One kind of cipher has one least length of
/// a record (`record::whole`).
const CIPHERS: &str = "ECDHE+AESGCM";
const GROUPS: &str = "X25519:P-256:P-384";
/// `stun.turn` and `stun.nat-discovery` (RFC 7443 §4), as ALPN writes them.
const ALPN: &[u8] = b"\x09stun.turn\x12stun.nat-discovery";
/// Handshake messages are cut to datagrams of this size: the longest that gets through everywhere (as QUIC has it).
const HANDSHAKE_MTU: u32 = 1200;

/// A certificate chain with its key, all in DER.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The server's own certificate first.
    pub chain: &'a [&'a [u8]],
    /// PKCS #8, PKCS #1 or SEC 1.
    pub private_key: &'a [u8],
}

/// What new associations are made from. Swapped whole when a certificate changes.
pub struct DtlsContext {
    default: SslContext,
}

impl core::fmt::Debug for DtlsContext {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DtlsContext").finish_non_exhaustive()
    }
}

impl DtlsContext {
    /// Serves `identities`; `choose` tells which for a host name (SNI), the first being that of clients without one.
    ///
    /// # Errors
    /// There is no identity, or OpenSSL refuses one: what it says.
    pub fn new(
        identities: &[Identity<'_>],
        choose: impl Fn(Option<&str>) -> usize + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let say = |error: ErrorStack| error.to_string();
        let [first, others @ ..] = identities else {
            return Err("there is no certificate".to_owned());
        };
        let others = others
            .iter()
            .map(|identity| builder(identity).map(SslContextBuilder::build))
            .collect::<Result<Vec<_>, _>>()
            .map_err(say)?;
        let mut default = builder(first).map_err(say)?;
        default.set_servername_callback(move |ssl, _| {
            let chosen = choose(ssl.servername(NameType::HOST_NAME)).checked_sub(1);
            if let Some(context) = chosen.and_then(|index| others.get(index)) {
                // It fails for want of memory only; then the first one is served.
                let _ = ssl.set_ssl_context(context);
            }
            // RFC 6066 §3 wants the name acknowledged by an empty extension; pion's DTLS 2 cannot read that and never
            // completes. No client is known to miss it.
            Err(SniError::NOACK)
        });
        Ok(Self {
            default: default.build(),
        })
    }

    /// To be shared, and swapped.
    pub fn into_shared(self) -> SharedContext {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// Something that listens for one client.
    pub(super) fn open(&self) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.default)?;
        ssl.set_mtu(HANDSHAKE_MTU)?;
        ssl.set_ex_data(Facts::index().ok_or_else(ErrorStack::get)?, Facts::default());
        Ok(ssl)
    }
}

/// What OpenSSL's callbacks have to know about one client: the cookies it has to bring.
#[derive(Debug, Default)]
pub(super) struct Facts(Mutex<Option<Cookies>>);

impl Facts {
    /// Where they are kept; one place for the whole process, as OpenSSL never takes one back. `None`: out of memory.
    fn index() -> Option<Index<Ssl, Self>> {
        static INDEX: OnceLock<Option<Index<Ssl, Facts>>> = OnceLock::new();
        *INDEX.get_or_init(|| Ssl::new_ex_index().ok())
    }

    /// Sets what the client `ssl` listens for has to bring.
    pub(super) fn expect(ssl: &SslRef, cookies: Cookies) {
        if let Some(facts) = Self::index().and_then(|index| ssl.ex_data(index)) {
            *lock(&facts.0) = Some(cookies);
        }
    }

    fn of(ssl: &SslRef) -> Option<Cookies> {
        let facts = Self::index().and_then(|index| ssl.ex_data(index))?;
        *lock(&facts.0)
    }
}

fn builder(identity: &Identity<'_>) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::dtls_server())?;
    context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
    context.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_RENEGOTIATION | SslOptions::NO_TICKET);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_cipher_list(CIPHERS)?;
    context.set_groups_list(GROUPS)?;
    if let [leaf, issuers @ ..] = identity.chain {
        let leaf = X509::from_der(leaf)?;
        context.set_certificate(&leaf)?;
        for issuer in issuers {
            context.add_extra_chain_cert(X509::from_der(issuer)?)?;
        }
    }
    let key = PKey::private_key_from_der(identity.private_key)?;
    context.set_private_key(&key)?;
    context.check_private_key()?;
    // As on TCP: a client that offers ALPN, but nothing of this, is refused; one that offers none is served.
    context.set_alpn_select_callback(|_, offered| select_next_proto(ALPN, offered).ok_or(AlpnError::ALERT_FATAL));
    context.set_cookie_generate_cb(|ssl, out| {
        let cookies = Facts::of(ssl).ok_or_else(ErrorStack::get)?;
        let cookie = cookies.present();
        out.get_mut(..cookie.len())
            .ok_or_else(ErrorStack::get)?
            .copy_from_slice(cookie);
        Ok(cookie.len())
    });
    context.set_cookie_verify_cb(|ssl, cookie| Facts::of(ssl).is_some_and(|cookies| cookies.contain(cookie)));
    Ok(context)
}

/// The present context, to be swapped while associations live.
pub type SharedContext = Arc<ArcSwap<DtlsContext>>;
