//! What a request of HTTP knows of the connection it came by.

use std::sync::Arc;

use tokio::sync::watch;

use super::admission::ConnectionGuard;
use super::splice::Activity;

/// The connection a request came by, in its extensions.
#[derive(Clone)]
pub(super) struct ConnectionInfo {
    pub(super) activity: Activity,
    /// Counts the connection for as long as anybody holds it.
    pub(super) guard: Arc<ConnectionGuard>,
    pub(super) stop: watch::Receiver<bool>,
}
