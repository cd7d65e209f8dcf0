//! Who may mint. Keys are compared in constant time, and only their digests are stored.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::limit::{PerKey, TooMany};
use crate::base::time::Instant;
use crate::config::settings::ApiSettings;

/// The configured keys.
pub(super) struct Keys {
    keys: Vec<Key>,
    open: bool,
    /// Fingerprints of the keys by key length, made with `hasher`, which has a random key of its
    /// own.
    marks: HashMap<usize, Vec<u64>>,
    hasher: RandomState,
}

struct Key {
    name: String,
    digest: [u8; 32],
    choose_username: bool,
    forced: bool,
    limit: PerKey,
}

/// The rights of a request.
#[derive(Clone, Copy)]
pub(super) struct Grant<'a> {
    key: Option<&'a Key>,
}

impl Grant<'_> {
    /// Whether the caller may choose the userid.
    pub(super) fn may_choose_username(self) -> bool {
        self.key.is_some_and(|key| key.choose_username)
    }

    /// Whether every credential it mints is forced.
    pub(super) fn is_forced(self) -> bool {
        self.key.is_some_and(|key| key.forced)
    }

    /// The configured name of the key, for the log.
    pub(super) fn key_name(&self) -> Option<&str> {
        self.key.map(|key| key.name.as_str())
    }

    /// Takes one from the key's budget.
    pub(super) fn take(self, now: Instant) -> Result<(), TooMany> {
        self.key.map_or(Ok(()), |key| key.limit.take(now))
    }
}

impl Keys {
    /// From the configuration.
    pub(super) fn new(settings: &ApiSettings) -> Self {
        let keys = settings.keys.iter().map(|key| Key {
            name: key.name.clone(),
            digest: Sha256::digest(key.key.as_bytes()).into(),
            choose_username: key.choose_username,
            forced: key.forced,
            limit: PerKey::new(settings.mints_per_minute_per_key),
        });
        let hasher = RandomState::new();
        let mut marks: HashMap<usize, Vec<u64>> = HashMap::new();
        for key in settings.keys.iter().map(|key| key.key.as_bytes()) {
            marks.entry(key.len()).or_default().push(hasher.hash_one(key));
        }
        Self {
            keys: keys.collect(),
            open: settings.open,
            marks,
            hasher,
        }
    }

    /// Whether no key is configured.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a key occurs anywhere in `text`. No byte of a key is compared, so timing reveals
    /// nothing.
    pub(super) fn are_in(&self, text: &[u8]) -> bool {
        let marked = |(&len, marks): (&usize, &Vec<u64>)| {
            let mut windows = text.windows(len.max(1));
            windows.any(|window| marks.contains(&self.hasher.hash_one(window)))
        };
        self.marks.iter().any(marked)
    }

    /// The rights that `presented` gives; `None`: none. A wrong key is refused even where no key is
    /// needed, so that its sender learns about it.
    pub(super) fn grant(&self, presented: Option<&[u8]>) -> Option<Grant<'_>> {
        let Some(presented) = presented else {
            return self.open.then_some(Grant { key: None });
        };
        // Digests have one length, and the loop visits every key, so timing reveals nothing.
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let mut found = u32::MAX;
        for (index, key) in (0u32..).zip(&self.keys) {
            found.conditional_assign(&index, key.digest.ct_eq(&digest));
        }
        let key = self.keys.get(usize::try_from(found).ok()?)?;
        Some(Grant { key: Some(key) })
    }
}
