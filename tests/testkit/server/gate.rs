//! Stops workers at a point chosen by a test, so that what arrives meanwhile is handled in one
//! turn.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, Once};

use relay::shard::ShardConfig;
use relay::wire::attribute::AttributeType;
use relay::wire::message::Method;
use tracing::span;

use crate::{PATIENCE, TestServer};

thread_local! {
    /// The worker of this thread, and its server.
    static WORKER: RefCell<Option<(usize, Arc<Shared>)>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The worker that may not pass.
    shut: Option<usize>,
    /// It has arrived.
    stands: bool,
}

/// Stops one worker of a server while it writes the log line about an allocation: at the end of a
/// turn, before anything is sent.
pub struct Gate(Arc<Shared>);

impl Gate {
    /// An open gate, and `config` with it.
    pub fn with(config: ShardConfig) -> (Self, ShardConfig) {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| tracing::subscriber::set_global_default(Lines).unwrap());
        let shared = Arc::<Shared>::default();
        let at_gate = Arc::clone(&shared);
        let config = ShardConfig {
            on_thread_start: Some(Arc::new(move |index| {
                WORKER.set(Some((index, Arc::clone(&at_gate))));
            })),
            ..config
        };
        (Self(shared), config)
    }

    /// Runs `meanwhile` while worker `shard` stands still. The worker handles everything that
    /// arrived in its next turn.
    #[track_caller]
    pub fn in_one_turn<T>(&self, server: &TestServer, shard: usize, meanwhile: impl FnOnce() -> T) -> T {
        let (mut bell, _) = server.client_on(shard);
        self.0.state.lock().unwrap().shut = Some(shard);
        let release = bell.compose(Method::Refresh, &|writer| {
            writer.u32(AttributeType::LIFETIME, 0);
        });
        bell.pipe.send(&release);
        let state = self.0.state.lock().unwrap();
        let (state, _) = self
            .0
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.stands)
            .unwrap();
        assert!(state.stands, "worker {shard} writes a line when an allocation ends");
        drop(state);
        let done = meanwhile();
        *self.0.state.lock().unwrap() = State::default();
        self.0.changed.notify_all();
        done
    }
}

impl Shared {
    fn pass(&self, worker: usize) {
        let mut state = self.state.lock().unwrap();
        if state.shut == Some(worker) {
            state.stands = true;
            self.changed.notify_all();
            // A failing test leaves it shut; no worker may stand still forever.
            let _ = self
                .changed
                .wait_timeout_while(state, PATIENCE, |state| state.shut == Some(worker))
                .unwrap();
        }
    }
}

/// Accepts every line and stores none.
struct Lines;

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "relay::allocation"
    }

    fn event(&self, _: &tracing::Event<'_>) {
        let worker = WORKER.with_borrow(Clone::clone);
        if let Some((index, gate)) = worker {
            gate.pass(index);
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
