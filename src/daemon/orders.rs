//! What operators have ordered and the process has still to do: reloads to be answered, a drain, a
//! log filter for a while.

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::log::LogFilter;
use crate::control::operator::{LogOrder, Order, ReloadReport};

/// Orders that may wait.
const WAITING: usize = 16;

/// The orders of a serving process.
pub(super) struct Orders {
    incoming: mpsc::Receiver<Order>,
    log: LogFilter,
    /// When the configured filter holds again.
    log_until: Option<Instant>,
    /// The server is drained, until then at the latest.
    drain: Option<Option<Instant>>,
    /// Want the outcome of the reload that begins next.
    next_reload: Vec<oneshot::Sender<ReloadReport>>,
    /// Want the outcome of the reload under way.
    reload: Vec<oneshot::Sender<ReloadReport>>,
}

/// What an order leaves the process to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// It is done.
    Nothing,
    /// Read the configuration again.
    Reload,
}

impl Orders {
    /// Nothing is ordered yet. Orders come by the sender.
    pub(super) fn new(log: LogFilter) -> (Self, mpsc::Sender<Order>) {
        let (sender, incoming) = mpsc::channel(WAITING);
        let orders = Self {
            incoming,
            log,
            log_until: None,
            drain: None,
            next_reload: Vec::new(),
            reload: Vec::new(),
        };
        (orders, sender)
    }

    /// The next order. Without a control interface none ever comes.
    pub(super) async fn next(&mut self) -> Order {
        match self.incoming.recv().await {
            Some(order) => order,
            None => core::future::pending().await,
        }
    }

    /// Does what can be done here.
    pub(super) fn take(&mut self, order: Order) -> Todo {
        match order {
            Order::Reload(answer) => {
                self.next_reload.push(answer);
                return Todo::Reload;
            }
            Order::Drain(drain, answer) => {
                match drain {
                    Some(drain) => tracing::info!(
                        deadline_secs = drain.deadline.map(|it| it.as_secs()),
                        "draining: no new clients; the process ends when no allocation is left"
                    ),
                    None if self.drain.is_some() => tracing::info!("no longer draining"),
                    None => {}
                }
                self.drain = drain.map(|drain| drain.deadline.and_then(|after| Instant::now().checked_add(after)));
                // Who has gone needs no answer.
                let _ = answer.send(());
            }
            Order::Log(order, answer) => {
                let _ = answer.send(self.set_log(&order));
            }
        }
        Todo::Nothing
    }

    fn set_log(&mut self, order: &LogOrder) -> Result<(), String> {
        self.log.set(order.level.as_deref())?;
        self.log_until = order.until.and_then(|after| Instant::now().checked_add(after));
        let level = order.level.as_deref().unwrap_or("as configured");
        tracing::info!(
            level,
            for_secs = order.until.map(|it| it.as_secs()),
            "log level changed"
        );
        Ok(())
    }

    /// A reload begins: whoever asks from now on wants the next one.
    pub(super) fn reload_begins(&mut self) {
        self.reload.append(&mut self.next_reload);
    }

    /// Answers those who asked for the reload that has ended.
    pub(super) fn reload_ended(&mut self, report: &ReloadReport) {
        for answer in self.reload.drain(..) {
            let _ = answer.send(report.clone());
        }
    }

    /// Once a second. Returns whether a drain is over.
    pub(super) fn tick(&mut self, allocations: u64) -> bool {
        let now = Instant::now();
        if self.log_until.is_some_and(|until| now >= until) {
            let back = LogOrder {
                level: None,
                until: None,
            };
            // The configured filter was good at start.
            let _ = self.set_log(&back);
        }
        self.drain
            .is_some_and(|deadline| allocations == 0 || deadline.is_some_and(|deadline| now >= deadline))
    }
}
