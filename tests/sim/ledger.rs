//! The counters that one shard must have.

use std::collections::BTreeMap;

use relay_proto::base::address::Transport;
use relay_proto::base::cell::Cell;
use relay_proto::turn::counters::{Counters, Direction, ERROR_CODES};
use relay_proto::turn::{EndReason, Verdict};

use crate::oracle::Flow;

/// Counted beside the server, from its observed behaviour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    received: u64,
    relayed: u64,
    answered: u64,
    waiting: u64,
    dropped: u64,
    errors: BTreeMap<u16, u64>,
    up: [Flow; 4],
    down: [Flow; 4],
    /// Imported from another process.
    taken_up: u64,
    began: u64,
    ended: u64,
    ended_by: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// For a process that continues with this many allocations of another.
    pub(crate) fn taking_up(allocations: u64) -> Self {
        Self {
            taken_up: allocations,
            ..Self::default()
        }
    }

    pub(crate) fn verdict(&mut self, verdict: &Verdict) {
        self.received += 1;
        match verdict {
            Verdict::ToPeer { .. } | Verdict::ToAllocation { .. } | Verdict::ToClient { .. } => self.relayed += 1,
            Verdict::Respond | Verdict::BindConnection(_) => self.answered += 1,
            Verdict::Waiting | Verdict::MoveStream { .. } => self.waiting += 1,
            Verdict::Drop(_) => self.dropped += 1,
        }
    }

    pub(crate) fn error(&mut self, code: u16) {
        *self.errors.entry(code).or_default() += 1;
    }

    pub(crate) fn up(&mut self, transport: Transport, len: usize) {
        self.up[transport as usize].add(len);
    }

    pub(crate) fn down(&mut self, transport: Transport, len: usize) {
        self.down[transport as usize].add(len);
    }

    pub(crate) fn began(&mut self) {
        self.began += 1;
    }

    pub(crate) fn ended(&mut self, why: EndReason) {
        self.ended += 1;
        *self.ended_by.entry(why.as_str()).or_default() += 1;
    }

    /// Compares with the server's counters; `live` allocations are split by transport.
    pub(crate) fn check(&self, counters: &Counters, live: [u64; 4]) {
        let sum = |cells: &[Cell]| cells.iter().map(Cell::get).sum::<u64>();
        let counted = [
            &counters.received,
            &counters.relayed,
            &counters.answered,
            &counters.waiting,
        ]
        .map(Cell::get);
        assert_eq!(
            counted,
            [self.received, self.relayed, self.answered, self.waiting],
            "packets by verdict"
        );
        assert_eq!(sum(&*counters.dropped), self.dropped, "dropped packets");
        assert_eq!(
            counted[0],
            counted[1] + counted[2] + counted[3] + self.dropped,
            "every packet has one verdict"
        );
        for (code, counted) in ERROR_CODES.iter().zip(&counters.errors) {
            assert_eq!(
                counted.get(),
                self.errors.get(code).copied().unwrap_or(0),
                "error responses {code}"
            );
        }
        for (directions, flows) in [(&counters.up, &self.up), (&counters.down, &self.down)] {
            for (transport, flow) in flows.iter().enumerate() {
                let sum = |cell: fn(&Direction) -> &Cell| {
                    let counted = directions.iter().map(|path| cell(&path[transport]).get());
                    counted.sum::<u64>()
                };
                assert_eq!(
                    [sum(|direction| &direction.packets), sum(|direction| &direction.bytes)],
                    [flow.packets, flow.bytes],
                    "relayed data"
                );
            }
        }
        assert_eq!(sum(&counters.allocations_started), self.began, "allocations started");
        for (why, counted) in EndReason::ALL.iter().zip(&counters.allocations_ended) {
            let expected = self.ended_by.get(why.as_str()).copied().unwrap_or(0);
            assert_eq!(counted.get(), expected, "allocations that ended: {why}");
        }
        assert_eq!(
            counters.allocations.each_ref().map(Cell::get),
            live,
            "live allocations by transport"
        );
        assert_eq!(counters.allocations_imported.get(), self.taken_up);
        assert_eq!(
            self.taken_up + self.began - self.ended,
            live.iter().sum::<u64>(),
            "began - ended = live"
        );
    }
}
