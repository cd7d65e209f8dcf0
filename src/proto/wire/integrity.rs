//! Long-term keys and message integrity (RFC 8489 §9.2.2, §14.4 to §14.6).
//!
//! A [`Key`] stores the HMAC states derived from the key, not the key. Checking a message then
//! clones 28 or 40 bytes of state instead of hashing the padded key again.
//!
//! Deliberately absent: nonces, realms, and who may log in.

use core::fmt;
use std::borrow::Cow;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::attribute::AttributeType;
use super::header::HEADER_LEN;
use super::opaque_string;

/// One of the two integrity attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, 20 bytes.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256. Always 32 bytes here: TURN does not use the shorter
    /// forms of §14.6.
    Sha256,
}

impl Integrity {
    /// The attribute's type.
    pub const fn attribute_type(self) -> AttributeType {
        match self {
            Self::Sha1 => AttributeType::MESSAGE_INTEGRITY,
            Self::Sha256 => AttributeType::MESSAGE_INTEGRITY_SHA256,
        }
    }

    /// The only valid length of its value.
    pub const fn value_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// How a long-term key is derived from a password (RFC 8489 §18.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PasswordAlgorithm {
    /// MD5: what RFC 5389 clients use.
    Md5,
    /// SHA-256.
    Sha256,
}

impl PasswordAlgorithm {
    /// PASSWORD-ALGORITHMS as this server offers it: SHA-256 preferred, then MD5.
    pub const OFFER: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

    /// Number in the IANA registry.
    pub const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    /// The algorithm of a number in the IANA registry.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Md5),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// A key for message integrity, ready for both algorithms. Zeroised when dropped.
#[derive(Clone)]
pub struct Key {
    sha1: Hmac<Sha1>,
    sha256: Hmac<Sha256>,
}

impl Key {
    /// The long-term key: a hash of `username ":" realm ":" password` (RFC 8489 §18.5.1).
    ///
    /// [`opaque_string::prepare`] prepares realm and password; it leaves ASCII unchanged. A
    /// password that is not UTF-8 is used as bytes. `username` is used as it appears in USERNAME,
    /// because its sender has prepared it (§14.3).
    pub fn long_term(username: &[u8], realm: &str, password: &[u8], algorithm: PasswordAlgorithm) -> Self {
        let mut prepared = str::from_utf8(password).ok().map(opaque_string::prepare);
        let password = prepared.as_deref().map_or(password, str::as_bytes);
        let realm = opaque_string::prepare(realm);
        let parts: [&[u8]; 5] = [username, b":", realm.as_bytes(), b":", password];
        let key = match algorithm {
            PasswordAlgorithm::Md5 => Self::from_hash::<Md5>(parts),
            PasswordAlgorithm::Sha256 => Self::from_hash::<Sha256>(parts),
        };
        if let Some(Cow::Owned(text)) = &mut prepared {
            text.zeroize();
        }
        key
    }

    fn from_hash<D: Digest>(parts: [&[u8]; 5]) -> Self {
        let mut hash = parts.into_iter().fold(D::new(), D::chain_update).finalize();
        let key = Self::from_raw(&hash);
        hash.zeroize();
        key
    }

    /// `raw` as the key: a short-term password, or a key computed elsewhere.
    pub fn from_raw(raw: &[u8]) -> Self {
        // HMAC accepts keys of every length (RFC 2104 §2), so neither call can fail.
        Self {
            sha1: Hmac::new_from_slice(raw).expect("HMAC takes keys of every length"),
            sha256: Hmac::new_from_slice(raw).expect("HMAC takes keys of every length"),
        }
    }

    /// HMAC-SHA1 over a message that will end with a MESSAGE-INTEGRITY directly after `before`.
    pub(super) fn sha1(&self, before: &[u8]) -> [u8; 20] {
        over_message(self.sha1.clone(), before, 20)
            .finalize()
            .into_bytes()
            .into()
    }

    /// HMAC-SHA256 over a message that will end with a MESSAGE-INTEGRITY-SHA256 directly after
    /// `before`.
    pub(super) fn sha256(&self, before: &[u8]) -> [u8; 32] {
        over_message(self.sha256.clone(), before, 32)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether `value` is the integrity of the message part `before`, compared in constant time. A
    /// value of any length other than [`Integrity::value_len`] never is.
    pub(super) fn verify(&self, integrity: Integrity, before: &[u8], value: &[u8]) -> bool {
        match integrity {
            Integrity::Sha1 => self.sha1(before).ct_eq(value).into(),
            Integrity::Sha256 => self.sha256(before).ct_eq(value).into(),
        }
    }
}

/// Feeds `before` with the header length that the message has if it ends after an integrity value
/// of `value_len` bytes (RFC 8489 §14.5). Later attributes must not count.
fn over_message<M: Mac>(mac: M, before: &[u8], value_len: usize) -> M {
    let Some((&[t0, t1, _, _], rest)) = before.split_first_chunk() else {
        return mac; // Not a message. Both callers hold a whole header, so this is unreachable.
    };
    let length = (before.len() + 4 + value_len).saturating_sub(HEADER_LEN);
    let [l0, l1] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    mac.chain_update([t0, t1, l0, l1]).chain_update(rest)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl PartialEq for Key {
    /// Compares the MACs of the empty message under both keys, in constant time.
    fn eq(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(|key| key.sha256.clone().finalize().into_bytes());
        ours.ct_eq(&theirs).into()
    }
}

impl Eq for Key {}

/// USERHASH: SHA-256 of `username ":" realm` (RFC 8489 §14.4).
pub fn userhash(username: &[u8], realm: &str) -> [u8; 32] {
    Sha256::new()
        .chain_update(username)
        .chain_update(b":")
        .chain_update(realm)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    //= STUN-AUTH-13
    #[test]
    fn the_long_term_key_is_the_hash_of_username_realm_and_password() {
        let md5 = [
            0x84, 0x93, 0xFB, 0xC5, 0x3B, 0xA5, 0x82, 0xFB, 0x4C, 0x04, 0x4C, 0x45, 0x6B, 0xDC, 0x40, 0xEB,
        ];
        assert_eq!(
            Key::long_term(b"user", "realm", b"pass", PasswordAlgorithm::Md5),
            Key::from_raw(&md5)
        );
        let sha256: [u8; 32] = Sha256::digest(b"user:realm:pass").into();
        assert_eq!(
            Key::long_term(b"user", "realm", b"pass", PasswordAlgorithm::Sha256),
            Key::from_raw(&sha256)
        );
    }

    //= STUN-AUTH-21
    #[test]
    fn realm_and_password_are_prepared_and_the_username_is_not() {
        let key = |user: &str, realm, pass: &str| {
            Key::long_term(user.as_bytes(), realm, pass.as_bytes(), PasswordAlgorithm::Md5)
        };
        let composed = key("u", "caf\u{E9}", "caf\u{E9}");
        assert_eq!(composed, key("u", "cafe\u{301}", "cafe\u{301}"));
        assert_ne!(key("caf\u{E9}", "r", "p"), key("cafe\u{301}", "r", "p"));
        assert_ne!(
            Key::long_term(b"u", "r", b"\xFF\xFE", PasswordAlgorithm::Md5),
            Key::long_term(b"u", "r", b"", PasswordAlgorithm::Md5),
            "a password that is no text still counts"
        );
    }

    #[test]
    fn keys_differ_when_anything_about_them_does() {
        let key = |user: &str, realm, pass: &str, alg| Key::long_term(user.as_bytes(), realm, pass.as_bytes(), alg);
        let one = key("a", "r", "p", PasswordAlgorithm::Md5);
        assert_eq!(one, one.clone());
        assert_ne!(one, key("b", "r", "p", PasswordAlgorithm::Md5));
        assert_ne!(one, key("a", "s", "p", PasswordAlgorithm::Md5));
        assert_ne!(one, key("a", "r", "q", PasswordAlgorithm::Md5));
        assert_ne!(one, key("a", "r", "p", PasswordAlgorithm::Sha256));
    }

    #[test]
    fn a_key_tells_nothing_in_a_log() {
        assert_eq!(format!("{:?}", Key::from_raw(b"secret")), "Key(..)");
    }

    #[test]
    fn numbers_of_password_algorithms_are_iana_s() {
        for (number, algorithm) in [
            (0, None),
            (1, Some(PasswordAlgorithm::Md5)),
            (2, Some(PasswordAlgorithm::Sha256)),
            (3, None),
        ] {
            assert_eq!(PasswordAlgorithm::from_number(number), algorithm);
            assert_eq!(algorithm.map_or(number, PasswordAlgorithm::number), number);
        }
    }
}
