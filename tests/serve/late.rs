//! Addresses and names that are not there yet when the program starts.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::Server;
use relay_testkit::folder::Folder;

/// A configuration for a machine that has `listener` and `external` as its addresses.
fn config(dir: &Folder, start_timeout: &str, listener: &str, external: &str) -> std::path::PathBuf {
    dir.file("secret", crate::SECRET);
    dir.file(
        "relay.toml",
        &format!(
            "realm = \"test.example.org\"\nworkers = 1\nstart_timeout = \"{start_timeout}\"\n\
             [credentials]\nsecret_file = \"{}\"\n[external]\n{external}\n[admin]\naddress = \"off\"\n\
             [[listener]]\nbind = \"{listener}\"\nprotocols = [\"udp\", \"tcp\"]\n",
            dir.join("secret").display()
        ),
    )
}

#[test]
fn a_server_whose_address_comes_late_says_what_it_waits_for_and_then_serves() {
    let dir = Folder::new();
    let config = config(&dir, "1m", "10.77.0.1:3478", "ipv4 = \"interface:lo\"\nipv6 = \"off\"");
    let mut server = Server::spawn_in_own_network(&config);
    server.wait_for_log("10.77.0.1 is not an address of this machine");
    server.wait_for_log("the interface lo has no IPv4 address");
    server.wait_for_log("waiting for it");
    server.run_in_its_network("ip address add 10.77.0.1/32 dev lo");
    server.wait_for_output("is ready");
    server.run_in_its_network("exec 3<>/dev/tcp/10.77.0.1/3478");
}

#[test]
fn a_server_that_starts_before_the_network_announces_the_first_address_that_comes() {
    let dir = Folder::new();
    let config = config(&dir, "1m", "*:3478", "ipv4 = \"auto\"");
    let mut server = Server::spawn_in_own_network(&config);
    server.wait_for_output("is ready");
    server.run_in_its_network("ip address add 10.77.0.1/32 dev lo");
    server.wait_for_log("10.77.0.1");
}

#[test]
fn what_does_not_come_in_time_ends_in_status_1_which_the_unit_tries_again() {
    let dir = Folder::new();
    for listener in ["192.0.2.77:3478", "nowhere.invalid:3478"] {
        let config = config(&dir, "1s", listener, "ipv4 = \"127.0.0.1\"\nipv6 = \"off\"");
        let mut server = Server::spawn(&config, &[]);
        let status = server
            .exit_within(Duration::from_secs(30))
            .expect("its patience is short");
        assert_eq!(status.code(), Some(1), "{}", server.errors());
        assert!(server.errors().contains("not started"), "{}", server.errors());
    }
}

#[test]
fn a_mistake_beside_it_ends_in_status_78_at_once() {
    let dir = Folder::new();
    let config = config(&dir, "10m", "192.0.2.77:3478", "ipv4 = \"127.0.0.1\"\nrecheck = \"1s\"");
    let mut server = Server::spawn(&config, &[]);
    let status = server
        .exit_within(Duration::from_secs(20))
        .expect("nothing to wait for");
    assert_eq!(status.code(), Some(78), "{}", server.errors());
    assert!(!server.errors().contains("waiting"), "{}", server.errors());
}

#[test]
fn a_waiting_server_stops_when_it_is_told_to_and_looks_again_when_it_is_asked_to() {
    let dir = Folder::new();
    let waiting = config(&dir, "10m", "192.0.2.77:3478", "ipv4 = \"127.0.0.1\"\nipv6 = \"off\"");
    let mut server = Server::spawn(&waiting, &[]);
    server.wait_for_log("waiting for it");
    config(&dir, "10m", "192.0.2.78:3478", "ipv4 = \"127.0.0.1\"\nipv6 = \"off\"");
    server.signal(Signal::SIGHUP);
    server.wait_for_log("192.0.2.78 is not an address of this machine");
    server.signal(Signal::SIGTERM);
    let status = server.exit_within(Duration::from_secs(20)).expect("stopped");
    assert_eq!(status.code(), Some(0), "{}", server.errors());
}
