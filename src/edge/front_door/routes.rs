//! Connections for other servers: chosen by the server name in the ClientHello, and forwarded still
//! encrypted.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ConnectionOutcome;
use super::admission::Displacement;
use super::backend::{Backend, BackendBounds, BackendCounters};
use super::places::BackendPlace;
use super::preface::Preface;
use super::proxy::{self, Ends};
use super::socket;
use super::splice::{Beginning, SpliceEnd, splice};
use crate::config::routed_names::RoutedNames;
use crate::config::settings::{FrontDoorSettings, RouteSettings};
use crate::edge::backend_addresses::BackendAddresses;

/// Backends by server name.
#[derive(Debug)]
pub(super) struct Routes {
    names: RoutedNames,
    /// In the order of the configuration.
    routes: Vec<Arc<BackendRoute>>,
}

/// The backend of one route.
#[derive(Debug)]
pub(super) struct BackendRoute {
    backend: Backend,
    /// Whether the backend gets a PROXY header with the client's address.
    proxy_header: bool,
}

impl Routes {
    pub(super) fn new(settings: &FrontDoorSettings, addresses: &BackendAddresses) -> Self {
        let route = |route: &RouteSettings| {
            Arc::new(BackendRoute {
                backend: Backend::new(route.backend.clone(), addresses),
                proxy_header: route.proxy_header,
            })
        };
        Self {
            names: RoutedNames::new(settings),
            routes: settings.routes.iter().map(route).collect(),
        }
    }

    /// The route of a name.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<BackendRoute>> {
        self.routes.get(self.names.find(name)?)
    }
}

/// A connection with its backend, ready to be spliced.
pub(super) struct Routed {
    client: TcpStream,
    backend: TcpStream,
    _place: BackendPlace,
}

impl BackendRoute {
    /// Connects to the backend and sends it what the client has sent so far.
    pub(super) async fn take(
        &self,
        preface: Preface,
        ends: Ends,
        bounds: &BackendBounds,
        displacement: Arc<Displacement>,
    ) -> Result<Routed, ConnectionOutcome> {
        let place = bounds.places.enter(ends.client.ip(), displacement);
        let place = place.ok_or(ConnectionOutcome::TooManyRouted)?;
        let mut backend = self
            .backend
            .connect(bounds)
            .await
            .ok_or(ConnectionOutcome::BackendDown)?;
        let mut first = Vec::new();
        if self.proxy_header {
            first = proxy::header(ends.client, ends.server);
        }
        first.extend(preface.read);
        socket::prepare(&backend);
        match timeout(bounds.connect_timeout, backend.write_all(&first)).await {
            Ok(Ok(())) => Ok(Routed {
                client: preface.socket,
                backend,
                _place: place,
            }),
            Ok(Err(_)) | Err(_) => Err(ConnectionOutcome::BackendDown),
        }
    }
}

impl Routed {
    /// Carries bytes in both directions until the connection ends.
    pub(super) async fn carry(
        mut self,
        bounds: &BackendBounds,
        counters: &BackendCounters,
        over: impl Future<Output = SpliceEnd>,
    ) {
        let spliced = splice(
            &mut self.client,
            &mut self.backend,
            bounds.idle_timeout,
            Beginning::Both(bounds.first_bytes_timeout),
            over,
        )
        .await;
        for (socket, cut) in [(&self.client, spliced.client_cut), (&self.backend, spliced.backend_cut)] {
            if cut {
                // Closes with a reset. It fails only if the connection is gone already.
                let _ = socket.set_zero_linger();
            }
        }
        counters.count_end(spliced.end);
    }
}
