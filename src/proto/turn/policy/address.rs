//! The canonicaliser: all addresses that one IP address stands for. Every notation is checked
//! against the same table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use smallvec::SmallVec;

/// An IP address and every IPv4 address embedded in it.
pub(super) struct Forms {
    pub(super) wire: IpAddr,
    pub(super) embedded: SmallVec<[Ipv4Addr; 6]>,
}

impl Forms {
    /// Decomposes `ip`. `nat64` is the operator's own translation prefixes, longest first.
    ///
    /// [`is_mapped`] and [`is_transition`] refuse mapped, 6to4 and Teredo addresses as a whole, so
    /// they are not decomposed.
    pub(super) fn of(ip: IpAddr, nat64: &[Ipv6Net]) -> Self {
        let mut embedded = SmallVec::new();
        if let IpAddr::V6(ip) = ip {
            embedded.extend(translated(ip, nat64));
            embedded.extend(compatible(ip));
            embedded.extend(isatap(ip));
        }
        Self { wire: ip, embedded }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> {
        core::iter::once(self.wire).chain(self.embedded.iter().map(|&ip| IpAddr::V4(ip)))
    }
}

/// `::ffff:a.b.c.d`. No client has a reason to name a peer like that.
pub(super) const fn is_mapped(ip: Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

/// 6to4 (2002::/16) or Teredo (2001::/32), which RFC 8656 §21.4 forbids to accept.
pub(super) const fn is_transition(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    s[0] == 0x2002 || (s[0] == 0x2001 && s[1] == 0)
}

/// The valid lengths of a translation prefix (RFC 6052 §2.2).
pub(super) const NAT64_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// RFC 6052: the IPv4 address after a NAT64 prefix. Inside 64:ff9b:1::/48 the network may use any
/// length that fits (RFC 8215). Unless the operator says which, all of them are checked.
fn translated(ip: Ipv6Addr, nat64: &[Ipv6Net]) -> impl Iterator<Item = Ipv4Addr> {
    let s = ip.segments();
    let configured = nat64.iter().find(|net| net.contains(&ip)).map(Ipv6Net::prefix_len);
    let well_known = s[0] == 0x64 && s[1] == 0xff9b;
    let lengths: &[u8] = match configured {
        Some(_) => &[],
        None if well_known && s[2..6] == [0; 4] => &[96],
        None if well_known && s[2] == 1 => &[48, 56, 64, 96],
        None => &[],
    };
    configured
        .into_iter()
        .chain(lengths.iter().copied())
        .map(move |len| behind(ip, len))
}

/// The IPv4 address after a translation prefix of this length. All lengths except 96 skip bits
/// 64..71.
fn behind(ip: Ipv6Addr, len: u8) -> Ipv4Addr {
    let o = ip.octets();
    let at = match len {
        32 => [4, 5, 6, 7],
        40 => [5, 6, 7, 9],
        48 => [6, 7, 9, 10],
        56 => [7, 9, 10, 11],
        64 => [9, 10, 11, 12],
        _ => [12, 13, 14, 15],
    };
    Ipv4Addr::from(at.map(|i: usize| o[i]))
}

/// IPv4-compatible `::a.b.c.d` and IPv4-translated `::ffff:0:a.b.c.d`. `::` and `::1` are IPv6
/// addresses.
fn compatible(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let compatible = s[..6] == [0; 6] && !ip.is_unspecified() && !ip.is_loopback();
    (compatible || s[..6] == [0, 0, 0, 0, 0xffff, 0]).then(|| last_32_bits(ip))
}

/// ISATAP (RFC 5214 §6.1): interface identifier `0:5efe:a.b.c.d` or `200:5efe:a.b.c.d` after any
/// prefix.
fn isatap(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    (matches!(s[4], 0 | 0x0200) && s[5] == 0x5efe).then(|| last_32_bits(ip))
}

fn last_32_bits(ip: Ipv6Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(ip.to_bits() as u32)
}
