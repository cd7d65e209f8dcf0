//! PROXY protocol, versions 1 and 2: the client of a connection that a proxy made.
//!
//! The configuration decides whether a header is expected, never the bytes: a trusted proxy must
//! send one, and no other client may. Otherwise any client could claim any address.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use ppp::{v1, v2};

use crate::config::settings::{ListenerSettings, ProxyProtocol};

/// The beginning of a version 1 header.
pub(super) const V1_BEGINS: &[u8] = b"PROXY ";
/// The beginning of a version 2 header. No other known protocol begins with CR, so this prefix
/// identifies it.
pub(super) const V2_BEGINS: &[u8] = b"\r\n\r\n\0";
/// Longest version 1 header in bytes, including its end of line.
const V1_MOST: usize = 107;
/// Fixed part of a version 2 header: signature, command, family, length.
const V2_FIXED: usize = 16;
/// Longest accepted version 2 header in bytes. The protocol allows 64 KiB; addresses and every TLV
/// in use take less than 1 KiB.
const V2_MOST: usize = 4096;

/// The proxies of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Whether there are proxies, and whether others may connect.
    pub protocol: ProxyProtocol,
    /// Their addresses.
    pub trusted: Vec<IpNet>,
}

impl From<&ListenerSettings> for Proxies {
    fn from(listener: &ListenerSettings) -> Self {
        Self {
            protocol: listener.proxy_protocol,
            trusted: listener.trusted_proxies.clone(),
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// A client.
    Client,
    /// A proxy, whose header comes first.
    Proxy,
    /// Neither, where only proxies may connect.
    Stranger,
}

impl Proxies {
    pub(super) fn neighbour(&self, ip: IpAddr) -> Neighbour {
        let trusted = || self.trusted.iter().any(|net| net.contains(&ip));
        match self.protocol {
            ProxyProtocol::Off => Neighbour::Client,
            _ if trusted() => Neighbour::Proxy,
            ProxyProtocol::Optional => Neighbour::Client,
            ProxyProtocol::Required => Neighbour::Stranger,
        }
    }
}

/// The two ends of the connection a proxy accepted, canonical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// Where it connected to.
    pub server: SocketAddr,
}

/// The first bytes of a proxy's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The beginning of a header.
    Incomplete,
    /// No header, or an invalid one. Holds the reason.
    Malformed(&'static str),
    /// A header.
    Complete {
        /// Its length in bytes.
        len: usize,
        /// The ends of the client's connection. `None`: the proxy connects for itself (a health
        /// check), or for a client without an IP address; then the connection's own ends apply.
        ends: Option<Ends>,
    },
}

/// Reads the header at the front of `bytes`.
pub fn parse(bytes: &[u8]) -> ProxyHeader {
    let begins = |with: &[u8]| bytes.starts_with(&with[..with.len().min(bytes.len())]);
    if begins(v2::PROTOCOL_PREFIX) {
        parse_v2(bytes)
    } else if begins(V1_BEGINS) {
        parse_v1(bytes)
    } else {
        ProxyHeader::Malformed("there is none")
    }
}

fn parse_v1(bytes: &[u8]) -> ProxyHeader {
    let window = &bytes[..bytes.len().min(V1_MOST)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < V1_MOST {
            ProxyHeader::Incomplete
        } else {
            ProxyHeader::Malformed("version 1 without an end of line")
        };
    };
    let len = end + 2;
    // Receivers must ignore everything after UNKNOWN.
    let rest = &window[V1_BEGINS.len().min(end)..end];
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return ProxyHeader::Complete { len, ends: None };
    }
    match v1::Header::try_from(&window[..len]).map(|header| header.addresses) {
        Ok(v1::Addresses::Tcp4(at)) => complete(
            len,
            (at.source_address.into(), at.source_port),
            (at.destination_address.into(), at.destination_port),
        ),
        Ok(v1::Addresses::Tcp6(at)) => complete(
            len,
            (at.source_address.into(), at.source_port),
            (at.destination_address.into(), at.destination_port),
        ),
        Ok(v1::Addresses::Unknown) | Err(_) => ProxyHeader::Malformed("version 1 with an invalid line"),
    }
}

fn parse_v2(bytes: &[u8]) -> ProxyHeader {
    if let Some(&[high, low]) = bytes.get(V2_FIXED - 2..V2_FIXED)
        && V2_FIXED + usize::from(u16::from_be_bytes([high, low])) > V2_MOST
    {
        return ProxyHeader::Malformed("version 2 over 4 KiB");
    }
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => return ProxyHeader::Incomplete,
        Err(_) => return ProxyHeader::Malformed("version 2 with an unknown field"),
    };
    // TLVs are not used. They follow the addresses, and belong to the header.
    let len = header.len();
    match (header.command, header.protocol, header.addresses) {
        (v2::Command::Local, _, _) | (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => {
            ProxyHeader::Complete { len, ends: None }
        }
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(at)) => complete(
            len,
            (at.source_address.into(), at.source_port),
            (at.destination_address.into(), at.destination_port),
        ),
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(at)) => complete(
            len,
            (at.source_address.into(), at.source_port),
            (at.destination_address.into(), at.destination_port),
        ),
        (v2::Command::Proxy, _, _) => ProxyHeader::Malformed("version 2 for a protocol other than a stream"),
    }
}

fn complete(len: usize, client: (IpAddr, u16), server: (IpAddr, u16)) -> ProxyHeader {
    let ends = Ends {
        client: SocketAddr::new(client.0.to_canonical(), client.1),
        server: SocketAddr::new(server.0.to_canonical(), server.1),
    };
    let ip = ends.client.ip();
    if ip.is_unspecified() || ip.is_multicast() || ends.client.port() == 0 {
        return ProxyHeader::Malformed("an impossible client address or port");
    }
    ProxyHeader::Complete { len, ends: Some(ends) }
}

/// A version 2 header that gives `client` and `server` to a backend.
pub(super) fn header(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    // One header cannot hold ends of different families; then it says that they are unknown.
    let built = if client.is_ipv4() == server.is_ipv4() {
        v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            (client, server),
        )
    } else {
        v2::Builder::new(
            v2::Version::Two | v2::Command::Local,
            v2::AddressFamily::Unspecified | v2::Protocol::Unspecified,
        )
    };
    built.build().expect("only TLVs can make it too long, and it has none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn told(len: usize, client: &str, server: &str) -> ProxyHeader {
        ProxyHeader::Complete {
            len,
            ends: Some(Ends {
                client: at(client),
                server: at(server),
            }),
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x01, 1, 187];

    //= XPORT-19
    #[test]
    fn only_the_proxies_of_a_listener_speak_for_others() {
        let proxies = |protocol| Proxies {
            protocol,
            trusted: vec!["10.0.0.0/24".parse().unwrap(), "2001:db8::7/128".parse().unwrap()],
        };
        let cases = [
            (ProxyProtocol::Off, "10.0.0.1", Neighbour::Client),
            (ProxyProtocol::Optional, "10.0.0.1", Neighbour::Proxy),
            (ProxyProtocol::Optional, "10.0.1.1", Neighbour::Client),
            (ProxyProtocol::Required, "10.0.0.255", Neighbour::Proxy),
            (ProxyProtocol::Required, "10.0.1.1", Neighbour::Stranger),
            (ProxyProtocol::Required, "2001:db8::7", Neighbour::Proxy),
            (ProxyProtocol::Required, "2001:db8::8", Neighbour::Stranger),
        ];
        for (protocol, ip, expected) in cases {
            assert_eq!(
                proxies(protocol).neighbour(ip.parse().unwrap()),
                expected,
                "{protocol:?} {ip}"
            );
        }
    }

    //= XPORT-19
    #[test]
    fn both_versions_tell_the_ends_and_leave_what_follows() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 49153 443\r\n";
        assert_eq!(
            parse(&[line, &b"\x16\x03\x01"[..]].concat()),
            told(line.len(), "192.0.2.7:49153", "198.51.100.1:443")
        );
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 5 443\r\n";
        assert_eq!(parse(line), told(line.len(), "[2001:db8::7]:5", "[2001:db8::1]:443"));
        // An IPv4-mapped address is the IPv4 address.
        let line = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 5 443\r\n";
        assert_eq!(parse(line), told(line.len(), "192.0.2.7:5", "198.51.100.1:443"));

        let bytes = v2(0x21, 0x11, &V4);
        assert_eq!(parse(&bytes), told(28, "192.0.2.7:49153", "198.51.100.1:443"));
        // With TLVs behind the addresses, even invalid ones, and the next protocol behind them.
        let bytes = v2(
            0x21,
            0x11,
            &[&V4[..], &[0x02, 0, 3, b'a', b'.', b'b', 0x20, 0xFF, 0xFF]].concat(),
        );
        assert_eq!(
            parse(&[&bytes[..], b"\0\x01"].concat()),
            told(bytes.len(), "192.0.2.7:49153", "198.51.100.1:443")
        );
    }

    //= XPORT-19
    #[test]
    fn a_header_in_pieces_is_waited_for_at_every_byte() {
        let whole = [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 49153 443\r\n".to_vec(),
            b"PROXY TCP6 2001:0db8:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
                .to_vec(),
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535 and more\r\n".to_vec(),
            v2(0x21, 0x11, &V4),
            v2(0x20, 0x00, &[]),
            v2(0x21, 0x21, &[7; 36 + 200]),
        ];
        for header in whole {
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), ProxyHeader::Incomplete, "{len} of {header:?}");
            }
            assert!(
                matches!(parse(&header), ProxyHeader::Complete { len, .. } if len == header.len()),
                "{header:?}"
            );
        }
    }

    //= XPORT-19
    #[test]
    fn a_proxy_may_speak_for_itself_or_for_nobody_in_particular() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN 1 2 3\r\n".to_vec(),
            v2(0x20, 0x11, &V4),
            v2(0x20, 0x00, &[]),
            v2(0x21, 0x00, &[1, 2, 3]),
            v2(0x21, 0x31, &[b'/'; 216]),
        ] {
            assert_eq!(
                parse(&header),
                ProxyHeader::Complete {
                    len: header.len(),
                    ends: None
                },
                "{header:?}"
            );
        }
    }

    //= XPORT-19
    #[test]
    fn what_is_no_header_is_refused() {
        let nobody = [0, 0, 0, 0, 198, 51, 100, 1, 0xC0, 0x01, 1, 187];
        let no_port = [192, 0, 2, 7, 198, 51, 100, 1, 0, 0, 1, 187];
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 49153\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 49153 99999\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 2001:db8::1 5 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec(),
            b"PROXY UNKNOWNS\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x12, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x11, &nobody),
            v2(0x21, 0x11, &no_port),
            v2(0x21, 0x11, &[0; 4081])[..V2_FIXED].to_vec(),
        ] {
            assert!(matches!(parse(&bytes), ProxyHeader::Malformed(_)), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_told_to_a_backend_reads_back() {
        let bytes = header(at("192.0.2.7:49153"), at("198.51.100.1:443"));
        assert_eq!(parse(&bytes), told(28, "192.0.2.7:49153", "198.51.100.1:443"));
        let bytes = header(at("[2001:db8::7]:5"), at("[2001:db8::1]:443"));
        assert_eq!(parse(&bytes), told(52, "[2001:db8::7]:5", "[2001:db8::1]:443"));
        let bytes = header(at("192.0.2.7:49153"), at("[2001:db8::1]:443"));
        assert_eq!(parse(&bytes), ProxyHeader::Complete { len: 16, ends: None });
    }
}
