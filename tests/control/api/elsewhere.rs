//! The forms of other services.

use super::*;

const GENERATE: &str = "/v1/turn/keys/naming/credentials/generate-ice-servers";

fn configuration(username: &str, policy: Option<&str>) -> Value {
    let mut expected = json!({
        "iceServers": [{
            "urls": ["turns:turn.example.org:443?transport=tcp", "turn:turn.example.org:3478?transport=udp"],
            "username": username,
            "credential": password_of(username),
        }],
    });
    if let Some(policy) = policy {
        expected["iceTransportPolicy"] = policy.into();
    }
    expected
}

#[tokio::test]
async fn stunners_form_takes_the_drafts_parameters_and_always_tells_the_policy() {
    let wish = "/ice?service=turn&ttl=600&username=my-user&namespace=my-namespace&gateway=my-gateway";
    let mut settings = settings();
    for (relay_only, policy) in [(true, "relay"), (false, "all")] {
        settings.relay_only = relay_only;
        let api = api(settings.clone());
        for call in [get(wish), post("/ice").form(&wish[5..])] {
            let answer = call.key(NAMING_KEY).send(&api).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
            let username = format!("{}:my-user", NOW + 600);
            assert_eq!(answer.json(), configuration(&username, Some(policy)));
        }
        for (uri, status) in [
            ("/ice?ttl=600", StatusCode::BAD_REQUEST),
            ("/ice?service=turn&ttl=0", StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(get(uri).key(KEY).send(&api).await.status, status, "{uri}");
        }
        assert_eq!(
            get("/ice?service=turn").send(&api).await.status,
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(api.counters().responses(ApiRoute::Ice, 0), 2);
    }
}

#[tokio::test]
async fn cloudflares_form_names_its_key_and_answers_201() {
    let mut settings = settings();
    settings.relay_only = false;
    let api = api(settings);
    let answer = post(GENERATE)
        .key(NAMING_KEY)
        .json(r#"{"ttl":600,"customIdentifier":"user4"}"#)
        .send(&api)
        .await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let username = format!("{}:user4", NOW + 600);
    assert_eq!(answer.json(), configuration(&username, None));
    assert_eq!(api.counters().responses(ApiRoute::GenerateIceServers, 1), 1);
    // A key of another name, none, a wrong one; the older path and the revocation are not served.
    for call in [post(GENERATE).key(KEY), post(GENERATE), post(GENERATE).key("wrong")] {
        assert_eq!(
            call.json(r#"{"ttl":600}"#).send(&api).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    let revoke = "/v1/turn/keys/naming/credentials/user4/revoke";
    assert_eq!(
        post(revoke).key(NAMING_KEY).send(&api).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        get(GENERATE).key(NAMING_KEY).send(&api).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
}
