//! Stories: sequences of events that random runs rarely reach, told step by step under the same
//! oracle.

mod allocations;
mod calls;
mod handover;

use core::time::Duration;
use std::net::SocketAddr;
use std::rc::Rc;

use relay_proto::base::address::{Family, FiveTuple, Transport};
use relay_proto::turn::types::{Client, Link};

use crate::message::{Ask, Packet, Request, Wanted};
use crate::oracle::{Held, Key};
use crate::places;
use crate::reply::Reply;
use crate::setup::Setup;
use crate::stream::{Cuts, StreamEvent};
use crate::world::{Event, World};

const ALICE: usize = 0;
const BOB: usize = 1;
/// Has time-limited credentials.
const CAROL: usize = 2;

const NANO: Duration = Duration::from_nanos(1);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn peer() -> SocketAddr {
    places::peers()[0]
}

/// The network loses nothing on its own.
struct Story {
    world: World,
}

impl Story {
    fn new(shards: usize) -> Self {
        Self {
            world: World::new(Setup::calm(shards), 1),
        }
    }

    fn client(&mut self, user: usize) -> usize {
        self.world.add(user, Transport::Udp, Family::V4)
    }

    /// A client on another shard than `other`.
    fn client_elsewhere(&mut self, user: usize, other: usize) -> usize {
        let index = self.client(user);
        let elsewhere = self.shard(other);
        while self.shard(index) == elsewhere {
            self.world.clients[index].addr = self.world.public_address(Family::V4);
        }
        index
    }

    fn shard(&self, index: usize) -> usize {
        self.world.shard_of(self.world.clients[index].addr)
    }

    fn stream(&mut self, user: usize) -> usize {
        let index = self.world.add(user, Transport::Tcp, Family::V4);
        self.connect(index);
        index
    }

    fn connect(&mut self, index: usize) -> u64 {
        let id = self.world.connect(index);
        let conn = self.world.conns.get_mut(&id).expect("a stream");
        conn.cuts = Cuts::Nowhere;
        self.world.clients[index].conn = Some(id);
        id
    }

    fn pass(&mut self, time: Duration) {
        let until = self.world.mono + time;
        self.world.run_until(until);
    }

    /// Sends a request and waits a moment; returns the code of the response, 0 for success.
    fn ask(&mut self, index: usize, ask: Ask) -> Option<u16> {
        self.world.clients[index].last = None;
        self.world.ask(index, ask, 0);
        self.pass(millis(50));
        self.world.clients[index].last.as_ref().map(|reply| reply.code)
    }

    fn allocate(&mut self, index: usize) -> SocketAddr {
        self.allocate_for(index, None)
    }

    fn allocate_for(&mut self, index: usize, lifetime: Option<u32>) -> SocketAddr {
        assert_eq!(
            self.ask(
                index,
                Ask::Allocate(Wanted {
                    lifetime,
                    ..Wanted::default()
                })
            ),
            Some(0)
        );
        self.last(index).relayed[0]
    }

    fn last(&self, index: usize) -> &Reply {
        self.world.clients[index].last.as_ref().expect("an answer")
    }

    fn refresh(&mut self, index: usize, lifetime: u32) -> Option<u16> {
        self.ask(
            index,
            Ask::Refresh {
                lifetime: Some(lifetime),
                family: None,
            },
        )
    }

    fn permit(&mut self, index: usize, peer: SocketAddr) -> Option<u16> {
        self.ask(index, Ask::CreatePermission { peers: vec![peer] })
    }

    fn bind(&mut self, index: usize, number: u16, peer: SocketAddr) -> Option<u16> {
        self.ask(index, Ask::ChannelBind { number, peer })
    }

    /// How often the run has reached this situation.
    fn mark(&self, mark: &str) -> u64 {
        self.world.oracle.marks.get(mark).copied().unwrap_or(0)
    }

    /// Whether application data in a Send indication reaches `peer`.
    fn sends(&mut self, index: usize, peer: SocketAddr) -> bool {
        let before = self.mark("Send to a peer");
        self.world.send_to(index, peer);
        self.pass(millis(20));
        self.mark("Send to a peer") > before
    }

    fn sends_on(&mut self, index: usize, number: u16) -> bool {
        let before = self.mark("ChannelData to a peer");
        self.world.send_channel(index, number, b"application data");
        self.pass(millis(20));
        self.mark("ChannelData to a peer") > before
    }

    /// Whether a peer's datagram reaches the client.
    fn receives(&mut self, relayed: SocketAddr, from: SocketAddr) -> bool {
        let count = |story: &Self| story.mark("Data indication to a client") + story.mark("ChannelData to a client");
        let before = count(self);
        self.world.send_to_relay(from, relayed, (*b"from a peer").into());
        self.pass(millis(20));
        count(self) > before
    }

    fn core(&self, index: usize) -> Client {
        let client = &self.world.clients[index];
        let transport = client.transport;
        let five_tuple = FiveTuple {
            client: client.addr,
            server: client.server,
            transport,
        };
        Client {
            five_tuple,
            link: Link(client.conn.unwrap_or(0)),
        }
    }

    fn held(&self, index: usize) -> Option<&Held> {
        self.world.oracle.of(&self.core(index))
    }

    /// A packet that arrives at the server after `delay`, whatever has happened to its sender.
    fn arrives(&mut self, delay: Duration, from: SocketAddr, packet: Packet) {
        let to = places::server(places::family(from));
        self.world.after(delay, Event::ToServer { from, to, packet });
    }

    /// The Allocate that created what a client holds, as sent.
    fn allocate_packet(&self, index: usize) -> Packet {
        Packet::request(&self.held(index).expect("an allocation").asked)
    }

    /// Lets everything expire, and checks that nothing is left.
    fn end(mut self) {
        self.world.end();
    }

    fn last_relayed(&self, index: usize) -> SocketAddr {
        self.held(index).expect("an allocation").given[0]
    }
}
