//! Finds the key of a login, with the same work whether the user exists or not.

use std::sync::Arc;

use super::username::{self, MAX_USERNAME, TimeLimited, prepared};
use super::{CredentialError, Credentials, StaticUser};
use crate::base::time::UnixTime;
use crate::turn::refusal::Refusal;
use crate::turn::user::UserId;
use crate::wire::integrity::{Key, PasswordAlgorithm, userhash};

/// How a request names its user.
#[derive(Clone, Copy, Debug)]
pub enum LoginName<'a> {
    /// USERNAME.
    Username(&'a [u8]),
    /// USERHASH.
    Userhash(&'a [u8; 32]),
}

/// A login that succeeded.
#[derive(Clone, Debug)]
pub struct Login {
    /// USERNAME, also if USERHASH was sent.
    pub username: Arc<str>,
    /// The user behind the name.
    pub user: UserId,
    /// The key that verified.
    pub key: Key,
    /// May allocate on the forced path only.
    pub forced: bool,
}

impl Credentials {
    /// Tries every key that `name` may have with `verify`, and returns the one that verified.
    ///
    /// An unknown, expired or malformed name costs as many key derivations and checks as a valid
    /// one. Neither the answer nor its timing distinguishes them (RFC 8489 §16.1.3). The reason of
    /// a failure is determined afterwards, from what verified and from the form of the name, which
    /// the client knows anyway. With `at`, a time-limited name must be valid at that time; without,
    /// its expiry is not checked (design decision D7).
    pub fn login(
        &self,
        name: LoginName<'_>,
        algorithm: PasswordAlgorithm,
        at: Option<UnixTime>,
        mut verify: impl FnMut(&Key) -> bool,
    ) -> Result<Login, Refusal> {
        let (bytes, parts): (&[u8], _) = match name {
            LoginName::Username(bytes) => (bytes, TimeLimited::parse(bytes)),
            LoginName::Userhash(hash) => (hash, None),
        };
        let mut found = None;
        for secret in &self.secrets {
            let key = Key::long_term(bytes, &self.realm, &secret.password(bytes)[..], algorithm);
            if verify(&key) {
                found.get_or_insert(key);
            }
        }
        let is_user = match self.users.login(&self.realm, name, algorithm, verify) {
            Ok(login) => return Ok(login),
            Err(is_user) => is_user,
        };
        let expiry = match (parts, at) {
            (Some(parts), Some(now)) => self.check_expiry(parts.expiry, now),
            _ => Ok(()),
        };
        match (found, parts, core::str::from_utf8(bytes), expiry) {
            (Some(key), Some(parts), Ok(username), Ok(())) => Ok(Login {
                username: Arc::from(username),
                user: UserId::of_time_limited(parts.userid),
                key,
                forced: parts.forced,
            }),
            (None, ..) if is_user => Err(Refusal::WrongStaticPassword),
            (found, _, _, expiry) => Err(self.why(bytes, parts, found.is_some(), expiry.err())),
        }
    }

    /// Why a name that is not a static user's failed. `signed`: a secret produces its password.
    fn why(&self, name: &[u8], parts: Option<TimeLimited<'_>>, signed: bool, expiry: Option<Refusal>) -> Refusal {
        if let Some(fault) = username::fault(name, signed) {
            return fault;
        }
        match (parts, expiry) {
            (Some(_), Some(expiry)) if signed => expiry,
            // Older than any credential, so the number is a user name.
            (Some(parts), _) if parts.expiry >= EARLIEST => Refusal::WrongPassword {
                secrets: self.secrets.len(),
            },
            _ => Refusal::UnknownUser,
        }
    }
}

/// In 2001. Every credential of this server expires later.
const EARLIEST: UnixTime = UnixTime(1_000_000_000);

/// Static users by USERHASH. A USERNAME is looked up by its hash too: the duration of a search by
/// name would reveal how much of a name was right.
pub(super) struct StaticTable {
    /// Sorted by hash.
    users: Vec<User>,
    /// Verified against when the user does not exist.
    nobody: Option<Key>,
}

struct User {
    hash: [u8; 32],
    name: Arc<str>,
    md5: Key,
    sha256: Key,
    forced: bool,
}

impl User {
    fn key(&self, algorithm: PasswordAlgorithm) -> &Key {
        match algorithm {
            PasswordAlgorithm::Md5 => &self.md5,
            PasswordAlgorithm::Sha256 => &self.sha256,
        }
    }
}

impl StaticTable {
    pub(super) fn new(realm: &str, users: &[StaticUser]) -> Result<Self, CredentialError> {
        let mut table = users
            .iter()
            .map(|user| Self::user(realm, user))
            .collect::<Result<Vec<_>, _>>()?;
        table.sort_unstable_by_key(|user| user.hash);
        if let Some(pair) = table.windows(2).find(|pair| pair[0].hash == pair[1].hash) {
            return Err(CredentialError::Duplicate(pair[0].name.to_string()));
        }
        // The value of this key is irrelevant, because no result with it counts.
        Ok(Self {
            nobody: (!table.is_empty()).then(|| Key::from_raw(&[0; 16])),
            users: table,
        })
    }

    fn user(realm: &str, user: &StaticUser) -> Result<User, CredentialError> {
        let name = prepared(&user.name)
            .filter(|name| name.len() <= MAX_USERNAME)
            .ok_or_else(|| CredentialError::Name(user.name.clone()))?;
        let password = prepared(&user.password).ok_or_else(|| CredentialError::Password(user.name.clone()))?;
        let key = |algorithm| Key::long_term(name.as_bytes(), realm, password.as_bytes(), algorithm);
        Ok(User {
            hash: userhash(name.as_bytes(), realm),
            name: Arc::from(name.as_str()),
            md5: key(PasswordAlgorithm::Md5),
            sha256: key(PasswordAlgorithm::Sha256),
            forced: user.forced,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    pub(super) fn any_forced(&self) -> bool {
        self.users.iter().any(|user| user.forced)
    }

    fn find(&self, hash: &[u8; 32]) -> Option<&User> {
        let index = self.users.binary_search_by_key(hash, |user| user.hash).ok()?;
        self.users.get(index)
    }

    /// The error says whether the user exists.
    fn login(
        &self,
        realm: &str,
        name: LoginName<'_>,
        algorithm: PasswordAlgorithm,
        mut verify: impl FnMut(&Key) -> bool,
    ) -> Result<Login, bool> {
        let Some(nobody) = &self.nobody else {
            return Err(false);
        };
        let hash = match name {
            LoginName::Username(name) => userhash(name, realm),
            LoginName::Userhash(hash) => *hash,
        };
        let user = self.find(&hash);
        let key = user.map_or(nobody, |user| user.key(algorithm));
        let verified = verify(key);
        let Some(user) = user.filter(|_| verified) else {
            return Err(user.is_some());
        };
        Ok(Login {
            username: Arc::clone(&user.name),
            user: UserId::of_static(Arc::clone(&user.name)),
            key: key.clone(),
            forced: user.forced,
        })
    }
}
