//! When allocations begin and end: the server's events must agree with the model, and every end
//! must have its reason.

use core::time::Duration;

use relay_proto::base::time::{Instant, Now};
use relay_proto::turn::types::{Client, Link, RelayedAddr};
use relay_proto::turn::{EndReason, Event};

use crate::message::{Ask, Packet, Told};
use crate::oracle::{Flow, Held, Key, Life, Oracle, Reserved, SWEEP, key};

/// How long a relay socket that is never opened is awaited.
const OPENING: Duration = Duration::from_secs(30);

/// What caused the server's last action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A packet from this client; `release`: Refresh with LIFETIME 0.
    Client {
        from: Key,
        link: Link,
        release: bool,
    },
    Peer,
    /// A relay socket was opened, or not.
    Opened,
    Time,
    Disconnect(Key, Link),
    Shutdown,
}

impl Cause {
    pub(crate) fn of(client: &Client, packet: &Packet) -> Self {
        let release = match &packet.told {
            Told::Request(request) => matches!(request.ask, Ask::Refresh { lifetime: Some(0), .. }),
            _ => false,
        };
        Self::Client {
            from: key(&client.five_tuple),
            link: client.link,
            release,
        }
    }

    /// The stream of an allocation is closed, or another has taken its place, which shows that it
    /// is.
    fn is_end_of_stream(self, held: &Held) -> bool {
        let (owner, stream) = (
            key(&held.client.five_tuple),
            held.client.five_tuple.transport.is_stream(),
        );
        match self {
            Self::Disconnect(from, link) => (from, link) == (owner, held.client.link),
            Self::Client { from, link, .. } => stream && from == owner && link != held.client.link,
            _ => false,
        }
    }
}

impl Oracle {
    /// Checks an event of the server.
    pub(crate) fn event(&mut self, shard: usize, event: &Event, now: Now, cause: Cause) {
        match event {
            Event::AllocationBegan {
                id,
                five_tuple,
                username,
                relayed,
                ..
            } => {
                assert_eq!(
                    cause,
                    Cause::Opened,
                    "an allocation begins when its relay sockets are open"
                );
                let held = self
                    .held
                    .get_mut(&key(five_tuple))
                    .expect("only an Allocate that waits begins");
                assert!(held.opening.is_some(), "an allocation begins twice");
                assert_eq!(**username, held.login.username);
                assert!(relayed.iter().any(Option::is_some));
                held.session = Some(*id);
                assert!(self.sessions.insert(*id), "{id} names two allocations");
            }
            Event::AllocationMoved { .. } => panic!("mobility is off"),
            Event::Refused(_) => {}
            Event::AllocationEnded {
                id,
                five_tuple,
                username,
                relayed,
                traffic,
                age,
                why,
            } => {
                let held = self.held.remove(&key(five_tuple)).expect("only what is held can end");
                assert_eq!(held.shard, shard);
                assert_eq!(held.session, Some(*id), "it keeps its id");
                assert_eq!(**username, held.login.username);
                assert_eq!(told(relayed), held.given, "the relayed addresses that are gone");
                let counted = [
                    traffic.up_packets,
                    traffic.up_bytes,
                    traffic.down_packets,
                    traffic.down_bytes,
                ];
                let Flow { packets, bytes } = held.up;
                assert_eq!(
                    counted,
                    [packets, bytes, held.down.packets, held.down.bytes],
                    "its traffic"
                );
                assert_eq!(*age, now.mono - held.requested, "its age");
                self.check_end(&held, *why, now, cause);
                self.ledgers[shard].ended(*why);
                if !five_tuple.transport.is_stream() {
                    self.past.insert((key(five_tuple), held.asked.id.0), now.mono);
                }
            }
        }
    }

    fn check_end(&mut self, held: &Held, why: EndReason, now: Now, cause: Cause) {
        let owner = key(&held.client.five_tuple);
        match why {
            EndReason::Expired => {
                assert_ne!(held.life(now.mono), Life::Yes, "an allocation ended before its time");
                self.mark("expired");
            }
            EndReason::Released => {
                let asked = matches!(cause, Cause::Client { from, release: true, .. } if from == owner);
                assert!(asked, "released by its owner only, not by {cause:?}");
            }
            EndReason::Disconnected => {
                assert!(cause.is_end_of_stream(held), "its stream is not closed, only {cause:?}");
                let noticed = matches!(cause, Cause::Disconnect(..));
                self.mark(if noticed {
                    "disconnected"
                } else {
                    "its successor shows that a stream is closed"
                });
            }
            EndReason::Shutdown => assert_eq!(cause, Cause::Shutdown),
            EndReason::SocketLost | EndReason::Operator | EndReason::Revoked => panic!("nothing moves"),
        }
    }

    /// Allocates that were given up before they were answered; `is_there` asks the server.
    pub(crate) fn check_abandoned(&mut self, shard: usize, now: Now, cause: Cause, is_there: impl Fn(&Client) -> bool) {
        let gone = |held: &Held| held.shard == shard && held.opening.is_some() && !is_there(&held.client);
        let keys: Vec<Key> = self
            .held
            .iter()
            .filter(|(_, held)| gone(held))
            .map(|(&key, _)| key)
            .collect();
        for owner in keys {
            let held = self.held.remove(&owner).expect("it was just there");
            let in_vain = now.mono >= held.requested + OPENING;
            let known = cause == Cause::Shutdown || cause.is_end_of_stream(&held);
            assert!(in_vain || known, "an Allocate was given up without an answer");
            self.mark("an Allocate is given up");
        }
    }

    /// A relay socket is closed.
    pub(crate) fn relay_closed(&mut self, relayed: std::net::SocketAddr, now: Now) {
        let Some(held) = self.held.values_mut().find(|held| held.half_at(relayed).is_some()) else {
            return;
        };
        let half = held.half_at(relayed).expect("it was just there");
        assert_ne!(half.until.life(now.mono), Life::Yes, "a live relayed address is closed");
        held.close(crate::places::family(relayed));
        self.mark("one half of two expired");
    }

    /// Checks after `handle_timeout` that nothing expired is left.
    pub(crate) fn check_swept(&self, shard: usize, now: Now) {
        for half in self
            .held
            .values()
            .filter(|held| held.shard == shard)
            .flat_map(|held| held.halves.iter().flatten())
        {
            assert!(!half.until.is_overdue(now.mono), "{half:?} is over and still there");
        }
    }

    /// Checks that the shard wakes up soon after everything that ends.
    pub(crate) fn check_timer(&self, shard: usize, now: Instant, next: Option<Instant>) {
        let held = self.held.values().filter(|held| held.shard == shard);
        let halves = held
            .flat_map(|held| held.halves.iter().flatten())
            .map(|half| half.until);
        let ours = |reserved: &&Reserved| reserved.shard == shard && reserved.until.life(now) == Life::Yes;
        let reserved = self.tokens.values().filter(ours).map(|reserved| reserved.until);
        for until in halves.chain(reserved) {
            let latest = until.at + until.slack + SWEEP;
            assert!(
                next.is_some_and(|next| next <= latest),
                "{until:?} ends, the shard wakes up at {next:?}"
            );
        }
    }

    /// Checks after every step that the number of allocations is right and that every packet is
    /// counted once.
    pub(crate) fn check_balance(&self, shard: usize, allocations: usize, counters: &relay_proto::turn::Counters) {
        let held = || self.held.values().filter(|held| held.shard == shard);
        assert_eq!(allocations, held().count(), "allocations of the shard");
        let mut live = [0; 4];
        for held in held().filter(|held| held.opening.is_none()) {
            live[held.client.five_tuple.transport as usize] += 1;
        }
        self.ledgers[shard].check(counters, live);
    }
}

fn told(relayed: &[Option<RelayedAddr>; 2]) -> Vec<std::net::SocketAddr> {
    relayed.iter().flatten().map(|relayed| relayed.0).collect()
}
