//! Classifies a connection by its first bytes (RFC 7983, RFC 8446 §5.1, RFC 9112 §3).

use super::proxy::{V1_BEGINS, V2_BEGINS};
use crate::wire::demux::{self, Kind};

/// First byte of a TLS record of a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Methods of HTTP requests, except PRI, which begins HTTP/2.
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
];
/// The beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstBytes {
    /// A TLS ClientHello.
    Tls,
    /// STUN or ChannelData.
    Turn,
    /// An HTTP/1 request.
    Http,
    /// A header of the PROXY protocol.
    Proxy,
    /// No byte yet, or too few to decide.
    More,
    /// Unknown.
    Unknown,
}

/// Classifies the first `bytes` of a connection.
///
/// The letters A to O are also first bytes of ChannelData. HTTP methods have precedence: no client
/// has a channel on a connection before it has sent a STUN request on it.
pub(super) fn classify(bytes: &[u8]) -> FirstBytes {
    let Some(&first) = bytes.first() else {
        return FirstBytes::More;
    };
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return FirstBytes::Http;
    }
    if bytes.starts_with(V1_BEGINS) || bytes.starts_with(V2_BEGINS) {
        return FirstBytes::Proxy;
    }
    let mut words = METHODS.into_iter().chain([V1_BEGINS, V2_BEGINS]);
    if words.any(|word| word.starts_with(bytes)) {
        return FirstBytes::More;
    }
    match demux::classify(first) {
        Kind::Stun | Kind::ChannelData => FirstBytes::Turn,
        Kind::Dtls if first == TLS_HANDSHAKE => FirstBytes::Tls,
        Kind::Dtls | Kind::ReservedChannel | Kind::Other => FirstBytes::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_protocols_apart() {
        const CASES: [(&[u8], FirstBytes); 18] = [
            (b"", FirstBytes::More),
            (b"\x16", FirstBytes::Tls),
            (b"\x16\x03\x01", FirstBytes::Tls),
            (b"\x14", FirstBytes::Unknown),
            (b"\x00", FirstBytes::Turn),
            (b"\x03\xFF", FirstBytes::Turn),
            (b"\x40\x00\x00\x04", FirstBytes::Turn),
            (b"GET / HTTP/1.1", FirstBytes::Http),
            (b"OPTIONS *", FirstBytes::Http),
            (b"GE", FirstBytes::More),
            (b"P", FirstBytes::More),
            (b"GEM\x00", FirstBytes::Turn),
            (b"PR", FirstBytes::More),
            (b"PROXY TCP4", FirstBytes::Proxy),
            (b"\r\n\r\n", FirstBytes::More),
            (b"\r\n\r\n\0\r\nQUIT\n", FirstBytes::Proxy),
            (b"PRI * HTTP/2.0", FirstBytes::Unknown),
            (b"\xFF", FirstBytes::Unknown),
        ];
        for (bytes, expected) in CASES {
            assert_eq!(classify(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn eight_bytes_are_always_enough() {
        for method in METHODS {
            for len in 0..method.len() {
                assert_eq!(classify(&method[..len]), FirstBytes::More);
            }
            assert_eq!(classify(method), FirstBytes::Http);
        }
        assert!(METHODS.iter().all(|method| method.len() <= 8));
    }
}
