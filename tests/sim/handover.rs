//! What follows a process. One that is killed leaves nothing. One that hands over exports every
//! allocation, its servers are dropped, new ones import the records, and the model's expectations
//! still hold.

use relay_proto::base::time::Now;
use relay_proto::turn::{AllocationRecord, Handles, ReservationRecord, SessionId, Shared};

use crate::endings::Cause;
use crate::ledger::Ledger;
use crate::oracle::{Key, Life, Oracle, key};
use crate::setup::Rules;
use crate::site::{Site, Socket};
use crate::world::World;

/// The export of one shard.
struct Written {
    allocations: Vec<(String, Handles, Vec<std::net::SocketAddr>)>,
    reservations: Vec<String>,
}

impl World {
    /// The program ends without notice and starts again.
    pub(crate) fn restart(&mut self) {
        let rules = self.site.rules.clone();
        let shared = Shared::new(self.dice.array());
        self.begin_anew(&rules, shared);
        self.oracle.restart(&rules);
        self.lose_streams();
    }

    /// Replaces this process with a new one without state, and returns the old one.
    fn begin_anew(&mut self, rules: &Rules, shared: Shared) -> Site {
        let fresh = Site::new(self.mono, &self.setup, rules, shared, &mut self.dice);
        let mut old = core::mem::replace(&mut self.site, fresh);
        self.site.run = old.run + 1;
        self.site.foreign = core::mem::take(&mut old.foreign);
        self.site.mirror(old.is_mirrored());
        old
    }

    /// Another process continues where this one ends. It gets the relay sockets and the streams,
    /// and otherwise only the records.
    pub(crate) fn hand_over(&mut self) {
        let now = self.now();
        let written: Vec<Written> = (0..self.setup.shards)
            .map(|shard| self.write_down(shard, now))
            .collect();
        let rules = self.site.rules.clone();
        let shared = Shared::with_keys(self.dice.array(), self.site.shared.keys());
        let old = self.begin_anew(&rules, shared);
        // Sockets of allocations that were not exported end with their process.
        let kept: Vec<_> = written
            .iter()
            .flat_map(|it| &it.allocations)
            .flat_map(|it| &it.2)
            .copied()
            .collect();
        let closed = old.sockets.keys().filter(|relayed| !kept.contains(relayed));
        closed.for_each(|&relayed| self.oracle.relay_closed(relayed, now));
        let live: Vec<Vec<SessionId>> = written
            .iter()
            .enumerate()
            .map(|(shard, it)| self.take_up(shard, it, now))
            .collect();
        self.oracle.hand_over(&rules, &live, now);
        for shard in 0..self.setup.shards {
            self.gather(shard, Cause::Time);
            self.settle(shard, Cause::Time);
        }
        self.oracle.mark("the server was handed over");
    }

    fn write_down(&self, shard: usize, now: Now) -> Written {
        let server = &self.site.shards[shard].server;
        let allocations = server.export(now).into_iter().map(|exported| {
            let sockets = self
                .site
                .sockets
                .iter()
                .filter(|(_, socket)| socket.shard == shard && exported.sockets.contains(&Some(socket.id)));
            let sockets = sockets.map(|(&relayed, _)| relayed).collect();
            (json(&exported.record), exported.handles, sockets)
        });
        let reservations = server.export_reservations(now);
        let due = self
            .oracle
            .tokens
            .values()
            .filter(|it| it.shard == shard && it.until.life(now.mono) == Life::Yes);
        assert_eq!(reservations.len(), due.count(), "reservations that are written down");
        Written {
            allocations: allocations.collect(),
            reservations: reservations.iter().map(json).collect(),
        }
    }

    /// A new shard imports the records, and would export the same.
    fn take_up(&mut self, shard: usize, written: &Written, now: Now) -> Vec<SessionId> {
        let Site { shards, sockets, .. } = &mut self.site;
        let server = &mut shards[shard].server;
        let mut ids = Vec::new();
        let mut before = Vec::new();
        for (text, handles, bound) in &written.allocations {
            let record: AllocationRecord = serde_json::from_str(text).expect("a record is read back");
            let names = server
                .import(now, &record, handles.clone())
                .expect("a record is taken up");
            let named = names.into_iter().flatten();
            assert_eq!(named.clone().count(), bound.len(), "its relay sockets");
            for id in named {
                let relayed = record.relayed[id.family as usize]
                    .expect("a socket for each relayed address")
                    .address;
                assert!(bound.contains(&relayed));
                sockets.insert(relayed, Socket { shard, id });
            }
            ids.push(record.id);
            before.push((record.id, text.clone()));
        }
        for text in &written.reservations {
            let record: ReservationRecord = serde_json::from_str(text).expect("a record is read back");
            server.import_reservation(now, &record).expect("a record is taken up");
        }
        let mut after: Vec<_> = server
            .export(now)
            .iter()
            .map(|it| (it.record.id, json(&it.record)))
            .collect();
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(before, after, "what was taken up is what was written down");
        let again: Vec<String> = server.export_reservations(now).iter().map(json).collect();
        assert_eq!(again, written.reservations);
        ids
    }
}

impl Oracle {
    /// Another process continues with these allocations, by shard, under `rules`. Its budgets are
    /// full, its counters start at zero, and it remembers no transaction whose allocation has
    /// ended.
    fn hand_over(&mut self, rules: &Rules, live: &[Vec<SessionId>], now: Now) {
        let there = |held: &crate::oracle::Held| held.session.is_some_and(|id| live[held.shard].contains(&id));
        for held in self.held.values() {
            if there(held) {
                assert_ne!(held.life(now.mono), Life::No, "{:?} has expired", held.session);
            } else {
                let due = held.opening.is_none() && held.life(now.mono) == Life::Yes;
                assert!(!due, "{:?} was not written down", held.session);
            }
        }
        let lost: Vec<Key> = self
            .held
            .values()
            .filter(|held| !there(held))
            .map(|it| key(&it.client.five_tuple))
            .collect();
        lost.iter().for_each(|key| drop(self.held.remove(key)));
        self.held.values_mut().for_each(|held| held.last_icmp = None);
        self.past.clear();
        self.rates = Default::default();
        self.ledgers = live.iter().map(|ids| Ledger::taking_up(ids.len() as u64)).collect();
        self.set_rules(rules);
    }
}

fn json(record: &impl serde::Serialize) -> String {
    serde_json::to_string(record).expect("a record can be written")
}
