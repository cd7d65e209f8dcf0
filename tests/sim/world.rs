//! The simulated world: a virtual clock, a heap of future events, and all participants.

use core::cmp::Ordering;
use core::time::Duration;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::rc::Rc;

use relay_proto::base::time::{Instant, Now, UnixTime};
use relay_proto::turn::types::{PeerAddr, RelayId, RelayedAddr};
use relay_proto::turn::{OpenError, Shared};

use crate::client::Client;
use crate::faults::Fault;
use crate::message::{Login, Packet};
use crate::oracle::Oracle;
use crate::setup::{Rules, Setup, Weather};
use crate::site::Site;
use crate::stream::{Conn, StreamEvent};
use crate::trace;
use relay_testkit::dice::Dice;

/// Wall-clock time at the beginning, in Unix seconds.
const EPOCH: i64 = 1_800_000_000;
/// The monotonic clock does not begin at zero.
const BOOT: Instant = Instant::from_nanos(1_234_567_890_123);

/// Bytes of application data.
pub(crate) type Payload = Rc<[u8]>;

/// A future event. `run` is the process that it belongs to: an event for a process that has ended
/// does not reach the next.
#[derive(Debug)]
pub(crate) enum Event {
    ToServer {
        from: SocketAddr,
        to: SocketAddr,
        packet: Packet,
    },
    ToClient {
        to: SocketAddr,
        bytes: Payload,
    },
    ToRelay {
        relayed: SocketAddr,
        from: SocketAddr,
        payload: Payload,
    },
    ToPeer {
        peer: SocketAddr,
        from: SocketAddr,
        payload: Payload,
    },
    Icmp {
        relayed: SocketAddr,
        peer: SocketAddr,
    },
    /// From one shard to another.
    Letter {
        run: u64,
        shard: usize,
        to: RelayedAddr,
        from: PeerAddr,
        payload: Payload,
    },
    Opened {
        run: u64,
        shard: usize,
        id: RelayId,
        result: Result<(), OpenError>,
    },
    Wake {
        run: u64,
        shard: usize,
    },
    Stream {
        conn: u64,
        event: StreamEvent,
    },
    /// A client does something.
    Tick(usize),
    /// A client has not got an answer.
    Retry {
        client: usize,
        id: [u8; 12],
    },
    /// A client finds its stream closed.
    Closed {
        client: usize,
        conn: u64,
    },
    /// A peer sends something.
    Peer,
    Fault(Fault),
}

struct Timed {
    at: Instant,
    order: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    /// The earliest is the greatest; of two at the same time, the one that was added first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The whole simulation.
pub(crate) struct World {
    pub(crate) setup: Rc<Setup>,
    pub(crate) mono: Instant,
    /// How far the wall clock has jumped, in seconds.
    pub(crate) jumped: i64,
    pub(crate) dice: Dice,
    pub(crate) weather: Weather,
    pub(crate) site: Site,
    pub(crate) oracle: Oracle,
    pub(crate) clients: Vec<Client>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) peers: Vec<SocketAddr>,
    pub(crate) board: Board,
    /// No participant starts anything new.
    pub(crate) quiet: bool,
    /// Hash of everything that the server sent.
    pub(crate) digest: u64,
    /// Number of connections so far.
    pub(crate) connected: u64,
    queue: BinaryHeap<Timed>,
    planned: u64,
    steps: u64,
}

/// What clients and peers know of each other.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// Every relayed address there ever was.
    pub(crate) relayed: Vec<SocketAddr>,
    /// Tokens, their owners, and when they were issued.
    pub(crate) tokens: Vec<([u8; 8], Rc<Login>, Instant)>,
    /// Packets that can be replayed.
    pub(crate) captured: Vec<Packet>,
}

impl World {
    /// A world in which nothing has happened yet, with only the server in it.
    pub(crate) fn new(setup: Setup, seed: u64) -> Self {
        let setup = Rc::new(setup);
        let mut dice = Dice::new(seed);
        let rules = Rules::first(&setup);
        let shared = Shared::new(dice.array());
        Self {
            mono: BOOT,
            jumped: 0,
            weather: setup.weather,
            site: Site::new(BOOT, &setup, &rules, shared, &mut dice),
            oracle: Oracle::new(Rc::clone(&setup), &rules),
            clients: Vec::new(),
            conns: BTreeMap::new(),
            peers: crate::places::peers(),
            board: Board::default(),
            quiet: false,
            digest: 0xCBF2_9CE4_8422_2325,
            connected: 0,
            queue: BinaryHeap::new(),
            planned: 0,
            steps: 0,
            setup,
            dice,
        }
    }

    /// The world of a seed, with all its faults.
    pub(crate) fn drawn(seed: u64) -> Self {
        let setup = Setup::draw(&mut Dice::new(seed.rotate_left(32)));
        trace::note(|| format!("{setup:?}"));
        let mut world = Self::new(setup, seed);
        for _ in 0..world.setup.clients {
            world.add_client();
        }
        world.plan_faults();
        for _ in 0..2 {
            world.after(Duration::from_secs(3), Event::Peer);
        }
        world
    }

    /// Performs the whole run, and lets the rest of it end.
    pub(crate) fn live(&mut self) {
        let end = self.mono + self.setup.duration;
        self.run_until(end);
        self.end();
    }

    pub(crate) fn now(&self) -> Now {
        let seconds = (self.mono - BOOT).as_secs().cast_signed();
        Now {
            mono: self.mono,
            unix: UnixTime((EPOCH + seconds + self.jumped).cast_unsigned()),
        }
    }

    pub(crate) fn at(&mut self, at: Instant, event: Event) {
        self.planned += 1;
        self.queue.push(Timed {
            at: at.max(self.mono),
            order: self.planned,
            event,
        });
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.mono + delay, event);
    }

    /// Performs every event before `end`, and sets the time to `end`.
    pub(crate) fn run_until(&mut self, end: Instant) {
        while self.queue.peek().is_some_and(|next| next.at < end) {
            self.step();
        }
        self.mono = self.mono.max(end);
        trace::at(self.mono);
    }

    /// Performs all remaining events.
    pub(crate) fn run_out(&mut self) {
        while self.step() {}
    }

    fn step(&mut self) -> bool {
        let Some(Timed { at, event, .. }) = self.queue.pop() else {
            return false;
        };
        self.steps += 1;
        assert!(self.steps < 1_000_000, "the world does not come to rest");
        self.mono = at;
        trace::at(at);
        if self.steps.is_multiple_of(64) {
            let now = self.now();
            self.oracle.forget(now);
        }
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToServer { from, to, packet } => self.datagram_at_server(from, to, &packet),
            Event::ToClient { to, bytes } => self.datagram_at_client(to, &bytes),
            Event::ToRelay { relayed, from, payload } => self.datagram_at_relay(relayed, from, &payload),
            Event::ToPeer { peer, from, payload } => self.datagram_at_peer(peer, from, &payload),
            Event::Icmp { relayed, peer } => self.icmp_at_relay(relayed, peer),
            Event::Letter {
                run,
                shard,
                to,
                from,
                payload,
            } if run == self.site.run => {
                self.letter_at_shard(shard, to, from, &payload);
            }
            Event::Opened { run, shard, id, result } if run == self.site.run => self.relay_opened(shard, id, result),
            Event::Wake { run, shard } if run == self.site.run => self.wake(shard),
            Event::Letter { .. } | Event::Opened { .. } | Event::Wake { .. } => {}
            Event::Stream { conn, event } => self.stream_event(conn, event),
            Event::Tick(client) => self.tick(client),
            Event::Retry { client, id } => self.retry(client, id),
            Event::Closed { client, conn } => self.closed(client, conn),
            Event::Peer => self.peer_tick(),
            Event::Fault(fault) => self.strike(fault),
        }
    }

    /// Adds to the hash of everything that the server sent.
    pub(crate) fn digest(&mut self, bytes: &[u8]) {
        let time = self.mono.as_nanos().to_le_bytes();
        for &byte in time.iter().chain(bytes) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    /// Stops new activity, lets everything expire, and checks that nothing is left.
    pub(crate) fn end(&mut self) {
        self.quiet = true;
        self.weather = Weather::FINE;
        trace::note(|| "the end begins".into());
        self.run_out();
        for shard in 0..self.setup.shards {
            self.expire(shard);
        }
        self.check_nothing_left();
        self.check_streams_settled();
        self.check_quotas_returned();
    }
}
