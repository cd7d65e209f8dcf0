//! The peer policy: which peers clients may reach. It alone decides, for permissions, channels and
//! every datagram.
//!
//! A TURN server runs inside the operator's network and sends to addresses that unknown clients
//! choose (RFC 8656 §21.1.4, §21.4). So everything outside the public Internet is refused unless
//! the operator re-opens it. There is one canonicaliser and one table, and no second code path for
//! another notation of an address.
//!
//! Order of the checks: notations that are never accepted → sockets of this server and of the
//! servers behind it → `deny` and `allow`, the longer prefix wins → built-in table and own
//! addresses → ports. `allow` re-opens everything in the table, but not those sockets and not 6to4,
//! Teredo and IPv4-mapped peers. It re-opens an own address only if it names exactly that address:
//! a network opened for its media servers does not open the relay inside it. A relayed address of
//! this server (hairpin) is allowed whatever the lists say.
//!
//! Not here: host names (resolved before the configuration is built), permissions themselves, and
//! what currently uses a port of this machine. The policy only says what may be there
//! ([`PeerClass`]).

mod address;
mod table;
#[cfg(test)]
mod tests;

use core::fmt;
use core::ops::RangeInclusive;
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};

use super::types::PeerAddr;
use address::{Forms, NAT64_LENGTHS, is_mapped, is_transition};
use table::PrefixTable;
pub use table::{DENY_TABLE, Denied, REFLECTOR_PORTS};

/// The parts of a [`PeerPolicy`].
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// Re-opened ranges.
    pub allow: Vec<IpNet>,
    /// Ranges refused besides the built-in table. Against `allow` the longer prefix wins; of equal
    /// ones `deny`.
    pub deny: Vec<IpNet>,
    /// Clients may reach only `allow` and relayed addresses of this server.
    pub only_allowed: bool,
    /// Sockets of this server: listeners, admin. An unspecified address means every address of this
    /// machine.
    pub own: Vec<SocketAddr>,
    /// Destinations that lead to this machine: its addresses, the broadcast addresses of its
    /// networks, local routes.
    pub local: Vec<IpNet>,
    /// Servers that the front door forwards connections to. Their sockets and addresses are refused
    /// as our own are.
    pub backends: Vec<SocketAddr>,
    /// Servers that clients are redirected to. Their sockets are refused. Their addresses are peers
    /// like any other host's, because the relayed addresses of their clients are there; but a
    /// network in `allow` does not re-open them.
    pub redirects: Vec<SocketAddr>,
    /// Addresses that relay sockets are bound to, and the announced ones.
    pub relay_ips: Vec<IpAddr>,
    /// Ports of relayed transport addresses.
    pub relay_ports: RangeInclusive<u16>,
    /// NAT64 prefixes of this network (RFC 6052), besides the well-known ones.
    pub nat64: Vec<Ipv6Net>,
    /// Peer ports refused besides 0, also on allowed addresses. Does not apply between relayed
    /// addresses of this server.
    pub denied_ports: Vec<RangeInclusive<u16>>,
}

impl Default for PolicyConfig {
    /// Only the built-in table.
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            only_allowed: false,
            own: Vec::new(),
            local: Vec::new(),
            backends: Vec::new(),
            redirects: Vec::new(),
            relay_ips: Vec::new(),
            relay_ports: 49_152..=65_535,
            nat64: Vec::new(),
            denied_ports: REFLECTOR_PORTS.to_vec(),
        }
    }
}

/// Why a [`PolicyConfig`] is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// The length of this NAT64 prefix is not 32, 40, 48, 56, 64 or 96 bits (RFC 6052 §2.2).
    Nat64Length(Ipv6Net),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nat64Length(net) => {
                write!(
                    f,
                    "NAT64 prefix {net} must be 32, 40, 48, 56, 64 or 96 bits long (RFC 6052)"
                )
            }
        }
    }
}

impl core::error::Error for PolicyError {}

/// The kind of an allowed peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerClass {
    /// A host on the network: reached through the relay socket.
    Peer,
    /// A relayed transport address of this server, if an allocation has it: delivered in memory.
    Relayed,
    /// As [`Self::Relayed`]; without an allocation, a program of this machine that `allow` opens,
    /// reached through the relay socket.
    RelayedOrLocal,
    /// A program of this machine that `allow` opens, at an address without allocations. Never a
    /// socket of this server.
    Local,
}

/// The compiled policy. A check costs a few prefix look-ups and no heap allocation.
#[derive(Clone)]
pub struct PeerPolicy {
    allow: PrefixTable<()>,
    deny: PrefixTable<()>,
    table: PrefixTable<Denied>,
    only_allowed: bool,
    own: Vec<SocketAddr>,
    local: PrefixTable<()>,
    /// Addresses that `allow` re-opens only by naming the whole address.
    named: PrefixTable<()>,
    backends: Vec<SocketAddr>,
    redirects: Vec<SocketAddr>,
    relay_ips: Vec<IpAddr>,
    relay_ports: RangeInclusive<u16>,
    nat64: Vec<Ipv6Net>,
    denied_ports: Vec<RangeInclusive<u16>>,
}

impl PeerPolicy {
    /// Compiles `config`.
    ///
    /// # Errors
    /// If an entry has no meaning. A policy with a gap is never built.
    pub fn new(config: PolicyConfig) -> Result<Self, PolicyError> {
        let PolicyConfig {
            mut nat64,
            mut relay_ips,
            mut own,
            mut backends,
            mut redirects,
            ..
        } = config;
        if let Some(&net) = nat64.iter().find(|net| !NAT64_LENGTHS.contains(&net.prefix_len())) {
            return Err(PolicyError::Nat64Length(net));
        }
        nat64.sort_unstable_by_key(|net| core::cmp::Reverse(net.prefix_len()));
        for ip in &mut relay_ips {
            *ip = ip.to_canonical();
        }
        for addr in own.iter_mut().chain(&mut backends).chain(&mut redirects) {
            addr.set_ip(addr.ip().to_canonical());
        }

        let mut table = PrefixTable::new();
        for (net, why) in DENY_TABLE {
            // Every row parses: a test reads the whole table.
            if let Ok(net) = net.parse() {
                table.insert(net, *why);
            }
        }
        let (mut local, mut named) = (PrefixTable::new(), PrefixTable::new());
        for &net in &config.local {
            local.insert(net, ());
        }
        let single = relay_ips.iter().copied().chain(backends.iter().map(SocketAddr::ip));
        for net in single.map(IpNet::from).chain(config.local.iter().copied()) {
            let ip = net.addr();
            // Loopback and 0.0.0.0 have more specific reasons.
            if !ip.is_unspecified() && !ip.is_loopback() {
                table.insert(net, Denied::OwnAddress);
                named.insert(net, ());
            }
        }
        for redirect in &redirects {
            named.insert(redirect.ip().into(), ());
        }
        let mut allow = PrefixTable::new();
        config.allow.into_iter().for_each(|net| allow.insert(net, ()));
        let mut deny = PrefixTable::new();
        config.deny.into_iter().for_each(|net| deny.insert(net, ()));
        Ok(Self {
            allow,
            deny,
            table,
            only_allowed: config.only_allowed,
            own,
            local,
            named,
            backends,
            redirects,
            relay_ips,
            relay_ports: config.relay_ports,
            nat64,
            denied_ports: config.denied_ports,
        })
    }

    /// Whether a permission for `ip` may be installed (RFC 8656 §10.2; 403 otherwise). A permission
    /// has no port, so one for our relay address passes, and [`Self::peer`] decides which of its
    /// ports are reachable.
    ///
    /// # Errors
    /// The reason for the refusal.
    pub fn permission(&self, ip: IpAddr) -> Result<(), Denied> {
        refuse_spelling(ip)?;
        if self.relay_ips.contains(&ip) {
            return Ok(());
        }
        self.address(&Forms::of(ip, &self.nat64))
    }

    /// Whether application data may go to `peer`, and by which path.
    ///
    /// # Errors
    /// The reason for the refusal.
    pub fn peer(&self, peer: PeerAddr) -> Result<PeerClass, Denied> {
        let (ip, port) = (peer.0.ip(), peer.0.port());
        refuse_spelling(ip)?;
        let forms = Forms::of(ip, &self.nat64);
        if forms.all().any(|ip| self.is_own_socket(ip, port)) {
            return Err(Denied::OwnListener);
        }
        let is_relay = self.relay_ips.contains(&ip);
        match self.host(&forms, port) {
            Err(_) if is_relay && self.relay_ports.contains(&port) => Ok(PeerClass::Relayed),
            Err(why) => Err(why),
            Ok(()) if is_relay => Ok(PeerClass::RelayedOrLocal),
            Ok(()) if self.is_here(ip) => Ok(PeerClass::Local),
            Ok(()) => Ok(PeerClass::Peer),
        }
    }

    /// Whether `allow` opens `ip`, an address of this machine, to clients.
    pub fn opens(&self, ip: IpAddr) -> bool {
        refuse_spelling(ip).is_ok() && self.address(&Forms::of(ip, &self.nat64)).is_ok()
    }

    /// Checks the lists and the ports, without regard to our own sockets.
    fn host(&self, forms: &Forms, port: u16) -> Result<(), Denied> {
        self.address(forms)?;
        if port == 0 || self.denied_ports.iter().any(|range| range.contains(&port)) {
            return Err(Denied::Port);
        }
        Ok(())
    }

    /// Whether packets to `ip` stay on this machine.
    fn is_here(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified() || self.local.longest(ip).is_some() || self.relay_ips.contains(&ip)
    }

    /// Whether a client at `ip` may allocate and bind channels. Not from 6to4 or Teredo (RFC 8656
    /// §21.4).
    ///
    /// # Errors
    /// The reason for the refusal.
    pub fn client(&self, ip: IpAddr) -> Result<(), Denied> {
        match ip {
            IpAddr::V6(ip) if is_transition(ip) => Err(Denied::Transition),
            _ => Ok(()),
        }
    }

    /// The address as written and every address embedded in it must pass.
    fn address(&self, forms: &Forms) -> Result<(), Denied> {
        let listed = self.one_address(forms.wire)?;
        for ip in forms.embedded.iter().map(|&ip| ip.into()) {
            // This machine is reachable only by its own addresses, for which we know what is ours.
            if self.is_here(ip) || self.one_address(ip).is_err() {
                return Err(Denied::Embedded);
            }
        }
        if self.only_allowed && !listed {
            return Err(Denied::NotAllowed);
        }
        Ok(())
    }

    /// `Ok(true)`: on the allow list. `Ok(false)`: on no list.
    fn one_address(&self, ip: IpAddr) -> Result<bool, Denied> {
        match (self.allowed(ip), self.deny.longest(ip)) {
            (Some((allow, ())), Some((deny, ()))) if allow > deny => Ok(true),
            (_, Some(_)) => Err(Denied::Configured),
            (Some(_), None) => Ok(true),
            (None, None) => self.table.longest(ip).map_or(Ok(false), |(_, why)| Err(why)),
        }
    }

    /// The longest prefix of `allow` that opens `ip`.
    fn allowed(&self, ip: IpAddr) -> Option<(u8, ())> {
        let whole = IpNet::from(ip).prefix_len();
        let least = if ip.is_loopback() {
            // A network within loopback contains only this machine, so naming it is deliberate.
            if ip.is_ipv4() { LOOPBACK_LENGTH } else { whole }
        } else if ip.is_unspecified() || self.named.longest(ip).is_some() {
            whole
        } else {
            0
        };
        self.allow.longest(ip).filter(|&(length, ())| length >= least)
    }

    fn is_own_socket(&self, ip: IpAddr, port: u16) -> bool {
        let is_here = self.is_here(ip);
        let own = self.own.iter().any(|own| {
            // Announced addresses lead here through a 1:1 NAT; 0.0.0.0 and :: connect to the
            // machine itself.
            own.port() == port
                && (own.ip() == ip
                    || ip.is_unspecified()
                    || self.relay_ips.contains(&ip)
                    || (own.ip().is_unspecified() && is_here))
        });
        // A server on this machine may listen on all of its addresses, so every one of them reaches
        // it.
        let backend = |at: &SocketAddr| at.port() == port && (at.ip() == ip || (is_here && self.is_here(at.ip())));
        own || self.backends.iter().any(backend) || self.redirects.contains(&SocketAddr::new(ip, port))
    }
}

/// 127.0.0.0/8. For IPv6, loopback is a single address.
const LOOPBACK_LENGTH: u8 = 8;

/// Refuses notations that stand for another address and that no setting re-opens.
fn refuse_spelling(ip: IpAddr) -> Result<(), Denied> {
    match ip {
        IpAddr::V6(ip) if is_mapped(ip) => Err(Denied::Embedded),
        IpAddr::V6(ip) if is_transition(ip) => Err(Denied::Transition),
        _ => Ok(()),
    }
}

impl fmt::Debug for PeerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPolicy")
            .field("only_allowed", &self.only_allowed)
            .field("own", &self.own)
            .field("relay_ips", &self.relay_ips)
            .field("relay_ports", &self.relay_ports)
            .finish_non_exhaustive()
    }
}
