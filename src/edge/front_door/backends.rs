//! The servers behind the front door, and the limits of forwarding to them.

use core::time::Duration;
use std::sync::Arc;

use super::backend::{Backend, BackendBounds, BackendCounters};
use super::pace::BodyPace;
use super::routes::Routes;
use super::upstream::Upstream;
use crate::config::settings::FrontDoorSettings;
use crate::edge::backend_addresses::BackendAddresses;

/// All configured backends. By default there are none.
#[derive(Debug)]
pub struct Backends {
    pub(super) routes: Routes,
    pub(super) bounds: BackendBounds,
    upstream: Option<Arc<Upstream>>,
    pub(super) counters: Arc<BackendCounters>,
}

impl Default for Backends {
    fn default() -> Self {
        Self::new(&FrontDoorSettings::default())
    }
}

impl Backends {
    /// As configured.
    pub fn new(settings: &FrontDoorSettings) -> Self {
        Self::with_addresses(settings, &BackendAddresses::default())
    }

    /// As configured. `addresses` registers the addresses of the servers' names.
    pub fn with_addresses(settings: &FrontDoorSettings, addresses: &BackendAddresses) -> Self {
        let bounds = BackendBounds::new(settings);
        let counters = Arc::new(BackendCounters::default());
        let upstream = settings.http_upstream.clone().map(|address| {
            Arc::new(Upstream::new(
                Backend::new(address, addresses),
                bounds.clone(),
                Arc::clone(&counters),
            ))
        });
        Self {
            routes: Routes::new(settings, addresses),
            bounds,
            upstream,
            counters,
        }
    }

    /// The router for HTTP that is not the API's, if there is a web server.
    pub fn http(&self) -> Option<axum::Router> {
        let upstream = Arc::clone(self.upstream.as_ref()?);
        let answer = move |request| {
            let upstream = Arc::clone(&upstream);
            async move { upstream.answer(request).await }
        };
        Some(axum::Router::new().fallback(answer))
    }

    /// Idle limit for proxied HTTP.
    pub(super) fn http_patience(&self) -> Option<Duration> {
        self.upstream.as_ref().map(|_| self.bounds.idle_timeout)
    }

    /// The required pace of a request's body.
    pub(super) const fn pace(&self) -> BodyPace {
        self.bounds.pace
    }

    /// The outcome of forwarding.
    pub fn counters(&self) -> &Arc<BackendCounters> {
        &self.counters
    }

    /// Connections and requests at a backend now.
    pub fn open(&self) -> usize {
        self.bounds.places.held()
    }

    /// Connections and requests that lost their place at a backend to a client with fewer.
    pub fn displaced(&self) -> u64 {
        self.bounds.places.displaced()
    }
}
