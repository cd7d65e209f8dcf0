//! The control interface: an operator queries a running server and sends it orders, as HTTP and
//! JSON on a Unix socket.
//!
//! ```text
//! GET    /v1/status               DELETE /v1/sessions/ID         POST   /v1/drain
//! GET    /v1/sessions             GET    /v1/revocations         DELETE /v1/drain
//! GET    /v1/sessions/ID          POST   /v1/revocations         POST   /v1/reload
//! GET    /v1/openapi.json         DELETE /v1/revocations/USER    POST   /v1/log
//! ```
//! The socket's file permissions are the login. Workers answer in bounded pieces, one query at a
//! time each, so relaying is not delayed.

mod ask;
mod error;
pub mod openapi;
mod orders;
mod process;
mod revocations;
mod sessions;
pub mod socket;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};

use self::ask::Workers;
pub use self::orders::{DrainOrder, LogOrder, Order, ReloadReport};
use self::revocations::RevocationFile;
use super::health::Health;
use super::process_counters::ProcessCounters;
use crate::shard::Shards;

/// The parts of the server that the control interface uses.
pub struct OperatorSources {
    /// The workers.
    pub shards: Arc<Shards>,
    /// Phase and readiness.
    pub health: Arc<Health>,
    /// Reloads.
    pub process: Arc<ProcessCounters>,
    /// Where orders for the process go.
    pub orders: tokio::sync::mpsc::Sender<Order>,
    /// Revocations are stored below it. `None`: they end with the process.
    pub state_dir: Option<std::path::PathBuf>,
    /// How long a revocation lasts by default: `credentials.max_ttl` at start.
    pub max_ttl: core::time::Duration,
}

/// The control interface. Clones share everything.
#[derive(Clone)]
pub struct Operator(Arc<Inner>);

struct Inner {
    workers: Workers,
    health: Arc<Health>,
    process: Arc<ProcessCounters>,
    orders: tokio::sync::mpsc::Sender<Order>,
    revocations: RevocationFile,
    max_ttl: core::time::Duration,
}

impl Operator {
    /// Loads the stored revocations.
    ///
    /// # Errors
    /// The file of revocations cannot be read: the server must not forget whom an operator has
    /// revoked.
    pub fn new(sources: OperatorSources) -> Result<Self, String> {
        let OperatorSources {
            shards,
            health,
            process,
            orders,
            state_dir,
            max_ttl,
        } = sources;
        let revocations = RevocationFile::new(state_dir);
        revocations.load(shards.shared())?;
        Ok(Self(Arc::new(Inner {
            workers: Workers::new(shards),
            health,
            process,
            orders,
            revocations,
            max_ttl,
        })))
    }

    /// All routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/status", get(process::status))
            .route("/v1/sessions", get(sessions::list))
            .route("/v1/sessions/{id}", get(sessions::one).delete(sessions::end))
            .route("/v1/revocations", get(revocations::list).post(revocations::add))
            .route("/v1/revocations/{user}", delete(revocations::remove))
            .route("/v1/drain", post(orders::drain).delete(orders::undrain))
            .route("/v1/reload", post(orders::reload))
            .route("/v1/log", post(orders::log))
            .route("/v1/openapi.json", get(openapi::serve))
            .fallback(async || error::ControlError::NotFound("no such resource"))
            .method_not_allowed_fallback(async || error::ControlError::Method)
            .with_state(self.clone())
    }
}
