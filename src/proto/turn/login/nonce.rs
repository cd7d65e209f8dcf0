//! The stateless nonce (RFC 8489 §9.2, §14.10). It contains everything needed to check it, so a
//! challenge costs no memory and a flood of forged sources leaves no state.
//!
//! ```text
//! nonce = [ "obMatJos2" base64(features, 24 bits) ]
//!         base64url( issued at, 32 bits | client port, 16 bits | tag, 64 bits )
//! tag   = HMAC-SHA256( key of the day,
//!         "n2" | features | issued at | client IP address | client port | realm )
//! ```
//!
//! The part in brackets is the nonce cookie of RFC 8489 §9.2.1. Without features it is omitted: 19
//! instead of 32 characters keep replies to unauthenticated clients short. The tag covers the
//! features, so removing an offer from a challenge invalidates the nonce. 64 bits suffice, because
//! guessing a tag only gains a 401. A nonce may be used more than once within its lifetime (RFC
//! 8656 §5); requests are idempotent.
//!
//! A nonce is issued to an address and port, and accepted from any port and transport of that
//! address (design decision D12). Clients bring the nonce of their control connection to a new one
//! (RFC 6062 ConnectionBind), and the first server's nonce to the second after a 300. Many give up
//! on the 438 that RFC 8489 prescribes there. Servers that share a secret derive the same key from
//! it and so accept each other's nonces.

use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::base::time::UnixTime;
use crate::wire::attribute::AttributeType;
use crate::wire::message::Message;

const COOKIE: &[u8; 9] = b"obMatJos2";
/// Cookie and features.
const PREFIX_LEN: usize = COOKIE.len() + 4;
/// Length of time, port and tag, before base64 and after.
const BODY_LEN: usize = 14;
const BODY_TEXT_LEN: usize = 19;
const TAG_LEN: usize = 8;

const DAY_SECS: u64 = 86_400;

/// What a challenge offers beyond RFC 5389 (RFC 8489 §18.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// PASSWORD-ALGORITHMS accompanies the nonce.
    pub password_algorithms: bool,
    /// The client may send USERHASH instead of USERNAME.
    pub anonymity: bool,
}

impl Features {
    /// Plain RFC 5389.
    pub const NONE: Self = Self {
        password_algorithms: false,
        anonymity: false,
    };

    /// Bit 0 is the least significant one (erratum 6290 to RFC 8489; design decision D2).
    const fn bits(self) -> u8 {
        self.password_algorithms as u8 | (self.anonymity as u8) << 1
    }

    /// The last of the four base64 characters. The first three are `A`: 18 bits without a meaning
    /// yet.
    const fn letter(self) -> u8 {
        b'A' + self.bits()
    }

    /// [`Self::NONE`] is never written with a cookie.
    const fn of_letter(letter: u8) -> Option<Self> {
        match letter {
            b'B'..=b'D' => {
                let bits = letter - b'A';
                Some(Self {
                    password_algorithms: bits & 1 != 0,
                    anonymity: bits & 2 != 0,
                })
            }
            _ => None,
        }
    }
}

/// The text of a nonce.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NonceText {
    text: [u8; PREFIX_LEN + BODY_TEXT_LEN],
    len: usize,
}

impl NonceText {
    /// The nonce of a request, if its form is one of ours.
    pub(in crate::turn) fn of(message: &Message<'_>) -> Option<Self> {
        let nonce = message.attribute(AttributeType::NONCE)?;
        let mut text = [0; PREFIX_LEN + BODY_TEXT_LEN];
        text.get_mut(..nonce.len())?.copy_from_slice(nonce);
        Some(Self { text, len: nonce.len() })
    }

    /// The value of NONCE: ASCII, and nothing in it needs quoting (RFC 3261 `qdtext`).
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for NonceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// No server that shares a key with this one issued the nonce to this client's address, or it is
/// too old: 438 (Stale Nonce).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

/// A key for nonces. Zeroised when dropped; never printed.
#[derive(Clone)]
pub struct NonceKey(Zeroizing<[u8; 32]>);

impl NonceKey {
    /// The HKDF label. It makes this key differ from every other key derived from the same secret.
    const LABEL: &[u8] = b"relay nonce key";

    /// A key that no other process has.
    pub fn random(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The key of every server that knows `secret`. A challenge allows offline guesses at the
    /// secret, so it must be strong.
    pub fn derive(secret: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        // HKDF-SHA256 provides up to 8160 bytes (RFC 5869 §2.3), so this cannot fail.
        Hkdf::<Sha256>::new(None, secret)
            .expand(Self::LABEL, &mut key[..])
            .expect("HKDF gives 32 bytes");
        Self(key)
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey(..)")
    }
}

/// Issues and checks nonces. All holders of a key, shards and servers of a fleet, accept each
/// other's nonces.
pub struct Nonces {
    /// Issues nonces and is tried first.
    newest: DayKeys,
    /// Accepted as well: keys of older secrets, until the configuration drops them.
    older: Vec<DayKeys>,
}

impl Nonces {
    /// Longest lifetime of a nonce (RFC 8656 §5: a new one at least once an hour).
    pub const MAX_LIFETIME: Duration = Duration::from_secs(3600);
    /// How far in the future a nonce may have been issued, for clock differences in a fleet and
    /// clock steps.
    const SKEW_SECS: i32 = 5;

    /// Nonces under the keys of `secrets`, the newest first, and under `own`, which issues if there
    /// is no secret.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a NonceKey>, own: &NonceKey) -> Self {
        let mut secrets = secrets.into_iter().map(DayKeys::new);
        let own = DayKeys::new(own);
        match secrets.next() {
            Some(newest) => Self {
                newest,
                older: secrets.chain([own]).collect(),
            },
            None => Self {
                newest: own,
                older: Vec::new(),
            },
        }
    }

    /// Length in bytes of a nonce with these features.
    pub const fn text_len(features: Features) -> usize {
        let prefix = if features.bits() == 0 { 0 } else { PREFIX_LEN };
        prefix + BODY_TEXT_LEN
    }

    /// A nonce for `client`.
    pub fn issue(&mut self, now: UnixTime, client: SocketAddr, realm: &str, features: Features) -> NonceText {
        let claims = Claims {
            features,
            issued: now,
            ip: client.ip(),
            port: client.port(),
            realm,
        };
        let mut body = [0; BODY_LEN];
        body[..4].copy_from_slice(&(now.0 as u32).to_be_bytes());
        body[4..6].copy_from_slice(&claims.port.to_be_bytes());
        body[6..].copy_from_slice(&self.newest.tag(&claims));

        let mut text = [0; PREFIX_LEN + BODY_TEXT_LEN];
        let mut start = 0;
        if features != Features::NONE {
            text[..9].copy_from_slice(COOKIE);
            text[9..PREFIX_LEN].copy_from_slice(&[b'A', b'A', b'A', features.letter()]);
            start = PREFIX_LEN;
        }
        // 14 bytes make 19 characters, so this cannot fail.
        let written = BASE64_URL_SAFE_NO_PAD.encode_slice(body, &mut text[start..]);
        debug_assert_eq!(written, Ok(BODY_TEXT_LEN));
        NonceText {
            text,
            len: start + BODY_TEXT_LEN,
        }
    }

    /// The features that the challenge with `nonce` offered, if it was issued to `ip`, whatever the
    /// port, at most `lifetime` ago (at most [`Self::MAX_LIFETIME`]).
    ///
    /// # Errors
    /// [`Stale`] otherwise, whatever the cause.
    pub fn check(
        &mut self,
        now: UnixTime,
        ip: IpAddr,
        realm: &str,
        nonce: &[u8],
        lifetime: Duration,
    ) -> Result<Features, Stale> {
        let (features, text) = take_apart(nonce)?;
        let mut body = [0; BODY_LEN];
        if BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut body) != Ok(BODY_LEN) {
            return Err(Stale);
        }
        let [i0, i1, i2, i3, p0, p1, tag @ ..] = body;
        // The nonce omits the upper bits of the clock. It means the nearest time that ends in these
        // 32 bits.
        let age = (now.0 as u32)
            .wrapping_sub(u32::from_be_bytes([i0, i1, i2, i3]))
            .cast_signed();
        let lifetime = lifetime.min(Self::MAX_LIFETIME).as_secs() as i32;
        // Checked before the tag, so that refusing a stale nonce needs no hashing.
        if !(-Self::SKEW_SECS..=lifetime).contains(&age) {
            return Err(Stale);
        }
        let claims = Claims {
            features,
            issued: UnixTime(now.0.wrapping_sub(i64::from(age).cast_unsigned())),
            ip,
            port: u16::from_be_bytes([p0, p1]),
            realm,
        };
        // Which key matches is not secret, so the search may end early.
        let mut keys = core::iter::once(&mut self.newest).chain(&mut self.older);
        if keys.any(|key| key.tag(&claims).ct_eq(&tag).into()) {
            Ok(features)
        } else {
            Err(Stale)
        }
    }
}

/// The values that a tag covers.
struct Claims<'a> {
    features: Features,
    issued: UnixTime,
    ip: IpAddr,
    port: u16,
    realm: &'a str,
}

/// A separate key for every day, which limits the tags that an attacker can collect under one key.
/// Two are kept, because nonces of three days are never valid at the same time.
struct DayKeys {
    master: Hmac<Sha256>,
    /// Keys of an even and an odd day, each with the number of the day.
    days: [(u64, Hmac<Sha256>); 2],
}

impl DayKeys {
    fn new(key: &NonceKey) -> Self {
        let master = mac(&key.0);
        Self {
            days: [0, 1].map(|day| (day, key_of(&master, day))),
            master,
        }
    }

    fn tag(&mut self, claims: &Claims<'_>) -> [u8; TAG_LEN] {
        let ip = match claims.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let tag = self
            .of_day(claims.issued)
            .chain_update(b"n2")
            .chain_update([claims.features.bits()])
            .chain_update((claims.issued.0 as u32).to_be_bytes())
            .chain_update(Ipv6Addr::octets(&ip))
            .chain_update(claims.port.to_be_bytes())
            .chain_update(claims.realm)
            .finalize()
            .into_bytes();
        let mut short = [0; TAG_LEN];
        short.copy_from_slice(&tag[..TAG_LEN]);
        short
    }

    fn of_day(&mut self, at: UnixTime) -> Hmac<Sha256> {
        let day = at.0 / DAY_SECS;
        let slot = &mut self.days[(day % 2) as usize];
        if slot.0 != day {
            *slot = (day, key_of(&self.master, day));
        }
        slot.1.clone()
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces(..)")
    }
}

/// Splits the features from the rest. Each form has exactly one length.
fn take_apart(nonce: &[u8]) -> Result<(Features, &[u8]), Stale> {
    if nonce.len() == BODY_TEXT_LEN {
        return Ok((Features::NONE, nonce));
    }
    let rest = nonce
        .strip_prefix(COOKIE)
        .and_then(|rest| rest.strip_prefix(b"AAA"))
        .ok_or(Stale)?;
    match rest.split_first() {
        Some((&letter, text)) if text.len() == BODY_TEXT_LEN => Features::of_letter(letter)
            .map(|features| (features, text))
            .ok_or(Stale),
        _ => Err(Stale),
    }
}

/// HMAC-SHA256 with this key.
pub(in crate::turn) fn mac(key: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC accepts keys of every length (RFC 2104 §2), so this cannot fail.
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn key_of(master: &Hmac<Sha256>, day: u64) -> Hmac<Sha256> {
    let key = master
        .clone()
        .chain_update(b"day")
        .chain_update(day.to_be_bytes())
        .finalize();
    mac(&key.into_bytes().into())
}

#[cfg(test)]
mod tests;
