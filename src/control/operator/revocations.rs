//! Revoked users. Every worker refuses them and ends their sessions; the state directory has the
//! revocation before the response is sent.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::Operator;
use super::error::{ControlError, ErrorBody};
use super::orders::parse;
use crate::base::time::UnixTime;
use crate::machine::files::own;
use crate::net::clock::unix_now;
use crate::shard::question::Question;
use crate::turn::Shared;
use crate::turn::sessions::Revocation;

/// Its name in the state directory.
const FILE: &str = "revocations.json";
/// Fits the maximum of revocations with names of the maximum length.
const MOST_BYTES: usize = 64 << 20;
/// Sessions that a worker examines in one turn. Ending one closes its sockets, which costs more than
/// listing it.
const PIECE: usize = 32;

/// A revocation, in the file and in responses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevocationRecord {
    user: String,
    /// Unix time in seconds.
    until: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    /// A static user's name, or the userid of time-limited usernames.
    user: String,
    /// Unix time in seconds. Default: `credentials.max_ttl` from now.
    until: Option<u64>,
}

/// The result of a revocation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Revoked {
    user: String,
    until: u64,
    /// Sessions it ended.
    ended: usize,
    /// Whether it survives a restart.
    kept: bool,
}

/// The file, written by one order at a time.
pub(super) struct RevocationFile {
    state_dir: Option<PathBuf>,
    writing: Mutex<()>,
}

impl RevocationFile {
    pub(super) fn new(state_dir: Option<PathBuf>) -> Self {
        Self {
            state_dir,
            writing: Mutex::default(),
        }
    }

    /// Loads the stored revocations, without the expired ones.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub(super) fn load(&self, shared: &Shared) -> Result<(), String> {
        let Some(dir) = &self.state_dir else { return Ok(()) };
        let file = dir.join(FILE);
        let contents = match own::read(dir, &file, MOST_BYTES) {
            Ok(contents) => contents,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("the revocations in {} cannot be read: {error}", file.display())),
        };
        let kept: Vec<RevocationRecord> = serde_json::from_slice(&contents.bytes).map_err(|error| {
            let file = file.display();
            format!("the revocations in {file} cannot be read: {error}; move the file away to start without them")
        })?;
        let now = unix_now();
        for RevocationRecord { user, until } in kept.into_iter().filter(|it| it.until > now.0) {
            let revocation = Revocation {
                user: user.into(),
                until: UnixTime(until),
            };
            shared.revoke(now, &revocation).map_err(|_| TOO_MANY.to_owned())?;
        }
        Ok(())
    }

    /// Writes the revocations in force. `false`: there is no state directory.
    async fn write(&self, shared: &Shared) -> Result<bool, ControlError> {
        let Some(dir) = self.state_dir.clone() else {
            return Ok(false);
        };
        let all = shared.revocations(unix_now()).into_iter();
        let mut all: Vec<_> = all.map(record).collect();
        all.sort_by(|a, b| a.user.cmp(&b.user));
        let written = spawn_blocking(move || {
            let text = serde_json::to_vec_pretty(&all).map_err(std::io::Error::other)?;
            own::write(&dir, &dir.join(FILE), &text, own::PRIVATE)
        });
        let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let not_kept = |error| ControlError::NotKept(format!("in force, but a restart forgets it: {error}"));
        written.map(|()| true).map_err(not_kept)
    }
}

const TOO_MANY: &str = "the maximum of revoked users is reached; take one back first";

fn record(revocation: Revocation) -> RevocationRecord {
    RevocationRecord {
        user: revocation.user.as_ref().to_owned(),
        until: revocation.until.0,
    }
}

/// Lists the revoked users.
#[utoipa::path(
    get,
    path = "/v1/revocations",
    operation_id = "list_revocations",
    tag = "revocations",
    responses(
        (status = 200, description = "All revocations in force", body = [RevocationRecord]),
    )
)]
pub(super) async fn list(State(operator): State<Operator>) -> Json<Vec<RevocationRecord>> {
    let all = operator.0.workers.shards.shared().revocations(unix_now());
    let mut all: Vec<_> = all.into_iter().map(record).collect();
    all.sort_by(|a, b| a.user.cmp(&b.user));
    Json(all)
}

/// Revokes a user. When the response arrives, the user's logins are refused and its sessions have
/// ended.
#[utoipa::path(
    post,
    path = "/v1/revocations",
    operation_id = "revoke_user",
    tag = "revocations",
    request_body = RevokeBody,
    responses(
        (status = 200, description = "The user is revoked", body = Revoked),
        (status = 400, description = "The request is invalid", body = ErrorBody),
        (status = 500, description = "The user is revoked, but a restart forgets it", body = ErrorBody),
        (status = 503, description = "The server is shutting down", body = ErrorBody),
        (status = 507, description = "The maximum of revoked users is reached", body = ErrorBody),
    )
)]
pub(super) async fn add(State(operator): State<Operator>, body: Bytes) -> Result<Json<Revoked>, ControlError> {
    let RevokeBody { user, until } = parse(&body)?;
    if user.is_empty() {
        return Err(ControlError::BadRequest("`user` is empty".to_owned()));
    }
    let now = unix_now();
    let until = until.unwrap_or_else(|| now.0.saturating_add(operator.0.max_ttl.as_secs()));
    if until <= now.0 {
        return Err(ControlError::BadRequest(format!("`until` has passed: it is {}", now.0)));
    }
    let revocation = Revocation {
        user: user.as_str().into(),
        until: UnixTime(until),
    };
    // In a task of its own: a caller that goes away does not stop half way.
    let revoking = tokio::spawn(revoke(operator, revocation));
    revoking.await.map_err(|_| ControlError::Ending)?.map(Json)
}

async fn revoke(operator: Operator, revocation: Revocation) -> Result<Revoked, ControlError> {
    let workers = &operator.0.workers;
    let _writing = operator.0.revocations.writing.lock().await;
    let shared = Arc::clone(workers.shards.shared());
    shared
        .revoke(unix_now(), &revocation)
        .map_err(|_| ControlError::Full(TOO_MANY))?;
    // First, so that neither a kill nor a shutdown in between forgets whom the operator shut out.
    let kept = operator.0.revocations.write(&shared).await;
    let mut ended = 0;
    for shard in 0..workers.count() {
        let mut after = None;
        loop {
            let piece = workers
                .ask(shard, |answer| Question::EndRevoked(after, PIECE, answer))
                .await?;
            ended += piece.ended;
            after = piece.next;
            if after.is_none() {
                break;
            }
        }
    }
    let kept = kept?;
    let RevocationRecord { user, until } = record(revocation);
    tracing::info!(target: "relay::control::operator", user, until, ended, kept, "user revoked");
    Ok(Revoked {
        user,
        until,
        ended,
        kept,
    })
}

/// Takes a revocation back.
#[utoipa::path(
    delete,
    path = "/v1/revocations/{user}",
    operation_id = "undo_revocation",
    tag = "revocations",
    params(("user" = String, Path, description = "The user")),
    responses(
        (status = 204, description = "The user may log in again"),
        (status = 404, description = "It does not exist", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(operator): State<Operator>,
    Path(user): Path<String>,
) -> Result<StatusCode, ControlError> {
    let _writing = operator.0.revocations.writing.lock().await;
    let shared = operator.0.workers.shards.shared();
    if !shared.unrevoke(&user) {
        return Err(ControlError::NotFound("no such revocation"));
    }
    operator.0.revocations.write(shared).await?;
    tracing::info!(target: "relay::control::operator", user, "revocation taken back");
    Ok(StatusCode::NO_CONTENT)
}
