//! Credentials: time-limited ones and a static table of users.
//!
//! A time-limited credential is a username `expiry[:userid]` and the password
//! `base64(HMAC-SHA1(secret, username))` (draft-uberti-behave-turn-rest-00 §2.2). A service that
//! shares a secret with the server can therefore admit clients without contacting it.
//! `expiry+forced[:userid]` is valid on the forced path only (`config::forced`). Several secrets
//! are valid at once, so that they can be rotated. Static users (RFC 8489 §9.2) exist beside them.
//!
//! Not here: nonces and the order of checks (`auth`), and access to minting (the credentials API).
//! Not here: nonces and the order of checks (`auth`), who may mint (the credentials API).

mod login;
#[cfg(test)]
mod tests;
mod username;

use core::fmt;
use core::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::nonce::NonceKey;
use crate::base::time::UnixTime;
use crate::turn::refusal::Refusal;
use login::StaticTable;
pub use login::{Login, LoginName};
pub use username::TimeLimited;

/// A secret shared with services that mint credentials. Zeroised when dropped; never printed.
#[derive(Clone)]
pub struct Secret {
    /// The state of HMAC-SHA1 after absorbing the secret. The secret itself is not kept.
    mac: Hmac<Sha1>,
    nonce_key: NonceKey,
}

/// Length of the base64 text of 20 bytes.
const PASSWORD_LEN: usize = 28;

impl Secret {
    /// The secret `bytes`, exactly as a minting service has them in its configuration, without any
    /// decoding.
    pub fn new(bytes: &[u8]) -> Self {
        // HMAC accepts keys of every length (RFC 2104 §2), so this cannot fail.
        Self {
            mac: Hmac::new_from_slice(bytes).expect("HMAC takes keys of every length"),
            nonce_key: NonceKey::derive(bytes),
        }
    }

    /// The credential for `userid` that is valid until `expiry`.
    ///
    /// # Errors
    /// If `expiry` or `userid` would make a username that this server refuses.
    pub fn mint(&self, expiry: UnixTime, userid: Option<&str>) -> Result<MintedCredential, MintError> {
        username::time_limited(expiry, userid, false).map(|username| self.sign(username))
    }

    /// As [`Self::mint`], valid on the forced path only.
    ///
    /// # Errors
    /// See [`Self::mint`].
    pub fn mint_forced(&self, expiry: UnixTime, userid: Option<&str>) -> Result<MintedCredential, MintError> {
        username::time_limited(expiry, userid, true).map(|username| self.sign(username))
    }

    fn sign(&self, username: String) -> MintedCredential {
        let password = self.password(username.as_bytes());
        let password = String::from_utf8_lossy(&password[..]).into_owned();
        MintedCredential { username, password }
    }

    fn password(&self, username: &[u8]) -> Zeroizing<[u8; PASSWORD_LEN]> {
        let tag = self.mac.clone().chain_update(username).finalize().into_bytes();
        let mut password = Zeroizing::new([0; PASSWORD_LEN]);
        // 20 bytes make 28 characters, so this cannot fail.
        let written = BASE64_STANDARD.encode_slice(tag, &mut password[..]);
        debug_assert_eq!(written, Ok(PASSWORD_LEN));
        password
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A user of the static table. Every client that knows the password is this user.
#[derive(Clone)]
pub struct StaticUser {
    /// USERNAME.
    pub name: String,
    /// Long-term password.
    pub password: Zeroizing<String>,
    /// May allocate on the forced path only.
    pub forced: bool,
}

impl fmt::Debug for StaticUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The parts of [`Credentials`].
#[derive(Clone, Debug)]
pub struct CredentialsConfig {
    /// The realm that all keys are bound to, as sent in REALM.
    pub realm: String,
    /// Secrets of time-limited credentials, newest first. The first one mints; all are accepted.
    pub secrets: Vec<Secret>,
    /// Static users.
    pub users: Vec<StaticUser>,
    /// A username that expires later than this from now (plus [`Self::skew`]) is refused: no
    /// correct service minted it.
    pub max_ttl: Duration,
    /// How far ahead the clocks of minting services may be.
    pub skew: Duration,
}

impl Default for CredentialsConfig {
    /// No login succeeds.
    fn default() -> Self {
        Self {
            realm: String::new(),
            secrets: Vec::new(),
            users: Vec::new(),
            max_ttl: Duration::from_secs(86_400),
            skew: Duration::from_secs(60),
        }
    }
}

/// Why a static user is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// The name is empty, longer than 508 bytes, or contains control characters.
    Name(String),
    /// The password of this user is empty or contains control characters.
    Password(String),
    /// Two users have this name.
    Duplicate(String),
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                write!(
                    f,
                    "user name {name:?} must be 1 to 508 bytes long and contain no control characters"
                )
            }
            Self::Password(name) => {
                write!(
                    f,
                    "the password of user {name:?} must not be empty and must contain no control characters"
                )
            }
            Self::Duplicate(name) => write!(f, "there are two users named {name:?}"),
        }
    }
}

impl core::error::Error for CredentialError {}

/// A username and its password, for a client.
#[derive(Clone, PartialEq, Eq)]
pub struct MintedCredential {
    /// `expiry["+forced"][:userid]`.
    pub username: String,
    /// For the client only.
    pub password: String,
}

impl fmt::Debug for MintedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedCredential")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Why no credential was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintError {
    /// There is no secret to mint with.
    NoSecret,
    /// It would expire at once, or later than the server accepts.
    Lifetime,
    /// The userid is empty, longer than [`TimeLimited::MAX_USERID`] bytes, or contains control
    /// characters.
    Userid,
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSecret => f.write_str("no secret is configured, so no credential can be minted"),
            Self::Lifetime => f.write_str("the lifetime must be at least a second and at most what the server accepts"),
            Self::Userid => write!(
                f,
                "a userid must be 1 to {} bytes long and contain no control characters",
                TimeLimited::MAX_USERID
            ),
        }
    }
}

impl core::error::Error for MintError {}

/// Mints with a secret that is not, or not yet, part of any [`Credentials`].
///
/// # Errors
/// See [`Secret::mint`].
pub fn mint(secret: &[u8], expiry: UnixTime, userid: Option<&str>) -> Result<MintedCredential, MintError> {
    Secret::new(secret).mint(expiry, userid)
}

/// All valid credentials. Immutable: a reload builds a new value.
pub struct Credentials {
    realm: String,
    secrets: Vec<Secret>,
    users: StaticTable,
    max_ttl: Duration,
    skew: Duration,
}

impl Credentials {
    /// Derives the keys of static users. Their passwords are not kept.
    ///
    /// # Errors
    /// The first invalid static user.
    pub fn new(config: CredentialsConfig) -> Result<Self, CredentialError> {
        let users = StaticTable::new(&config.realm, &config.users)?;
        Ok(Self {
            realm: config.realm,
            secrets: config.secrets,
            users,
            max_ttl: config.max_ttl,
            skew: config.skew,
        })
    }

    /// The realm of every key.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The nonce keys of all servers with these secrets, newest first.
    pub fn nonce_keys(&self) -> impl Iterator<Item = &NonceKey> {
        self.secrets.iter().map(|secret| &secret.nonce_key)
    }

    /// Whether clients may send USERHASH instead of USERNAME. Only if the name of every possible
    /// user is known: the name in a time-limited credential cannot be found from its hash (design
    /// decision D3).
    pub fn offers_anonymity(&self) -> bool {
        self.secrets.is_empty() && !self.users.is_empty()
    }

    /// Whether any static user is restricted to the forced path.
    pub fn has_forced_users(&self) -> bool {
        self.users.any_forced()
    }

    /// The longest a credential may be good for.
    pub const fn max_ttl(&self) -> Duration {
        self.max_ttl
    }

    /// Mints a credential with the newest secret, valid for `ttl` from `now`.
    ///
    /// # Errors
    /// See [`MintError`]. A `ttl` above [`CredentialsConfig::max_ttl`] is not shortened here.
    pub fn mint(&self, now: UnixTime, ttl: Duration, userid: Option<&str>) -> Result<MintedCredential, MintError> {
        let (secret, expiry) = self.minting(now, ttl)?;
        secret.mint(expiry, userid)
    }

    /// As [`Self::mint`], valid on the forced path only.
    ///
    /// # Errors
    /// See [`Self::mint`].
    pub fn mint_forced(
        &self,
        now: UnixTime,
        ttl: Duration,
        userid: Option<&str>,
    ) -> Result<MintedCredential, MintError> {
        let (secret, expiry) = self.minting(now, ttl)?;
        secret.mint_forced(expiry, userid)
    }

    /// The minting secret, and the expiry of what it mints now.
    fn minting(&self, now: UnixTime, ttl: Duration) -> Result<(&Secret, UnixTime), MintError> {
        let secret = self.secrets.first().ok_or(MintError::NoSecret)?;
        if ttl.as_secs() == 0 || ttl > self.max_ttl {
            return Err(MintError::Lifetime);
        }
        Ok((secret, UnixTime(now.0.saturating_add(ttl.as_secs()))))
    }

    /// Whether a username may expire at `expiry` if it is used at `now`.
    fn check_expiry(&self, expiry: UnixTime, now: UnixTime) -> Result<(), Refusal> {
        let latest = self.max_ttl.saturating_add(self.skew).as_secs().saturating_add(now.0);
        if expiry <= now {
            let ago = Duration::from_secs(now.0 - expiry.0);
            return Err(Refusal::CredentialExpired { ago });
        }
        if expiry.0 > latest {
            let beyond = Duration::from_secs(expiry.0 - latest);
            return Err(Refusal::ExpiryTooFar { beyond });
        }
        Ok(())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("realm", &self.realm)
            .field("secrets", &self.secrets.len())
            .field("users", &self.users.len())
            .field("max_ttl", &self.max_ttl)
            .field("skew", &self.skew)
            .finish()
    }
}
