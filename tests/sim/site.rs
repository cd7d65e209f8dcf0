//! The server's side: its real shards, and the simulated kernel under them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use relay_proto::base::address::{FiveTuple, Transport};
use relay_proto::base::time::Instant;
use relay_proto::turn::types::{Client, Link, PeerAddr, RelayId, RelayedAddr, ShardIndex};
use relay_proto::turn::{Command, Counters, Frame, OpenError, QuotedIcmp, Response, Server, Shared, Verdict};
use relay_proto::wire::channel_data;

use crate::endings::Cause;
use crate::judge::Deed;
use crate::judge_peer::Inbound;
use crate::message::Packet;
use crate::mirror::Mirror;
use crate::oracle::key;
use crate::places::{self, announced_for, family};
use crate::reply::{FromPeer, Reply};
use crate::setup::{Rules, Setup};
use crate::trace;
use crate::world::{Event, World};
use relay_testkit::dice::Dice;

/// One run of the server program.
pub(crate) struct Site {
    /// How often the program was started.
    pub(crate) run: u64,
    pub(crate) shards: Vec<Shard>,
    pub(crate) shared: Arc<Shared>,
    /// Relay sockets by the address peers see.
    pub(crate) sockets: BTreeMap<SocketAddr, Socket>,
    /// Ports of other programs, by bound address.
    pub(crate) foreign: BTreeSet<SocketAddr>,
    /// The reason why relay sockets cannot be opened.
    pub(crate) refusing: Option<OpenError>,
    /// Longest time to open a relay socket, in milliseconds.
    pub(crate) slow_opening: u64,
    /// Relay sockets are never opened.
    pub(crate) stuck: bool,
    pub(crate) rules: Rules,
    /// A shard has a configuration other than the first one.
    reloaded: bool,
    response: Box<Response>,
}

/// A worker.
pub(crate) struct Shard {
    pub(crate) server: Server,
    pub(crate) counters: Arc<Counters>,
    /// A mirror of its routes, if there is a listener.
    pub(crate) mirror: Option<Mirror>,
    /// When it wakes up.
    wake: Option<Instant>,
}

/// A relay socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket {
    pub(crate) shard: usize,
    pub(crate) id: RelayId,
}

impl Shard {
    fn learn_routes(&mut self) {
        while let Some(change) = self.server.poll_route_change() {
            let mirror = self.mirror.as_mut().expect("with no listener nothing is queued");
            mirror.apply(change);
        }
    }
}

impl Site {
    pub(crate) fn new(now: Instant, setup: &Setup, rules: &Rules, shared: Shared, dice: &mut Dice) -> Self {
        let shared = Arc::new(shared);
        let config = setup.config(rules);
        let shard = |index| {
            let counters = Arc::new(Counters::default());
            let place = ShardIndex {
                index,
                count: setup.shards,
            };
            let server = Server::new(
                now,
                Arc::clone(&config),
                Arc::clone(&shared),
                place,
                dice.array(),
                Arc::clone(&counters),
            );
            Shard {
                server,
                counters,
                mirror: None,
                wake: None,
            }
        };
        let mut site = Self {
            run: 0,
            shards: (0..setup.shards).map(shard).collect(),
            shared,
            sockets: BTreeMap::new(),
            foreign: BTreeSet::new(),
            refusing: None,
            slow_opening: 0,
            stuck: false,
            rules: rules.clone(),
            reloaded: false,
            response: Box::default(),
        };
        site.mirror(true);
        site
    }

    pub(crate) fn is_mirrored(&self) -> bool {
        self.shards.iter().all(|shard| shard.mirror.is_some())
    }

    /// Switches mirrors of the routes on or off.
    pub(crate) fn mirror(&mut self, on: bool) {
        for shard in &mut self.shards {
            shard.mirror = on.then(Mirror::default);
            shard.server.report_routes(on);
            shard.learn_routes();
        }
    }

    /// The relayed address of a socket.
    fn relayed(&self, shard: usize, id: RelayId) -> Option<SocketAddr> {
        let found = self
            .sockets
            .iter()
            .find(|(_, socket)| socket.shard == shard && socket.id == id);
        found.map(|(&relayed, _)| relayed)
    }
}

impl World {
    /// The kernel keeps a five-tuple on one shard.
    pub(crate) fn shard_of(&self, client: SocketAddr) -> usize {
        let ip = match client.ip() {
            std::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
            std::net::IpAddr::V6(ip) => ip.to_bits() as u64,
        };
        let mixed = (ip ^ (u64::from(client.port()) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 40) as usize % self.setup.shards
    }

    pub(crate) fn datagram_at_server(&mut self, from: SocketAddr, to: SocketAddr, packet: &Packet) {
        let five_tuple = FiveTuple {
            client: from,
            server: to,
            transport: Transport::Udp,
        };
        let client = Client {
            five_tuple,
            link: Link(family(to) as u64),
        };
        self.hand(self.shard_of(from), client, packet);
    }

    /// Delivers a whole packet from a client to its shard.
    pub(crate) fn hand(&mut self, shard: usize, client: Client, packet: &Packet) {
        let now = self.now();
        let expected = self.oracle.expect(shard, &client, now, &packet.told);
        let cause = Cause::of(&client, packet);
        let Shard { server, mirror, .. } = &mut self.site.shards[shard];
        let mirrored = mirror
            .as_ref()
            .map(|mirror| mirror.of_client(now.mono, &client, &packet.bytes));
        let verdict = server.handle_client(now, &client, &packet.bytes, &mut self.site.response);
        if let Some(mirrored) = mirrored.filter(|_| channel_data::parse(&packet.bytes).is_ok()) {
            self.compare(mirrored, verdict, Some(&client));
        }
        let reply = (verdict == Verdict::Respond).then(|| Reply::parse(self.site.response.bytes()));
        trace::note(|| {
            let FiveTuple { client, transport, .. } = client.five_tuple;
            let code = reply
                .as_ref()
                .map_or_else(String::new, |reply| format!(" {}", reply.code));
            format!(
                "shard {shard} <- {client} {transport}: {} => {verdict:?}{code}",
                packet.tell()
            )
        });
        self.gather(shard, cause);
        let from = match verdict {
            Verdict::ToPeer { relay, .. } => self.site.relayed(shard, relay),
            _ => None,
        };
        let deed = Deed {
            shard,
            client: &client,
            now,
            packet,
            verdict,
            reply: reply.as_ref(),
            from,
        };
        self.oracle.judge(&deed, &expected);
        self.settle(shard, cause);
        let data = |range: relay_proto::turn::output::DataRange| packet.bytes[range.as_range()].into();
        match verdict {
            Verdict::ToPeer { peer, data: range, .. } => {
                self.send_to_peer(from.expect("judged"), peer.0, data(range));
            }
            Verdict::ToAllocation {
                shard: other,
                to,
                from,
                data: range,
            } => {
                let delay = self.dice.millis(0, if usize::from(other) == shard { 0 } else { 3 });
                let (run, other) = (self.site.run, other.into());
                self.after(
                    delay,
                    Event::Letter {
                        run,
                        shard: other,
                        to,
                        from,
                        payload: data(range),
                    },
                );
            }
            Verdict::Respond => self.respond(&client, &reply.expect("judged").bytes),
            Verdict::ToClient { .. } | Verdict::Waiting | Verdict::Drop(_) => {}
            Verdict::BindConnection(_) | Verdict::MoveStream { .. } => unreachable!("TCP allocations are off"),
        }
    }

    pub(crate) fn datagram_at_relay(&mut self, relayed: SocketAddr, from: SocketAddr, payload: &[u8]) {
        let Some(&Socket { shard, id }) = self.site.sockets.get(&relayed) else {
            self.oracle.mark("a peer's datagram finds no socket");
            return;
        };
        let now = self.now();
        let Shard { server, mirror, .. } = &mut self.site.shards[shard];
        let mirrored = mirror
            .as_ref()
            .map(|mirror| mirror.of_peer(now.mono, id, from, payload.len()));
        let client = server.client(id.allocation).copied();
        let verdict = server.handle_peer(now, id, PeerAddr(from), payload.len());
        if let Some(mirrored) = mirrored {
            // Only the core handles packets that forge our own addresses.
            let due = client.filter(|_| !places::is_ours(from.ip()));
            self.compare(mirrored, verdict, due.as_ref());
        }
        self.inbound(shard, relayed, from, payload, verdict);
    }

    pub(crate) fn letter_at_shard(&mut self, shard: usize, to: RelayedAddr, from: PeerAddr, payload: &[u8]) {
        let now = self.now();
        let verdict = self.site.shards[shard]
            .server
            .handle_relayed(now, to, from, payload.len());
        if matches!(verdict, Verdict::ToClient { .. }) {
            self.oracle.mark("from client to client");
        }
        self.inbound(shard, to.0, from.0, payload, verdict);
    }

    /// Handles application data at a relayed address.
    fn inbound(&mut self, shard: usize, relayed: SocketAddr, from: SocketAddr, payload: &[u8], verdict: Verdict) {
        trace::note(|| {
            format!(
                "shard {shard} <- peer {from} at {relayed}: {} bytes => {verdict:?}",
                payload.len()
            )
        });
        let now = self.now();
        let parts = match verdict {
            Verdict::ToClient { allocation, frame } => {
                let client = self.site.shards[shard].server.client(allocation).copied();
                Some((client.expect("ToClient names a live allocation"), frame))
            }
            _ => None,
        };
        self.gather(shard, Cause::Peer);
        let sent = parts.map(|(client, frame)| (client, framed(&client, frame, payload)));
        let understood = sent.as_ref().map(|(client, bytes)| {
            let stream = client.five_tuple.transport.is_stream();
            (client, FromPeer::parse(&bytes.concat(), stream))
        });
        let deed = Inbound {
            shard,
            relayed,
            peer: from,
            payload,
            now,
            verdict,
        };
        self.oracle.judge_inbound(&deed, understood);
        self.settle(shard, Cause::Peer);
        if let Some((client, [header, data, padding])) = sent {
            self.send_data(&client, &header, &data, padding.len());
        }
    }

    pub(crate) fn icmp_at_relay(&mut self, relayed: SocketAddr, peer: SocketAddr) {
        let Some(&Socket { shard, id }) = self.site.sockets.get(&relayed) else {
            return;
        };
        let icmp = QuotedIcmp {
            icmp_type: if peer.is_ipv4() { 3 } else { 1 },
            code: 3,
            data: 0,
        };
        let (now, response) = (self.now(), &mut self.site.response);
        let client = self.site.shards[shard]
            .server
            .handle_icmp(now, id, PeerAddr(peer), icmp, response);
        trace::note(|| {
            format!(
                "shard {shard} <- ICMP about {peer} at {relayed}: {:?}",
                client.is_some()
            )
        });
        let bytes = response.bytes().to_vec();
        self.gather(shard, Cause::Peer);
        let sent = client.map(|client| (client, FromPeer::parse(&bytes, client.five_tuple.transport.is_stream())));
        self.oracle.judge_icmp(relayed, peer, now, sent);
        self.settle(shard, Cause::Peer);
        if let Some(client) = client {
            self.send_data(&client, &bytes, &[], 0);
        }
    }

    pub(crate) fn relay_opened(&mut self, shard: usize, id: RelayId, result: Result<(), OpenError>) {
        let now = self.now();
        let server = &mut self.site.shards[shard].server;
        let client = server.handle_relay_opened(now, id, result, &mut self.site.response);
        trace::note(|| {
            format!(
                "shard {shard}: relay socket {id:?} {result:?}, answered: {}",
                client.is_some()
            )
        });
        self.gather(shard, Cause::Opened);
        let reply = client.map(|_| Reply::parse(self.site.response.bytes()));
        if let (Some(client), Some(reply)) = (client, &reply) {
            let of_it = |socket: &Socket| socket.shard == shard && socket.id.allocation == id.allocation;
            let sockets = self.site.sockets.iter().filter(|(_, socket)| of_it(socket));
            let open: Vec<SocketAddr> = sockets.map(|(&relayed, _)| relayed).collect();
            self.oracle.judge_opened(shard, &client, now, reply, &open);
            self.board.relayed.extend(&reply.relayed);
        }
        self.settle(shard, Cause::Opened);
        if let (Some(client), Some(reply)) = (client, reply) {
            self.respond(&client, &reply.bytes);
        }
    }

    pub(crate) fn wake(&mut self, shard: usize) {
        self.site.shards[shard].wake = None;
        let now = self.mono;
        if self.site.shards[shard]
            .server
            .poll_timeout()
            .is_some_and(|due| due <= now)
            || self.dice.percent(5)
        {
            self.expire(shard);
        } else {
            self.settle(shard, Cause::Time);
        }
    }

    /// Calls `handle_timeout`.
    pub(crate) fn expire(&mut self, shard: usize) {
        let now = self.now();
        let server = &mut self.site.shards[shard].server;
        server.handle_timeout(now);
        let next = server.poll_timeout();
        assert!(
            next.is_none_or(|next| next > now.mono),
            "after handle_timeout, poll_timeout is in the past"
        );
        self.gather(shard, Cause::Time);
        self.settle(shard, Cause::Time);
        self.oracle.check_swept(shard, now);
    }

    /// A client's stream has closed, on whichever side.
    pub(crate) fn disconnect(&mut self, shard: usize, client: &Client) {
        let now = self.now();
        let cause = Cause::Disconnect(key(&client.five_tuple), client.link);
        self.site.shards[shard].server.handle_disconnect(now, client);
        self.gather(shard, cause);
        self.settle(shard, cause);
        let left = self
            .oracle
            .of(client)
            .is_some_and(|held| !held.is_by_another_stream(client));
        assert!(!left, "an allocation outlives its stream");
    }

    pub(crate) fn shut_down(&mut self) {
        for shard in 0..self.setup.shards {
            let now = self.now();
            self.site.shards[shard].server.shutdown(now);
            self.gather(shard, Cause::Shutdown);
            self.settle(shard, Cause::Shutdown);
        }
        assert!(self.oracle.held.is_empty(), "an allocation outlives the server");
    }

    /// Processes the server's events.
    pub(crate) fn gather(&mut self, shard: usize, cause: Cause) {
        let now = self.now();
        while let Some(event) = self.site.shards[shard].server.poll_event() {
            trace::note(|| format!("shard {shard}: {event:?}"));
            self.oracle.event(shard, &event, now, cause);
        }
    }

    /// Carries out the server's commands, then checks the invariants.
    pub(crate) fn settle(&mut self, shard: usize, cause: Cause) {
        let mut closing = Vec::new();
        while let Some(command) = self.site.shards[shard].server.poll_command() {
            trace::note(|| format!("shard {shard}: {command:?}"));
            match command {
                Command::OpenRelay { id, bind } => self.open_relay(shard, id, bind),
                Command::CloseRelay { id } => self.close_relay(shard, id),
                Command::DetachRelay { .. } => panic!("mobility is off"),
                Command::OpenTcpRelay { .. } | Command::ConnectPeer { .. } | Command::ClosePeer { .. } => {
                    unreachable!("TCP allocations are off")
                }
                Command::FreePort { port } => drop(port),
                Command::CloseStream { link } => closing.push(link),
            }
        }
        self.site.shards[shard].learn_routes();
        let (now, worker) = (self.now(), &self.site.shards[shard]);
        self.oracle.check_abandoned(shard, now, cause, |client| {
            worker.server.has_or_awaits_allocation(client)
        });
        self.oracle
            .check_balance(shard, worker.server.allocations(), &worker.counters);
        assert_eq!(
            self.site.shared.allocations() as usize,
            self.oracle.held.len(),
            "quota of all shards"
        );
        self.check_sockets(shard);
        self.check_ports();
        self.plan_wake(shard);
        for link in closing {
            assert!(
                !matches!(cause, Cause::Peer | Cause::Opened | Cause::Time),
                "a stream is closed for nothing"
            );
            self.close_stream(link.0);
        }
    }

    /// Checks that every relayed address has its socket, and that there are no others.
    fn check_sockets(&self, shard: usize) {
        let mut expected = 0;
        for held in self
            .oracle
            .held
            .values()
            .filter(|held| held.shard == shard && held.opening.is_none())
        {
            for half in held.halves.iter().flatten() {
                let socket = self.site.sockets.get(&half.relayed);
                assert!(
                    socket.is_some_and(|socket| socket.shard == shard),
                    "{half:?} has no socket"
                );
                expected += 1;
            }
        }
        let opening = |socket: &Socket| {
            let client = self.site.shards[shard].server.client(socket.id.allocation);
            client
                .and_then(|client| self.oracle.of(client))
                .is_some_and(|held| held.opening.is_some())
        };
        let open = self
            .site
            .sockets
            .values()
            .filter(|socket| socket.shard == shard && !opening(socket))
            .count();
        assert_eq!(open, expected, "relay sockets nobody needs");
    }

    /// Checks that no port in use counts as free.
    fn check_ports(&self) {
        let ranges = &self.oracle.ports;
        // Ports outside the range are in use and do not count.
        let counted = |relayed: &SocketAddr| {
            let range = ranges[family(*relayed) as usize].as_ref();
            range.is_some_and(|range| range.contains(&relayed.port()))
        };
        let used = self.oracle.relayed_live(self.mono).filter(counted).count() as u64;
        let gauges = self.site.shared.port_gauges();
        assert!(
            gauges.used() >= used,
            "{used} ports are in use, {} are counted",
            gauges.used()
        );
        let total = ranges.iter().flatten().map(|range| range.len() as u64).sum::<u64>();
        assert_eq!(gauges.total(), total, "ports in all");
    }

    fn plan_wake(&mut self, shard: usize) {
        let due = self.site.shards[shard].server.poll_timeout();
        self.oracle.check_timer(shard, self.mono, due);
        let Some(due) = due else { return };
        // Occasionally the shard is busy.
        let late = if self.dice.percent(2) { 5000 } else { 20 };
        let at = due.max(self.mono) + self.dice.millis(0, late);
        let wake = &mut self.site.shards[shard].wake;
        if wake.is_none_or(|planned| planned > at) {
            *wake = Some(at);
            self.at(
                at,
                Event::Wake {
                    run: self.site.run,
                    shard,
                },
            );
        }
    }

    fn open_relay(&mut self, shard: usize, id: RelayId, bind: SocketAddr) {
        let relayed = announced_for(bind);
        let client = *self.site.shards[shard]
            .server
            .client(id.allocation)
            .expect("OpenRelay names an allocation");
        let tried = self
            .oracle
            .of_mut(&client)
            .and_then(|held| held.opening.as_mut())
            .expect("an Allocate waits for it");
        tried.push((family(relayed), relayed.port()));
        assert!(
            !self.site.sockets.contains_key(&relayed),
            "{bind} is bound already, by this server"
        );
        let result = match self.site.refusing {
            Some(error) => Err(error),
            None if self.site.foreign.contains(&bind) => Err(OpenError::AddressInUse),
            None => Ok(()),
        };
        if result.is_ok() {
            self.site.sockets.insert(relayed, Socket { shard, id });
        }
        if !self.site.stuck {
            let delay = self.dice.millis(0, self.site.slow_opening);
            self.after(
                delay,
                Event::Opened {
                    run: self.site.run,
                    shard,
                    id,
                    result,
                },
            );
        }
    }

    fn close_relay(&mut self, shard: usize, id: RelayId) {
        let Some(relayed) = self.site.relayed(shard, id) else {
            return;
        };
        let now = self.now();
        self.site.sockets.remove(&relayed);
        self.oracle.relay_closed(relayed, now);
    }
}

/// What is sent for application data: header, data, padding.
fn framed(client: &Client, frame: Frame, payload: &[u8]) -> [Vec<u8>; 3] {
    let mut header = [0; Frame::MAX_HEADER];
    let len = frame.emit(payload.len(), &mut header);
    let padding = frame.padding(payload.len(), client.five_tuple.transport);
    [header[..len].to_vec(), payload.to_vec(), vec![0; padding]]
}

impl World {
    /// One shard gets a new configuration.
    pub(crate) fn reload(&mut self, shard: usize, rules: &Rules) {
        let now = self.now();
        let config = self.setup.config(rules);
        self.site.rules = rules.clone();
        self.site.reloaded = true;
        self.site.shards[shard].server.set_config(now, config);
        self.oracle.reload(shard, rules);
        self.gather(shard, Cause::Time);
        self.settle(shard, Cause::Time);
    }
}
