//! Addresses, networks and ports.

use core::ops::RangeInclusive;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::super::document::{Node, Value};
use super::bind::{Bind, BindHost, is_host_name};
use super::{Mistake, Setting, expected, foreign, quoted, text_of};
use crate::config::settings::BackendAddress;

/// An IP network; a bare address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct NetworkOrAddress(pub(in crate::config) IpNet);

impl Setting for NetworkOrAddress {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let text = text_of(node).unwrap_or("").trim();
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(ip)));
        }
        match text.parse::<IpNet>() {
            Ok(net) if net.trunc() == net => Ok(Self(net)),
            Ok(net) => Err(vec![
                Mistake::new(node, format!("{text:?} has bits set behind its prefix length")).help(format!(
                    "write \"{}\" for the network, or \"{}\" for the one address",
                    net.trunc(),
                    net.addr()
                )),
            ]),
            Err(_) => {
                let wrong = expected(
                    node,
                    "an IP network",
                    "\"10.0.8.0/24\", \"2001:db8:8::/48\" or \"10.0.8.7\"",
                );
                match foreign::network(text) {
                    Some(help) => wrong.map_err(|mistakes: Vec<Mistake>| {
                        mistakes.into_iter().map(|mistake| mistake.help(help.clone())).collect()
                    }),
                    None => wrong,
                }
            }
        }
    }

    fn words() -> String {
        "network".into()
    }

    fn show(&self) -> String {
        let whole = self.0.prefix_len() == self.0.max_prefix_len();
        quoted(&if whole {
            self.0.addr().to_string()
        } else {
            self.0.to_string()
        })
    }
}

/// `first-last`, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Ports(pub(in crate::config) RangeInclusive<u16>);

impl Ports {
    /// How many there are.
    pub(in crate::config) fn count(&self) -> u32 {
        u32::from(*self.0.end()) - u32::from(*self.0.start()) + 1
    }
}

impl Setting for Ports {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let text = text_of(node).unwrap_or("");
        let Some((first, last)) = text.split_once('-') else {
            return expected(node, "a range of ports", "\"49152-65535\"");
        };
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self(first..=last)),
            (Ok(first), Ok(last)) => Err(vec![
                Mistake::new(node, "the range of ports runs backwards").help(format!("write \"{last}-{first}\"")),
            ]),
            _ => expected(node, "a range of ports from 1024 to 65535", "\"49152-65535\""),
        }
    }

    fn words() -> String {
        "`\"first-last\"`".into()
    }

    fn show(&self) -> String {
        quoted(&format!("{}-{}", self.0.start(), self.0.end()))
    }
}

/// A port number other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Port(pub(in crate::config) u16);

impl Setting for Port {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let number = match &node.value {
            Value::Integer(Some(number)) => u16::try_from(*number).ok(),
            _ => node.raw.as_deref().and_then(|raw| raw.parse().ok()),
        };
        if let Value::Text(text) = &node.value
            && let Some(port) = text.trim().parse::<u16>().ok().filter(|port| *port != 0)
            && number.is_none()
        {
            let mistake = Mistake::new(node, format!("expected a port, found the text {text:?}"));
            return Err(vec![mistake.help(format!("leave the quotes away: {port}"))]);
        }
        number
            .filter(|n| *n != 0)
            .map_or_else(|| expected(node, "a port from 1 to 65535", "3478"), |n| Ok(Self(n)))
    }

    fn words() -> String {
        "port".into()
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Setting for SocketAddr {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let text = text_of(node).unwrap_or("").trim().replace("localhost:", "127.0.0.1:");
        match text.parse::<Self>() {
            Ok(addr) if addr.port() != 0 => Ok(addr),
            _ => expected(node, "an IP address with a port", "\"127.0.0.1:13478\""),
        }
    }

    fn words() -> String {
        "`\"ip:port\"`".into()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for IpAddr {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let text = text_of(node).unwrap_or("").trim();
        text.parse()
            .or_else(|_| expected(node, "an IP address", "\"192.0.2.1\""))
    }

    fn words() -> String {
        "address".into()
    }

    fn plural() -> String {
        "addresses".into()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// An address of this machine, or a name for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Setting for Host {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let text = text_of(node).unwrap_or("").trim();
        match text.parse() {
            Ok(ip) => Ok(Self::Ip(ip)),
            Err(_) if is_host_name(text) => Ok(Self::Name(text.to_owned())),
            Err(_) => expected(node, "an IP address or a host name", "\"192.0.2.1\""),
        }
    }

    fn words() -> String {
        "address, host name".into()
    }

    fn show(&self) -> String {
        match self {
            Self::Ip(ip) => ip.show(),
            Self::Name(name) => quoted(name),
        }
    }
}

impl Setting for Bind {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let number = match &node.value {
            Value::Integer(Some(number)) => number.to_string(),
            _ => String::new(),
        };
        let text = text_of(node).unwrap_or(&number).trim();
        let example = "\"*:443\", \"192.0.2.1:3478\", \"[2001:db8::1]:3478\" or \"turn.example.org:3478\"";
        let bad = || {
            let wrong = expected(node, "an address with a port", example);
            let help = match &node.value {
                Value::List(_) => Some("write a `[[listener]]` of its own for each address".to_owned()),
                _ => foreign::bind(text),
            };
            match help {
                Some(help) => wrong.map_err(|mistakes: Vec<Mistake>| {
                    mistakes.into_iter().map(|mistake| mistake.help(help.clone())).collect()
                }),
                None => wrong,
            }
        };
        let Some((host, port)) = text.rsplit_once(':') else {
            return bad();
        };
        let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0) else {
            return bad();
        };
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => match inner.parse() {
                Ok(ip) => BindHost::Ip(IpAddr::V6(ip)),
                Err(_) => return bad(),
            },
            None if host == "*" => BindHost::Any,
            None if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                let mistake = Mistake::new(node, "an IPv6 address before a port stands in brackets");
                return Err(vec![mistake.help(format!("write \"[{host}]:{port}\""))]);
            }
            // What other programs write for every address.
            None if host == "0" => return bad(),
            None => match host.parse() {
                Ok(ip) => BindHost::Ip(ip),
                Err(_) if is_host_name(host) => BindHost::Name(host.to_owned()),
                Err(_) => return bad(),
            },
        };
        Ok(Self { host, port })
    }

    fn words() -> String {
        "`\"host:port\"`".into()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A server behind this one: `127.0.0.1:8443`, `web.internal:443`.
impl Setting for BackendAddress {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let (host, port) = match Bind::read(node) {
            Ok(Bind {
                host: BindHost::Ip(ip),
                port,
            }) if !ip.is_unspecified() => (ip.to_string(), port),
            Ok(Bind {
                host: BindHost::Name(name),
                port,
            }) => (name, port),
            _ => {
                return expected(
                    node,
                    "host and port of one server",
                    "\"127.0.0.1:8443\" or \"web.internal:443\"",
                );
            }
        };
        Ok(Self { host, port })
    }

    fn words() -> String {
        "`\"host:port\"`".into()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A name in a ClientHello, in lower case; `*.` stands for one label in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct ServerName(pub(in crate::config) String);

impl Setting for ServerName {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let text = text_of(node).unwrap_or("").trim().to_ascii_lowercase();
        let name = text.strip_prefix("*.").unwrap_or(&text);
        if is_host_name(name) && !name.ends_with('.') {
            return Ok(Self(text));
        }
        expected(node, "a host name", "\"www.example.org\" or \"*.example.org\"")
    }

    fn words() -> String {
        "name".into()
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// The address clients are told, of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum External {
    /// That of the interface the default route uses.
    Auto,
    Fixed(IpAddr),
    /// That of this network interface.
    Interface(String),
    /// That of this host name.
    Name(String),
    /// What this STUN server sees.
    Stun {
        host: String,
        port: u16,
    },
    /// No relaying over this family.
    Off,
}

impl Setting for External {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let text = text_of(node).unwrap_or("").trim();
        match text {
            "auto" => return Ok(Self::Auto),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Fixed(ip));
        }
        if let Some(name) = text.strip_prefix("interface:").filter(|name| is_interface_name(name)) {
            return Ok(Self::Interface(name.to_owned()));
        }
        // Without a dot it is a word misspelt, sooner than a name.
        let name = text
            .strip_prefix("dns:")
            .or(Some(text).filter(|text| text.contains('.')));
        if let Some(name) = name.filter(|name| is_host_name(name)) {
            return Ok(Self::Name(name.to_owned()));
        }
        if let Some(help) = foreign::external(text) {
            let mistake = Mistake::new(node, format!("expected one address, found {text:?}"));
            return Err(vec![mistake.help(help)]);
        }
        let what = "\"auto\", an IP address, \"interface:name\", a host name, \"stun:host:port\" or \"off\"";
        let Some(server) = text.strip_prefix("stun:") else {
            return expected(node, what, "\"203.0.113.5\"");
        };
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.starts_with('[') => (host, port.parse().ok()),
            Some(_) | None => (server, Some(3478)),
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        match port.filter(|port| *port != 0) {
            Some(port) if is_host_name(bare) || bare.parse::<IpAddr>().is_ok() => Ok(Self::Stun {
                host: bare.to_owned(),
                port,
            }),
            _ => expected(node, what, "\"stun:stun.example.org:3478\""),
        }
    }

    fn words() -> String {
        "`\"auto\"`, address, `\"interface:NAME\"`, host name, `\"stun:host:port\"`, `\"off\"`".into()
    }

    fn show(&self) -> String {
        quoted(&match self {
            Self::Auto => "auto".into(),
            Self::Off => "off".into(),
            Self::Fixed(ip) => ip.to_string(),
            Self::Interface(name) => format!("interface:{name}"),
            Self::Name(name) => format!("dns:{name}"),
            Self::Stun { host, port } if host.contains(':') => format!("stun:[{host}]:{port}"),
            Self::Stun { host, port } => format!("stun:{host}:{port}"),
        })
    }
}

/// As Linux allows them (IFNAMSIZ).
fn is_interface_name(text: &str) -> bool {
    (1..16).contains(&text.len()) && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
}

/// One port, or `"first-last"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct PortOrPorts(pub(in crate::config) RangeInclusive<u16>);

impl Setting for PortOrPorts {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match Port::read(node) {
            Ok(Port(port)) => Ok(Self(port..=port)),
            Err(_) if text_of(node).is_some_and(|text| text.contains('-')) => {
                Ports::read(node).map(|ports| Self(ports.0))
            }
            Err(mistakes) => Err(mistakes),
        }
    }

    fn words() -> String {
        "port or `\"first-last\"`".into()
    }

    fn plural() -> String {
        "ports and `\"first-last\"`".into()
    }

    fn show(&self) -> String {
        if self.0.start() == self.0.end() {
            self.0.start().to_string()
        } else {
            Ports(self.0.clone()).show()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_text;
    use super::*;

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for text in [
            "auto",
            "off",
            "203.0.113.5",
            "2001:db8::5",
            "interface:eth0.7",
            "dns:turn.example.org",
            "dns:localhost",
            "stun:stun.example.org:3478",
            "stun:[2001:db8::1]:3479",
        ] {
            assert_eq!(
                read_text::<External>(text).map(|external| external.show()),
                Some(quoted(text))
            );
        }
        for text in [
            "*:443",
            "192.0.2.1:3478",
            "[2001:db8::1]:3478",
            "fly-global-services:3478",
            "_x.example:1",
        ] {
            assert_eq!(read_text::<Bind>(text).map(|bind| bind.show()), Some(quoted(text)));
        }
        for text in ["10.0.8.0/24", "10.0.8.7", "2001:db8::/32", "::1"] {
            assert_eq!(
                read_text::<NetworkOrAddress>(text).map(|network| network.show()),
                Some(quoted(text))
            );
        }
    }

    #[test]
    fn what_cannot_be_bound_or_asked_is_refused() {
        for text in [
            "",
            "443",
            ":443",
            "*",
            "*:0",
            "*:65536",
            "2001:db8::1:443",
            "[x]:1",
            "a b:1",
            "-a:1",
            "1.2.3:4",
            "a..b:1",
        ] {
            assert_eq!(read_text::<Bind>(text), None, "{text:?}");
        }
        for text in [
            "",
            "on",
            "stun:",
            "stun::3478",
            "stun:host:0",
            "stun:host:x",
            "1.2.3",
            "stun:a b",
            "interface:",
            "interface:a b",
            "interface:sixteen-letters-",
            "dns:",
            "dns:a b",
            "automatic",
        ] {
            assert_eq!(read_text::<External>(text), None, "{text:?}");
        }
        for text in ["1", "1-", "-1", "5-4", "0-65536", "a-b"] {
            assert!(read_text::<Ports>(text).is_none(), "{text:?}");
        }
    }
}
