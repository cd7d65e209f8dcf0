//! The API's paths, in any spelling, and its keys stay here when there is a web server behind.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use relay::base::time::UnixTime;
use relay::config::settings::{ApiKey, ApiSettings};
use relay::control::api::Api;
use relay::turn::login::credential::{Credentials, CredentialsConfig, Secret};
use tokio::io::AsyncWriteExt;

use crate::recorder::Recorder;
use crate::support::*;

const KEY: &str = "app/key+0123456789abcdef==";
/// The same in a form or a query.
const ENCODED: &str = "app%2Fkey%2B0123456789abcdef%3D%3D";

fn api() -> Api {
    let secret = Secret::new(b"c5b6a1f2e7d84930b1c2d3e4f5061728");
    let credentials = Credentials::new(CredentialsConfig {
        secrets: vec![secret],
        ..CredentialsConfig::default()
    });
    let settings = ApiSettings {
        enabled: true,
        host: "relay.test".into(),
        host_from_address: false,
        uris: vec!["turns:relay.test:443?transport=tcp".into()],
        forced_uris: Vec::new(),
        uris_from_listeners: false,
        forced: false,
        relay_only: false,
        keys: vec![ApiKey {
            name: "app".into(),
            key: KEY.into(),
            choose_username: false,
            forced: false,
        }],
        open: false,
        query_key: true,
        cors_origins: Vec::new(),
        default_ttl: Duration::from_secs(3600),
        max_ttl: Duration::from_secs(3600),
        mints_per_minute_per_key: 0,
        mints_per_minute_per_ip: 0,
        mints_per_minute_per_network: 0,
    };
    Api::new(settings, Arc::new(credentials.unwrap()), || UnixTime(1_893_456_000))
}

async fn ask(door: &Door, request: &str) -> String {
    let mut client = door.connect_tls(&[b"http/1.1"]).await.unwrap();
    in_time("a request to be taken", client.write_all(request.as_bytes()))
        .await
        .unwrap();
    String::from_utf8(until_closed(&mut client).await).unwrap()
}

fn request(start: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{start} HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

//= REST-14
#[tokio::test]
async fn the_apis_paths_end_here_however_they_are_written() {
    let web = Recorder::start().await;
    let door = Door::with_api(limits(), &web.settings, &api());
    let bearer = format!("Authorization: Bearer {KEY}\r\n");
    for path in [
        "/v1/ice-servers/",
        "/v1//ice-servers",
        "/v1/./ice-servers",
        "/x/../v1/ice-servers",
        "/v1/ice%2Dservers",
        "/v1%2fice-servers",
        "/V1/ICE-SERVERS",
        "/v1/ice-servers;a=b",
        "/v1\\ice-servers",
        "//turn?service=turn",
        "/turn/?service=turn",
        "/%74urn?service=turn",
        "/%2574urn?service=turn",
        "/turn%00?service=turn",
        "/turn.?service=turn",
        "/ice/?service=turn",
        "http://relay.test//turn?service=turn",
        "/v1/turn/keys/app/credentials/generate-ice-servers/",
        "/v1/turn/keys/app//credentials/generate-ice-servers",
    ] {
        for (method, headers) in [("GET", bearer.as_str()), ("POST", bearer.as_str()), ("GET", "")] {
            let answer = ask(&door, &request(&format!("{method} {path}"), headers, "")).await;
            // A backslash is no character of a target: refused before anybody looks at it.
            let refused = answer.starts_with("HTTP/1.1 404 ") || answer.starts_with("HTTP/1.1 400 ");
            assert!(refused, "{method} {path}: {answer}");
            assert_eq!(web.seen(), "", "{method} {path}");
        }
    }
    // The very paths are served, also to who writes the whole URL, and others are the web server's.
    for path in [
        "/v1/ice-servers",
        "http://relay.test/v1/ice-servers",
        "/turn?service=turn",
    ] {
        let answer = ask(&door, &request(&format!("GET {path}"), &bearer, "")).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("1893459600:"),
            "{path}: {answer}"
        );
        assert_eq!(web.seen(), "", "{path}");
    }
    for path in [
        "/",
        "/turner",
        "/turn/lathe",
        "/ice/cream",
        "/v1/ice-servers/x",
        "/healthz",
    ] {
        let answer = ask(&door, &request(&format!("GET {path}"), "", "")).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("found"),
            "{path}: {answer}"
        );
        assert!(web.take().starts_with(&format!("GET {path} HTTP/1.1\r\n")));
    }
}

//= REST-14
#[tokio::test]
async fn no_key_of_the_api_reaches_the_web_server() {
    let web = Recorder::start().await;
    let door = Door::with_api(limits(), &web.settings, &api());
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let basic = BASE64_STANDARD.encode(format!("user:{KEY}"));
    let cases = [
        ("GET /page", format!("Authorization: Bearer {KEY}\r\n"), String::new()),
        ("GET /page", format!("Authorization: bearer  {KEY}\r\n"), String::new()),
        ("GET /page", format!("Authorization: {KEY}\r\n"), String::new()),
        ("GET /page", format!("Authorization: Basic {basic}\r\n"), String::new()),
        (
            "GET /page",
            format!("Authorization: Bearer x\r\nAuthorization: Bearer {KEY}\r\n"),
            String::new(),
        ),
        ("GET /page", format!("X-API-Key: {KEY}\r\n"), String::new()),
        ("GET /page", format!("Cookie: a=b; key={KEY}; c=d\r\n"), String::new()),
        (
            "GET /page",
            format!("Referer: https://relay.test/turn?key={ENCODED}\r\n"),
            String::new(),
        ),
        ("POST /page", form.to_owned(), format!("service=turn&key={ENCODED}")),
        ("POST /page", form.to_owned(), format!("api={KEY}&x=1")),
        ("POST /page", String::new(), format!("key={ENCODED}")),
        ("PUT /page", form.to_owned(), format!("key={ENCODED}")),
    ];
    for (start, headers, body) in &cases {
        let answer = ask(&door, &request(start, headers, body)).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{start} {headers}{body}: {answer}");
        assert!(!answer.contains(KEY), "{answer}");
        assert_eq!(web.seen(), "", "{start} {headers}{body}");
    }
    for target in [
        format!("/page?key={ENCODED}"),
        format!("/page?api={KEY}"),
        format!("/page?token={ENCODED}"),
        format!("/turner?service=turn&key={}", ENCODED.replace('%', "%25")),
        format!("/page/{ENCODED}"),
    ] {
        let answer = ask(&door, &request(&format!("GET {target}"), "", "")).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
        assert_eq!(web.seen(), "", "{target}");
    }
    // In pieces, and with trailers.
    let chunked = format!(
        "POST /page HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n{form}Transfer-Encoding: chunked\r\n\r\n\
         8\r\nkey=app%\r\n{:x}\r\n{}\r\n0\r\nX-Key: {KEY}\r\n\r\n",
        ENCODED.len() - 4,
        &ENCODED[4..],
    );
    assert!(ask(&door, &chunked).await.starts_with("HTTP/1.1 403 "));
    assert_eq!(web.seen(), "");
}

//= REST-14
#[tokio::test]
async fn other_logins_and_forms_reach_the_web_server_as_they_were() {
    let web = Recorder::start().await;
    let door = Door::with_api(limits(), &web.settings, &api());
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    for (start, headers, body) in [
        (
            "GET /page?key=other",
            "Authorization: Bearer other-key-0123456789abcdef\r\n",
            String::new(),
        ),
        ("GET /page", "Cookie: key=value\r\n", String::new()),
        ("POST /page", form, "key=other&x=%2B".to_owned()),
        ("POST /page", form, format!("x={}", "y".repeat(100_000))),
        ("POST /page", "Content-Type: text/plain\r\n", "z".repeat(50_000)),
    ] {
        let answer = ask(&door, &request(start, headers, &body)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{start} {headers}: {answer}");
        let seen = web.take();
        let (head, came) = seen.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(start) && head.to_lowercase().contains(&headers.trim().to_lowercase()),
            "{head}"
        );
        assert!(
            came == body,
            "{start} {headers}: {} of {} bytes",
            came.len(),
            body.len()
        );
    }
}
