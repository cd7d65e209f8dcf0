//! The reference model: the state that the server must have, and so the possible results of each
//! packet.
//!
//! It is written from the RFC with plain maps, and independent of the server's implementation. It
//! learns of new state only from the server's success responses, and takes lifetimes from there and
//! from the RFC (300 s, 600 s). From then on it knows at every instant what must be relayed, what
//! must not, and how every request must be answered. If the RFC leaves a choice (exactly at a
//! deadline, or between two errors that both apply), either is accepted.

use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use relay_proto::base::address::{Family, FiveTuple, Transport};
use relay_proto::base::time::{Instant, Now};
use relay_proto::turn::SessionId;
use relay_proto::turn::types::Client;

use crate::message::{Login, Request};
use crate::network::most_in_a_datagram;
use crate::places::{Route, family};
use crate::setup::{Rules, Setup, user_of};

pub(crate) const PERMISSION: Duration = Duration::from_secs(300);
pub(crate) const CHANNEL: Duration = Duration::from_secs(600);
pub(crate) const RESERVATION: Duration = Duration::from_secs(30);
/// Expired state is released within this time.
pub(crate) const SWEEP: Duration = Duration::from_secs(1);

/// A five-tuple, ordered.
pub(crate) type Key = (SocketAddr, SocketAddr, Transport);

pub(crate) const fn key(five_tuple: &FiveTuple) -> Key {
    (five_tuple.client, five_tuple.server, five_tuple.transport)
}

/// Whether something exists: certainly not, perhaps, certainly. The minimum of several counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Life {
    No,
    Maybe,
    Yes,
}

/// When something ends; `slack` is the precision of the server's statement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) slack: Duration,
}

impl Deadline {
    pub(crate) const fn exactly(at: Instant) -> Self {
        Self {
            at,
            slack: Duration::ZERO,
        }
    }

    pub(crate) fn life(self, now: Instant) -> Life {
        if now < self.at {
            Life::Yes
        } else if now <= self.at + self.slack {
            Life::Maybe
        } else {
            Life::No
        }
    }

    /// Whether it ended so long ago that it must have been swept.
    pub(crate) fn is_overdue(self, now: Instant) -> bool {
        self.at + self.slack + SWEEP < now
    }
}

/// A relayed transport address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    pub(crate) relayed: SocketAddr,
    pub(crate) until: Deadline,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Flow {
    pub(crate) const fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

/// An allocation.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) shard: usize,
    pub(crate) client: Client,
    /// `None` until it begins.
    pub(crate) session: Option<SessionId>,
    pub(crate) login: Rc<Login>,
    /// Its Allocate.
    pub(crate) asked: Rc<Request>,
    pub(crate) requested: Instant,
    /// Ports tried so far while its relay sockets are being opened; then `None`.
    pub(crate) opening: Option<Vec<(Family, u16)>>,
    /// All port ranges since the request.
    pub(crate) ranges: Vec<RangeInclusive<u16>>,
    pub(crate) halves: [Option<Half>; 2],
    pub(crate) given: Vec<SocketAddr>,
    pub(crate) permissions: BTreeMap<IpAddr, Deadline>,
    pub(crate) channels: BTreeMap<u16, (SocketAddr, Deadline)>,
    pub(crate) token: Option<[u8; 8]>,
    pub(crate) up: Flow,
    pub(crate) down: Flow,
    pub(crate) last_icmp: Option<Instant>,
}

impl Held {
    pub(crate) fn life(&self, now: Instant) -> Life {
        if self.opening.is_some() {
            return Life::Yes;
        }
        self.halves
            .iter()
            .flatten()
            .map(|half| half.until.life(now))
            .max()
            .unwrap_or(Life::No)
    }

    pub(crate) fn half_life(&self, family: Family, now: Instant) -> Life {
        self.halves[family as usize].map_or(Life::No, |half| half.until.life(now))
    }

    /// A permission. It ends with the relayed address of its family if that ends first.
    pub(crate) fn permission(&self, ip: IpAddr, now: Instant) -> Life {
        let until = self.permissions.get(&ip);
        until.map_or(Life::No, |until| {
            until.life(now).min(self.half_life(Family::of(ip), now))
        })
    }

    /// A channel binding, likewise.
    pub(crate) fn channel(&self, number: u16, now: Instant) -> Life {
        let bound = self.channels.get(&number);
        bound.map_or(Life::No, |(peer, until)| {
            until.life(now).min(self.half_life(family(*peer), now))
        })
    }

    /// Whether its stream has the same addresses as this client's but is another one, which must be
    /// closed already.
    pub(crate) fn is_by_another_stream(&self, client: &Client) -> bool {
        client.five_tuple.transport.is_stream() && client.link != self.client.link
    }

    /// Whether this is a nanosecond before or after something of it ends.
    pub(crate) fn edge(&self, now: Instant) -> Option<&'static str> {
        let halves = self.halves.iter().flatten().map(|half| half.until.at);
        let permissions = self.permissions.values().map(|until| until.at);
        let channels = self.channels.values().map(|(_, until)| until.at);
        let nano = Duration::from_nanos(1);
        halves.chain(permissions).chain(channels).find_map(|at| match now {
            _ if now + nano == at => Some("a packet a nanosecond before a deadline"),
            _ if at + nano == now => Some("a packet a nanosecond after a deadline"),
            _ => None,
        })
    }

    /// Whether the client can receive `len` bytes from `peer`: as ChannelData (not padded over
    /// UDP), or in a Data indication.
    fn fits(&self, peer: SocketAddr, len: usize, channel: bool) -> bool {
        let FiveTuple { client, transport, .. } = self.client.five_tuple;
        let address = if peer.is_ipv4() { 12 } else { 24 };
        let attributes = address + 4 + len.next_multiple_of(4);
        match (transport.is_stream(), channel) {
            (true, true) => len <= 65_535,
            (true, false) => attributes <= 65_532,
            (false, true) => 4 + len <= most_in_a_datagram(client),
            (false, false) => 20 + attributes <= most_in_a_datagram(client),
        }
    }

    /// A relayed address has ended, with everything that used it.
    pub(crate) fn close(&mut self, family_gone: Family) {
        self.halves[family_gone as usize] = None;
        self.permissions.retain(|&ip, _| Family::of(ip) != family_gone);
        self.channels.retain(|_, (peer, _)| family(*peer) != family_gone);
    }
}

/// A port reserved by EVEN-PORT.
#[derive(Clone, Debug)]
pub(crate) struct Reserved {
    pub(crate) relayed: SocketAddr,
    /// The shard of the allocation beside it.
    pub(crate) shard: usize,
    pub(crate) username: String,
    pub(crate) until: Deadline,
}

/// The path of application data from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To a peer, from this relayed address.
    Peer { from: SocketAddr },
    /// To the allocation with that relayed address, in this shard.
    Allocation { from: SocketAddr, shard: usize },
}

/// A nonce: where it is valid, from when, and while which secret is configured.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) to: SocketAddr,
    /// Wall-clock time.
    pub(crate) at: u64,
    pub(crate) secret: String,
}

/// The model.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) setup: Rc<Setup>,
    /// The current configuration of each shard.
    pub(crate) rules: Vec<Rules>,
    /// The ports of all shards, by family, from the latest reload of any shard. `None`: never
    /// served.
    pub(crate) ports: [Option<RangeInclusive<u16>>; 2],
    pub(crate) held: BTreeMap<Key, Held>,
    pub(crate) tokens: BTreeMap<[u8; 8], Reserved>,
    /// Every nonce issued by this process or an earlier one.
    pub(crate) nonces: BTreeMap<Vec<u8>, Issued>,
    /// Allocates whose allocation ended, and Refreshes that ended one, over UDP: copies may still
    /// be in flight.
    pub(crate) past: BTreeMap<(Key, [u8; 12]), Instant>,
    /// Ids of all allocations of all processes.
    pub(crate) sessions: BTreeSet<SessionId>,
    pub(crate) ledgers: Vec<crate::ledger::Ledger>,
    pub(crate) rates: crate::rates::Rates,
    /// The situations reached, and how often.
    pub(crate) marks: BTreeMap<&'static str, u64>,
}

impl Oracle {
    pub(crate) fn new(setup: Rc<Setup>, rules: &Rules) -> Self {
        let shards = setup.shards;
        let mut oracle = Self {
            setup,
            ports: [None, None],
            rules: Vec::new(),
            held: BTreeMap::new(),
            tokens: BTreeMap::new(),
            nonces: BTreeMap::new(),
            past: BTreeMap::new(),
            sessions: BTreeSet::new(),
            ledgers: vec![crate::ledger::Ledger::default(); shards],
            rates: crate::rates::Rates::default(),
            marks: BTreeMap::new(),
        };
        oracle.set_rules(rules);
        oracle
    }

    /// The configuration of all shards of a new process.
    pub(crate) fn set_rules(&mut self, rules: &Rules) {
        self.ports = [Some(rules.ports.clone()), rules.ipv6.then(|| rules.ports.clone())];
        self.rules = vec![rules.clone(); self.setup.shards];
    }

    /// The server starts again without any state except its secrets, and with them its nonces.
    pub(crate) fn restart(&mut self, rules: &Rules) {
        let (marks, nonces) = (core::mem::take(&mut self.marks), core::mem::take(&mut self.nonces));
        let sessions = core::mem::take(&mut self.sessions);
        *self = Self::new(Rc::clone(&self.setup), rules);
        (self.marks, self.nonces, self.sessions) = (marks, nonces, sessions);
    }

    /// A shard gets a new configuration. The ports of a family that is no longer served stay.
    pub(crate) fn reload(&mut self, shard: usize, rules: &Rules) {
        self.rules[shard] = rules.clone();
        for family in [Family::V4, Family::V6] {
            if family == Family::V4 || rules.ipv6 {
                self.ports[family as usize] = Some(rules.ports.clone());
            }
        }
        for held in self.held.values_mut().filter(|held| held.opening.is_some()) {
            held.ranges.push(rules.ports.clone());
        }
    }

    pub(crate) fn mark(&mut self, what: &'static str) {
        *self.marks.entry(what).or_default() += 1;
    }

    pub(crate) fn of(&self, client: &Client) -> Option<&Held> {
        self.held.get(&key(&client.five_tuple))
    }

    pub(crate) fn of_mut(&mut self, client: &Client) -> Option<&mut Held> {
        self.held.get_mut(&key(&client.five_tuple))
    }

    /// The allocation with this relayed address, if any.
    pub(crate) fn at(&self, relayed: SocketAddr) -> Option<&Held> {
        self.held.values().find(|held| held.half_at(relayed).is_some())
    }

    fn route(&self, held: &Held, peer: SocketAddr) -> Route {
        let rules = &self.rules[held.shard];
        rules.peers.route(peer, &rules.ports)
    }

    /// Whether, and by which path, application data from a client goes to `peer`. Only a Send
    /// indication (no channel) needs a permission (RFC 8656 §11.2, §12.6).
    pub(crate) fn way_out(&self, held: &Held, peer: SocketAddr, channel: bool, now: Instant) -> (Life, Option<Way>) {
        let Some(half) = held.halves[family(peer) as usize].filter(|_| held.opening.is_none()) else {
            return (Life::No, None);
        };
        let mut life = half.until.life(now);
        if !channel {
            life = life.min(held.permission(peer.ip(), now));
        }
        let from = half.relayed;
        match self.route(held, peer) {
            Route::Nowhere => (Life::No, None),
            Route::Relayed if peer == from => (Life::No, None),
            Route::Peer => (life, Some(Way::Peer { from })),
            Route::Relayed => match self.at(peer).and_then(|other| Some((other, other.half_at(peer)?))) {
                // Expired state no longer counts, even before it is swept.
                Some((other, half)) => {
                    let there = half.until.life(now).max(Life::Maybe);
                    (
                        life.min(there),
                        Some(Way::Allocation {
                            from,
                            shard: other.shard,
                        }),
                    )
                }
                None => (Life::No, None),
            },
        }
    }

    /// Whether a datagram from `peer` at a relayed address goes to the client, and if as
    /// ChannelData, on which number.
    pub(crate) fn way_in(&self, held: &Held, peer: SocketAddr, len: usize, now: Instant) -> (Life, Life, Option<u16>) {
        let life = held.half_life(family(peer), now).min(held.permission(peer.ip(), now));
        let bound = held
            .channels
            .iter()
            .find(|&(&n, (bound, _))| *bound == peer && held.channel(n, now) > Life::No);
        let (number, channel) = bound.map_or((None, Life::No), |(&n, _)| (Some(n), held.channel(n, now)));
        let fits = |channel| held.fits(peer, len, channel);
        let life = match (channel, fits(true), fits(false)) {
            _ if held.opening.is_some() => Life::No,
            (Life::Yes, true, _) | (Life::No, _, true) | (Life::Maybe, true, true) => life,
            (Life::Maybe, true, false) | (Life::Maybe, false, true) => life.min(Life::Maybe),
            _ => Life::No,
        };
        match self.route(held, peer) {
            Route::Nowhere => (Life::No, channel, number),
            Route::Peer | Route::Relayed => (life, channel, number),
        }
    }

    /// Allocations of a user: those that certainly count, and those that possibly do.
    pub(crate) fn count(&self, username: &str, now: Instant) -> (u32, u32) {
        let mine = || {
            self.held
                .values()
                .filter(|held| user_of(&held.login.username) == user_of(username))
        };
        let certain = mine().filter(|held| held.life(now) == Life::Yes).count();
        (certain as u32, mine().count() as u32)
    }

    /// Reservations of a user, in the same way.
    pub(crate) fn count_reserved(&self, username: &str, now: Instant) -> (u32, u32) {
        let user = user_of(username);
        let mine = || {
            self.tokens
                .values()
                .filter(|reserved| user_of(&reserved.username) == user)
        };
        let certain = mine().filter(|reserved| reserved.until.life(now) == Life::Yes).count();
        let opening = self.held.values().filter(|held| held.opening.is_some()).count();
        (certain as u32, (mine().count() + opening) as u32)
    }

    /// Whether no suitable ports of `family` are left for EVEN-PORT.
    pub(crate) fn shortage(&self, of: Family, even: Option<bool>, now: Instant) -> Life {
        let ours: BTreeSet<u16> = self.ports[of as usize].iter().cloned().flatten().collect();
        let fits = |used: &BTreeSet<u16>| {
            let free = |port: u16| ours.contains(&port) && !used.contains(&port);
            ours.iter().any(|&port| match even {
                None => free(port),
                Some(false) => port % 2 == 0 && free(port),
                Some(true) => port % 2 == 0 && free(port) && free(port + 1),
            })
        };
        let (certain, possible) = self.ports_used(of, now);
        if fits(&possible) {
            Life::No
        } else if fits(&certain) {
            Life::Maybe
        } else {
            Life::Yes
        }
    }

    /// Relayed addresses that are certainly in use.
    pub(crate) fn relayed_live(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let halves = self.held.values().flat_map(|held| held.halves.iter().flatten());
        let halves = halves.map(|half| (half.relayed, half.until));
        let reserved = self.tokens.values().map(|reserved| (reserved.relayed, reserved.until));
        let all = halves
            .chain(reserved)
            .filter(move |(_, until)| until.life(now) == Life::Yes);
        all.map(|(relayed, _)| relayed)
    }

    /// Ports of a family that are certainly in use, and those that may be.
    pub(crate) fn ports_used(&self, of: Family, now: Instant) -> (BTreeSet<u16>, BTreeSet<u16>) {
        let (mut certain, mut possible) = (BTreeSet::new(), BTreeSet::new());
        let mut note = |relayed: SocketAddr, until: Deadline| {
            if family(relayed) == of {
                possible.insert(relayed.port());
                if until.life(now) == Life::Yes {
                    certain.insert(relayed.port());
                }
            }
        };
        for half in self.held.values().flat_map(|held| held.halves.iter().flatten()) {
            note(half.relayed, half.until);
        }
        for reserved in self.tokens.values() {
            note(reserved.relayed, reserved.until);
        }
        for &(tried, port) in self.held.values().filter_map(|held| held.opening.as_ref()).flatten() {
            if tried == of {
                possible.insert(port);
                possible.insert(port | 1);
            }
        }
        (certain, possible)
    }

    /// Forgets state that no longer matters.
    pub(crate) fn forget(&mut self, now: Now) {
        self.tokens.retain(|_, reserved| !reserved.until.is_overdue(now.mono));
        self.past
            .retain(|_, ended| now.mono < *ended + Duration::from_secs(120));
    }
}

impl Held {
    pub(crate) fn half_at(&self, relayed: SocketAddr) -> Option<Half> {
        self.halves
            .iter()
            .flatten()
            .find(|half| half.relayed == relayed)
            .copied()
    }
}
