//! `/v1/sessions`: who relays, how much, and how an operator ends a session.

#![expect(unused_qualifications, reason = "what utoipa's macros write")]

use core::cmp::Reverse;
use core::str::FromStr;
use core::time::Duration;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Operator;
use super::ask::Workers;
use super::error::{ControlError, ErrorBody};
use crate::base::address::Transport;
use crate::base::time::Instant;
use crate::shard::question::{Question, SessionReport};
use crate::turn::SessionId;
use crate::turn::sessions::{SessionCursor, SessionFilter, SessionPage, SessionQuery, SessionSummary};
use crate::turn::types;

/// Sessions a worker examines in one turn: a fraction of a millisecond.
const PIECE: usize = 256;
/// Sessions in a response: the default, and the maximum.
const LIMIT: usize = 100;
const MOST: usize = 1000;
/// How long bytes are counted for a rate.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// The order, which decides which sessions are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sort {
    /// The oldest first, page by page.
    #[default]
    Age,
    /// The sessions with the most bytes relayed.
    Bytes,
    /// The sessions with the most bytes relayed within a second.
    Rate,
}

/// The query string of a listing.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// A static user's name, the userid of a time-limited username, or a whole username.
    user: Option<String>,
    /// The client's address is in this network.
    client: Option<String>,
    /// A live permission or channel has a peer in this network.
    peer: Option<String>,
    /// `udp`, `tcp`, `tls` or `dtls`.
    transport: Option<String>,
    /// `forced` or `other`.
    path: Option<String>,
    /// Order. Default: `age`.
    sort: Sort,
    /// Maximum of sessions in the response, 1000 at most. Default: 100.
    limit: Option<usize>,
    /// `next` of the previous response.
    cursor: Option<String>,
}

/// A listing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionList {
    sessions: Vec<SessionLine>,
    /// The `cursor` of the next page. `null`: there are no more.
    next: Option<String>,
}

/// One session, in brief.
#[derive(Debug, Serialize, ToSchema)]
struct SessionLine {
    /// 24 hexadecimal digits: the `id` in log lines.
    #[schema(value_type = String, example = "c140b3b39e0bb386dcb5971e")]
    id: SessionId,
    age_seconds: f64,
    user: String,
    username: String,
    client: String,
    server: String,
    transport: &'static str,
    path: &'static str,
    away: bool,
    relayed: Vec<String>,
    expires_in_seconds: f64,
    permissions: usize,
    channels: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<usize>,
    up_packets: u64,
    up_bytes: u64,
    down_packets: u64,
    down_bytes: u64,
    /// Application data of both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    bits_per_second: Option<u64>,
}

impl SessionLine {
    fn of(now: Instant, session: &SessionSummary, bits_per_second: Option<u64>) -> Self {
        let five_tuple = &session.client;
        Self {
            id: session.id,
            age_seconds: (now - session.requested).as_secs_f64(),
            user: session.user.id().to_owned(),
            username: session.username.as_ref().to_owned(),
            client: five_tuple.client.to_string(),
            server: five_tuple.server.to_string(),
            transport: five_tuple.transport.as_str(),
            path: session.path.as_str(),
            away: session.away,
            relayed: session.relayed.iter().flatten().map(ToString::to_string).collect(),
            expires_in_seconds: (session.expires - now).as_secs_f64(),
            permissions: session.permissions,
            channels: session.channels,
            connections: session.connections,
            up_packets: session.traffic.up_packets,
            up_bytes: session.traffic.up_bytes,
            down_packets: session.traffic.down_packets,
            down_bytes: session.traffic.down_bytes,
            bits_per_second,
        }
    }
}

/// One session in full.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionInFull {
    #[serde(flatten)]
    line: SessionLine,
    /// Whether its client may move to another address (RFC 8016).
    mobile: bool,
    permitted_peers: Vec<PermittedPeer>,
    bound_channels: Vec<BoundChannel>,
    /// Absent: the client uses datagrams.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<StreamState>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PermittedPeer {
    peer: String,
    expires_in_seconds: f64,
}

#[derive(Debug, Serialize, ToSchema)]
struct BoundChannel {
    number: u16,
    peer: String,
    expires_in_seconds: f64,
}

#[derive(Debug, Serialize, ToSchema)]
struct StreamState {
    queued_bytes: usize,
    queue_age_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_ms: Option<f64>,
}

/// Lists sessions.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    operation_id = "list_sessions",
    tag = "sessions",
    params(ListParameters),
    responses(
        (status = 200, description = "A page, or the first sessions", body = SessionList),
        (status = 400, description = "The request is invalid", body = ErrorBody),
        (status = 503, description = "The server is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(operator): State<Operator>,
    Query(parameters): Query<ListParameters>,
) -> Result<Json<SessionList>, ControlError> {
    let workers = &operator.0.workers;
    let filter = Arc::new(filter(&parameters)?);
    let limit = parameters.limit.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(ControlError::BadRequest(format!("`limit` must be from 1 to {MOST}")));
    }
    let cursor = parameters.cursor.as_deref().map(parse_cursor).transpose()?;
    if parameters.sort != Sort::Age && cursor.is_some() {
        let text = "`cursor` needs a listing by age; listings by bytes or rate have one page";
        return Err(ControlError::BadRequest(text.to_owned()));
    }
    let (sessions, next) = match parameters.sort {
        Sort::Age => page(workers, &filter, cursor, limit).await?,
        Sort::Bytes => (most(workers, &filter, limit, total).await?, None),
        Sort::Rate => {
            let (sessions, bits) = fastest(workers, &filter, limit).await?;
            let now = workers.shards.clock().mono();
            let lines = sessions
                .iter()
                .map(|it| SessionLine::of(now, it, bits.get(&it.id).copied()));
            return Ok(Json(SessionList {
                sessions: lines.collect(),
                next: None,
            }));
        }
    };
    let now = workers.shards.clock().mono();
    Ok(Json(SessionList {
        sessions: sessions.iter().map(|it| SessionLine::of(now, it, None)).collect(),
        next: next.map(cursor_text),
    }))
}

/// Shows one session in full.
#[utoipa::path(
    get,
    path = "/v1/sessions/{id}",
    operation_id = "show_session",
    tag = "sessions",
    params(("id" = String, Path, description = "The session's id")),
    responses(
        (status = 200, description = "The session", body = SessionInFull),
        (status = 400, description = "The request is invalid", body = ErrorBody),
        (status = 404, description = "It does not exist", body = ErrorBody),
        (status = 503, description = "The server is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn one(
    State(operator): State<Operator>,
    Path(id): Path<String>,
) -> Result<Json<SessionInFull>, ControlError> {
    let id = parse_id(&id)?;
    let workers = &operator.0.workers;
    let found = workers.find(|answer| Question::Session(id, answer)).await?;
    let SessionReport { detail, stream } = found.ok_or(NO_SESSION)?;
    let now = workers.shards.clock().mono();
    Ok(Json(SessionInFull {
        line: SessionLine::of(now, &detail.summary, None),
        mobile: detail.mobile,
        permitted_peers: detail
            .permissions
            .iter()
            .map(|&(peer, until)| PermittedPeer {
                peer: peer.to_string(),
                expires_in_seconds: (until - now).as_secs_f64(),
            })
            .collect(),
        bound_channels: detail
            .channels
            .iter()
            .map(|&(number, peer, until)| BoundChannel {
                number,
                peer: peer.to_string(),
                expires_in_seconds: (until - now).as_secs_f64(),
            })
            .collect(),
        stream: stream.map(|stream| StreamState {
            queued_bytes: stream.queued_bytes,
            queue_age_ms: u64::try_from(stream.queue_age.as_millis()).unwrap_or(u64::MAX),
            round_trip_ms: stream.round_trip.map(|it| it.as_secs_f64() * 1e3),
        }),
    }))
}

/// Ends a session. When the response arrives, the session relays nothing more.
#[utoipa::path(
    delete,
    path = "/v1/sessions/{id}",
    operation_id = "end_session",
    tag = "sessions",
    params(("id" = String, Path, description = "The session's id")),
    responses(
        (status = 204, description = "The session has ended"),
        (status = 400, description = "The request is invalid", body = ErrorBody),
        (status = 404, description = "It does not exist", body = ErrorBody),
        (status = 503, description = "The server is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn end(State(operator): State<Operator>, Path(id): Path<String>) -> Result<StatusCode, ControlError> {
    let id = parse_id(&id)?;
    operator
        .0
        .workers
        .find(|answer| Question::End(id, answer))
        .await?
        .ok_or(NO_SESSION)?;
    tracing::info!(target: "relay::control::operator", %id, "session ended by an operator");
    Ok(StatusCode::NO_CONTENT)
}

const NO_SESSION: ControlError = ControlError::NotFound("no such session");

fn parse_id(text: &str) -> Result<SessionId, ControlError> {
    SessionId::from_str(text).map_err(|error| ControlError::BadRequest(error.to_string()))
}

fn filter(parameters: &ListParameters) -> Result<SessionFilter, ControlError> {
    let network = |name: &str, text: Option<&String>| {
        let parse = |text: &String| {
            text.parse::<IpNet>()
                .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        };
        let wrong =
            |_: std::net::AddrParseError| ControlError::BadRequest(format!("`{name}` must be an address or a network"));
        text.map(|text| parse(text).map_err(wrong)).transpose()
    };
    let transport = |text: &String| {
        Transport::ALL
            .into_iter()
            .find(|it| it.as_str() == text)
            .ok_or("udp, tcp, tls or dtls")
    };
    let path = |text: &String| {
        types::Path::ALL
            .into_iter()
            .find(|it| it.as_str() == text)
            .ok_or("forced or other")
    };
    Ok(SessionFilter {
        user: parameters.user.as_deref().map(Arc::from),
        client: network("client", parameters.client.as_ref())?,
        peer: network("peer", parameters.peer.as_ref())?,
        transport: one_of("transport", parameters.transport.as_ref().map(transport))?,
        path: one_of("path", parameters.path.as_ref().map(path))?,
    })
}

fn one_of<T>(name: &str, read: Option<Result<T, &'static str>>) -> Result<Option<T>, ControlError> {
    read.transpose()
        .map_err(|words| ControlError::BadRequest(format!("`{name}` is {words}")))
}

/// `NANOSECONDS-ID`: opaque to clients.
fn cursor_text(cursor: SessionCursor) -> String {
    format!("{}-{}", cursor.requested.as_nanos(), cursor.id)
}

fn parse_cursor(text: &str) -> Result<SessionCursor, ControlError> {
    let parse = || {
        let (nanos, id) = text.split_once('-')?;
        Some(SessionCursor {
            requested: Instant::from_nanos(nanos.parse().ok()?),
            id: id.parse().ok()?,
        })
    };
    parse().ok_or_else(|| ControlError::BadRequest("`cursor` must be `next` of an earlier response".to_owned()))
}

/// Some of one worker's sessions.
async fn piece(
    workers: &Workers,
    shard: usize,
    filter: &Arc<SessionFilter>,
    after: Option<SessionCursor>,
) -> Result<SessionPage, ControlError> {
    let query = SessionQuery {
        after,
        filter: Arc::clone(filter),
        examine: PIECE,
    };
    workers.ask(shard, |answer| Question::Sessions(query, answer)).await
}

/// The next `limit` sessions after `cursor`, and the cursor behind them.
async fn page(
    workers: &Workers,
    filter: &Arc<SessionFilter>,
    cursor: Option<SessionCursor>,
    limit: usize,
) -> Result<(Vec<SessionSummary>, Option<SessionCursor>), ControlError> {
    // This would miss a session that moves from a worker that has not answered to one that has.
    for _ in 0..3 {
        let moves = workers.moves();
        let page = page_once(workers, filter, cursor, limit).await?;
        if workers.moves() == moves {
            return Ok(page);
        }
    }
    page_once(workers, filter, cursor, limit).await
}

async fn page_once(
    workers: &Workers,
    filter: &Arc<SessionFilter>,
    cursor: Option<SessionCursor>,
    limit: usize,
) -> Result<(Vec<SessionSummary>, Option<SessionCursor>), ControlError> {
    let mut found = BTreeMap::new();
    for shard in 0..workers.count() {
        let (mut after, mut own) = (cursor, 0);
        // One more than fits shows that there are more.
        while own <= limit {
            let page = piece(workers, shard, filter, after).await?;
            own += page.sessions.len();
            found.extend(page.sessions.into_iter().map(|it| (it.cursor(), it)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    let more = found.len() > limit;
    let page: Vec<_> = found.into_values().take(limit).collect();
    let next = page.last().map(SessionSummary::cursor).filter(|_| more);
    Ok((page, next))
}

fn total(session: &SessionSummary) -> u64 {
    session.traffic.up_bytes + session.traffic.down_bytes
}

/// Calls the function for every session that passes the filter.
async fn each(
    workers: &Workers,
    filter: &Arc<SessionFilter>,
    mut look: impl FnMut(SessionSummary),
) -> Result<(), ControlError> {
    for shard in 0..workers.count() {
        let mut after = None;
        loop {
            let page = piece(workers, shard, filter, after).await?;
            page.sessions.into_iter().for_each(&mut look);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// The `limit` sessions with the highest value, in descending order. Uses memory for `limit`
/// sessions.
async fn most(
    workers: &Workers,
    filter: &Arc<SessionFilter>,
    limit: usize,
    mut of: impl FnMut(&SessionSummary) -> u64,
) -> Result<Vec<SessionSummary>, ControlError> {
    let mut best: BinaryHeap<Reverse<(u64, SessionId)>> = BinaryHeap::new();
    let mut held: HashMap<SessionId, SessionSummary> = HashMap::new();
    each(workers, filter, |session| {
        let rank = (of(&session), session.id);
        if held.contains_key(&session.id) || best.len() >= limit && best.peek().is_some_and(|least| rank <= least.0) {
            return;
        }
        best.push(Reverse(rank));
        held.insert(session.id, session);
        if best.len() > limit
            && let Some(Reverse((_, least))) = best.pop()
        {
            held.remove(&least);
        }
    })
    .await?;
    let ranked = best.into_sorted_vec().into_iter();
    Ok(ranked.filter_map(|Reverse((_, id))| held.remove(&id)).collect())
}

/// The `limit` sessions that relay the most within [`RATE_INTERVAL`], and their bits per second.
async fn fastest(
    workers: &Workers,
    filter: &Arc<SessionFilter>,
    limit: usize,
) -> Result<(Vec<SessionSummary>, HashMap<SessionId, u64>), ControlError> {
    let clock = workers.shards.clock();
    let mut before: HashMap<SessionId, (u64, Instant)> = HashMap::new();
    each(workers, filter, |session| {
        before.insert(session.id, (total(&session), clock.mono()));
    })
    .await?;
    tokio::time::sleep(RATE_INTERVAL).await;
    let rate = |session: &SessionSummary| {
        let (bytes, at) = before.get(&session.id).copied().unwrap_or((0, session.requested));
        let seconds = (clock.mono() - at).as_secs_f64().max(1e-3);
        (total(session).saturating_sub(bytes) as f64 * 8.0 / seconds) as u64
    };
    let mut bits = HashMap::new();
    let sessions = most(workers, filter, limit, |session| {
        let rate = rate(session);
        bits.insert(session.id, rate);
        rate
    })
    .await?;
    bits.retain(|id, _| sessions.iter().any(|it| it.id == *id));
    Ok((sessions, bits))
}
