//! Clients and peers of TCP allocations (RFC 6062): they connect, bind, write, end and close at
//! random times.

use std::net::{SocketAddr, TcpListener, TcpStream};

use relay::turn::output::{ConnectionEnd, PeerRefusal};
use socket2::{Domain, Socket, Type};

use crate::ends::Over;
use crate::guest::Guest;
use crate::lines::Line;
use crate::plug::Plug;
use crate::runner::{LIFETIME, Run};
use relay_testkit_server::RELAY_IP;

/// A peer that accepts connections.
pub(crate) struct Door {
    address: SocketAddr,
    /// `None`: closed, and connections are refused.
    listener: Option<TcpListener>,
    /// It accepts no connections for now.
    deaf: bool,
}

impl Door {
    fn open(&mut self, backlog: i32) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&self.address.into()).unwrap();
        socket.listen(backlog).unwrap();
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true).unwrap();
        self.listener = Some(listener);
    }
}

impl Run {
    pub(crate) fn add_door(&mut self, address: SocketAddr) {
        let mut door = Door {
            address,
            listener: None,
            deaf: false,
        };
        door.open(16);
        self.doors.push(door);
    }

    pub(crate) fn close_doors(&mut self) {
        self.doors.clear();
        self.lines.leave(&mut self.ledger);
    }

    /// A door opens, closes, or stops accepting for a while.
    pub(crate) fn door_acts(&mut self) {
        self.collect_lines();
        let backlog = *self.dice.pick(&[0, 0, 16]);
        let deaf = self.dice.percent(60);
        let index = self.dice.index(self.doors.len());
        let door = &mut self.doors[index];
        if door.listener.is_none() {
            door.open(backlog);
            door.deaf = deaf;
        } else if deaf || door.deaf {
            door.deaf ^= true;
        } else {
            door.listener = None;
        }
    }

    /// A client with a TCP allocation acts, or a door does.
    pub(crate) fn somebody_dials(&mut self) {
        let all = self
            .guests
            .iter()
            .filter(|guest| guest.dials && guest.relayed.is_some());
        let all: Vec<usize> = all.map(|guest| guest.index).collect();
        match self.dice.maybe_pick(&all) {
            Some(guest) if self.dice.percent(92) => self.dial(guest),
            _ => self.door_acts(),
        }
    }

    /// A client with a TCP allocation acts, or a peer acts on it.
    pub(crate) fn dial(&mut self, index: usize) {
        self.mark("a TCP allocation");
        if self.dice.percent(35) && !self.guests[index].pending.is_empty() {
            self.bind_line(index);
            return;
        }
        let somebody = self.somebody_to_dial(index);
        let Self {
            guests, ledger, dice, ..
        } = self;
        let guest = &mut guests[index];
        match dice.below(100) {
            0..8 => guest.permit(ledger, somebody),
            8..24 => guest.connect(ledger, somebody),
            24..40 => self.peer_dials(index),
            40..58 => self.bind_line(index),
            58..90 => self.line_acts(index),
            90..96 => guest.refresh(ledger, LIFETIME.as_secs() as u32),
            // Its data and the end of its allocation, at once.
            96..98 => {
                self.line_acts(index);
                let Self { guests, ledger, .. } = self;
                guests[index].refresh(ledger, 0);
            }
            _ => {
                let guest = self.dice.index(self.guests.len());
                let Self { guests, ledger, .. } = self;
                if guests[guest].dials && guests[guest].relayed.is_some() {
                    guests[guest].refresh(ledger, 0);
                }
            }
        }
    }

    /// A peer's door, or another client's relayed address for TCP.
    fn somebody_to_dial(&mut self, not: usize) -> SocketAddr {
        let others = self.guests.iter().filter(|guest| guest.index != not && guest.dials);
        let relayed: Vec<SocketAddr> = others.filter_map(|guest| guest.relayed).collect();
        let door = self.dice.index(self.doors.len());
        // At a door that does not accept, more connections arrive than its backlog holds.
        let deaf = self.doors.iter().position(|it| it.deaf && it.listener.is_some());
        let door = deaf.filter(|_| self.dice.percent(40)).unwrap_or(door);
        let other = if self.dice.percent(30) {
            self.dice.maybe_pick(&relayed)
        } else {
            None
        };
        other.unwrap_or(self.doors[door].address)
    }

    /// A peer connects to a relayed address, mostly as a permitted peer.
    fn peer_dials(&mut self, index: usize) {
        let Some(relayed) = self.guests[index].relayed else {
            return;
        };
        let open: Vec<SocketAddr> = self.guests[index].open.iter().copied().collect();
        let door = self.dice.index(self.doors.len());
        let known = self.dice.maybe_pick(&open).filter(|_| self.dice.percent(85));
        let ip = known.unwrap_or(self.doors[door].address).ip();
        if !self.doors.iter().any(|door| door.address.ip() == ip) {
            return;
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
        if socket.connect(&relayed.into()).is_err() {
            return;
        }
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true).unwrap();
        let local = stream.local_addr().unwrap();
        self.add_peer_line(local, relayed, stream.into());
    }

    fn add_peer_line(&mut self, local: SocketAddr, remote: SocketAddr, stream: Plug) {
        let number = self.lines.peer(local, remote, stream);
        if self.dice.percent(60) {
            let bytes = self.line_bytes();
            self.lines.all[number].end.plan(bytes);
        }
    }

    /// A client binds a peer connection on a separate connection, or one that does not exist.
    fn bind_line(&mut self, index: usize) {
        let guest = &mut self.guests[index];
        let Some(relayed) = guest.relayed else { return };
        let wrong = self.dice.percent(5);
        let again = self.dice.percent(5);
        let bound = if guest.pending.is_empty() {
            None
        } else {
            let at = self.dice.index(guest.pending.len());
            let bound = guest.pending[at];
            if !again {
                guest.pending.swap_remove(at);
            }
            Some(bound)
        };
        let nobody = (7, self.doors[0].address);
        let Some((id, peer)) = bound.filter(|_| !wrong).or(wrong.then_some(nobody)) else {
            return;
        };
        let stream = self.connect_to_server();
        if stream.is_tls() {
            self.mark("a connection to be bound over TLS");
        }
        let eager = self.dice.percent(30);
        let number = self
            .lines
            .client(&mut self.ledger, (index, relayed), (id, peer), stream, eager);
        if self.dice.percent(60) {
            let bytes = self.line_bytes();
            self.lines.all[number].end.plan(bytes);
        }
    }

    fn line_bytes(&mut self) -> u64 {
        let most = *self.dice.pick(&[1, 100, 3_000, 70_000, 400_000]);
        self.dice.between(1, most)
    }

    /// One end of one of this client's connections acts.
    fn line_acts(&mut self, index: usize) {
        let had = &self.guests[index].had;
        let is_its =
            |line: &&Line| line.end.over.is_none() && (had.contains(&line.end.remote) || line.guest == Some(index));
        let all: Vec<usize> = self
            .lines
            .all
            .iter()
            .filter(is_its)
            .map(|line| line.end.number)
            .collect();
        let Some(number) = self.dice.maybe_pick(&all) else {
            return;
        };
        let now = self.world.now();
        let bytes = self.line_bytes();
        let Self {
            lines, ledger, dice, ..
        } = self;
        let line = &mut lines.all[number];
        let end = &mut line.end;
        match dice.below(100) {
            0..70 => end.plan(bytes),
            70..80 => {
                end.plan(bytes);
                end.shut_down();
            }
            80..86 => end.be_deaf(now),
            86..92 => lines.listen_again(now),
            closes => {
                // All remaining data, as far as there is room, and its end.
                if line.is_open() {
                    line.end.plan(bytes);
                    line.end.send();
                }
                line.leave(ledger, closes >= 97);
            }
        }
    }

    /// Doors accept; ends write and read; an end that has received everything ends its own
    /// direction too.
    pub(crate) fn collect_lines(&mut self) {
        for index in 0..self.doors.len() {
            while let Door {
                address,
                listener: Some(listener),
                deaf: false,
            } = &self.doors[index]
                && let Ok((stream, from)) = listener.accept()
            {
                let address = *address;
                stream.set_nonblocking(true).unwrap();
                self.add_peer_line(address, from, stream.into());
            }
        }
        let mut first = 0;
        for line in &mut self.lines.all {
            if line.end.over == Some(Over::Ended) && !line.end.shut && self.dice.percent(30) {
                line.end.shut_down();
                first += 1;
            }
        }
        *self.marks.entry("a connection that one side ended first").or_default() += first;
        self.lines.pump(&mut self.ledger, &self.world);
    }

    fn ended(&self, why: ConnectionEnd) -> u64 {
        self.server.count(|counters| counters.tcp.ended[why as usize].get())
    }

    /// An upper bound on Connects that get no response because their allocations have ended.
    pub(crate) fn forgotten_connects(&self) -> u64 {
        let waiting = self
            .guests
            .iter()
            .filter(|guest| !guest.is_gone())
            .map(Guest::connecting);
        (waiting.sum::<usize>() as u64).min(self.ended(ConnectionEnd::Allocation))
    }

    /// Peers waiting to be accepted by the program.
    pub(crate) fn unaccepted(&self) -> usize {
        self.world.lock().kernel.unaccepted(RELAY_IP.parse().unwrap())
    }

    /// Checks that the program's connection counters match what happened.
    pub(crate) fn account_lines(&mut self) {
        let count = |of: fn(&relay::turn::counters::TcpCounters) -> u64| self.server.count(|all| of(&all.tcp));
        let refused = count(|tcp| tcp.refused.iter().map(|cell| cell.get()).sum());
        let (accepted, connecting) = (count(|tcp| tcp.accepted.get()), count(|tcp| tcp.connecting.get()));
        let (ended, open) = (
            count(|tcp| tcp.ended.iter().map(|cell| cell.get()).sum()),
            count(|tcp| tcp.connections.get()),
        );
        if accepted + connecting != ended + open {
            self.ledger.find(format!(
                "{accepted} peers accepted, {connecting} asked for, {ended} ended, {open} open"
            ));
        }
        let taken = self.world.lock().kernel.accepted;
        if accepted + refused != taken {
            self.ledger.find(format!(
                "workers accepted {taken} connections; {accepted} are counted as accepted, {refused} as refused"
            ));
        }
        let waiting = self.unaccepted();
        if waiting > 0 {
            self.ledger.find(format!("{waiting} peers wait to be accepted"));
        }
        let cut = [ConnectionEnd::Allocation, ConnectionEnd::Policy].map(|why| self.ended(why));
        self.lines.judge(&mut self.ledger, cut.iter().sum());
    }

    pub(crate) fn counted_of_lines(&self) -> Vec<(&'static str, u64)> {
        let count = |of: fn(&relay::turn::counters::TcpCounters) -> u64| self.server.count(|all| of(&all.tcp));
        let both = |line: &&Line| line.guest.is_some() && line.end.sent > 12 && line.end.got > 12;
        vec![
            ("a peer a client connected to", count(|tcp| tcp.connecting.get())),
            ("a peer that connected", count(|tcp| tcp.accepted.get())),
            (
                "a peer that was not accepted",
                count(|tcp| tcp.refused[PeerRefusal::NoPermission as usize].get()),
            ),
            ("a connection bound", count(|tcp| tcp.bound.get())),
            (
                "a connection carried bytes both ways",
                self.lines.all.iter().filter(both).count() as u64,
            ),
            (
                "a connection ended with its allocation",
                self.ended(ConnectionEnd::Allocation),
            ),
            ("a connection the policy ended", self.ended(ConnectionEnd::Policy)),
            ("a connection nobody bound", self.ended(ConnectionEnd::NotBound)),
            (
                "a peer that could not be reached",
                self.ended(ConnectionEnd::ConnectFailed),
            ),
            ("a peer that did not answer", self.ended(ConnectionEnd::ConnectTimeout)),
        ]
    }
}
