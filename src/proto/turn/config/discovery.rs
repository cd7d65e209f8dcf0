//! NAT behaviour discovery (RFC 5780): where a server's two addresses and two ports are.
//!
//! ```text
//!              ports[0]   ports[1]     A request that came to one of the four places is answered from that one, or, by
//! ips[0]       place      place        CHANGE-REQUEST, from the one with the other address, the other port, or both.
//! ips[1]       place      place        OTHER-ADDRESS is the one with both.
//! ```
//!
//! Deliberately absent: what RFC 3489 clients know of this. They are told their address only.

use std::net::IpAddr;

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
