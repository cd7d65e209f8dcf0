//! Orders of operators that the process still has to carry out: reloads that await a report, a
//! drain, a temporary log filter.

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::log::LogFilter;
use crate::control::operator::{LogOrder, Order, ReloadReport};

/// Maximum of queued orders.
const WAITING: usize = 16;

/// The orders of a serving process.
pub(super) struct Orders {
    incoming: mpsc::Receiver<Order>,
    log: LogFilter,
    /// When the configured filter returns.
    log_until: Option<Instant>,
    /// While the server drains: the deadline.
    drain: Option<Option<Instant>>,
    /// Wait for the report of the next reload.
    next_reload: Vec<oneshot::Sender<ReloadReport>>,
    /// Wait for the report of the reload under way.
    reload: Vec<oneshot::Sender<ReloadReport>>,
}

/// What the process has to do for an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// Nothing more.
    Nothing,
    /// Reload the configuration.
    Reload,
}

impl Orders {
    /// No orders at first. They arrive through the returned sender.
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

    /// The next order. Without a control interface it waits for ever.
    pub(super) async fn next(&mut self) -> Order {
        match self.incoming.recv().await {
            Some(order) => order,
            None => core::future::pending().await,
        }
    }

    /// Carries an order out as far as it can be done here.
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
                        "draining: the server refuses new clients; the process ends when no allocation is left"
                    ),
                    None if self.drain.is_some() => tracing::info!("no longer draining"),
                    None => {}
                }
                self.drain = drain.map(|drain| drain.deadline.and_then(|after| Instant::now().checked_add(after)));
                // A sender that has gone needs no response.
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

    /// A reload begins: requests from now on wait for the next one.
    pub(super) fn reload_begins(&mut self) {
        self.reload.append(&mut self.next_reload);
    }

    /// Reports to those that waited for the reload that has ended.
    pub(super) fn reload_ended(&mut self, report: &ReloadReport) {
        for answer in self.reload.drain(..) {
            let _ = answer.send(report.clone());
        }
    }

    /// Called once per second. Returns whether a drain is complete.
    pub(super) fn tick(&mut self, allocations: u64) -> bool {
        let now = Instant::now();
        if self.log_until.is_some_and(|until| now >= until) {
            let back = LogOrder {
                level: None,
                until: None,
            };
            // The configured filter was valid at start.
            let _ = self.set_log(&back);
        }
        self.drain
            .is_some_and(|deadline| allocations == 0 || deadline.is_some_and(|deadline| now >= deadline))
    }
}
