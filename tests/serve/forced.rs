//! Forced relay at start and reload: a path that is not bound serves nobody.

use super::*;

/// What an ordinary user gets, who may not bind 443.
fn without_443(section: &str) -> (Setup, Server) {
    let setup = Setup::new();
    let state = setup.dir.join("state");
    let config = setup.write(&format!(
        "realm = \"{REALM}\"\nstate_dir = \"{}\"\nadmin.address = \"off\"\nworkers = 1\n\
         [external]\nipv4 = \"192.0.2.1\"\nipv6 = \"off\"\n[relay]\nipv4 = \"0.0.0.0\"\n\
         [[listener]]\nbind = \"127.0.0.1:{}\"\nprotocols = [\"udp\"]\n\
         [[listener]]\nbind = \"127.0.0.1:443\"\noptional = true\n{section}",
        state.display(),
        setup.turn
    ));
    let server = Server::spawn_unprivileged(&config);
    (setup, server)
}

//= FORCED-02
#[test]
fn where_everyone_is_forced_and_nothing_of_the_path_is_bound_nothing_is_served() {
    let (_setup, mut server) = without_443("[forced_relay]\neveryone = true\n");
    let status = server.exit_within(support::PATIENCE).expect("exits");
    assert_eq!(status.code(), Some(1), "{}", server.errors());
    let log = server.errors();
    assert!(
        log.contains("no listener of forced_relay.ports [443] is bound"),
        "{log}"
    );
}

//= FORCED-02
#[test]
fn where_some_are_forced_the_others_are_served_and_it_is_said() {
    let user = "[[credentials.users]]\nname = \"guard\"\npassword = \"a long enough password\"\nforced = true\n";
    let (_setup, mut server) = without_443(user);
    server.wait_for_output("is ready");
    let output = server.output();
    assert!(output.contains("forced clients are not served"), "{output}");
}

//= FORCED-02
#[test]
fn a_reload_that_would_leave_everyone_without_a_way_forces_nobody() {
    let setup = Setup::new();
    let mut server = setup.start();
    // 443 stands in the new list of listeners, which waits for a restart.
    let moved = setup
        .with_secret_file()
        .replace(&format!("127.0.0.1:{}", setup.tls), "127.0.0.1:443");
    setup.write(&format!("{moved}[forced_relay]\neveryone = true\n"));
    server.signal(Signal::SIGHUP);
    server.wait_for_log("need a restart");
    server.wait_for_log("reloaded in part");
    let log = server.errors();
    let line = log.lines().find(|line| line.contains("need a restart")).expect("line");
    assert!(
        line.contains("forced_relay.everyone") && line.contains("[[listener]]"),
        "{line}"
    );
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)), "as before");
    assert_eq!(setup.mint().status, 200, "and minted for whoever asks");
}
