//! `GET /v1/status`.

use core::sync::atomic::Ordering::Relaxed;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Operator;
use crate::control::health::Readiness;
use crate::net::clock::unix_now;

/// The server as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    version: &'static str,
    /// Seconds since the process started.
    uptime_seconds: u64,
    /// Whether an operator drains the server.
    draining: bool,
    /// Phase, limits and usage.
    readiness: Readiness,
    workers: Vec<WorkerStatus>,
    last_reload: LastReload,
    /// Users whose credentials are revoked.
    revocations: usize,
}

/// One worker.
#[derive(Debug, Serialize, ToSchema)]
struct WorkerStatus {
    allocations: u64,
    streams: u64,
    /// CPU time of its loop since the start, in seconds.
    busy_seconds: f64,
    /// Time since its loop last ran, in milliseconds.
    heartbeat_age_ms: u64,
}

/// The latest reload; at start the first configuration.
#[derive(Debug, Serialize, ToSchema)]
struct LastReload {
    /// When a reload last took effect, Unix time in seconds.
    at: u64,
    /// Whether the latest took effect.
    successful: bool,
}

/// Shows the server as a whole.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "show_status",
    tag = "process",
    responses(
        (status = 200, description = "The server", body = Status),
    )
)]
pub(super) async fn status(State(operator): State<Operator>) -> Json<Status> {
    let inner = &operator.0;
    let shards = &inner.workers.shards;
    let ages = shards.heartbeat_ages();
    let workers = shards.counters().iter().zip(shards.shard_counters()).zip(ages);
    let workers = workers.map(|((turn, shard), age)| WorkerStatus {
        allocations: turn.allocations.iter().map(|gauge| gauge.get()).sum(),
        streams: shard.streams.get(),
        busy_seconds: shard.busy_nanos.get() as f64 / 1e9,
        heartbeat_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
    });
    let now = unix_now();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: now.0.saturating_sub(inner.process.started.0),
        draining: shards.shared().is_draining(),
        readiness: inner.health.readiness(),
        workers: workers.collect(),
        last_reload: LastReload {
            at: inner.process.last_reload.load(Relaxed),
            successful: inner.process.last_reload_failed.load(Relaxed) == 0,
        },
        revocations: shards.shared().revocations(now).len(),
    })
}
