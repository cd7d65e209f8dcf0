//! Decides which headers of a request reach the web server. Servers trust the proxy in front of
//! them for the client's identity and for what it requested, so the relay sets those headers itself
//! and removes all others of that kind.

use std::net::IpAddr;

use hyper::Uri;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;

/// Headers for one connection only (RFC 9110 §7.6.1).
const ONE_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Headers that the relay answers itself, or that announce what it does not forward.
const NOT_PASSED: [HeaderName; 2] = [header::EXPECT, header::TRAILER];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Prefixes of headers that only a proxy in front may set: addresses, logins and certificates it
/// has checked, the requested URL, files to send.
const CLAIMS_BEGIN: [&str; 34] = [
    "forwarded",
    "x-forwarded",
    "x-original",
    "x-originating",
    "x-rewrite",
    "x-real-",
    "x-remote",
    "remote-",
    "x-proxy",
    "proxy",
    "cf-",
    "true-client",
    "x-true-client",
    "client-cert",
    "x-client-cert",
    "x-client-dn",
    "x-client-verif",
    "ssl-client",
    "x-ssl",
    "x-tls",
    "x-auth-request",
    "x-authenticated",
    "x-authentik",
    "x-pomerium",
    "x-vouch",
    "x-webauth",
    "x-amzn-oidc",
    "x-appengine",
    "x-ms-client-principal",
    "x-goog-authenticated",
    "x-goog-iap",
    "x-envoy",
    "x-accel",
    "x-sendfile",
];
/// Suffixes of such headers. Every header with one of these names an address.
const CLAIMS_END: [&str; 8] = [
    "-ip", "-ips", "-ipv4", "-ipv6", "-addr", "-address", "clientip", "socketip",
];
/// The other ones.
const CLAIMS: [&str; 20] = [
    "via",
    "x-via",
    "x-host",
    "x-http-host",
    "x-http-host-override",
    "x-host-override",
    "x-override-url",
    "x-override-uri",
    "x-http-url-override",
    "x-http-path-override",
    "x-http-destinationurl",
    "x-request-uri",
    "x-scheme",
    "x-url-scheme",
    "x-arr-ssl",
    "x-arr-clientcert",
    "x-amzn-mtls-clientcert",
    "x-https",
    "front-end-https",
    "x-wap-msisdn",
];

/// Keeps the headers that the web server may see, and adds the client's address.
pub(super) fn rewrite(headers: &mut HeaderMap, client: IpAddr, host: &HeaderValue) -> Option<()> {
    drop_one_hop(headers);
    for name in NOT_PASSED {
        headers.remove(name);
    }
    let claims: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    let client = HeaderValue::from_str(&client.to_string()).ok()?;
    headers.insert(FORWARDED_FOR, client);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(FORWARDED_HOST, host.clone());
    headers.insert(header::HOST, host.clone());
    Some(())
}

/// Removes headers for this connection only, by their kind or because `Connection` names them.
pub(super) fn drop_one_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .collect();
    for name in named.iter().chain(&ONE_HOP) {
        headers.remove(name);
    }
}

/// `name` is in lower case. Many servers treat all characters but letters and digits alike
/// (`HTTP_X_FORWARDED_FOR`), so characters other than hyphens count as hyphens.
fn is_claim(name: &str) -> bool {
    name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-')
        || CLAIMS_BEGIN.iter().any(|begin| name.starts_with(begin))
        || CLAIMS_END.iter().any(|end| name.ends_with(end))
        || CLAIMS.contains(&name)
}

/// The host of a request: its one Host header, or the name in the URI, which has precedence (RFC
/// 9112 §3.2.2).
pub(super) fn host(uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return None;
    };
    let host = match uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok()?,
        None => host.clone(),
    };
    let authority = Authority::try_from(host.as_bytes()).ok()?;
    // A host must have no user information (RFC 9110 §4.2.4).
    let is_plain = !authority.host().is_empty() && !authority.as_str().contains('@');
    is_plain.then_some(host)
}

/// Whether a client requests WebSocket, and no other upgrade.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
        && tokens(headers, &header::UPGRADE).eq([b"websocket"])
}

/// Sets the headers that request or accept WebSocket.
pub(super) fn upgrade_to_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// The comma-separated values of all headers with this name.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    //= XPORT-20
    #[test]
    fn what_only_a_proxy_may_say_is_a_claim_and_what_clients_say_is_not() {
        for name in [
            "forwarded",
            "x-forwarded",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-client-cert",
            "x_forwarded_for",
            "x.forwarded.for",
            "x-real-ip",
            "x-client-ip",
            "client-ip",
            "true-client-ip",
            "cf-connecting-ip",
            "cf-connecting-ipv6",
            "fastly-client-ip",
            "x-cluster-client-ip",
            "x-remote-addr",
            "remote-user",
            "x-azure-socketip",
            "x-original-url",
            "x-original-host",
            "x-rewrite-url",
            "x-host",
            "x-http-host-override",
            "x-auth-request-email",
            "x-ssl-client-verify",
            "client-cert-chain",
            "x-accel-mapping",
            "proxy",
            "proxy-host",
            "via",
            "x-scheme",
        ] {
            assert!(is_claim(name), "{name}");
        }
        for name in [
            "host",
            "accept",
            "accept-encoding",
            "authorization",
            "cookie",
            "content-type",
            "origin",
            "referer",
            "user-agent",
            "range",
            "x-requested-with",
            "x-csrf-token",
            "x-request-id",
            "x-client-info",
            "x-client-data",
            "x-http-method-override",
            "x-goog-upload-offset",
            "x-ms-blob-type",
            "x-api-key",
            "x-zip",
            "sec-websocket-key",
            "traceparent",
            "upload-offset",
            "destination",
        ] {
            assert!(!is_claim(name), "{name}");
        }
    }

    #[test]
    fn a_host_is_one_name_or_address_and_a_port() {
        let asked = |uri: &'static str, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in hosts {
                headers.append(header::HOST, HeaderValue::from_static(value));
            }
            host(&Uri::from_static(uri), &headers).map(|host| host.to_str().unwrap().to_owned())
        };
        for (uri, hosts, expected) in [
            ("/", &["x.example"][..], Some("x.example")),
            ("/", &["x.example:8443"], Some("x.example:8443")),
            ("/", &["[2001:db8::1]:443"], Some("[2001:db8::1]:443")),
            ("http://y.example/p", &["x.example"], Some("y.example")),
            ("/", &[], None),
            ("/", &[""], None),
            ("/", &["x", "x"], None),
            ("/", &["a@x.example"], None),
            ("/", &["x.example, y.example"], None),
            ("/", &["x.example/y"], None),
            ("/", &["x.example?y"], None),
            ("http://a:b@y.example/p", &["x.example"], None),
        ] {
            assert_eq!(asked(uri, hosts).as_deref(), expected, "{uri} {hosts:?}");
        }
    }
}
