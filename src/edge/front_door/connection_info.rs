//! The connection of an HTTP request, for its handlers.

use std::sync::Arc;

use tokio::sync::watch;

use super::admission::ConnectionGuard;
use super::splice::Activity;

/// The connection of a request, in its extensions.
#[derive(Clone)]
pub(super) struct ConnectionInfo {
    pub(super) activity: Activity,
    /// Counts the connection while a clone exists.
    pub(super) guard: Arc<ConnectionGuard>,
    pub(super) stop: watch::Receiver<bool>,
}
