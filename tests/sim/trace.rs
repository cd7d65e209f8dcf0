//! The last events before a failure.
//!
//! A run is traced only when it is replayed. The same seed gives the same run, so nothing is lost
//! by not tracing the first time.

use std::cell::RefCell;
use std::collections::VecDeque;

use relay_proto::base::time::Instant;

/// How many of the last events are printed.
const LINES: usize = 50;

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

struct Trace {
    now: Instant,
    lines: VecDeque<String>,
    most: usize,
}

/// Starts to trace this thread's run.
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

/// Stops the trace and returns the last events, oldest first.
pub(crate) fn stop() -> Vec<String> {
    TRACE
        .with(|cell| cell.borrow_mut().take())
        .map_or_else(Vec::new, |trace| trace.lines.into())
}

/// Sets the time of the next events.
pub(crate) fn at(now: Instant) {
    TRACE.with(|cell| {
        if let Some(trace) = &mut *cell.borrow_mut() {
            trace.now = now;
        }
    });
}

/// Adds what `tell` returns, if a trace is on.
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
