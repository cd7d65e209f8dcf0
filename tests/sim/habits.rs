//! What clients do on their own: allocate, refresh, permit, bind, send, call each other, hang up.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use relay_proto::base::address::Family;
use relay_proto::base::time::Instant;
use relay_proto::wire::integrity::PasswordAlgorithm;

use crate::client::{Client, Lease};
use crate::message::{Ask, Login, Packet, Wanted};
use crate::oracle::{CHANNEL, PERMISSION, RESERVATION};
use crate::places;
use crate::stream::StreamEvent;
use crate::world::{Event, World};

/// Most bytes in a Send indication to an IPv6 peer with DONT-FRAGMENT.
const MOST_IN_STUN: usize = 65_532 - 24 - 4 - 4;

impl World {
    /// A client does something, or nothing.
    pub(crate) fn tick(&mut self, index: usize) {
        if self.quiet {
            return;
        }
        self.act(index);
        let gap = match self.dice.below(100) {
            0..=85 => self.dice.millis(5, 1500),
            86..=96 => self.dice.millis(2_000, 60_000),
            _ => self.dice.millis(60_000, 400_000),
        };
        self.after(gap, Event::Tick(index));
    }

    fn act(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.transport.is_stream() && client.conn.is_none() {
            let conn = self.connect(index);
            self.clients[index].conn = Some(conn);
        }
        if self.clients[index].pending.len() > 8 {
            return;
        }
        if self.dice.percent(self.clients[index].rogue) {
            self.misbehave(index);
            return;
        }
        if self.clients[index].lease.is_none() {
            match self.dice.below(10) {
                0 => self.ask(index, Ask::Binding, 0),
                _ => self.allocate(index),
            }
            return;
        }
        self.keep_alive(index);
        match self.dice.below(100) {
            0..=39 => self.send_some(index),
            40..=51 => self.permit(index),
            52..=65 => self.bind(index),
            66..=69 => self.ask(
                index,
                Ask::Refresh {
                    lifetime: Some(0),
                    family: None,
                },
                0,
            ),
            70..=75 => self.refresh(index),
            76..=84 => self.probe(index),
            85..=95 => self.call(index),
            96 => self.hang_up(index),
            _ => {}
        }
    }

    fn allocate(&mut self, index: usize) {
        if self.clients[index]
            .pending
            .values()
            .any(|pending| matches!(pending.request.ask, Ask::Allocate(_)))
        {
            return;
        }
        let lifetime = *self.dice.pick(&[
            None,
            None,
            Some(0),
            Some(1),
            Some(599),
            Some(601),
            Some(777),
            Some(u32::MAX),
        ]);
        let mut wanted = Wanted {
            lifetime,
            ..Wanted::default()
        };
        match self.dice.below(20) {
            0..=8 => {}
            9..=11 => wanted.family = Some(Family::V6),
            12 => wanted.family = Some(Family::V4),
            13..=14 => wanted.dual = true,
            15 => wanted.even = Some(false),
            16..=17 => wanted.even = Some(true),
            _ => wanted.token = Some(self.board.tokens.last().map_or([7; 8], |&(token, ..)| token)),
        }
        // A client has just reserved a port. The other half of the same program most likely wants
        // it.
        let fresh = self
            .board
            .tokens
            .last()
            .filter(|(_, _, since)| self.mono < *since + RESERVATION);
        if let Some((token, login, _)) = fresh.cloned()
            && self.dice.percent(60)
        {
            wanted = Wanted {
                token: Some(token),
                ..Wanted::default()
            };
            if self.dice.percent(90) {
                // SHA-256 only if offered.
                let offered = self.clients[index].nonce.starts_with(b"obMatJos2");
                let algorithm = if offered {
                    login.algorithm
                } else {
                    PasswordAlgorithm::Md5
                };
                self.clients[index].login = match login.username.split_once(':') {
                    // Perhaps with a credential of its own.
                    Some((_, userid)) if self.dice.percent(50) => self.minted(userid, algorithm),
                    _ => Login::new(&login.username, &login.password, algorithm),
                };
            }
        }
        self.ask(index, Ask::Allocate(wanted), 0);
    }

    /// Renews what is about to expire, with a margin that is sometimes too small.
    fn keep_alive(&mut self, index: usize) {
        let (mono, margin) = (self.mono, self.dice.millis(0, 60_000));
        let Some(lease) = self.clients[index].lease.clone() else {
            return;
        };
        if lease.until < mono + margin {
            self.ask(
                index,
                Ask::Refresh {
                    lifetime: None,
                    family: None,
                },
                0,
            );
        }
        let old = |since: Instant, lifetime: Duration| since + lifetime < mono + margin;
        for (number, (peer, _)) in lease.channels.iter().filter(|(_, (_, since))| old(*since, CHANNEL)) {
            self.ask(
                index,
                Ask::ChannelBind {
                    number: *number,
                    peer: *peer,
                },
                0,
            );
        }
        let peers: Vec<SocketAddr> = lease
            .permitted
            .iter()
            .filter(|&(_, &since)| old(since, PERMISSION))
            .map(|(&ip, _)| (ip, 0).into())
            .collect();
        if !peers.is_empty() && self.dice.percent(80) {
            self.ask(index, Ask::CreatePermission { peers }, 0);
        }
    }

    fn refresh(&mut self, index: usize) {
        let lifetime = *self
            .dice
            .pick(&[None, Some(1), Some(600), Some(1200), Some(3600), Some(u32::MAX)]);
        let family = *self.dice.pick(&[None, None, Some(Family::V4), Some(Family::V6)]);
        let lifetime = if family.is_some() && self.dice.percent(30) {
            Some(0)
        } else {
            lifetime
        };
        self.ask(index, Ask::Refresh { lifetime, family }, 0);
    }

    /// A peer this client could reach.
    pub(crate) fn reachable(&mut self, index: usize) -> SocketAddr {
        let v6 = self.clients[index]
            .lease
            .as_ref()
            .is_some_and(|lease| lease.relayed.iter().any(SocketAddr::is_ipv6));
        let v4 = self.clients[index]
            .lease
            .as_ref()
            .is_none_or(|lease| lease.relayed.iter().any(SocketAddr::is_ipv4));
        let open = places::ALWAYS_OPEN + 3;
        let fits = |peer: &SocketAddr| if peer.is_ipv4() { v4 } else { v6 };
        let peers: Vec<SocketAddr> = self.peers[..open].iter().copied().filter(fits).collect();
        self.dice.maybe_pick(&peers).unwrap_or(self.peers[0])
    }

    fn permit(&mut self, index: usize) {
        let peers = (0..self.dice.between(1, 3)).map(|_| self.reachable(index)).collect();
        self.ask(index, Ask::CreatePermission { peers }, 0);
    }

    fn bind(&mut self, index: usize) {
        let peer = self.reachable(index);
        // RFC 5766 clients may start with any number.
        let first = *self.dice.pick(&[0x4000, 0x4000, 0x4FFE, 0x5000, 0x7F00]);
        let first = if self.setup.rfc5766_channels { first } else { 0x4000 };
        let Some(lease) = &self.clients[index].lease else {
            return;
        };
        let bound = lease
            .channels
            .iter()
            .find(|(_, (bound, _))| *bound == peer)
            .map(|(&number, _)| number);
        let free = (first..=0x7FFF).find(|number| !lease.channels.contains_key(number));
        let number = bound.or(free).expect("a free number");
        self.ask(index, Ask::ChannelBind { number, peer }, 0);
    }

    /// A few packets of media.
    fn send_some(&mut self, index: usize) {
        for _ in 0..self.dice.between(1, 5) {
            let Some(lease) = self.clients[index].lease.clone() else {
                return;
            };
            let channels: Vec<u16> = lease.channels.keys().copied().collect();
            let ips: Vec<IpAddr> = lease.permitted.keys().copied().collect();
            if self.dice.percent(60)
                && let Some(number) = self.dice.maybe_pick(&channels)
            {
                let data = self.media();
                self.send_channel(index, number, &data);
            } else if let Some(ip) = self.dice.maybe_pick(&ips) {
                let same: Vec<SocketAddr> = self.peers.iter().copied().filter(|peer| peer.ip() == ip).collect();
                let peer = self.dice.maybe_pick(&same).unwrap_or_else(|| self.reachable(index));
                self.send_to(index, peer);
            }
        }
    }

    pub(crate) fn send_to(&mut self, index: usize, peer: SocketAddr) {
        let (id, data, df) = (self.transaction(), self.media(), self.dice.percent(10));
        let most = data.len().min(MOST_IN_STUN);
        self.client_sends(index, Packet::send(id, peer, &data[..most], df));
    }

    pub(crate) fn send_channel(&mut self, index: usize, number: u16, data: &[u8]) {
        let pad = if self.clients[index].transport.is_stream() {
            data.len().next_multiple_of(4) - data.len()
        } else {
            self.dice.index(4)
        };
        self.client_sends(index, Packet::channel(number, data, pad));
    }

    /// Calls another client: both sides permit the relay's address, and send to the other's relayed
    /// address.
    fn call(&mut self, index: usize) {
        let Some(lease) = self.clients[index].lease.clone() else {
            return;
        };
        let v4 = |lease: &Lease| lease.relayed.iter().copied().find(SocketAddr::is_ipv4);
        let other = |(i, client): (usize, &Client)| (i != index).then(|| client.lease.as_ref().and_then(v4)).flatten();
        let others: Vec<SocketAddr> = self.clients.iter().enumerate().filter_map(other).collect();
        let dead = self.dice.percent(10);
        let peer = if dead {
            self.dice.maybe_pick(&self.board.relayed)
        } else {
            self.dice.maybe_pick(&others)
        };
        let Some(peer) = peer else { return };
        let bound = lease
            .channels
            .iter()
            .find(|(_, (bound, _))| *bound == peer)
            .map(|(&number, _)| number);
        if let Some(number) = bound {
            let data = self.payload();
            self.send_channel(index, number, &data);
        } else if lease.permitted.contains_key(&peer.ip()) {
            self.send_to(index, peer);
            if self.dice.percent(10) {
                let free = (0x4000..0x4FFF).find(|number| !lease.channels.contains_key(number));
                self.ask(
                    index,
                    Ask::ChannelBind {
                        number: free.expect("a free number"),
                        peer,
                    },
                    0,
                );
            }
        } else {
            self.ask(index, Ask::CreatePermission { peers: vec![peer] }, 0);
        }
    }

    /// Closes the stream in order, or without.
    fn hang_up(&mut self, index: usize) {
        if let Some(conn) = self.clients[index].conn {
            if self.dice.percent(30) {
                return self.reconnect(index, conn);
            }
            let event = if self.dice.percent(50) {
                StreamEvent::End
            } else {
                StreamEvent::Reset
            };
            let delay = self.dice.millis(1, 100);
            self.after(delay, Event::Stream { conn, event });
        }
    }

    /// Returns from the same port before the server has noticed the end of the previous connection.
    fn reconnect(&mut self, index: usize, before: u64) {
        let Some(old) = self.conns.get_mut(&before) else { return };
        (old.cut, old.stalled) = (true, true);
        let shard = old.shard;
        let conn = self.connect(index);
        // On another shard the two would not meet.
        self.conns.get_mut(&conn).expect("it is there").shard = shard;
        let client = &mut self.clients[index];
        (client.conn, client.lease) = (Some(conn), None);
        client.pending.clear();
        let noticed = self.dice.millis(0, 2000);
        let event = StreamEvent::Reset;
        self.after(noticed, Event::Stream { conn: before, event });
        self.oracle.mark("a stream in the place of another");
    }
}
