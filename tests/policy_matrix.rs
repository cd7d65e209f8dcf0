//! The peer policy against every refused range in every spelling, and against a model that only counts and compares.
//!
//! The ranges are written down here a second time on purpose: a row lost from the server's table is found.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};
use proptest::prelude::*;
use proptest::sample::select;
use relay_proto::turn::policy::{DENY_TABLE, Denied, PeerClass, PeerPolicy, PolicyConfig};
use relay_proto::turn::types::PeerAddr;

const V4: [(&str, u8); 19] = [
    ("0.0.0.0", 8),
    ("10.0.0.0", 8),
    ("100.64.0.0", 10),
    ("127.0.0.0", 8),
    ("168.63.129.16", 32),
    ("169.254.0.0", 16),
    ("169.254.169.254", 32),
    ("172.16.0.0", 12),
    ("192.0.0.0", 24),
    ("192.0.2.0", 24),
    ("192.88.99.0", 24),
    ("192.168.0.0", 16),
    ("198.18.0.0", 15),
    ("198.51.100.0", 24),
    ("203.0.113.0", 24),
    ("224.0.0.0", 4),
    ("240.0.0.0", 4),
    ("100.100.100.200", 32),
    ("192.0.0.192", 32),
];

const V6: [(&str, u8); 19] = [
    ("::", 96),
    ("::ffff:0:0", 96),
    ("::ffff:0:0:0", 96),
    ("64:ff9b::", 96),
    ("64:ff9b:1::", 48),
    ("100::", 64),
    ("100:0:0:1::", 64),
    ("2001::", 23),
    ("2001::", 32),
    ("2001:db8::", 32),
    ("2002::", 16),
    ("3fff::", 20),
    ("5f00::", 16),
    ("fc00::", 7),
    ("fd00:ec2::254", 128),
    ("fd20:ce::254", 128),
    ("fe80::", 10),
    ("fec0::", 10),
    ("ff00::", 8),
];

/// The operator's NAT64 prefixes in these tests, in otherwise unremarkable space.
const NAT64: [&str; 2] = ["2600:64::/96", "2600:6400::/32"];

/// A range of addresses of one family as numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    bits: u8,
    first: u128,
    last: u128,
    len: u8,
}

impl Range {
    fn new(first: &str, len: u8) -> Self {
        let (first, bits) = match first.parse().unwrap() {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        let size_less_one = if len == 0 && bits == 128 {
            u128::MAX
        } else {
            (1 << (bits - len)) - 1
        };
        Self {
            bits,
            first,
            last: first + size_less_one,
            len,
        }
    }

    fn of(net: &str) -> Self {
        let (first, len) = net.split_once('/').unwrap();
        Self::new(first, len.parse().unwrap())
    }

    fn holds(&self, ip: IpAddr) -> bool {
        let (bits, number) = match ip {
            IpAddr::V4(ip) => (32, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (128, ip.to_bits()),
        };
        bits == self.bits && self.first <= number && number <= self.last
    }

    fn ip(&self, number: u128) -> IpAddr {
        if self.bits == 32 {
            Ipv4Addr::from_bits(u32::try_from(number).unwrap()).into()
        } else {
            Ipv6Addr::from_bits(number).into()
        }
    }

    /// First, middle and last address.
    fn inside(&self) -> [IpAddr; 3] {
        [self.first, self.first + (self.last - self.first) / 2, self.last].map(|number| self.ip(number))
    }

    /// The addresses just before and behind, where there are any.
    fn beside(self) -> impl Iterator<Item = IpAddr> {
        let end = if self.bits == 32 {
            u128::from(u32::MAX)
        } else {
            u128::MAX
        };
        let before = self.first.checked_sub(1);
        let behind = (self.last < end).then(|| self.last + 1);
        before.into_iter().chain(behind).map(move |number| self.ip(number))
    }
}

fn ranges() -> Vec<Range> {
    V4.iter()
        .chain(&V6)
        .map(|&(first, len)| Range::new(first, len))
        .collect()
}

fn is_refused_range(ip: IpAddr) -> bool {
    ranges().iter().any(|range| range.holds(ip))
}

/// How an IPv4 address can be written as an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spelling {
    Mapped,
    Compatible,
    Translated,
    Nat64,
    LocalNat64,
    OperatorNat64,
    OperatorNat64Short,
    SixToFour,
    TeredoServer,
    TeredoClient,
    Isatap,
    IsatapGlobal,
    IsatapLinkLocal,
}

impl Spelling {
    const ALL: [Self; 13] = [
        Self::Mapped,
        Self::Compatible,
        Self::Translated,
        Self::Nat64,
        Self::LocalNat64,
        Self::OperatorNat64,
        Self::OperatorNat64Short,
        Self::SixToFour,
        Self::TeredoServer,
        Self::TeredoClient,
        Self::Isatap,
        Self::IsatapGlobal,
        Self::IsatapLinkLocal,
    ];

    fn of(self, ip: Ipv4Addr) -> IpAddr {
        let v4 = u128::from(ip.to_bits());
        let prefix = |text: &str| text.parse::<Ipv6Addr>().unwrap().to_bits();
        let bits = match self {
            Self::Mapped => prefix("::ffff:0:0") | v4,
            Self::Compatible => v4,
            Self::Translated => prefix("::ffff:0:0:0") | v4,
            Self::Nat64 => prefix("64:ff9b::") | v4,
            Self::LocalNat64 => prefix("64:ff9b:1::") | v4,
            Self::OperatorNat64 => prefix("2600:64::") | v4,
            Self::OperatorNat64Short => prefix("2600:6400::") | v4 << 64,
            Self::SixToFour => prefix("2002::1") | v4 << 80,
            Self::TeredoServer => prefix("2001::") | v4 << 64 | u128::from(!0x0808_0808_u32),
            Self::TeredoClient => prefix("2001:0:808:808::") | u128::from(!ip.to_bits()),
            Self::Isatap => prefix("2600::5efe:0:0") | v4,
            Self::IsatapGlobal => prefix("2600::200:5efe:0:0") | v4,
            Self::IsatapLinkLocal => prefix("fe80::5efe:0:0") | v4,
        };
        Ipv6Addr::from_bits(bits).into()
    }

    /// Spellings that lead to the IPv4 address and are nothing worse than it.
    fn is_as_good_as_the_address(self) -> bool {
        matches!(
            self,
            Self::OperatorNat64 | Self::OperatorNat64Short | Self::Isatap | Self::IsatapGlobal
        )
    }

    /// Refused whatever the operator allows: RFC 8656 §21.4, and an address nobody has a reason to write.
    fn is_never_right(self) -> bool {
        matches!(
            self,
            Self::Mapped | Self::SixToFour | Self::TeredoServer | Self::TeredoClient
        )
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn nat64() -> Vec<Ipv6Net> {
    NAT64.iter().map(|net| net.parse().unwrap()).collect()
}

fn policy(allow: &[&str]) -> PeerPolicy {
    PeerPolicy::new(PolicyConfig {
        allow: nets(allow),
        nat64: nat64(),
        ..PolicyConfig::default()
    })
    .unwrap()
}

/// This machine, which is reached by its own addresses alone and not by one that hides them.
fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

fn hides_here(ip: IpAddr) -> bool {
    model_forms(ip).is_some_and(|forms| forms[1..].iter().any(|&ip| is_here(ip)))
}

/// That, or of this machine what no network opens.
fn stays_closed(ip: IpAddr) -> bool {
    hides_here(ip) || ip.is_unspecified() || (ip.is_loopback() && ip.is_ipv6())
}

/// Both questions the core asks, which must agree on addresses.
fn passes(policy: &PeerPolicy, ip: IpAddr) -> bool {
    let permission = policy.permission(ip);
    let peer = policy.peer(PeerAddr(SocketAddr::new(ip, 40_000)));
    assert_eq!(
        permission,
        peer.map(|class| assert!(matches!(class, PeerClass::Peer | PeerClass::Local))),
        "{ip}"
    );
    permission.is_ok()
}

//= TURN-PERM-04
#[test]
fn every_refused_range_is_refused_to_its_edges_in_every_spelling() {
    let policy = policy(&[]);
    let mut cases = 0;
    for range in ranges() {
        for ip in range.inside() {
            assert!(!passes(&policy, ip), "{ip}");
            cases += 1;
            let IpAddr::V4(ip) = ip else { continue };
            for spelling in Spelling::ALL {
                let written = spelling.of(ip);
                assert!(!passes(&policy, written), "{ip} as {spelling:?}: {written}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 3 * (19 + 19) + 3 * 19 * 13);
}

#[test]
fn the_addresses_just_outside_every_refused_range_pass() {
    let policy = policy(&[]);
    let mut cases = 0;
    for ip in ranges()
        .into_iter()
        .flat_map(Range::beside)
        .filter(|&ip| !is_refused_range(ip))
    {
        assert!(passes(&policy, ip), "{ip}");
        cases += 1;
        let IpAddr::V4(ip) = ip else { continue };
        for spelling in Spelling::ALL {
            let written = spelling.of(ip);
            assert_eq!(
                passes(&policy, written),
                spelling.is_as_good_as_the_address(),
                "{ip} as {spelling:?}"
            );
            cases += 1;
        }
    }
    assert!(cases > 300, "{cases}");
}

#[test]
fn the_servers_table_and_this_one_are_the_same() {
    let mut ours = ranges();
    ours.extend([Range::new("::", 128), Range::new("::1", 128)]);
    for (net, _) in DENY_TABLE {
        assert!(ours.contains(&Range::of(net)), "{net} is not tested here");
    }
    assert_eq!(DENY_TABLE.len(), ours.len());
}

#[test]
fn allow_re_opens_every_range_and_what_is_spelt_inside_it() {
    for (first, len) in V4 {
        let net = format!("{first}/{len}");
        let range = Range::of(&net);
        let reopened = policy(&[&net]);
        let translators = "64:ff9b::/96 64:ff9b:1::/48 ::/96 ::ffff:0:0:0/96 fe80::/10".split(' ');
        let with_translators = policy(&translators.chain([&net[..]]).collect::<Vec<_>>());
        for ip in range.inside() {
            assert_eq!(passes(&reopened, ip), !stays_closed(ip), "{ip}");
            let IpAddr::V4(ip) = ip else { unreachable!() };
            for spelling in Spelling::ALL {
                let written = spelling.of(ip);
                // `::` and `::1` are addresses of their own, not ways to write 0.0.0.0 and 0.0.0.1.
                assert_eq!(
                    passes(&reopened, written),
                    spelling.is_as_good_as_the_address() && !stays_closed(written),
                    "{ip} as {spelling:?}"
                );
                assert_eq!(
                    passes(&with_translators, written),
                    !spelling.is_never_right() && !stays_closed(written),
                    "{ip} as {spelling:?}"
                );
            }
        }
    }
    for (first, len) in V6 {
        let net = format!("{first}/{len}");
        let reopened = policy(&[&net, "0.0.0.0/0"]);
        for ip in Range::of(&net).inside() {
            let never = ["::ffff:0:0/96", "2001::/32", "2002::/16"]
                .iter()
                .any(|net| Range::of(net).holds(ip));
            assert_eq!(passes(&reopened, ip), !never && !stays_closed(ip), "{ip}");
        }
    }
}

#[test]
fn an_own_listener_is_reached_by_no_spelling_whatever_is_allowed() {
    let own = ["0.0.0.0:3478", "[::]:3478", "5.6.7.8:443", "10.0.0.5:443"];
    let all = "0.0.0.0/0 ::/0 127.0.0.0/8 0.0.0.0/32 10.0.0.5/32 5.6.7.8/32 9.9.9.9/32";
    let policy = PeerPolicy::new(PolicyConfig {
        allow: nets(&all.split(' ').collect::<Vec<_>>()),
        own: own.iter().map(|addr| addr.parse().unwrap()).collect(),
        local: nets(&["10.0.0.5/32", "9.9.9.9/32"]),
        relay_ips: vec!["10.0.0.5".parse().unwrap(), "5.6.7.8".parse().unwrap()],
        relay_ports: 443..=65_535,
        nat64: nat64(),
        ..PolicyConfig::default()
    })
    .unwrap();
    let refused = |ip, port| policy.peer(PeerAddr(SocketAddr::new(ip, port))).is_err();
    for (text, ports) in [
        ("127.0.0.1", &[3478][..]),
        ("127.255.255.254", &[3478]),
        ("0.0.0.0", &[443, 3478]),
        ("10.0.0.5", &[443, 3478]),
        ("5.6.7.8", &[443, 3478]),
        ("9.9.9.9", &[3478]),
    ] {
        let ip: Ipv4Addr = text.parse().unwrap();
        for &port in ports {
            assert!(refused(ip.into(), port), "{ip}:{port}");
            for spelling in Spelling::ALL {
                assert!(refused(spelling.of(ip), port), "{ip}:{port} as {spelling:?}");
            }
        }
        assert!(!refused(ip.into(), 4000), "{ip}: only the listeners are closed");
    }
    for text in ["::1", "::"] {
        assert!(refused(text.parse().unwrap(), 3478), "{text}");
    }
}

// The model: lists, looked through from end to end.

/// Every address `ip` stands for; `None` if it must not be written at all.
fn model_forms(ip: IpAddr) -> Option<Vec<IpAddr>> {
    let mut forms = vec![ip];
    let IpAddr::V6(v6) = ip else { return Some(forms) };
    let bits = v6.to_bits();
    let within = |net: &str| Range::of(net).holds(ip);
    if within("::ffff:0:0/96") || within("2002::/16") || within("2001::/32") {
        return None;
    }
    let low = Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32);
    let compatible = within("::/96") && bits > 1;
    let translated = within("64:ff9b::/96") || within("64:ff9b:1::/48") || within(NAT64[0]);
    let isatap = matches!((bits >> 32) as u32, 0x5efe | 0x0200_5efe);
    if compatible || within("::ffff:0:0:0/96") || translated || isatap {
        forms.push(low.into());
    }
    // RFC 8215: of any length. The bits from 64 to 71 are skipped.
    let skipped = (bits >> 64) << 56 | (bits & 0x00ff_ffff_ffff_ffff);
    let local = [24, 32, 40].map(|shift| IpAddr::V4(Ipv4Addr::from_bits((skipped >> shift) as u32)));
    forms.extend(local.into_iter().filter(|_| within("64:ff9b:1::/48")));
    forms.extend(within(NAT64[1]).then(|| IpAddr::V4(Ipv4Addr::from_bits((bits >> 64) as u32))));
    Some(forms)
}

fn model_longest(list: &[&str], ip: IpAddr) -> Option<u8> {
    list.iter()
        .map(|net| Range::of(net))
        .filter(|range| range.holds(ip))
        .map(|range| range.len)
        .max()
}

#[derive(Clone, Debug)]
struct Scene {
    allow: Vec<&'static str>,
    deny: Vec<&'static str>,
    only_allowed: bool,
    own: Vec<&'static str>,
    local: Vec<&'static str>,
    relay: Vec<&'static str>,
}

impl Scene {
    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn own(&self) -> Vec<SocketAddr> {
        self.own.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn policy(&self) -> PeerPolicy {
        PeerPolicy::new(PolicyConfig {
            allow: nets(&self.allow),
            deny: nets(&self.deny),
            only_allowed: self.only_allowed,
            own: self.own(),
            local: Self::ips(&self.local).into_iter().map(IpNet::from).collect(),
            relay_ips: Self::ips(&self.relay),
            relay_ports: 50_000..=50_099,
            nat64: nat64(),
            ..PolicyConfig::default()
        })
        .unwrap()
    }

    /// `Some(true)`: allowed by name; `Some(false)`: by no rule; `None`: refused.
    fn address(&self, ip: IpAddr) -> Option<bool> {
        let least = match ip {
            IpAddr::V4(ip) if ip.is_loopback() => 8,
            _ if self.is_here(ip) => IpNet::from(ip).prefix_len(),
            _ => 0,
        };
        let allow = model_longest(&self.allow, ip).filter(|&len| len >= least);
        match (allow, model_longest(&self.deny, ip)) {
            (None, None) => (!self.is_here(ip) && !is_refused_range(ip)).then_some(false),
            (allow, deny) => (allow > deny).then_some(true),
        }
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own().iter().filter(|own| own.port() == port).any(|own| {
            let any = own.ip().is_unspecified() && (ip.is_loopback() || Self::ips(&self.local).contains(&ip));
            own.ip() == ip || ip.is_unspecified() || Self::ips(&self.relay).contains(&ip) || any
        })
    }

    fn permission(&self, ip: IpAddr) -> bool {
        model_forms(ip).is_some() && (Self::ips(&self.relay).contains(&ip) || self.address_passes(ip))
    }

    fn address_passes(&self, ip: IpAddr) -> bool {
        let Some(forms) = model_forms(ip) else { return false };
        let verdicts: Option<Vec<bool>> = forms.iter().map(|&ip| self.address(ip)).collect();
        // What is hidden in it is not this machine.
        forms[1..].iter().all(|&ip| !self.is_here(ip)) && verdicts.is_some_and(|listed| listed[0] || !self.only_allowed)
    }

    fn is_here(&self, ip: IpAddr) -> bool {
        let ours = [&self.local, &self.relay]
            .iter()
            .any(|ips| Self::ips(ips).contains(&ip));
        ours || is_here(ip)
    }

    fn peer(&self, ip: IpAddr, port: u16) -> Option<PeerClass> {
        if model_forms(ip)?.iter().any(|&ip| self.is_own(ip, port)) {
            return None;
        }
        let open = self.address_passes(ip) && ![0, 53, 138].contains(&port);
        if Self::ips(&self.relay).contains(&ip) {
            let relayed = (50_000..=50_099).contains(&port).then_some(PeerClass::Relayed);
            return if open { Some(PeerClass::RelayedOrLocal) } else { relayed };
        }
        open.then(|| [PeerClass::Peer, PeerClass::Local][usize::from(self.is_here(ip))])
    }
}

const LISTED: [&str; 14] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.5/32",
    "127.0.0.0/8",
    "8.0.0.0/7",
    "8.8.8.0/24",
    "5.6.7.8/32",
    "::1/128",
    "fc00::/7",
    "64:ff9b::/96",
    "2600:64::/64",
    "2600::/16",
];
const ADDRESSES: [&str; 6] = ["10.0.0.5", "5.6.7.8", "9.9.9.9", "127.0.0.1", "2600::5", "::1"];
const LISTENERS: [&str; 6] = [
    "0.0.0.0:3478",
    "[::]:443",
    "10.0.0.5:443",
    "127.0.0.1:9090",
    "5.6.7.8:50010",
    "[2600::5]:3478",
];

fn scene() -> impl Strategy<Value = Scene> {
    let some = |from: &'static [&'static str], most| prop::collection::vec(select(from), 0..most);
    (
        some(&LISTED, 4),
        some(&LISTED, 3),
        any::<bool>(),
        some(&LISTENERS, 4),
        some(&ADDRESSES, 4),
        some(&ADDRESSES, 3),
    )
        .prop_map(|(allow, deny, only_allowed, own, local, relay)| Scene {
            allow,
            deny,
            only_allowed,
            own,
            local,
            relay,
        })
}

/// Addresses near everything that matters, and anything at all.
fn address() -> impl Strategy<Value = IpAddr> {
    let edges: Vec<IpAddr> = ranges()
        .into_iter()
        .chain(LISTED.map(Range::of))
        .flat_map(|range| range.inside().into_iter().chain(range.beside()))
        .chain(Scene::ips(&ADDRESSES))
        .collect();
    let v4: Vec<Ipv4Addr> = edges
        .iter()
        .filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })
        .collect();
    let spelt = (select(v4), select(&Spelling::ALL[..])).prop_map(|(ip, spelling)| spelling.of(ip));
    prop_oneof![
        4 => select(edges),
        4 => spelt,
        1 => any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        1 => (any::<u32>(), select(&Spelling::ALL[..])).prop_map(|(bits, spelling)| spelling.of(Ipv4Addr::from_bits(bits))),
        1 => any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_policy_agrees_with_a_model_that_looks_through_lists(
        scene in scene(), addresses in prop::collection::vec(address(), 32),
    ) {
        let policy = scene.policy();
        for ip in addresses {
            prop_assert_eq!(policy.permission(ip).is_ok(), scene.permission(ip), "{}", ip);
            for port in [0, 53, 138, 443, 3478, 9090, 40_000, 49_999, 50_000, 50_010, 50_099, 50_100] {
                let decided = policy.peer(PeerAddr(SocketAddr::new(ip, port)));
                prop_assert_eq!(decided.ok(), scene.peer(ip, port), "{} {}: {:?}", ip, port, decided);
            }
        }
    }

    #[test]
    fn allowing_everything_never_opens_what_is_never_right(ip in address(), port: u16) {
        let policy = policy(&["0.0.0.0/0", "::/0"]);
        let never = model_forms(ip).is_none() || hides_here(ip);
        prop_assert_eq!(policy.permission(ip).is_err(), never || is_here(ip));
        let decided = policy.peer(PeerAddr(SocketAddr::new(ip, port)));
        prop_assert!(!never || matches!(decided, Err(Denied::Embedded | Denied::Transition)));
    }
}
