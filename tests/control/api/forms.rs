//! What is asked and answered: both forms, lifetimes, userids, errors.

use super::*;

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
async fn a_userid_that_cannot_be_one_is_refused_in_both_forms() {
    let api = api(settings());
    let long = "x".repeat(489);
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
}

//= REST-08
#[tokio::test]
async fn a_userid_may_be_as_long_as_a_matrix_id_and_longer_in_both_forms() {
    let api = api(settings());
    for len in [129, 255, 488] {
        let userid = "x".repeat(len);
        let query = format!("/turn?service=turn&username={userid}");
        let answer = get(&query).key(NAMING_KEY).send(&api).await;
        assert_eq!(answer.status, StatusCode::OK, "{len}");
        assert!(
            answer.json()["username"]
                .as_str()
                .expect("username")
                .ends_with(&format!(":{userid}"))
        );
        let body = format!(r#"{{"username":"{userid}"}}"#);
        let answer = post("/v1/ice-servers").key(NAMING_KEY).json(&body).send(&api).await;
        assert_eq!(answer.status, StatusCode::OK, "{len}");
    }
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
        (call(Method::PUT, "/"), StatusCode::METHOD_NOT_ALLOWED),
        (call(Method::PUT, "/v1/ice-servers"), StatusCode::METHOD_NOT_ALLOWED),
        (post("/healthz?s3cr3t"), StatusCode::METHOD_NOT_ALLOWED),
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
    for (uri, allowed) in [
        ("/", "GET,HEAD,POST"),
        ("/turn", "GET,HEAD,POST"),
        ("/v1/ice-servers", "GET,HEAD,POST"),
        ("/healthz", "GET,HEAD"),
    ] {
        let answer = call(Method::DELETE, uri).send(&api).await;
        assert_eq!(answer.header("allow"), Some(allowed), "{uri}");
    }
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

/// `curl -d key=$KEY` sends a `+` as it is, and a form has that for a space.
#[tokio::test]
async fn a_plus_in_a_key_need_not_be_encoded_in_a_form_or_a_query_string() {
    const BASE64: &str = "q+Zx/0aB3+dE5fG7hI9jK1lM3nO5pQ7r+S9tU1vW3xY=";
    let mut settings = settings();
    settings.keys[0].key = BASE64.into();
    settings.query_key = true;
    let api = api(settings);
    for written in [
        BASE64.to_owned(),
        BASE64.replace('+', "%2B"),
        BASE64.replace('+', "%20"),
    ] {
        for parameter in ["key", "api"] {
            let wish = format!("service=turn&{parameter}={written}");
            let answer = post("/turn").form(&wish).send(&api).await;
            assert_eq!(answer.status, StatusCode::OK, "form {wish}: {}", answer.text);
            let answer = get(&format!("/turn?{wish}")).send(&api).await;
            assert_eq!(answer.status, StatusCode::OK, "query {wish}: {}", answer.text);
        }
    }
    // In a user's name a space stays one.
    let named = post("/turn").key(NAMING_KEY).form("service=turn&username=a+b");
    assert_eq!(named.send(&api).await.username().1, "a b");
}

#[tokio::test]
async fn in_front_of_a_web_server_the_apis_paths_stay_ours_and_the_rest_is_its() {
    let api = api(settings());
    let send = |call: Call| {
        let site = Router::new().fallback(async |request: Request<Body>| {
            (
                StatusCode::IM_A_TEAPOT,
                format!("{} {}", request.method(), request.uri()),
            )
        });
        call.send_to(api.front_door(health(Duration::ZERO), Some(site)))
    };
    for ours in [
        post("/v1/ice-servers").key(KEY),
        get("/turn?service=turn").key(KEY),
        post("/").form(&format!("service=turn&key={KEY}")),
    ] {
        let answer = send(ours).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert!(answer.header("cache-control").is_some());
    }
    assert_eq!(send(post("/v1/ice-servers")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(send(get("/v1/ice-servers")).await.status, StatusCode::UNAUTHORIZED);
    for its in [
        "/",
        "/healthz",
        "/index.html?x=1",
        "/turn/x",
        "/v1/ice-servers/x",
        "/v1",
    ] {
        let answer = send(get(its)).await;
        assert_eq!(
            (answer.status, answer.text),
            (StatusCode::IM_A_TEAPOT, format!("GET {its}"))
        );
        assert_eq!(
            answer.headers.get("cache-control"),
            None,
            "its answers are left as they are"
        );
    }
    assert_eq!(send(call(Method::PUT, "/")).await.text, "PUT /");
}

#[tokio::test]
async fn without_a_uri_to_hand_out_there_is_no_credential() {
    // A browser throws at an entry without URLs.
    for uris in [vec![], vec!["stun:turn.example.org:3478".to_owned()]] {
        let api = api(ApiSettings { uris, ..settings() });
        for call in [
            post("/v1/ice-servers").key(KEY),
            get("/turn?service=turn").key(KEY),
            get("/ice?service=turn").key(KEY),
        ] {
            let answer = call.send(&api).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
        }
    }
}
