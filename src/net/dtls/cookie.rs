//! The cookie a client has to bring back before anything is kept of it (RFC 6347 §4.2.1).

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::turn::time::Instant;
use crate::turn::types::FiveTuple;

/// Sixteen bytes: nobody guesses them, and the answer that carries them is shorter than any ClientHello.
const LEN: usize = 16;
/// Cookies are made anew so often; one is good in the period it was made in, and in the next.
const PERIOD: Duration = Duration::from_secs(60);

/// What a client at some address has to bring: the cookie of this period, and that of the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cookies([[u8; LEN]; 2]);

impl Cookies {
    /// The one to hand out.
    pub(super) const fn present(&self) -> &[u8; LEN] {
        &self.0[0]
    }

    /// Whether `cookie` is one of them.
    pub(super) fn contain(&self, cookie: &[u8]) -> bool {
        let [present, before] = &self.0;
        (present[..].ct_eq(cookie) | before[..].ct_eq(cookie)).into()
    }
}

/// What cookies are made with.
pub(super) struct Secret(Hmac<Sha256>);

impl Secret {
    /// `seed` is from the system's generator.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(seed).expect("HMAC takes a key of any length"))
    }

    /// What `client` has to bring at `now`.
    pub(super) fn cookies(&self, now: Instant, client: &FiveTuple) -> Cookies {
        // From one on, so that there is a period before.
        let period = 1 + now.as_nanos() / PERIOD.as_nanos() as u64;
        Cookies([period, period - 1].map(|period| self.cookie(period, client)))
    }

    fn cookie(&self, period: u64, client: &FiveTuple) -> [u8; LEN] {
        let mut mac = self.0.clone();
        mac.update(&period.to_be_bytes());
        put(&mut mac, client.client);
        put(&mut mac, client.server);
        let mut cookie = [0; LEN];
        cookie.copy_from_slice(&mac.finalize().into_bytes()[..LEN]);
        cookie
    }
}

/// A family has one length, and is told first: no two pairs of addresses give the same bytes.
fn put(mac: &mut Hmac<Sha256>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            mac.update(&[4]);
            mac.update(&ip.octets());
        }
        IpAddr::V6(ip) => {
            mac.update(&[6]);
            mac.update(&ip.octets());
        }
    }
    mac.update(&address.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::types::Transport;

    const SECOND: Duration = Duration::from_secs(1);

    fn tuple(client: &str, server: &str) -> FiveTuple {
        FiveTuple {
            client: client.parse().unwrap(),
            server: server.parse().unwrap(),
            transport: Transport::Dtls,
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_five_tuple_only() {
        let secret = Secret::new(&[7; 32]);
        let mine = secret.cookies(Instant::ZERO, &tuple("192.0.2.1:7000", "192.0.2.9:443"));
        assert!(mine.contain(mine.present()) && !mine.contain(&[]) && !mine.contain(&mine.present()[..15]));
        for (client, server) in [
            ("192.0.2.1:7001", "192.0.2.9:443"),
            ("192.0.2.2:7000", "192.0.2.9:443"),
            ("192.0.2.1:7000", "192.0.2.9:5349"),
            ("192.0.2.1:7000", "192.0.2.8:443"),
            ("[2001:db8::1]:7000", "[2001:db8::9]:443"),
        ] {
            let other = secret.cookies(Instant::ZERO, &tuple(client, server));
            assert!(!other.contain(mine.present()), "{client} {server}");
        }
        let elsewhere = Secret::new(&[8; 32]).cookies(Instant::ZERO, &tuple("192.0.2.1:7000", "192.0.2.9:443"));
        assert!(!elsewhere.contain(mine.present()));
    }

    #[test]
    fn a_cookie_is_good_in_its_period_and_in_the_next() {
        let secret = Secret::new(&[7; 32]);
        let client = tuple("192.0.2.1:7000", "192.0.2.9:443");
        let at = |after: Duration| secret.cookies(Instant::ZERO + after, &client);
        let first = at(Duration::ZERO);
        assert_eq!(at(PERIOD - SECOND).present(), first.present());
        assert_ne!(at(PERIOD).present(), first.present());
        assert!(at(PERIOD * 2 - SECOND).contain(first.present()));
        assert!(!at(PERIOD * 2).contain(first.present()));
    }
}
