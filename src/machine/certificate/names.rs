//! Checks whether the certificates contain the names that clients connect to.

use core::fmt;
use std::net::IpAddr;

use super::CertificateInfo;

/// A host in a URI with TLS that is not in the certificate a client receives there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unnamed {
    /// The host, as in the URI.
    pub host: String,
    /// The names in that certificate.
    pub names: Vec<String>,
}

impl fmt::Display for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, names } = self;
        let names = if names.is_empty() {
            "no name".to_owned()
        } else {
            names.join(", ")
        };
        write!(
            f,
            "clients are sent to {host} with TLS, and the certificate there is for {names}: they refuse it. "
        )?;
        if host.parse::<IpAddr>().is_ok() {
            f.write_str("Set `api.host` or `realm` to a name the certificate has")
        } else {
            f.write_str("Ask for a certificate that has this name too, or set `api.host` to one it has")
        }
    }
}

/// The hosts in `uris` for which clients refuse `certificates`. A client receives the first
/// certificate when its host is in none, or when it names no host, as it does when it connects to
/// an address. A self-signed certificate is left out: clients refuse it anyway.
pub fn unnamed<'a>(uris: impl IntoIterator<Item = &'a str>, certificates: &[&CertificateInfo]) -> Vec<Unnamed> {
    let Some(first) = certificates.first() else {
        return Vec::new();
    };
    let mut found: Vec<Unnamed> = Vec::new();
    for host in uris.into_iter().filter_map(tls_host) {
        let candidates = if host.parse::<IpAddr>().is_ok() {
            &certificates[..1]
        } else {
            certificates
        };
        let named = candidates
            .iter()
            .any(|certificate| certificate.self_signed || covers(&certificate.names, host));
        if !named && !found.iter().any(|unnamed| unnamed.host == host) {
            found.push(Unnamed {
                host: host.to_owned(),
                names: first.names.clone(),
            });
        }
    }
    found
}

/// The host against which a client with this URI checks the certificate.
fn tls_host(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("turns:").or_else(|| uri.strip_prefix("stuns:"))?;
    match rest.strip_prefix('[') {
        Some(ip) => ip.split(']').next(),
        None => rest.split([':', '?']).next(),
    }
}

/// Whether a certificate for `names` covers `host`. A wildcard matches one label, the leftmost (RFC
/// 9525 §6.3).
fn covers(names: &[String], host: &str) -> bool {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return names.iter().any(|name| name.parse() == Ok(ip));
    }
    let host = host.trim_end_matches('.');
    let parent = host.split_once('.').map(|(_, parent)| parent);
    names.iter().any(|name| match name.strip_prefix("*.") {
        Some(domain) => parent.is_some_and(|parent| parent.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixTime;

    fn certificate(names: &[&str]) -> CertificateInfo {
        CertificateInfo {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            not_before: UnixTime(0),
            not_after: UnixTime(1),
            fingerprint: String::new(),
            self_signed: false,
        }
    }

    fn refused(uri: &str, names: &[&str]) -> bool {
        !unnamed([uri], &[&certificate(names)]).is_empty()
    }

    #[test]
    fn names_wildcards_and_addresses_are_compared_as_clients_compare_them() {
        for (uri, names) in [
            ("turns:turn.example.org:443?transport=tcp", &["turn.example.org"][..]),
            ("turns:TURN.example.org:443", &["turn.Example.org"]),
            ("turns:turn.example.org", &["*.example.org"]),
            ("turns:203.0.113.5:443", &["203.0.113.5"]),
            ("turns:[2001:db8::5]:443", &["2001:db8::5"]),
            ("turn:other.example.org:3478", &["turn.example.org"]),
        ] {
            assert!(!refused(uri, names), "{uri} {names:?}");
        }
        for (uri, names) in [
            ("turns:turn.example.org:443", &["other.example.org"][..]),
            ("turns:turn.example.org:443", &["example.org"]),
            ("turns:a.turn.example.org:443", &["*.example.org"]),
            ("turns:example.org:443", &["*.example.org"]),
            ("turns:203.0.113.5:443", &["turn.example.org", "203.0.113.6"]),
            ("turns:turn.example.org:443", &[]),
            ("stuns:turn.example.org:443", &["203.0.113.5"]),
        ] {
            assert!(refused(uri, names), "{uri} {names:?}");
        }
    }

    #[test]
    fn any_certificate_serves_a_name_and_the_first_alone_an_address() {
        let (first, second) = (certificate(&["a.test"]), certificate(&["b.test", "203.0.113.5"]));
        let uris = [
            "turns:b.test:443",
            "turns:203.0.113.5:443",
            "turns:c.test:443",
            "turns:c.test:443",
        ];
        let hosts: Vec<_> = unnamed(uris, &[&first, &second])
            .into_iter()
            .map(|unnamed| unnamed.host)
            .collect();
        assert_eq!(hosts, ["203.0.113.5", "c.test"]);
    }
}
