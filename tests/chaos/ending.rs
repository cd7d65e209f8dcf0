//! The end of a run: all activity stops, missing packets are accounted for, all clients leave, and
//! nothing is left.

use core::time::Duration;

use relay::turn::DropReason;

use crate::runner::{LIFETIME, Run};

impl Run {
    /// Everyone reads, nothing new starts, allocations end; then the server ends.
    pub(crate) fn end(&mut self) {
        let suddenly = self.dice.percent(25);
        if !suddenly {
            self.calm();
            if self.findings().is_empty() {
                self.account();
                self.leave();
            }
        }
        if !self.findings().is_empty() {
            return;
        }
        let ended = self.server.shards.shutdown(Duration::from_secs(5));
        if !ended {
            self.ledger.find("a worker does not end".to_owned());
            return;
        }
        self.collect();
        self.guests.clear();
        self.peers.clear();
        self.close_doors();
        let left = self.world.lock().kernel.files.len();
        // What the process keeps of each worker: the descriptors of the wakers.
        let kept = self.server.shards.counters().len();
        if left != kept {
            self.ledger.find(format!("{left} descriptors are left of {kept}"));
        }
    }

    fn calm(&mut self) {
        let now = self.world.now();
        let Self { guests, lines, .. } = self;
        for guest in guests {
            guest.deaf = false;
        }
        lines.listen_again(now);
        // A peer that does not answer is awaited for half a minute, and one that could not be
        // accepted is accepted eventually.
        for turn in 0..400 {
            if turn >= 20 && self.guests.iter().all(|guest| guest.connecting() == 0) && self.unaccepted() == 0 {
                break;
            }
            self.world.run_for(100_000_000);
            let Self { guests, ledger, .. } = self;
            for guest in &mut *guests {
                guest.pump(ledger);
            }
            self.collect();
        }
    }

    /// Checks that missing packets are those that the program reports as dropped.
    fn account(&mut self) {
        let held_back = self.guests.iter().filter(|guest| guest.holds_back());
        self.ledger.broken.extend(held_back.map(|guest| guest.index));
        let (missing, excused) = self.ledger.missing();
        // A Connect gets no response once its allocation has ended.
        let forgotten = self.forgotten_connects().min(missing);
        let (missing, excused) = (missing - forgotten, excused + forgotten);
        let drops = self
            .server
            .count(|counters| counters.dropped.iter().map(|cell| cell.get()).sum());
        let icmp = self.server.stat(|stats| stats.icmp_errors.get());
        let unseen = icmp.saturating_sub(self.ledger.icmp);
        // The content of a lost record is unknown, and drops during a handshake are not missed.
        let unknown = self.ledger.lost_records + self.sealed_drops();
        if drops + unknown < missing || (!self.sealed && drops > missing + excused + unseen) {
            let reasons: Vec<String> = DropReason::ALL
                .iter()
                .map(|&reason| {
                    (
                        reason,
                        self.server.count(|counters| counters.dropped[reason as usize].get()),
                    )
                })
                .filter(|&(_, count)| count > 0)
                .map(|(reason, count)| format!("{reason:?} {count}"))
                .collect();
            let open = self.ledger.open();
            self.ledger.find(format!(
                "{missing} packets are missing, {excused} more went with streams, and {drops} are counted as dropped ({unseen} ICMP unseen): {reasons:?}; missing {open:#?}"
            ));
        }
        let gone = self
            .server
            .count(|counters| counters.dropped[DropReason::Gone as usize].get());
        let to_guests = self.ledger.missing_to_guests();
        if !self.sealed && gone > excused + to_guests {
            self.ledger.find(format!(
                "{gone} packets had nowhere to go any more, though only {excused} went with streams, and {to_guests} were for clients"
            ));
        }
        let (received, truncated) = {
            let state = self.world.lock();
            (state.kernel.received, state.kernel.truncated)
        };
        let counted = self.server.stat(|stats| stats.received_datagrams.get());
        if counted != received {
            self.ledger
                .find(format!("workers got {received} datagrams and count {counted}"));
        }
        let counted = self.server.stat(|stats| stats.receive_truncated.get());
        if counted != truncated {
            self.ledger
                .find(format!("{truncated} messages were cut short, {counted} are counted"));
        }
        let live = self
            .server
            .count(|counters| counters.allocations.iter().map(|cell| cell.get()).sum());
        let sockets = self.server.stat(|stats| stats.relay_sockets.get());
        if live != sockets {
            self.ledger
                .find(format!("{live} allocations have {sockets} relay sockets"));
        }
        self.account_lines();
    }

    /// Datagrams of DTLS that the program reports as dropped.
    #[cfg(feature = "dtls")]
    fn sealed_drops(&self) -> u64 {
        self.server
            .stat(|stats| stats.dtls_dropped.iter().map(|cell| cell.get()).sum())
    }

    #[cfg(not(feature = "dtls"))]
    fn sealed_drops(&self) -> u64 {
        0
    }

    /// All clients leave; after the last lifetime nothing is left.
    fn leave(&mut self) {
        let Self { guests, ledger, .. } = self;
        for guest in guests {
            guest.leave_for_good(ledger);
        }
        self.peers.clear();
        self.close_doors();
        self.world.run_for((LIFETIME * 2).as_nanos() as u64 + 30_000_000_000);
        let allocations = self
            .server
            .count(|counters| counters.allocations.iter().map(|cell| cell.get()).sum());
        let sockets = self.server.stat(|stats| stats.relay_sockets.get());
        let streams = self.server.stat(|stats| stats.streams.get());
        let associations = self
            .server
            .stat(|stats| stats.dtls_associations.get() + stats.dtls_half_open.get());
        let connections = self.server.count(|counters| counters.tcp.connections.get());
        if [allocations, sockets, streams, connections, associations] != [0; 5] {
            self.ledger.find(format!(
                "left behind: {allocations} allocations, {sockets} relay sockets, {streams} streams, {connections} connections, {associations} associations"
            ));
        }
        // Nothing is left that would make a worker turn more often than once per second.
        let turns = self.world.lock().turns;
        self.world.run_for(10_000_000_000);
        let turned = self.world.lock().turns - turns;
        let workers = self.server.shards.counters().len() as u64;
        if turned > 11 * workers {
            self.ledger.find(format!(
                "{workers} workers turn {turned} times in ten seconds, for nobody"
            ));
        }
        let files = self.world.lock().kernel.files.len();
        if files != self.before {
            self.ledger.find(format!(
                "{files} descriptors are open, and {} were in the beginning",
                self.before
            ));
        }
    }
}
