//! Servers behind the front door: what is passed on to them, and how much of it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::pace::BodyPace;
use super::places::BackendPlaces;
use super::routes::Routes;
use super::splice::SpliceEnd;
use super::upstream::{Forwarded, Upstream};
use crate::config::settings::{BackendAddress, FrontDoorSettings};
use crate::edge::backend_addresses::Backends;

/// All of them. By default there are none.
#[derive(Debug)]
pub struct Behind {
    pub(super) routes: Routes,
    pub(super) bounds: BackendBounds,
    upstream: Option<Arc<Upstream>>,
    pub(super) counters: Arc<BehindCounters>,
}

impl Default for Behind {
    fn default() -> Self {
        Self::new(&FrontDoorSettings::default())
    }
}

impl Behind {
    /// As configured.
    pub fn new(settings: &FrontDoorSettings) -> Self {
        Self::told(settings, &Backends::default())
    }

    /// As configured; where names of servers lead is told to `backends`.
    pub fn told(settings: &FrontDoorSettings, backends: &Backends) -> Self {
        let bounds = BackendBounds::new(settings);
        let counters = Arc::new(BehindCounters::default());
        let upstream = settings.http_upstream.clone().map(|address| {
            Arc::new(Upstream::new(
                Backend::new(address, backends),
                bounds.clone(),
                Arc::clone(&counters),
            ))
        });
        Self {
            routes: Routes::new(settings, backends),
            bounds,
            upstream,
            counters,
        }
    }

    /// Whatever HTTP is not ours, where there is a web server for it.
    pub fn http(&self) -> Option<axum::Router> {
        let upstream = Arc::clone(self.upstream.as_ref()?);
        let answer = move |request| {
            let upstream = Arc::clone(&upstream);
            async move { upstream.answer(request).await }
        };
        Some(axum::Router::new().fallback(answer))
    }

    /// HTTP may take as long as something moves: how long it may rest.
    pub(super) fn http_patience(&self) -> Option<Duration> {
        self.upstream.as_ref().map(|_| self.bounds.idle_timeout)
    }

    /// What the body of a request has to keep.
    pub(super) const fn pace(&self) -> BodyPace {
        self.bounds.pace
    }

    /// What became of what was passed on.
    pub fn counters(&self) -> &Arc<BehindCounters> {
        &self.counters
    }

    /// Connections and requests that are with a backend now.
    pub fn open(&self) -> usize {
        self.bounds.places.held()
    }

    /// Connections and requests that lost their place at a backend to a client with fewer.
    pub fn displaced(&self) -> u64 {
        self.bounds.places.displaced()
    }
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct BehindCounters {
    ends: [AtomicU64; SpliceEnd::ALL.len()],
    forwarded: [AtomicU64; Forwarded::ALL.len()],
}

impl BehindCounters {
    pub(super) fn count_end(&self, end: SpliceEnd) {
        self.ends[end as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_forwarded(&self, forwarded: Forwarded) {
        self.forwarded[forwarded.index()].fetch_add(1, Relaxed);
    }

    /// Spliced connections that ended so.
    pub fn ends(&self, end: SpliceEnd) -> u64 {
        self.ends[end as usize].load(Relaxed)
    }

    /// Requests for the web server that ended so.
    pub fn forwarded(&self, forwarded: Forwarded) -> u64 {
        self.forwarded[forwarded.index()].load(Relaxed)
    }
}

/// Bounds on what is passed on, shared by all backends.
#[derive(Clone, Debug)]
pub(super) struct BackendBounds {
    pub(super) places: BackendPlaces,
    /// For looking up the backend's name and connecting to it.
    pub(super) connect_timeout: Duration,
    /// For the first byte of an answer over HTTP.
    pub(super) answer_timeout: Duration,
    /// For the first bytes of both ends.
    pub(super) first_bytes_timeout: Duration,
    /// What the body of a request has to keep.
    pub(super) pace: BodyPace,
    /// A connection on which nothing moves is closed after this.
    pub(super) idle_timeout: Duration,
}

impl BackendBounds {
    pub(super) fn new(settings: &FrontDoorSettings) -> Self {
        Self {
            places: BackendPlaces::new(settings.connections),
            connect_timeout: settings.connect_timeout,
            answer_timeout: settings.answer_timeout,
            first_bytes_timeout: settings.first_bytes_timeout,
            pace: BodyPace::from(settings),
            idle_timeout: settings.idle_timeout,
        }
    }
}

/// One server.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) address: BackendAddress,
    pub(super) told: Backends,
}

impl Backend {
    pub(super) fn new(address: BackendAddress, told: &Backends) -> Self {
        Self {
            address,
            told: told.clone(),
        }
    }

    /// Connects to the first of its addresses that answers.
    pub(super) async fn connect(&self, bounds: &BackendBounds) -> Option<TcpStream> {
        let connecting = async {
            let found = self.told.look_up(&self.address).await?;
            TcpStream::connect(&found[..]).await
        };
        match timeout(bounds.connect_timeout, connecting).await {
            Ok(Ok(socket)) => Some(socket),
            Ok(Err(error)) => {
                self.tell_failure(&error.to_string());
                None
            }
            Err(_) => {
                self.tell_failure("no answer in time");
                None
            }
        }
    }

    /// For the operator.
    pub(super) fn tell_failure(&self, error: &str) {
        tracing::warn!(
            backend = %self.address,
            error,
            "a backend of the front door cannot be reached, so its clients are turned away; is it running there?"
        );
    }
}
