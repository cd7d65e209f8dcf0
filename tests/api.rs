//! The credentials API through its router: both forms, who may mint, limits, CORS, errors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use relay::service::api::counters::{CODES, Route};
use relay::service::api::{Api, Scheme};
use relay::service::config::settings::{ApiKey, ApiSettings};
use relay::turn::credential::{Credentials, CredentialsConfig, Secret};
use relay::turn::time::UnixTime;
use serde_json::{Value, json};
use sha1::Sha1;
use tower::ServiceExt;

const SECRET: &[u8] = b"c5b6a1f2e7d84930b1c2d3e4f5061728";
const NOW: u64 = 1_893_456_000;
const KEY: &str = "app-key-0123456789abcdef";
const NAMING_KEY: &str = "naming-key-0123456789abcdef";

fn settings() -> ApiSettings {
    let key = |name: &str, key: &str, choose_username| ApiKey {
        name: name.into(),
        key: key.into(),
        choose_username,
    };
    ApiSettings {
        enabled: true,
        host: "turn.example.org".into(),
        uris: vec![
            "turns:turn.example.org:443?transport=tcp".into(),
            "turn:turn.example.org:3478?transport=udp".into(),
        ],
        uris_from_listeners: false,
        relay_only: true,
        keys: vec![key("app", KEY, false), key("naming", NAMING_KEY, true)],
        open: false,
        query_key: false,
        cors_origins: vec!["https://app.example.org".into()],
        default_ttl: Duration::from_secs(3600),
        max_ttl: Duration::from_secs(86_400),
        mints_per_minute_per_key: 0,
        mints_per_minute_per_ip: 0,
    }
}

fn credentials() -> Arc<Credentials> {
    let config = CredentialsConfig {
        secrets: vec![Secret::new(SECRET)],
        ..CredentialsConfig::default()
    };
    Arc::new(Credentials::new(config).expect("no static users"))
}

fn api(settings: ApiSettings) -> Api {
    Api::new(settings, credentials(), || UnixTime(NOW))
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {:?}", self.text))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The parts of a draft answer's username: expiry and userid.
    fn username(&self) -> (u64, String) {
        let json = self.json();
        let username = json["username"]
            .as_str()
            .or(json["iceServers"][0]["username"].as_str())
            .expect("username");
        let (expiry, userid) = username.split_once(':').expect("expiry:userid");
        (expiry.parse().expect("expiry"), userid.to_owned())
    }
}

struct Call(axum::http::request::Builder, Body);

fn call(method: Method, uri: &str) -> Call {
    Call(
        Request::builder()
            .method(method)
            .uri(uri)
            .extension(ConnectInfo(client("192.0.2.1"))),
        Body::empty(),
    )
}

fn get(uri: &str) -> Call {
    call(Method::GET, uri)
}

fn post(uri: &str) -> Call {
    call(Method::POST, uri)
}

fn client(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("ip"), 50_000)
}

impl Call {
    fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value), self.1)
    }

    fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    fn from(self, ip: &str) -> Self {
        Self(self.0.extension(ConnectInfo(client(ip))), self.1)
    }

    fn json(self, body: &str) -> Self {
        Self(
            self.0.header("content-type", "application/json"),
            Body::from(body.to_owned()),
        )
    }

    fn form(self, body: &str) -> Self {
        let kind = "application/x-www-form-urlencoded; charset=UTF-8";
        Self(self.0.header("content-type", kind), Body::from(body.to_owned()))
    }

    async fn send(self, api: &Api) -> Answer {
        self.send_to(api.router(Scheme::Https)).await
    }

    async fn send_to(self, router: Router) -> Answer {
        let response = router
            .oneshot(self.0.body(self.1).expect("request"))
            .await
            .expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.expect("body");
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Answer {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }
}

fn password_of(username: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET).expect("any length");
    mac.update(username.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

//= REST-01
//= REST-02
//= REST-03
#[tokio::test]
async fn the_draft_form_answers_get_and_post_with_exactly_its_four_members() {
    let api = api(settings());
    let query = "/turn?service=turn&username=alice";
    for call in [
        get(query),
        post(query),
        post("/?service=turn&username=alice"),
        post("/turn").form("service=turn"),
    ] {
        let answer = call.key(KEY).send(&api).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let json = answer.json();
        let mut members = json.as_object().expect("object").keys().collect::<Vec<_>>();
        members.sort();
        assert_eq!(members, ["password", "ttl", "uris", "username"]);
        assert_eq!(json["ttl"], 3600);
        assert_eq!(json["uris"], json!(settings().uris));
        assert_eq!(
            json["password"],
            password_of(json["username"].as_str().expect("username"))
        );
        assert_eq!(answer.username().0, NOW + 3600);
    }
}

#[tokio::test]
async fn the_modern_form_answers_an_rtc_configuration_and_nothing_a_browser_does_not_know() {
    let mut settings = settings();
    settings.uris.push("stun:turn.example.org:3478".into());
    let api = api(settings);
    let answer = post("/v1/ice-servers").key(KEY).send(&api).await;
    assert_eq!(answer.status, StatusCode::OK);
    let json = answer.json();
    let username = json["iceServers"][0]["username"].as_str().expect("username");
    let expected = json!({
        "iceServers": [
            {
                "urls": ["turns:turn.example.org:443?transport=tcp", "turn:turn.example.org:3478?transport=udp"],
                "username": username,
                "credential": password_of(username),
            },
            { "urls": ["stun:turn.example.org:3478"] },
        ],
        "iceTransportPolicy": "relay",
    });
    assert_eq!(json, expected);
    assert_eq!(answer.header("relay-credential-ttl"), Some("3600"));
    assert_eq!(
        answer.header("relay-credential-expires"),
        Some((NOW + 3600).to_string().as_str())
    );
}

#[tokio::test]
async fn without_relay_only_the_transport_policy_is_left_to_the_page() {
    let answer = post("/v1/ice-servers")
        .key(KEY)
        .send(&api(ApiSettings {
            relay_only: false,
            ..settings()
        }))
        .await;
    assert_eq!(
        answer.json().as_object().expect("object").keys().collect::<Vec<_>>(),
        ["iceServers"]
    );
}

#[tokio::test]
async fn without_a_valid_key_nothing_is_minted() {
    let api = api(settings());
    for path in ["/turn?service=turn", "/?service=turn", "/v1/ice-servers"] {
        for key in [
            None,
            Some("wrong"),
            Some(&KEY[..KEY.len() - 1]),
            Some(&format!("{KEY}x")),
            Some("app"),
        ] {
            let call = key.into_iter().fold(post(path), Call::key);
            let answer = call.send(&api).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {key:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"relay\""));
            assert!(answer.json()["error"].is_string());
        }
        assert_eq!(post(path).key(NAMING_KEY).send(&api).await.status, StatusCode::OK);
    }
    for header in ["Basic YTpi", "Bearer", KEY] {
        let answer = post("/v1/ice-servers").header("authorization", header).send(&api).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{header}");
    }
}

#[tokio::test]
async fn no_keys_and_not_open_means_that_nobody_may_mint() {
    let api = api(ApiSettings {
        keys: Vec::new(),
        ..settings()
    });
    for key in ["", "x"] {
        assert_eq!(
            post("/v1/ice-servers").key(key).send(&api).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    assert_eq!(
        post("/v1/ice-servers").send(&api).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn an_open_server_needs_no_key_but_chooses_the_userid_itself_and_still_refuses_a_wrong_key() {
    let api = api(ApiSettings {
        open: true,
        ..settings()
    });
    let answer = post("/?service=turn&username=alice").send(&api).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_ne!(answer.username().1, "alice");
    assert_eq!(post("/v1/ice-servers").send(&api).await.status, StatusCode::OK);
    assert_eq!(
        post("/v1/ice-servers").key("wrong").send(&api).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_key_in_the_query_string_counts_only_where_the_operator_allows_it() {
    let query = format!("/turn?service=turn&api={KEY}&key={KEY}&username=janus");
    let answer = get(&query).send(&api(settings())).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.text.contains("query string"), "{}", answer.text);
    let allowed = api(ApiSettings {
        query_key: true,
        ..settings()
    });
    assert_eq!(get(&query).send(&allowed).await.status, StatusCode::OK);
    assert_eq!(
        get("/turn?service=turn&key=wrong").send(&allowed).await.status,
        StatusCode::UNAUTHORIZED
    );
    let two = format!("/turn?service=turn&api={KEY}&key=other");
    assert_eq!(get(&two).send(&allowed).await.status, StatusCode::BAD_REQUEST);
    let form = format!("service=turn&key={KEY}");
    assert_eq!(
        post("/turn").form(&form).send(&api(settings())).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn only_a_key_with_that_right_chooses_the_userid() {
    let api = api(settings());
    for username in ["alice", "a:b", "alice%40example.org"] {
        let query = format!("/turn?service=turn&username={username}");
        let chosen = get(&query).key(NAMING_KEY).send(&api).await.username().1;
        assert_eq!(chosen, username.replace("%40", "@"));
        let opaque = get(&query).key(KEY).send(&api).await.username().1;
        assert!(opaque.len() == 22 && !opaque.contains("alice"), "{opaque}");
    }
    let body = r#"{"username":"alice"}"#;
    assert_eq!(
        post("/v1/ice-servers")
            .key(NAMING_KEY)
            .json(body)
            .send(&api)
            .await
            .username()
            .1,
        "alice"
    );
    let first = post("/v1/ice-servers")
        .key(KEY)
        .json(body)
        .send(&api)
        .await
        .username()
        .1;
    let second = post("/v1/ice-servers")
        .key(KEY)
        .json(body)
        .send(&api)
        .await
        .username()
        .1;
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_userid_that_cannot_be_one_is_refused_in_both_forms() {
    let api = api(settings());
    let long = "x".repeat(129);
    for (encoded, json) in [
        ("a%0Ab", "a\\nb"),
        ("a%00", "a\\u0000"),
        ("%1b%5b", "\\u001b["),
        (&long, &long),
    ] {
        let query = format!("/turn?service=turn&username={encoded}");
        assert_eq!(
            get(&query).key(NAMING_KEY).send(&api).await.status,
            StatusCode::BAD_REQUEST,
            "{encoded}"
        );
        let body = format!(r#"{{"username":"{json}"}}"#);
        let answer = post("/v1/ice-servers").key(NAMING_KEY).json(&body).send(&api).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{json}");
    }
    let fits = format!("/turn?service=turn&username={}", "x".repeat(128));
    assert_eq!(get(&fits).key(NAMING_KEY).send(&api).await.status, StatusCode::OK);
}

//= REST-04
#[tokio::test]
async fn a_lifetime_over_the_cap_is_cut_to_it_and_a_senseless_one_is_refused() {
    let api = api(settings());
    let cases = [
        ("1", Some(1)),
        ("86400", Some(86_400)),
        ("86401", Some(86_400)),
        ("99999999999999999999", Some(86_400)),
    ];
    for (ttl, expected) in cases
        .into_iter()
        .chain(["0", "-5", "x", "", "1.5"].map(|bad| (bad, None)))
    {
        let answer = get(&format!("/turn?service=turn&ttl={ttl}")).key(KEY).send(&api).await;
        match expected {
            Some(seconds) => {
                assert_eq!(answer.json()["ttl"], seconds, "{ttl}");
                assert_eq!(answer.username().0, NOW + seconds);
            }
            None => assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{ttl}"),
        }
    }
    for (body, expected) in [
        (r#"{"ttl":60}"#, Some(60)),
        (r#"{"ttl":9e9}"#, None),
        (r#"{"ttl":90000}"#, Some(86_400)),
    ] {
        let answer = post("/v1/ice-servers").key(KEY).json(body).send(&api).await;
        match expected {
            Some(seconds) => assert_eq!(answer.username().0, NOW + seconds, "{body}"),
            None => assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}"),
        }
    }
}

#[tokio::test]
async fn every_mistake_has_its_status_one_line_of_json_and_never_quotes_the_caller() {
    let api = api(settings());
    let big = format!(r#"{{"username":"{}"}}"#, "s3cr3t".repeat(1400));
    let cases = [
        (get("/s3cr3t"), StatusCode::NOT_FOUND),
        (get("/"), StatusCode::METHOD_NOT_ALLOWED),
        (get("/v1/ice-servers"), StatusCode::METHOD_NOT_ALLOWED),
        (call(Method::DELETE, "/turn?key=s3cr3t"), StatusCode::METHOD_NOT_ALLOWED),
        (call(Method::OPTIONS, "/turn"), StatusCode::METHOD_NOT_ALLOWED),
        (get("/turn?service=s3cr3t").key(KEY), StatusCode::BAD_REQUEST),
        (get("/turn").key(KEY), StatusCode::BAD_REQUEST),
        (get("/turn?service=turn&key=s3cr3t"), StatusCode::UNAUTHORIZED),
        (post("/turn").key(KEY).json("{}"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            post("/v1/ice-servers").key(KEY).form("ttl=s3cr3t"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            post("/v1/ice-servers").key(KEY).json(r#"{"s3cr3t":1}"#),
            StatusCode::BAD_REQUEST,
        ),
        (
            post("/v1/ice-servers").key(KEY).json("\n{\"ttl\":s3cr3t}"),
            StatusCode::BAD_REQUEST,
        ),
        (
            post("/v1/ice-servers").key(KEY).json(r#"{"ttl":"s3cr3t"}"#),
            StatusCode::BAD_REQUEST,
        ),
        (post("/v1/ice-servers").key("s3cr3t"), StatusCode::UNAUTHORIZED),
        (
            post("/v1/ice-servers").key(KEY).json(&big),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        (
            post("/turn?service=turn").key(KEY).form(&"s3cr3t=1&".repeat(1000)),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ];
    for (i, (call, status)) in cases.into_iter().enumerate() {
        let answer = call.send(&api).await;
        assert_eq!(answer.status, status, "case {i}: {}", answer.text);
        let error = answer.json()["error"].as_str().expect("a reason").to_owned();
        assert!(
            !error.contains('\n') && !answer.text.contains("s3cr3t") && !answer.text.contains(KEY),
            "{error}"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let answer = post("/v1/ice-servers").key(KEY).json("\n{\"ttl\":x}").send(&api).await;
    assert!(answer.text.contains("line 2, column 8"), "{}", answer.text);
    assert!(
        get("/v1/ice-servers")
            .send(&api)
            .await
            .header("allow")
            .is_some_and(|allow| allow.contains("POST"))
    );
}

#[tokio::test]
async fn a_body_of_exactly_eight_kib_is_read() {
    let api = api(settings());
    let body = format!("{:<8192}", "{}");
    assert_eq!(
        post("/v1/ice-servers").key(KEY).json(&body).send(&api).await.status,
        StatusCode::OK
    );
    let answer = post("/v1/ice-servers")
        .key(KEY)
        .json(&format!("{body} "))
        .send(&api)
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up_after_five_seconds() {
    let never = Body::new(NeverEnding);
    let begin = tokio::time::Instant::now();
    let mut call = post("/v1/ice-servers")
        .key(KEY)
        .header("content-type", "application/json");
    call.1 = never;
    assert_eq!(call.send(&api(settings())).await.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(begin.elapsed().as_secs(), 5);
}

struct NeverEnding;

impl axum::body::HttpBody for NeverEnding {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn strict_transport_security_is_for_tls_alone() {
    let api = api(settings());
    assert!(get("/").send(&api).await.header("strict-transport-security").is_some());
    assert!(
        get("/none")
            .send(&api)
            .await
            .header("strict-transport-security")
            .is_some()
    );
    let plain = get("/").send_to(api.router(Scheme::Http)).await;
    assert_eq!(plain.header("strict-transport-security"), None);
}

#[tokio::test]
async fn cors_knows_only_the_origins_on_the_list_byte_for_byte() {
    const GOOD: &str = "https://app.example.org";
    let api = api(settings());
    let preflight = |origin: &str| {
        call(Method::OPTIONS, "/v1/ice-servers")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
    };
    let answer = preflight(GOOD).send(&api).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(answer.header("access-control-allow-origin"), Some(GOOD));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST"));
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("authorization, content-type")
    );
    assert_eq!(answer.header("access-control-allow-credentials"), None);

    let answer = post("/v1/ice-servers").key(KEY).header("origin", GOOD).send(&api).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some(GOOD));
    assert!(
        answer
            .header("access-control-expose-headers")
            .is_some_and(|h| h.contains("relay-credential-ttl"))
    );

    for bad in [
        "null",
        "*",
        "http://app.example.org",
        "https://app.example.org.evil.test",
        "https://APP.example.org",
    ] {
        let answer = preflight(bad).send(&api).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{bad}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{bad}");
        let answer = post("/v1/ice-servers").key(KEY).header("origin", bad).send(&api).await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (StatusCode::OK, None),
            "{bad}"
        );
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    assert_eq!(
        post("/v1/ice-servers").key(KEY).send(&api).await.header("vary"),
        Some("Origin")
    );
}

#[tokio::test]
async fn over_the_limit_of_an_address_or_of_a_key_the_caller_is_told_when_to_come_back() {
    let limited = api(ApiSettings {
        mints_per_minute_per_ip: 3,
        ..settings()
    });
    for _ in 0..2 {
        assert_eq!(
            post("/v1/ice-servers").key(KEY).send(&limited).await.status,
            StatusCode::OK
        );
    }
    // Guessing keys uses up the same budget.
    assert_eq!(
        post("/v1/ice-servers").key("guess").send(&limited).await.status,
        StatusCode::UNAUTHORIZED
    );
    let answer = get("/turn?service=turn").key(KEY).send(&limited).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = answer
        .header("retry-after")
        .expect("Retry-After")
        .parse()
        .expect("seconds");
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(
        post("/v1/ice-servers")
            .key(KEY)
            .from("198.51.100.7")
            .send(&limited)
            .await
            .status,
        StatusCode::OK
    );

    let limited = api(ApiSettings {
        mints_per_minute_per_key: 1,
        ..settings()
    });
    assert_eq!(
        post("/v1/ice-servers")
            .key(KEY)
            .from("192.0.2.1")
            .send(&limited)
            .await
            .status,
        StatusCode::OK
    );
    let answer = post("/v1/ice-servers").key(KEY).from("192.0.2.2").send(&limited).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        post("/v1/ice-servers").key(NAMING_KEY).send(&limited).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_server_without_a_shared_secret_says_that_it_cannot_mint() {
    let users_only = Arc::new(Credentials::new(CredentialsConfig::default()).expect("nothing to refuse"));
    let api = Api::new(settings(), users_only, || UnixTime(NOW));
    let answer = post("/v1/ice-servers").key(KEY).send(&api).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_reload_changes_keys_at_once() {
    let api = api(settings());
    let router = api.router(Scheme::Https);
    assert_eq!(
        post("/v1/ice-servers").key(KEY).send_to(router.clone()).await.status,
        StatusCode::OK
    );
    let keys = settings().keys.split_off(1);
    api.set_config(ApiSettings { keys, ..settings() }, credentials());
    assert_eq!(
        post("/v1/ice-servers").key(KEY).send_to(router.clone()).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        post("/v1/ice-servers").key(NAMING_KEY).send_to(router).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn every_response_is_counted_by_route_and_code() {
    let api = api(settings());
    post("/v1/ice-servers").key(KEY).send(&api).await;
    post("/v1/ice-servers").send(&api).await;
    get("/turn?service=turn").key(KEY).send(&api).await;
    get("/elsewhere").send(&api).await;
    let counters = api.counters();
    let count = |route, code| counters.responses(route, CODES.iter().position(|&c| c == code).expect("code"));
    assert_eq!(count(Route::IceServers, 200), 1);
    assert_eq!(count(Route::IceServers, 401), 1);
    assert_eq!(count(Route::Turn, 200), 1);
    assert_eq!(count(Route::Other, 404), 1);
}
