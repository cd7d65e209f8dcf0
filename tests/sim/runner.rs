//! Runs seeds on every processor, and reports what is needed to reproduce a failure.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Instant;

use crate::trace;
use crate::world::World;

/// How often the runs reached each situation.
pub(crate) type Marks = BTreeMap<&'static str, u64>;

/// The number in an environment variable.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}

/// Runs `count` seeds from `first` on; panics with the smallest one that fails.
pub(crate) fn run(first: u64, count: u64) -> Marks {
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
    let marks = Mutex::new(Marks::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + count || failed.load(Relaxed) < seed {
                        return;
                    }
                    match attempt(seed) {
                        Ok(found) => add(&mut marks.lock().unwrap_or_else(PoisonError::into_inner), &found),
                        Err(_) => _ = failed.fetch_min(seed, Relaxed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    if failed < u64::MAX {
        replay(failed);
        panic!("seed {failed} failed once and not twice: the run depends on more than its seed");
    }
    let marks = marks.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!("{count} runs in {:.1} s: {marks:#?}", began.elapsed().as_secs_f64());
    marks
}

/// Runs one seed; if it fails, panics with its last events.
pub(crate) fn replay(seed: u64) -> Marks {
    trace::start();
    let outcome = attempt(seed);
    let events = trace::stop();
    outcome.unwrap_or_else(|why| {
        let events = events.join("\n");
        panic!(
            "seed {seed} breaks an invariant.\n\nThe last events:\n{events}\n\n{why}\n\n\
             Again: SIM_SEED={seed} cargo test --test sim no_invariant (SIM_TRACE=1000 for more events)\n"
        )
    })
}

/// One run; catches any panic in it.
fn attempt(seed: u64) -> Result<Marks, String> {
    catch_quietly(|| {
        let mut world = World::drawn(seed);
        world.live();
        world.oracle.marks
    })
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Catches a panic without the usual report, which would appear between those of other runs.
fn catch_quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PLACE.set(info.location().map(ToString::to_string));
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    outcome.map_err(|why| format!("{}: {}", PLACE.take().unwrap_or_default(), told(&*why)))
}

fn told(why: &(dyn Any + Send)) -> &str {
    let text = why.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| why.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

fn add(sum: &mut Marks, more: &Marks) {
    for (mark, count) in more {
        *sum.entry(mark).or_default() += count;
    }
}
