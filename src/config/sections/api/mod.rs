//! `[api]`.

mod origin;

use core::time::Duration;

use super::secret::{SecretOrFile, api_key, secret_or_file};
use super::{DAY, MINUTE};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Placed, is_host_name};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

pub(in crate::config) struct RawApi {
    pub(in crate::config) enabled: Located<bool>,
    pub(in crate::config) host: Located<Auto<String>>,
    pub(in crate::config) uris: Located<Auto<Vec<Placed<String>>>>,
    pub(in crate::config) relay_only: Located<bool>,
    pub(in crate::config) open: Located<bool>,
    pub(in crate::config) query_key: Located<bool>,
    pub(in crate::config) cors_origins: Located<Vec<Placed<String>>>,
    pub(in crate::config) default_ttl: Located<Duration>,
    pub(in crate::config) max_ttl: Located<Duration>,
    pub(in crate::config) mints_per_minute_per_key: Located<u32>,
    pub(in crate::config) mints_per_minute_per_ip: Located<u32>,
    pub(in crate::config) mints_per_minute_per_network: Located<Auto<u32>>,
    pub(in crate::config) keys: Located<Vec<RawKey>>,
}

pub(in crate::config) struct RawKey {
    pub(in crate::config) name: Located<String>,
    /// `None`: missing or wrong, and reported.
    pub(in crate::config) key: Option<SecretOrFile>,
    pub(in crate::config) choose_username: Located<bool>,
    pub(in crate::config) forced: Located<bool>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawApi {
    RawApi {
        enabled: s.value("enabled", true),
        host: s.value("host", Auto::Auto),
        uris: s.value("uris", Auto::Auto),
        relay_only: s.value("relay_only", false),
        open: s.value("open", false),
        query_key: s.value("query_key", false),
        cors_origins: s.value("cors_origins", Vec::new()),
        default_ttl: s.within("default_ttl", DAY, MINUTE..=365 * DAY),
        max_ttl: s.within("max_ttl", DAY, MINUTE..=365 * DAY),
        mints_per_minute_per_key: s.number("mints_per_minute_per_key", 600, 0..=1_000_000),
        mints_per_minute_per_ip: s.number("mints_per_minute_per_ip", 600, 0..=1_000_000),
        mints_per_minute_per_network: s.auto_number("mints_per_minute_per_network", 0..=16_000_000),
        keys: s.tables("keys", Vec::new(), |key, place| {
            let name = key.required("name", "\"app\"", place);
            let secret = secret_or_file(key, "key", "key_file", place);
            let choose_username = key.value("choose_username", false);
            let forced = key.value("forced", false);
            Some(RawKey {
                name: name?,
                key: secret,
                choose_username,
                forced,
            })
        }),
    }
}

/// Reports what is wrong with keys, origins, URIs and the host.
pub(in crate::config) fn check(api: &RawApi, d: &mut Diagnostics) {
    keys(api, d);
    origin::check(api, d);
    uris(api, d);
    if let Auto::Given(host) = &api.host.value
        && !is_host_name(host)
        && host.parse::<IpAddr>().is_err()
    {
        let message = format!("`api.host`: {host:?} is neither a host name nor an IP address");
        d.push(
            Diagnostic::error(message)
                .at(api.host.place)
                .help("write the name alone: no scheme, no port, no brackets"),
        );
    }
}

fn keys(api: &RawApi, d: &mut Diagnostics) {
    let mut seen = HashMap::new();
    for key in &api.keys.value {
        let name = &key.name;
        if name.value.is_empty() || name.value.chars().any(char::is_control) {
            let diagnostic = Diagnostic::error("a key's name is empty or holds a control character").at(name.place);
            d.push(diagnostic.help("the name stands in the log: say who uses the key"));
        }
        match seen.entry(name.value.as_str()) {
            Entry::Vacant(vacant) => drop(vacant.insert(name.place)),
            Entry::Occupied(first) => {
                let message = format!("there are two API keys named {:?}", name.value);
                let diagnostic = Diagnostic::error(message)
                    .at(name.place)
                    .also(*first.get(), "the first");
                d.push(diagnostic.help("give each key a name of its own"));
            }
        }
        if let Some(SecretOrFile::Text(text)) = &key.key {
            api_key(text.value.0.as_bytes(), &name.value, text.place, d);
        }
    }
    if api.open.value && !api.keys.value.is_empty() {
        let diagnostic =
            Diagnostic::error("`api.open` lets everybody mint, so the keys protect nothing").at(api.open.place);
        d.push(
            diagnostic
                .also(api.keys.place, "the keys")
                .help("set `open = false`, or remove the keys"),
        );
    } else if api.open.value && api.enabled.value {
        let diagnostic =
            Diagnostic::warning("`api.open`: everybody can have credentials, and relay through this server");
        d.push(diagnostic.at(api.open.place).help("for a public test server only"));
        if api.mints_per_minute_per_ip.value > 60 || api.mints_per_minute_per_ip.value == 0 {
            let place = api.mints_per_minute_per_ip.place.or(api.open.place);
            let diagnostic = Diagnostic::warning("anybody may mint more than 60 credentials a minute").at(place);
            d.push(diagnostic.help("set `mints_per_minute_per_ip = 10`"));
        }
    }
    if api.query_key.value {
        let diagnostic =
            Diagnostic::warning("`api.query_key`: keys in a query string end up in the logs of every proxy");
        d.push(
            diagnostic
                .at(api.query_key.place)
                .help("send `Authorization: Bearer KEY` where the client can"),
        );
    }
}

fn uris(api: &RawApi, d: &mut Diagnostics) {
    let Auto::Given(uris) = &api.uris.value else { return };
    for uri in uris {
        if let Err(help) = check_uri(&uri.value) {
            let diagnostic = Diagnostic::error(format!("`api.uris`: {:?} is not a TURN or STUN URI", uri.value));
            d.push(diagnostic.at(uri.place).help(help));
        }
    }
    let relays = |uri: &str| uri.starts_with("turn:") || uri.starts_with("turns:");
    let is_stun = |uri: &str| uri.starts_with("stun:") || uri.starts_with("stuns:");
    if uris.iter().any(|uri| is_stun(&uri.value)) && !uris.iter().any(|uri| relays(&uri.value)) {
        let message = "`api.uris` has no TURN URI: clients learn their address here, and relay nothing";
        let help = "add one, for example \"turns:turn.example.org:443?transport=tcp\", or write \"auto\"";
        d.push(Diagnostic::warning(message).at(api.uris.place).help(help));
    }
    if uris.is_empty() {
        let diagnostic = Diagnostic::error("`api.uris` is empty: clients would be told no server").at(api.uris.place);
        d.push(diagnostic.help("write \"auto\" to have the URIs made from the listeners"));
    }
}

/// RFC 7064 and RFC 7065: `scheme:host[:port][?transport=…]`.
fn check_uri(uri: &str) -> Result<(), String> {
    let example = "for example \"turns:turn.example.org:443?transport=tcp\"".to_owned();
    let (scheme, rest) = uri.split_once(':').ok_or_else(|| example.clone())?;
    if !["turn", "turns", "stun", "stuns"].contains(&scheme) {
        return Err(example);
    }
    if let Some(bare) = rest.strip_prefix("//") {
        return Err(format!("without slashes: \"{scheme}:{bare}\""));
    }
    let (address, query) = rest
        .split_once('?')
        .map_or((rest, None), |(address, query)| (address, Some(query)));
    match (scheme, query) {
        ("turn" | "turns", Some("transport=udp" | "transport=tcp")) => {}
        ("stun" | "stuns", Some(_)) => return Err(format!("a {scheme} URI has no query: \"{scheme}:{address}\"")),
        (_, Some(_)) => return Err("behind the `?` stands `transport=udp` or `transport=tcp`".into()),
        (_, None) => {}
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !address.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good_host = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host) || host.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    if good_host && good_port { Ok(()) } else { Err(example) }
}
