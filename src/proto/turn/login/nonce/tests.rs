use proptest::prelude::*;

use super::*;

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

fn client(addr: &str) -> SocketAddr {
    addr.parse().unwrap()
}

fn own() -> NonceKey {
    NonceKey::random([42; 32])
}

/// The nonces of a process without any secret.
fn nonces() -> Nonces {
    Nonces::new([], &own())
}

/// The nonces of a separate process with these secrets.
fn sharing(process: u8, secrets: &[&str]) -> Nonces {
    let secrets: Vec<_> = secrets
        .iter()
        .map(|secret| NonceKey::derive(secret.as_bytes()))
        .collect();
    Nonces::new(&secrets, &NonceKey::random([process; 32]))
}

fn later(secs: i64) -> UnixTime {
    UnixTime(NOW.0.checked_add_signed(secs).unwrap())
}

//= STUN-AUTH-07
//= D2
#[test]
fn the_text_is_cookie_features_and_nineteen_characters_that_need_no_quoting() {
    let client = client("192.0.2.1:4000");
    for (features, start, len) in [
        (Features::NONE, &b""[..], 19),
        (ALGORITHMS, b"obMatJos2AAAB", 32),
        (ANONYMITY, b"obMatJos2AAAC", 32),
        (BOTH, b"obMatJos2AAAD", 32),
    ] {
        let nonce = nonces().issue(NOW, client, REALM, features);
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
            nonces().check(NOW, client.ip(), REALM, nonce.as_bytes(), LIFETIME),
            Ok(features)
        );
    }
}

//= STUN-AUTH-05
//= D12
#[test]
fn a_nonce_is_good_from_every_port_of_one_address_under_one_realm() {
    let ours = client("192.0.2.1:4000");
    let nonce = nonces().issue(NOW, ours, REALM, ALGORITHMS);
    let good = |client: &str, realm| {
        let ip = self::client(client).ip();
        nonces().check(NOW, ip, realm, nonce.as_bytes(), LIFETIME).is_ok()
    };
    for same in [
        "192.0.2.1:4000",
        "192.0.2.1:4001",
        "192.0.2.1:443",
        "[::ffff:192.0.2.1]:4000",
    ] {
        assert!(good(same, REALM), "{same}");
    }
    for other in ["192.0.2.2:4000", "[2001:db8::1]:4000", "[::192.0.2.1]:4000"] {
        assert!(!good(other, REALM), "{other}");
    }
    assert!(!good("192.0.2.1:4000", "example.com"));
}

//= STUN-AUTH-05
#[test]
fn no_two_addresses_or_ports_are_issued_the_same_nonce_and_no_port_can_be_put_into_one() {
    let clients = [
        "192.0.2.1:4000",
        "192.0.2.1:4001",
        "192.0.2.1:0",
        "192.0.2.2:4000",
        "[2001:db8::1]:4000",
    ];
    for features in [Features::NONE, BOTH] {
        let issued = clients.map(|to| nonces().issue(NOW, client(to), REALM, features).as_bytes().to_vec());
        let distinct: std::collections::BTreeSet<_> = issued.iter().collect();
        assert_eq!(distinct.len(), clients.len());
    }
    let nonce = nonces().issue(NOW, client("192.0.2.1:4000"), REALM, Features::NONE);
    let mut body = BASE64_URL_SAFE_NO_PAD.decode(nonce.as_bytes()).unwrap();
    assert_eq!(body[4..6], 4000_u16.to_be_bytes());
    body[5] ^= 1;
    let changed = BASE64_URL_SAFE_NO_PAD.encode(body);
    let ip = client("192.0.2.1:4001").ip();
    assert_eq!(nonces().check(NOW, ip, REALM, changed.as_bytes(), LIFETIME), Err(Stale));
}

//= STUN-AUTH-05
#[test]
fn who_shares_a_secret_knows_the_others_nonces_and_nobody_else_does() {
    let client = client("192.0.2.1:4000");
    let good = |from: &mut Nonces, at: &mut Nonces| {
        let nonce = from.issue(NOW, client, REALM, ALGORITHMS);
        at.check(NOW, client.ip(), REALM, nonce.as_bytes(), LIFETIME).is_ok()
    };
    for (what, from, at, expected) in [
        ("another node", sharing(1, &["north"]), sharing(2, &["north"]), true),
        (
            "rotated here",
            sharing(1, &["north"]),
            sharing(2, &["south", "north"]),
            true,
        ),
        (
            "rotated there first",
            sharing(1, &["south", "north"]),
            sharing(2, &["north"]),
            false,
        ),
        (
            "rotated there, known here",
            sharing(1, &["south", "north"]),
            sharing(2, &["north", "south"]),
            true,
        ),
        ("taken out", sharing(1, &["north"]), sharing(1, &["south"]), false),
        ("another secret", sharing(1, &["north"]), sharing(1, &["North"]), false),
        ("no secret, the same process", sharing(1, &[]), sharing(1, &[]), true),
        ("no secret, another process", sharing(1, &[]), sharing(2, &[]), false),
        (
            "the first secret came by a reload",
            sharing(1, &[]),
            sharing(1, &["north"]),
            true,
        ),
    ] {
        let (mut from, mut at) = (from, at);
        assert_eq!(good(&mut from, &mut at), expected, "{what}");
    }
}

/// HKDF-SHA256 without salt, computed by hand (RFC 5869 §2), so that other implementations can
/// share nonces with this one.
#[test]
fn the_key_of_a_secret_is_what_rfc_5869_makes_of_it() {
    let hmac = |key: &[u8], parts: &[&[u8]]| -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let extracted = hmac(&[0; 32], &[b"north"]);
    let expanded = hmac(&extracted, &[b"relay nonce key", &[1]]);
    assert_eq!(*NonceKey::derive(b"north").0, expanded);
    let shown = format!("{:?} {:?}", NonceKey::derive(b"north"), nonces());
    assert_eq!(shown, "NonceKey(..) Nonces(..)");
}

//= STUN-AUTH-06
#[test]
fn a_nonce_is_good_from_five_seconds_before_its_issue_to_the_end_of_its_lifetime() {
    let client = client("[2001:db8::1]:4000");
    let nonce = nonces().issue(NOW, client, REALM, ALGORITHMS);
    let good = |secs, lifetime| {
        nonces()
            .check(
                later(secs),
                client.ip(),
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
    let text = |features| nonces().issue(NOW, client, REALM, features).as_bytes().to_vec();
    let check = |nonce: &[u8]| nonces().check(NOW, client.ip(), REALM, nonce, LIFETIME);
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
        let nonce = nonces().issue(NOW, client, REALM, features);
        let good = nonce.as_bytes();
        for (i, bit) in (0..good.len()).flat_map(|i| (0..8).map(move |bit| (i, bit))) {
            let mut changed = good.to_vec();
            changed[i] ^= 1 << bit;
            assert_eq!(
                nonces().check(NOW, client.ip(), REALM, &changed, LIFETIME),
                Err(Stale),
                "{i} {bit}"
            );
        }
        for len in 0..good.len() {
            assert_eq!(
                nonces().check(NOW, client.ip(), REALM, &good[..len], LIFETIME),
                Err(Stale)
            );
        }
        assert_eq!(
            nonces().check(NOW, client.ip(), REALM, &[good, b"A"].concat(), LIFETIME),
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
            let nonce = nonces.issue(UnixTime(issued), client, REALM, ALGORITHMS);
            for now in [turn - 3, turn - 1, turn, turn + 1, turn + 500] {
                let checked = nonces.check(UnixTime(now), client.ip(), REALM, nonce.as_bytes(), LIFETIME);
                assert_eq!(checked, Ok(ALGORITHMS), "{issued} {now}");
            }
        }
    }
}

#[test]
fn each_day_has_its_own_key() {
    let mut keys = DayKeys::new(&own());
    let mut tag = |at| keys.of_day(UnixTime(at)).finalize().into_bytes();
    let (today, tomorrow, in_two_days) = (tag(0), tag(DAY_SECS), tag(2 * DAY_SECS));
    assert!(today != tomorrow && today != in_two_days && tomorrow != in_two_days);
    assert_eq!(tag(DAY_SECS - 1), today);
}

proptest! {
    #[test]
    fn no_bytes_make_a_good_nonce_by_chance(nonce in prop::collection::vec(any::<u8>(), 0..64)) {
        let client = client("192.0.2.1:4000");
        prop_assert_eq!(nonces().check(NOW, client.ip(), REALM, &nonce, LIFETIME), Err(Stale));
    }

    #[test]
    fn what_is_issued_is_good(ip in any::<[u8; 16]>(), port: u16, unix in 0_u64..1 << 34, age in 0_u64..=600) {
        let client = SocketAddr::from((ip, port));
        let nonce = nonces().issue(UnixTime(unix), client, REALM, BOTH);
        let checked = nonces().check(UnixTime(unix + age), client.ip(), REALM, nonce.as_bytes(), LIFETIME);
        prop_assert_eq!(checked, Ok(BOTH));
    }
}
