//! Limits how often the log repeats a line. Clients cause lines, as many as they like. So every
//! kind of line, which is each place in the code that writes one, has a budget for the whole
//! process. Omitted lines are counted, and reported once a minute.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::line::Told;
use crate::base::lock::lock;
use crate::base::rate::{Rate, SharedBucket};
use crate::base::time::Instant;
use crate::net::clock::Clock;

/// Budget of a kind: a burst of fifty lines, then one every five seconds.
const LINES: Rate = Rate::every(Duration::from_secs(5), 50);
/// The budget at debug, for an operator who looks for a fault.
const DEBUG_LINES: Rate = Rate::new(100, 1000);
/// Lines that are limited at their origin, or that only the operator causes.
const EXEMPT: [&str; 3] = ["relay::allocation", "relay::refusal", "relay::daemon::log"];
/// Length of the message by which a kind is named, in characters.
const NAME: usize = 100;

/// The budgets of all kinds. There are as many as places in the code.
#[derive(Debug)]
pub struct LineBudgets {
    clock: Clock,
    kinds: Mutex<HashMap<Identifier, Kind>>,
    left_out: AtomicU64,
}

#[derive(Debug)]
struct Kind {
    bucket: SharedBucket,
    level: Level,
    /// The message of its first line.
    name: String,
    left_out: u64,
}

impl LineBudgets {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::default(),
            kinds: Mutex::default(),
            left_out: AtomicU64::new(0),
        }
    }

    /// Lines omitted since the start.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Relaxed)
    }

    /// Logs which lines were omitted, and how many of each.
    pub fn tell(&self) {
        // Without the lock: the log call comes back here.
        let told: Vec<_> = {
            let mut kinds = self.lock();
            let kinds = kinds.values_mut().filter(|kind| kind.left_out > 0);
            kinds
                .map(|kind| (kind.level, kind.name.clone(), core::mem::take(&mut kind.left_out)))
                .collect()
        };
        for (level, like, count) in told {
            if level <= Level::WARN {
                tracing::warn!(target: "relay::daemon::log", count, like, "lines were left out, there were too many");
            } else {
                tracing::info!(target: "relay::daemon::log", count, like, "lines were left out, there were too many");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        // A kind is consistent between any two of its changes.
        lock(&self.kinds)
    }

    fn admit(&self, now: Instant, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if EXEMPT.contains(&metadata.target()) {
            return true;
        }
        let rate = if *metadata.level() <= Level::INFO {
            LINES
        } else {
            DEBUG_LINES
        };
        let mut kinds = self.lock();
        let kind = kinds.entry(metadata.callsite()).or_insert_with(|| {
            let told = Told::of(event);
            let message: String = told
                .message
                .iter()
                .flat_map(|message| message.chars())
                .take(NAME)
                .collect();
            Kind {
                bucket: SharedBucket::default(),
                level: *metadata.level(),
                name: format!("{}: {message}", told.target),
                left_out: 0,
            }
        });
        let admitted = kind.bucket.admit(now, rate);
        if !admitted {
            kind.left_out += 1;
            self.left_out.fetch_add(1, Relaxed);
        }
        admitted
    }
}

/// Keeps the lines of a subscriber within the budgets.
pub(super) struct Capped(pub(super) Arc<LineBudgets>);

impl<S: Subscriber> Layer<S> for Capped {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.admit(self.0.clock.mono(), event)
    }
}
