//! Addresses and control messages in the kernel's format.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 8;

pub(crate) fn decode_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    let ip: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

pub(crate) fn encode_address(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    } as u16;
    let mut out = [family.to_ne_bytes(), address.port().to_be_bytes()].concat();
    match address.ip() {
        IpAddr::V4(ip) => {
            out.extend(ip.octets());
            out.resize(16, 0);
        }
        IpAddr::V6(ip) => {
            out.resize(8, 0);
            out.extend(ip.octets());
            out.resize(28, 0);
        }
    }
    out
}

/// Appends one control message.
pub(crate) fn put_control(out: &mut Vec<u8>, level: i32, kind: i32, data: &[u8]) {
    out.extend((HEADER + data.len()).to_ne_bytes());
    out.extend(level.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(WORD), 0);
}

/// The data of the first control message of this kind.
pub(crate) fn control(mut bytes: &[u8], level: i32, kind: i32) -> Option<&[u8]> {
    loop {
        let len = usize::from_ne_bytes(*bytes.first_chunk()?);
        let found = i32::from_ne_bytes(*bytes.get(WORD..)?.first_chunk()?) == level
            && i32::from_ne_bytes(*bytes.get(WORD + 4..)?.first_chunk()?) == kind;
        if found {
            return bytes.get(HEADER..len);
        }
        bytes = bytes.get(len.next_multiple_of(WORD)..)?;
    }
}
