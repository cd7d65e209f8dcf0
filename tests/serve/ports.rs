//! Ports that another program has.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use super::*;

#[test]
fn a_port_that_is_taken_is_told_with_its_holder_and_nothing_is_served() {
    let setup = Setup::new();
    let _holder = TcpListener::bind(local(setup.turn)).expect("bind");
    let mut server = Server::spawn(&setup.write(&setup.with_secret_file()), &[]);
    let status = server.exit_within(support::PATIENCE).expect("exits");
    assert_eq!(status.code(), Some(1), "{}", server.errors());
    let log = server.errors();
    assert!(log.contains(&format!("TCP 127.0.0.1:{}", setup.turn)), "{log}");
    assert!(log.contains(&format!("(pid {})", std::process::id())), "{log}");
    assert!(!server.output().contains("is ready"));
    assert!(TcpListener::bind(local(setup.admin)).is_ok(), "nothing stays bound");
}

/// Takes a port.
type Hold = fn(SocketAddr) -> OwnedFd;

/// Left out is what this user may not bind, and nothing else.
#[test]
fn an_optional_listener_whose_port_another_program_has_is_an_error_that_names_it() {
    let setup = Setup::new();
    let [taken] = free_ports();
    let listener =
        format!("[[listener]]\nbind = \"127.0.0.1:{taken}\"\nprotocols = [\"udp\", \"tcp\"]\noptional = true\n");
    let config = setup.write(&format!("{}{listener}", setup.with_secret_file()));
    let holders: [(&str, Hold); 2] = [
        ("TCP", |at| TcpListener::bind(at).expect("bind").into()),
        ("UDP", |at| UdpSocket::bind(at).expect("bind").into()),
    ];
    for (protocol, hold) in holders {
        let _held = hold(local(taken));
        let mut server = Server::spawn(&config, &[]);
        let status = server.exit_within(support::PATIENCE).expect("exits");
        assert_eq!(status.code(), Some(1), "{protocol}: {}", server.errors());
        let place = format!("cannot listen on {protocol} 127.0.0.1:{taken}");
        let holder = format!("(pid {})", std::process::id());
        let log = server.errors();
        let told = log.lines().any(|line| line.contains(&place) && line.contains(&holder));
        assert!(told, "{protocol}: {log}");
        assert!(
            !log.contains("left out") && !server.output().contains("left out"),
            "{log}"
        );
    }
    // Without anybody there it is bound.
    let server = Server::start(&config);
    assert!(
        server.output().contains(&format!("127.0.0.1:{taken}")),
        "{}",
        server.output()
    );
}
