//! `docs/recipes`: `relay check` accepts our part of each page, and the relay serves it; the other
//! part is parsed. Systems that call our API call it here as their block says; those that mint are
//! in `recipes_minting`.

use std::path::Path;
use std::process::Command;

use relay::base::address::Transport;
use serde_json::Value;

use crate::client::{Client, Login};
use crate::credentials::{https, post};
use crate::harness::{API_KEY, Server};

/// A fenced block: ```` ```LANGUAGE NAME ````.
struct Block {
    language: String,
    name: String,
    text: String,
}

pub(crate) struct Page {
    name: String,
    blocks: Vec<Block>,
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes")
}

pub(crate) fn page(name: &str) -> Page {
    let text = std::fs::read_to_string(folder().join(format!("{name}.md"))).expect("the page");
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some("") if open => open = false,
            Some(info) => {
                assert!(!open, "{name}: a block inside a block");
                let (language, block) = info
                    .split_once(' ')
                    .unwrap_or_else(|| panic!("{name}: a block without a name: {info}"));
                blocks.push(Block {
                    language: language.to_owned(),
                    name: block.to_owned(),
                    text: String::new(),
                });
                open = true;
            }
            None if open => {
                let block = blocks.last_mut().expect("an open block");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    Page {
        name: name.to_owned(),
        blocks,
    }
}

/// Every page except the index.
fn pages() -> Vec<Page> {
    let entries = std::fs::read_dir(folder()).expect("the recipes");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let names = names.filter_map(|name| name.strip_suffix(".md").map(ToOwned::to_owned));
    names.filter(|name| name != "README").map(|name| page(&name)).collect()
}

impl Page {
    pub(crate) fn block(&self, name: &str) -> &str {
        let block = self.blocks.iter().find(|block| block.name == name);
        &block
            .unwrap_or_else(|| panic!("{} has no block {name}", self.name))
            .text
    }

    pub(crate) fn relay(&self) -> &str {
        self.block("relay.toml")
    }

    pub(crate) fn relay_toml(&self) -> toml::Table {
        self.relay().parse().expect("TOML")
    }

    /// Whole configurations of the relay: `relay.toml`, and `relay-….toml` for other arrangements.
    fn relays(&self) -> impl Iterator<Item = &Block> {
        let whole = |block: &&Block| block.name.starts_with("relay") && block.name.ends_with(".toml");
        self.blocks.iter().filter(whole)
    }

    /// The first value after `key =`, `key:` or `key=`, without quotes.
    pub(crate) fn value(&self, block: &str, key: &str) -> String {
        let text = self.block(block);
        let found = text.match_indices(key).find_map(|(at, _)| {
            let before = text[..at].chars().next_back();
            let rest = text[at + key.len()..].trim_start_matches(' ');
            let rest = rest.strip_prefix(['=', ':'])?.trim_start();
            let whole = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            whole.then(|| match rest.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next().unwrap_or_default(),
                None => rest.split([',', ' ', '}', '\n']).next().unwrap_or_default(),
            })
        });
        found
            .unwrap_or_else(|| panic!("{}: no {key} in {block}", self.name))
            .to_owned()
    }

    /// Checks that the relay of this page is reachable by the URI: its realm, and a listener for
    /// port and transport.
    pub(crate) fn assert_served(&self, uri: &str, listeners: &[(u16, Vec<String>)]) {
        let (scheme, rest) = uri.split_once(':').expect("a URI");
        let (address, query) = rest.split_once("?transport=").expect("a transport");
        let (host, port) = address.split_once(':').expect("a port");
        assert_eq!(
            host,
            self.relay_toml()["realm"].as_str().expect("a realm"),
            "{}: {uri}",
            self.name
        );
        let wanted = match (scheme, query) {
            ("turn", "udp") => "udp",
            ("turn", "tcp") => "tcp",
            ("turns", "tcp") => "tls",
            other => panic!("{}: {other:?}", self.name),
        };
        let port: u16 = port.parse().expect("a port");
        let served = listeners
            .iter()
            .any(|(bound, protocols)| *bound == port && protocols.iter().any(|p| p == wanted));
        assert!(served, "{}: {uri} is not listened on: {listeners:?}", self.name);
    }

    /// Port and protocols of each listener.
    pub(crate) fn listeners(&self) -> Vec<(u16, Vec<String>)> {
        let defaults: toml::Table = include_str!("../../config/relay.toml").parse().expect("TOML");
        let own = self.relay_toml();
        let list = own
            .get("listener")
            .unwrap_or(&defaults["listener"])
            .as_array()
            .expect("a list");
        let one = |listener: &toml::Value| {
            let bind = listener["bind"].as_str().expect("bind");
            let protocols = listener["protocols"].as_array().expect("protocols");
            let protocols = protocols.iter().map(|p| p.as_str().expect("a word").to_owned());
            let port = bind.rsplit_once(':').expect("a port").1;
            (port.parse().expect("a port"), protocols.collect())
        };
        list.iter().map(one).collect()
    }
}

/// `turn:` and `turns:` URIs of a text, in order.
pub(crate) fn uris(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| c == '"' || c.is_whitespace());
    parts
        .filter(|part| part.starts_with("turn:") || part.starts_with("turns:"))
        .map(|uri| uri.trim_end_matches(',').to_owned())
        .collect()
}

#[test]
fn every_page_has_our_side_and_relay_check_likes_it() {
    let mut pages = pages();
    pages.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(pages.len() >= 12, "{}", pages.len());
    let index = std::fs::read_to_string(folder().join("README.md")).expect("the index");
    for page in pages {
        assert!(
            index.contains(&format!("({}.md)", page.name)),
            "{} is not in the index",
            page.name
        );
        for block in &page.blocks {
            match block.language.as_str() {
                "toml" => drop(
                    block
                        .text
                        .parse::<toml::Table>()
                        .unwrap_or_else(|e| panic!("{} {}: {e}", page.name, block.name)),
                ),
                "json" => drop(
                    serde_json::from_str::<Value>(&block.text)
                        .unwrap_or_else(|e| panic!("{} {}: {e}", page.name, block.name)),
                ),
                "yaml" => assert!(!block.text.contains('\t'), "{} {}", page.name, block.name),
                "sh" | "lua" | "nginx" | "elixir" | "text" | "ini" => {}
                other => panic!("{}: what is {other}?", page.name),
            }
        }
        assert!(page.relays().next().is_some(), "{} has no block of ours", page.name);
        for ours in page.relays() {
            assert_check_likes(&format!("{} {}", page.name, ours.name), &ours.text);
        }
    }
}

fn assert_check_likes(name: &str, toml: &str) {
    let files = Server::recipe_files(toml);
    let checked = Command::new(env!("CARGO_BIN_EXE_relay"))
        .args(["check", "--config"])
        .arg(files.join("relay.toml"))
        // Not available on this machine.
        .envs([
            ("RELAY__EXTERNAL__IPV4", "203.0.113.5"),
            ("RELAY__EXTERNAL__IPV6", "off"),
        ])
        .env("RELAY__STATE_DIR", &*files)
        .output()
        .expect("the program runs");
    let told = String::from_utf8_lossy(&checked.stderr);
    // 3: valid, but for another machine.
    let status = if toml.contains("fly-global-services") { 3 } else { 0 };
    assert_eq!(checked.status.code(), Some(status), "{name}: {told}");
    // A name of Fly.io's network and the key in the query string are the subject of those pages.
    // The secret belongs to the tests, and the limit of open files to this machine.
    let known = [
        "fly-global-services",
        "api.query_key",
        "holds less than 32 random bytes",
        "this process may open",
    ];
    let unknown: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("warning") && !known.iter().any(|known| line.contains(known)))
        .collect();
    assert!(unknown.is_empty(), "{name}: {told}");
}

/// Sends the request of the page's block, and returns status and answer.
fn ask(server: &Server, method: &str, target: &str, authorization: bool, body: &str) -> (u16, Value) {
    let bearer = format!("Authorization: Bearer {API_KEY}\r\n");
    let headers = if authorization { bearer.as_str() } else { "" };
    let request = match method {
        "POST" => post(target, headers, body),
        _ => format!("GET {target} HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n{headers}\r\n"),
    };
    let (status, _, body) = https(server, &request);
    (
        status,
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}")),
    )
}

/// The path and query after the host in a block's address.
fn target(text: &str) -> String {
    let (_, rest) = text.split_once("https://turn.example.org").expect("our address");
    rest.split(['"', ' ', '\n']).next().unwrap_or_default().to_owned()
}

fn members(value: &Value) -> Vec<&str> {
    let mut members: Vec<&str> = value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    members.sort_unstable();
    members
}

fn assert_allocates(server: &Server, username: &Value, password: &Value) {
    let login = Login::new(username.as_str().expect("text"), password.as_str().expect("text"));
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        assert!(
            Client::over_transport(transport, server.door)
                .with_login(&login)
                .allocate()
                .is_ok(),
            "{transport}"
        );
    }
}

//= REST-03
#[test]
fn who_asks_our_api_in_the_form_of_another_gets_that_form_and_allocates() {
    // Janus: key in the query string under both names.
    let janus = page("janus");
    assert_eq!(janus.value("janus.jcfg", "turn_rest_api_key"), "KEY");
    assert_eq!(janus.value("janus.jcfg", "turn_rest_api_method"), "GET");
    let server = Server::start_recipe(janus.relay());
    let query = format!(
        "{}?service=turn&api={API_KEY}&key={API_KEY}&username=janus-1",
        target(janus.block("janus.jcfg"))
    );
    let (status, answer) = ask(&server, "GET", &query, false, "");
    assert_eq!(
        (status, members(&answer)),
        (200, vec!["password", "ttl", "uris", "username"])
    );
    assert!(
        answer["username"]
            .as_str()
            .is_some_and(|name| name.ends_with(":janus-1"))
    );
    assert_allocates(&server, &answer["username"], &answer["password"]);
    drop(server);

    // Rel.
    let elixir = page("elixir-webrtc");
    for uri in uris(elixir.block("peer.ex")) {
        elixir.assert_served(&uri, &elixir.listeners());
    }
    let server = Server::start_recipe(elixir.relay());
    let (status, answer) = ask(&server, "POST", &target(elixir.block("curl.sh")), true, "");
    assert_eq!(
        (status, members(&answer)),
        (200, vec!["password", "ttl", "uris", "username"])
    );
    assert!(
        answer["username"]
            .as_str()
            .is_some_and(|name| name.ends_with(":johnsmith"))
    );
    assert_allocates(&server, &answer["username"], &answer["password"]);
    drop(server);

    // STUNner and Cloudflare: exactly the members of the printed answers.
    for (name, method, status, id) in [
        ("stunner", "GET", 200, ":my-user"),
        ("cloudflare", "POST", 201, ":user4"),
    ] {
        let page = page(name);
        let printed: Value = serde_json::from_str(page.block("answer.json")).expect("JSON");
        let server = Server::start_recipe(page.relay());
        let command = page.block("curl.sh");
        let body = command
            .split("-d '")
            .nth(1)
            .and_then(|rest| rest.split('\'').next())
            .unwrap_or_default();
        let (answered, answer) = ask(&server, method, &target(command), true, body);
        assert_eq!(answered, status, "{answer:#}");
        assert_eq!(members(&answer), members(&printed), "{name}");
        let (entry, like) = (&answer["iceServers"][0], &printed["iceServers"][0]);
        assert_eq!(members(entry), members(like), "{name}");
        assert!(
            entry["username"].as_str().is_some_and(|name| name.ends_with(id)),
            "{answer:#}"
        );
        assert_eq!(
            answer.get("iceTransportPolicy"),
            printed.get("iceTransportPolicy"),
            "{name}"
        );
        assert_allocates(&server, &entry["username"], &entry["credential"]);
    }
}

#[test]
fn on_fly_the_two_halves_of_443_serve_one_credential() {
    let page = page("fishjam-fly");
    let fly: toml::Table = page.block("fly.toml").parse().expect("TOML");
    let services = fly["services"].as_array().expect("a list");
    for (service, (port, protocols)) in services.iter().zip(page.listeners()) {
        assert_eq!(service["internal_port"].as_integer(), Some(i64::from(port)));
        assert_eq!(
            service["ports"][0]["port"].as_integer(),
            Some(i64::from(port)),
            "the public port is the bound one"
        );
        assert!(service["ports"][0].get("handlers").is_none());
        let protocol = service["protocol"].as_str().expect("text");
        assert!(protocols.iter().any(|p| p == protocol), "{protocol}: {protocols:?}");
    }
    let server = Server::start_recipe(page.relay());
    let (status, answer) = ask(&server, "POST", "/v1/ice-servers", true, "{}");
    assert_eq!(status, 200);
    let entry = &answer["iceServers"][0];
    assert_allocates(&server, &entry["username"], &entry["credential"]);
}
