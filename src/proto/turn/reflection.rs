//! Reflection: what a server answers over UDP may go to a victim, whose address the request was sent from. So an answer to
//! whoever has not proved its address is hardly larger than its request, IP and UDP headers included: never more than
//! `GAIN` times. What each answer comes to: `docs/security.md`, "Amplification".

use std::net::IpAddr;

use super::login::nonce::{Features, Nonces};
use crate::base::address::{FiveTuple, Transport};
use crate::wire::integrity::PasswordAlgorithm;
use crate::wire::message::HEADER_LEN;

/// Most bytes of an answer for so many of its request: 2.2.
const GAIN: (usize, usize) = (11, 5);

/// Bytes of the shortest request for a login there is: an Allocate with REQUESTED-TRANSPORT, which it must have
/// (RFC 8656 §7.1), and nothing else. Chromium sends that; every other request has more in it.
pub const SHORTEST_REQUEST: usize = HEADER_LEN + 8;

/// Longest realm, in bytes, that a challenge over UDP has room for, whoever asks: the answer to [`SHORTEST_REQUEST`] over
/// IPv4, without the offers of RFC 8489.
pub const LONGEST_REALM: usize = most(IPV4, SHORTEST_REQUEST) / 4 * 4 - challenge(0, Features::NONE, false);

/// IP and UDP headers.
const IPV4: usize = 20 + 8;
const IPV6: usize = 40 + 8;

/// Most bytes the answer to a request of `len` bytes from `client` may have. On a stream and over DTLS a client has
/// proved its address.
pub(super) const fn room(client: &FiveTuple, len: usize) -> usize {
    match (client.transport, client.client.ip()) {
        (Transport::Udp, IpAddr::V4(_)) => most(IPV4, len),
        (Transport::Udp, IpAddr::V6(_)) => most(IPV6, len),
        (Transport::Tcp | Transport::Tls | Transport::Dtls, _) => usize::MAX,
    }
}

/// Whether a request of `len` bytes, no Binding, is less than any client begins with.
pub(super) const fn is_short(client: &FiveTuple, len: usize) -> bool {
    matches!(client.transport, Transport::Udp) && len < SHORTEST_REQUEST
}

const fn most(headers: usize, len: usize) -> usize {
    (headers + len) * GAIN.0 / GAIN.1 - headers
}

/// Bytes of a challenge over UDP with a realm of `realm` bytes.
pub(super) const fn challenge(realm: usize, offers: Features, fingerprint: bool) -> usize {
    let error_code = 8;
    let nonce = Nonces::text_len(offers).next_multiple_of(4);
    let algorithms = if offers.password_algorithms {
        4 + PasswordAlgorithm::OFFER.len()
    } else {
        0
    };
    let fingerprint = if fingerprint { 8 } else { 0 };
    HEADER_LEN + error_code + 4 + realm.next_multiple_of(4) + 4 + nonce + algorithms + fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_as_many_bytes_as_the_gain_allows_and_not_one_more() {
        for (client, headers) in [("192.0.2.1:1", 28), ("[2001:db8::1]:1", 48)] {
            let client = FiveTuple {
                client: client.parse().unwrap(),
                server: "198.51.100.1:3478".parse().unwrap(),
                transport: Transport::Udp,
            };
            for len in 20..1500 {
                let most = room(&client, len);
                assert!((most + headers) * 10 <= (len + headers) * 22);
                assert!((most + 1 + headers) * 10 > (len + headers) * 22);
            }
            for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
                assert_eq!(room(&FiveTuple { transport, ..client }, 20), usize::MAX);
            }
        }
    }

    #[test]
    fn the_longest_realm_is_the_one_documented() {
        assert_eq!(LONGEST_REALM, 36);
    }
}
