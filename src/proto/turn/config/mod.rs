//! What the core must be told. An immutable snapshot: a reload hands every shard a new one whole.

pub mod discovery;
pub mod forced;
pub mod limits;
pub mod redirect;

use core::ops::RangeInclusive;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use self::discovery::Discovery;
use self::forced::ForcedRelay;
use super::login::credential::Credentials;
use super::login::nonce::NonceKey;
use super::policy::PeerPolicy;
use crate::base::address::Family;
use limits::Limits;
use redirect::Redirect;

/// The core's configuration. Defaults and units of each value: `docs/configuration.md`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The one realm of this server.
    pub realm: String,
    /// SOFTWARE in responses over TCP, TLS and DTLS; never sent over UDP (reflection). `None`: withheld.
    pub software: Option<String>,
    /// Who may allocate.
    pub credentials: Arc<Credentials>,
    /// Which peers may be reached.
    pub policy: Arc<PeerPolicy>,
    /// Where relayed transport addresses come from.
    pub relay: RelayConfig,
    /// Whether plain Binding requests are answered.
    pub binding: bool,
    /// Whether RFC 3489 Binding requests over UDP are answered too.
    pub rfc3489_binding: bool,
    /// Who may allocate on some listeners only, and on which.
    pub forced: ForcedRelay,
    /// Offer PASSWORD-ALGORITHMS (SHA-256) in challenges; [`Challenge`] says on which transports.
    pub challenge: Challenge,
    /// Which clients are sent ICMP messages about their relayed datagrams.
    pub icmp: IcmpReports,
    /// How long a nonce is good.
    pub nonce_lifetime: Duration,
    /// Issues nonces in place of the newest secret's key.
    pub nonce_key: Option<NonceKey>,
    /// LIFETIME given when none, or less, was asked for (RFC 8656 §7.2: 600 s).
    pub default_lifetime: Duration,
    /// Longest LIFETIME given (3600 s recommended).
    pub max_lifetime: Duration,
    /// A session is not refreshed beyond this age. `None`: no cap.
    pub max_session: Option<Duration>,
    /// RFC 8016. `None`: who asks for a ticket is answered 405.
    pub mobility: Option<Mobility>,
    /// Channel numbers up to 0x7FFF for RFC 5766 clients (design decision D6).
    pub rfc5766_channels: bool,
    /// Where clients go instead of allocating here.
    pub redirect: Redirect,
    /// Where NATs' behaviour can be found out. `None`: nowhere.
    pub discovery: Option<Arc<Discovery>>,
    /// TCP allocations (RFC 6062). `None`: this server knows nothing of them.
    pub tcp: Option<TcpConfig>,
    /// Everything a client can make grow.
    pub limits: Limits,
}

impl Config {
    /// What [`Config`] holds where nothing else is configured, for these credentials, peers and relayed addresses.
    pub fn new(realm: String, credentials: Arc<Credentials>, policy: Arc<PeerPolicy>, relay: RelayConfig) -> Self {
        Self {
            realm,
            software: None,
            credentials,
            policy,
            relay,
            binding: true,
            rfc3489_binding: false,
            forced: ForcedRelay::default(),
            challenge: Challenge::Full,
            icmp: IcmpReports::Auto,
            nonce_lifetime: Duration::from_secs(600),
            nonce_key: None,
            default_lifetime: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(3600),
            max_session: None,
            mobility: None,
            rfc5766_channels: false,
            redirect: Redirect::default(),
            discovery: None,
            tcp: None,
            limits: Limits::default(),
        }
    }

    /// The keys of nonces, the issuing one first. None: the process makes do with its own.
    pub fn nonce_keys(&self) -> impl Iterator<Item = &NonceKey> {
        self.nonce_key.iter().chain(self.credentials.nonce_keys())
    }
}

/// Allocations that move with their clients (RFC 8016).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mobility {
    /// How long an allocation with a ticket outlives its client's stream; never longer than its lifetime.
    pub grace: Duration,
}

/// TCP allocations (RFC 6062). A server that opens TCP connections for its clients is a proxy to whatever the peer
/// policy lets through, hence the bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Ports a peer may have, whoever of the two connects.
    pub peer_ports: Vec<RangeInclusive<u16>>,
    /// Peer connections of one allocation at a time (508).
    pub connections_per_allocation: u16,
    /// Peer connections in all (508).
    pub connections: u32,
    /// Bytes one connection relays in both directions together before it is closed. `None`: no bound.
    pub max_bytes: Option<u64>,
}

/// How much a 401 over UDP says (size is reflection gain; design decision D4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// RFC 8489 everywhere: nonce cookie and PASSWORD-ALGORITHMS.
    Full,
    /// RFC 8489 on TCP, TLS and DTLS; plain RFC 5389 on UDP.
    CompactUdp,
    /// RFC 5389 everywhere.
    Compact,
}

/// Who is sent Data indications with ICMP (RFC 8656 §11.5). RFC 5766 had none, and clients of that age may not survive one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpReports {
    /// Clients whose login used PASSWORD-ALGORITHM or USERHASH.
    Auto,
    /// Every client.
    Always,
    /// Nobody.
    Never,
}

/// Relayed transport addresses.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// IPv4, if served.
    pub ipv4: Option<RelayAddress>,
    /// IPv6, if served.
    pub ipv6: Option<RelayAddress>,
    /// Ports to draw from; never below 1024.
    pub ports: RangeInclusive<u16>,
    /// How far the ports that clients and peers are told lie above the bound ones, where a NAT maps ports as well. Even, for
    /// EVEN-PORT's sake, and such that all of them are port numbers.
    pub port_shift: i32,
}

impl RelayConfig {
    /// What clients and peers are told of the relay socket bound to `port`, which is one of `ports`.
    pub fn announced(&self, address: RelayAddress, port: u16) -> SocketAddr {
        SocketAddr::new(address.announced, self.shifted(port))
    }

    /// IP addresses on which `announced_ports` are relayed transport addresses: those announced, and, where ports are not
    /// mapped, those bound. 0.0.0.0 stands for none.
    pub fn own_ips(&self) -> impl Iterator<Item = IpAddr> {
        let mapped = self.port_shift != 0;
        let addresses = [self.ipv4, self.ipv6].into_iter().flatten();
        let ips = addresses.flat_map(move |address| [Some(address.announced), Some(address.bind).filter(|_| !mapped)]);
        ips.flatten().filter(|ip| !ip.is_unspecified())
    }

    /// Sets the address of `family`.
    pub const fn set(&mut self, family: Family, address: Option<RelayAddress>) {
        match family {
            Family::V4 => self.ipv4 = address,
            Family::V6 => self.ipv6 = address,
        }
    }

    /// The port a relay socket is bound to that is announced with `port`.
    pub fn bound_port(&self, port: u16) -> u16 {
        u16::try_from(i32::from(port) - self.port_shift).unwrap_or(port)
    }

    /// All ports that are announced.
    pub fn announced_ports(&self) -> RangeInclusive<u16> {
        self.shifted(*self.ports.start())..=self.shifted(*self.ports.end())
    }

    fn shifted(&self, port: u16) -> u16 {
        // That it is a port is what `port_shift` promises.
        u16::try_from(i32::from(port) + self.port_shift).unwrap_or(port)
    }

    /// The address of `family`, if served.
    pub fn of(&self, family: Family) -> Option<RelayAddress> {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }
}

/// One relay IP address: the one bound here and the one clients and peers are told (1:1 NAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// Local address to bind.
    pub bind: IpAddr,
    /// Address in XOR-RELAYED-ADDRESS.
    pub announced: IpAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(bind: &str, announced: &str) -> Option<RelayAddress> {
        let (bind, announced) = (bind.parse().unwrap(), announced.parse().unwrap());
        Some(RelayAddress { bind, announced })
    }

    #[test]
    fn where_a_nat_maps_ports_relay_ports_mean_nothing_on_the_addresses_inside() {
        let mut relay = RelayConfig {
            ipv4: None,
            ipv6: None,
            ports: 50_000..=50_399,
            port_shift: 0,
        };
        relay.set(Family::V4, address("10.1.2.3", "203.0.113.9"));
        relay.set(Family::V6, address("::", "2001:db8::9"));
        let ips = |relay: &RelayConfig| relay.own_ips().map(|ip| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(ips(&relay), ["203.0.113.9", "10.1.2.3", "2001:db8::9"]);
        relay.port_shift = -30_000;
        assert_eq!(ips(&relay), ["203.0.113.9", "2001:db8::9"]);
        relay.set(Family::V4, None);
        assert_eq!(ips(&relay), ["2001:db8::9"]);
    }
}
