//! Connections for other servers, told by the name in their ClientHello and passed on still encrypted.

use core::fmt;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ConnectionOutcome;
use super::admission::Displacement;
use super::arrival::Arrival;
use super::behind::{Backend, BackendBounds, BehindCounters};
use super::places::BackendPlace;
use super::proxy::{self, Ends};
use super::splice::{Beginning, SpliceEnd, splice};
use crate::machine::certificate::CertificateInfo;
use crate::service::backends::Backends;
use crate::service::config::settings::{FrontDoorSettings, RouteSettings};

/// Server names that are somebody else's.
#[derive(Debug, Default)]
pub(super) struct Routes {
    names: HashMap<String, Arc<BackendRoute>>,
    /// `*.example.org`, without the `*.`.
    below: HashMap<String, Arc<BackendRoute>>,
    /// Ours whatever a wildcard says.
    own: Vec<String>,
}

/// Where the names of one route lead.
#[derive(Debug)]
pub(super) struct BackendRoute {
    backend: Backend,
    /// The backend is told the client's address.
    proxy_header: bool,
}

impl Routes {
    pub(super) fn new(settings: &[RouteSettings], own: &[String], backends: &Backends) -> Self {
        let mut routes = Self {
            own: own.to_vec(),
            ..Self::default()
        };
        for route in settings {
            let to = Arc::new(BackendRoute {
                backend: Backend::new(route.backend.clone(), backends),
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
    pub(super) fn find(&self, name: &str) -> Option<&Arc<BackendRoute>> {
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

    /// Whether no client that asks for this name of a certificate is ours.
    fn take_away(&self, name: &str) -> bool {
        let below = |parent: &str| {
            let mut own = self.own.iter().filter_map(|own| own.split_once('.'));
            own.any(|(_, of)| of.eq_ignore_ascii_case(parent))
        };
        // A wildcard goes only to the same one, and not as a whole where a name of ours is below it.
        self.find(name).is_some() && !name.strip_prefix("*.").is_some_and(below)
    }
}

/// Names of a certificate of ours that routes lead elsewhere, most likely by mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HiddenNames {
    /// All that it has: whoever asks for one of them is passed on.
    All(Vec<String>),
    /// One, which no route names: a wildcard takes it.
    ByWildcard(String),
}

/// What `front_door` hides of a certificate. That a route names what the certificate names as well is no mistake: one
/// certificate often serves a web site and its relay.
pub fn hidden(front_door: &FrontDoorSettings, certificate: &CertificateInfo) -> Vec<HiddenNames> {
    let routes = Routes::new(&front_door.routes, &front_door.own_names, &Backends::default());
    let names = &certificate.names;
    if !names.is_empty() && names.iter().all(|name| routes.take_away(name)) {
        return vec![HiddenNames::All(names.clone())];
    }
    let by_wildcard = |name: &&String| {
        let named = name.starts_with("*.") || routes.names.contains_key(&name.to_ascii_lowercase());
        !named && routes.take_away(name)
    };
    let names = names.iter().filter(by_wildcard);
    names.cloned().map(HiddenNames::ByWildcard).collect()
}

impl fmt::Display for HiddenNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(names) => write!(
                f,
                "`front_door.route` leads every name of a certificate of this server elsewhere: {}. Leave one to \
                 its clients: take it out of `front_door.route.names`, or write it as `api.host`, which goes before wildcards",
                names.join(", ")
            ),
            Self::ByWildcard(name) => write!(
                f,
                "a wildcard in `front_door.route.names` leads {name} elsewhere, which is in a certificate of this server. \
                 Write {name} there as well if that is meant, else names instead of the wildcard"
            ),
        }
    }
}

/// A connection with its backend: everything that is needed to go on.
pub(super) struct Routed {
    client: TcpStream,
    backend: TcpStream,
    _place: BackendPlace,
}

impl BackendRoute {
    /// Connects to the backend and gives it what the client has sent so far.
    pub(super) async fn take(
        &self,
        arrival: Arrival,
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
        first.extend(arrival.read);
        super::connection::prepare(&backend);
        match timeout(bounds.connect_timeout, backend.write_all(&first)).await {
            Ok(Ok(())) => Ok(Routed {
                client: arrival.socket,
                backend,
                _place: place,
            }),
            Ok(Err(_)) | Err(_) => Err(ConnectionOutcome::BackendDown),
        }
    }
}

impl Routed {
    /// Carries bytes both ways until it ends.
    pub(super) async fn carry(
        mut self,
        bounds: &BackendBounds,
        counters: &BehindCounters,
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
                // Closed with a reset. It fails only where the connection is gone already.
                let _ = socket.set_zero_linger();
            }
        }
        counters.count_end(spliced.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixTime;
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
        let routes = Routes::new(&all, &["turn.example.org".to_owned()], &Backends::default());
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
        assert!(
            Routes::new(&[], &[], &Backends::default())
                .find("www.example.org")
                .is_none()
        );
    }

    #[test]
    fn a_certificate_whose_names_lead_elsewhere_is_told_of_and_one_that_is_shared_is_not() {
        let front_door = |routed: &[&str], own: &[&str]| FrontDoorSettings {
            routes: vec![RouteSettings {
                names: routed.iter().map(|&name| name.to_owned()).collect(),
                backend: BackendAddress {
                    host: "127.0.0.1".into(),
                    port: 1,
                },
                proxy_header: false,
            }],
            own_names: own.iter().map(|&name| name.to_owned()).collect(),
            ..FrontDoorSettings::default()
        };
        let told = |routed: &[&str], own: &[&str], names: &[&str]| {
            let certificate = CertificateInfo {
                names: names.iter().map(|&name| name.to_owned()).collect(),
                not_before: UnixTime(0),
                not_after: UnixTime(0),
                fingerprint: String::new(),
                self_signed: false,
            };
            hidden(&front_door(routed, own), &certificate)
        };
        let all = |names: &[&str]| vec![HiddenNames::All(names.iter().map(|&name| name.to_owned()).collect())];
        let (www, turn, any) = ("www.example.org", "turn.example.org", "*.example.org");

        assert_eq!(told(&[www], &[], &[www]), all(&[www]));
        assert_eq!(told(&[www], &[], &["WWW.example.org"]), all(&["WWW.example.org"]));
        assert_eq!(told(&[any], &[], &[www, turn]), all(&[www, turn]));
        assert_eq!(told(&[any], &[], &[any]), all(&[any]));
        let by_wildcard = |name: &str| vec![HiddenNames::ByWildcard(name.into())];
        assert_eq!(told(&[any], &[turn], &[www, turn]), by_wildcard(www));
        assert_eq!(told(&[any], &[], &["example.org", turn]), by_wildcard(turn));

        // One certificate for the web site and the relay.
        assert_eq!(told(&[www], &[], &[www, turn]), []);
        assert_eq!(told(&[www], &[], &[any]), []);
        assert_eq!(told(&[any, www], &[turn], &[www, turn]), []);
        assert_eq!(told(&[any], &[turn], &[any]), []);
        assert_eq!(told(&[any], &[], &["example.org", any]), []);
        // Clients that come by an address send no name.
        assert_eq!(told(&[www], &[], &[www, "192.0.2.1"]), []);
        assert_eq!(told(&[www], &[], &[]), []);
    }
}
