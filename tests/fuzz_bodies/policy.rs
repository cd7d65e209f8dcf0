//! The peer policy against a plain one: lists, gone through from end to end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use relay::turn::policy::{DENY_TABLE, PeerClass, PeerPolicy, PolicyConfig, REFLECTOR_PORTS};
use relay::turn::types::PeerAddr;

use super::Bytes;

/// Places where mistakes like to be: ends of ranges, and one address in another's clothes.
const PLACES: [&str; 28] = [
    "10.0.0.1",
    "9.255.255.255",
    "11.0.0.0",
    "127.0.0.1",
    "169.254.169.254",
    "172.15.255.255",
    "172.32.0.0",
    "192.168.1.1",
    "198.51.100.9",
    "203.0.113.1",
    "8.8.8.8",
    "255.255.255.255",
    "0.0.0.0",
    "100.127.255.255",
    "100.128.0.0",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "::10.0.0.1",
    "::8.8.8.8",
    "64:ff9b::a00:1",
    "64:ff9b::808:808",
    "2002:a00:1::",
    "2001::1",
    "fe80::5efe:808:808",
    "fd00::1",
    "2a00:1450:1::9",
    "ff02::1",
];

const RELAY: [&str; 2] = ["198.51.100.9", "2a00:1450:1::9"];
const LISTENER: &str = "198.51.100.1:3478";
const RELAY_PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_399;

fn ip(input: &mut Bytes<'_>) -> IpAddr {
    let text = |text: &str| text.parse::<IpAddr>().expect("an address");
    match input.byte() % 4 {
        0 => Ipv4Addr::from(input.array()).into(),
        1 => Ipv6Addr::from(input.array()).into(),
        2 => text(input.pick(&PLACES)),
        // A neighbour of such a place.
        _ => match text(input.pick(&PLACES)) {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ 1 << (input.byte() % 32)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ 1 << (input.byte() % 128)).into(),
        },
    }
}

fn nets(input: &mut Bytes<'_>) -> Vec<IpNet> {
    let net = |input: &mut Bytes<'_>| match ip(input) {
        IpAddr::V4(ip) => Ipv4Net::new(ip, input.byte() % 33).expect("a prefix").trunc().into(),
        IpAddr::V6(ip) => Ipv6Net::new(ip, input.byte() % 129).expect("a prefix").trunc().into(),
    };
    (0..input.byte() % 4).map(|_| net(input)).collect()
}

/// The addresses `ip` stands for besides itself, but for spellings that are refused whatever they stand for.
fn hidden(ip: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return Vec::new() };
    let (bits, low) = (ip.to_bits(), Ipv4Addr::from_bits(ip.to_bits() as u32));
    let prefix = |text: &str, len: u32| {
        bits >> (128 - len) == text.parse::<Ipv6Addr>().expect("a prefix").to_bits() >> (128 - len)
    };
    let mut hidden = Vec::new();
    if prefix("64:ff9b::", 96) || prefix("64:ff9b:1::", 48) {
        hidden.push(low);
    }
    if prefix("64:ff9b:1::", 48) {
        // RFC 8215: behind prefixes of 48, 56 and 64 bits; the eight bits from 64 on are skipped (RFC 6052).
        let (high, rest) = ((bits >> 64) as u64, bits as u64 & 0x00ff_ffff_ffff_ffff);
        for shift in [16, 8, 0] {
            let skipped = u128::from(high) << 56 | u128::from(rest);
            hidden.push(Ipv4Addr::from_bits((skipped >> (24 + shift)) as u32));
        }
    }
    if (prefix("::", 96) && bits > 1) || prefix("::ffff:0:0:0", 96) {
        hidden.push(low);
    }
    let identifier = bits as u64 >> 32;
    if identifier == 0x5EFE || identifier == 0x0200_5EFE {
        hidden.push(low);
    }
    hidden
}

/// Whether an address passes: `None` if not, else whether it is on the allow list.
fn one_address(config: &PolicyConfig, ip: IpAddr) -> Option<bool> {
    let longest = |nets: &[IpNet]| nets.iter().filter(|net| net.contains(&ip)).map(IpNet::prefix_len).max();
    let own = is_own(config, ip);
    let whole = IpNet::from(ip).prefix_len();
    let least = match ip {
        IpAddr::V4(ip) if ip.is_loopback() => 8,
        _ if own || ip.is_unspecified() || ip.is_loopback() => whole,
        _ => 0,
    };
    match (
        longest(&config.allow).filter(|&len| len >= least),
        longest(&config.deny),
    ) {
        (Some(allow), Some(deny)) => (allow > deny).then_some(true),
        (Some(_), None) => Some(true),
        (None, Some(_)) => None,
        (None, None) => {
            let built_in = DENY_TABLE
                .iter()
                .any(|(net, _)| net.parse::<IpNet>().expect("a range").contains(&ip));
            (!built_in && !own).then_some(false)
        }
    }
}

fn is_refused_spelling(ip: IpAddr) -> bool {
    let IpAddr::V6(ip) = ip else { return false };
    let segments = ip.segments();
    ip.to_ipv4_mapped().is_some() || segments[0] == 0x2002 || segments[..2] == [0x2001, 0]
}

fn address_passes(config: &PolicyConfig, ip: IpAddr) -> bool {
    let Some(listed) = one_address(config, ip) else {
        return false;
    };
    hidden(ip)
        .into_iter()
        .all(|ip| !is_here(config, ip.into()) && one_address(config, ip.into()).is_some())
        && (listed || !config.only_allowed)
}

fn is_here(config: &PolicyConfig, ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || is_own(config, ip)
}

fn is_own(config: &PolicyConfig, ip: IpAddr) -> bool {
    config.relay_ips.contains(&ip) || config.local.iter().any(|net| net.contains(&ip))
}

fn peer_class(config: &PolicyConfig, peer: SocketAddr) -> Option<PeerClass> {
    let (ip, port) = (peer.ip(), peer.port());
    if is_refused_spelling(ip) {
        return None;
    }
    let listener: SocketAddr = LISTENER.parse().expect("an address");
    // The machine itself is also at 0.0.0.0 and ::, and behind what is announced for it.
    let forms = || std::iter::once(ip).chain(hidden(ip).into_iter().map(IpAddr::V4));
    let at_listener = forms().any(|ip| ip == listener.ip() || ip.is_unspecified() || config.relay_ips.contains(&ip));
    if port == listener.port() && at_listener {
        return None;
    }
    let reflector = REFLECTOR_PORTS.iter().any(|ports| ports.contains(&port));
    let open = address_passes(config, ip) && port != 0 && !reflector;
    if config.relay_ips.contains(&ip) {
        let relayed = RELAY_PORTS.contains(&port).then_some(PeerClass::Relayed);
        return if open { Some(PeerClass::RelayedOrLocal) } else { relayed };
    }
    let class = if is_here(config, ip) {
        PeerClass::Local
    } else {
        PeerClass::Peer
    };
    open.then_some(class)
}

/// F7: any policy and any peers.
pub(crate) fn address_policy(input: &[u8]) {
    let mut input = Bytes(input);
    let config = PolicyConfig {
        allow: nets(&mut input),
        deny: nets(&mut input),
        only_allowed: input.byte() % 4 == 1,
        own: vec![LISTENER.parse().expect("an address")],
        local: vec!["198.51.100.1/32".parse().expect("a network")],
        relay_ips: RELAY.map(|ip| ip.parse().expect("an address")).to_vec(),
        relay_ports: RELAY_PORTS,
        ..PolicyConfig::default()
    };
    let policy = PeerPolicy::new(config.clone()).expect("a policy");
    let mut first = true;
    while first || !input.is_empty() {
        first = false;
        let ip = ip(&mut input);
        let port = match input.byte() {
            0 => 3478,
            1 => 50_000,
            2 => 50_400,
            3 => 53,
            _ => input.word(),
        };
        let permitted = !is_refused_spelling(ip) && (config.relay_ips.contains(&ip) || address_passes(&config, ip));
        assert_eq!(policy.permission(ip).is_ok(), permitted, "{ip}, {config:?}");
        let peer = SocketAddr::new(ip, port);
        assert_eq!(
            policy.peer(PeerAddr(peer)).ok(),
            peer_class(&config, peer),
            "{peer}, {config:?}"
        );
        let tunnelled = matches!(ip, IpAddr::V6(ip) if ip.segments()[0] == 0x2002 || ip.segments()[..2] == [0x2001, 0]);
        assert_eq!(policy.client(ip).is_err(), tunnelled);
    }
}
