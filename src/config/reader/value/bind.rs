//! Hosts and ports that a listener binds to.

use std::net::{IpAddr, SocketAddr};

/// Where a listener binds: `*:443`, `name:3478`, `[::1]:3478`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Bind {
    pub(in crate::config) host: BindHost,
    pub(in crate::config) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum BindHost {
    /// Every address of the machine.
    Any,
    Ip(IpAddr),
    /// Resolved at start-up, to all its addresses.
    Name(String),
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
pub(in crate::config) fn is_host_name(text: &str) -> bool {
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
