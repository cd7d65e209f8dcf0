//! Whom a proxy speaks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use relay::edge::front_door::proxy::{Ends, ProxyHeader, parse};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// F12: any bytes as the beginning of a proxy's connection.
pub(crate) fn proxy_header(input: &[u8]) {
    check(input);
    // A mutated header seldom keeps its signature: one with it, too.
    check(&[SIGNATURE, input].concat());
    check(&[b"PROXY TCP4 ", input].concat());
}

fn check(bytes: &[u8]) {
    match parse(bytes) {
        ProxyHeader::Complete { len, ends } => {
            assert_eq!(ends, by_the_book(&bytes[..len]), "{bytes:?}");
            for cut in 0..len {
                assert_eq!(parse(&bytes[..cut]), ProxyHeader::Incomplete, "{cut} of {bytes:?}");
            }
            // What follows makes no difference.
            assert_eq!(parse(&bytes[..len]), ProxyHeader::Complete { len, ends });
        }
        ProxyHeader::Malformed(_) => {
            let more = [bytes, b" 1 2\r\n"].concat();
            assert!(
                matches!(parse(&more), ProxyHeader::Malformed(_)),
                "mended by what follows: {bytes:?}"
            );
        }
        ProxyHeader::Incomplete => assert!(bytes.len() < 4096, "a stranger may go on for ever: {bytes:?}"),
    }
}

/// What a whole header says, read the plain way.
fn by_the_book(header: &[u8]) -> Option<Ends> {
    let Some(rest) = header.strip_prefix(SIGNATURE) else {
        let line = std::str::from_utf8(header).ok()?.strip_suffix("\r\n")?;
        let mut words = line.split(' ').skip(1);
        if words.next()? == "UNKNOWN" {
            return None;
        }
        let (client, server): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        return ends(
            (client, words.next()?.parse().ok()?),
            (server, words.next()?.parse().ok()?),
        );
    };
    let (command, family, rest) = (rest[0], rest[1], &rest[4..]);
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match (command, family) {
        (0x21, 0x11) => {
            let ip = |at: usize| IpAddr::from(Ipv4Addr::new(rest[at], rest[at + 1], rest[at + 2], rest[at + 3]));
            ends((ip(0), port(8)), (ip(4), port(10)))
        }
        (0x21, 0x21) => {
            let ip = |at: usize| {
                let octets: [u8; 16] = rest[at..at + 16].try_into().unwrap_or_default();
                IpAddr::from(Ipv6Addr::from(octets))
            };
            ends((ip(0), port(32)), (ip(16), port(34)))
        }
        _ => None,
    }
}

fn ends(client: (IpAddr, u16), server: (IpAddr, u16)) -> Option<Ends> {
    let canonical = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    Some(Ends {
        client: canonical(client),
        server: canonical(server),
    })
}
