//! The network between clients, server and peers: it delays, loses, duplicates and reorders
//! packets, and rebinds addresses.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use relay_net::stream::QueueKind;
use relay_proto::base::address::{Family, Transport};
use relay_proto::turn::types;

use crate::message::{Packet, Told};
use crate::world::{Event, Payload, World};

/// Most bytes in a UDP datagram of this family.
pub(crate) const fn most_in_a_datagram(addr: SocketAddr) -> usize {
    if addr.is_ipv4() { 65_535 - 20 - 8 } else { 65_535 - 8 }
}

impl World {
    /// When the copies of a datagram arrive: none, one or several.
    fn copies(&mut self) -> Vec<Duration> {
        let weather = self.weather;
        if self.dice.per_mille(weather.loss) {
            return Vec::new();
        }
        let copies = if self.dice.per_mille(weather.duplication) {
            2 + self.dice.index(2)
        } else {
            1
        };
        (0..copies)
            .map(|_| {
                let delay = self.dice.millis(weather.latency, weather.latency + weather.jitter);
                if self.dice.per_mille(weather.straying) {
                    delay + self.dice.millis(0, 60_000)
                } else {
                    delay
                }
            })
            .collect()
    }

    /// A client sends a packet over its transport.
    pub(crate) fn client_sends(&mut self, index: usize, packet: Packet) {
        let client = &self.clients[index];
        if client.transport.is_stream() {
            if let Some(conn) = client.conn {
                self.write_stream(conn, packet);
            }
            return;
        }
        if client.dark_until > self.mono || packet.bytes.len() > most_in_a_datagram(client.addr) {
            return;
        }
        let (from, to) = (client.addr, client.server);
        for delay in self.copies() {
            self.after(
                delay,
                Event::ToServer {
                    from,
                    to,
                    packet: packet.clone(),
                },
            );
        }
        if matches!(packet.told, Told::Request(_)) && self.dice.percent(10) {
            self.board.captured.push(packet);
            if self.board.captured.len() > 32 {
                let oldest = self.dice.index(8);
                self.board.captured.swap_remove(oldest);
            }
        }
    }

    /// Sends a response to a client.
    pub(crate) fn respond(&mut self, client: &types::Client, bytes: &[u8]) {
        self.digest(bytes);
        if client.five_tuple.transport == Transport::Tcp {
            self.queue_stream(client.link.0, QueueKind::Control, bytes, &[], 0);
        } else {
            self.datagram_to_client(client.five_tuple.client, bytes.into());
        }
    }

    /// Sends application data to a client.
    pub(crate) fn send_data(&mut self, client: &types::Client, header: &[u8], data: &[u8], padding: usize) {
        let bytes = [header, data, &[0; 3][..padding]].concat();
        self.digest(&bytes);
        if client.five_tuple.transport == Transport::Tcp {
            self.queue_stream(client.link.0, QueueKind::Data, header, data, padding);
        } else {
            self.datagram_to_client(client.five_tuple.client, bytes.into());
        }
    }

    fn datagram_to_client(&mut self, to: SocketAddr, bytes: Payload) {
        for delay in self.copies() {
            self.after(
                delay,
                Event::ToClient {
                    to,
                    bytes: Rc::clone(&bytes),
                },
            );
        }
    }

    /// Delivers to the client that has the address now.
    pub(crate) fn datagram_at_client(&mut self, to: SocketAddr, bytes: &Payload) {
        let here = |client: &crate::client::Client| !client.transport.is_stream() && client.addr == to;
        let Some(index) = self.clients.iter().position(here) else {
            return;
        };
        if self.clients[index].dark_until <= self.mono {
            self.bytes_at_client(index, Rc::clone(bytes));
        }
    }

    pub(crate) fn send_to_peer(&mut self, from: SocketAddr, peer: SocketAddr, payload: Payload) {
        self.digest(&payload);
        for delay in self.copies() {
            self.after(
                delay,
                Event::ToPeer {
                    peer,
                    from,
                    payload: Rc::clone(&payload),
                },
            );
        }
    }

    pub(crate) fn send_to_relay(&mut self, from: SocketAddr, relayed: SocketAddr, payload: Payload) {
        if payload.len() > most_in_a_datagram(from) {
            return;
        }
        for delay in self.copies() {
            self.after(
                delay,
                Event::ToRelay {
                    relayed,
                    from,
                    payload: Rc::clone(&payload),
                },
            );
        }
    }

    /// An unused address behind a NAT, occasionally one that was used before.
    pub(crate) fn public_address(&mut self, family: Family) -> SocketAddr {
        loop {
            let (host, port) = (self.dice.between(1, 6) as u8, 5000 + self.dice.below(200) as u16);
            let ip = match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, host)),
                Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, host.into(), 0, 0, 0, 1)),
            };
            let addr = SocketAddr::new(ip, port);
            let taken = self.clients.iter().any(|client| client.addr == addr)
                || self.conns.values().any(|conn| conn.client.five_tuple.client == addr);
            if !taken {
                return addr;
            }
        }
    }
}
