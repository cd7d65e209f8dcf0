//! The credentials API, through its router and over the front door's TLS.

mod access;
mod elsewhere;
mod forced;
mod forms;
mod front_door;
mod visitors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use relay::base::time::UnixTime;
use relay::config::settings::{ApiKey, ApiSettings};
use relay::control::api::counters::{ApiRoute, CODES};
use relay::control::api::{Api, Scheme};
use relay::control::health::Health;
use relay::turn::login::credential::{Credentials, CredentialsConfig, Secret};
use serde_json::{Value, json};
use sha1::Sha1;
use tower::ServiceExt;

const SECRET: &[u8] = b"c5b6a1f2e7d84930b1c2d3e4f5061728";
const NOW: u64 = 1_893_456_000;
const KEY: &str = "app-key-0123456789abcdef";
const FORCED_KEY: &str = "forced-key-0123456789abcdef";
const NAMING_KEY: &str = "naming-key-0123456789abcdef";

fn settings() -> ApiSettings {
    let key = |name: &str, key: &str, choose_username| ApiKey {
        name: name.into(),
        key: key.into(),
        choose_username,
        forced: name == "forced",
    };
    ApiSettings {
        enabled: true,
        host_from_address: false,
        host: "turn.example.org".into(),
        uris: vec![
            "turns:turn.example.org:443?transport=tcp".into(),
            "turn:turn.example.org:3478?transport=udp".into(),
        ],
        forced_uris: vec!["turns:turn.example.org:443?transport=tcp".into()],
        uris_from_listeners: false,
        forced: false,
        relay_only: true,
        keys: vec![
            key("app", KEY, false),
            key("naming", NAMING_KEY, true),
            key("forced", FORCED_KEY, true),
        ],
        open: false,
        query_key: false,
        cors_origins: vec!["https://app.example.org".into()],
        default_ttl: Duration::from_secs(3600),
        max_ttl: Duration::from_secs(86_400),
        mints_per_minute_per_key: 0,
        mints_per_minute_per_ip: 0,
        mints_per_minute_per_network: 0,
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

/// Of a process whose slowest worker came round so long ago.
fn health(heartbeat: Duration) -> Arc<Health> {
    Arc::new(Health::new(Vec::new(), Arc::default(), 1, move || heartbeat))
}

/// What a front door answers without a web server behind it.
fn front_door(api: &Api) -> Router {
    api.front_door(health(Duration::ZERO), None)
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
        self.send_to(front_door(api)).await
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
