//! NAT behaviour discovery (RFC 5780): where a server's two addresses and two ports are, and what a request asks of them.
//!
//! ```text
//!              ports[0]   ports[1]     A request that came to one of the four places is answered from that one, or, by
//! ips[0]       place      place        CHANGE-REQUEST, from the one with the other address, the other port, or both.
//! ips[1]       place      place        OTHER-ADDRESS is the one with both.
//! ```
//!
//! Deliberately absent: what RFC 3489 clients know of this. They are told their address only.

use std::net::{IpAddr, SocketAddr};

use super::refusal::Refusal;
use crate::base::address::Transport;
use crate::wire::attribute::{self, AttributeType};
use crate::wire::message::Message;

/// What a server needs to be asked about the behaviour of NATs. UDP is listened on at each address with each port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// IPv4 addresses, if it is served.
    pub ipv4: Option<[OwnAddress; 2]>,
    /// IPv6 addresses, if it is served.
    pub ipv6: Option<[OwnAddress; 2]>,
    /// The two ports, the same on every address.
    pub ports: [u16; 2],
    /// Most bytes of PADDING in a response: the MTU (RFC 5780 §7.6).
    pub max_padding: u16,
}

/// One of the server's addresses: the one bound here and the one clients are told (1:1 NAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// Local address.
    pub local: IpAddr,
    /// Address in RESPONSE-ORIGIN and OTHER-ADDRESS.
    pub announced: IpAddr,
}

/// One of the four places, as the request that came to it sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    discovery: &'a Discovery,
    ips: [OwnAddress; 2],
    ip: usize,
    port: usize,
}

impl Discovery {
    /// The comprehension-required attributes this usage adds, which one UDP datagram can ask for.
    pub(super) const ATTRIBUTES: [AttributeType; 3] = [
        AttributeType::CHANGE_REQUEST,
        AttributeType::RESPONSE_PORT,
        AttributeType::PADDING,
    ];

    /// The place at the local address `server`; `None`: another listener, which has nothing to do with this.
    pub(super) fn place(&self, server: SocketAddr) -> Option<Place<'_>> {
        let ips = if server.is_ipv4() { self.ipv4 } else { self.ipv6 }?;
        Some(Place {
            discovery: self,
            ip: ips.iter().position(|ip| ip.local == server.ip())?,
            port: self.ports.iter().position(|&port| port == server.port())?,
            ips,
        })
    }
}

impl Place<'_> {
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
    pub(super) from: Place<'a>,
    /// The place with another address and port than the one the request came to.
    pub(super) other: Place<'a>,
    /// Where it goes.
    pub(super) to: SocketAddr,
    /// Bytes of PADDING in it.
    pub(super) padding: Option<usize>,
}

impl<'a> Wish<'a> {
    /// Reads the wish of `message`, which came to `place` from `source`.
    pub(super) fn of(
        message: &Message<'_>,
        place: Place<'a>,
        source: SocketAddr,
        transport: Transport,
    ) -> Result<Self, Refusal> {
        // A stream and a DTLS association have one way back, and nothing to fragment.
        let known: &[AttributeType] = match transport {
            Transport::Udp => &Discovery::ATTRIBUTES,
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
