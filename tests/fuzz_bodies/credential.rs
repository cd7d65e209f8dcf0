//! Who says who they are: time-limited usernames and nonces.

use core::time::Duration;
use std::net::SocketAddr;

use relay::base::time::UnixTime;
use relay::turn::login::credential::{Secret, TimeLimited};
use relay::turn::login::nonce::{Features, NonceKey, Nonces};

use super::Bytes;

/// What the grammar says, the plain way: `None`, or expiry, whether it is forced, and userid.
fn by_the_book(username: &[u8]) -> Option<(u64, bool, &str)> {
    let text = std::str::from_utf8(username).ok()?;
    let (head, userid) = match text.find(':') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    let forced = head.ends_with("+forced");
    let digits = if forced { &head[..head.len() - 7] } else { head };
    if digits.is_empty() || digits.len() > 12 || username.len() > 508 {
        return None;
    }
    let mut expiry = 0;
    for digit in digits.chars() {
        if !digit.is_ascii_digit() {
            return None;
        }
        expiry = expiry * 10 + u64::from(digit as u32 - '0' as u32);
    }
    (!userid.chars().any(char::is_control)).then_some((expiry, forced, userid))
}

/// F8: any bytes as a username.
pub(crate) fn rest_username(input: &[u8]) {
    let expected = by_the_book(input);
    let parsed = TimeLimited::parse(input).map(|parsed| (parsed.expiry.0, parsed.forced, parsed.userid));
    assert_eq!(parsed, expected);
    if let Some((expiry, forced, userid)) = expected {
        let mint = if forced { Secret::mint_forced } else { Secret::mint };
        let minted = mint(
            &Secret::new(b"secret"),
            UnixTime(expiry),
            Some(userid).filter(|userid| !userid.is_empty()),
        );
        assert_eq!(
            minted.is_ok(),
            userid.len() <= 488,
            "what can be read can be minted, but for the longest"
        );
        if let Ok(minted) = minted {
            let expected = Some((expiry, forced, userid));
            assert_eq!(by_the_book(minted.username.as_bytes()), expected);
        }
    }
}

/// F9: a nonce, changed, at another time, from another place. It is good if it is the very same, in time, and from the same
/// address, whatever the port.
pub(crate) fn nonce(input: &[u8]) {
    let mut input = Bytes(input);
    let client = |ip: [u8; 16], port: u16| {
        let ip = std::net::Ipv6Addr::from(ip).to_canonical();
        SocketAddr::from((ip, port))
    };
    let features = input.byte();
    let features = Features {
        password_algorithms: features & 1 != 0,
        anonymity: features & 2 != 0,
    };
    let (ip, port) = (input.array(), input.word());
    let issued = UnixTime(u64::from(u32::from_be_bytes(input.array())) * 3);
    let mut nonces = Nonces::new([], &NonceKey::random([42; 32]));
    let good = nonces.issue(issued, client(ip, port), "example.org", features);
    let good = good.as_bytes();
    assert!(good.len() == 19 || good.len() == 32);

    let age = i64::from(input.word().cast_signed());
    let lifetime = Duration::from_secs(input.word().into());
    let now = UnixTime(issued.0.saturating_add_signed(age));
    let age = now.0.cast_signed() - issued.0.cast_signed();
    let (mut other_ip, other_port) = (ip, port ^ u16::from(input.byte()));
    other_ip[15] ^= input.byte();
    let realm = if input.byte() % 8 == 7 {
        "example.com"
    } else {
        "example.org"
    };
    let mut text = good.to_vec();
    for change in input.0.chunks_exact(2) {
        match change[0] {
            at if usize::from(at) < text.len() => text[usize::from(at)] ^= change[1],
            0xFF => text.push(change[1]),
            0xFE => drop(text.pop()),
            _ => {}
        }
    }
    let other = client(other_ip, other_port);
    let in_time = (-5..=lifetime.as_secs().min(3600) as i64).contains(&age);
    let same = text == good && other.ip() == client(ip, port).ip() && realm == "example.org";
    let checked = nonces.check(now, other.ip(), realm, &text, lifetime);
    assert_eq!(
        checked.ok(),
        (same && in_time).then_some(features),
        "{age} s of {lifetime:?}"
    );
}
