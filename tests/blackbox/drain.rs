//! A reload drains a node: new clients go to another one, with the credential they have.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use relay::base::address::Transport;
use relay::wire::attribute::AttributeType;
use relay::wire::message::Method;

use crate::client::{Answer, Client, PATIENCE};
use crate::harness::{EchoPeer, SECRET, Server, minted};

fn try_allocate(client: &mut Client) -> Answer {
    client.request(Method::Allocate, |w| {
        w.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    })
}

/// The first ALTERNATE-SERVER, which is IPv4 here.
fn alternate(answer: &Answer) -> SocketAddr {
    let message = answer.message();
    let value = message.attribute(AttributeType::ALTERNATE_SERVER).expect("a server");
    let [0, 1, p0, p1, a, b, c, d] = *value else {
        panic!("{value:?} is no IPv4 address")
    };
    SocketAddr::from(([a, b, c, d], u16::from_be_bytes([p0, p1])))
}

//= STUN-BIND-11
#[test]
fn a_drained_node_sends_new_clients_to_another_and_keeps_its_own() {
    let other = Server::start();
    let peer = EchoPeer::start();
    for (transport, destination) in [
        (Transport::Udp, other.plain),
        (Transport::Tcp, other.plain),
        (Transport::Tls, other.tls),
    ] {
        let drained = Server::start();
        let at = |server: &Server| {
            if transport == Transport::Tls {
                server.tls
            } else {
                server.plain
            }
        };
        let mut running = Client::over_transport(transport, at(&drained)).with_login(&minted(SECRET, 600, "running"));
        running.allocate().expect("allocated");
        assert_eq!(running.channel_bind(0x4000, peer.address), 0);

        let redirect = format!(
            "\n[turn.redirect]\nipv4 = \"{destination}\"\ndomain = \"other.relay.test\"\n\
             transports = [\"udp\", \"tcp\", \"tls\"]\n"
        );
        reload_with(&drained, &redirect);
        let login = minted(SECRET, 600, "new");
        let deadline = Instant::now() + PATIENCE;
        let answer = loop {
            let answer = try_allocate(&mut Client::over_transport(transport, at(&drained)).with_login(&login));
            if answer.code() != 0 {
                break answer;
            }
            assert!(Instant::now() < deadline, "never redirected:\n{}", drained.log());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!((answer.code(), alternate(&answer)), (300, destination), "{transport}");
        let domain = answer.message().attribute(AttributeType::ALTERNATE_DOMAIN);
        assert_eq!(domain.is_some(), transport == Transport::Tls, "{transport}");
        let mut moved = Client::over_transport(transport, alternate(&answer)).with_login(&login);
        assert!(
            moved.allocate().is_ok(),
            "{transport}: the same credential is good there"
        );

        running.send_channel(0x4000, b"still here");
        assert_eq!(
            running.receive_data(PATIENCE),
            Some((Ok(0x4000), b"still here".to_vec()))
        );
        assert_eq!(running.refresh(600), 0);
        drained.wait_for_metric_of_at_least("relay_error_responses_total", "code=\"300\"", 1.0);
    }
}

/// Appends `section` to the configuration and reloads it.
fn reload_with(server: &Server, section: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .open(server.path("relay.toml"))
        .expect("its configuration");
    file.write_all(section.as_bytes()).expect("it is written");
    server.signal(Signal::SIGHUP);
}

/// Allocates repeatedly until the response is `code`.
fn until_answered(server: &Server, transport: Transport, code: u16) {
    let login = minted(SECRET, 600, "new");
    let deadline = Instant::now() + PATIENCE;
    while try_allocate(&mut Client::over_transport(transport, server.plain).with_login(&login)).code() != code {
        assert!(
            Instant::now() < deadline,
            "{transport}: never {code}:\n{}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

//= STUN-BIND-11
#[test]
fn clients_that_cannot_follow_are_served_until_the_deadline_and_then_the_node_is_not_ready() {
    let (other, drained) = (Server::start(), Server::start());
    let port = other.plain.port();
    let redirect = format!("\n[turn.redirect]\nipv4 = \"127.0.0.1:{port}\"\nipv6 = \"[::1]:{port}\"\n");
    reload_with(&drained, &redirect);
    until_answered(&drained, Transport::Udp, 300);
    until_answered(&drained, Transport::Tcp, 0);
    assert_eq!(drained.metric("relay_ready", ""), 1.0);
    // The time counts from the first redirection, so it ends at once.
    reload_with(&drained, "serve_others = \"0s\"\n");
    until_answered(&drained, Transport::Tcp, 300);
    until_answered(&drained, Transport::Udp, 300);
    drained.wait_for_metric("relay_ready", "", 0.0);
}
