//! What happened last, told when a run fails.
//!
//! A run is traced only when it is replayed: the same seed takes the same course, so nothing is lost by not writing it down
//! the first time.

use std::cell::RefCell;
use std::collections::VecDeque;

use relay_proto::base::time::Instant;

/// So many of the last events are told.
const LINES: usize = 50;

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

struct Trace {
    now: Instant,
    lines: VecDeque<String>,
    most: usize,
}

/// From now on this thread's run is written down.
pub(crate) fn start() {
    let most = std::env::var("SIM_TRACE")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(LINES);
    TRACE.with(|cell| {
        *cell.borrow_mut() = Some(Trace {
            now: Instant::ZERO,
            lines: VecDeque::new(),
            most,
        })
    });
}

/// The last events, oldest first; nothing is written down any more.
pub(crate) fn stop() -> Vec<String> {
    TRACE
        .with(|cell| cell.borrow_mut().take())
        .map_or_else(Vec::new, |trace| trace.lines.into())
}

/// Time goes on.
pub(crate) fn at(now: Instant) {
    TRACE.with(|cell| {
        if let Some(trace) = &mut *cell.borrow_mut() {
            trace.now = now;
        }
    });
}

/// Writes down what `tell` says, if anything is written down.
pub(crate) fn note(tell: impl FnOnce() -> String) {
    TRACE.with(|cell| {
        if let Some(trace) = &mut *cell.borrow_mut() {
            let nanos = trace.now.as_nanos();
            let line = format!("{:>6}.{:09}  {}", nanos / 1_000_000_000, nanos % 1_000_000_000, tell());
            if trace.lines.len() >= trace.most {
                trace.lines.pop_front();
            }
            trace.lines.push_back(line);
        }
    });
}
