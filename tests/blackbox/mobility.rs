//! Clients of the program that change networks and transports, and keep their allocations (RFC
//! 8016).

use relay::base::address::Transport;
use relay::wire::attribute::AttributeType;
use relay::wire::message::Method;

use crate::client::{Answer, Client, PATIENCE};
use crate::harness::{EchoPeer, SECRET, Server, minted};
use crate::programs;

const SWITCHED_ON: &str = "[peers]\nallow = [\"127.0.0.2/32\"]\n\n[turn.mobility]\nenabled = true\ngrace = \"30s\"\n";

fn allocate_with_ticket(client: &mut Client, ticket: &[u8]) -> Answer {
    client.request(Method::Allocate, |w| {
        w.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        w.attribute(AttributeType::MOBILITY_TICKET, ticket);
    })
}

fn refresh_with_ticket(client: &mut Client, ticket: &[u8]) -> Answer {
    client.request(Method::Refresh, |w| {
        w.attribute(AttributeType::MOBILITY_TICKET, ticket);
    })
}

fn ticket_of(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.code(), 0);
    let ticket = answer.message().attribute(AttributeType::MOBILITY_TICKET);
    ticket.expect("MOBILITY-TICKET").to_vec()
}

fn assert_echoes(client: &mut Client, data: &[u8]) {
    client.send_channel(0x4000, data);
    let back = client.receive_data(PATIENCE).expect("the echo");
    assert_eq!(back, (Ok(0x4000), data.to_vec()));
}

//= MOB-02
//= MOB-04
#[test]
fn a_call_goes_on_from_udp_to_tcp_to_tls_and_back_to_udp_from_another_port() {
    let mut server = Server::start_with(SWITCHED_ON);
    let peer = EchoPeer::start();
    let login = minted(SECRET, 600, "traveller");
    let mut client = Client::udp(server.plain).with_login(&login);
    let answer = allocate_with_ticket(&mut client, &[]);
    let relayed = answer.address(AttributeType::XOR_RELAYED_ADDRESS);
    let mut ticket = ticket_of(&answer);
    assert_eq!(client.channel_bind(0x4000, peer.address), 0);
    assert_echoes(&mut client, b"from home");
    let journey = [
        (Transport::Tcp, server.plain),
        (Transport::Tls, server.door),
        (Transport::Udp, server.door),
        (Transport::Udp, server.door),
        (Transport::Tcp, server.tls),
        (Transport::Udp, server.plain),
    ];
    for (transport, address) in journey {
        let mut next = Client::over_transport(transport, address).with_login(&login);
        ticket = ticket_of(&refresh_with_ticket(&mut next, &ticket));
        assert_echoes(&mut client, b"still by the old path");
        assert_echoes(&mut next, b"by the new path");
        assert_eq!(client.refresh(600), 437, "{transport}: the old path is dead");
        client = next;
    }
    server.wait_for_metric("relay_allocations_moved_total", "", 6.0);
    server.wait_for_metric("relay_allocations", "", 1.0);
    server.wait_for_log("allocation moved");
    assert_eq!(client.refresh(0), 0);
    server.wait_for_metric("relay_allocations", "", 0.0);
    assert_eq!(peer.sources(), [relayed], "one address all the way");
    server.assert_healthy();
}

//= D11
#[test]
fn a_broken_connection_does_not_end_the_call_of_a_client_with_a_ticket() {
    let mut server = Server::start_with(SWITCHED_ON);
    let peer = EchoPeer::start();
    let login = minted(SECRET, 600, "tunnel");
    let mut client = Client::tls(server.tls).with_login(&login);
    let ticket = ticket_of(&allocate_with_ticket(&mut client, &[]));
    assert_eq!(client.channel_bind(0x4000, peer.address), 0);
    drop(client);
    server.wait_for_metric("relay_allocations_away", "", 1.0);
    let mut back = Client::tcp(server.plain).with_login(&login);
    ticket_of(&refresh_with_ticket(&mut back, &ticket));
    assert_echoes(&mut back, b"here again");
    server.wait_for_metric("relay_allocations_away", "", 0.0);
    server.assert_healthy();
}

//= MOB-01
//= MOB-03
#[test]
fn tickets_are_for_those_who_may_have_them() {
    let server = Server::start();
    let login = minted(SECRET, 600, "a");
    let mut client = Client::udp(server.plain).with_login(&login);
    assert_eq!(
        allocate_with_ticket(&mut client, &[]).code(),
        405,
        "off unless switched on"
    );
    assert!(client.allocate().is_ok());
    drop(server);
    let server = Server::start_with(SWITCHED_ON);
    let mut client = Client::tcp(server.plain).with_login(&login);
    assert_eq!(allocate_with_ticket(&mut client, &[1]).code(), 400);
    let ticket = ticket_of(&allocate_with_ticket(&mut client, &[]));
    let mut thief = Client::udp(server.plain).with_login(&minted(SECRET, 600, "b"));
    assert_eq!(refresh_with_ticket(&mut thief, &ticket).code(), 441);
    assert_eq!(refresh_with_ticket(&mut thief, &[7; 32]).code(), 437);
    assert_eq!(client.refresh(0), 0);
}

//= MOB-02
#[test]
fn coturns_client_which_keeps_tickets_as_c_strings_moves_every_time() {
    /// A run takes one to six seconds: coturn's client waits between its steps.
    const AT_A_TIME: usize = 8;
    const RUNS: usize = 16;
    let mut server = Server::start_with(SWITCHED_ON);
    let peer = EchoPeer::start();
    let one_run = |number: usize| {
        let transport = ["-s", "-t"][number % 2];
        let login = minted(SECRET, 600, &format!("coturn-{number}"));
        let (ip, port) = (server.plain.ip().to_string(), server.plain.port().to_string());
        let (peer_ip, peer_port) = (peer.address.ip().to_string(), peer.address.port().to_string());
        // Mobile, verbose, without RTCP, two messages as Send indications to the peer and back.
        let told = programs::run(
            "turnutils_uclient",
            &[
                &["-M", "-v", "-c", "-s", transport, "-n", "2"][..],
                &["-e", &peer_ip, "-r", &peer_port],
                &["-u", &login.username, "-w", &login.password, "-p", &port, &ip],
            ]
            .concat(),
        );
        assert!(
            told.contains("refresh sent") && told.contains("tot_send_msgs=2, tot_recv_msgs=2"),
            "run {number} with {transport}:\n{told}"
        );
    };
    for first in (0..RUNS).step_by(AT_A_TIME) {
        std::thread::scope(|scope| {
            for number in first..first + AT_A_TIME {
                let one_run = &one_run;
                scope.spawn(move || one_run(number));
            }
        });
    }
    // Each run moves two allocations; a truncated ticket gets 437.
    server.wait_for_metric_of_at_least("relay_mobility_granted_total", "", 2.0 * RUNS as f64);
    assert_eq!(server.metric("relay_error_responses_total", "code=\"437\""), 0.0);
    server.assert_healthy();
}
