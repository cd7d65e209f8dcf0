//! The cookie that a client must return before the server keeps any state for it (RFC 6347 §4.2.1).

use core::time::Duration;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use relay_proto::base::address::FiveTuple;
use relay_proto::base::time::Instant;

/// Clients whose associations are counted, for each period. Clients beyond that are limited only by
/// the rate of their source.
const REMEMBERED: usize = 1 << 16;
/// Sixteen bytes: enough to be unpredictable, and the response with the cookie stays shorter than
/// any ClientHello.
const LEN: usize = 16;
/// How often cookies change. A cookie is valid in its period and in the next.
const PERIOD: Duration = Duration::from_secs(60);

/// The valid cookies of a client address: those of this period and of the previous one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cookies([[u8; LEN]; 2]);

impl Cookies {
    /// The cookie to send.
    pub(super) const fn present(&self) -> &[u8; LEN] {
        &self.0[0]
    }

    /// Whether `cookie` is valid.
    pub(super) fn contain(&self, cookie: &[u8]) -> bool {
        let [present, before] = &self.0;
        (present[..].ct_eq(cookie) | before[..].ct_eq(cookie)).into()
    }
}

/// The secret that cookies are computed with.
pub(super) struct CookieSecret(Hmac<Sha256>);

impl CookieSecret {
    /// `seed` must come from the system's generator.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(seed).expect("HMAC takes a key of any length"))
    }

    /// The valid cookies of `client` at `now`.
    pub(super) fn cookies(&self, now: Instant, client: &FiveTuple) -> Cookies {
        let period = period(now);
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

/// Starts at one, so that there is a previous period.
fn period(now: Instant) -> u64 {
    1 + now.as_nanos() / PERIOD.as_nanos() as u64
}

/// Counts the associations per cookie, so that a client with a cookie cannot begin any number of
/// them.
pub(super) struct Uses {
    period: u64,
    /// Associations by client, in this period and in the previous one.
    counts: [HashMap<u64, u32, RandomState>; 2],
    hasher: RandomState,
    most: u32,
}

impl Uses {
    /// A client may begin `most` associations in two periods, the longest lifetime of a cookie.
    pub(super) fn new(most: u32) -> Self {
        Self {
            period: 0,
            counts: Default::default(),
            hasher: RandomState::new(),
            most,
        }
    }

    /// Whether `client` has reached its limit.
    pub(super) fn are_spent(&mut self, now: Instant, client: &FiveTuple) -> bool {
        let period = period(now).max(self.period);
        match period - self.period {
            0 => {}
            1 => {
                self.counts.swap(0, 1);
                self.counts[0].clear();
            }
            _ => self.counts.iter_mut().for_each(HashMap::clear),
        }
        self.period = period;
        let key = self.hasher.hash_one(client);
        let used: u32 = self.counts.iter().filter_map(|counts| counts.get(&key)).sum();
        used >= self.most
    }

    /// Counts an association of `client`.
    pub(super) fn note(&mut self, client: &FiveTuple) {
        let key = self.hasher.hash_one(client);
        let counts = &mut self.counts[0];
        if counts.len() < REMEMBERED || counts.contains_key(&key) {
            *counts.entry(key).or_default() += 1;
        }
    }
}

/// The family comes first and fixes the length, so no two pairs of addresses give the same bytes.
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
    use relay_proto::base::address::Transport;

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
        let secret = CookieSecret::new(&[7; 32]);
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
        let elsewhere = CookieSecret::new(&[8; 32]).cookies(Instant::ZERO, &tuple("192.0.2.1:7000", "192.0.2.9:443"));
        assert!(!elsewhere.contain(mine.present()));
    }

    #[test]
    fn a_client_begins_so_many_associations_while_a_cookie_is_good_and_others_theirs() {
        let mut uses = Uses::new(2);
        let at = |after: Duration| Instant::ZERO + after;
        let [one, other] = ["192.0.2.1:7000", "192.0.2.1:7001"].map(|client| tuple(client, "192.0.2.9:443"));
        let mut begin = |after, client| {
            let spent = uses.are_spent(at(after), client);
            if !spent {
                uses.note(client);
            }
            !spent
        };
        assert_eq!([SECOND; 3].map(|after| begin(after, &one)), [true, true, false]);
        assert!(begin(SECOND, &other));
        assert_eq!(
            [PERIOD * 2 - SECOND, PERIOD * 2].map(|after| begin(after, &one)),
            [false, true]
        );
        assert_eq!([PERIOD * 3, PERIOD * 3].map(|after| begin(after, &one)), [true, false]);
        assert_eq!([PERIOD * 9; 3].map(|after| begin(after, &one)), [true, true, false]);
        for port in 0..u16::MAX {
            uses.note(&tuple(&format!("192.0.2.2:{port}"), "192.0.2.9:443"));
            uses.note(&tuple(&format!("192.0.2.3:{port}"), "192.0.2.9:443"));
        }
        assert_eq!(uses.counts[0].len(), REMEMBERED);
    }

    #[test]
    fn a_cookie_is_good_in_its_period_and_in_the_next() {
        let secret = CookieSecret::new(&[7; 32]);
        let client = tuple("192.0.2.1:7000", "192.0.2.9:443");
        let at = |after: Duration| secret.cookies(Instant::ZERO + after, &client);
        let first = at(Duration::ZERO);
        assert_eq!(at(PERIOD - SECOND).present(), first.present());
        assert_ne!(at(PERIOD).present(), first.present());
        assert!(at(PERIOD * 2 - SECOND).contain(first.present()));
        assert!(!at(PERIOD * 2).contain(first.present()));
    }
}
