//! What a Binding request asks of the places of NAT behaviour discovery (RFC 5780).

use std::net::{IpAddr, SocketAddr};

use crate::base::address::Transport;
use crate::turn::config::discovery::{Discovery, OwnAddress};
use crate::turn::refusal::Refusal;
use crate::wire::attribute::{self, AttributeType};
use crate::wire::message::Message;

/// The comprehension-required attributes this usage adds, which one UDP datagram can ask for.
const ATTRIBUTES: [AttributeType; 3] = [
    AttributeType::CHANGE_REQUEST,
    AttributeType::RESPONSE_PORT,
    AttributeType::PADDING,
];

/// One of the four places, as the request that came to it sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiscoveryAddress<'a> {
    discovery: &'a Discovery,
    ips: [OwnAddress; 2],
    ip: usize,
    port: usize,
}

impl<'a> DiscoveryAddress<'a> {
    /// The place at the local address `server`; `None`: another listener, which has nothing to do with this.
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

    /// The place that has neither this address nor this port.
    fn other(self) -> Self {
        self.changed(Change { ip: true, port: true })
    }

    fn with(self, which: impl Fn(OwnAddress) -> IpAddr) -> SocketAddr {
        SocketAddr::new(which(self.ips[self.ip]), self.discovery.ports[self.port])
    }

    /// What is bound there.
    pub(super) fn local(self) -> SocketAddr {
        self.with(|ip| ip.local)
    }

    /// What clients are told.
    pub(super) fn announced(self) -> SocketAddr {
        self.with(|ip| ip.announced)
    }
}

/// What CHANGE-REQUEST asks for (RFC 5780 §7.2).
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    ip: bool,
    port: bool,
}

/// How a Binding request wants to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// Where the response comes from.
    pub(super) from: DiscoveryAddress<'a>,
    /// The place with another address and port than the one the request came to.
    pub(super) other: DiscoveryAddress<'a>,
    /// Where it goes.
    pub(super) to: SocketAddr,
    /// Bytes of PADDING in it.
    pub(super) padding: Option<usize>,
}

impl<'a> Wish<'a> {
    /// Reads the wish of `message`, which came to `place` from `source`.
    pub(super) fn of(
        message: &Message<'_>,
        place: DiscoveryAddress<'a>,
        source: SocketAddr,
        transport: Transport,
    ) -> Result<Self, Refusal> {
        // A stream and a DTLS association have one way back, and nothing to fragment.
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
        // RFC 5780 §7.5: or a datagram of one source would bring down fragments upon another port.
        if port == Some(0) || (port.is_some() && padding.is_some()) {
            return Err(Refusal::BadRequest);
        }
        let (ip, changes_port) = change.unwrap_or_default();
        // The RFC wants the MTU's length whatever the request's was. That would give a forger of sources fifteen bytes
        // for each of its own, so it is never more than came in.
        let most = usize::from(place.discovery.max_padding);
        Ok(Self {
            from: place.changed(Change { ip, port: changes_port }),
            other: place.other(),
            to: SocketAddr::new(source.ip(), port.unwrap_or(source.port())),
            padding: padding.map(|padding| padding.len().min(most)),
        })
    }
}
