//! Reflection: a request over UDP may carry a victim's source address, and the response then goes
//! to the victim. So a response to a client that has not proved its address is at most `GAIN` times
//! as large as the request, IP and UDP headers included. The size of each response:
//! `docs/security.md`, "Amplification".

use std::net::IpAddr;

use super::login::nonce::{Features, Nonces};
use crate::base::address::{FiveTuple, Transport};
use crate::wire::integrity::PasswordAlgorithm;
use crate::wire::message::HEADER_LEN;

/// Largest ratio of response bytes to request bytes: 2.2.
const GAIN: (usize, usize) = (11, 5);

/// Length of the shortest possible login request: an Allocate with REQUESTED-TRANSPORT, which is
/// mandatory (RFC 8656 §7.1), and nothing else. Chromium sends that; every other request is longer.
pub const SHORTEST_REQUEST: usize = HEADER_LEN + 8;

/// Longest realm, in bytes, for which a challenge over UDP always has room: in the response to
/// [`SHORTEST_REQUEST`] over IPv4, without the offers of RFC 8489.
pub const LONGEST_REALM: usize = most(IPV4, SHORTEST_REQUEST) / 4 * 4 - challenge(0, Features::NONE, false);

/// IP and UDP headers.
const IPV4: usize = 20 + 8;
const IPV6: usize = 40 + 8;

/// Most bytes in the response to a request of `len` bytes from `client`. No limit on a stream or
/// over DTLS, where the client has proved its address.
pub(super) const fn room(client: &FiveTuple, len: usize) -> usize {
    match (client.transport, client.client.ip()) {
        (Transport::Udp, IpAddr::V4(_)) => most(IPV4, len),
        (Transport::Udp, IpAddr::V6(_)) => most(IPV6, len),
        (Transport::Tcp | Transport::Tls | Transport::Dtls, _) => usize::MAX,
    }
}

/// Whether a request of `len` bytes that is not Binding is shorter than any client's first request.
pub(super) const fn is_short(client: &FiveTuple, len: usize) -> bool {
    matches!(client.transport, Transport::Udp) && len < SHORTEST_REQUEST
}

const fn most(headers: usize, len: usize) -> usize {
    (headers + len) * GAIN.0 / GAIN.1 - headers
}

/// Length of a challenge over UDP for a realm of `realm` bytes.
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
