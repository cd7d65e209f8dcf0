//! Transport addresses: XOR-encoded as in XOR-MAPPED-ADDRESS, XOR-PEER-ADDRESS, XOR-RELAYED-ADDRESS
//! (RFC 8489 §14.2), and plain as in MAPPED-ADDRESS and ALTERNATE-SERVER (§14.1), which lacks the
//! XOR.
//!
//! ```text
//!  0                   1                   2                   3
//! |0 0 0 0 0 0 0 0|    Family     |   Port ^ cookie's top half    |
//! |   Address ^ cookie (IPv4), or ^ cookie and transaction id (IPv6)
//! ```
//!
//! Deliberately absent: converting `::ffff:a.b.c.d` to `a.b.c.d`. The one canonicaliser is in
//! [`crate::turn`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attribute::AttributeError;
use super::header::{MAGIC_COOKIE, TransactionId};

/// Family byte of an IPv4 address.
pub const FAMILY_IPV4: u8 = 0x01;
/// Family byte of an IPv6 address.
pub const FAMILY_IPV6: u8 = 0x02;

/// Longest encoded address: IPv6.
pub const MAX_LEN: usize = 20;

const PORT_MASK: u16 = (MAGIC_COOKIE >> 16) as u16;

/// The 16 bytes an address is XORed with: the magic cookie, then the transaction id.
const fn mask(id: TransactionId) -> u128 {
    let mut wide = [0; 16];
    let (low, _) = wide.split_at_mut(12);
    low.copy_from_slice(&id.0);
    ((MAGIC_COOKIE as u128) << 96) | (u128::from_be_bytes(wide) >> 32)
}

/// Number of bytes `address` takes as an attribute value: 8 or 20.
pub const fn encoded_len(address: &SocketAddr) -> usize {
    match address {
        SocketAddr::V4(_) => 8,
        SocketAddr::V6(_) => MAX_LEN,
    }
}

/// Encodes `address`. The first [`encoded_len`] bytes of the array are the value, the others are
/// zero.
pub fn encode(address: &SocketAddr, id: TransactionId) -> [u8; MAX_LEN] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ MAGIC_COOKIE).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ mask(id)).into(),
    };
    encode_plain(&SocketAddr::new(ip, address.port() ^ PORT_MASK))
}

/// As [`encode`], without the XOR.
#[inline]
pub fn encode_plain(address: &SocketAddr) -> [u8; MAX_LEN] {
    let [p0, p1] = address.port().to_be_bytes();
    let mut out = [0; MAX_LEN];
    match address.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            if let Some(head) = out.first_chunk_mut() {
                *head = [0, FAMILY_IPV4, p0, p1, a, b, c, d];
            }
        }
        IpAddr::V6(ip) => {
            if let Some((head, rest)) = out.split_first_chunk_mut() {
                *head = [0, FAMILY_IPV6, p0, p1];
                rest.copy_from_slice(&ip.octets());
            }
        }
    }
    out
}

/// Decodes an attribute value. The first byte is reserved and ignored.
///
/// # Errors
/// [`AttributeError::Value`] for an unknown family, [`AttributeError::Length`] if the length is not
/// that of the family.
pub fn decode(value: &[u8], id: TransactionId) -> Result<SocketAddr, AttributeError> {
    let Some((&[_, family, p0, p1], address)) = value.split_first_chunk() else {
        return Err(AttributeError::Length);
    };
    let ip: IpAddr = match family {
        FAMILY_IPV4 => {
            let bits = <[u8; 4]>::try_from(address).map_err(|_| AttributeError::Length)?;
            Ipv4Addr::from_bits(u32::from_be_bytes(bits) ^ MAGIC_COOKIE).into()
        }
        FAMILY_IPV6 => {
            let bits = <[u8; 16]>::try_from(address).map_err(|_| AttributeError::Length)?;
            Ipv6Addr::from_bits(u128::from_be_bytes(bits) ^ mask(id)).into()
        }
        _ => return Err(AttributeError::Value),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes([p0, p1]) ^ PORT_MASK))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    fn roundtrip(text: &str) {
        let address: SocketAddr = text.parse().unwrap();
        let bytes = encode(&address, ID);
        assert_eq!(decode(&bytes[..encoded_len(&address)], ID), Ok(address));
    }

    //= STUN-MSG-20
    #[test]
    fn both_families_survive_encoding() {
        roundtrip("192.0.2.1:32853");
        roundtrip("255.255.255.255:65535");
        roundtrip("0.0.0.0:0");
        roundtrip("[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        roundtrip("[::]:0");
        roundtrip("[::ffff:10.0.0.1]:1");
    }

    //= STUN-MSG-20
    #[test]
    fn the_mask_is_the_cookie_then_the_transaction_id() {
        let v4 = encode(&"0.0.0.0:0".parse().unwrap(), ID);
        assert_eq!(v4[..8], [0, 1, 0x21, 0x12, 0x21, 0x12, 0xA4, 0x42]);
        let v6 = encode(&"[::]:0".parse().unwrap(), ID);
        assert_eq!(
            v6,
            [
                0, 2, 0x21, 0x12, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
            ]
        );
    }

    #[test]
    fn a_length_that_is_not_the_familys_is_refused() {
        let v4 = encode(&"192.0.2.1:1".parse().unwrap(), ID);
        let v6 = encode(&"[2001:db8::1]:1".parse().unwrap(), ID);
        for len in (0..=MAX_LEN).filter(|&len| len != 8) {
            assert_eq!(
                decode(&v4[..len], ID),
                Err(AttributeError::Length),
                "IPv4 in {len} bytes"
            );
        }
        for len in 0..MAX_LEN {
            assert_eq!(
                decode(&v6[..len], ID),
                Err(AttributeError::Length),
                "IPv6 in {len} bytes"
            );
        }
        assert_eq!(decode(&[0, 3, 0, 0, 0, 0, 0, 0], ID), Err(AttributeError::Value));
    }

    #[test]
    fn the_reserved_first_byte_is_ignored() {
        let address = "192.0.2.1:7".parse().unwrap();
        let mut bytes = encode(&address, ID);
        bytes[0] = 0xFF;
        assert_eq!(decode(&bytes[..8], ID), Ok(address));
    }
}
