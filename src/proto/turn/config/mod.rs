//! Configuration of the protocol core. An immutable snapshot: a reload gives every shard a complete
//! new one.

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
    /// SOFTWARE in responses over TCP, TLS and DTLS; never sent over UDP (reflection). `None`:
    /// withheld.
    pub software: Option<String>,
    /// Who may allocate.
    pub credentials: Arc<Credentials>,
    /// Which peers clients may reach.
    pub policy: Arc<PeerPolicy>,
    /// Where relayed transport addresses come from.
    pub relay: RelayConfig,
    /// Whether the server answers plain Binding requests.
    pub binding: bool,
    /// Whether the server also answers RFC 3489 Binding requests over UDP.
    pub rfc3489_binding: bool,
    /// Which logins may allocate on some listeners only, and on which.
    pub forced: ForcedRelay,
    /// Offer PASSWORD-ALGORITHMS (SHA-256) in challenges; [`Challenge`] says on which transports.
    pub challenge: Challenge,
    /// Which clients get ICMP messages about their relayed datagrams.
    pub icmp: IcmpReports,
    /// How long a nonce is valid.
    pub nonce_lifetime: Duration,
    /// Issues nonces instead of the newest secret's key.
    pub nonce_key: Option<NonceKey>,
    /// LIFETIME granted if the client requests none or less (RFC 8656 §7.2: 600 s).
    pub default_lifetime: Duration,
    /// Longest LIFETIME granted (3600 s recommended).
    pub max_lifetime: Duration,
    /// Age beyond which a session is not refreshed. `None`: no limit.
    pub max_session: Option<Duration>,
    /// RFC 8016. `None`: a request for a ticket gets 405.
    pub mobility: Option<Mobility>,
    /// Channel numbers up to 0x7FFF for RFC 5766 clients (design decision D6).
    pub rfc5766_channels: bool,
    /// Where clients go instead of allocating on this server.
    pub redirect: Redirect,
    /// NAT behaviour discovery (RFC 5780). `None`: off.
    pub discovery: Option<Arc<Discovery>>,
    /// TCP allocations (RFC 6062). `None`: off, and their attributes and methods are unknown.
    pub tcp: Option<TcpConfig>,
    /// Bounds on everything that a client can make grow.
    pub limits: Limits,
}

impl Config {
    /// The default configuration with these credentials, peers and relayed addresses.
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

    /// The keys of nonces, the issuing one first. If there are none, the process uses its own.
    pub fn nonce_keys(&self) -> impl Iterator<Item = &NonceKey> {
        self.nonce_key.iter().chain(self.credentials.nonce_keys())
    }
}

/// Allocations that move with their clients (RFC 8016).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mobility {
    /// How long an allocation with a ticket survives after its client's stream has closed; never
    /// longer than its lifetime.
    pub grace: Duration,
}

/// TCP allocations (RFC 6062). A server that opens TCP connections for its clients is a proxy to
/// everything that the peer policy allows, hence the bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Ports that a peer may have, whichever side connects.
    pub peer_ports: Vec<RangeInclusive<u16>>,
    /// Peer connections of one allocation at a time (508).
    pub connections_per_allocation: u16,
    /// Peer connections in total (508).
    pub connections: u32,
    /// Bytes that one connection may relay, both directions together, before the server closes it.
    /// `None`: no limit.
    pub max_bytes: Option<u64>,
}

/// How much a 401 over UDP contains, because its size is the gain of a reflection attack (design
/// decision D4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// RFC 8489 everywhere: nonce cookie and PASSWORD-ALGORITHMS.
    Full,
    /// RFC 8489 on TCP, TLS and DTLS; plain RFC 5389 on UDP.
    CompactUdp,
    /// RFC 5389 everywhere.
    Compact,
}

/// Which clients get Data indications with ICMP (RFC 8656 §11.5). RFC 5766 had none, and clients of
/// that age may crash on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpReports {
    /// Clients whose login used PASSWORD-ALGORITHM or USERHASH.
    Auto,
    /// Every client.
    Always,
    /// No client.
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
    /// The offset from bound ports to announced ports, for a NAT that also maps ports. Even,
    /// because of EVEN-PORT, and such that all results are port numbers.
    pub port_shift: i32,
}

impl RelayConfig {
    /// The announced address of the relay socket bound to `port`, which is one of `ports`.
    pub fn announced(&self, address: RelayAddress, port: u16) -> SocketAddr {
        SocketAddr::new(address.announced, self.shifted(port))
    }

    /// The IP addresses on which `announced_ports` are relayed transport addresses: the announced
    /// ones and, unless ports are mapped, the bound ones. 0.0.0.0 yields none.
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

    /// The bound port of the relay socket whose announced port is `port`.
    pub fn bound_port(&self, port: u16) -> u16 {
        u16::try_from(i32::from(port) - self.port_shift).unwrap_or(port)
    }

    /// All announced ports.
    pub fn announced_ports(&self) -> RangeInclusive<u16> {
        self.shifted(*self.ports.start())..=self.shifted(*self.ports.end())
    }

    fn shifted(&self, port: u16) -> u16 {
        // `port_shift` guarantees that the sum is a port.
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

/// One relay IP address: the bound one and the announced one (1:1 NAT).
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
