//! `docs/recipes`: systems that mint with the shared secret, according to their own configuration
//! on the page.

use std::net::SocketAddr;

use relay::base::address::Transport;
use serde_json::Value;

use crate::client::{Client, Login};
use crate::harness::{SECRET, Server, minted};
use crate::recipes::{page, uris};

/// What the other system's block says about the relay.
struct Theirs {
    page: &'static str,
    uris: Vec<String>,
    /// What it shares with the relay.
    secret: String,
    /// How long its credentials last, seconds.
    ttl: i64,
    /// The user it mints for.
    id: &'static str,
}

fn livekit(name: &'static str) -> Theirs {
    let page = page(name);
    let text = page.block("livekit.yaml");
    let entries: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- {"))
        .collect();
    assert!(!entries.is_empty());
    let field = |entry: &str, key: &str| {
        let (_, rest) = entry
            .split_once(&format!("{key}: "))
            .unwrap_or_else(|| panic!("{key} in {entry}"));
        rest.split([',', ' ', '}'])
            .next()
            .unwrap_or_default()
            .trim_matches('"')
            .to_owned()
    };
    let uri = |entry: &&str| {
        let (host, port) = (field(entry, "host"), field(entry, "port"));
        match field(entry, "protocol").as_str() {
            "tls" => format!("turns:{host}:{port}?transport=tcp"),
            "tcp" => format!("turn:{host}:{port}?transport=tcp"),
            "udp" => format!("turn:{host}:{port}?transport=udp"),
            other => panic!("protocol {other}"),
        }
    };
    let secrets: Vec<String> = entries.iter().map(|entry| field(entry, "secret")).collect();
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    Theirs {
        page: name,
        uris: entries.iter().map(uri).collect(),
        secret: secrets[0].clone(),
        ttl: field(entries[0], "ttl").parse().expect("seconds"),
        id: "PA_hR7mJk2vXq9T",
    }
}

fn galene() -> Theirs {
    let page = page("galene");
    let servers: Value = serde_json::from_str(page.block("ice-servers.json")).expect("JSON");
    let entry = &servers[0];
    assert_eq!(entry["credentialType"], "hmac-sha1");
    let front: Value = serde_json::from_str(page.block("config.json")).expect("JSON");
    assert_eq!(front["proxyURL"], "https://turn.example.org/", "the front door's name");
    Theirs {
        page: "galene",
        uris: uris(&page.block("ice-servers.json").replace(',', " ")),
        secret: entry["credential"].as_str().expect("text").to_owned(),
        ttl: 86_400,
        id: "galene",
    }
}

fn mattermost() -> Theirs {
    let page = page("mattermost");
    let config: toml::Table = page.block("config.toml").parse().expect("TOML");
    let rtc = &config["rtc"];
    let console = |key| page.value("console.ini", key);
    let listed = |urls: &toml::Value| {
        urls.as_array()
            .expect("a list")
            .iter()
            .map(|uri| uri.as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    let urls = listed(&rtc["ice_servers"][0]["urls"]);
    let servers: Value = serde_json::from_str(page.block("ice-servers.json")).expect("JSON");
    assert_eq!(servers[0]["urls"], serde_json::json!(urls), "both say the same");
    let turn = &rtc["turn"];
    let secret = console("TURN Static Auth Secret");
    assert_eq!(turn["static_auth_secret"].as_str(), Some(secret.as_str()));
    let minutes = console("TURN Credentials Expiration (minutes)")
        .parse()
        .expect("minutes");
    assert_eq!(turn["credentials_expiration_minutes"].as_integer(), Some(minutes));
    Theirs {
        page: "mattermost",
        uris: urls,
        secret,
        ttl: 60 * minutes,
        id: "jane.doe",
    }
}

/// All systems that mint with the shared secret.
fn minting() -> Vec<Theirs> {
    let (jitsi, synapse, talk) = (page("jitsi"), page("synapse"), page("nextcloud-talk"));
    let env = |key| jitsi.value(".env", key);
    let lua = |key| jitsi.value("prosody.cfg.lua", key);
    assert_eq!(
        (
            env("TURN_CREDENTIALS"),
            env("TURNS_HOST"),
            env("TURNS_PORT"),
            env("TURN_TTL")
        ),
        (lua("external_service_secret"), lua("host"), lua("port"), lua("ttl"))
    );
    assert_eq!(
        (
            lua("type").as_str(),
            lua("transport").as_str(),
            lua("algorithm").as_str()
        ),
        ("turns", "tcp", "turn")
    );
    assert_eq!(synapse.value("homeserver.yaml", "turn_user_lifetime"), "1h");
    assert_eq!(
        (
            talk.value("talk.ini", "schemes").as_str(),
            talk.value("talk.ini", "protocols").as_str()
        ),
        ("turn", "udp")
    );
    let server = talk.value("talk.ini", "server");
    vec![
        livekit("livekit"),
        livekit("openvidu"),
        mattermost(),
        galene(),
        Theirs {
            page: "jitsi",
            uris: vec![format!(
                "turns:{}:{}?transport=tcp",
                env("TURNS_HOST"),
                env("TURNS_PORT")
            )],
            secret: env("TURN_CREDENTIALS"),
            ttl: env("TURN_TTL").parse().expect("seconds"),
            id: "",
        },
        Theirs {
            page: "synapse",
            uris: uris(synapse.block("homeserver.yaml")),
            secret: synapse.value("homeserver.yaml", "turn_shared_secret"),
            ttl: 3600,
            id: "@alice:example.org",
        },
        Theirs {
            page: "nextcloud-talk",
            uris: vec![
                format!("turn:{server}?transport=udp"),
                format!("turn:{server}?transport=tcp"),
                format!("turns:{server}?transport=tcp"),
            ],
            secret: talk.value("talk.ini", "secret"),
            ttl: 86_400,
            id: "hT3jM8wQz0",
        },
    ]
}

fn transport_of(uri: &str) -> Transport {
    match (uri.starts_with("turns:"), uri.ends_with("udp")) {
        (true, _) => Transport::Tls,
        (false, true) => Transport::Udp,
        (false, false) => Transport::Tcp,
    }
}

//= REST-08
#[test]
fn what_an_sfu_mints_by_its_own_configuration_allocates() {
    for theirs in minting() {
        let page = page(theirs.page);
        assert_eq!(theirs.secret, "SECRET", "{}", theirs.page);
        let secret_file = &page.relay_toml()["credentials"]["secret_file"];
        assert_eq!(secret_file.as_str(), Some("/etc/relay/secret"), "{}", theirs.page);
        assert!(!theirs.uris.is_empty(), "{}", theirs.page);
        let behind_proxy = theirs.page == "openvidu";
        for uri in &theirs.uris {
            if behind_proxy {
                // nginx terminates TLS on 443 and forwards plain TCP to the port in its map.
                assert_eq!(uri, "turns:turn.example.org:443?transport=tcp");
                assert!(
                    page.block("nginx.conf")
                        .contains("turn.example.org     127.0.0.1:5349;")
                );
                page.assert_served("turn:turn.example.org:5349?transport=tcp", &page.listeners());
            } else {
                page.assert_served(uri, &page.listeners());
            }
        }
        let server = Server::start_recipe(page.relay());
        let ttl = theirs.ttl + FAST_CLOCK;
        let mut login = minted(SECRET, ttl, theirs.id);
        if theirs.id.is_empty() {
            login = bare(ttl);
        }
        let ports = std::cell::Cell::new(50_000);
        let connect = |transport| match transport {
            _ if behind_proxy => {
                ports.set(ports.get() + 1);
                Client::tcp_of(SocketAddr::from(([203, 0, 113, 7], ports.get())), server.door)
            }
            transport => Client::over_transport(transport, server.door),
        };
        for uri in &theirs.uris {
            let mut client = connect(transport_of(uri)).with_login(&login);
            assert!(client.allocate().is_ok(), "{} {uri}", theirs.page);
        }
        let mut client = connect(Transport::Tcp).with_login(&Login::new(&login.username, "another"));
        assert_eq!(client.allocate(), Err(401), "{}", theirs.page);
    }
}

/// How far ahead a minting service's clock may be without effect. Clocks of virtual machines
/// without synchronisation are minutes off.
const FAST_CLOCK: i64 = 300;

/// A username that only consists of its expiry, like those of Prosody.
fn bare(ttl: i64) -> Login {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let expiry = relay::base::time::UnixTime(now.checked_add_signed(ttl).expect("in range"));
    let minted = relay::turn::login::credential::mint(SECRET.as_bytes(), expiry, None).expect("minted");
    Login::new(&minted.username, &minted.password)
}
