//! Why a client could not connect: one log line per refused request, at info (target
//! `relay::refusal`).
//!
//! Clients cause these lines, so the process has a budget: [`SOURCE_LINES`] for each client
//! address, [`ALL_LINES`] for all. Omitted lines are counted, and their number is logged once a
//! minute. Routine refusals (`Refused::routine`) are logged at debug.
//!
//! It also warns of clients that fail without a refusal: those behind a proxy that hides their
//! addresses.

mod text;

use core::time::Duration;
use std::net::SocketAddr;

use super::audit::AuditLog;
use super::log::{LogClient, Username};
use crate::base::address::FiveTuple;
use crate::base::log_throttle::LeftOut;
use crate::base::rate::{Rate, RateTable, SharedBucket};
use crate::base::time::Instant;
use crate::turn::types::RelayedAddr;
use crate::turn::{Event, Refused};

use self::text::{Explanation, explain, shown_peer};

/// Lines about one client address (IPv4 address, IPv6 /64): a burst of five, and one every ten
/// seconds.
const SOURCE_LINES: Rate = Rate::every(Duration::from_secs(10), 5);
/// Lines in total: a burst of thirty, and two a second. A flood of refusals is 150 lines in its
/// first minute and 120 in each that follows.
const ALL_LINES: Rate = Rate::new(2, 30);
/// The warning about hidden clients: once a day.
const HIDDEN_CLIENTS: Rate = Rate::every(Duration::from_secs(86_400), 1);

/// Bounds the lines of all workers together.
#[derive(Debug)]
pub(super) struct RefusalLog {
    /// Of lines about allocations.
    pub(super) allocations: AuditLog,
    sources: RateTable,
    all: SharedBucket,
    /// Lines at debug have their own budget, as large as the other.
    routine: SharedBucket,
    left_out: LeftOut,
    hidden_clients: SharedBucket,
    /// Listeners bound to loopback.
    local_listeners: Vec<SocketAddr>,
}

impl RefusalLog {
    /// `seed` is random, so that nobody can predict which sources share a bucket.
    pub(super) fn new(seed: u64, local_listeners: Vec<SocketAddr>, allocation_lines: u32) -> Self {
        Self {
            allocations: AuditLog::new(allocation_lines),
            sources: RateTable::new(seed),
            all: SharedBucket::default(),
            routine: SharedBucket::default(),
            left_out: LeftOut::default(),
            hidden_clients: SharedBucket::default(),
            local_listeners,
        }
    }

    /// Writes the line for `refused`. `false`: the budget is used up, and the caller counts the
    /// line as omitted.
    pub(super) fn log(&self, now: Instant, refused: &Refused, show: LogClient) -> bool {
        if refused.routine {
            if tracing::enabled!(target: "relay::refusal", tracing::Level::DEBUG) && self.routine.admit(now, ALL_LINES)
            {
                write(refused, show);
            }
            return true;
        }
        let source = refused.five_tuple.client.ip().into();
        // The source first, so that it takes no more of the common budget than its own share.
        if self.sources.admit(now, source, SOURCE_LINES) && self.all.admit(now, ALL_LINES) {
            write(refused, show);
            return true;
        }
        false
    }

    /// Warns, once a day, if `event` is an allocation of a client that a proxy hides. The client
    /// gets the proxy's address as its own (XOR-MAPPED-ADDRESS), and Firefox refuses such a
    /// candidate if that is loopback. Returns whether it has warned.
    pub(super) fn warn_of_hidden_client(&self, now: Instant, event: &Event) -> bool {
        let Event::AllocationBegan {
            five_tuple, relayed, ..
        } = event
        else {
            return false;
        };
        if !self.is_hidden(five_tuple, relayed) || !self.hidden_clients.admit(now, HIDDEN_CLIENTS) {
            return false;
        }
        tracing::warn!(
            target: "relay::shard",
            client = %five_tuple.client,
            listener = %five_tuple.server,
            transport = five_tuple.transport.as_str(),
            help = "have it send the header (nginx: proxy_protocol on, HAProxy: send-proxy-v2), and set proxy_protocol and \
                    trusted_proxies of the listener",
            "a TURN client comes from this machine itself: a proxy without PROXY header hides its clients, all count as one, \
             and Firefox refuses loopback as its address"
        );
        true
    }

    /// A stream from loopback comes from a proxy on this machine, unless the server is for this
    /// machine alone: then it listens on loopback, and relays there.
    fn is_hidden(&self, client: &FiveTuple, relayed: &[Option<RelayedAddr>]) -> bool {
        let loopback = client.transport.is_stream() && client.client.ip().is_loopback();
        let relays_here = relayed.iter().flatten().all(|relayed| relayed.0.ip().is_loopback());
        loopback && !(relays_here && self.local_listeners.contains(&client.server))
    }

    /// Counts refusals that have no line.
    pub(super) fn leave_out(&self, count: u64) {
        self.left_out.add(count);
    }

    /// Logs the number of omitted lines, once a minute. Call it every turn.
    pub(super) fn summarise(&self, now: Instant) {
        self.allocations.summarise(now);
        if self.left_out.is_due(now) {
            self.report_left_out();
        }
    }

    /// Logs the number of omitted lines at once: the process ends.
    pub(super) fn report_left_out(&self) {
        let count = self.left_out.take();
        if count > 0 {
            tracing::info!(
                target: "relay::refusal",
                count,
                help = "relay_refusals_total counts every one by its reason",
                "more requests were refused than have a line"
            );
        }
    }
}

fn write(refused: &Refused, show: LogClient) {
    let Refused {
        method,
        five_tuple,
        username,
        refusal,
        routine,
        half,
    } = refused;
    let half = if *half { " in half" } else { "" };
    let Explanation { why, help } = explain(refusal, show);
    let peer = refusal.peer().map(|peer| shown_peer(refusal, peer, show));
    let peer = peer.map(tracing::field::display);
    // One call per level: the level is part of the call site.
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "relay::refusal",
                reason = refusal.reason().as_str(),
                user = username.as_deref().map(|name| tracing::field::display(Username(name))),
                client = %show.show(five_tuple.client),
                transport = five_tuple.transport.as_str(),
                peer,
                help,
                "{method:?} refused{half}: {why}"
            )
        };
    }
    if *routine {
        line!(debug);
    } else {
        line!(info);
    }
}

#[cfg(test)]
mod tests;
