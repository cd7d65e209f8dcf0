//! The built-in deny table, and the longest-prefix tables that policy decisions use.

use core::fmt;
use core::ops::RangeInclusive;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $text:literal,)+) => {
        /// Why a peer is refused: a closed set, so that it can be a metric label. The client gets
        /// 403 (Forbidden), or the packet is dropped without a response.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Denied { $($(#[$doc])* $variant,)+ }

        impl Denied {
            /// Every member, in declaration order: `ALL[x as usize] == x`.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The metric label and log value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    /// A listener of this server, of a backend, or of a server that clients are redirected to. No
    /// setting re-opens it.
    OwnListener => "own_listener",
    /// An address of this machine outside the relay ports, or of a server behind it. No network
    /// re-opens it.
    OwnAddress => "own_address",
    /// 0.0.0.0/8 or `::`, which reach the machine itself.
    Unspecified => "unspecified",
    /// 127.0.0.0/8 or `::1`.
    Loopback => "loopback",
    /// RFC 1918, unique local and site-local addresses.
    Private => "private",
    /// Shared address space behind carrier-grade NAT (RFC 6598).
    Shared => "shared",
    /// Link-local.
    LinkLocal => "link_local",
    /// A cloud provider's metadata service.
    Metadata => "metadata",
    /// Multicast.
    Multicast => "multicast",
    /// Documentation and benchmarking ranges.
    Documentation => "documentation",
    /// Reserved, discard-only or protocol-assignment ranges.
    Reserved => "reserved",
    /// An IPv6 notation of an IPv4 address, or an address with a refused IPv4 address embedded.
    Embedded => "embedded",
    /// 6to4 or Teredo (RFC 8656 §21.4). No setting re-opens the IPv6 forms.
    Transition => "transition",
    /// The operator's own deny list.
    Configured => "configured",
    /// Only allowed ranges are reachable, and this address is in none of them.
    NotAllowed => "not_allowed",
    /// Port 0, or a port of services that answer with more than they receive.
    Port => "port",
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Ranges refused unless `allow` re-opens them. The longest match gives the reason.
pub const DENY_TABLE: &[(&str, Denied)] = &[
    ("0.0.0.0/8", Denied::Unspecified),
    ("10.0.0.0/8", Denied::Private),
    ("100.64.0.0/10", Denied::Shared),
    ("100.100.100.200/32", Denied::Metadata), // Alibaba Cloud
    ("127.0.0.0/8", Denied::Loopback),
    ("168.63.129.16/32", Denied::Metadata), // Azure, in public space
    ("169.254.0.0/16", Denied::LinkLocal),
    ("169.254.169.254/32", Denied::Metadata),
    ("172.16.0.0/12", Denied::Private),
    ("192.0.0.0/24", Denied::Reserved),
    ("192.0.0.192/32", Denied::Metadata), // Oracle Cloud
    ("192.0.2.0/24", Denied::Documentation),
    ("192.88.99.0/24", Denied::Transition), // 6to4 relay anycast
    ("192.168.0.0/16", Denied::Private),
    ("198.18.0.0/15", Denied::Documentation),
    ("198.51.100.0/24", Denied::Documentation),
    ("203.0.113.0/24", Denied::Documentation),
    ("224.0.0.0/4", Denied::Multicast),
    ("240.0.0.0/4", Denied::Reserved), // with the limited broadcast address
    ("::/96", Denied::Embedded),       // IPv4-compatible
    ("::/128", Denied::Unspecified),
    ("::1/128", Denied::Loopback),
    ("::ffff:0:0/96", Denied::Embedded),   // IPv4-mapped
    ("::ffff:0:0:0/96", Denied::Embedded), // IPv4-translated (RFC 2765)
    ("64:ff9b::/96", Denied::Embedded),    // NAT64 (RFC 6052)
    ("64:ff9b:1::/48", Denied::Embedded),  // local NAT64 (RFC 8215)
    ("100::/64", Denied::Reserved),        // discard-only
    ("100:0:0:1::/64", Denied::Reserved),  // dummy prefix (RFC 9780)
    ("2001::/23", Denied::Reserved),       // protocol assignments: ORCHID, benchmarking, anycast
    ("2001::/32", Denied::Transition),     // Teredo
    ("2001:db8::/32", Denied::Documentation),
    ("2002::/16", Denied::Transition), // 6to4
    ("3fff::/20", Denied::Documentation),
    ("5f00::/16", Denied::Reserved), // segment routing
    ("fc00::/7", Denied::Private),
    ("fd00:ec2::254/128", Denied::Metadata), // AWS
    ("fd20:ce::254/128", Denied::Metadata),  // Google Cloud
    ("fe80::/10", Denied::LinkLocal),
    ("fec0::/10", Denied::Private), // site-local
    ("ff00::/8", Denied::Multicast),
];

/// UDP services known to answer with more than they receive. Port 0 is always refused.
pub const REFLECTOR_PORTS: [RangeInclusive<u16>; 14] = [
    19..=19,       // chargen
    53..=53,       // DNS
    69..=69,       // TFTP
    111..=111,     // portmapper
    123..=123,     // NTP
    137..=139,     // NetBIOS
    161..=161,     // SNMP
    389..=389,     // CLDAP
    520..=520,     // RIP
    1900..=1900,   // SSDP
    3702..=3702,   // WS-Discovery
    5353..=5353,   // mDNS
    11211..=11211, // memcached
    17..=17,       // quote of the day
];

/// Values by IP prefix; the longest prefix wins. Matching is on whole 32- and 128-bit integers.
#[derive(Clone)]
pub(super) struct PrefixTable<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T: Copy> PrefixTable<T> {
    pub(super) fn new() -> Self {
        Self {
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
        }
    }

    /// Stores `value` for `net`.
    pub(super) fn insert(&mut self, net: IpNet, value: T) {
        match net.trunc() {
            IpNet::V4(net) => drop(self.v4.insert(net, value)),
            IpNet::V6(net) => drop(self.v6.insert(net, value)),
        }
    }

    /// The length of the longest prefix that contains `ip`, and its value.
    pub(super) fn longest(&self, ip: IpAddr) -> Option<(u8, T)> {
        match ip {
            IpAddr::V4(ip) => self
                .v4
                .get_lpm(&ip.into())
                .map(|(net, &value)| (net.prefix_len(), value)),
            IpAddr::V6(ip) => self
                .v6
                .get_lpm(&ip.into())
                .map(|(net, &value)| (net.prefix_len(), value)),
        }
    }
}
