//! Connections for other servers, told by the name in their ClientHello and passed on still encrypted.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::Outcome;
use super::accept::stopped;
use super::arrival::Arrival;
use super::behind::{Backend, BehindCounters, Bounds};
use super::proxy::{self, Ends};
use super::splice::splice;
use crate::service::config::settings::RouteSettings;

/// Server names that are somebody else's.
#[derive(Debug, Default)]
pub(super) struct Routes {
    names: HashMap<String, Arc<Route>>,
    /// `*.example.org`, without the `*.`.
    below: HashMap<String, Arc<Route>>,
    /// Ours whatever a wildcard says.
    own: Vec<String>,
}

/// Where the names of one route lead.
#[derive(Debug)]
pub(super) struct Route {
    backend: Backend,
    /// The backend is told the client's address.
    proxy_header: bool,
}

impl Routes {
    pub(super) fn new(settings: &[RouteSettings], own: &[String]) -> Self {
        let mut routes = Self {
            own: own.to_vec(),
            ..Self::default()
        };
        for route in settings {
            let to = Arc::new(Route {
                backend: Backend::new(route.backend.clone()),
                proxy_header: route.proxy_header,
            });
            for name in &route.names {
                match name.strip_prefix("*.") {
                    Some(parent) => routes.below.insert(parent.to_owned(), Arc::clone(&to)),
                    None => routes.names.insert(name.clone(), Arc::clone(&to)),
                };
            }
        }
        routes
    }

    /// The route of a name. As in certificates, a wildcard stands for exactly one label; a name goes before it.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<Route>> {
        if self.names.is_empty() && self.below.is_empty() {
            return None;
        }
        let name = name.to_ascii_lowercase();
        if self.own.contains(&name) {
            return None;
        }
        let parent = || name.split_once('.').map(|(_, parent)| parent);
        self.names
            .get(&name)
            .or_else(|| parent().and_then(|parent| self.below.get(parent)))
    }
}

/// A connection with its backend: everything that is needed to go on.
pub(super) struct Routed {
    client: TcpStream,
    backend: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Route {
    /// Connects to the backend and gives it what the client has sent so far.
    pub(super) async fn take(&self, arrival: Arrival, ends: Ends, bounds: &Bounds) -> Result<Routed, Outcome> {
        let place = bounds.place().ok_or(Outcome::TooManyRouted)?;
        let mut backend = self.backend.connect(bounds).await.ok_or(Outcome::BackendDown)?;
        let mut first = Vec::new();
        if self.proxy_header {
            first = proxy::header(ends.client, ends.server);
        }
        first.extend(arrival.read);
        super::connection::prepare(&backend);
        match timeout(bounds.connect_timeout, backend.write_all(&first)).await {
            Ok(Ok(())) => Ok(Routed {
                client: arrival.socket,
                backend,
                _place: place,
            }),
            Ok(Err(_)) | Err(_) => Err(Outcome::BackendDown),
        }
    }
}

impl Routed {
    /// Carries bytes both ways until it ends.
    pub(super) async fn carry(self, bounds: &Bounds, counters: &BehindCounters, mut stop: watch::Receiver<bool>) {
        let end = splice(self.client, self.backend, bounds.idle_timeout, stopped(&mut stop)).await;
        counters.count_end(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::config::settings::BackendAddress;

    #[test]
    fn names_lead_to_their_route_and_others_are_ours() {
        let route = |names: &[&str], port| RouteSettings {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            backend: BackendAddress {
                host: "127.0.0.1".into(),
                port,
            },
            proxy_header: false,
        };
        let all = [
            route(&["www.example.org", "example.org"], 1),
            route(&["*.example.org"], 2),
            route(&["*.app.example.org"], 3),
        ];
        let routes = Routes::new(&all, &["turn.example.org".to_owned()]);
        let port = |name| routes.find(name).map(|route| route.backend.address.port);
        assert_eq!(port("www.example.org"), Some(1));
        assert_eq!(port("WWW.Example.ORG"), Some(1));
        assert_eq!(port("example.org"), Some(1));
        assert_eq!(port("any.example.org"), Some(2));
        assert_eq!(port("a.app.example.org"), Some(3));
        for name in [
            "turn.example.org",
            "TURN.example.org",
            "a.b.example.org",
            "org",
            "example.com",
            "",
            ".",
            "xexample.org",
        ] {
            assert_eq!(port(name), None, "{name}");
        }
        assert!(Routes::new(&[], &[]).find("www.example.org").is_none());
    }
}
