//! Who may ask: keys, origins, limits, reload; and what is counted.

use super::*;

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
    let plain = get("/turn").send_to(api.routes(Scheme::Http)).await;
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
    for call in [post("/v1/ice-servers"), get("/turn?service=turn")] {
        let answer = call.key(KEY).from("192.0.2.2").send(&limited).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "every form draws on it");
    }
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
    let router = front_door(&api);
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
    assert_eq!(count(ApiRoute::IceServers, 200), 1);
    assert_eq!(count(ApiRoute::IceServers, 401), 1);
    assert_eq!(count(ApiRoute::Turn, 200), 1);
    assert_eq!(count(ApiRoute::Other, 404), 1);
}

#[tokio::test]
async fn the_page_of_a_web_view_reads_answers_under_a_scheme_of_its_own() {
    const VIEWS: [&str; 3] = ["capacitor://localhost", "tauri://localhost", "app://."];
    let api = api(ApiSettings {
        cors_origins: VIEWS.map(String::from).to_vec(),
        ..settings()
    });
    for origin in VIEWS {
        let answer = post("/v1/ice-servers")
            .key(KEY)
            .header("origin", origin)
            .send(&api)
            .await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    }
    let other = post("/v1/ice-servers")
        .key(KEY)
        .header("origin", "capacitor://elsewhere");
    assert_eq!(other.send(&api).await.header("access-control-allow-origin"), None);
}
