//! Random sequences: clients move, leave and return while migrations are delayed, and nothing is
//! lost, duplicated or left over.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use relay_proto::turn::types::Link;
use relay_proto::turn::{Event, Response};

use super::*;

const SHARDS: usize = 3;
const PLACES: u16 = 12;

#[derive(Clone, Debug)]
enum Op {
    Allocate { place: u16, ticket: bool },
    Resume { place: u16, ticket: usize, delete: bool },
    Data { place: u16 },
    Permit { place: u16 },
    Release { place: u16 },
    Peer { relayed: usize },
    Disconnect { place: u16 },
    Pass { seconds: u64 },
    Carry { migrations: usize },
    HandOver,
}

fn op() -> impl Strategy<Value = Op> {
    let place = || 0..PLACES;
    prop_oneof![
        3 => (place(), proptest::bool::weighted(0.9)).prop_map(|(place, ticket)| Op::Allocate { place, ticket }),
        10 => (place(), 0..64_usize, proptest::bool::weighted(0.05))
            .prop_map(|(place, ticket, delete)| Op::Resume { place, ticket, delete }),
        8 => place().prop_map(|place| Op::Data { place }),
        3 => place().prop_map(|place| Op::Permit { place }),
        1 => place().prop_map(|place| Op::Release { place }),
        8 => (0..64_usize).prop_map(|relayed| Op::Peer { relayed }),
        2 => place().prop_map(|place| Op::Disconnect { place }),
        2 => (1..200_u64).prop_map(|seconds| Op::Pass { seconds }),
        12 => (1..6_usize).prop_map(|migrations| Op::Carry { migrations }),
        1 => proptest::strategy::Just(Op::HandOver),
    ]
}

/// The state known from outside: what each client was granted.
struct Story {
    world: World,
    places: Vec<Client>,
    relayed: Vec<SocketAddr>,
    /// All tickets so far, with the allocation (by `relayed`) of each; the latest last.
    tickets: Vec<(Vec<u8>, usize)>,
    /// The allocation that a five-tuple was granted.
    granted: BTreeSet<(u16, usize)>,
    /// The allocation that a five-tuple has requested.
    asked: BTreeMap<u16, usize>,
    links: u64,
}

impl Story {
    fn new() -> Self {
        let mut world = mobile_with(SHARDS, |config| {
            config.relay.ports = 50_000..=50_063;
            config.limits.allocations_per_ip = 2;
        });
        world.hold_migrations = true;
        let place = |n: u16| {
            let transport = if n.is_multiple_of(2) {
                Transport::Tcp
            } else {
                Transport::Udp
            };
            let client = over(n, transport, usize::from(n) / 2 % SHARDS);
            if n < 8 { client } else { client.user("bob", "builder") }
        };
        Self {
            world,
            places: (0..PLACES).map(place).collect(),
            relayed: Vec::new(),
            tickets: Vec::new(),
            granted: BTreeSet::new(),
            asked: BTreeMap::new(),
            links: 1000,
        }
    }

    fn client(&mut self, place: u16) -> (&mut Client, &mut World) {
        (&mut self.places[usize::from(place)], &mut self.world)
    }

    fn play(&mut self, op: &Op) {
        match *op {
            Op::Allocate { place, ticket } => {
                let (client, world) = self.client(place);
                let message = if ticket { wanting_ticket() } else { allocate() };
                let answer = client.request(world, &message);
                if answer.code_or_success() == Some(0) {
                    self.relayed.push(answer.relayed()[0]);
                    let at = self.relayed.len() - 1;
                    self.granted.insert((place, at));
                    if ticket {
                        self.tickets.push((ticket_of(&answer), at));
                    }
                    let (client, world) = self.client(place);
                    client.bind(world, NUMBER, peer());
                }
            }
            Op::Resume { place, ticket, delete } if !self.tickets.is_empty() => {
                let count = self.tickets.len();
                let (ticket, at) = self.tickets[count - 1 - ticket % count.min(8)].clone();
                let message = with_ticket(&ticket);
                let message = if delete { message.lifetime(0) } else { message };
                let (client, world) = self.client(place);
                let answer = client.request(world, &message);
                match answer.code_or_success() {
                    None if answer == Answer::Waiting => drop(self.asked.insert(place, at)),
                    None => assert_eq!(answer, Answer::Dropped(DropReason::Retransmission)),
                    Some(code) => assert_eq!(code, 437),
                }
            }
            Op::Data { place } => {
                let (client, world) = self.client(place);
                let answer = client.channel_data(world, NUMBER, b"x");
                self.check_sent(place, &answer);
            }
            Op::Permit { place } => {
                let (client, world) = self.client(place);
                client.request(world, &create_permission(&[peer()]));
            }
            Op::Release { place } => {
                let (client, world) = self.client(place);
                client.request(world, &refresh(0));
            }
            Op::Peer { relayed } if !self.relayed.is_empty() => {
                let at = relayed % self.relayed.len();
                let to = self.relayed[at];
                // A port may belong to another allocation once the first has ended.
                if let Delivered::Channel { client, .. } | Delivered::Data { client, .. } =
                    self.world.peer(peer(), to, b"x")
                {
                    let place = self.places.iter().position(|it| it.client == client);
                    let place = place.expect("a client that is there") as u16;
                    let mut granted = (0..self.relayed.len()).filter(|&it| self.relayed[it] == to);
                    assert!(
                        granted.any(|it| self.granted.contains(&(place, it))),
                        "{place} was never granted {to}"
                    );
                }
            }
            Op::Disconnect { place } if place.is_multiple_of(2) => {
                self.links += 1;
                let link = Link(self.links);
                let (client, world) = self.client(place);
                client.disconnect(world);
                client.client.link = link;
                self.asked.remove(&place);
            }
            Op::Pass { seconds } => self.world.pass(secs(seconds)),
            Op::Carry { migrations } => (0..migrations).for_each(|_| self.carry_one()),
            Op::HandOver => {
                while !self.world.migrations.is_empty() {
                    self.carry_one();
                }
                self.world.hand_over();
            }
            Op::Resume { .. } | Op::Peer { .. } | Op::Disconnect { .. } => {}
        }
    }

    fn carry_one(&mut self) {
        if let Some((client, response)) = self.world.carry_one() {
            self.answered(&client, &response);
        }
        for (_, answer) in std::mem::take(&mut self.world.released) {
            if let Answer::Sent(sent) = answer {
                let to = sent.from.port();
                assert!(self.relayed.iter().any(|relayed| relayed.port() == to));
            }
        }
    }

    fn answered(&mut self, client: &relay_proto::turn::types::Client, response: &Response) {
        let place = self.places.iter().position(|it| it.client == *client);
        let Some(place) = place.map(|place| place as u16) else {
            return;
        };
        let message = relay_proto::wire::message::Message::parse(response.bytes()).unwrap();
        let Some(at) = self.asked.remove(&place) else { return };
        if let Some(ticket) = message.attribute(AttributeType::MOBILITY_TICKET) {
            self.tickets.push((ticket.to_vec(), at));
            self.granted.insert((place, at));
        }
    }

    fn check_sent(&self, place: u16, answer: &Answer) {
        if let Answer::Sent(sent) = answer {
            let mut from = (0..self.relayed.len()).filter(|&at| self.relayed[at].port() == sent.from.port());
            assert!(from.any(|at| self.granted.contains(&(place, at))));
        }
    }

    /// An allocation is on one shard or in transit, and so are its socket and its quota.
    fn check(&self) {
        let on_their_way = |(_, migration): &&(usize, relay_proto::turn::Migration)| migration.sockets()[0].is_some();
        let moving = self.world.migrations.iter().filter(on_their_way).count();
        assert_eq!(moving, self.world.detached.len());
        let live = allocations(&self.world);
        assert_eq!(self.world.sockets.len(), live);
        assert_eq!(self.world.shared.allocations() as usize, live + moving);
        let all = || self.world.sockets.values().chain(self.world.detached.values());
        assert_eq!(
            all().collect::<BTreeSet<_>>().len(),
            all().count(),
            "a port is bound once"
        );
    }
}

/// An id names one allocation, from its first line to its last, wherever it moves.
fn check_session_ids(events: &[Event]) {
    let mut live = BTreeSet::new();
    let mut all = BTreeSet::new();
    for event in events {
        match event {
            Event::AllocationBegan { id, .. } => {
                assert!(all.insert(*id), "{id} is given out twice");
                live.insert(*id);
            }
            Event::AllocationMoved { id, .. } => assert!(live.contains(id), "{id} moves and is not there"),
            Event::AllocationEnded { id, .. } => assert!(live.remove(id), "{id} ends and is not there"),
            Event::Refused(_) => {}
        }
    }
    assert!(live.is_empty(), "{live:?} never end");
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 300, ..Default::default() })]

    //= MOB-02
    //= MOB-05
    #[test]
    fn whatever_clients_do_while_migrations_are_late_every_allocation_is_in_one_place_until_it_ends(
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut story = Story::new();
        for op in &ops {
            story.play(op);
            story.check();
        }
        while !story.world.migrations.is_empty() {
            story.carry_one();
            story.check();
        }
        story.world.hold_migrations = false;
        story.world.pass(secs(3700));
        story.world.wake();
        story.world.assert_empty();
        for client in &story.places {
            prop_assert!(!story.world.shards[client.shard].has_or_awaits_allocation(&client.client));
        }
        for counters in &story.world.counters {
            prop_assert_eq!(counters.away.get(), 0);
        }
        let ended = story.world.events.iter().filter(|event| matches!(event, Event::AllocationEnded { .. })).count();
        prop_assert_eq!(ended, story.relayed.len(), "every end is told once");
        check_session_ids(&story.world.events);
        // No ticket outlives its allocation.
        let mut last = udp(200, 0);
        for (ticket, _) in &story.tickets {
            prop_assert_eq!(last.request(&mut story.world, &with_ticket(ticket)).code(), 437);
        }
    }
}
