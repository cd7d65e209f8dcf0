//! An operator's drain: no new clients from one moment on, at every shard at once.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use std::sync::{Arc, Mutex};

use crate::base::address::FiveTuple;
use crate::base::lock::lock;
use crate::turn::config::redirect::Redirect;
use crate::turn::refusal::Refusal;

/// Whether the process is drained, and where its new clients go.
#[derive(Debug, Default)]
pub(in crate::turn) struct Draining {
    /// So that a server in service takes no lock.
    on: AtomicBool,
    to: Mutex<Option<Arc<Redirect>>>,
}

impl Draining {
    pub(in crate::turn) fn set(&self, to: Option<Redirect>) {
        let mut held = lock(&self.to);
        self.on.store(to.is_some(), Relaxed);
        *held = to.map(Arc::new);
    }

    pub(in crate::turn) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Why a new client is refused: 300 where it can follow, 508 otherwise.
    pub(in crate::turn) fn check(&self, client: &FiveTuple) -> Result<(), Refusal> {
        if !self.is_on() {
            return Ok(());
        }
        let Some(to) = lock(&self.to).clone() else {
            return Ok(());
        };
        Err(match to.of(client, Duration::ZERO) {
            Some(to) => Refusal::Redirected { to },
            None => Refusal::Draining,
        })
    }
}
