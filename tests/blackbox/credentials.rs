//! Logins: time-limited credentials, static users, rotation, and the minting endpoint.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use relay::base::address::Transport;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;

use crate::client::{Client, Login, PATIENCE, tls_config};
use relay_testkit::folder::Folder;

use crate::harness::{API_KEY, OTHER_SECRET, SECRET, Server, minted, parse_http};

fn outcome(server: &Server, transport: Transport, login: &Login) -> Result<SocketAddr, u16> {
    let address = if matches!(transport, Transport::Tls | Transport::Dtls) {
        server.tls
    } else {
        server.plain
    };
    Client::over_transport(transport, address).with_login(login).allocate()
}

//= STUN-AUTH-03
//= REST-05
//= REST-12
#[test]
fn only_a_valid_credential_is_served_on_every_transport() {
    let server = Server::start_custom(&format!(
        "[credentials]\nsecrets = [\"{SECRET}\"]\nusers = [{{ name = \"static\", password = \"a long enough password\" }}]\n"
    ));
    let valid = minted(SECRET, 600, "alice");
    let (_, id) = valid.username.split_once(':').expect("expiry and id");
    let refused = [
        ("wrong password", Login::new(&valid.username, "wrong")),
        ("unknown user", Login::new("nobody", "a long enough password")),
        ("expired by a second", minted(SECRET, -1, "alice")),
        ("wrong secret", minted(OTHER_SECRET, 600, "alice")),
        (
            "expiry changed",
            Login::new(&format!("99999999999:{id}"), &valid.password),
        ),
        (
            "user changed",
            Login::new(&valid.username.replace("alice", "admin"), &valid.password),
        ),
        ("static user, wrong password", Login::new("static", "another password")),
    ];
    for transport in Transport::ALL {
        assert!(outcome(&server, transport, &valid).is_ok(), "{transport}");
        assert!(
            outcome(&server, transport, &Login::new("static", "a long enough password")).is_ok(),
            "{transport}"
        );
        for (what, login) in &refused {
            assert_eq!(outcome(&server, transport, login), Err(401), "{what} over {transport}");
        }
    }
}

//= REST-07
#[test]
fn a_rotated_out_secret_is_refused_after_a_reload_and_calls_go_on() {
    let folder = Folder::new();
    let file = folder.file("secret", &format!("{SECRET}\n"));
    let server = Server::start_custom(&format!("[credentials]\nsecret_file = \"{}\"\n", file.display()));
    let mut running = Client::udp(server.plain).with_login(&minted(SECRET, 600, "caller"));
    running.allocate().expect("allocated");
    assert_eq!(
        outcome(&server, Transport::Udp, &minted(OTHER_SECRET, 600, "new")),
        Err(401)
    );

    std::fs::write(&file, format!("{OTHER_SECRET}\n")).expect("the secret is written");
    server.signal(Signal::SIGHUP);
    let deadline = std::time::Instant::now() + PATIENCE;
    while outcome(&server, Transport::Udp, &minted(OTHER_SECRET, 600, "new")).is_err() {
        assert!(
            std::time::Instant::now() < deadline,
            "the new secret never came:\n{}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(outcome(&server, Transport::Udp, &minted(SECRET, 600, "old")), Err(401));
    assert_eq!(running.refresh(600), 0, "the running call keeps its login");
}

/// Sends an HTTP/1.1 request over TLS to the front door.
pub(crate) fn https(server: &Server, request: &str) -> (u16, String, String) {
    let name = ServerName::try_from("relay.test").expect("a name");
    let connection = ClientConnection::new(tls_config(&[b"http/1.1"]), name).expect("a client");
    let socket = TcpStream::connect_timeout(&server.door, PATIENCE).expect("the front door accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(request.as_bytes()).expect("the request is taken");
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
        }
    }
    let text = String::from_utf8(answer).expect("UTF-8");
    let (status, body) = parse_http(&text).unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    (
        status,
        text.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase(),
        body,
    )
}

pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn api_server(extra: &str) -> Server {
    Server::start_with(&format!(
        "[api]\nhost = \"127.0.0.1\"\nkeys = [{{ name = \"test\", key = \"{API_KEY}\", choose_username = true }}]\n{extra}"
    ))
}

//= REST-01
//= REST-03
//= REST-11
#[test]
fn minted_over_the_front_door_logs_in_on_every_transport() {
    let server = api_server("");
    let bearer = format!("Authorization: Bearer {API_KEY}\r\n");
    let (status, head, body) = https(&server, &post("/v1/ice-servers", &bearer, "{}"));
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let config: Value = serde_json::from_str(&body).expect("JSON");
    let ice = &config["iceServers"][0];
    let login = Login::new(
        ice["username"].as_str().expect("text"),
        ice["credential"].as_str().expect("text"),
    );
    assert!(ice["urls"].as_array().is_some_and(|u| !u.is_empty()), "{body}");
    for transport in Transport::ALL {
        assert!(outcome(&server, transport, &login).is_ok(), "{transport}");
    }

    let get = format!("GET /turn?service=turn&username=bob HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{bearer}\r\n");
    let (status, _, body) = https(&server, &get);
    assert_eq!(status, 200, "{body}");
    let draft: Value = serde_json::from_str(&body).expect("JSON");
    assert!(draft["username"].as_str().expect("text").ends_with(":bob"), "{body}");
    assert!(draft["ttl"].as_u64().is_some_and(|t| t > 0) && draft["uris"].as_array().is_some_and(|u| !u.is_empty()));
    let login = Login::new(
        draft["username"].as_str().expect("text"),
        draft["password"].as_str().expect("text"),
    );
    assert!(outcome(&server, Transport::Udp, &login).is_ok());
}

//= REST-04
#[test]
fn minting_needs_a_key_keeps_to_its_rate_and_caps_the_lifetime() {
    let server = api_server("max_ttl = \"1h\"\ndefault_ttl = \"10m\"\nmints_per_minute_per_key = 5\n");
    for headers in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic dXNlcjpwYXNz\r\n",
    ] {
        let (status, _, body) = https(&server, &post("/v1/ice-servers", headers, "{}"));
        assert_eq!(status, 401, "{headers:?}: {body}");
    }
    let bearer = format!("Authorization: Bearer {API_KEY}\r\n");
    let (status, _, body) = https(&server, &post("/turn?service=turn&username=a&ttl=999999", &bearer, ""));
    assert_eq!(status, 200, "{body}");
    let draft: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(draft["ttl"], 3600, "a longer wish is clamped: {body}");
    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(https(&server, &post("/v1/ice-servers", &bearer, "{}")).0);
    }
    assert!(codes.contains(&429), "{codes:?}");
    assert_eq!(
        codes.iter().filter(|c| **c == 200).count(),
        4,
        "five mints a minute, one was spent: {codes:?}"
    );
}

#[test]
fn without_keys_and_not_open_nobody_mints() {
    let server = Server::start_with("");
    let (status, _, _) = https(&server, &post("/v1/ice-servers", "", "{}"));
    assert_eq!(status, 401);
}

/// What a page of any origin, a visitor and a load balancer get from the front door of a public
/// test server.
#[test]
fn a_public_test_server_answers_a_page_of_any_origin_a_visitor_and_a_balancer() {
    let server = Server::start_with("[api]\nhost = \"127.0.0.1\"\nopen = true\nmints_per_minute_per_ip = 60\n");
    let ask = |line: &str, headers: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n{headers}\r\n");
        https(&server, &request)
    };
    let (status, head, body) = ask("GET /v1/ice-servers", "Origin: https://stranger.example\r\n");
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let configuration: Value = serde_json::from_str(&body).expect("JSON");
    let ice = &configuration["iceServers"][0];
    let text = |name: &str| ice[name].as_str().expect("text").to_owned();
    let login = Login {
        username: text("username"),
        password: text("credential"),
    };
    outcome(&server, Transport::Tls, &login).expect("it may allocate");

    let asks = "Origin: https://stranger.example\r\nAccess-Control-Request-Method: POST\r\n\
                Access-Control-Request-Headers: content-type\r\n";
    let (status, head, _) = ask("OPTIONS /v1/ice-servers", asks);
    assert_eq!(status, 204, "{head}");
    assert!(head.contains("access-control-allow-origin: *"), "{head}");

    let (status, head, body) = ask("GET /", "");
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(
        body.contains("https://relay.test/v1/ice-servers") && !body.contains(SECRET),
        "{body}"
    );
    assert_eq!(ask("HEAD /", "").0, 200);
    assert_eq!(ask("GET /healthz", "").2, r#"{"alive":true}"#);
    assert_eq!(ask("HEAD /healthz", "").0, 200);
    assert_eq!(ask("GET /readyz", "").0, 404);
    for route in ["page", "healthz"] {
        let labels = format!("{{code=\"200\",route=\"{route}\"}}");
        server.wait_for_metric("relay_api_responses_total", &labels, 2.0);
    }
}
