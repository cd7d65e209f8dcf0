//! Another server for new clients while this one is drained (RFC 8489 §10).

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::address::{Family, FiveTuple, Transport};

/// The server that takes new clients while this one is drained (RFC 8489 §10). Without addresses nobody is redirected.
///
/// Many clients take a 300 for the end, depending on the transport (docs/operations.md). What they cannot follow is not sent
/// to them until it no longer matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Its IPv4 address, for clients that came over IPv4.
    pub ipv4: Option<SocketAddr>,
    /// Its IPv6 address, for clients that came over IPv6.
    pub ipv6: Option<SocketAddr>,
    /// The name in its certificate, if that is another than ours: ALTERNATE-DOMAIN.
    pub domain: Option<Arc<str>>,
    /// Whether clients of a transport are redirected at once, by [`Transport`].
    pub transports: [bool; Transport::ALL.len()],
    /// How long the others are served here, from the moment a redirection is configured. `None`: as long as it is.
    pub serve_others: Option<Duration>,
}

impl Default for Redirect {
    /// Nowhere. Over UDP, where browsers follow, at once; others an hour later.
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

/// What a redirected client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternate {
    /// ALTERNATE-SERVER, of the client's own family.
    pub server: SocketAddr,
    /// Another one, of the other family (RFC 8489 §10: behind the first).
    pub other: Option<SocketAddr>,
    /// ALTERNATE-DOMAIN, where there is a certificate to check.
    pub domain: Option<Arc<str>>,
}

impl Redirect {
    /// Whether there is another server.
    pub const fn is_on(&self) -> bool {
        self.ipv4.is_some() || self.ipv6.is_some()
    }

    /// Where `client` is sent when this has been in force for `age`; `None`: it stays, also because there is no address of
    /// its family.
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
