//! Finds the external address of a family. The server asks at start, at every reload, and at an
//! interval between, because addresses of machines, names and NATs change.

use core::time::Duration;
use std::net::IpAddr;

use super::network::{Interface, is_private};
use crate::base::address::Family;
use crate::machine::Machine;
use crate::turn::config::{RelayAddress, RelayConfig};

/// Where an address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The address of this machine, from its routes and interfaces.
    Auto,
    /// Configured.
    Fixed(IpAddr),
    /// The address of a network interface.
    Interface(String),
    /// The address of a host name.
    Name(String),
    /// The address that this STUN server sees.
    Stun {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// A local address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// Configured.
    Ip(IpAddr),
    /// The address of a host name, such as Fly.io's `fly-global-services`.
    Name(String),
}

/// How the address of one family is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which family.
    pub family: Family,
    /// Where its address comes from.
    pub source: AddressSource,
    /// The configured address that relay sockets are bound to.
    pub bind: Option<Local>,
    /// How long to wait for a STUN server.
    pub stun_timeout: Duration,
}

/// The host that clients use to reach a server without a name.
pub fn announced_host(relay: &RelayConfig) -> String {
    let address = relay.ipv4.or(relay.ipv6);
    address.map_or_else(|| "localhost".to_owned(), |address| address.announced.to_string())
}

/// An address, and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAddress {
    /// The bound address and the announced one.
    pub address: RelayAddress,
    /// The origin, for the log: "as configured".
    pub how: String,
    /// The address is private, and not configured as such.
    pub private: bool,
}

/// Why no address was found, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// Begins with the key: "`external.ipv4`: …".
    pub message: String,
    /// What the operator does.
    pub help: String,
}

impl core::fmt::Display for NotFound {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}; {}", self.message, self.help)
    }
}

impl Plan {
    /// Whether the address can change while the server runs.
    pub fn follows(&self) -> bool {
        !matches!(self.source, AddressSource::Fixed(_)) || matches!(self.bind, Some(Local::Name(_)))
    }

    /// Finds the address. `Ok(None)`: this machine does not have this family, and the configuration
    /// does not ask for it.
    ///
    /// # Errors
    /// When the configured source gives no address.
    pub fn find(&self, machine: &dyn Machine) -> Result<Option<FoundAddress>, NotFound> {
        let bind = self.bind(machine)?;
        match &self.source {
            AddressSource::Auto => self.auto(bind, machine),
            AddressSource::Fixed(ip) => {
                let bind = self.local(*ip, bind, machine)?;
                let help = format!("set `relay.{}` to the local address to relay from", key(self.family));
                let message = || {
                    format!(
                        "`external.{}` is set, but this machine has no {} address",
                        key(self.family),
                        name(self.family)
                    )
                };
                let bind = bind.ok_or_else(|| NotFound {
                    message: message(),
                    help,
                })?;
                Ok(Some(found(bind, *ip, "as configured".into())))
            }
            AddressSource::Interface(interface) => self.interface(interface, bind, machine).map(Some),
            AddressSource::Name(host) => self.name(host, bind, machine).map(Some),
            AddressSource::Stun { host, port } => self.stun(host, *port, bind, machine).map(Some),
        }
    }

    /// The configured address that relay sockets are bound to.
    fn bind(&self, machine: &dyn Machine) -> Result<Option<IpAddr>, NotFound> {
        let host = match &self.bind {
            None => return Ok(None),
            Some(Local::Ip(ip)) => return Ok(Some(*ip)),
            Some(Local::Name(host)) => host,
        };
        let none = |why: String| NotFound {
            message: format!("`relay.{}`: {why}", key(self.family)),
            help: "correct the name, or set an address of this machine".to_owned(),
        };
        let all = machine.resolve(host, 0);
        let all = all.map_err(|error| none(format!("cannot look up {host}: {error}")))?;
        let ip = all
            .iter()
            .map(|it| it.ip())
            .filter(|ip| Family::of(*ip) == self.family)
            .min();
        let ip = ip.ok_or_else(|| none(format!("{host} has no {} address", name(self.family))))?;
        Some(ip)
            .filter(|ip| machine.can_bind(*ip))
            .ok_or_else(|| none(format!("{host} is {ip}, which is not an address of this machine")))
            .map(Some)
    }

    fn auto(&self, bind: Option<IpAddr>, machine: &dyn Machine) -> Result<Option<FoundAddress>, NotFound> {
        let specific = bind.filter(|ip| !ip.is_unspecified());
        let own = match specific {
            Some(ip) => Some((ip, format!("as `relay.{}`", key(self.family)))),
            None => self.own(machine)?,
        };
        Ok(own.map(|(announced, how)| FoundAddress {
            private: is_private(announced),
            ..found(bind.unwrap_or(announced), announced, how)
        }))
    }

    fn interface(&self, wanted: &str, bind: Option<IpAddr>, machine: &dyn Machine) -> Result<FoundAddress, NotFound> {
        let all = self.interfaces(machine)?;
        let mut of_it = all.iter().filter(|interface| interface.name == wanted);
        if let Some(one) = of_it.find(|interface| usable(self.family, interface.ip)) {
            return Ok(found(bind.unwrap_or(one.ip), one.ip, format!("address of {wanted}")));
        }
        let mut names: Vec<&str> = all.iter().map(|interface| interface.name.as_str()).collect();
        names.dedup();
        let help = if names.contains(&wanted) {
            format!("set it to \"off\" if {wanted} is not to have one")
        } else {
            format!("this machine has {}", names.join(", "))
        };
        Err(self.fail(
            format!("the interface {wanted} has no {} address", name(self.family)),
            &help,
        ))
    }

    fn name(&self, host: &str, bind: Option<IpAddr>, machine: &dyn Machine) -> Result<FoundAddress, NotFound> {
        let help = "check the name's A and AAAA records, or set the address itself";
        let all = machine.resolve(host, 0);
        let all = all.map_err(|error| self.fail(format!("cannot look up {host}: {error}"), help))?;
        // A name may have several addresses; choose the same one each time.
        let of_family = all.iter().map(|it| it.ip()).filter(|ip| Family::of(*ip) == self.family);
        let Some(announced) = of_family.min() else {
            return Err(self.fail(format!("{host} has no {} address", name(self.family)), help));
        };
        let bind = self.local(announced, bind, machine)?;
        let none = || {
            self.fail(
                format!("this machine has no {} address to relay from", name(self.family)),
                help,
            )
        };
        Ok(found(bind.ok_or_else(none)?, announced, format!("address of {host}")))
    }

    fn stun(
        &self,
        host: &str,
        port: u16,
        bind: Option<IpAddr>,
        machine: &dyn Machine,
    ) -> Result<FoundAddress, NotFound> {
        let help = "check the server's name and that firewalls pass UDP to it, or set the address itself";
        let fail = |why: String| self.fail(why, help);
        let all = machine.resolve(host, port);
        let all = all.map_err(|error| fail(format!("cannot look up {host}: {error}")))?;
        let Some(server) = all.into_iter().find(|address| Family::of(address.ip()) == self.family) else {
            return Err(fail(format!("{host} has no {} address", name(self.family))));
        };
        let bind = match bind {
            None => self.own(machine)?.map(|own| own.0),
            given => given,
        };
        let Some(bind) = bind else {
            return Err(fail(format!(
                "this machine has no {} address to ask from",
                name(self.family)
            )));
        };
        match machine.ask_stun(server, bind, self.stun_timeout) {
            Ok(announced) if Family::of(announced) == self.family => Ok(found(
                bind,
                announced,
                format!("as the STUN server {host}:{port} sees it"),
            )),
            Ok(other) => Err(fail(format!("{host} answered with {other}"))),
            Err(error) => Err(fail(format!("the STUN server {host}:{port} ({server}): {error}"))),
        }
    }

    fn interfaces(&self, machine: &dyn Machine) -> Result<Vec<Interface>, NotFound> {
        let read = machine.interfaces();
        read.map_err(|error| {
            self.fail(
                format!("the addresses of this machine cannot be read: {error}"),
                "let the server use netlink (AF_NETLINK)",
            )
        })
    }

    /// The address to bind to for a configured `announced`: `bind` if it is configured; `announced`
    /// if this machine has it (it has all of 127/8, although no interface lists it); else the
    /// machine's own address.
    fn local(
        &self,
        announced: IpAddr,
        bind: Option<IpAddr>,
        machine: &dyn Machine,
    ) -> Result<Option<IpAddr>, NotFound> {
        if bind.is_some() {
            return Ok(bind);
        }
        let is_here = announced.is_loopback() || self.interfaces(machine)?.iter().any(|it| it.ip == announced);
        if is_here {
            return Ok(Some(announced));
        }
        Ok(self.own(machine)?.map(|own| own.0))
    }

    /// This machine's own address: the source of the default route, else that of any interface.
    fn own(&self, machine: &dyn Machine) -> Result<Option<(IpAddr, String)>, NotFound> {
        let interfaces = self.interfaces(machine)?;
        if let Some(ip) = machine.route_source(self.family).filter(|ip| usable(self.family, *ip)) {
            let name = interfaces.iter().find(|interface| interface.ip == ip);
            let name = name.map_or("", |interface| &interface.name);
            let how = format!("address of the default route's interface {name}");
            return Ok(Some((ip, how.trim_end().to_owned())));
        }
        let interface = interfaces
            .into_iter()
            .find(|interface| usable(self.family, interface.ip));
        Ok(interface.map(|interface| {
            let how = format!("address of {}; there is no default route", interface.name);
            (interface.ip, how)
        }))
    }

    fn fail(&self, why: String, help: &str) -> NotFound {
        NotFound {
            message: format!("`external.{}`: {why}", key(self.family)),
            help: help.to_owned(),
        }
    }
}

fn found(bind: IpAddr, announced: IpAddr, how: String) -> FoundAddress {
    FoundAddress {
        address: RelayAddress { bind, announced },
        how,
        private: false,
    }
}

/// As in the configuration's keys.
pub const fn key(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// For logs and errors.
const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn usable(family: Family, ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    Family::of(ip) == family && !ip.is_loopback() && !ip.is_unspecified() && !link_local
}
