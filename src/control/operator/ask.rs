//! Sends queries to workers, one at a time to each.

use std::sync::Arc;

use tokio::sync::{Mutex, oneshot};

use super::error::ControlError;
use crate::shard::Shards;
use crate::shard::question::{Answer, Question};

/// The workers as the control interface sees them.
pub(super) struct Workers {
    pub(super) shards: Arc<Shards>,
    /// Held while a worker has a query, so that two operators at once do not lengthen its turns.
    asking: Vec<Mutex<()>>,
}

impl Workers {
    pub(super) fn new(shards: Arc<Shards>) -> Self {
        let asking = (0..shards.count()).map(|_| Mutex::default()).collect();
        Self { shards, asking }
    }

    pub(super) fn count(&self) -> usize {
        self.asking.len()
    }

    /// Asks one worker.
    ///
    /// # Errors
    /// The worker has ended.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        shard: usize,
        question: impl FnOnce(Answer<T>) -> Question,
    ) -> Result<T, ControlError> {
        let _asking = match self.asking.get(shard) {
            Some(asking) => asking.lock().await,
            None => return Err(ControlError::Ending),
        };
        let (send, answer) = oneshot::channel();
        // If the caller has given up, the result is dropped.
        let take = Answer::new(move |it| drop(send.send(it)));
        self.shards.ask(shard, question(take));
        answer.await.map_err(|_| ControlError::Ending)
    }

    /// Queries the workers in turn until one has the result. A session that moves between two
    /// workers may be at neither for an instant, so all are queried a second time.
    pub(super) async fn find<T: Send + 'static>(
        &self,
        question: impl Fn(Answer<Option<T>>) -> Question,
    ) -> Result<Option<T>, ControlError> {
        for again in [true, false] {
            for shard in 0..self.count() {
                if let Some(found) = self.ask(shard, &question).await? {
                    return Ok(Some(found));
                }
            }
            if again {
                tokio::time::sleep(core::time::Duration::from_millis(20)).await;
            }
        }
        Ok(None)
    }

    /// How many sessions have moved between workers so far.
    pub(super) fn moves(&self) -> u64 {
        let counters = self.shards.counters().iter();
        counters.map(|counters| counters.allocations_arrived.get()).sum()
    }
}
