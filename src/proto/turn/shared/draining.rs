//! A drain by the operator: from one moment on no shard accepts new clients.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use std::sync::{Arc, Mutex};

use crate::base::address::FiveTuple;
use crate::base::lock::lock;
use crate::turn::config::redirect::Redirect;
use crate::turn::refusal::Refusal;

/// Whether the process is draining, and where its new clients go.
#[derive(Debug, Default)]
pub(in crate::turn) struct Draining {
    /// Lets a server that is not draining skip the lock.
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

    /// The refusal of a new client: 300 if it can follow, otherwise 508.
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
