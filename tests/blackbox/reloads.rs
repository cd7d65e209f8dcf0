//! Reloads that cannot take effect completely: the rest takes effect, and the log reports what did
//! not.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::client::Client;
use crate::harness::{OTHER_SECRET, SECRET, Server, minted};

const RELOADS: &str = "relay_config_reloads_total";

fn client(server: &Server, secret: &str) -> Client {
    let mut client = Client::udp(server.plain).with_login(&minted(secret, 600, "reload"));
    client.allocate().expect("allocated");
    client
}

fn is_refused(server: &Server, secret: &str) -> bool {
    let mut client = Client::udp(server.plain).with_login(&minted(secret, 600, "reload"));
    client.allocate() == Err(401)
}

fn permission(client: &mut Client, ip: &str) -> u16 {
    client.create_permission(SocketAddr::new(ip.parse().expect("an address"), 7000))
}

/// Changes the configuration, and reloads it.
fn reload(server: &Server, change: impl Fn(String) -> String) {
    let path = server.path("relay.toml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    let changed = change(text.clone());
    assert_ne!(text, changed);
    std::fs::write(&path, changed).expect("written");
    server.signal(Signal::SIGHUP);
}

#[track_caller]
fn assert_partial(server: &Server, told: &[&str]) {
    server.wait_for_metric(RELOADS, "partial", 1.0);
    server.wait_for_log("reloaded in part");
    assert_eq!(
        server.metric(RELOADS, "success") + server.metric(RELOADS, "failure"),
        0.0
    );
    assert_eq!(server.metric("relay_config_last_reload_successful", ""), 0.0);
    let log = server.log();
    for text in told {
        assert!(log.contains(text), "{text}:\n{log}");
    }
}

#[test]
fn peers_that_are_closed_are_closed_although_a_listener_waits_for_a_restart() {
    let server = Server::start_with("[peers]\nallow = [\"127.0.0.2/32\", \"10.0.0.0/8\"]\n");
    let mut client = client(&server, SECRET);
    assert_eq!(permission(&mut client, "127.0.0.2"), 0);
    assert_eq!(permission(&mut client, "10.1.1.1"), 0);
    let moved = 19_999;
    reload(&server, |text| {
        let text = text.replace(&server.plain.to_string(), &format!("127.0.0.1:{moved}"));
        text.replace(
            "\"127.0.0.2/32\", \"10.0.0.0/8\"",
            "\"127.0.0.0/8\"\n]\ndeny = [\"127.0.0.2/32\"",
        )
    });
    assert_partial(&server, &["need a restart", "[[listener]]"]);
    assert_eq!(permission(&mut client, "127.0.0.2"), 403, "the new deny");
    assert_eq!(permission(&mut client, "10.1.1.1"), 403, "open no more");
    assert_eq!(permission(&mut client, "127.0.0.3"), 0, "the new allow");
    // The sockets that are really open are refused as peers, not those of the new file.
    for own in [server.plain, server.tls, server.door, server.admin] {
        assert_eq!(client.channel_bind(0x4000, own), 403, "{own}");
    }
    assert_eq!(
        client.channel_bind(0x4000, SocketAddr::from(([127, 0, 0, 1], moved))),
        0
    );
    // Once more: it still waits, and reports so.
    server.signal(Signal::SIGHUP);
    server.wait_for_metric(RELOADS, "partial", 2.0);
}

#[test]
fn secrets_change_although_the_relay_ports_wait_for_a_restart() {
    let server = Server::start_with("");
    drop(client(&server, SECRET));
    reload(&server, |text| {
        text.replace(SECRET, OTHER_SECRET).replace("20000-29999", "40000-40999")
    });
    assert_partial(&server, &["relay.ports"]);
    assert!(is_refused(&server, SECRET));
    let mut client = Client::udp(server.plain).with_login(&minted(OTHER_SECRET, 600, "reload"));
    let relayed = client.allocate().expect("allocated");
    assert!((20_000..30_000).contains(&relayed.port()), "{relayed}");
}

#[test]
fn all_else_changes_although_a_certificate_cannot_be_used() {
    let dir = Server::recipe_files("");
    let tls = format!(
        "[tls]\ncertificate = \"{0}/fullchain.pem\"\nprivate_key = \"{0}/privkey.pem\"\n",
        dir.display()
    );
    let server = Server::start_with(&format!("[peers]\nallow = [\"127.0.0.2/32\"]\n{tls}"));
    let mut peer = client(&server, SECRET);
    assert_eq!(permission(&mut peer, "127.0.0.2"), 0);
    std::fs::write(dir.join("privkey.pem"), "no key at all").expect("written");
    reload(&server, |text| {
        text.replace(SECRET, OTHER_SECRET)
            .replace("127.0.0.2/32", "127.0.0.3/32")
    });
    assert_partial(&server, &["not reloaded: certificates"]);
    assert_eq!(permission(&mut peer, "127.0.0.2"), 403);
    assert!(is_refused(&server, SECRET));
    drop(client(&server, OTHER_SECRET));
    // Clients over TLS get the previous certificate.
    let mut secure = Client::tls(server.tls).with_login(&minted(OTHER_SECRET, 600, "reload"));
    secure.allocate().expect("allocated");
}

#[test]
fn peers_are_closed_although_a_secrets_file_is_gone_and_who_could_log_in_still_can() {
    let dir = Server::recipe_files("");
    let secret = dir.join("secret");
    let server = Server::start_custom(&format!(
        "[credentials]\nsecret_file = \"{}\"\n[peers]\nallow = [\"127.0.0.2/32\"]\n",
        secret.display()
    ));
    let mut peer = client(&server, SECRET);
    assert_eq!(permission(&mut peer, "127.0.0.2"), 0);
    std::fs::remove_file(&secret).expect("removed");
    reload(&server, |text| text.replace("127.0.0.2/32", "127.0.0.3/32"));
    assert_partial(&server, &["not reloaded: credentials"]);
    assert_eq!(permission(&mut peer, "127.0.0.2"), 403);
    drop(client(&server, SECRET));
}

#[test]
fn peers_are_closed_although_the_machine_lacks_an_address_that_the_file_names() {
    let server = Server::start_with("[peers]\nallow = [\"127.0.0.2/32\"]\n");
    let mut peer = client(&server, SECRET);
    reload(&server, |text| {
        let text = text.replace("127.0.0.2/32", "127.0.0.3/32");
        let text = text.replace(&server.plain.to_string(), "192.0.2.77:3478");
        text.replace("ipv4 = \"127.0.0.4\"\nipv6", "ipv4 = \"nowhere.invalid\"\nipv6")
    });
    assert_partial(
        &server,
        &["[[listener]]", "not reloaded: external.ipv4", "nowhere.invalid"],
    );
    assert_eq!(permission(&mut peer, "127.0.0.2"), 403);
    let mut again = Client::udp(server.plain).with_login(&minted(SECRET, 600, "reload"));
    assert_eq!(again.allocate().expect("allocated").ip().to_string(), "127.0.0.4");
}

#[test]
fn of_a_file_that_is_wrong_nothing_is_taken() {
    let server = Server::start_with("[peers]\nallow = [\"127.0.0.2/32\"]\n");
    let mut peer = client(&server, SECRET);
    reload(&server, |text| {
        text.replace("127.0.0.2/32", "127.0.0.3/32\", \"10.0.0.0/33")
    });
    server.wait_for_metric(RELOADS, "failure", 1.0);
    server.wait_for_log("not reloaded: the previous configuration stays in force");
    assert_eq!(permission(&mut peer, "127.0.0.2"), 0);
}
