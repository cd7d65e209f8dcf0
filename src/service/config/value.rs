//! How each type of value is written: durations, sizes, addresses, port ranges, …

use core::ops::RangeInclusive;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::diagnostic::Place;
use super::document::{Node, Value};

/// What is wrong with a value; the key is named by the caller.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) place: Place,
}

impl Mistake {
    fn new(node: &Node, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
            place: node.place,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A type that stands behind a key.
pub(super) trait Setting: Sized {
    /// Never shown.
    const SECRET: bool = false;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>>;

    /// As TOML.
    fn show(&self) -> String;
}

/// What is expected, and what there is instead.
fn expected<T>(node: &Node, what: &str, example: &str) -> Result<T, Vec<Mistake>> {
    let found = match &node.value {
        Value::Text(text) if !text.is_empty() => format!("{text:?}"),
        Value::Text(_) => "an empty text".into(),
        Value::Integer(Some(number)) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        other => other.kind().into(),
    };
    Err(vec![
        Mistake::new(node, format!("expected {what}, found {found}")).help(format!("for example {example}")),
    ])
}

/// The text a value stands for, if it is one. In the environment texts need no quotes.
pub(super) fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => node.raw.as_deref(),
    }
}

/// `text` as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Setting for bool {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match &node.value {
            Value::Boolean(flag) => Ok(*flag),
            _ => expected(node, "true or false", "`true`, without quotes"),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        text_of(node).map_or_else(
            || expected(node, "a text", "`\"text\"`, in quotes"),
            |text| Ok(text.to_owned()),
        )
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match text_of(node) {
            Some(text) if !text.is_empty() && !text.contains('\0') => Ok(Self::from(text)),
            _ => expected(node, "the path of a file", "\"/etc/relay/secret\""),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hidden(pub(super) String);

impl Setting for Hidden {
    const SECRET: bool = true;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match text_of(node) {
            Some(text) => Ok(Self(text.to_owned())),
            None => Err(vec![
                Mistake::new(node, format!("expected a text, found {}", node.value.kind())).help("put it in quotes"),
            ]),
        }
    }

    fn show(&self) -> String {
        "\"(hidden)\"".into()
    }
}

/// Lists. In the environment also `a,b,c`, unless the elements are secret.
impl<T: Setting> Setting for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let nodes = match (&node.value, &node.raw) {
            (Value::List(list), _) => list.clone(),
            (_, Some(raw)) if T::SECRET => vec![text_node(node, raw)],
            (_, Some(raw)) => raw.split(',').map(|part| text_node(node, part.trim())).collect(),
            (Value::Text(text), None) => {
                let written = if T::SECRET {
                    "…".to_owned()
                } else {
                    text.escape_debug().to_string()
                };
                let mistake = Mistake::new(node, "expected a list, found a text");
                return Err(vec![mistake.help(format!("put it in brackets: [\"{written}\"]"))]);
            }
            _ => return expected(node, "a list", "[\"a\", \"b\"]"),
        };
        let mut read = Self::new();
        let mut mistakes = Vec::new();
        for node in &nodes {
            match T::read(node) {
                Ok(value) => read.push(value),
                Err(more) => mistakes.extend(more),
            }
        }
        if mistakes.is_empty() { Ok(read) } else { Err(mistakes) }
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

fn text_node(whole: &Node, text: &str) -> Node {
    Node {
        place: whole.place,
        value: Value::Text(text.to_owned()),
        raw: Some(text.to_owned()),
    }
}

/// An element of a list that remembers its place.
#[derive(Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<T: Setting> Setting for Placed<T> {
    const SECRET: bool = T::SECRET;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        T::read(node).map(|value| Self {
            value,
            place: node.place,
        })
    }

    fn show(&self) -> String {
        self.value.show()
    }
}

/// One of a closed set of words.
pub(super) trait Choice: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];
}

/// A [`Choice`] as a setting.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct OneOf<T>(pub(super) T);

impl<T: Choice> Setting for OneOf<T> {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let written = text_of(node).unwrap_or("");
        if let Some((_, choice)) = T::ALL.iter().find(|(name, _)| *name == written) {
            return Ok(Self(*choice));
        }
        let all = T::ALL
            .iter()
            .map(|(name, _)| quoted(name))
            .collect::<Vec<_>>()
            .join(", ");
        let near = nearest(&written.to_ascii_lowercase(), T::ALL.iter().map(|(name, _)| *name));
        let help = match near {
            Some(name) => format!("did you mean {}? It can be {all}", quoted(name)),
            None => format!("it can be {all}"),
        };
        let found = if written.is_empty() {
            node.value.kind().to_owned()
        } else {
            format!("{written:?}")
        };
        Err(vec![
            Mistake::new(node, format!("{found} is none of the choices")).help(help),
        ])
    }

    fn show(&self) -> String {
        T::ALL
            .iter()
            .find(|(_, choice)| *choice == self.0)
            .map_or_else(String::new, |(name, _)| quoted(name))
    }
}

/// The candidate that `written` was probably meant to be.
pub(super) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(written, candidate);
            let part = written.len() >= 3 && (candidate.contains(written) || written.contains(candidate));
            (candidate, if part { distance.min(2) } else { distance })
        })
        .filter(|(candidate, distance)| *distance <= (candidate.len().max(written.len()) / 3).max(1))
        .min_by_key(|(_, distance)| *distance)
        .map(|(candidate, _)| candidate)
}

/// `"auto"`, where the server works it out, or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Auto<T> {
    Auto,
    Given(T),
}

impl<T: Setting> Setting for Auto<T> {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        if text_of(node).map(str::trim) == Some("auto") {
            return Ok(Self::Auto);
        }
        let or_auto = |mut mistake: Mistake| {
            mistake.help = mistake.help.map(|help| format!("{help}, or \"auto\""));
            mistake
        };
        T::read(node)
            .map(Self::Given)
            .map_err(|mistakes| mistakes.into_iter().map(or_auto).collect())
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Given(value) => value.show(),
        }
    }
}

/// `"off"`, or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OffOr<T>(pub(super) Option<T>);

impl<T: Setting> Setting for OffOr<T> {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match text_of(node).map(str::trim) {
            Some("off") => Ok(Self(None)),
            _ => T::read(node).map(|value| Self(Some(value))),
        }
    }

    fn show(&self) -> String {
        self.0.as_ref().map_or_else(|| quoted("off"), T::show)
    }
}

impl Setting for i64 {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match &node.value {
            Value::Integer(Some(number)) => Ok(*number),
            Value::Text(text) if text.parse::<Self>().is_ok() => {
                let mistake = Mistake::new(node, format!("expected a whole number, found the text {text:?}"));
                Err(vec![mistake.help(format!("leave the quotes away: {text}"))])
            }
            _ => expected(node, "a whole number", "100"),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match &node.value {
            Value::Integer(Some(number)) if *number >= 0 => Ok(Self::from_secs(number.unsigned_abs())),
            Value::Text(text) => match parse_duration(text) {
                Some(duration) => Ok(duration),
                None => expected(
                    node,
                    "a duration",
                    "\"150ms\", \"10s\", \"5m\", \"1h30m\", \"7d\", or seconds as a whole number",
                ),
            },
            _ => expected(
                node,
                "a duration",
                "\"10s\", \"5m\", \"1h\", or seconds as a whole number",
            ),
        }
    }

    fn show(&self) -> String {
        quoted(&show_duration(*self))
    }
}

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// `1h30m`, `150ms`: whole numbers, each with its unit, no unit twice, the larger first.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut allowed = &DURATION_UNITS[..];
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let unit = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let index = allowed.iter().position(|(name, _)| *name == &rest[..unit])?;
        total = total.checked_add(number.checked_mul(allowed[index].1)?)?;
        allowed = &allowed[index + 1..];
        rest = rest[unit..].trim_start();
    }
    Some(Duration::from_millis(total))
}

/// The shortest way to write it.
pub(super) fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for (name, size) in DURATION_UNITS {
        // One day is 24h to most people; only longer stretches are counted in days.
        if rest >= size && !(name == "d" && rest < 2 * size) {
            out.push_str(&format!("{}{name}", rest / size));
            rest %= size;
        }
    }
    out
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes(pub(super) usize);

const BYTE_UNITS: [(&str, usize); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Setting for Bytes {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let bytes = match &node.value {
            Value::Integer(Some(number)) => usize::try_from(*number).ok(),
            Value::Text(text) => parse_bytes(text),
            _ => None,
        };
        bytes.map_or_else(
            || expected(node, "a size", "\"256KiB\", \"4MiB\", or bytes as a whole number"),
            |b| Ok(Self(b)),
        )
    }

    fn show(&self) -> String {
        let unit = BYTE_UNITS[..3]
            .iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        unit.map_or_else(
            || self.0.to_string(),
            |(name, size)| quoted(&format!("{}{name}", self.0 / size)),
        )
    }
}

fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit = text[digits..].trim();
    let (_, size) = BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    text[..digits].parse::<usize>().ok()?.checked_mul(*size)
}

/// An IP network; a bare address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network(pub(super) IpNet);

impl Setting for Network {
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
            Err(_) => expected(
                node,
                "an IP network",
                "\"10.0.8.0/24\", \"2001:db8:8::/48\" or \"10.0.8.7\"",
            ),
        }
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
pub(super) struct Ports(pub(super) RangeInclusive<u16>);

impl Ports {
    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::from(*self.0.end()) - u32::from(*self.0.start()) + 1
    }

    /// How many workers can have at least one: ports are dealt by even pairs (`ShardIndex::owner_of`).
    pub(super) fn most_workers(&self) -> usize {
        usize::from(self.0.end() / 2 - self.0.start() / 2) + 1
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

    fn show(&self) -> String {
        quoted(&format!("{}-{}", self.0.start(), self.0.end()))
    }
}

/// A port number other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(pub(super) u16);

impl Setting for Port {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let number = match &node.value {
            Value::Integer(Some(number)) => u16::try_from(*number).ok(),
            _ => node.raw.as_deref().and_then(|raw| raw.parse().ok()),
        };
        number
            .filter(|n| *n != 0)
            .map_or_else(|| expected(node, "a port from 1 to 65535", "3478"), |n| Ok(Self(n)))
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

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Where a listener binds: `*:443`, `name:3478`, `[::1]:3478`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) host: BindHost,
    pub(super) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BindHost {
    /// Every address of the machine.
    Any,
    Ip(IpAddr),
    /// Resolved at start-up, to all its addresses.
    Name(String),
}

impl Setting for Bind {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let text = text_of(node).unwrap_or("").trim();
        let example = "\"*:443\", \"192.0.2.1:3478\", \"[2001:db8::1]:3478\" or \"turn.example.org:3478\"";
        let bad = || expected(node, "an address with a port", example);
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
            None => match host.parse() {
                Ok(ip) => BindHost::Ip(ip),
                Err(_) if is_host_name(host) => BindHost::Name(host.to_owned()),
                Err(_) => return bad(),
            },
        };
        Ok(Self { host, port })
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl core::fmt::Display for Bind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.host {
            BindHost::Any => write!(f, "*:{}", self.port),
            BindHost::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            BindHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Letters, digits, hyphens and (as some platforms have them) underscores, in parts of 1 to 63; not all digits.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or("");
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

/// The address clients are told, of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum External {
    /// That of the interface the default route uses.
    Auto,
    Fixed(IpAddr),
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
        let what = "\"auto\", an IP address, \"stun:host:port\" or \"off\"";
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

    fn show(&self) -> String {
        quoted(&match self {
            Self::Auto => "auto".into(),
            Self::Off => "off".into(),
            Self::Fixed(ip) => ip.to_string(),
            Self::Stun { host, port } if host.contains(':') => format!("stun:[{host}]:{port}"),
            Self::Stun { host, port } => format!("stun:{host}:{port}"),
        })
    }
}

/// One port, or `"first-last"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortOrPorts(pub(super) RangeInclusive<u16>);

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
    use super::*;

    fn read<T: Setting>(text: &str) -> Option<T> {
        let node = Node {
            place: Place::new(0, &(0..0)),
            value: Value::Text(text.to_owned()),
            raw: None,
        };
        T::read(&node).ok()
    }

    #[test]
    fn durations_have_units_the_larger_first_and_none_twice() {
        let millis = |text| parse_duration(text).map(|duration| duration.as_millis());
        for (text, expected) in [
            ("150ms", Some(150)),
            ("10s", Some(10_000)),
            ("1h30m", Some(5_400_000)),
            ("1d 2h 3m 4s 5ms", Some(93_784_005)),
            (" 5m ", Some(300_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("m", None),
            ("5 lightyears", None),
            ("1m1h", None),
            ("1s1s", None),
            ("-5s", None),
            ("1.5h", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(millis(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for millis in [
            0,
            1,
            999,
            1_000,
            61_000,
            3_600_000,
            5_400_000,
            86_400_000,
            129_600_000,
            172_800_000,
            31_536_000_000,
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(
                parse_duration(&show_duration(duration)),
                Some(duration),
                "{}",
                show_duration(duration)
            );
        }
        for bytes in [1, 1023, 1024, 1025, 65_536, 300_000, 1 << 20, (1 << 20) + 1, 1 << 30] {
            let shown = Bytes(bytes).show();
            let text = shown.trim_matches('"');
            assert!(
                read::<Bytes>(text) == Some(Bytes(bytes)) || text.parse() == Ok(bytes),
                "{shown}"
            );
        }
        for text in [
            "auto",
            "off",
            "203.0.113.5",
            "2001:db8::5",
            "stun:stun.example.org:3478",
            "stun:[2001:db8::1]:3479",
        ] {
            assert_eq!(
                read::<External>(text).map(|external| external.show()),
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
            assert_eq!(read::<Bind>(text).map(|bind| bind.show()), Some(quoted(text)));
        }
        for text in ["10.0.8.0/24", "10.0.8.7", "2001:db8::/32", "::1"] {
            assert_eq!(read::<Network>(text).map(|network| network.show()), Some(quoted(text)));
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
            assert_eq!(read::<Bind>(text), None, "{text:?}");
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
        ] {
            assert_eq!(read::<External>(text), None, "{text:?}");
        }
        for text in ["1", "1-", "-1", "5-4", "0-65536", "a-b"] {
            assert!(read::<Ports>(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["permissions", "channels", "connections", "queue_age"];
        for (written, expected) in [
            ("permisions", Some("permissions")),
            ("permission", Some("permissions")),
            ("chanels", Some("channels")),
            ("queue-age", Some("queue_age")),
            ("bananas", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, words.into_iter()), expected, "{written}");
        }
    }
}
