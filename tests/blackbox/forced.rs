//! Forced relay: minted credentials name only the forced path, and are valid only there. The front
//! door takes the role of port 443.

use relay::base::address::Transport;
use relay::wire::attribute::AttributeType;
use relay::wire::message::Method;
use serde_json::Value;

use crate::client::{Client, Login};
use crate::credentials::{https, post};
use crate::harness::{API_KEY, SECRET, Server, minted};

const FORCED_KEY: &str = "f-7Wq2Lx9Tz4Vb8Nm3Rc6Yh1Kd5Js0Pg";
const EVERYWHERE: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

/// A server with two keys, one of them forced, and two static users.
fn server(forced_relay: &str) -> Server {
    Server::start_custom(&format!(
        r#"[credentials]
secrets = ["{SECRET}"]
users = [
    {{ name = "guard", password = "a long enough password", forced = true }},
    {{ name = "guest", password = "a long enough password" }},
]

[api]
host = "127.0.0.1"
keys = [
    {{ name = "some", key = "{API_KEY}" }},
    {{ name = "forced", key = "{FORCED_KEY}", forced = true }},
]

[forced_relay]
ports = [@DOOR@]
{forced_relay}"#
    ))
}

/// `Err` has the error code.
type Outcome = Result<(), u16>;

/// The results of an Allocate with `login`, on all listeners except the front door, and on the
/// front door.
fn outcomes(server: &Server, login: &Login) -> ([Outcome; 4], [Outcome; 3]) {
    let beside = [
        (Transport::Udp, server.plain),
        (Transport::Tcp, server.plain),
        (Transport::Tls, server.tls),
        (Transport::Tcp, server.tls),
    ];
    let allocate = |(transport, address)| {
        let mut client = Client::over_transport(transport, address).with_login(login);
        let outcome = client.allocate().map(drop);
        client.refresh(0);
        outcome
    };
    (
        beside.map(allocate),
        EVERYWHERE.map(|transport| allocate((transport, server.door))),
    )
}

/// Mints over HTTPS, and checks that the answer names only the front door.
fn mint_forced(server: &Server, key: &str, body: &str) -> Login {
    let bearer = format!("Authorization: Bearer {key}\r\n");
    let (status, _, body) = https(server, &post("/v1/ice-servers", &bearer, body));
    assert_eq!(status, 200, "{body}");
    let config: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(config["iceTransportPolicy"], "relay");
    let [ice] = &config["iceServers"].as_array().expect("a list")[..] else {
        panic!("one entry: {body}");
    };
    let port = server.door.port();
    let expected = [
        format!("turns:127.0.0.1:{port}?transport=tcp"),
        format!("turn:127.0.0.1:{port}?transport=udp"),
        format!("turn:127.0.0.1:{port}?transport=tcp"),
    ];
    assert_eq!(ice["urls"], serde_json::json!(expected));
    let text = |name: &str| ice[name].as_str().expect("text").to_owned();
    Login {
        username: text("username"),
        password: text("credential"),
    }
}

//= FORCED-02
//= FORCED-04
#[test]
fn a_forced_credential_is_told_one_port_and_good_on_one_port() {
    let server = server("");
    let key = mint_forced(&server, FORCED_KEY, "{}");
    let wish = mint_forced(&server, API_KEY, r#"{"forced":true}"#);
    let user = Login::new("guard", "a long enough password");
    for (n, login) in (1..).zip([key, wish, user]) {
        let (beside, door) = outcomes(&server, &login);
        assert_eq!(beside, [Err(403); 4], "{login:?}");
        assert_eq!(door, [Ok(()); 3], "{login:?}");
        server.wait_for_metric("relay_forced_refused_total", "", f64::from(4 * n));
    }
    for login in [
        minted(SECRET, 600, "alice"),
        Login::new("guest", "a long enough password"),
    ] {
        let (beside, door) = outcomes(&server, &login);
        assert_eq!((beside, door), ([Ok(()); 4], [Ok(()); 3]), "{login:?}");
    }
    // Without the mark, the password is wrong.
    let login = mint_forced(&server, FORCED_KEY, "{}");
    let bare = Login::new(&login.username.replace("+forced", ""), &login.password);
    assert_eq!(outcomes(&server, &bare), ([Err(401); 4], [Err(401); 3]));
}

//= FORCED-02
#[test]
fn the_refusal_says_why() {
    let server = server("");
    for (transport, address) in [
        (Transport::Udp, server.plain),
        (Transport::Tcp, server.plain),
        (Transport::Tls, server.tls),
    ] {
        let mut client = Client::over_transport(transport, address).with_login(&mint_forced(&server, FORCED_KEY, "{}"));
        let answer = client.request(Method::Allocate, |w| {
            w.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        });
        let value = answer
            .message()
            .attribute(AttributeType::ERROR_CODE)
            .expect("an error")
            .to_vec();
        let reason = String::from_utf8_lossy(&value[4..]).into_owned();
        assert_eq!(reason, "Forbidden: not on this port (forced relay)", "{transport}");
    }
}

//= FORCED-02
//= FORCED-04
//= FORCED-05
#[test]
fn where_everyone_is_forced_nobody_allocates_elsewhere_and_no_binding_is_answered() {
    let server = server("everyone = true\nbinding = false\n");
    let forced = [
        mint_forced(&server, API_KEY, "{}"),
        // From an SFU that does not know of it.
        minted(SECRET, 600, "alice"),
        Login::new("guest", "a long enough password"),
    ];
    for login in forced {
        assert_eq!(outcomes(&server, &login), ([Err(403); 4], [Ok(()); 3]), "{login:?}");
    }
    assert!(Client::udp(server.plain).binding().is_some());
    let mut quiet = Client::udp(server.door);
    quiet.send_raw(&[
        0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
    ]);
    assert_eq!(quiet.receive(crate::client::SILENCE), None);
    server.wait_for_log("still open");
}
