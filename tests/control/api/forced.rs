//! Forced relay: who is told nothing but the forced path.

use super::*;

const ONLY: &str = "turns:turn.example.org:443?transport=tcp";

/// A configuration that tells of other ways, too.
fn open_settings() -> ApiSettings {
    let mut settings = settings();
    settings.relay_only = false;
    settings.uris.push("stun:turn.example.org:3478".into());
    settings
}

fn assert_forced(answer: &Answer, userid: &str) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let username = format!("{}+forced:{userid}", NOW + 3600);
    assert_eq!(
        answer.json(),
        json!({
            "iceServers": [{ "urls": [ONLY], "username": username, "credential": password_of(&username) }],
            "iceTransportPolicy": "relay",
        })
    );
}

//= FORCED-04
#[tokio::test]
async fn a_forced_key_mints_nothing_but_the_forced_path() {
    let api = api(open_settings());
    let answer = post("/v1/ice-servers")
        .key(FORCED_KEY)
        .json(r#"{"username":"alice"}"#)
        .send(&api)
        .await;
    assert_forced(&answer, "alice");
    // Saying otherwise changes nothing.
    let wish = r#"{"username":"alice","forced":false}"#;
    assert_forced(
        &post("/v1/ice-servers").key(FORCED_KEY).json(wish).send(&api).await,
        "alice",
    );
    let draft = get("/turn?service=turn&username=alice&forced=false")
        .key(FORCED_KEY)
        .send(&api)
        .await
        .json();
    let username = format!("{}+forced:alice", NOW + 3600);
    assert_eq!(
        draft,
        json!({ "username": username, "password": password_of(&username), "ttl": 3600, "uris": [ONLY] })
    );
}

//= FORCED-04
#[tokio::test]
async fn any_key_may_ask_for_a_forced_credential() {
    let api = api(open_settings());
    let wish = r#"{"username":"bob","forced":true}"#;
    assert_forced(
        &post("/v1/ice-servers").key(NAMING_KEY).json(wish).send(&api).await,
        "bob",
    );
    let draft = post("/turn")
        .key(NAMING_KEY)
        .form("service=turn&username=bob&forced=true")
        .send(&api)
        .await
        .json();
    assert_eq!(
        (&draft["uris"], draft["username"].as_str()),
        (&json!([ONLY]), Some(&*format!("{}+forced:bob", NOW + 3600)))
    );
    // And without asking the answer is what it always was.
    let free = post("/v1/ice-servers")
        .key(NAMING_KEY)
        .json(r#"{"username":"bob"}"#)
        .send(&api)
        .await;
    assert_eq!(free.username(), (NOW + 3600, "bob".to_owned()));
    assert_eq!(
        free.json()["iceServers"].as_array().map(Vec::len),
        Some(2),
        "TURN and STUN"
    );
    assert_eq!(free.json().get("iceTransportPolicy"), None);
    for bad in ["forced=1", "forced=", "forced=TRUE"] {
        let answer = get(&format!("/turn?service=turn&{bad}"))
            .key(NAMING_KEY)
            .send(&api)
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

//= FORCED-04
#[tokio::test]
async fn where_everyone_is_forced_every_answer_is() {
    let mut settings = open_settings();
    settings.forced = true;
    let answer = post("/v1/ice-servers")
        .key(NAMING_KEY)
        .json(r#"{"username":"carol"}"#)
        .send(&api(settings))
        .await;
    assert_forced(&answer, "carol");
}

#[tokio::test]
async fn without_a_forced_path_there_is_no_forced_credential() {
    let mut settings = open_settings();
    settings.forced_uris.clear();
    let api = api(settings);
    let answer = post("/v1/ice-servers").key(FORCED_KEY).send(&api).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
    let answer = post("/v1/ice-servers").key(KEY).send(&api).await;
    assert_eq!(answer.status, StatusCode::OK);
}
