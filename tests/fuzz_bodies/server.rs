//! Whole stories: clients, peers and time in any order, and after every step the server and a plain model agree.

use std::net::SocketAddr;
use std::time::Duration;

use relay::base::address::Transport;
use relay::wire::attribute::AttributeType;
use relay::wire::message::Method;

use super::Bytes;
use super::model::{Allocation, Inward, Outward, Policy, SECOND, lifetime};
use relay_testkit::world::*;

/// Most operations of one story.
const STEPS: usize = 400;
const CLIENTS: [(Transport, bool, &str); 6] = [
    (Transport::Udp, false, "alice"),
    (Transport::Udp, true, "alice"),
    (Transport::Tcp, false, "alice"),
    (Transport::Tls, true, "bob"),
    (Transport::Dtls, false, "alice"),
    (Transport::Udp, false, "bob"),
];
const PEERS: [&str; 12] = [
    "192.0.2.1:7000",
    "192.0.2.1:7001",
    "192.0.2.2:7000",
    "192.0.2.3:53",
    "192.0.2.4:0",
    "[2001:db8::1]:7000",
    "[2001:db8::2]:7000",
    "10.0.0.1:7000",
    "[fd00::1]:7000",
    "[::ffff:192.0.2.1]:7000",
    "198.51.100.1:3478",
    "198.51.100.9:22",
];
const NUMBERS: [u16; 6] = [0x4000, 0x4001, 0x4002, 0x4FFF, 0x3FFF, 0x5000];

/// Nanoseconds before, at and after everything that can happen.
fn wait(input: &mut Bytes<'_>) -> Duration {
    let seconds = input.pick(&[0, 1, 7, 30, 40, 60, 299, 300, 301, 599, 600, 1200, 3600]);
    match input.byte() % 3 {
        0 => secs(seconds),
        1 => secs(seconds) + Duration::from_nanos(1),
        _ => secs(seconds).saturating_sub(Duration::from_nanos(1)),
    }
}

struct Story {
    world: World,
    clients: Vec<Client>,
    /// What each client has, as the model has it.
    allocations: Vec<Option<Allocation>>,
    policy: Policy,
    /// When the nonces were asked for.
    asked: Duration,
}

impl Story {
    fn new() -> Self {
        let shards = 2;
        let client = |(n, (transport, v6, user)): (u16, (Transport, bool, &str))| {
            let mut client = client_over(n, transport).at_shard(usize::from(n) % shards);
            if v6 {
                client.client.five_tuple.client = SocketAddr::from((ip("2a00:1450:2::7"), 40_000 + n));
            }
            let password = if user == "alice" { "wonderland" } else { "builder" };
            client.user(user, password)
        };
        let world = World::sharded(shards, |_| {});
        Self {
            asked: world.now,
            world,
            clients: (1..).zip(CLIENTS).map(client).collect(),
            allocations: CLIENTS.map(|_| None).into(),
            policy: Policy { denies_second: false },
        }
    }

    fn now(&self) -> Duration {
        self.world.now
    }

    /// The live allocation of a client.
    fn live(&mut self, who: usize) -> Option<&mut Allocation> {
        let now = self.world.now;
        self.allocations[who]
            .as_mut()
            .filter(|allocation| allocation.lives(now))
    }

    fn request(&mut self, who: usize, message: &Message) -> Answer {
        self.clients[who].request(&mut self.world, message)
    }

    /// One of [`PEERS`], or somebody's relayed address.
    fn peer(&mut self, input: &mut Bytes<'_>) -> SocketAddr {
        let n = usize::from(input.byte()) % (PEERS.len() + 2 * CLIENTS.len());
        let Some(of) = n.checked_sub(PEERS.len()) else {
            return addr(PEERS[n]);
        };
        let half = self.allocations[of / 2]
            .as_ref()
            .and_then(|allocation| allocation.halves[of % 2]);
        half.map_or(addr(PEERS[0]), |(relayed, _)| relayed)
    }

    fn step(&mut self, input: &mut Bytes<'_>) {
        let (op, who) = (input.byte(), usize::from(input.byte()) % CLIENTS.len());
        match op % 16 {
            0 | 1 => self.allocate(who, input),
            2 => self.refresh(who, input),
            3 | 4 => self.create_permission(who, input),
            5 | 6 => self.channel_bind(who, input),
            7 | 8 => self.send(who, input),
            9 | 10 => self.channel_data(who, input),
            11 | 12 => self.datagram(who, input),
            13 => self.pass(input),
            14 => self.intrude(who, input),
            _ => self.upset(who, input),
        }
        self.check();
    }

    fn allocate(&mut self, who: usize, input: &mut Bytes<'_>) {
        let (kind, asked) = (
            input.byte(),
            input.pick(&[None, Some(0), Some(601), Some(3600), Some(u32::MAX)]),
        );
        let (message, families, may_lack) = match kind % 6 {
            0 => (allocate().family(2), 1, false),
            1 => (allocate().also(2), 2, false),
            2 => (allocate().even_port(false), 1, false),
            // Reservations are bounded.
            3 => (allocate().even_port(true), 1, true),
            _ => (allocate(), 1, false),
        };
        let message = asked.map_or(message.clone(), |asked| message.lifetime(asked));
        let live = self.live(who).is_some();
        let answer = self.request(who, &message);
        match answer.code() {
            508 => assert!(may_lack && !live),
            code => assert_eq!(code, if live { 437 } else { 0 }),
        }
        if answer.code() == 0 {
            let relayed = answer.relayed();
            assert_eq!((relayed.len(), answer.lifetime()), (families, lifetime(asked)));
            self.allocations[who] = Some(Allocation::new(&relayed, self.now() + lifetime(asked)));
        }
    }

    fn refresh(&mut self, who: usize, input: &mut Bytes<'_>) {
        let asked = input.pick(&[None, Some(0), Some(0), Some(1), Some(700), Some(3600), Some(u32::MAX)]);
        let only = input.pick(&[None, None, Some(1), Some(2), Some(9)]);
        let message = asked.map_or(request(Method::Refresh), refresh);
        let message = only.map_or(message.clone(), |only| message.family(only));
        let now = self.now();
        let (code, granted, gone) = self
            .live(who)
            .map_or((437, Duration::ZERO, true), |it| it.refresh(now, asked, only));
        if gone {
            self.allocations[who] = None;
        }
        let answer = self.request(who, &message);
        assert_eq!(answer.code(), code, "{asked:?} {only:?}");
        assert!(code != 0 || answer.lifetime() == granted);
    }

    fn create_permission(&mut self, who: usize, input: &mut Bytes<'_>) {
        let peers: Vec<SocketAddr> = (0..input.byte() % 4).map(|_| self.peer(input)).collect();
        let (now, policy) = (self.now(), self.policy);
        let code = self
            .live(who)
            .map_or(437, |it| it.create_permission(now, policy, &peers));
        assert_eq!(self.request(who, &create_permission(&peers)).code(), code, "{peers:?}");
    }

    fn channel_bind(&mut self, who: usize, input: &mut Bytes<'_>) {
        let (number, peer) = (input.pick(&NUMBERS), self.peer(input));
        let (now, policy) = (self.now(), self.policy);
        let code = self
            .live(who)
            .map_or(437, |it| it.channel_bind(now, policy, number, peer));
        assert_eq!(
            self.request(who, &channel_bind(number, peer)).code(),
            code,
            "{number:#06x} {peer}"
        );
    }

    fn send(&mut self, who: usize, input: &mut Bytes<'_>) {
        let (peer, data) = (self.peer(input), input.take(3));
        let (now, policy) = (self.now(), self.policy);
        let expected = self.live(who).map_or(Outward::Nothing, |it| it.send(now, policy, peer));
        let answer = self.clients[who].send(&mut self.world, peer, data);
        self.outward(answer, expected, data);
    }

    fn channel_data(&mut self, who: usize, input: &mut Bytes<'_>) {
        let (number, data) = (input.pick(&NUMBERS), input.take(3));
        let (now, policy) = (self.now(), self.policy);
        let expected = self
            .live(who)
            .map_or(Outward::Nothing, |it| it.channel_data(now, policy, number));
        let answer = self.clients[who].channel_data(&mut self.world, number, data);
        self.outward(answer, expected, data);
    }

    fn outward(&mut self, answer: Answer, expected: Outward, data: &[u8]) {
        match (answer, expected) {
            (Answer::Dropped(_), Outward::Nothing) => {}
            (Answer::Sent(sent), Outward::Peer(peer, relayed)) => {
                assert_eq!(
                    (sent.to, &sent.data[..], sent.from.port()),
                    (peer, data, relayed.port())
                );
            }
            (answer, Outward::Relayed(to, from)) => {
                let inward = self.arrives(from, to);
                match answer {
                    Answer::Delivered(delivered) => inward_is(&delivered, from, inward, data),
                    // Nobody lives there.
                    Answer::Dropped(_) => assert_eq!(inward, Inward::Nothing),
                    other => panic!("{other:?}"),
                }
            }
            (answer, expected) => panic!("{answer:?} and not {expected:?}"),
        }
    }

    /// What becomes of a datagram to a relayed address, whoever has it now.
    fn arrives(&self, from: SocketAddr, to: SocketAddr) -> Inward {
        let (now, policy) = (self.now(), self.policy);
        let has = |it: &&Allocation| it.halves.iter().flatten().any(|&(own, until)| own == to && until > now);
        let owner = self.allocations.iter().flatten().find(has);
        owner.map_or(Inward::Nothing, |owner| owner.inward(now, policy, from))
    }

    fn datagram(&mut self, who: usize, input: &mut Bytes<'_>) {
        let half = usize::from(input.byte()) % 2;
        let from = addr(PEERS[usize::from(input.byte()) % 7]);
        let data = input.take(5);
        let Some((to, _)) = self.allocations[who].as_ref().and_then(|it| it.halves[half]) else {
            return;
        };
        if from.is_ipv4() != to.is_ipv4() {
            return;
        }
        let expected = self.arrives(from, to);
        let delivered = self.world.peer(from, to, data);
        inward_is(&delivered, from, expected, data);
    }

    fn pass(&mut self, input: &mut Bytes<'_>) {
        let time = wait(input);
        if input.byte().is_multiple_of(4) {
            self.world.pass_unnoticed(time);
        } else {
            self.world.pass(time);
        }
        if self.now() - self.asked > secs(3000) {
            self.asked = self.now();
            self.clients.iter_mut().for_each(|client| client.nonce = None);
        }
    }

    /// Somebody who must not: the answer is an error, and nothing changes.
    fn intrude(&mut self, who: usize, input: &mut Bytes<'_>) {
        let (how, peer) = (input.byte(), self.peer(input));
        let message = match how / 4 % 4 {
            0 => refresh(0),
            1 => refresh(3600),
            2 => create_permission(&[peer]),
            _ => channel_bind(0x4000, peer),
        };
        // With a nonce of its own.
        let live = self.live(who).is_some();
        let mut intruder = self.clients[who].clone();
        intruder.nonce = None;
        let (mut intruder, code) = match how % 4 {
            0 => (intruder.user("alice", "guess"), 401),
            1 => (intruder.user("mallory", "wonderland"), 401),
            _ if intruder.username == "alice" => (intruder.user("bob", "builder"), if live { 441 } else { 437 }),
            _ => (intruder.user("alice", "wonderland"), if live { 441 } else { 437 }),
        };
        assert_eq!(intruder.request(&mut self.world, &message).code(), code);
    }

    /// A reload, a stream that closes, a request with something unknown in it, or garbage.
    fn upset(&mut self, who: usize, input: &mut Bytes<'_>) {
        match input.byte() % 4 {
            0 => {
                self.policy.denies_second = !self.policy.denies_second;
                let denied: &[&str] = if self.policy.denies_second { &[SECOND_NET] } else { &[] };
                self.world.reload(|config| config.policy = policy(denied));
            }
            1 => {
                if CLIENTS[who].0 != Transport::Udp {
                    self.allocations[who] = None;
                    self.clients[who].disconnect(&mut self.world);
                }
            }
            2 => {
                let unknown = refresh(0).with(AttributeType(0x7FFE), []);
                assert_eq!(self.request(who, &unknown).code(), 420);
            }
            _ => {
                // Without a signature nothing that is answered changes anything, and channels are tested above.
                let garbage = input.take(60);
                if garbage.first().is_none_or(|first| !(0x40..0x80).contains(first)) {
                    let answer = self.world.packet(&self.clients[who].clone(), garbage);
                    assert!(matches!(answer, Answer::Response(_) | Answer::Dropped(_)), "{answer:?}");
                }
            }
        }
    }

    /// Nobody has what the model does not know of.
    fn check(&self) {
        let now = self.now();
        let live = self.allocations.iter().flatten().filter(|it| it.lives(now)).count();
        let known: usize = self.world.shards.iter().map(relay::turn::Server::allocations).sum();
        // What has expired may not have been swept.
        assert!(known >= live, "{known} of {live}");
    }
}

/// [`SECOND`] as the policy's configuration has it.
const SECOND_NET: &str = "192.0.2.2/32";

fn inward_is(delivered: &Delivered, from: SocketAddr, expected: Inward, data: &[u8]) {
    match expected {
        Inward::Nothing => assert!(
            matches!(delivered, Delivered::Dropped(_) | Delivered::Unreachable),
            "{delivered:?}"
        ),
        Inward::Data => assert!(delivered.is_data(from, data), "{delivered:?}"),
        Inward::Channel(number) => assert!(delivered.is_channel(number, data), "{delivered:?}"),
    }
}

/// F6: any story.
pub(crate) fn server_ops(input: &[u8]) {
    assert!(SECOND_NET.starts_with(SECOND));
    let (mut story, mut input) = (Story::new(), Bytes(input));
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        story.step(&mut input);
    }
    // After everything has run out nothing is left.
    story.world.pass(secs(3601));
    story.world.pass(secs(41));
    story.world.assert_empty();
    assert!(story.world.shards.iter().all(|shard| shard.poll_timeout().is_none()));
}
