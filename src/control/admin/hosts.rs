//! Checks the Host of a request against DNS rebinding. The owner of a web page can point a name at
//! this machine, and a browser that opens the page would read this listener for it. The browser
//! sends that name in Host.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header;
use axum::http::uri::Authority;

use crate::control::http_server::ReachedAt;

/// Allowed names and addresses besides those of loopback.
#[derive(Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
}

impl Hosts {
    /// `names` are in lower case.
    pub(super) const fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    /// Whether the request has a host, and every host in it is allowed.
    pub(super) fn know(&self, request: &Request) -> bool {
        let reached = request.extensions().get::<ReachedAt>().map(|at| at.0);
        let in_target = request.uri().authority().cloned();
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let Ok(host) = Authority::try_from(host.as_bytes()) else {
            return false;
        };
        let mut all = in_target.into_iter().chain([host]);
        all.all(|authority| !authority.as_str().contains('@') && self.knows(authority.host(), reached))
    }

    fn knows(&self, host: &str, reached: Option<IpAddr>) -> bool {
        let host = host.to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(&host).parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return ip.is_loopback() || reached == Some(ip) || self.names.iter().any(|name| name.parse() == Ok(ip));
        }
        let name = host.strip_suffix('.').unwrap_or(&host);
        name == "localhost" || self.names.iter().any(|known| known == name)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn know(target: &str, hosts: &[&str]) -> bool {
        let known = Hosts::new(vec!["relay.internal".into(), "192.0.2.9".into(), "2001:db8::9".into()]);
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        let mut request = request.body(Body::empty()).expect("request");
        let reached: IpAddr = "198.51.100.7".parse().expect("address");
        request.extensions_mut().insert(ReachedAt(reached));
        known.know(&request)
    }

    #[test]
    fn loopback_the_address_it_came_to_and_configured_names_are_known_and_nobody_else_is() {
        for host in [
            "localhost",
            "LocalHost:13478",
            "localhost.",
            "127.0.0.1:13478",
            "127.9.9.9",
            "[::1]:13478",
            "[::ffff:127.0.0.1]",
            "198.51.100.7:13478",
            "Relay.Internal:80",
            "192.0.2.9",
            "[2001:db8::9]",
            "[2001:DB8:0::9]:1",
        ] {
            assert!(know("/metrics", &[host]), "{host}");
            assert!(know(&format!("http://{host}/metrics"), &["localhost"]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:13478",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "xlocalhost",
            "relay.internal.evil.example",
            "198.51.100.8",
            "[2001:db8::8]",
            "2130706433.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost, evil.example",
            "",
        ] {
            assert!(!know("/metrics", &[host]), "{host}");
        }
        assert!(!know("http://evil.example/metrics", &["localhost"]));
        assert!(!know("http://localhost/metrics", &["evil.example"]));
        assert!(!know("/metrics", &["localhost", "localhost"]));
        assert!(!know("/metrics", &[]));
        assert!(!know("http://localhost/metrics", &[]));
    }
}
