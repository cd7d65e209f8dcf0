//! A world around one or more shards: virtual time, and relay sockets that open at once or wait.

mod answer;
mod hand_over;
mod message;
mod over;
mod tcp;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use relay_proto::base::address::{Family, FiveTuple, Transport};
use relay_proto::base::time::{Instant, Now, UnixTime};
use relay_proto::turn::config::limits::Limits;
use relay_proto::turn::config::{RelayAddress, RelayConfig};
use relay_proto::turn::counters::{Counters, ERROR_CODES, METHODS};
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, Secret, StaticUser};
use relay_proto::turn::policy::{PeerPolicy, PolicyConfig};
use relay_proto::turn::types::{Link, PeerAddr, RelayId, RelayedAddr, ShardIndex};
use relay_proto::turn::{
    Command, Config, DropReason, Event, Frame, Migration, OpenError, RefusalReason, Refused, Response, ResponseRoute,
    Server, Shared, Verdict,
};

pub use answer::{Answer, Delivered, Sent};
pub use message::*;
pub use tcp::Tcp;

/// Short enough for every challenge over UDP to hold all offers of RFC 8489.
pub const REALM: &str = "example.org";
pub const SECRET: &[u8] = b"a secret of thirty-two bytes....";
/// Wall clock at the start of every story.
pub const START: u64 = 1_800_000_000;
pub const RELAY_V4: &str = "198.51.100.9";
pub const RELAY_V6: &str = "2a00:1450:1::9";

/// One process: shards, time, and their outputs.
pub struct World {
    pub shards: Vec<Server>,
    pub shared: Arc<Shared>,
    pub counters: Vec<Arc<Counters>>,
    pub config: Config,
    pub now: Duration,
    /// Open relay sockets, by shard.
    pub sockets: HashMap<(usize, RelayId), SocketAddr>,
    /// Answers to the next OpenRelay commands; empty: all succeed.
    pub open_results: VecDeque<Result<(), OpenError>>,
    /// Holds OpenRelay commands instead of answering them.
    pub hold: Option<Vec<(usize, RelayId)>>,
    /// Every address of an OpenRelay.
    pub binds: Vec<SocketAddr>,
    pub closed_streams: Vec<Link>,
    /// Events about allocations.
    pub events: Vec<Event>,
    /// Reported refusals.
    pub refused: Vec<Refused>,
    /// Shard and reason of every relayed address refused beside a granted one: no error response.
    halves: Vec<(usize, RefusalReason)>,
    /// Migrations in transit, with the sending shard. Delivered at once unless `hold_migrations`.
    pub migrations: VecDeque<(usize, Migration)>,
    pub hold_migrations: bool,
    /// Relay sockets in transit.
    pub detached: HashMap<(usize, RelayId), SocketAddr>,
    /// Results of packets that were held until their allocation arrived.
    pub released: Vec<(Vec<u8>, Answer)>,
    pub tcp: Tcp,
    processes: u8,
    response: Response,
}

const PORTS: RangeInclusive<u16> = 50_000..=50_399;

/// The default configuration: both families, four hundred ports, two users, peers in the
/// documentation ranges.
pub fn config() -> Config {
    let user = |name: &str, password: &str| StaticUser {
        name: name.to_owned(),
        password: password.to_owned().into(),
        forced: false,
    };
    let credentials = CredentialsConfig {
        realm: REALM.to_owned(),
        secrets: vec![Secret::new(SECRET)],
        users: vec![user("alice", "wonderland"), user("bob", "builder")],
        ..CredentialsConfig::default()
    };
    let v4 = RelayAddress {
        bind: ip("10.1.2.3"),
        announced: ip(RELAY_V4),
    };
    let v6 = RelayAddress {
        bind: ip(RELAY_V6),
        announced: ip(RELAY_V6),
    };
    let relay = RelayConfig {
        ipv4: Some(v4),
        ipv6: Some(v6),
        ports: PORTS,
        port_shift: 0,
    };
    let credentials = Arc::new(Credentials::new(credentials).unwrap());
    Config {
        nonce_lifetime: Duration::from_secs(3600),
        limits: Limits {
            allocations_per_user: 1000,
            challenges_per_second: 1_000_000,
            challenge_burst: 1_000_000,
            bindings_per_second: 1_000_000,
            login_failures_per_second: 1_000_000,
            permission_requests_per_second: 1_000_000,
            allocation_requests_per_second: 1_000_000,
            user_requests_per_second: 1_000_000,
            ..Limits::default()
        },
        ..Config::new(REALM.to_owned(), credentials, policy(&[]), relay)
    }
}

/// The default policy with these ranges denied as well.
pub fn policy(denied: &[&str]) -> Arc<PeerPolicy> {
    policy_with_ports(denied, PORTS)
}

/// The same with these `relay_ports`.
pub fn policy_with_ports(denied: &[&str], relay_ports: RangeInclusive<u16>) -> Arc<PeerPolicy> {
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
    let config = PolicyConfig {
        allow: nets(&["192.0.2.0/24", "2001:db8::/32"]),
        deny: nets(denied),
        own: vec![addr("198.51.100.1:3478")],
        local: vec![ip("198.51.100.1").into()],
        relay_ips: vec![ip("10.1.2.3"), ip(RELAY_V4), ip(RELAY_V6)],
        relay_ports,
        ..PolicyConfig::default()
    };
    Arc::new(PeerPolicy::new(config).unwrap())
}

/// Makes a NAT announce relay ports 30,000 lower than the bound ones.
pub fn map_ports(config: &mut Config) {
    config.relay.port_shift = -30_000;
    let policy = PolicyConfig {
        own: vec![addr("0.0.0.0:3478")],
        local: vec![ip("10.1.2.3").into()],
        relay_ips: config.relay.own_ips().collect(),
        relay_ports: config.relay.announced_ports(),
        ..PolicyConfig::default()
    };
    config.policy = Arc::new(PeerPolicy::new(policy).unwrap());
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Just before a deadline.
pub fn just_before(at: Duration) -> Duration {
    at - Duration::from_nanos(1)
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A world with one shard and a modified configuration.
    pub fn with(alter: impl FnOnce(&mut Config)) -> Self {
        Self::sharded(1, alter)
    }

    pub fn sharded(count: usize, alter: impl FnOnce(&mut Config)) -> Self {
        Self::seeded([0x5A; 32], count, alter)
    }

    /// The same, with the seed of another process.
    pub fn seeded(seed: [u8; 32], count: usize, alter: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        alter(&mut config);
        let shared = Arc::new(Shared::new(seed));
        let counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
        // Clocks do not begin at zero.
        let now = secs(1_000_000);
        let server = |(index, counters): (usize, &Arc<Counters>)| {
            let (config, shared) = (Arc::new(config.clone()), Arc::clone(&shared));
            let shard = ShardIndex { index, count };
            let seed = [index as u8 + 1; 32];
            Server::new(Instant::ZERO + now, config, shared, shard, seed, Arc::clone(counters))
        };
        Self {
            shards: counters.iter().enumerate().map(server).collect(),
            shared: Arc::clone(&shared),
            counters,
            config,
            now,
            sockets: HashMap::new(),
            open_results: VecDeque::new(),
            hold: None,
            binds: Vec::new(),
            closed_streams: Vec::new(),
            events: Vec::new(),
            refused: Vec::new(),
            halves: Vec::new(),
            migrations: VecDeque::new(),
            hold_migrations: false,
            detached: HashMap::new(),
            released: Vec::new(),
            tcp: Tcp::default(),
            processes: 0,
            response: Response::new(),
        }
    }

    pub fn now(&self) -> Now {
        Now {
            mono: Instant::ZERO + self.now,
            unix: UnixTime(START + self.now.as_secs() - 1_000_000),
        }
    }

    /// Advances time and wakes the shards exactly when they request it.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.shards.iter().filter_map(Server::poll_timeout).min();
            let next = next.map(|at| Duration::from_nanos(at.as_nanos()));
            let Some(at) = next.filter(|&at| at <= end) else {
                self.now = end;
                return;
            };
            // Can be in the past only after `pass_unnoticed`.
            self.now = self.now.max(at);
            self.wake();
        }
    }

    /// Wakes every shard now.
    pub fn wake(&mut self) {
        let now = self.now();
        for index in 0..self.shards.len() {
            self.shards[index].handle_timeout(now);
            self.settle(index);
            let next = self.shards[index].poll_timeout();
            assert!(
                next.is_none_or(|at| at > now.mono),
                "a timeout in the past: {next:?} at {:?}",
                now.mono
            );
        }
    }

    /// Advances time without waking any shard: relaying must not depend on timers.
    pub fn pass_unnoticed(&mut self, time: Duration) {
        self.now += time;
    }

    /// Continues with another configuration.
    pub fn reload(&mut self, alter: impl FnOnce(&mut Config)) {
        alter(&mut self.config);
        let (now, config) = (self.now(), Arc::new(self.config.clone()));
        for index in 0..self.shards.len() {
            self.shards[index].set_config(now, Arc::clone(&config));
            self.settle(index);
        }
    }

    /// Sends a packet from a client, unchanged.
    pub fn packet(&mut self, client: &Client, packet: &[u8]) -> Answer {
        self.packet_at(client.shard, &client.client, packet)
    }

    fn packet_at(&mut self, index: usize, client: &relay_proto::turn::types::Client, packet: &[u8]) -> Answer {
        let now = self.now();
        let verdict = self.shards[index].handle_client(now, client, packet, &mut self.response);
        let answer = match verdict {
            Verdict::Respond => {
                assert_gain(&client.five_tuple, packet, &self.response);
                Answer::of(&self.response, packet)
            }
            Verdict::Waiting => match self.settle(index) {
                Some((to, response)) => {
                    assert_eq!(to, *client, "the response is for who asked");
                    Answer::of(&response, packet)
                }
                None => match self.released.iter().position(|(held, _)| held == packet) {
                    Some(at) => self.released.remove(at).1,
                    None => Answer::Waiting,
                },
            },
            Verdict::Drop(reason) => Answer::Dropped(reason),
            Verdict::BindConnection(connection) => {
                assert_eq!(Answer::of(&self.response, packet).code(), 0);
                Answer::Bound(connection)
            }
            Verdict::MoveStream { shard } => Answer::Elsewhere(shard),
            Verdict::ToPeer {
                relay,
                peer,
                data,
                dont_fragment,
            } => {
                let from = self.sockets.get(&(index, relay)).copied();
                let from = from.expect("the relay socket is open");
                let data = packet[data.as_range()].to_vec();
                Answer::Sent(Sent {
                    from,
                    to: peer.0,
                    data,
                    dont_fragment,
                })
            }
            Verdict::ToAllocation { shard, to, from, data } => {
                let data = packet[data.as_range()].to_vec();
                Answer::Delivered(self.deliver(usize::from(shard), to, from, &data))
            }
            Verdict::ToClient { .. } => panic!("a client's packet does not go to a client"),
        };
        self.settle(index);
        answer
    }

    /// Sends an RFC 3489 request from a client; returns the length of its response.
    pub fn classic(&mut self, client: &Client, packet: &[u8]) -> usize {
        let now = self.now();
        let verdict = self.shards[client.shard].handle_client(now, &client.client, packet, &mut self.response);
        assert_eq!(verdict, Verdict::Respond);
        assert_gain(&client.client.five_tuple, packet, &self.response);
        self.response.bytes().len()
    }

    /// The path of the last response, if it does not go straight back.
    pub fn route(&self) -> Option<ResponseRoute> {
        self.response.route()
    }

    fn deliver(&mut self, shard: usize, to: RelayedAddr, from: PeerAddr, data: &[u8]) -> Delivered {
        let now = self.now();
        let verdict = self.shards[shard].handle_relayed(now, to, from, data.len());
        self.delivered(shard, verdict, data)
    }

    /// Sends a datagram from a peer to a relayed transport address (as announced).
    pub fn peer(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> Delivered {
        let found = self
            .sockets
            .iter()
            .find(|(_, bound)| bound.port() == to.port() && bound.is_ipv4() == to.is_ipv4());
        let Some((&(index, relay), _)) = found else {
            return Delivered::Unreachable;
        };
        self.peer_at(index, relay, from, data)
    }

    pub fn peer_at(&mut self, index: usize, relay: RelayId, from: SocketAddr, data: &[u8]) -> Delivered {
        let now = self.now();
        let verdict = self.shards[index].handle_peer(now, relay, PeerAddr(from), data.len());
        self.delivered(index, verdict, data)
    }

    fn delivered(&mut self, index: usize, verdict: Verdict, data: &[u8]) -> Delivered {
        self.settle(index);
        match verdict {
            Verdict::Drop(reason) => Delivered::Dropped(reason),
            Verdict::ToClient { allocation, frame } => {
                let client = *self.shards[index]
                    .client(allocation)
                    .expect("the client of a live allocation");
                let mut header = [0xEE; Frame::MAX_HEADER];
                let len = frame.emit(data.len(), &mut header);
                let padding = vec![0; frame.padding(data.len(), client.five_tuple.transport)];
                Delivered::of(client, [&header[..len], data, &padding].concat())
            }
            other => panic!("data for a client became {other:?}"),
        }
    }

    /// Does what a shard does after every call; returns the response to an Allocate that was
    /// waiting.
    pub fn settle(&mut self, index: usize) -> Option<(relay_proto::turn::types::Client, Response)> {
        let mut answered = None;
        while let Some(command) = self.shards[index].poll_command() {
            match command {
                Command::OpenRelay { id, bind } => {
                    assert_ne!(bind.port(), 0);
                    self.binds.push(bind);
                    if let Some(held) = &mut self.hold {
                        held.push((index, id));
                        self.sockets.insert((index, id), bind);
                        continue;
                    }
                    let result = self.open_results.pop_front().unwrap_or(Ok(()));
                    if result.is_ok() {
                        let taken = self.sockets.values().any(|&other| other == bind);
                        assert!(!taken, "{bind} is bound twice");
                        self.sockets.insert((index, id), bind);
                    }
                    answered = self.opened(index, id, result).or(answered);
                }
                Command::OpenTcpRelay { id, bind } => {
                    self.tcp.listening.push(id);
                    self.sockets.insert((index, id), bind);
                    answered = self.opened(index, id, Ok(())).or(answered);
                }
                Command::CloseRelay { id } => {
                    self.tcp.listening.retain(|&other| other != id);
                    self.sockets.remove(&(index, id));
                }
                Command::DetachRelay { id } => {
                    let bind = self.sockets.remove(&(index, id)).expect("an open relay socket");
                    self.detached.insert((index, id), bind);
                }
                Command::ConnectPeer { connection, bind, peer } => self.begin_connect(index, connection, bind, peer),
                Command::ClosePeer { connection } => self.close_peer(index, connection),
                Command::FreePort { port } => {
                    let family = port.family();
                    let open = |bind: &SocketAddr| Family::of(bind.ip()) == family && bind.port() == port.number();
                    assert!(
                        !self.sockets.values().any(open),
                        "{port:?} is given back while it is bound"
                    );
                }
                Command::CloseStream { link } => self.closed_streams.push(link),
            }
        }
        while let Some(migration) = self.shards[index].poll_migration() {
            self.migrations.push_back((index, migration));
        }
        if !self.hold_migrations {
            answered = self.carry().or(answered);
        }
        while let Some(event) = self.shards[index].poll_event() {
            match event {
                Event::Refused(refused) => {
                    if refused.half {
                        self.halves.push((index, refused.refusal.reason()));
                    }
                    self.refused.push(*refused);
                }
                event => self.events.push(event),
            }
        }
        self.check(index);
        answered
    }

    /// Delivers every migration, including those that result; returns the last response.
    pub fn carry(&mut self) -> Option<(relay_proto::turn::types::Client, Response)> {
        let mut answered = None;
        while !self.migrations.is_empty() {
            answered = self.carry_one().or(answered);
        }
        answered
    }

    /// Delivers the oldest migration.
    pub fn carry_one(&mut self) -> Option<(relay_proto::turn::types::Client, Response)> {
        let (from, migration) = self.migrations.pop_front()?;
        let (now, to, sockets) = (self.now(), migration.to(), migration.sockets());
        let mut response = Response::new();
        let handled = self.shards[to].handle_migration(now, migration, &mut response);
        for (old, new) in sockets.into_iter().zip(handled.arrived) {
            assert_eq!(old.is_some(), new.is_some());
            if let (Some(old), Some(new)) = (old, new) {
                let bind = self.detached.remove(&(from, old)).expect("it was detached");
                self.sockets.insert((to, new), bind);
            }
        }
        // One at a time: packets that result from a held packet wait their turn.
        let hold = std::mem::replace(&mut self.hold_migrations, true);
        while let Some((client, packet)) = self.shards[to].poll_held() {
            let answer = self.packet_at(to, &client, &packet);
            self.released.push((packet.into_vec(), answer));
        }
        self.hold_migrations = hold;
        let answered = handled.respond.map(|client| (client, response));
        answered.or_else(|| self.settle(to))
    }

    /// The shard reports a relay socket to the core.
    pub fn opened(
        &mut self,
        index: usize,
        id: RelayId,
        result: Result<(), OpenError>,
    ) -> Option<(relay_proto::turn::types::Client, Response)> {
        let now = self.now();
        let mut response = Response::new();
        let client = self.shards[index].handle_relay_opened(now, id, result, &mut response)?;
        Some((client, response))
    }

    /// Checks the invariants after every step.
    fn check(&self, index: usize) {
        let (counters, server) = (&self.counters[index], &self.shards[index]);
        let dropped: u64 = counters.dropped.iter().map(|cell| cell.get()).sum();
        let ended = counters.relayed.get() + counters.answered.get() + counters.waiting.get() + dropped;
        assert_eq!(counters.received.get(), ended, "every packet ends in one verdict");
        let sum = |cells: &[relay_proto::base::cell::Cell]| cells.iter().map(|cell| cell.get()).sum::<u64>();
        let live = sum(&counters.allocations_started)
            + counters.allocations_arrived.get()
            + counters.allocations_imported.get()
            - sum(&counters.allocations_ended)
            - counters.allocations_left.get();
        assert_eq!(
            sum(&counters.allocations),
            live,
            "the gauge is what came and has not gone"
        );
        assert!(live <= server.allocations() as u64);
        // The others may also be sent to unauthenticated clients, which have not proved their
        // address.
        for (code, answered) in ERROR_CODES
            .iter()
            .zip(&counters.errors)
            .filter(|(code, _)| ![400, 401, 420, 438, 500].contains(*code))
        {
            let reasons = RefusalReason::ALL.iter().filter(|reason| reason.code() == *code);
            let counted = reasons.map(|&reason| counters.refusals.reasons[reason as usize].get());
            let half = |half: &&(usize, RefusalReason)| half.0 == index && half.1.code() == *code;
            let halves = self.halves.iter().filter(half).count() as u64;
            assert_eq!(
                answered.get() + halves,
                counted.sum::<u64>(),
                "every {code} has a reason"
            );
        }
        let ports = self.shared.port_gauges();
        assert!(ports.used() <= ports.total());
    }

    /// Checks that nothing is left: no allocation, socket, port or quota.
    pub fn assert_empty(&self) {
        assert!(self.sockets.is_empty(), "{:?}", self.sockets);
        assert!(self.migrations.is_empty() && self.detached.is_empty());
        self.assert_no_connections();
        assert!(self.shards.iter().all(|server| server.allocations() == 0));
        assert_eq!(self.ports_used(), 0);
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counters
            .iter()
            .map(|counters| counters.dropped[reason as usize].get())
            .sum()
    }

    /// How many requests were refused for this reason.
    pub fn refusals(&self, reason: RefusalReason) -> u64 {
        let cells = self.counters.iter().map(|it| &it.refusals.reasons[reason as usize]);
        cells.map(|cell| cell.get()).sum()
    }

    pub fn requests(&self, method: &str) -> u64 {
        let index = METHODS.iter().position(|&name| name == method).unwrap();
        self.counters
            .iter()
            .map(|counters| counters.requests[index].get())
            .sum()
    }

    pub fn ports_used(&self) -> u64 {
        self.shared.port_gauges().used()
    }
}

/// A sender over UDP that has not proved its key may have forged its source. With IP and UDP
/// headers its response is at most 2.2 times as long as its request.
fn assert_gain(client: &FiveTuple, request: &[u8], response: &Response) {
    let response = response.bytes();
    let signed =
        relay_proto::wire::message::Message::parse(response).is_ok_and(|message| message.integrity().is_some());
    if client.transport == Transport::Udp && !signed {
        let headers = if client.client.is_ipv4() { 28 } else { 48 };
        let (request, response) = (request.len() + headers, response.len() + headers);
        assert!(
            response * 10 <= request * 22,
            "{response} bytes answer {request}: {:.2} times",
            response as f64 / request as f64
        );
    }
}

/// Addresses of client `n`.
pub fn five_tuple(n: u16, transport: Transport) -> FiveTuple {
    FiveTuple {
        client: SocketAddr::from(([203, 0, 113, (n % 250) as u8], 40_000 + n)),
        server: addr("198.51.100.1:3478"),
        transport,
    }
}
