//! Orders for the process itself: its own loop executes them one by one.

use core::time::Duration;
use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Json, body::Bytes};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::Operator;
use super::error::{ControlError, ErrorBody};
use crate::config::log_level;
use crate::control::process_counters::ReloadOutcome;
use crate::turn::config::redirect::Redirect;

/// An order to the process, and the channel for its result.
#[derive(Debug)]
pub enum Order {
    /// Reload the configuration.
    Reload(oneshot::Sender<ReloadReport>),
    /// End when no allocation is left, or at the deadline. `None`: resume serving.
    Drain(Option<DrainOrder>, oneshot::Sender<()>),
    /// Change the log filter.
    Log(LogOrder, oneshot::Sender<Result<(), String>>),
}

/// A drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainOrder {
    /// The time until the process ends at the latest.
    pub deadline: Option<Duration>,
}

/// A change of the log filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOrder {
    /// As `log.level`. `None`: the configured one.
    pub level: Option<String>,
    /// How long it lasts; then the configured filter returns. `None`: until the process ends, or
    /// the next change.
    pub until: Option<Duration>,
}

/// The result of a reload.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReloadReport {
    /// `success`, `partial` or `failure`.
    pub outcome: &'static str,
    /// Errors and warnings as `relay check` prints them, without colours.
    pub diagnostics: String,
    /// Changes that need a restart.
    pub waiting: Vec<String>,
    /// Changes that failed.
    pub failed: Vec<String>,
}

impl ReloadReport {
    /// A report with nothing besides the outcome.
    pub fn of(outcome: ReloadOutcome) -> Self {
        Self {
            outcome: outcome.as_str(),
            diagnostics: String::new(),
            waiting: Vec::new(),
            failed: Vec::new(),
        }
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct DrainBody {
    /// The servers that clients are redirected to: one per IP version.
    #[schema(value_type = Vec<String>, example = json!(["192.0.2.7:443"]))]
    to: Vec<SocketAddr>,
    /// Seconds.
    deadline_seconds: Option<u64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogBody {
    /// As `log.level`; `configured` restores the configured filter.
    level: String,
    /// Seconds.
    for_seconds: Option<u64>,
}

/// Reloads the configuration.
#[utoipa::path(
    post,
    path = "/v1/reload",
    operation_id = "reload",
    tag = "process",
    responses(
        (status = 200, description = "The result", body = ReloadReport),
        (status = 503, description = "The server is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn reload(State(operator): State<Operator>) -> Result<Json<ReloadReport>, ControlError> {
    operator.order(Order::Reload).await.map(Json)
}

/// Drains the server: it refuses new clients from the response on, and ends with the last
/// allocation.
#[utoipa::path(
    post,
    path = "/v1/drain",
    operation_id = "drain",
    tag = "process",
    request_body = DrainBody,
    responses(
        (status = 204, description = "The server drains"),
        (status = 400, description = "The request is invalid", body = ErrorBody),
        (status = 503, description = "The server is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn drain(State(operator): State<Operator>, body: Bytes) -> Result<StatusCode, ControlError> {
    let DrainBody { to, deadline_seconds } = parse_or_default(&body)?;
    let mut redirect = Redirect {
        serve_others: None,
        ..Redirect::default()
    };
    for server in to {
        let place = match server {
            SocketAddr::V4(_) => &mut redirect.ipv4,
            SocketAddr::V6(_) => &mut redirect.ipv6,
        };
        if place.replace(server).is_some() {
            let text = format!("`to` names two servers of one IP version; remove {server}");
            return Err(ControlError::BadRequest(text));
        }
    }
    let order = DrainOrder {
        deadline: deadline_seconds.map(Duration::from_secs),
    };
    operator.0.workers.shards.shared().set_draining(Some(redirect));
    operator.0.health.set_draining(true);
    operator.order(|answer| Order::Drain(Some(order), answer)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts new clients again.
#[utoipa::path(
    delete,
    path = "/v1/drain",
    operation_id = "undrain",
    tag = "process",
    responses(
        (status = 204, description = "The server accepts clients"),
        (status = 503, description = "The server is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn undrain(State(operator): State<Operator>) -> Result<StatusCode, ControlError> {
    operator.order(|answer| Order::Drain(None, answer)).await?;
    operator.0.workers.shards.shared().set_draining(None);
    operator.0.health.set_draining(false);
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the log filter.
#[utoipa::path(
    post,
    path = "/v1/log",
    operation_id = "set_log_level",
    tag = "process",
    request_body = LogBody,
    responses(
        (status = 204, description = "The filter has changed"),
        (status = 400, description = "The request is invalid", body = ErrorBody),
        (status = 503, description = "The server is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn log(State(operator): State<Operator>, body: Bytes) -> Result<StatusCode, ControlError> {
    let LogBody { level, for_seconds } = parse(&body)?;
    let level = (level != "configured").then(|| log_level::without_spaces(&level));
    let order = LogOrder {
        until: for_seconds.filter(|_| level.is_some()).map(Duration::from_secs),
        level,
    };
    let done = operator.order(|answer| Order::Log(order, answer)).await?;
    done.map_err(ControlError::BadRequest)?;
    Ok(StatusCode::NO_CONTENT)
}

impl Operator {
    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, ControlError> {
        let (send, answer) = oneshot::channel();
        let sent = self.0.orders.send(order(send)).await;
        sent.map_err(|_| ControlError::Ending)?;
        answer.await.map_err(|_| ControlError::Ending)
    }
}

/// Reads a JSON body.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|error| ControlError::BadRequest(format!("the body is invalid: {error}")))
}

fn parse_or_default<T: Default + for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ControlError> {
    if body.is_empty() { Ok(T::default()) } else { parse(body) }
}
