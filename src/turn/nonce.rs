//! The stateless nonce (RFC 8489 §9.2, §14.10): everything needed to check one is in it, so a challenge costs no memory and
//! a flood of forged sources leaves nothing behind.
//!
//! ```text
//! [ "obMatJos2" base64(features, 24 bits) ] base64url( issued at, 32 bits | tag, 64 bits )
//! tag = HMAC-SHA256(key of the day, "n1" | features | issued at | client IP address | client port | realm)
//! ```
//!
//! The part in brackets is the nonce cookie of RFC 8489 §9.2.1 and left out when there are no features to tell: 16 instead of
//! 29 characters, as short as a reply to strangers should be. Features are under the tag, so taking an offer out of a
//! challenge spoils the nonce. 64 bits suffice: who guesses a tag has won a 401. A nonce may be used more than once within
//! its lifetime (RFC 8656 §5); requests are idempotent.

use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, Ipv6Addr};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::time::UnixTime;
use super::types::FiveTuple;

const COOKIE: &[u8; 9] = b"obMatJos2";
/// Cookie and features.
const PREFIX_LEN: usize = COOKIE.len() + 4;
/// Time and tag, before base64 and after.
const BODY_LEN: usize = 12;
const BODY_TEXT_LEN: usize = 16;
const TAG_LEN: usize = 8;

const DAY_SECS: u64 = 86_400;

/// What a challenge offers beyond RFC 5389 (RFC 8489 §18.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// PASSWORD-ALGORITHMS is beside the nonce.
    pub password_algorithms: bool,
    /// USERHASH may be sent instead of USERNAME.
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

    /// The last of the four base64 characters; the first three are `A`, for 18 bits that mean nothing yet.
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

/// A nonce this server did not issue to this client, or too long ago: 438 (Stale Nonce).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

/// Issues and checks nonces. Every holder of the same key knows the others' nonces: shards, and servers of a fleet.
pub struct Nonces {
    master: Hmac<Sha256>,
    /// Keys of an even and an odd day, with the number of the day.
    days: [(u64, Hmac<Sha256>); 2],
}

impl Nonces {
    /// Longest lifetime of a nonce (RFC 8656 §5: at least once an hour a new one).
    pub const MAX_LIFETIME: Duration = Duration::from_secs(3600);
    /// How far in the future a nonce may have been issued: clocks of a fleet, and a clock stepped back.
    const SKEW_SECS: i32 = 5;

    /// Nonces under `key`, which nobody outside may know.
    pub fn new(key: [u8; 32]) -> Self {
        let master = mac(&key);
        Self {
            days: [0, 1].map(|day| (day, key_of(&master, day))),
            master,
        }
    }

    /// A nonce for `client`.
    pub fn issue(&mut self, now: UnixTime, client: &FiveTuple, realm: &str, features: Features) -> NonceText {
        let issued = (now.0 as u32).to_be_bytes();
        let tag = self.tag(now, client, realm, features);
        let mut body = [0; BODY_LEN];
        body[..4].copy_from_slice(&issued);
        body[4..].copy_from_slice(&tag);

        let mut text = [0; PREFIX_LEN + BODY_TEXT_LEN];
        let mut start = 0;
        if features != Features::NONE {
            text[..9].copy_from_slice(COOKIE);
            text[9..PREFIX_LEN].copy_from_slice(&[b'A', b'A', b'A', features.letter()]);
            start = PREFIX_LEN;
        }
        // 12 bytes make 16 characters, so this cannot fail.
        let written = BASE64_URL_SAFE_NO_PAD.encode_slice(body, &mut text[start..]);
        debug_assert_eq!(written, Ok(BODY_TEXT_LEN));
        NonceText {
            text,
            len: start + BODY_TEXT_LEN,
        }
    }

    /// What the challenge offered that `nonce` came with, if it is one of ours for `client`, issued no longer than
    /// `lifetime` (at most [`Self::MAX_LIFETIME`]) ago.
    ///
    /// # Errors
    /// [`Stale`] otherwise, whatever is wrong.
    pub fn check(
        &mut self,
        now: UnixTime,
        client: &FiveTuple,
        realm: &str,
        nonce: &[u8],
        lifetime: Duration,
    ) -> Result<Features, Stale> {
        let (features, text) = take_apart(nonce)?;
        let mut body = [0; BODY_LEN];
        if BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut body) != Ok(BODY_LEN) {
            return Err(Stale);
        }
        let [i0, i1, i2, i3, tag @ ..] = body;
        // The clock's upper bits are not sent: the nearest time that ends in these 32 is meant.
        let age = (now.0 as u32)
            .wrapping_sub(u32::from_be_bytes([i0, i1, i2, i3]))
            .cast_signed();
        let lifetime = lifetime.min(Self::MAX_LIFETIME).as_secs() as i32;
        // Before the tag: a stale nonce is refused without any hashing.
        if !(-Self::SKEW_SECS..=lifetime).contains(&age) {
            return Err(Stale);
        }
        let issued = UnixTime(now.0.wrapping_sub(i64::from(age).cast_unsigned()));
        let expected = self.tag(issued, client, realm, features);
        if bool::from(expected.ct_eq(&tag)) {
            Ok(features)
        } else {
            Err(Stale)
        }
    }

    fn tag(&mut self, issued: UnixTime, client: &FiveTuple, realm: &str, features: Features) -> [u8; TAG_LEN] {
        let ip = match client.client.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let tag = self
            .day_key(issued)
            .chain_update(b"n1")
            .chain_update([features.bits()])
            .chain_update((issued.0 as u32).to_be_bytes())
            .chain_update(Ipv6Addr::octets(&ip))
            .chain_update(client.client.port().to_be_bytes())
            .chain_update(realm)
            .finalize()
            .into_bytes();
        let mut short = [0; TAG_LEN];
        short.copy_from_slice(&tag[..TAG_LEN]);
        short
    }

    /// A key of its own for every day, so the tags anyone can collect under one key are limited. Two are kept; nonces of
    /// a third day are never good at the same time.
    fn day_key(&mut self, at: UnixTime) -> Hmac<Sha256> {
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

/// Splits the features from the rest, by the one length each form has.
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
pub(super) fn mac(key: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC is defined for keys of every length (RFC 2104 §2), so this cannot fail.
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::turn::types::Transport;

    const REALM: &str = "example.org";
    const NOW: UnixTime = UnixTime(1_893_456_000 + 1000);
    const LIFETIME: Duration = Duration::from_secs(600);
    const BOTH: Features = Features {
        password_algorithms: true,
        anonymity: true,
    };
    const ALGORITHMS: Features = Features {
        password_algorithms: true,
        anonymity: false,
    };
    const ANONYMITY: Features = Features {
        password_algorithms: false,
        anonymity: true,
    };

    fn client(addr: &str) -> FiveTuple {
        FiveTuple {
            client: addr.parse().unwrap(),
            server: "192.0.2.9:3478".parse().unwrap(),
            transport: Transport::Udp,
        }
    }

    fn nonces() -> Nonces {
        Nonces::new([42; 32])
    }

    fn later(secs: i64) -> UnixTime {
        UnixTime(NOW.0.checked_add_signed(secs).unwrap())
    }

    //= STUN-AUTH-07
    //= D2
    #[test]
    fn the_text_is_cookie_features_and_sixteen_characters_that_need_no_quoting() {
        let client = client("192.0.2.1:4000");
        for (features, start, len) in [
            (Features::NONE, &b""[..], 16),
            (ALGORITHMS, b"obMatJos2AAAB", 29),
            (ANONYMITY, b"obMatJos2AAAC", 29),
            (BOTH, b"obMatJos2AAAD", 29),
        ] {
            let nonce = nonces().issue(NOW, &client, REALM, features);
            assert_eq!(nonce.as_bytes().len(), len);
            assert!(nonce.as_bytes().starts_with(start), "{nonce:?}");
            assert!(
                nonce
                    .as_bytes()
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b)),
                "{nonce:?}"
            );
            assert_eq!(
                nonces().check(NOW, &client, REALM, nonce.as_bytes(), LIFETIME),
                Ok(features)
            );
        }
    }

    //= STUN-AUTH-05
    #[test]
    fn a_nonce_is_good_for_one_source_one_realm_and_one_key_only() {
        let ours = client("192.0.2.1:4000");
        let nonce = nonces().issue(NOW, &ours, REALM, ALGORITHMS);
        let check = |nonces: &mut Nonces, client: &FiveTuple, realm| {
            nonces.check(NOW, client, realm, nonce.as_bytes(), LIFETIME).is_ok()
        };
        assert!(check(&mut nonces(), &ours, REALM));
        assert!(!check(&mut nonces(), &client("192.0.2.1:4001"), REALM));
        assert!(!check(&mut nonces(), &client("192.0.2.2:4000"), REALM));
        assert!(!check(&mut nonces(), &client("[2001:db8::1]:4000"), REALM));
        assert!(!check(&mut nonces(), &ours, "example.com"));
        assert!(!check(&mut Nonces::new([43; 32]), &ours, REALM));
    }

    //= STUN-AUTH-06
    #[test]
    fn a_nonce_is_good_from_five_seconds_before_its_issue_to_the_end_of_its_lifetime() {
        let client = client("[2001:db8::1]:4000");
        let nonce = nonces().issue(NOW, &client, REALM, ALGORITHMS);
        let good = |secs, lifetime| {
            nonces()
                .check(
                    later(secs),
                    &client,
                    REALM,
                    nonce.as_bytes(),
                    Duration::from_secs(lifetime),
                )
                .is_ok()
        };
        for (secs, expected) in [(-6, false), (-5, true), (0, true), (600, true), (601, false)] {
            assert_eq!(good(secs, 600), expected, "{secs}");
        }
        for (secs, expected) in [(3600, true), (3601, false)] {
            assert_eq!(good(secs, u64::MAX), expected, "{secs}: no lifetime over an hour");
        }
        assert!(!good(1 << 31, 600) && !good(1 << 32 | 601, 600) && !good(-(1 << 30), 600));
    }

    //= STUN-AUTH-17
    #[test]
    fn the_cookie_cannot_be_taken_off_put_on_or_changed() {
        let client = client("192.0.2.1:4000");
        let text = |features| nonces().issue(NOW, &client, REALM, features).as_bytes().to_vec();
        let check = |nonce: &[u8]| nonces().check(NOW, &client, REALM, nonce, LIFETIME);
        let full = text(ALGORITHMS);
        assert_eq!(check(&full[13..]), Err(Stale), "stripped");
        for letter in *b"AACDEabz0_-=" {
            let mut changed = full.clone();
            changed[12] = letter;
            assert_eq!(check(&changed).is_ok(), letter == b'B', "{}", letter as char);
        }
        let compact = text(Features::NONE);
        for prefix in [&b"obMatJos2AAAA"[..], b"obMatJos2AAAB", b"obMatJos2", b"x"] {
            assert_eq!(check(&[prefix, &compact].concat()), Err(Stale));
        }
    }

    #[test]
    fn every_changed_bit_and_every_other_length_is_stale() {
        let client = client("192.0.2.1:4000");
        for features in [Features::NONE, BOTH] {
            let nonce = nonces().issue(NOW, &client, REALM, features);
            let good = nonce.as_bytes();
            for (i, bit) in (0..good.len()).flat_map(|i| (0..8).map(move |bit| (i, bit))) {
                let mut changed = good.to_vec();
                changed[i] ^= 1 << bit;
                assert_eq!(
                    nonces().check(NOW, &client, REALM, &changed, LIFETIME),
                    Err(Stale),
                    "{i} {bit}"
                );
            }
            for len in 0..good.len() {
                assert_eq!(nonces().check(NOW, &client, REALM, &good[..len], LIFETIME), Err(Stale));
            }
            assert_eq!(
                nonces().check(NOW, &client, REALM, &[good, b"A"].concat(), LIFETIME),
                Err(Stale)
            );
        }
    }

    #[test]
    fn nonces_outlive_midnight_and_the_end_of_the_32_bit_clock() {
        let client = client("192.0.2.1:4000");
        for turn in [DAY_SECS * 21_915, 1 << 32, 1 << 33] {
            let mut nonces = nonces();
            for issued in [turn - 1, turn, turn + 1] {
                let nonce = nonces.issue(UnixTime(issued), &client, REALM, ALGORITHMS);
                for now in [turn - 3, turn - 1, turn, turn + 1, turn + 500] {
                    let checked = nonces.check(UnixTime(now), &client, REALM, nonce.as_bytes(), LIFETIME);
                    assert_eq!(checked, Ok(ALGORITHMS), "{issued} {now}");
                }
            }
        }
    }

    #[test]
    fn each_day_has_its_own_key() {
        let mut nonces = nonces();
        let mut tag = |at| nonces.day_key(UnixTime(at)).finalize().into_bytes();
        let (today, tomorrow, in_two_days) = (tag(0), tag(DAY_SECS), tag(2 * DAY_SECS));
        assert!(today != tomorrow && today != in_two_days && tomorrow != in_two_days);
        assert_eq!(tag(DAY_SECS - 1), today);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_good_nonce_by_chance(nonce in prop::collection::vec(any::<u8>(), 0..64)) {
            let client = client("192.0.2.1:4000");
            prop_assert_eq!(nonces().check(NOW, &client, REALM, &nonce, LIFETIME), Err(Stale));
        }

        #[test]
        fn what_is_issued_is_good(ip in any::<[u8; 16]>(), port: u16, unix in 0_u64..1 << 34, age in 0_u64..=600) {
            let client = FiveTuple { client: (ip, port).into(), ..client("192.0.2.1:4000") };
            let nonce = nonces().issue(UnixTime(unix), &client, REALM, BOTH);
            let checked = nonces().check(UnixTime(unix + age), &client, REALM, nonce.as_bytes(), LIFETIME);
            prop_assert_eq!(checked, Ok(BOTH));
        }
    }
}
