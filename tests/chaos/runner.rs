//! One run: a server of workers, guests and peers, and their actions, drawn from a seed.

use core::time::Duration;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use relay::base::address::Transport;
use relay::shard::{Listener, ShardConfig, Shards};
use relay::turn::config::{IcmpReports, Mobility};
use relay::turn::policy::{PeerPolicy, PolicyConfig};
use relay::turn::{Config, Shared};

use crate::dialing::Door;
use crate::faults::Faults;
use crate::guest::{Guest, Way};
use crate::ledger::{HEAD, Ledger, Parcel, Who};
use crate::lines::Lines;
use crate::plug::{self, Plug};
use crate::sealed;
use crate::world::{Visit, World};
use relay_testkit::dice::Dice;
use relay_testkit::tls::Tickets;
use relay_testkit_server::{RELAY_IP, TestServer, UDP, turn_config};

/// Lifetime of allocations, short enough for a run to see them end.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60);
/// Most datagrams of a storm: more than a send batch holds.
const STORM: u64 = 1_100;

/// A peer of the clients.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// `None`: closed, so that packets to it cause ICMP errors.
    socket: Option<UdpSocket>,
}

pub(crate) struct Run {
    pub(crate) world: Arc<World>,
    pub(crate) server: TestServer,
    pub(crate) dice: Dice,
    pub(crate) ledger: Ledger,
    pub(crate) guests: Vec<Guest>,
    /// Guests over UDP.
    by_address: HashMap<SocketAddr, usize>,
    pub(crate) peers: Vec<Peer>,
    /// Connections of TCP allocations, and where peers accept them.
    pub(crate) lines: Lines,
    pub(crate) doors: Vec<Door>,
    /// Many actions concern TCP allocations.
    dialing: bool,
    /// Some clients use DTLS.
    pub(crate) sealed: bool,
    /// Some clients move their allocations to other addresses.
    mobile: bool,
    /// The peer that the current policy denies.
    denied: Option<usize>,
    /// Open descriptors before the first client.
    pub(crate) before: usize,
    pub(crate) marks: HashMap<&'static str, u64>,
    _visit: Visit,
}

/// The policy that denies one of the peers.
fn config(denied: Option<SocketAddr>, mobile: bool) -> Config {
    let base = turn_config();
    let policy = PeerPolicy::new(PolicyConfig {
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        deny: denied.map(|peer| peer.ip().into()).into_iter().collect(),
        relay_ips: vec![RELAY_IP.parse().unwrap()],
        relay_ports: base.relay.ports.clone(),
        ..PolicyConfig::default()
    });
    Config {
        policy: Arc::new(policy.unwrap()),
        icmp: IcmpReports::Always,
        default_lifetime: LIFETIME,
        max_lifetime: LIFETIME * 2,
        mobility: mobile.then_some(Mobility {
            grace: Duration::from_secs(20),
        }),
        ..base
    }
}

/// Workers with one listener each, all at one address.
fn start(workers: usize, listen: &str, shards: ShardConfig, (dtls, mobile): (bool, bool)) -> Shards {
    let group = relay::net::udp::UdpSocket::bind_group(listen.parse().unwrap(), workers, &UDP).unwrap();
    let listener = |socket| Listener {
        socket,
        plain: true,
        dtls,
        http3: false,
    };
    let sockets = group.into_iter().map(|socket| vec![listener(socket)]).collect();
    Shards::start(
        shards,
        Arc::new(config(None, mobile)),
        Arc::new(Shared::new([7; 32])),
        sockets,
    )
    .unwrap()
}

impl Run {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        plug::prepare();
        sealed::prepare();
        let mut dice = Dice::new(seed);
        let dialing = dice.percent(35);
        let mobile = dice.percent(40);
        let sealed = cfg!(feature = "dtls") && dice.percent(35);
        let workers = *dice.pick(&[1, 2, 2, 2, 3]);
        let faults = Faults::drawn(&mut dice);
        let (world, visit) = World::enter(seed, workers, faults);
        world.lock().kernel.trace = traced.then(Vec::new);
        let shards = ShardConfig {
            slots: *dice.pick(&[4, 16, 64]),
            mailbox: *dice.pick(&[4 * 1024, 64 * 1024, 256 * 1024]),
            pause: Duration::from_micros(*dice.pick(&[0, 100])),
            #[cfg(feature = "dtls")]
            dtls: sealed.then(sealed::config),
            on_thread_start: Some(world.hook()),
            ..ShardConfig::default()
        };
        let listen = *dice.pick(&["127.0.0.1:3478", "0.0.0.0:3478"]);
        let server = TestServer {
            shards: start(workers, listen, shards, (sealed, mobile)),
            udp: "127.0.0.1:3478".parse().unwrap(),
        };
        world.settle();
        let before = world.lock().kernel.files.len();
        let mut run = Self {
            world,
            server,
            dice,
            ledger: Ledger::default(),
            guests: Vec::new(),
            by_address: HashMap::new(),
            peers: Vec::new(),
            lines: Lines::default(),
            doors: Vec::new(),
            dialing,
            sealed,
            mobile,
            denied: None,
            before,
            marks: HashMap::new(),
            _visit: visit,
        };
        for index in 0..run.dice.between(2, 5) as usize {
            // Each has its own address, so that a policy can distinguish them.
            let address = SocketAddr::from(([127, 0, 1, index as u8], 7000));
            run.peers.push(Peer { address, socket: None });
            run.open_peer(index);
            run.add_door(SocketAddr::new(address.ip(), 7001));
        }
        run
    }

    fn open_peer(&mut self, index: usize) {
        let socket = UdpSocket::bind(self.peers[index].address).unwrap();
        socket.set_nonblocking(true).unwrap();
        self.peers[index].socket = Some(socket);
    }

    pub(crate) fn mark(&mut self, what: &'static str) {
        *self.marks.entry(what).or_default() += 1;
    }

    /// Performs the run, ends it, and checks it.
    pub(crate) fn live(&mut self) {
        for _ in 0..self.dice.between(2, 4) {
            self.welcome();
        }
        for _ in 0..self.dice.between(40, 160) {
            self.act();
            if self.dice.percent(60) {
                for _ in 0..self.dice.between(1, 4) {
                    let now = self.world.now();
                    if !self.world.step(now) {
                        break;
                    }
                }
                self.collect();
            } else if self.dice.percent(40) {
                let nanos = *self.dice.pick(&[100_000, 5_000_000, 200_000_000, 5_000_000_000]);
                self.world.run_for(nanos);
                self.collect();
            }
            if !self.findings().is_empty() {
                return;
            }
        }
        self.end();
    }

    pub(crate) fn findings(&self) -> Vec<String> {
        [&self.ledger.findings[..], &self.world.lock().findings[..]].concat()
    }

    /// The program's counters of the situations that a run should reach.
    pub(crate) fn counted(&self) -> Vec<(&'static str, u64)> {
        let server = &self.server;
        let began = |counters: &relay::turn::Counters| counters.allocations_started.iter().map(|cell| cell.get()).sum();
        let mut counted = self.counted_of_lines();
        let moved = |it: &relay::turn::Counters| it.allocations_arrived.get().abs_diff(it.allocations_left.get());
        let elsewhere = server.count(moved);
        counted.extend([
            ("an allocation", server.count(began)),
            (
                "an allocation that moved",
                server.count(|counters| counters.allocations_arrived.get()),
            ),
            ("an allocation at another worker", elsewhere),
            ("a handshake of DTLS", server.stat(|stats| stats.dtls_handshakes.get())),
            (
                "an allocation over DTLS",
                server.count(|counters| counters.allocations_started[Transport::Dtls as usize].get()),
            ),
            ("ICMP told to a client", self.ledger.icmp),
            (
                "a packet through a mailbox",
                server.stat(|stats| stats.mailbox_received.get()),
            ),
            ("a mailbox that is full", server.stat(|stats| stats.mailbox_full.get())),
            (
                "several datagrams sent as one",
                server.stat(|stats| stats.gso_messages.get()),
            ),
            (
                "a stream that takes no more",
                server.stat(|stats| stats.stream_blocked.get()),
            ),
        ]);
        counted
    }

    /// Adds a guest.
    fn welcome(&mut self) {
        let index = self.guests.len();
        let way = self.new_way(index);
        let mut guest = Guest::new(index, way);
        guest.dials = matches!(guest.way, Way::Tcp { .. }) && self.dice.percent(if self.dialing { 75 } else { 10 });
        guest.mobile = self.mobile && !guest.dials && self.dice.percent(70);
        self.guests.push(guest);
    }

    /// A path to the server for a guest.
    pub(crate) fn new_way(&mut self, index: usize) -> Way {
        if self.sealed && self.dice.percent(40) {
            self.mark("a client over DTLS");
            self.ledger.unordered.insert(index);
            let socket = sealed::socket(self.server.udp);
            self.by_address.insert(socket.local_addr().unwrap(), index);
            Way::Sealed(sealed::associate(socket))
        } else if self.dice.percent(if self.dialing { 25 } else { 65 }) {
            let socket = sealed::socket(self.server.udp);
            self.by_address.insert(socket.local_addr().unwrap(), index);
            Way::Udp(socket)
        } else {
            let stream = self.connect_to_server();
            self.mark(if stream.is_tls() { "a TLS stream" } else { "a stream" });
            Way::Tcp {
                stream,
                out: Default::default(),
                input: Vec::new(),
            }
        }
    }

    /// A connection that a worker has taken over.
    pub(crate) fn connect_to_server(&mut self) -> Plug {
        let over_tls = self.dice.percent(35);
        let tickets = [Tickets::Delivered, Tickets::Pending][usize::from(self.dice.percent(50))];
        let (stream, new_stream) = plug::connect(over_tls, tickets);
        self.server.shards.add_stream(new_stream);
        stream
    }

    /// Performs one action.
    fn act(&mut self) {
        if self.dialing && self.dice.percent(60) {
            self.somebody_dials();
            return;
        }
        match self.dice.below(100) {
            0..55 => {
                let guest = self.dice.index(self.guests.len());
                self.guest_acts(guest);
            }
            55..80 => self.peer_sends(),
            80..83 if self.guests.len() < 12 => self.welcome(),
            83..84 => self.door_acts(),
            84..87 => self.peer_comes_or_goes(),
            87..90 => self.reload(),
            90..93 => self.guest_leaves(),
            93..96 => {
                let guest = self.dice.index(self.guests.len());
                self.guests[guest].deaf ^= self.guests[guest].deaf || !self.guests[guest].open.is_empty();
            }
            96..98 => self.guests.iter_mut().for_each(|guest| guest.deaf = false),
            _ => self.rubbish(),
        }
    }

    fn guest_acts(&mut self, index: usize) {
        let Self {
            guests, ledger, dice, ..
        } = self;
        let guest = &mut guests[index];
        if guest.is_gone() {
            if guest.ticket.is_some() && dice.percent(30) {
                self.guest_moves(index);
            }
            return;
        }
        if guest.relayed.is_none() {
            if !guest.is_allocating() || dice.percent(20) {
                guest.allocate(ledger);
            } else if dice.percent(20) {
                guest.refresh(ledger, 0);
            }
            return;
        }
        if guest.dials {
            self.dial(index);
            return;
        }
        let open: Vec<SocketAddr> = guest.open.iter().copied().collect();
        let somebody = self.somebody(index);
        let peer = if self.dice.percent(8) {
            None
        } else {
            self.dice.maybe_pick(&open)
        }
        .unwrap_or(somebody);
        let Self {
            guests, ledger, dice, ..
        } = self;
        let guest = &mut guests[index];
        let moves = guest.ticket.is_some() && dice.percent(12);
        match if open.is_empty() {
            dice.below(30)
        } else {
            dice.below(100)
        } {
            0..5 => guest.permit(ledger, somebody),
            5..25 => guest.bind(ledger, if dice.percent(50) { somebody } else { peer }),
            25..80 if !moves => {
                let count = dice.between(1, 12);
                self.guest_sends(index, peer, count, None);
            }
            25..80 => self.guest_moves_in_one_go(index, peer),
            80..84 => {
                // More than a batch holds, and nothing that can be joined: every other one goes to
                // another destination.
                let other = self.dice.maybe_pick(&open).unwrap_or(somebody);
                let count = self.dice.between(STORM / 10, STORM);
                self.mark("a storm");
                self.guest_sends(index, peer, count, Some(other));
            }
            84..92 => guest.refresh(ledger, LIFETIME.as_secs() as u32),
            // Its data and its end, at once.
            92..98 => {
                self.guest_sends(index, peer, 3, None);
                let Self { guests, ledger, .. } = self;
                guests[index].refresh(ledger, 0);
                self.mark("data and the end");
            }
            _ => guest.refresh(ledger, 0),
        }
    }

    /// Sends on the old path and at once on the new one, if other clients have data as well.
    fn guest_moves_in_one_go(&mut self, index: usize, peer: SocketAddr) {
        self.guest_sends(index, peer, 3, None);
        self.guest_moves(index);
        self.guest_sends(index, peer, 3, None);
        let Self { guests, ledger, .. } = self;
        guests[index].refresh(ledger, LIFETIME.as_secs() as u32);
    }

    /// Moves to another address or connection.
    fn guest_moves(&mut self, index: usize) {
        let way = self.new_way(index);
        let keep = self.dice.percent(60);
        let Self { guests, ledger, .. } = self;
        guests[index].move_to(ledger, way, keep);
        self.mark("a client that moves");
    }

    /// A peer, or the relayed address of another guest.
    fn somebody(&mut self, not: usize) -> SocketAddr {
        let others = self.guests.iter().filter(|guest| guest.index != not && !guest.dials);
        let relayed: Vec<SocketAddr> = others.filter_map(|guest| guest.relayed).collect();
        let peer = self.dice.index(self.peers.len());
        if self.dice.percent(30) {
            self.dice.maybe_pick(&relayed)
        } else {
            None
        }
        .unwrap_or(self.peers[peer].address)
    }

    /// The owner of an address; of a relayed one, the last owner.
    fn who_is_at(&self, address: SocketAddr) -> Option<Who> {
        let peer = self
            .peers
            .iter()
            .position(|peer| peer.address == address)
            .map(Who::Peer);
        let now = self.guests.iter().find(|guest| guest.relayed == Some(address));
        let once = self.guests.iter().rev().find(|guest| guest.had.contains(&address));
        peer.or_else(|| now.or(once).map(|guest| Who::Guest(guest.index)))
    }

    fn guest_sends(&mut self, index: usize, peer: SocketAddr, count: u64, other: Option<SocketAddr>) {
        let Some(source) = self.guests[index].relayed else {
            return;
        };
        let equal = self.dice.percent(70);
        let mut len = self.length();
        let indication = self.dice.percent(15);
        for i in 0..count {
            if !equal && other.is_none() {
                len = self.length();
            }
            if other.is_some() {
                len = 20;
            }
            let target = other.filter(|_| i % 2 == 1).unwrap_or(peer);
            let Some(to) = self.who_is_at(target) else { return };
            let parcel = Parcel {
                from: Who::Guest(index),
                to,
                source,
                target,
                len,
            };
            let data = self.ledger.send(parcel);
            let guest = &mut self.guests[index];
            let frame = guest.frame(target, &data, indication);
            guest.send(&frame);
        }
    }

    fn length(&mut self) -> usize {
        let most = *self.dice.pick(&[40, 200, 1200, 1400]);
        self.dice.between(HEAD as u64, most) as usize
    }

    fn peer_sends(&mut self) {
        let index = self.dice.index(self.peers.len());
        let address = self.peers[index].address;
        let anybody = self.dice.percent(10);
        let guests = self
            .guests
            .iter()
            .filter(|guest| anybody || guest.open.contains(&address));
        let relayed: Vec<SocketAddr> = guests.filter_map(|guest| guest.relayed).collect();
        let Some(target) = self.dice.maybe_pick(&relayed) else {
            return;
        };
        let count = if self.dice.percent(5) {
            300
        } else {
            self.dice.between(1, 20)
        };
        let equal = self.dice.percent(60);
        let mut len = self.length();
        for _ in 0..count {
            if !equal {
                len = self.length();
            }
            self.send_from_peer(index, target, len);
        }
    }

    fn send_from_peer(&mut self, index: usize, target: SocketAddr, len: usize) {
        let (Some(to), Some(_)) = (self.who_is_at(target), &self.peers[index].socket) else {
            return;
        };
        let parcel = Parcel {
            from: Who::Peer(index),
            to,
            source: self.peers[index].address,
            target,
            len,
        };
        let data = self.ledger.send(parcel);
        if let Some(socket) = &self.peers[index].socket {
            socket.send_to(&data, target).unwrap();
        }
    }

    fn peer_comes_or_goes(&mut self) {
        let index = self.dice.index(self.peers.len());
        self.collect();
        if self.peers[index].socket.take().is_none() {
            self.open_peer(index);
        }
    }

    /// Replaces the policy and waits until every worker has it.
    fn reload(&mut self) {
        let denied = self.dice.index(self.peers.len() + 1);
        self.denied = None;
        let address = self.peers.get(denied).map(|peer| peer.address);
        self.server.shards.set_config(Arc::new(config(address, self.mobile)));
        self.mark("a reload");
        if self.dice.percent(50) {
            let now = self.world.now();
            while self.world.step(now) {}
            self.collect();
            self.denied = address.is_some().then_some(denied);
        }
    }

    fn guest_leaves(&mut self) {
        let index = self.dice.index(self.guests.len());
        match self.guests[index].way {
            Way::Tcp { .. } => self.mark("a stream is closed by its client"),
            Way::Sealed(_) => self.mark("an association is left by its client"),
            Way::Udp(_) | Way::Gone => return,
        }
        let Self { guests, ledger, .. } = self;
        guests[index].leave(ledger);
    }

    /// A packet that no server can use.
    fn rubbish(&mut self) {
        let index = self.dice.index(self.guests.len());
        let len = self.dice.between(1, 60) as usize;
        let mut bytes = self.dice.bytes(len);
        bytes[0] = 0xff;
        let guest = &mut self.guests[index];
        if let Way::Udp(_) = guest.way {
            guest.send(&bytes);
            self.ledger.rubbish += 1;
        }
    }

    /// Everyone reads what has arrived.
    pub(crate) fn collect(&mut self) {
        let Self { guests, ledger, .. } = self;
        for guest in guests {
            guest.pump(ledger);
        }
        self.collect_lines();
        let mut echoes = Vec::new();
        for index in 0..self.peers.len() {
            let Some(socket) = &self.peers[index].socket else {
                continue;
            };
            let mut buffer = [0; 65_536];
            loop {
                let (len, source) = match socket.recv_from(&mut buffer) {
                    Ok(got) => got,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("a peer's socket: {error}"),
                };
                let parcel = self.ledger.arrive(Who::Peer(index), source, &buffer[..len]);
                if self.denied == Some(index) {
                    self.ledger.find(format!("peer {index} is denied and gets {parcel:?}"));
                }
                if self.dice.percent(20) {
                    echoes.push((index, source, len));
                }
            }
        }
        for (index, source, len) in echoes {
            self.send_from_peer(index, source, len);
        }
        self.book_losses();
    }

    fn book_losses(&mut self) {
        let lost = std::mem::take(&mut self.world.lock().kernel.lost);
        for (loss, datagram) in lost {
            if loss == crate::kernel::Loss::WrongSource {
                self.ledger.find(format!(
                    "{} sends to {}, who does not know it",
                    datagram.from, datagram.to
                ));
            }
            // A client over DTLS also sends its close to a server that has ended.
            let known = self.who_is_at(datagram.to).is_some()
                || self.by_address.contains_key(&datagram.to)
                || datagram.to == self.server.udp;
            if loss == crate::kernel::Loss::Stray && !known {
                self.ledger
                    .find(format!("{} sends to {}, who never was", datagram.from, datagram.to));
            }
            self.ledger.lose(loss, &datagram, &self.by_address);
        }
    }
}
