//! The topology: where the server, its relayed addresses, clients and peers are, and which peers
//! are reachable.
//!
//! A plain list states the expected verdict of the peer policy for each place a second time, for
//! the oracle.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use relay_proto::base::address::Family;

pub(crate) const LISTENER_PORT: u16 = 3478;
pub(crate) const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
pub(crate) const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// Behind a 1:1 NAT: bound to one address, announced as another.
pub(crate) const BOUND_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7));
pub(crate) const ANNOUNCED_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub(crate) const RELAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7));

/// Public; denied by some configurations.
const SHIFTY: Ipv4Addr = Ipv4Addr::new(151, 101, 1, 9);
/// Private; re-opened by some configurations.
const REOPENED: Ipv4Addr = Ipv4Addr::new(172, 16, 5, 5);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const UNIQUE_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
/// DNS: a reflector.
const REFLECTOR_PORT: u16 = 53;

/// Announced address of relayed transport addresses, by family.
pub(crate) const fn announced(family: Family) -> IpAddr {
    match family {
        Family::V4 => ANNOUNCED_V4,
        Family::V6 => RELAY_V6,
    }
}

/// The NAT also maps ports: the announced port of a relay socket is this much higher than the bound
/// one. Even, because of EVEN-PORT.
pub(crate) const PORTS_APART: u16 = 4008;

/// The address peers see for a relay socket bound to `bind`.
pub(crate) const fn announced_for(bind: SocketAddr) -> SocketAddr {
    let family = Family::of(bind.ip());
    SocketAddr::new(announced(family), bind.port() + PORTS_APART)
}

/// Whether relayed addresses are on this IP address.
pub(crate) const fn is_ours(ip: IpAddr) -> bool {
    matches!(ip, ANNOUNCED_V4 | BOUND_V4 | RELAY_V6)
}

pub(crate) const fn server(family: Family) -> SocketAddr {
    let ip = match family {
        Family::V4 => SERVER_V4,
        Family::V6 => SERVER_V6,
    };
    SocketAddr::new(ip, LISTENER_PORT)
}

pub(crate) fn family(addr: SocketAddr) -> Family {
    Family::of(addr.ip())
}

/// The parts of the peer policy that a reload changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerRules {
    pub(crate) shifty_denied: bool,
    pub(crate) private_reopened: bool,
}

pub(crate) const DENY: &str = "151.101.1.0/24";
pub(crate) const ALLOW: &str = "172.16.5.0/24";

/// The kind of path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Nowhere,
    Peer,
    /// At a relayed address of the server, if an allocation has it.
    Relayed,
}

impl PeerRules {
    /// Whether a permission for `ip` may be given.
    pub(crate) fn permits(self, ip: IpAddr) -> bool {
        match ip {
            ANNOUNCED_V4 | BOUND_V4 | RELAY_V6 => true,
            SERVER_V4 | SERVER_V6 => false,
            IpAddr::V4(LOOPBACK | PRIVATE) => false,
            IpAddr::V6(UNIQUE_LOCAL) => false,
            IpAddr::V4(SHIFTY) => !self.shifty_denied,
            IpAddr::V4(REOPENED) => self.private_reopened,
            _ => true,
        }
    }

    /// Whether application data may be exchanged with `peer`.
    pub(crate) fn route(self, peer: SocketAddr, relay_ports: &core::ops::RangeInclusive<u16>) -> Route {
        if is_ours(peer.ip()) {
            return if relay_ports.contains(&peer.port()) {
                Route::Relayed
            } else {
                Route::Nowhere
            };
        }
        if self.permits(peer.ip()) && peer.port() != 0 && peer.port() != REFLECTOR_PORT {
            Route::Peer
        } else {
            Route::Nowhere
        }
    }
}

/// Every peer of the world: some share an address, some must not be reached.
pub(crate) fn peers() -> Vec<SocketAddr> {
    let v4 = |ip: Ipv4Addr, port| SocketAddr::new(ip.into(), port);
    let v6 = |last, port| SocketAddr::new(Ipv6Addr::new(0x2a00, 0x1450, 1, 0, 0, 0, 0, last).into(), port);
    vec![
        v4(Ipv4Addr::new(93, 184, 216, 1), 4000),
        v4(Ipv4Addr::new(93, 184, 216, 1), 4001),
        v4(Ipv4Addr::new(93, 184, 216, 2), 4000),
        v4(Ipv4Addr::new(93, 184, 216, 3), 50_000),
        v6(1, 4000),
        v6(1, 4001),
        v6(2, 4000),
        v4(SHIFTY, 4000),
        v4(SHIFTY, 4001),
        v4(REOPENED, 4000),
        v4(PRIVATE, 4000),
        v4(LOOPBACK, 4000),
        v4(Ipv4Addr::new(93, 184, 216, 2), REFLECTOR_PORT),
        SocketAddr::new(UNIQUE_LOCAL.into(), 4000),
        server(Family::V4),
        server(Family::V6),
    ]
}

/// This many of [`peers`] are reachable under every configuration.
pub(crate) const ALWAYS_OPEN: usize = 7;
