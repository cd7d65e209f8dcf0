//! Who comes without a key: pages of every origin where none is needed, visitors with a browser, balancers.

use super::*;

fn open() -> Api {
    api(ApiSettings {
        open: true,
        ..settings()
    })
}

#[tokio::test]
async fn where_no_key_is_needed_a_page_of_any_origin_may_ask_and_read() {
    let api = open();
    for origin in [
        "https://stranger.example",
        "https://app.example.org",
        "capacitor://localhost",
        "null",
    ] {
        let asks = call(Method::OPTIONS, "/v1/ice-servers")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type");
        let answer = asks.send(&api).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{origin}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST"));

        for call in [
            get("/v1/ice-servers"),
            post("/v1/ice-servers").json("{}"),
            get("/turn?service=turn"),
            post("/?service=turn"),
            get("/ice?service=turn"),
        ] {
            let answer = call.header("origin", origin).send(&api).await;
            assert_eq!(answer.status, StatusCode::OK, "{origin}: {}", answer.text);
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{origin}");
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            // One answer for all origins: there is nothing to vary by.
            assert_eq!(answer.header("vary"), None);
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
    // A page must be able to read why it was refused.
    let refused = get("/v1/ice-servers?ttl=x").header("origin", "https://stranger.example");
    let refused = refused.send(&api).await;
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (StatusCode::BAD_REQUEST, Some("*"))
    );
}

#[tokio::test]
async fn a_get_of_the_modern_form_says_what_the_post_says() {
    let api = api(settings());
    let answer = get("/v1/ice-servers?username=alice&ttl=60")
        .key(NAMING_KEY)
        .send(&api)
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.username(), (NOW + 60, "alice".to_owned()));
    let wish = r#"{"username":"alice","ttl":60}"#;
    let posted = post("/v1/ice-servers").key(NAMING_KEY).json(wish).send(&api).await;
    assert_eq!(answer.text, posted.text);
    assert_eq!(answer.header("relay-credential-ttl"), Some("60"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));

    let forced = get("/v1/ice-servers?forced=true").key(KEY).send(&api).await;
    assert_eq!(forced.json()["iceServers"][0]["urls"], json!(settings().forced_uris));
    for (call, status) in [
        (get("/v1/ice-servers"), StatusCode::UNAUTHORIZED),
        (get("/v1/ice-servers").key("wrong"), StatusCode::UNAUTHORIZED),
        (get(&format!("/v1/ice-servers?key={KEY}")), StatusCode::UNAUTHORIZED),
        (get("/v1/ice-servers?ttl=0").key(KEY), StatusCode::BAD_REQUEST),
        (
            get("/v1/ice-servers").key(KEY).json(r#"{"ttl":60}"#),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
    ] {
        assert_eq!(call.send(&api).await.status, status);
    }
    let asked = call(Method::HEAD, "/v1/ice-servers").key(KEY).send(&api).await;
    assert_eq!((asked.status, asked.text.as_str()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn a_visitor_finds_a_page_that_runs_nothing_loads_nothing_and_tells_no_secret() {
    let closed = api(settings());
    let off = api(ApiSettings {
        enabled: false,
        ..settings()
    });
    for (api, asks) in [(&closed, false), (&open(), true), (&off, false)] {
        let page = get("/").header("host", "turn.example.org:8443").send(api).await;
        assert_eq!(page.status, StatusCode::OK);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert!(
            page.text.starts_with("<!DOCTYPE html>") && page.text.contains("TURN"),
            "{}",
            page.text
        );
        assert_eq!(
            page.text
                .contains("fetch(\"https://turn.example.org:8443/v1/ice-servers\")"),
            asks
        );
        for word in ["<script", "<link", "src=", "url(", KEY, "c5b6a1f2"] {
            assert!(!page.text.contains(word), "{word}: {}", page.text);
        }
        let policy = page.header("content-security-policy").expect("a policy");
        let style = page
            .text
            .split_once("<style>")
            .and_then(|(_, rest)| rest.split_once("</style>"));
        let digest = <sha2::Sha256 as sha2::Digest>::digest(style.expect("a style").0);
        let digest = base64::engine::general_purpose::STANDARD.encode(digest);
        assert!(
            policy.starts_with("default-src 'none'; ") && policy.contains(&format!("style-src 'sha256-{digest}'")),
            "{policy}"
        );
        let head = call(Method::HEAD, "/").send(api).await;
        assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
        assert_eq!(api.counters().responses(ApiRoute::Page, 0), 2);
    }
    assert_eq!(
        post("/?service=turn").send(&off).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(get("/v1/ice-servers").send(&off).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_balancer_learns_whether_the_process_is_alive_and_nothing_else() {
    let api = api(settings());
    for (heartbeat, status, body) in [
        (0, StatusCode::OK, r#"{"alive":true}"#),
        (60, StatusCode::SERVICE_UNAVAILABLE, r#"{"alive":false}"#),
    ] {
        let router = api.front_door(health(Duration::from_secs(heartbeat)), None);
        let answer = get("/healthz").send_to(router.clone()).await;
        assert_eq!((answer.status, answer.text.as_str()), (status, body));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let head = call(Method::HEAD, "/healthz").send_to(router.clone()).await;
        assert_eq!((head.status, head.text.as_str()), (status, ""));
        for elsewhere in ["/readyz", "/metrics", "/healthz/"] {
            let answer = get(elsewhere).send_to(router.clone()).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{elsewhere}");
        }
    }
    assert_eq!(api.counters().responses(ApiRoute::Healthz, 0), 2);
}
