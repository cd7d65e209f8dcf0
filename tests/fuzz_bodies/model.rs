//! A second, plain implementation of what the server must remember: lists and deadlines, nothing compiled or cached.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use relay::turn::policy::REFLECTOR_PORTS;

use relay_testkit::world::{RELAY_V4, RELAY_V6, ip};

/// What one client has.
#[derive(Debug)]
pub(crate) struct Allocation {
    /// By family: the relayed transport address and its expiry.
    pub(crate) halves: [Option<(SocketAddr, Duration)>; 2],
    permissions: BTreeMap<IpAddr, Duration>,
    channels: BTreeMap<u16, (SocketAddr, Duration)>,
}

/// What becomes of application data from a client.
#[derive(Debug, PartialEq)]
pub(crate) enum Outward {
    Nothing,
    /// To a peer, from this relayed address.
    Peer(SocketAddr, SocketAddr),
    /// To the relayed address of another client, from this one.
    Relayed(SocketAddr, SocketAddr),
}

/// What becomes of a peer's datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Inward {
    Nothing,
    Data,
    Channel(u16),
}

/// The peer policy of the tests: two documentation ranges, but for one address while it is denied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) denies_second: bool,
}

impl Policy {
    pub(crate) fn permits(self, ip: IpAddr) -> bool {
        is_relay(ip) || self.allows(ip)
    }

    fn allows(self, ip: IpAddr) -> bool {
        let documentation = match ip {
            IpAddr::V4(ip) => ip.octets()[..3] == [192, 0, 2],
            IpAddr::V6(ip) => ip.segments()[..2] == [0x2001, 0xDB8],
        };
        documentation && !(self.denies_second && ip == SECOND.parse::<IpAddr>().expect("an address"))
    }

    /// `Some(true)`: a relayed address of this server.
    fn class(self, peer: SocketAddr) -> Option<bool> {
        if is_relay(peer.ip()) {
            return (50_000..=50_399).contains(&peer.port()).then_some(true);
        }
        let port = peer.port() != 0 && !REFLECTOR_PORTS.iter().any(|ports| ports.contains(&peer.port()));
        (self.allows(peer.ip()) && port).then_some(false)
    }
}

/// The peer that a reload denies and allows again.
pub(crate) const SECOND: &str = "192.0.2.2";

fn is_relay(ip_: IpAddr) -> bool {
    [ip(RELAY_V4), ip(RELAY_V6)].contains(&ip_)
}

pub(crate) fn family(peer: IpAddr) -> usize {
    usize::from(peer.is_ipv6())
}

/// LIFETIME granted for what is asked.
pub(crate) fn lifetime(asked: Option<u32>) -> Duration {
    Duration::from_secs(asked.map_or(600, |asked| asked.clamp(600, 3600)).into())
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

impl Allocation {
    pub(crate) fn new(relayed: &[SocketAddr], until: Duration) -> Self {
        let mut halves = [None; 2];
        for &relayed in relayed {
            halves[family(relayed.ip())] = Some((relayed, until));
        }
        Self {
            halves,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
        }
    }

    pub(crate) fn lives(&self, now: Duration) -> bool {
        (0..2).any(|family| self.has(now, family))
    }

    pub(crate) fn has(&self, now: Duration, family: usize) -> bool {
        self.halves[family].is_some_and(|(_, until)| until > now)
    }

    fn check_family(&self, now: Duration, peer: IpAddr) -> Result<(), u16> {
        match (is_mapped(peer), self.has(now, family(peer))) {
            (true, _) => Err(403),
            (false, true) => Ok(()),
            (false, false) => Err(443),
        }
    }

    fn permit(&mut self, now: Duration, peer: IpAddr) {
        self.permissions.insert(peer, now + Duration::from_secs(300));
    }

    fn is_permitted(&self, now: Duration, peer: IpAddr) -> bool {
        self.permissions.get(&peer).is_some_and(|&until| until > now)
    }

    /// Code of a CreatePermission.
    pub(crate) fn create_permission(&mut self, now: Duration, policy: Policy, peers: &[SocketAddr]) -> u16 {
        if peers.is_empty() {
            return 400;
        }
        for peer in peers {
            if let Err(code) = self.check_family(now, peer.ip()) {
                return code;
            }
        }
        if !peers.iter().all(|peer| policy.permits(peer.ip())) {
            return 403;
        }
        peers.iter().for_each(|peer| self.permit(now, peer.ip()));
        0
    }

    /// Code of a ChannelBind.
    pub(crate) fn channel_bind(&mut self, now: Duration, policy: Policy, number: u16, wire: SocketAddr) -> u16 {
        if !(0x4000..=0x4FFF).contains(&number) || wire.port() == 0 {
            return 400;
        }
        // An IPv4-mapped address, which is refused below, is in the way of the IPv4 address it stands for.
        let peer = SocketAddr::new(wire.ip().to_canonical(), wire.port());
        // A channel ends with its binding, and with the relayed address of its family.
        let is_live = |to: SocketAddr, until| until > now && self.has(now, family(to.ip()));
        let mut live = self.channels.iter().filter(|(_, (to, until))| is_live(*to, *until));
        if live.any(|(&other, &(to, _))| (other == number) != (to == peer)) {
            return 400;
        }
        if let Err(code) = self.check_family(now, wire.ip()) {
            return code;
        }
        let own = self.halves.iter().flatten().any(|&(relayed, _)| relayed == peer);
        if own || policy.class(peer).is_none() {
            return 403;
        }
        self.channels.retain(|_, (to, _)| *to != peer);
        self.channels.insert(number, (peer, now + Duration::from_secs(600)));
        self.permit(now, peer.ip());
        0
    }

    /// Code and granted lifetime of a Refresh; true if nothing is left.
    pub(crate) fn refresh(&mut self, now: Duration, asked: Option<u32>, only: Option<u8>) -> (u16, Duration, bool) {
        let families: Vec<usize> = match only {
            None => (0..2).filter(|&family| self.has(now, family)).collect(),
            Some(family @ 1..=2) if self.has(now, usize::from(family - 1)) => vec![usize::from(family - 1)],
            Some(_) => return (443, Duration::ZERO, false),
        };
        let granted = if asked == Some(0) {
            Duration::ZERO
        } else {
            lifetime(asked)
        };
        for gone in families {
            if asked == Some(0) {
                self.halves[gone] = None;
                self.permissions.retain(|&peer, _| family(peer) != gone);
                self.channels.retain(|_, (peer, _)| family(peer.ip()) != gone);
            } else if let Some((_, until)) = &mut self.halves[gone] {
                *until = now + granted;
            }
        }
        (0, granted, !self.lives(now))
    }

    /// A Send indication.
    pub(crate) fn send(&self, now: Duration, policy: Policy, peer: SocketAddr) -> Outward {
        if is_mapped(peer.ip()) || !self.is_permitted(now, peer.ip()) {
            return Outward::Nothing;
        }
        self.outward(now, policy, peer)
    }

    /// ChannelData.
    pub(crate) fn channel_data(&self, now: Duration, policy: Policy, number: u16) -> Outward {
        match self.channels.get(&number) {
            Some(&(peer, until)) if until > now => self.outward(now, policy, peer),
            _ => Outward::Nothing,
        }
    }

    fn outward(&self, now: Duration, policy: Policy, peer: SocketAddr) -> Outward {
        let Some((relayed, _)) = self.halves[family(peer.ip())].filter(|&(_, until)| until > now) else {
            return Outward::Nothing;
        };
        match policy.class(peer) {
            None => Outward::Nothing,
            Some(_) if peer == relayed => Outward::Nothing,
            Some(true) => Outward::Relayed(peer, relayed),
            Some(false) => Outward::Peer(peer, relayed),
        }
    }

    /// A datagram from `peer`.
    pub(crate) fn inward(&self, now: Duration, policy: Policy, peer: SocketAddr) -> Inward {
        let family = family(peer.ip());
        if !self.has(now, family) || !self.is_permitted(now, peer.ip()) || policy.class(peer).is_none() {
            return Inward::Nothing;
        }
        let bound = self
            .channels
            .iter()
            .find(|(_, (to, until))| *to == peer && *until > now);
        bound.map_or(Inward::Data, |(&number, _)| Inward::Channel(number))
    }
}
