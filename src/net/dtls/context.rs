//! Certificates and parameters: DTLS 1.2 with forward secrecy, no renegotiation, no resumption,
//! ALPN of RFC 7443.

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

/// The ciphers of RFC 8489 §6.2.3 with forward secrecy, which every client supports. With one kind
/// of cipher, records have one minimum length (`record::whole`).
const CIPHERS: &str = "ECDHE+AESGCM";
const GROUPS: &str = "X25519:P-256:P-384";
/// `stun.turn` and `stun.nat-discovery` (RFC 7443 §4) in the encoding of ALPN.
const ALPN: &[u8] = b"\x09stun.turn\x12stun.nat-discovery";
/// Handshake messages are fragmented to datagrams of this size, which passes on every path (as in
/// QUIC).
const HANDSHAKE_MTU: u32 = 1200;

/// A certificate chain with its key, all in DER.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The server's own certificate first.
    pub chain: &'a [&'a [u8]],
    /// PKCS #8, PKCS #1 or SEC 1.
    pub private_key: &'a [u8],
}

/// The parameters of new associations. Replaced as a whole when a certificate changes.
pub struct DtlsContext {
    default: SslContext,
}

impl core::fmt::Debug for DtlsContext {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DtlsContext").finish_non_exhaustive()
    }
}

impl DtlsContext {
    /// Serves `identities`. `choose` maps a host name (SNI) to one of them; clients without SNI get
    /// the first.
    ///
    /// # Errors
    /// There is no identity, or OpenSSL refuses one; the text is OpenSSL's.
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
                // Fails only when out of memory; then the first one is served.
                let _ = ssl.set_ssl_context(context);
            }
            // RFC 6066 §3 requires an empty extension that acknowledges the name. pion's DTLS 2
            // cannot parse it and never completes the handshake. No client is known to need it.
            Err(SniError::NOACK)
        });
        Ok(Self {
            default: default.build(),
        })
    }

    /// Wraps the context for sharing and replacement.
    pub fn into_shared(self) -> SharedContext {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// A connection that listens for one client.
    pub(super) fn open(&self) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.default)?;
        ssl.set_mtu(HANDSHAKE_MTU)?;
        ssl.set_ex_data(Facts::index().ok_or_else(ErrorStack::get)?, Facts::default());
        Ok(ssl)
    }
}

/// What OpenSSL's callbacks need to know about one client: the valid cookies.
#[derive(Debug, Default)]
pub(super) struct Facts(Mutex<Option<Cookies>>);

impl Facts {
    /// The index of this data, one for the whole process, because OpenSSL never frees one. `None`:
    /// out of memory.
    fn index() -> Option<Index<Ssl, Self>> {
        static INDEX: OnceLock<Option<Index<Ssl, Facts>>> = OnceLock::new();
        *INDEX.get_or_init(|| Ssl::new_ex_index().ok())
    }

    /// Sets the cookies that the client of `ssl` must present.
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
    // As on TCP: a client that offers ALPN without either of these is refused; a client without
    // ALPN is served.
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

/// The current context, replaceable while associations live.
pub type SharedContext = Arc<ArcSwap<DtlsContext>>;
