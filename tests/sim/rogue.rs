//! Misbehaving clients: they guess, replay, forge, and try what is forbidden. Also probes: packets
//! that arrive a nanosecond before and after a deadline.

use core::time::Duration;
use std::net::SocketAddr;
use std::rc::Rc;

use relay_proto::base::address::{Family, FiveTuple, Transport};
use relay_proto::base::time::Instant;
use relay_proto::turn::types::{Client, Link};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::integrity::PasswordAlgorithm;
use relay_proto::wire::message::{Class, Method, TransactionId};
use relay_proto::wire::writer::MessageWriter;

use crate::message::{Ask, Flaw, Login, Packet, Request, Told, Wanted};
use crate::oracle::Deadline;
use crate::places::{announced, family};
use crate::setup::{MAX_TTL, SKEW, mint};
use crate::trace;
use crate::world::{Event, World};

const NANO: Duration = Duration::from_nanos(1);

impl World {
    pub(crate) fn misbehave(&mut self, index: usize) {
        trace::note(|| format!("client {index} misbehaves"));
        if self.setup.strict && self.dice.percent(10) {
            return self.hammer(index);
        }
        match self.dice.below(20) {
            0..=1 => self.guess(index),
            2 => self.stale_login(index),
            3..=4 => self.replay(index),
            5..=6 => self.forge(index),
            7..=8 => self.borrow_login(index),
            9..=10 => self.flawed(index),
            11..=12 => self.unwanted(index),
            13 => self.not_a_request(index),
            14 => self.garbage(index),
            15..=16 => self.uninvited(index),
            17 => self.allocate_again(index),
            18 => self.anonymous(index),
            _ => self.wrong_channel(index),
        }
    }

    fn any_ask(&mut self, index: usize) -> Ask {
        let peer = self.reachable(index);
        match self.dice.below(5) {
            0 => Ask::Allocate(Wanted::default()),
            1 => Ask::Refresh {
                lifetime: Some(0),
                family: None,
            },
            2 => Ask::Refresh {
                lifetime: None,
                family: None,
            },
            3 => Ask::CreatePermission { peers: vec![peer] },
            _ => Ask::ChannelBind {
                number: 0x4000 + self.dice.below(3) as u16,
                peer,
            },
        }
    }

    /// Sends a request with this login instead of the client's own, and ignores the response.
    fn send_request(&mut self, index: usize, ask: Ask, login: Option<Rc<Login>>, flaw: Option<Flaw>) {
        let (id, fingerprint) = (self.transaction(), self.dice.percent(30));
        let nonce = self.clients[index].nonce.clone();
        let request = Rc::new(Request {
            id,
            ask,
            login,
            nonce,
            flaw,
            fingerprint,
        });
        self.client_sends(index, Packet::request(&request));
    }

    /// Very many requests at once.
    fn hammer(&mut self, index: usize) {
        let kind = self.dice.below(4);
        for _ in 0..self.dice.between(20, 150) {
            match kind {
                0 => self.guess(index),
                1 => self.anonymous(index),
                2 => self.send_request(index, Ask::Binding, None, None),
                _ => {
                    let peers = vec![self.reachable(index)];
                    let login = Rc::clone(&self.clients[index].login);
                    self.send_request(index, Ask::CreatePermission { peers }, Some(login), None);
                }
            }
        }
    }

    /// A wrong password, or an unknown user.
    fn guess(&mut self, index: usize) {
        let ask = self.any_ask(index);
        let username = self.clients[index].login.username.clone();
        let login = match self.dice.below(3) {
            0 => Login::new(&username, "wrong", PasswordAlgorithm::Md5),
            1 => Login::new("mallory", "password", PasswordAlgorithm::Md5),
            _ => {
                let username = format!("{}:alice", self.now().unix.0 + 600);
                Login::new(&username, &mint("not the secret", &username), PasswordAlgorithm::Md5)
            }
        };
        self.send_request(index, ask, Some(login), None);
    }

    /// A time-limited credential that has expired, or expires later than allowed, or just within
    /// the limit.
    fn stale_login(&mut self, index: usize) {
        let now = self.now().unix.0;
        let latest = now + MAX_TTL + SKEW;
        let expiry = *self.dice.pick(&[now - 1, now, now + 1, now + 2, latest, latest + 2, 0]);
        let username = format!("{expiry}:alice");
        let secret = self.dice.pick(&self.site.rules.secrets).clone();
        let login = Login::new(&username, &mint(&secret, &username), PasswordAlgorithm::Md5);
        let ask = self.any_ask(index);
        self.send_request(index, ask, Some(login), None);
    }

    /// Repeats another client's request from here.
    fn replay(&mut self, index: usize) {
        if let Some(packet) = self.dice.maybe_pick(&self.board.captured) {
            self.client_sends(index, packet);
        }
    }

    /// A valid request with one bit flipped in its signed part or in the signature.
    fn forge(&mut self, index: usize) {
        let ask = self.any_ask(index);
        let (id, nonce) = (self.transaction(), self.clients[index].nonce.clone());
        let login = Rc::clone(&self.clients[index].login);
        let signature = login.integrity().value_len();
        let request = Request {
            id,
            ask,
            login: Some(login),
            nonce,
            flaw: None,
            fingerprint: false,
        };
        let mut bytes = request.encode();
        // On a stream the framing must not change. ChannelData differs in the first two bits.
        let first = if self.clients[index].transport.is_stream() {
            8 * 8
        } else {
            2
        };
        let bit = if self.dice.percent(20) {
            self.dice
                .between((bytes.len() - signature) as u64 * 8, bytes.len() as u64 * 8 - 1)
        } else {
            self.dice.between(first, bytes.len() as u64 * 8 - 1)
        } as usize;
        bytes[bit / 8] ^= 0x80 >> (bit % 8);
        self.client_sends(
            index,
            Packet {
                bytes: bytes.into(),
                told: Told::Spoiled,
            },
        );
    }

    /// Another user's login, on this five-tuple.
    fn borrow_login(&mut self, index: usize) {
        let user = self.dice.index(self.setup.users.len());
        let (login, ask) = (self.login_of(user, false), self.any_ask(index));
        self.send_request(index, ask, Some(login), None);
    }

    fn flawed(&mut self, index: usize) {
        let flaw = *self
            .dice
            .pick(&[Flaw::NoNonce, Flaw::Unknown, Flaw::BadLength, Flaw::Tail, Flaw::Tail]);
        let ask = match flaw {
            Flaw::BadLength if self.dice.percent(50) => Ask::Allocate(Wanted::default()),
            Flaw::BadLength => Ask::Refresh {
                lifetime: None,
                family: None,
            },
            _ => self.any_ask(index),
        };
        let login = Rc::clone(&self.clients[index].login);
        self.send_request(index, ask, Some(login), Some(flaw));
    }

    /// Forbidden peers, wrong families, wrong numbers.
    fn unwanted(&mut self, index: usize) {
        let (any, good) = (*self.dice.pick(&self.peers.clone()), self.reachable(index));
        let own = self.clients[index]
            .lease
            .as_ref()
            .map_or(good, |lease| lease.relayed[0]);
        let outside = SocketAddr::new(announced(Family::V4), self.site.rules.ports.end() + 1);
        let ask = match self.dice.below(7) {
            0 => Ask::CreatePermission { peers: vec![good, any] },
            1 => Ask::CreatePermission { peers: vec![] },
            2 => Ask::ChannelBind {
                number: *self.dice.pick(&[0, 0x3FFF, 0x5000, 0xFFFF]),
                peer: good,
            },
            3 => Ask::ChannelBind {
                number: 0x4100,
                peer: SocketAddr::new(good.ip(), 0),
            },
            4 => Ask::ChannelBind {
                number: 0x4200 + self.dice.below(8) as u16,
                peer: any,
            },
            5 => Ask::ChannelBind {
                number: 0x4300,
                peer: own,
            },
            _ => Ask::ChannelBind {
                number: 0x4400,
                peer: outside,
            },
        };
        let login = Rc::clone(&self.clients[index].login);
        self.send_request(index, ask, Some(login), None);
    }

    /// Responses and indications, which are never answered.
    fn not_a_request(&mut self, index: usize) {
        let (id, peer) = (self.transaction(), self.reachable(index));
        let classes = [Class::Success, Class::Error, Class::Indication];
        let methods = [
            Method::Binding,
            Method::Allocate,
            Method::Refresh,
            Method::ChannelBind,
            Method::Data,
        ];
        let (class, method) = (*self.dice.pick(&classes), *self.dice.pick(&methods));
        let packet = match self.dice.below(4) {
            0 => Packet::unknown_send(id, peer, b"unknown"),
            1 => Packet::nothing(message(Class::Request, Method::Send, id)),
            2 => Packet::nothing(message(Class::Request, Method::Connect, id)),
            _ => Packet::nothing(message(class, method, id)),
        };
        self.client_sends(index, packet);
    }

    fn garbage(&mut self, index: usize) {
        let len = self.dice.index(300);
        let mut bytes = self.dice.bytes(len.max(1));
        if self.clients[index].transport.is_stream() {
            bytes[0] = *self.dice.pick(&[4, 20, 0x16, 0x80, 0xFF]);
            self.client_sends(index, Packet::poison(bytes));
        } else {
            // Not ChannelData, which could be valid.
            let wide = self.setup.rfc5766_channels;
            bytes[0] = *self
                .dice
                .pick(&[0, 1, 3, 4, 20, 0x80, 0xFF, if wide { 4 } else { 0x50 }]);
            self.client_sends(index, Packet::nothing(bytes));
        }
    }

    /// Application data without any request.
    fn uninvited(&mut self, index: usize) {
        let peer = *self.dice.pick(&self.peers.clone());
        if self.clients[index].lease.is_some() || !self.clients[index].transport.is_stream() {
            self.send_to(index, peer);
        }
    }

    fn wrong_channel(&mut self, index: usize) {
        let (number, data) = (
            *self.dice.pick(&[0x4000, 0x4001, 0x4ABC, 0x5000, 0x7FFF]),
            self.dice.bytes(16),
        );
        // At the start of a stream, bytes that are not STUN and look like something else.
        if self.clients[index].lease.is_some() || !self.clients[index].transport.is_stream() {
            self.send_channel(index, number, &data);
        }
    }

    fn allocate_again(&mut self, index: usize) {
        self.ask(index, Ask::Allocate(Wanted::default()), 0);
    }

    fn anonymous(&mut self, index: usize) {
        let ask = self.any_ask(index);
        self.send_request(index, ask, None, None);
    }

    /// Sends packets that arrive just before and just after a deadline of what the client holds.
    pub(crate) fn probe(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.transport.is_stream() {
            return;
        }
        let (from, to) = (client.addr, client.server);
        let five_tuple = FiveTuple {
            client: from,
            server: to,
            transport: Transport::Udp,
        };
        let Some(held) = self.oracle.of(&Client {
            five_tuple,
            link: Link(0),
        }) else {
            return;
        };
        let mut probes: Vec<(Deadline, SocketAddr, Option<u16>)> = Vec::new();
        for (&ip, &until) in &held.permissions {
            probes.extend(
                self.peers
                    .iter()
                    .filter(|peer| peer.ip() == ip)
                    .map(|&peer| (until, peer, None)),
            );
        }
        for (&number, &(peer, until)) in &held.channels {
            probes.push((until, peer, Some(number)));
            probes.extend(held.halves[family(peer) as usize].map(|half| (half.until, peer, Some(number))));
        }
        let relayed = held.given.clone();
        let Some((until, peer, number)) = self.dice.maybe_pick(&probes) else {
            return;
        };
        for at in [Instant::from_nanos(until.at.as_nanos() - 1), until.at + NANO] {
            let data = self.payload();
            let id = self.transaction();
            let packet = match number {
                Some(number) if self.dice.percent(50) => Packet::channel(number, &data, 0),
                _ => Packet::send(id, peer, &data, false),
            };
            self.at(at, Event::ToServer { from, to, packet });
            if let Some(&relayed) = relayed.iter().find(|relayed| relayed.is_ipv4() == peer.is_ipv4()) {
                self.at(
                    at,
                    Event::ToRelay {
                        relayed,
                        from: peer,
                        payload: data,
                    },
                );
            }
        }
    }
}

/// A message with one attribute.
fn message(class: Class, method: Method, id: TransactionId) -> Vec<u8> {
    let mut buffer = vec![0; 64];
    let mut writer = MessageWriter::new(&mut buffer, class, method, id);
    writer.attribute(AttributeType::SOFTWARE, b"what");
    let len = writer.finish().expect("it fits");
    buffer.truncate(len);
    buffer
}
