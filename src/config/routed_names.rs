//! Which server names the front door leads to other servers, and which of ours it would hide by that.

use core::fmt;
use std::collections::HashMap;

use super::settings::FrontDoorSettings;
use crate::machine::certificate::CertificateInfo;

/// Server names that are somebody else's, each with the place of its route in the configuration.
#[derive(Debug)]
pub struct RoutedNames {
    names: HashMap<String, usize>,
    /// `*.example.org`, without the `*.`.
    below: HashMap<String, usize>,
    /// Ours whatever a wildcard says.
    own: Vec<String>,
}

impl RoutedNames {
    /// The names of every route.
    pub fn new(settings: &FrontDoorSettings) -> Self {
        let (mut names, mut below) = (HashMap::new(), HashMap::new());
        for (place, route) in settings.routes.iter().enumerate() {
            for name in &route.names {
                match name.strip_prefix("*.") {
                    Some(parent) => below.insert(parent.to_owned(), place),
                    None => names.insert(name.clone(), place),
                };
            }
        }
        Self {
            names,
            below,
            own: settings.own_names.clone(),
        }
    }

    /// The route of a name. As in certificates, a wildcard stands for exactly one label; a name goes before it.
    pub fn find(&self, name: &str) -> Option<usize> {
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
            .copied()
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
    let routes = RoutedNames::new(front_door);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixTime;
    use crate::config::settings::{BackendAddress, RouteSettings};

    #[test]
    fn names_lead_to_their_route_and_others_are_ours() {
        let route = |names: &[&str]| RouteSettings {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            backend: BackendAddress {
                host: "127.0.0.1".into(),
                port: 1,
            },
            proxy_header: false,
        };
        let front_door = FrontDoorSettings {
            routes: vec![
                route(&["www.example.org", "example.org"]),
                route(&["*.example.org"]),
                route(&["*.app.example.org"]),
            ],
            own_names: vec!["turn.example.org".to_owned()],
            ..FrontDoorSettings::default()
        };
        let routes = RoutedNames::new(&front_door);
        assert_eq!(routes.find("www.example.org"), Some(0));
        assert_eq!(routes.find("WWW.Example.ORG"), Some(0));
        assert_eq!(routes.find("example.org"), Some(0));
        assert_eq!(routes.find("any.example.org"), Some(1));
        assert_eq!(routes.find("a.app.example.org"), Some(2));
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
            assert_eq!(routes.find(name), None, "{name}");
        }
        let none = RoutedNames::new(&FrontDoorSettings::default());
        assert_eq!(none.find("www.example.org"), None);
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
