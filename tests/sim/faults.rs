//! Faults in a run.

use core::time::Duration;
use std::net::SocketAddr;

use relay_proto::turn::OpenError;

use crate::setup::Rules;
use crate::stream::StreamEvent;
use crate::world::{Event, World};
use crate::{places, trace};

const SECOND: Duration = Duration::from_secs(1);

/// A fault, or its end.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A client's NAT assigns it another address, perhaps one that another client had.
    Rebind(usize),
    /// The network to a client is interrupted for a while.
    Dark(usize, Duration),
    /// The wall clock jumps, in seconds.
    Jump(i64),
    /// A new configuration reaches the shards one after another.
    Reload,
    Reloaded(usize, Box<Rules>),
    /// The program is killed and started again.
    Restart,
    /// Another process continues where this one ends.
    HandOver,
    /// Another program takes relay ports.
    Occupy,
    Vacate,
    /// No relay socket can be opened.
    Refuse(OpenError),
    /// Relay sockets take long to open.
    Slow(u64),
    /// Relay sockets are never opened.
    Stick,
    Recover,
    /// A client stops reading for a while.
    Deaf(usize, Duration),
    /// A client stops in the middle of a message.
    Stall(usize),
    /// A peer sends much at once.
    Flood,
}

impl World {
    /// Draws the faults and their times.
    pub(crate) fn plan_faults(&mut self) {
        for _ in 0..self.setup.faults {
            let client = self.dice.index(self.setup.clients);
            let fault =
                match self.dice.below(24) {
                    0..=2 => Fault::Rebind(client),
                    3..=4 => Fault::Dark(client, SECOND * *self.dice.pick(&[2, 30, 39, 41, 400])),
                    5..=6 => Fault::Jump(*self.dice.pick(&[-86_400, -4000, -6, -5, -1, 1, 30, 700, 4000, 100_000])),
                    7..=9 => Fault::Reload,
                    10 => Fault::Restart,
                    11..=12 => Fault::HandOver,
                    13..=15 => Fault::Occupy,
                    16 => Fault::Refuse(*self.dice.pick(&[
                        OpenError::Exhausted,
                        OpenError::Other,
                        OpenError::AddressInUse,
                    ])),
                    17..=18 => Fault::Slow(*self.dice.pick(&[5, 800, 5000])),
                    19 => Fault::Stick,
                    20 => Fault::Deaf(client, self.dice.millis(100, 45_000)),
                    21 => Fault::Stall(client),
                    _ => Fault::Flood,
                };
            let at = self.dice.millis(0, self.setup.duration.as_millis() as u64);
            self.after(at, Event::Fault(fault));
        }
    }

    pub(crate) fn strike(&mut self, fault: Fault) {
        trace::note(|| format!("fault: {fault:?}"));
        if matches!(fault, Fault::Refuse(_) | Fault::Slow(_) | Fault::Stick) {
            let lasts = self.dice.millis(1_000, 60_000);
            self.after(lasts, Event::Fault(Fault::Recover));
        }
        match fault {
            Fault::Rebind(client) => self.rebind(client),
            Fault::Dark(client, lasts) => self.clients[client].dark_until = self.mono + lasts,
            Fault::Jump(seconds) => {
                self.jumped += seconds;
                self.oracle.mark("the clock jumped");
            }
            Fault::Reload => self.plan_reload(),
            Fault::Reloaded(shard, rules) => self.reload(shard, &rules),
            Fault::Restart => {
                self.restart();
                self.oracle.mark("the server restarted");
            }
            Fault::HandOver => self.hand_over(),
            Fault::Occupy => self.occupy(),
            Fault::Vacate => self.site.foreign.clear(),
            Fault::Refuse(error) => self.site.refusing = Some(error),
            Fault::Slow(millis) => self.site.slow_opening = millis,
            Fault::Stick => self.site.stuck = true,
            Fault::Recover => (self.site.refusing, self.site.slow_opening, self.site.stuck) = (None, 0, false),
            Fault::Deaf(client, lasts) => self.deafen(client, lasts),
            Fault::Stall(client) => self.stall(client),
            Fault::Flood => self.flood(),
        }
    }

    /// The client keeps its state; for the server it is unknown.
    fn rebind(&mut self, client: usize) {
        if self.clients[client].transport.is_stream() {
            if let Some(conn) = self.clients[client].conn {
                self.after(
                    Duration::from_secs(1),
                    Event::Stream {
                        conn,
                        event: StreamEvent::Reset,
                    },
                );
            }
            return;
        }
        let family = places::family(self.clients[client].addr);
        let before = self.clients[client].addr;
        self.clients[client].addr = self.public_address(family);
        // The NAT may assign the old address to another client.
        let other = self.dice.index(self.clients.len());
        let fits = !self.clients[other].transport.is_stream() && places::family(self.clients[other].addr) == family;
        if other != client && fits && self.dice.percent(50) {
            self.clients[other].addr = before;
            self.oracle.mark("an address went to another client");
        }
    }

    fn plan_reload(&mut self) {
        if self.quiet {
            return;
        }
        let rules = self.site.rules.change(&self.setup, &mut self.dice);
        for shard in 0..self.setup.shards {
            let delay = self.dice.millis(0, 300);
            self.after(delay, Event::Fault(Fault::Reloaded(shard, Box::new(rules.clone()))));
        }
        self.oracle.mark("the configuration changed");
    }

    fn occupy(&mut self) {
        let ports: Vec<u16> = self.site.rules.ports.clone().collect();
        let share = self.dice.between(10, 90);
        for port in ports {
            for ip in [places::BOUND_V4, places::RELAY_V6] {
                let free = !self.site.sockets.contains_key(&SocketAddr::new(
                    places::announced(relay_proto::base::address::Family::of(ip)),
                    port,
                ));
                if free && self.dice.percent(share) {
                    self.site
                        .foreign
                        .insert(SocketAddr::new(ip, port - places::PORTS_APART));
                }
            }
        }
        let lasts = self.dice.millis(1_000, 300_000);
        self.after(lasts, Event::Fault(Fault::Vacate));
    }

    fn deafen(&mut self, client: usize, lasts: Duration) {
        let Some(id) = self.clients[client].conn else { return };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.reading = false;
            self.after(
                lasts,
                Event::Stream {
                    conn: id,
                    event: StreamEvent::Resume,
                },
            );
            self.after(Duration::from_millis(100), Event::Fault(Fault::Flood));
            self.oracle.mark("a client does not read");
        }
    }

    fn stall(&mut self, client: usize) {
        if let Some(id) = self.clients[client].conn {
            self.stall_stream(id);
        }
    }

    /// Every peer sends to every relayed address, a few times.
    fn flood(&mut self) {
        if self.quiet {
            return;
        }
        let relayed: Vec<SocketAddr> = self.site.sockets.keys().copied().collect();
        for round in 0..12 {
            for &relayed in &relayed {
                for peer in self.peers.clone() {
                    if peer.is_ipv4() == relayed.is_ipv4() {
                        let payload = self.payload();
                        let at = self.mono + Duration::from_millis(round * 20);
                        self.at(
                            at,
                            Event::ToRelay {
                                relayed,
                                from: peer,
                                payload,
                            },
                        );
                    }
                }
            }
        }
    }
}
