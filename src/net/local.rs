//! The addresses that lead to this machine, read from the kernel's routing tables and followed over
//! rtnetlink(7).
//!
//! They include the addresses of interfaces. Routes of type `local` add others: a prefix on `lo`,
//! AnyIP. Broadcast and anycast routes lead to this machine and to others. A route counts if this
//! process's packets can reach its table (module `tables`). The exception is the prefix of length
//! 0: transparent proxies install one (`local default dev lo`) in a table for marked packets, and
//! it does not say which addresses are ours.

mod tables;

use core::time::Duration;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

use tables::Tables;

/// Groups of rtnetlink(7), one bit each: interfaces (the kernel does not report the routes of an
/// interface that goes down), IPv4 addresses, routes and rules, IPv6 addresses, routes and rules.
const GROUPS: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18;
/// Larger than any datagram of a kernel dump.
const DATAGRAM: usize = 64 * 1024;
/// The kernel answers at once, so a longer wait means that it will not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Readings that changes may invalidate. The next one is used anyway, because these changes cause
/// another reading.
const SPOILED: usize = 8;

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];
const KINDS: [RouteType; 3] = [RouteType::Local, RouteType::Broadcast, RouteType::Anycast];

/// Every network that leads to this machine, in the network namespace of the calling thread. Most
/// are single addresses.
///
/// # Errors
/// If the kernel does not answer.
pub fn read() -> io::Result<Vec<IpNet>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
    // The kernel filters the answer (since Linux 4.20). Without that, the code below does.
    let _ = socket.set_netlink_get_strict_chk(true);
    let mut reading = Reading::new(&socket);
    for _ in 0..SPOILED {
        let networks = reading.all()?;
        if !core::mem::take(&mut reading.spoiled) {
            return Ok(networks);
        }
    }
    reading.all()
}

struct Reading<'a> {
    socket: &'a Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// A change interrupted the answer.
    spoiled: bool,
}

impl<'a> Reading<'a> {
    fn new(socket: &'a Socket) -> Self {
        Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM),
            spoiled: false,
        }
    }

    fn all(&mut self) -> io::Result<Vec<IpNet>> {
        let mut found = BTreeSet::new();
        for family in FAMILIES {
            let mut message = AddressMessage::default();
            message.header.family = family;
            self.dump(RouteNetlinkMessage::GetAddress(message), |answer| {
                if let RouteNetlinkMessage::NewAddress(address) = answer {
                    found.extend(addresses(&address).into_iter().flatten().map(IpNet::from));
                }
            })?;
        }
        let tables = self.tables()?;
        for (family, kind) in FAMILIES.iter().flat_map(|family| KINDS.map(|kind| (*family, kind))) {
            let mut message = RouteMessage::default();
            (message.header.address_family, message.header.kind) = (family, kind);
            self.dump(RouteNetlinkMessage::GetRoute(message), |answer| {
                if let RouteNetlinkMessage::NewRoute(route) = answer
                    && KINDS.contains(&route.header.kind)
                    && tables.count(&route)
                {
                    found.extend(network(&route));
                }
            })?;
        }
        Ok(found.into_iter().collect())
    }

    fn tables(&mut self) -> io::Result<Tables> {
        let mut tables = Tables::default();
        for family in FAMILIES {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let asked = self.dump(RouteNetlinkMessage::GetRule(message), |answer| {
                if let RouteNetlinkMessage::NewRule(rule) = answer {
                    tables.add(&rule);
                }
            });
            match asked.map_err(|error| (error.raw_os_error(), error)) {
                // A kernel without policy routing, or without this family.
                Ok(()) | Err((Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT), _)) => {}
                Err((_, error)) => return Err(error),
            }
        }
        Ok(tables)
    }

    /// Requests all entries of a kind, and passes each to `each`.
    fn dump(&mut self, question: RouteNetlinkMessage, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        loop {
            receive(self.socket, &mut self.buffer, 0)?;
            for message in Messages(&self.buffer) {
                let message = message?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                self.spoiled |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => each(answer),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// Receives a datagram of the kernel into `buffer`, and ignores those of other senders.
fn receive(socket: &Socket, buffer: &mut Vec<u8>, flags: i32) -> io::Result<()> {
    loop {
        buffer.clear();
        match socket.recv_from(buffer, flags) {
            Ok((_, from)) if from.port_number() == 0 => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The messages of a datagram.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<NetlinkMessage<RouteNetlinkMessage>>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = NetlinkBuffer::new_checked(self.0).ok()?;
        let length = header.length() as usize;
        let message = NetlinkMessage::deserialize(&self.0[..length]).map_err(io::Error::other);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// An interface's address and the broadcast address of its network.
fn addresses(message: &AddressMessage) -> [Option<IpAddr>; 2] {
    let (mut local, mut address, mut broadcast) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            // If there is a local address too, this is the address of the other end.
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(IpAddr::V4(*ip)),
            _ => {}
        }
    }
    [local.or(address), broadcast]
}

/// The destination of a route; `None` for the default route.
fn network(route: &RouteMessage) -> Option<IpNet> {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    let length = route.header.destination_prefix_length;
    IpNet::new(destination?, length).ok().filter(|_| length > 0)
}

/// Receives every change.
#[derive(Debug)]
pub struct Changes {
    socket: Socket,
}

impl Changes {
    /// Receives changes from now on.
    ///
    /// # Errors
    /// If the kernel does not report changes.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Self { socket })
    }

    /// Waits for a relevant change, and consumes all that are pending.
    ///
    /// # Errors
    /// If changes may have been lost. ENOBUFS means that the buffer overflowed; the next call works
    /// again.
    pub fn wait(&self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        let mut matters = false;
        loop {
            let flags = if matters { libc::MSG_DONTWAIT } else { 0 };
            match receive(&self.socket, &mut buffer, flags) {
                Ok(()) => {
                    matters = matters || Messages(&buffer).any(|message| message.map_or(true, |it| concerns(&it)))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Ignores routes to other hosts, which change by the thousand on a router.
fn concerns(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, DelRule, NewAddress, NewLink, NewRoute, NewRule};
    match &message.payload {
        NetlinkPayload::InnerMessage(NewRoute(route) | DelRoute(route)) => KINDS.contains(&route.header.kind),
        NetlinkPayload::InnerMessage(
            NewLink(_) | DelLink(_) | NewAddress(_) | DelAddress(_) | NewRule(_) | DelRule(_),
        ) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machines_and_nothing_is_everywhere() {
        let networks = read().expect("rtnetlink");
        let holds = |ip: &str| {
            networks
                .iter()
                .any(|net| net.contains(&ip.parse::<IpAddr>().expect("an address")))
        };
        assert!(holds("127.0.0.1") && holds("127.255.0.1"), "{networks:?}");
        assert!(!holds("198.41.0.4"), "{networks:?}");
    }

    #[test]
    fn a_route_without_a_destination_is_no_network() {
        let mut route = RouteMessage::default();
        assert_eq!(network(&route), None);
        let zero = RouteAddress::Inet([0, 0, 0, 0].into());
        route.attributes.push(RouteAttribute::Destination(zero));
        assert_eq!(network(&route), None, "0.0.0.0/0");
        route.header.destination_prefix_length = 24;
        assert_eq!(network(&route), "0.0.0.0/24".parse().ok());
    }

    #[test]
    fn of_two_ends_the_local_one_is_ours() {
        let mut message = AddressMessage::default();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        message.attributes.push(AddressAttribute::Address(ip("10.0.0.2")));
        assert_eq!(addresses(&message), [Some(ip("10.0.0.2")), None]);
        message.attributes.push(AddressAttribute::Local(ip("10.0.0.1")));
        assert_eq!(addresses(&message), [Some(ip("10.0.0.1")), None]);
    }
    #[test]
    fn the_broadcast_address_of_an_interface_leads_here_too() {
        let mut message = AddressMessage::default();
        message
            .attributes
            .push(AddressAttribute::Broadcast([10, 0, 0, 255].into()));
        assert_eq!(addresses(&message), [None, "10.0.0.255".parse().ok()]);
    }

    #[test]
    fn what_is_listened_to_are_interfaces_and_addresses_routes_and_rules_of_both_families() {
        let groups = [
            libc::RTMGRP_LINK,
            libc::RTMGRP_IPV4_IFADDR,
            libc::RTMGRP_IPV4_ROUTE,
            libc::RTMGRP_IPV4_RULE,
            libc::RTMGRP_IPV6_IFADDR,
            libc::RTMGRP_IPV6_ROUTE,
            1 << (libc::RTNLGRP_IPV6_RULE - 1),
        ];
        assert_eq!(GROUPS, groups.into_iter().map(|group| group as u32).sum::<u32>());
    }

    fn message(inner: RouteNetlinkMessage) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(inner));
        message.finalize();
        message
    }

    #[test]
    fn a_datagram_holds_messages_one_behind_the_other_and_a_broken_one_ends_it() {
        let mut route = RouteMessage::default();
        // Five bytes, padded to the next word with three.
        route
            .attributes
            .push(RouteAttribute::Other(netlink_packet_core::DefaultNla::new(
                1000,
                vec![7],
            )));
        let messages = [
            message(RouteNetlinkMessage::NewRoute(route)),
            message(RouteNetlinkMessage::NewLink(Default::default())),
        ];
        let mut bytes = Vec::new();
        for message in &messages {
            let mut one = vec![0; message.buffer_len()];
            message.serialize(&mut one);
            bytes.extend(one);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let kinds = |bytes: &[u8]| {
            let kind = |message: io::Result<NetlinkMessage<RouteNetlinkMessage>>| message.unwrap().header.message_type;
            Messages(bytes).map(kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&bytes), [libc::RTM_NEWROUTE, libc::RTM_NEWLINK]);
        assert_eq!(kinds(&bytes[..bytes.len() - 1]), [libc::RTM_NEWROUTE]);
        assert_eq!(kinds(&[]), [0; 0]);
    }

    #[test]
    fn a_change_concerns_us_unless_it_is_of_a_route_to_elsewhere() {
        let route = |kind| {
            let mut route = RouteMessage::default();
            route.header.kind = kind;
            route
        };
        use RouteNetlinkMessage::{
            DelAddress, DelLink, DelNeighbour, DelRoute, DelRule, NewAddress, NewLink, NewRoute,
        };
        for (change, ours) in [
            (NewRoute(route(RouteType::Local)), true),
            (DelRoute(route(RouteType::Anycast)), true),
            (DelRoute(route(RouteType::Broadcast)), true),
            (NewRoute(route(RouteType::Unicast)), false),
            (NewLink(Default::default()), true),
            (DelLink(Default::default()), true),
            (NewAddress(Default::default()), true),
            (DelAddress(Default::default()), true),
            (RouteNetlinkMessage::NewRule(Default::default()), true),
            (DelRule(Default::default()), true),
            (DelNeighbour(Default::default()), false),
        ] {
            let message = message(change);
            assert_eq!(concerns(&message), ours, "{message:?}");
        }
        let done = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Noop);
        assert!(!concerns(&done));
    }

    #[test]
    fn nothing_that_others_send_is_taken_for_the_kernels() {
        let mut ours = Socket::new(NETLINK_ROUTE).unwrap();
        let at = ours.bind_auto().unwrap();
        let mut others = Socket::new(NETLINK_ROUTE).unwrap();
        others.bind_auto().unwrap();
        // Fails if the kernel requires a privilege for sending to another program.
        let _ = others.send_to(&[1; 16], &at, 0);
        let mut buffer = Vec::with_capacity(DATAGRAM);
        let error = receive(&ours, &mut buffer, libc::MSG_DONTWAIT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
