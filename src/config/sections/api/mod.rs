//! `[api]`.

mod origin;

use core::time::Duration;

use super::secret::{SecretOrFile, api_key, secret_or_file};
use super::{DAY, MINUTE};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Placed, is_host_name};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

const ENABLED: ConfigKey = restart("enabled", "Serve the API that hands out credentials.");

const HOST: ConfigKey = live(
    "host",
    "Host in the URIs. Auto: the realm if it is a host name with a dot, else the external address.\n\n\
     Must be in the certificate.",
)
.kind("host name, address or `\"auto\"`");

const URIS: ConfigKey = live(
    "uris",
    "The URIs in a response. Auto: three, made from the listeners: UDP, TLS and TCP, each on 443 if a \
     listener serves it.\n\n\
     A browser allocates on every one of them, so more URIs cost more than they help. Set them if a port \
     is forwarded from another number, or for clients other than browsers that need another port or DTLS \
     (`\"turns:turn.example.org:443?transport=udp\"`, which browsers treat as TLS over TCP).",
);

const RELAY_ONLY: ConfigKey = live(
    "relay_only",
    "Adds `iceTransportPolicy: \"relay\"`, and lists first what passes firewalls.\n\n\
     This is a request to the browser; `[forced_relay]` is enforced.",
);

const OPEN: ConfigKey = live(
    "open",
    "Needs no key, and accepts pages of every origin.\n\n\
     For a [public test server](api.md#a-public-test-server); set `mints_per_minute_per_ip = 10` with it.",
);

const QUERY_KEY: ConfigKey = live(
    "query_key",
    "Accept `?key=` as in the TURN REST draft.\n\n\
     The key then appears in logs; some clients (Janus) support nothing else.",
);

const CORS_ORIGINS: ConfigKey = live(
    "cors_origins",
    "Web pages that may call the API directly: `\"https://app.example.org\"`, exactly, without a path.\n\n\
     Web views of applications too: `\"capacitor://localhost\"`, `\"ionic://localhost\"`, \
     `\"tauri://localhost\"`, `\"app://…\"`.",
);

const DEFAULT_TTL: ConfigKey = live(
    "default_ttl",
    "Lifetime of a credential if the request names none.\n\n\
     An hour is enough if clients can request a new one.",
);

const MAX_TTL: ConfigKey = live(
    "max_ttl",
    "Longest lifetime; a longer requested lifetime is shortened to it.\n\n\
     At most `credentials.max_ttl`.",
);

const MINTS_PER_MINUTE_PER_KEY: ConfigKey = live(
    "mints_per_minute_per_key",
    "Credentials per minute and key. Beyond it: 429. 0: no limit.",
);

const MINTS_PER_MINUTE_PER_IP: ConfigKey = live(
    "mints_per_minute_per_ip",
    "The same per client address.\n\n\
     An application server is one address.",
);

const MINTS_PER_MINUTE_PER_NETWORK: ConfigKey = live(
    "mints_per_minute_per_network",
    "The same per network of client addresses.\n\n\
     Auto: sixteen times as many.",
);

const KEYS: ConfigKey = live("keys", "Who may request credentials.");

const KEY_NAME: ConfigKey = live("name", "Shown in the log.");

const KEY_KEY: ConfigKey = live("key", "The key.")
    .kind("string, at least 16 bytes")
    .default("–")
    .example("\"b3Vp7Xk2Qm9RtW5yZc8L\"");

const KEY_KEY_FILE: ConfigKey = live("key_file", "Alternatively, the file that holds it.")
    .default("–")
    .example("\"/etc/relay/api-key\"");

const KEY_CHOOSE_USERNAME: ConfigKey = live(
    "choose_username",
    "May choose the user of the credential, so that quotas count per person.",
);

const KEY_FORCED: ConfigKey = live(
    "forced",
    "Its credentials are valid on the ports of `[forced_relay]` only, and come with no other URI.",
);

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
        enabled: s.value(ENABLED, true),
        host: s.value(HOST, Auto::Auto),
        uris: s.value(URIS, Auto::Auto),
        relay_only: s.value(RELAY_ONLY, false),
        open: s.value(OPEN, false),
        query_key: s.value(QUERY_KEY, false),
        cors_origins: s.value(CORS_ORIGINS, Vec::new()),
        default_ttl: s.within(DEFAULT_TTL, DAY, MINUTE..=365 * DAY),
        max_ttl: s.within(MAX_TTL, DAY, MINUTE..=365 * DAY),
        mints_per_minute_per_key: s.number(MINTS_PER_MINUTE_PER_KEY, 600, 0..=1_000_000),
        mints_per_minute_per_ip: s.number(MINTS_PER_MINUTE_PER_IP, 600, 0..=1_000_000),
        mints_per_minute_per_network: s.auto_number(MINTS_PER_MINUTE_PER_NETWORK, 0..=16_000_000),
        keys: s.tables(KEYS, Vec::new(), |key, place| {
            let name = key.required(KEY_NAME, "\"app\"", place);
            let secret = secret_or_file(key, KEY_KEY, KEY_KEY_FILE, place);
            let choose_username = key.value(KEY_CHOOSE_USERNAME, false);
            let forced = key.value(KEY_FORCED, false);
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
