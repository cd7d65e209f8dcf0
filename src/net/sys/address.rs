//! `sockaddr_in` and `sockaddr_in6` as bytes.
//!
//! ```text
//! sockaddr_in   family u16 | port u16 | address 4                               = 16 with padding
//! sockaddr_in6  family u16 | port u16 | flow label u32 | address 16 | scope u32 = 28
//! ```
//! The family is in native byte order, the port in big-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const IN_LEN: usize = 16;
const IN6_LEN: usize = 28;

/// Space for an address that the kernel reads or writes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct RawAddress {
    bytes: [u8; Self::CAPACITY],
}

impl RawAddress {
    /// Bytes the kernel may write.
    pub(crate) const CAPACITY: usize = 32;
    /// No address.
    pub(crate) const EMPTY: Self = Self {
        bytes: [0; Self::CAPACITY],
    };

    /// The kernel's form of `addr`, and its length.
    pub(crate) fn encode(addr: SocketAddr) -> (Self, usize) {
        let mut raw = Self::EMPTY;
        let b = &mut raw.bytes;
        b[2..4].copy_from_slice(&addr.port().to_be_bytes());
        match addr {
            SocketAddr::V4(v4) => {
                b[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                b[4..8].copy_from_slice(&v4.ip().octets());
                (raw, IN_LEN)
            }
            SocketAddr::V6(v6) => {
                b[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                b[8..24].copy_from_slice(&v6.ip().octets());
                b[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (raw, IN6_LEN)
            }
        }
    }

    /// The canonical address in the first `len` bytes; `None` if they hold no IP address.
    pub(crate) fn decode(&self, len: usize) -> Option<SocketAddr> {
        let b = &self.bytes;
        let family = libc::c_int::from(u16::from_ne_bytes([b[0], b[1]]));
        let port = u16::from_be_bytes([b[2], b[3]]);
        if family == libc::AF_INET && len >= IN_LEN {
            Some(SocketAddr::new(Ipv4Addr::new(b[4], b[5], b[6], b[7]).into(), port))
        } else if family == libc::AF_INET6 && len >= IN6_LEN {
            let mut octets = [0; 16];
            octets.copy_from_slice(&b[8..24]);
            let scope = u32::from_ne_bytes([b[24], b[25], b[26], b[27]]);
            Some(canonical(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(octets),
                port,
                0,
                scope,
            ))))
        } else {
            None
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
}

/// The canonical form of an address: IPv4-mapped becomes IPv4, the flow label is removed, and the
/// scope stays only if it has a meaning (link-local). Otherwise one client could appear as two.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => {
                let scope = if v6.ip().is_unicast_link_local() {
                    v6.scope_id()
                } else {
                    0
                };
                SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_and_decoding_is_identity_for_both_families() {
        for text in [
            "192.0.2.7:443",
            "0.0.0.0:0",
            "255.255.255.255:65535",
            "[2001:db8::9]:3478",
            "[::]:1",
        ] {
            let addr: SocketAddr = text.parse().unwrap();
            let (raw, len) = RawAddress::encode(addr);
            assert_eq!(raw.decode(len), Some(addr), "{text}");
        }
        let scoped = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 3));
        let (raw, len) = RawAddress::encode(scoped);
        assert_eq!(raw.decode(len), Some(scoped));
    }

    #[test]
    fn the_kernel_agrees_with_the_layout() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let socket = std::net::UdpSocket::bind(text).unwrap();
            let local = socket.local_addr().unwrap();
            let (raw, len) = RawAddress::encode(local);
            let theirs = socket2::SockAddr::from(local);
            assert_eq!(len, theirs.len() as usize);
            assert_eq!(raw.decode(len), theirs.as_socket());
        }
    }

    //= STUN-MSG-21
    #[test]
    fn a_mapped_address_decodes_as_ipv4() {
        let (raw, len) = RawAddress::encode("[::ffff:192.0.2.1]:5".parse().unwrap());
        assert_eq!(raw.decode(len), Some("192.0.2.1:5".parse().unwrap()));
    }

    #[test]
    fn a_scope_survives_only_on_link_local_addresses() {
        let global = SocketAddr::V6(SocketAddrV6::new("2001:db8::1".parse().unwrap(), 9, 7, 3));
        assert_eq!(canonical(global), "[2001:db8::1]:9".parse().unwrap());
    }

    #[test]
    fn short_or_foreign_addresses_decode_to_nothing() {
        let (raw, len) = RawAddress::encode("192.0.2.1:5".parse().unwrap());
        assert_eq!(raw.decode(len - 1), None);
        let (raw6, len6) = RawAddress::encode("[::1]:5".parse().unwrap());
        assert_eq!(raw6.decode(len6 - 1), None);
        assert_eq!(
            RawAddress::EMPTY.decode(32),
            None,
            "AF_UNSPEC: the source of an error without offender"
        );
    }
}
