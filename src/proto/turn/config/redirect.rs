//! An alternate server for new clients while this one drains (RFC 8489 §10).

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::address::{Family, FiveTuple, Transport};

/// The server that takes new clients while this one drains (RFC 8489 §10). Without addresses no
/// client is redirected.
///
/// Many clients treat a 300 as a final error, depending on the transport (docs/operations.md). On
/// those transports the server keeps serving for a while before it redirects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Its IPv4 address, for clients on IPv4.
    pub ipv4: Option<SocketAddr>,
    /// Its IPv6 address, for clients on IPv6.
    pub ipv6: Option<SocketAddr>,
    /// The name in its certificate, if it differs from ours: ALTERNATE-DOMAIN.
    pub domain: Option<Arc<str>>,
    /// Whether clients are redirected at once, indexed by [`Transport`].
    pub transports: [bool; Transport::ALL.len()],
    /// How long other clients are still served here after a redirection is configured. `None`:
    /// indefinitely.
    pub serve_others: Option<Duration>,
}

impl Default for Redirect {
    /// No redirection. Once it has addresses: UDP at once, because browsers follow there, and other
    /// transports an hour later.
    fn default() -> Self {
        Self {
            ipv4: None,
            ipv6: None,
            domain: None,
            transports: Transport::ALL.map(|transport| transport == Transport::Udp),
            serve_others: Some(Duration::from_secs(3600)),
        }
    }
}

/// The content of a redirection for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternate {
    /// ALTERNATE-SERVER, of the client's own family.
    pub server: SocketAddr,
    /// A second ALTERNATE-SERVER, of the other family (RFC 8489 §10: after the first).
    pub other: Option<SocketAddr>,
    /// ALTERNATE-DOMAIN, on transports where the client checks a certificate.
    pub domain: Option<Arc<str>>,
}

impl Redirect {
    /// Whether a redirection is configured.
    pub const fn is_on(&self) -> bool {
        self.ipv4.is_some() || self.ipv6.is_some()
    }

    /// The redirection of `client` when the configuration has been in force for `age`. `None`: the
    /// client stays, for example because there is no address of its family.
    pub fn of(&self, client: &FiveTuple, age: Duration) -> Option<Alternate> {
        let (own, other) = match Family::of(client.client.ip()) {
            Family::V4 => (self.ipv4, self.ipv6),
            Family::V6 => (self.ipv6, self.ipv4),
        };
        let over = self.serve_others.is_some_and(|others| age >= others);
        if !over && !self.transports[client.transport as usize] {
            return None;
        }
        let certified = matches!(client.transport, Transport::Tls | Transport::Dtls);
        Some(Alternate {
            server: own?,
            other,
            domain: self.domain.clone().filter(|_| certified),
        })
    }
}
