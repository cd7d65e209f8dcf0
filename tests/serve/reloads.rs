//! What a reload changes for those who are served, and what a later event makes of it.

use relay::base::time::UnixTime;
use relay::turn::login::credential::mint;

use super::*;
use crate::changes::{put, stun_server};

const OTHER_KEY: &str = "key-of-the-other-application-42";
/// 1 while all of the file is in force.
const IN_FORCE: &str = "relay_config_last_reload_successful";

/// Which of `secrets` the credential in an answer of the API was made from.
fn minted_from<'a>(answer: &support::Answer, secrets: &[&'a str]) -> Option<&'a str> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let entry = &json["iceServers"][0];
    let text = |name: &str| entry[name].as_str().expect("text").to_owned();
    let (username, password) = (text("username"), text("credential"));
    let (expiry, userid) = username.split_once(':').expect("expiry:userid");
    let expiry = UnixTime(expiry.parse().expect("seconds"));
    let made_from = |secret: &&&str| {
        let minted = mint(secret.as_bytes(), expiry, Some(userid)).expect("minted");
        minted.password == password
    };
    secrets.iter().find(made_from).copied()
}

#[test]
fn the_api_mints_with_the_new_first_secret_and_knows_the_new_keys() {
    const SECRETS: [&str; 2] = [SECRET, NEXT_SECRET];
    let setup = Setup::new();
    let server = setup.start();
    assert_eq!(minted_from(&setup.mint(), &SECRETS), Some(SECRET));
    assert_eq!(setup.mint_with(OTHER_KEY).status, 401);

    let text = setup.base().replace(KEY, OTHER_KEY);
    setup.write(&format!(
        "{text}[credentials]\nsecrets = [\"{NEXT_SECRET}\", \"{SECRET}\"]\n"
    ));
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(RELOADED, 1.0);
    assert_eq!(setup.mint().status, 401, "the key is not in the file any more");
    assert_eq!(minted_from(&setup.mint_with(OTHER_KEY), &SECRETS), Some(NEXT_SECRET));
    for secret in SECRETS {
        assert!(
            matches!(setup.allocate(secret), Outcome::Allocated(_)),
            "both are valid"
        );
    }
    // The same API behind TLS.
    let over_tls = |key: &str| {
        let request = format!(
            "POST /v1/ice-servers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        http(support::tls(connect(local(setup.tls))), &request)
    };
    assert_eq!(over_tls(KEY).status, 401);
    assert_eq!(minted_from(&over_tls(OTHER_KEY), &SECRETS), Some(NEXT_SECRET));
}

/// The order in which they are valid is the order in which they are written.
#[test]
fn what_is_minted_is_made_from_the_secret_that_is_named_first() {
    const SECRETS: [&str; 3] = [SECRET, NEXT_SECRET, "77aa0099bbcc11ddee22ff3344556688"];
    let setup = Setup::new();
    let [first, a, b] = [0, 1, 2].map(|n| {
        let file = setup.dir.file(&format!("secret-{n}"), SECRETS[n]);
        file.display().to_string()
    });
    for (credentials, from) in [
        (
            format!("secret_files = [\"{a}\", \"{b}\"]\nsecret_file = \"{first}\""),
            SECRETS[0],
        ),
        (format!("secret_files = [\"{a}\", \"{b}\"]"), SECRETS[1]),
        (
            format!("secrets = [\"{}\"]\nsecret_files = [\"{b}\"]", SECRETS[0]),
            SECRETS[2],
        ),
    ] {
        let config = setup.write(&format!("{}[credentials]\n{credentials}\n", setup.base()));
        let _server = Server::start(&config);
        assert_eq!(minted_from(&setup.mint(), &SECRETS), Some(from), "{credentials}");
    }
}

/// Half of what is wrong with a reload is mended before the other half.
#[test]
fn what_a_reload_left_as_it_was_is_what_the_reload_before_brought() {
    let setup = Setup::new();
    let mut server = setup.start();
    setup.dir.file("secret", NEXT_SECRET);
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(RELOADED, 1.0);
    setup.wait_for_metric(IN_FORCE, 1.0);
    std::fs::remove_file(setup.dir.join("secret")).expect("removed");
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(PARTLY_RELOADED, 1.0);
    setup.wait_for_metric(IN_FORCE, 0.0);
    server.wait_for_log("not reloaded: credentials");
    assert_eq!(setup.allocate(SECRET), Outcome::Refused(401));
    assert!(matches!(setup.allocate(NEXT_SECRET), Outcome::Allocated(_)));
    assert_eq!(minted_from(&setup.mint(), &[SECRET, NEXT_SECRET]), Some(NEXT_SECRET));
}

/// docs/decisions/0036: everything else takes effect.
#[test]
fn a_certificate_that_cannot_be_used_makes_a_reload_partial_until_it_can() {
    let setup = Setup::new();
    let tls = put(&setup, "old.example.org");
    let mut server = Server::start(&setup.write(&format!("{}{tls}", setup.with_secret_file())));
    setup.dir.file("key.pem", "no key at all");
    setup.dir.file("secret", NEXT_SECRET);
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(PARTLY_RELOADED, 1.0);
    setup.wait_for_metric(IN_FORCE, 0.0);
    // Behind everything that is not in force, each told once.
    server.wait_for_log("reloaded in part");
    assert_eq!(server.errors().matches("not reloaded: certificates").count(), 1);
    assert_eq!(support::name_shown(local(setup.tls)), "old.example.org");
    assert_eq!(setup.allocate(SECRET), Outcome::Refused(401));
    assert_eq!(minted_from(&setup.mint(), &[SECRET, NEXT_SECRET]), Some(NEXT_SECRET));

    put(&setup, "new.example.org");
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(RELOADED, 1.0);
    setup.wait_for_metric(IN_FORCE, 1.0);
    setup.wait_for_metric(PARTLY_RELOADED, 1.0);
    assert_eq!(support::name_shown(local(setup.tls)), "new.example.org");
}

#[test]
fn a_second_sighup_while_the_file_is_read_has_it_read_again() {
    let setup = Setup::new();
    let (port, says) = stun_server();
    *says.lock().expect("lock") = Some("192.0.2.1:1".parse().expect("an address"));
    let text = |allocations: u32| {
        let text = setup.with_secret_file().replace(
            "ipv4 = \"127.0.0.1\"\nipv6",
            &format!("ipv4 = \"stun:127.0.0.1:{port}\"\nstun_timeout = \"2s\"\nipv6"),
        );
        format!("{text}[limits]\nallocations = {allocations}\n")
    };
    let mut server = Server::start(&setup.write(&text(100)));
    let room = || {
        let json: serde_json::Value = serde_json::from_str(&get(local(setup.admin), "/readyz").body).expect("JSON");
        json["allocations_limit"].as_u64()
    };
    assert_eq!(room(), Some(100));
    // The first reload takes as long as nobody answers it.
    *says.lock().expect("lock") = None;
    setup.write(&text(200));
    server.signal(Signal::SIGHUP);
    server.wait_for_log("SIGHUP: reading the configuration again");
    setup.write(&text(300));
    server.signal(Signal::SIGHUP);
    support::eventually("the second file to be in force", || room() == Some(300));
    assert_eq!(
        server
            .errors()
            .matches("SIGHUP: reading the configuration again")
            .count(),
        2
    );
}

/// Until now nothing was looked for.
#[test]
fn external_addresses_are_followed_from_the_reload_on_that_says_so() {
    let setup = Setup::new();
    let (port, says) = stun_server();
    let say = |address: &str| *says.lock().expect("lock") = Some(address.parse().expect("an address"));
    say("192.0.2.1:1");
    let text = |recheck: &str| {
        let text = setup.with_secret_file().replace(
            "ipv4 = \"127.0.0.1\"\nipv6",
            &format!("ipv4 = \"stun:127.0.0.1:{port}\"\nrecheck = \"{recheck}\"\nipv6"),
        );
        // Without a name of its own the server offers its address.
        text.replace("[api]\nhost = \"127.0.0.1\"\n", "[api]\n")
            .replace(REALM, "relay")
            .replace(&format!("127.0.0.1:{}", setup.turn), &format!("0.0.0.0:{}", setup.turn))
    };
    let mut server = Server::start(&setup.write(&text("off")));
    setup.write(&text("5s"));
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(RELOADED, 1.0);
    say("192.0.2.2:1");
    server.wait_for_log("external address changed");
    let offers = |ip: &str| setup.mint().body.contains(ip);
    support::eventually("clients to be sent to the new address", || offers("192.0.2.2"));
    assert!(!offers("192.0.2.1"));
}

/// docs/decisions/0036: the configuration is good, and the server's own files are not.
#[test]
fn a_certificate_of_its_own_that_is_not_trusted_any_more_makes_a_reload_partial() {
    use std::os::unix::fs::PermissionsExt as _;
    let setup = Setup::new();
    let mut server = setup.start();
    let others_may_write = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(setup.dir.join("state"), others_may_write).expect("its mode");
    setup.dir.file("secret", NEXT_SECRET);
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(PARTLY_RELOADED, 1.0);
    server.wait_for_log("not reloaded: certificates");
    assert!(matches!(setup.allocate(NEXT_SECRET), Outcome::Allocated(_)));
    assert_eq!(support::name_shown(local(setup.tls)), "localhost");
}

#[test]
fn the_admin_listener_serves_the_api_and_knows_the_hosts_that_the_configuration_says() {
    let setup = Setup::new();
    let text = setup
        .with_secret_file()
        .replace("[admin]\n", "[admin]\napi = false\nhosts = [\"relay.internal\"]\n");
    let _server = Server::start(&setup.write(&text));
    assert_eq!(setup.mint().status, 404);
    let asked_of = |host: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        http(connect(local(setup.admin)), &request).status
    };
    assert_eq!((asked_of("relay.internal"), asked_of("relay.example")), (200, 421));
    setup.wait_for_metric("relay_admin_refused_total{reason=\"host\"}", 1.0);
}
