//! NAT behaviour discovery (RFC 5780): what a Binding request to one of the four addresses
//! requests.

use std::net::{IpAddr, SocketAddr};

use crate::base::address::Transport;
use crate::turn::config::discovery::{Discovery, OwnAddress};
use crate::turn::refusal::Refusal;
use crate::wire::attribute::{self, AttributeType};
use crate::wire::message::Message;

/// The comprehension-required attributes of this usage that one UDP datagram can carry.
const ATTRIBUTES: [AttributeType; 3] = [
    AttributeType::CHANGE_REQUEST,
    AttributeType::RESPONSE_PORT,
    AttributeType::PADDING,
];

/// One of the four addresses, from the point of view of a request that arrived there.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiscoveryAddress<'a> {
    discovery: &'a Discovery,
    ips: [OwnAddress; 2],
    ip: usize,
    port: usize,
}

impl<'a> DiscoveryAddress<'a> {
    /// The entry for the local address `server`; `None` if that listener does not take part in
    /// discovery.
    pub(super) fn of(discovery: &'a Discovery, server: SocketAddr) -> Option<Self> {
        let ips = if server.is_ipv4() {
            discovery.ipv4
        } else {
            discovery.ipv6
        }?;
        Some(Self {
            discovery,
            ip: ips.iter().position(|ip| ip.local == server.ip())?,
            port: discovery.ports.iter().position(|&port| port == server.port())?,
            ips,
        })
    }

    fn changed(self, change: Change) -> Self {
        Self {
            ip: self.ip ^ usize::from(change.ip),
            port: self.port ^ usize::from(change.port),
            ..self
        }
    }

    /// The one that differs in both address and port.
    fn other(self) -> Self {
        self.changed(Change { ip: true, port: true })
    }

    fn with(self, which: impl Fn(OwnAddress) -> IpAddr) -> SocketAddr {
        SocketAddr::new(which(self.ips[self.ip]), self.discovery.ports[self.port])
    }

    /// The bound address.
    pub(super) fn local(self) -> SocketAddr {
        self.with(|ip| ip.local)
    }

    /// The announced address.
    pub(super) fn announced(self) -> SocketAddr {
        self.with(|ip| ip.announced)
    }
}

/// The content of CHANGE-REQUEST (RFC 5780 §7.2).
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    ip: bool,
    port: bool,
}

/// How to answer a Binding request.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiscoveryRequest<'a> {
    /// Source of the response.
    pub(super) from: DiscoveryAddress<'a>,
    /// The address that differs in IP address and port from the one that received the request.
    pub(super) other: DiscoveryAddress<'a>,
    /// Destination of the response.
    pub(super) to: SocketAddr,
    /// Length of PADDING in bytes.
    pub(super) padding: Option<usize>,
}

impl<'a> DiscoveryRequest<'a> {
    /// Parses what `message` requests; it arrived at `place` from `source`.
    pub(super) fn of(
        message: &Message<'_>,
        place: DiscoveryAddress<'a>,
        source: SocketAddr,
        transport: Transport,
    ) -> Result<Self, Refusal> {
        // A stream and a DTLS association have only one way back, and do not fragment.
        let known: &[AttributeType] = match transport {
            Transport::Udp => &ATTRIBUTES,
            Transport::Tcp | Transport::Tls | Transport::Dtls => &[],
        };
        let unknown = message.unknown_required_but(known);
        if !unknown.is_empty() {
            return Err(Refusal::UnknownAttributes { types: unknown });
        }
        if transport != Transport::Udp {
            return Ok(Self {
                from: place,
                other: place.other(),
                to: source,
                padding: None,
            });
        }
        let change = message.decode(AttributeType::CHANGE_REQUEST, attribute::change_request)?;
        let port = message.decode(AttributeType::RESPONSE_PORT, attribute::response_port)?;
        let padding = message.attribute(AttributeType::PADDING);
        // RFC 5780 §7.5. Otherwise a datagram from one source could direct fragments at another
        // port.
        if port == Some(0) || (port.is_some() && padding.is_some()) {
            return Err(Refusal::BadRequest);
        }
        let (ip, changes_port) = change.unwrap_or_default();
        // The RFC wants the length of the MTU, whatever the length of the request. That would give
        // an attacker with forged sources fifteen bytes for each byte sent, so PADDING is never
        // longer than the request.
        let most = usize::from(place.discovery.max_padding);
        Ok(Self {
            from: place.changed(Change { ip, port: changes_port }),
            other: place.other(),
            to: SocketAddr::new(source.ip(), port.unwrap_or(source.port())),
            padding: padding.map(|padding| padding.len().min(most)),
        })
    }
}
