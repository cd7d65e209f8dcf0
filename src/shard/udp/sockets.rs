//! The UDP sockets of one shard: its listeners and the relay sockets of its allocations.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use crate::net::epoll::{Epoll, Interest};
use crate::net::udp::{UdpOptions, UdpSocket};
use crate::shard::token::{Token, relay_slot};
use crate::turn::types::RelayId;
use crate::turn::{OwnSocket, OwnSockets};

/// A socket clients send to, and what is served there.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: UdpSocket,
    /// STUN and TURN over UDP.
    pub plain: bool,
    /// TURN over DTLS.
    pub dtls: bool,
    /// QUIC, for the HTTP/3 backend if there is one.
    pub http3: bool,
}

impl From<UdpSocket> for Listener {
    /// Serves UDP.
    fn from(socket: UdpSocket) -> Self {
        Self {
            socket,
            plain: true,
            dtls: false,
            http3: false,
        }
    }
}

/// A relay socket and whose it is.
#[derive(Debug)]
struct Relay {
    socket: UdpSocket,
    id: RelayId,
    /// The turn it was last read in.
    read_in: Option<u64>,
}

/// The socket of an HTTP/3 flow. The order matters: the socket is closed before its port is
/// released.
#[derive(Debug)]
struct Flow {
    socket: UdpSocket,
    _own: OwnSocket,
}

/// All UDP sockets, numbered for `net::udp::SendBatch`: listeners first, those of HTTP/3 flows,
/// relay sockets behind.
#[derive(Debug)]
pub(in crate::shard) struct Sockets {
    listeners: Vec<Listener>,
    /// How many there were at the start: the numbers behind them are those of flows, for ever.
    listener_count: usize,
    /// By slot of the flow.
    flows: Vec<Option<Flow>>,
    /// As many as there may ever be: the numbers behind them are those of relay sockets.
    most_flows: usize,
    relays: Vec<Option<Relay>>,
    options: UdpOptions,
    own: OwnSockets,
}

impl Sockets {
    /// `options` are those of relay sockets; slots of HTTP/3 flows are below `most_flows`, and
    /// their sockets are noted in `own`.
    pub(in crate::shard) fn new(
        listeners: Vec<Listener>,
        most_flows: usize,
        options: UdpOptions,
        own: OwnSockets,
    ) -> Self {
        Self {
            listener_count: listeners.len(),
            listeners,
            flows: Vec::new(),
            most_flows,
            relays: Vec::new(),
            options,
            own,
        }
    }

    /// Watches every listener.
    pub(in crate::shard) fn register(&self, epoll: &Epoll) -> io::Result<()> {
        for (i, listener) in self.listeners.iter().enumerate() {
            epoll.add(
                listener.socket.as_fd(),
                Token::Listener(i as u32).bits(),
                Interest::Read,
            )?;
        }
        Ok(())
    }

    /// Closes all listeners.
    pub(in crate::shard) fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    /// Numbers in use are below this.
    pub(in crate::shard) fn egress_count(&self) -> usize {
        self.first_relay() + self.relays.len()
    }

    fn first_relay(&self) -> usize {
        self.listener_count + self.most_flows
    }

    /// The number of a relay socket, open or not.
    pub(in crate::shard) fn relay_egress(&self, id: RelayId) -> u32 {
        self.first_relay() as u32 + relay_slot(id)
    }

    /// The number of an HTTP/3 flow's socket, open or not.
    pub(in crate::shard) fn flow_egress(&self, slot: u32) -> u32 {
        self.listener_count as u32 + slot
    }

    /// The socket with this number.
    pub(in crate::shard) fn by_egress(&self, egress: u32) -> Option<&UdpSocket> {
        let egress = egress as usize;
        if let Some(slot) = egress.checked_sub(self.first_relay()) {
            self.relays.get(slot)?.as_ref().map(|relay| &relay.socket)
        } else if let Some(slot) = egress.checked_sub(self.listener_count) {
            self.flows.get(slot)?.as_ref().map(|flow| &flow.socket)
        } else {
            self.listeners.get(egress).map(|listener| &listener.socket)
        }
    }

    /// Listener `index`.
    pub(in crate::shard) fn listener(&self, index: u32) -> Option<&Listener> {
        self.listeners.get(index as usize)
    }

    /// The number of the listener that can send from `local`: bound to it, or to all addresses.
    pub(in crate::shard) fn listener_at(&self, local: SocketAddr) -> Option<u32> {
        let at = |bound: SocketAddr| {
            self.listeners
                .iter()
                .position(|listener| listener.socket.local_addr() == bound)
        };
        let any: IpAddr = match local {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let index = at(local).or_else(|| at(SocketAddr::new(any, local.port())))?;
        u32::try_from(index).ok()
    }

    /// The socket of listener `index`.
    pub(in crate::shard) fn udp_listener(&self, index: u32) -> Option<&UdpSocket> {
        self.listener(index).map(|listener| &listener.socket)
    }

    /// The socket of the HTTP/3 flow in `slot`.
    pub(in crate::shard) fn flow(&self, slot: u32) -> Option<&UdpSocket> {
        self.flows.get(slot as usize)?.as_ref().map(|flow| &flow.socket)
    }

    /// Opens, connects and watches the socket of an HTTP/3 flow.
    ///
    /// # Errors
    /// Those of the system; nothing stays open then.
    pub(in crate::shard) fn open_flow(
        &mut self,
        epoll: &Epoll,
        slot: u32,
        token: Token,
        backend: SocketAddr,
    ) -> io::Result<()> {
        let options = UdpOptions {
            // What is pending is asked for where it matters (`UdpSocket::take_pending`).
            errors: false,
            ..self.options
        };
        let socket = UdpSocket::connect(backend, &options)?;
        let own = self.own.note(socket.local_addr());
        epoll.add(socket.as_fd(), token.bits(), Interest::Read)?;
        let slot = slot as usize;
        if self.flows.len() <= slot {
            self.flows.resize_with(slot + 1, || None);
        }
        self.flows[slot] = Some(Flow { socket, _own: own });
        Ok(())
    }

    /// Closes the socket of an HTTP/3 flow.
    pub(in crate::shard) fn close_flow(&mut self, slot: u32) {
        if let Some(flow) = self.flows.get_mut(slot as usize) {
            *flow = None;
        }
    }

    /// The relay socket in `slot`, if its generation still is `generation`.
    pub(in crate::shard) fn relay(&self, slot: u32, generation: u32) -> Option<(&UdpSocket, RelayId)> {
        let relay = self.relays.get(slot as usize)?.as_ref()?;
        (Token::relay(relay.id) == Token::Relay { slot, generation }).then_some((&relay.socket, relay.id))
    }

    /// Takes note that a relay socket is read in `turn`. Returns whose it is, and whether it was
    /// read in the turn before.
    pub(in crate::shard) fn begin_read(&mut self, slot: u32, generation: u32, turn: u64) -> Option<(RelayId, bool)> {
        let relay = self.relays.get_mut(slot as usize)?.as_mut()?;
        if Token::relay(relay.id) != (Token::Relay { slot, generation }) {
            return None;
        }
        let last = relay.read_in.replace(turn);
        Some((relay.id, last.is_some_and(|last| last + 1 == turn)))
    }

    /// Whether the relay socket named `id` is open.
    pub(in crate::shard) fn is_open(&self, id: RelayId) -> bool {
        self.relays
            .get(relay_slot(id) as usize)
            .is_some_and(|slot| slot.as_ref().is_some_and(|relay| relay.id == id))
    }

    /// Opens, binds and watches a relay socket.
    ///
    /// # Errors
    /// Those of the system; nothing stays open then.
    pub(in crate::shard) fn open(&mut self, epoll: &Epoll, id: RelayId, bind: SocketAddr) -> io::Result<()> {
        let socket = UdpSocket::bind(bind, &self.options)?;
        self.attach(epoll, id, socket)
    }

    /// Watches a relay socket that another shard has opened.
    ///
    /// # Errors
    /// Those of the system; the socket is closed then.
    pub(in crate::shard) fn attach(&mut self, epoll: &Epoll, id: RelayId, socket: UdpSocket) -> io::Result<()> {
        epoll.add(socket.as_fd(), Token::relay(id).bits(), Interest::Read)?;
        let slot = relay_slot(id) as usize;
        if self.relays.len() <= slot {
            self.relays.resize_with(slot + 1, || None);
        }
        self.relays[slot] = Some(Relay {
            socket,
            id,
            read_in: None,
        });
        Ok(())
    }

    /// Which relay socket stands in the place of `id`.
    pub(in crate::shard) fn occupant(&self, id: RelayId) -> Option<RelayId> {
        let relay = self.relays.get(relay_slot(id) as usize)?.as_ref()?;
        Some(relay.id)
    }

    /// Watches a relay socket no more and gives it away.
    pub(in crate::shard) fn detach(&mut self, epoll: &Epoll, id: RelayId) -> Option<UdpSocket> {
        let socket = self.take(id)?;
        // It is watched, so this succeeds; were it not, there would be nothing to undo.
        let _ = epoll.remove(socket.as_fd());
        Some(socket)
    }

    /// Closes a relay socket; `false` if it was not open.
    pub(in crate::shard) fn close(&mut self, id: RelayId) -> bool {
        self.take(id).is_some()
    }

    fn take(&mut self, id: RelayId) -> Option<UdpSocket> {
        if !self.is_open(id) {
            return None;
        }
        let relay = self.relays[relay_slot(id) as usize].take();
        // Memory of a crowd that has gone is given back in large steps.
        while let Some(None) = self.relays.last() {
            self.relays.pop();
        }
        if self.relays.capacity() > 1024 && self.relays.len() < self.relays.capacity() / 4 {
            self.relays.shrink_to(self.relays.capacity() / 2);
        }
        relay.map(|relay| relay.socket)
    }

    /// Whether every socket coalesces received and segments sent datagrams.
    pub(in crate::shard) fn offloads(&self) -> (bool, bool) {
        let mut all = self.listeners.iter().map(|listener| &listener.socket);
        (all.clone().all(UdpSocket::uses_gro), all.all(UdpSocket::uses_gso))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Family;
    use crate::turn::types::AllocationId;

    const OPTIONS: UdpOptions = UdpOptions {
        receive_buffer: 0,
        send_buffer: 0,
        offload: true,
        errors: true,
        traffic_class: true,
    };

    fn id(index: u32, generation: u32) -> RelayId {
        RelayId {
            allocation: AllocationId { index, generation },
            family: Family::V4,
        }
    }

    fn sockets() -> (Sockets, Epoll) {
        let listener = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &OPTIONS).unwrap();
        let sockets = Sockets::new(vec![listener.into()], 3, OPTIONS, OwnSockets::default());
        (sockets, Epoll::new(8).unwrap())
    }

    #[test]
    fn numbers_name_listeners_first_then_flows_and_relays_behind() {
        let (mut sockets, epoll) = sockets();
        let backend = sockets.udp_listener(0).unwrap().local_addr();
        let token = Token::Http3 { slot: 1, generation: 0 };
        sockets.open_flow(&epoll, 1, token, backend).unwrap();
        sockets.open(&epoll, id(3, 1), "127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!((sockets.flow_egress(1), sockets.relay_egress(id(3, 1))), (2, 10));
        assert_eq!(sockets.egress_count(), 11);
        let open = |sockets: &Sockets| (0..12).filter(|&n| sockets.by_egress(n).is_some()).collect::<Vec<_>>();
        assert_eq!(open(&sockets), [0, 2, 10]);
        let local = sockets.flow(1).unwrap().local_addr();
        assert!(sockets.own.has(local), "nobody's peer");
        sockets.close_flow(1);
        assert!(!sockets.own.has(local));
        assert_eq!(open(&sockets), [0, 10]);
        assert!(sockets.flow(1).is_none() && sockets.flow(9).is_none());
    }

    #[test]
    fn a_stale_name_finds_nothing_in_a_reused_slot() {
        let (mut sockets, epoll) = sockets();
        let any = "127.0.0.1:0".parse().unwrap();
        sockets.open(&epoll, id(0, 1), any).unwrap();
        assert!(sockets.relay(0, 1).is_some());
        assert!(sockets.close(id(0, 1)));
        assert!(!sockets.close(id(0, 1)));
        sockets.open(&epoll, id(0, 2), any).unwrap();
        assert!(sockets.relay(0, 1).is_none() && sockets.relay(0, 2).is_some());
        assert!(
            !sockets.close(id(0, 1)),
            "a late close of the old one leaves the new one open"
        );
        assert!(sockets.is_open(id(0, 2)));
    }

    #[test]
    fn a_relay_socket_read_in_two_turns_running_is_known_to_have_more() {
        let (mut sockets, epoll) = sockets();
        sockets.open(&epoll, id(0, 1), "127.0.0.1:0".parse().unwrap()).unwrap();
        let reads = [0, 1, 2, 4].map(|turn| sockets.begin_read(0, 1, turn).map(|(_, again)| again));
        assert_eq!(reads, [Some(false), Some(true), Some(true), Some(false)]);
        assert_eq!(sockets.begin_read(0, 2, 5), None, "a stale token");
    }

    #[test]
    fn a_port_in_use_is_told_and_leaves_nothing_behind() {
        let (mut sockets, epoll) = sockets();
        let taken = sockets.udp_listener(0).unwrap().local_addr();
        let error = sockets.open(&epoll, id(0, 1), taken).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(sockets.egress_count(), 4);
    }

    /// A table with room for `capacity`, and relay sockets of these allocations.
    fn with_room(capacity: usize, allocations: &[u32]) -> (Sockets, Epoll) {
        let (mut sockets, epoll) = sockets();
        sockets.relays = Vec::with_capacity(capacity);
        for &index in allocations {
            sockets
                .open(&epoll, id(index, 1), "127.0.0.1:0".parse().unwrap())
                .unwrap();
        }
        (sockets, epoll)
    }

    #[test]
    fn the_table_shrinks_by_half_when_three_quarters_of_a_crowd_have_gone() {
        // Two slots for each allocation.
        let (mut sockets, _epoll) = with_room(4004, &[501, 500, 499]);
        let mut sizes = |slot| {
            assert!(sockets.close(id(slot, 1)));
            (sockets.relays.len(), sockets.relays.capacity())
        };
        assert_eq!(sizes(501), (1001, 4004), "a quarter of it is in use");
        assert_eq!(sizes(500), (999, 2002));
        assert_eq!(sizes(499), (0, 1001));
    }

    #[test]
    fn a_small_table_stays_as_it_is() {
        let (mut sockets, _epoll) = with_room(1024, &[3, 1]);
        assert!(sockets.close(id(3, 1)));
        assert_eq!((sockets.relays.len(), sockets.relays.capacity()), (3, 1024));
    }

    #[test]
    fn a_relay_socket_that_is_given_away_is_watched_no_more() {
        let (mut sockets, mut epoll) = sockets();
        let any = "127.0.0.1:0".parse().unwrap();
        sockets.open(&epoll, id(0, 1), any).unwrap();
        let to = sockets.relay(0, 1).unwrap().0.local_addr();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"x", to).unwrap();
        let ready = |epoll: &mut Epoll| epoll.wait(Some(core::time::Duration::ZERO)).unwrap();
        assert_eq!(ready(&mut epoll), 1);
        let socket = sockets.detach(&epoll, id(0, 1)).unwrap();
        assert_eq!(ready(&mut epoll), 0);
        assert!(sockets.detach(&epoll, id(0, 1)).is_none());
        sockets.attach(&epoll, id(7, 2), socket).unwrap();
        assert_eq!(ready(&mut epoll), 1);
        assert_eq!(sockets.relays.len(), 15);
    }

    #[test]
    fn a_reply_leaves_by_the_listener_bound_to_its_address_or_to_all_of_its_family() {
        let bind = |at: &str| Listener::from(UdpSocket::bind(at.parse().unwrap(), &OPTIONS).unwrap());
        let listeners = vec![bind("127.0.0.1:0"), bind("0.0.0.0:0"), bind("[::]:0"), bind("[::1]:0")];
        let ports: Vec<u16> = listeners.iter().map(|it| it.socket.local_addr().port()).collect();
        let sockets = Sockets::new(listeners, 0, OPTIONS, OwnSockets::default());
        let at = |ip: &str, port| sockets.listener_at(SocketAddr::new(ip.parse().unwrap(), port));
        assert_eq!(at("127.0.0.1", ports[0]), Some(0));
        assert_eq!(at("127.0.0.2", ports[0]), None);
        assert_eq!(at("127.0.0.2", ports[1]), Some(1));
        assert_eq!(at("::2", ports[2]), Some(2));
        assert_eq!(at("127.0.0.1", ports[2]), None, "of another family");
        assert_eq!(at("::1", ports[3]), Some(3));
        assert_eq!(at("::2", ports[3]), None);
    }

    #[test]
    fn a_worker_coalesces_and_segments_only_if_all_its_listeners_do() {
        let bind = |offload| {
            let options = UdpOptions { offload, ..OPTIONS };
            Listener::from(UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap())
        };
        let offloads = |listeners| Sockets::new(listeners, 0, OPTIONS, OwnSockets::default()).offloads();
        assert_eq!(offloads(vec![bind(true), bind(true)]), (true, true));
        assert_eq!(offloads(vec![bind(true), bind(false)]), (false, false));
        assert_eq!(offloads(vec![bind(false), bind(true)]), (false, false));
    }
}
