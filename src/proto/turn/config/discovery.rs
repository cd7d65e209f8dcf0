//! NAT behaviour discovery (RFC 5780): the server's two addresses and two ports.
//!
//! ```text
//!            ports[0]   ports[1]   The response to a request comes from the socket that received
//! ips[0]     socket     socket     it or, by CHANGE-REQUEST, from the one with the other address,
//! ips[1]     socket     socket     the other port, or both. OTHER-ADDRESS differs in both.
//! ```
//!
//! Deliberately absent: the RFC 3489 form of this. Clients of RFC 3489 only learn their address.

use std::net::IpAddr;

/// The addresses for NAT behaviour discovery. The server listens for UDP on each address with each
/// port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// IPv4 addresses, if IPv4 is served.
    pub ipv4: Option<[OwnAddress; 2]>,
    /// IPv6 addresses, if IPv6 is served.
    pub ipv6: Option<[OwnAddress; 2]>,
    /// The two ports, the same on every address.
    pub ports: [u16; 2],
    /// Most bytes of PADDING in a response: the MTU (RFC 5780 §7.6).
    pub max_padding: u16,
}

/// One of the server's addresses: the bound one and the announced one (1:1 NAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// Local address.
    pub local: IpAddr,
    /// Address in RESPONSE-ORIGIN and OTHER-ADDRESS.
    pub announced: IpAddr,
}
