//! What changes around the running program without anybody telling it: certificates, external addresses.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use relay::wire::attribute::AttributeType;
use relay::wire::message::{Class, Message, Method};
use relay::wire::writer::MessageWriter;

use super::*;
use relay_testkit::dtls_client::DtlsClient;

/// `[tls]` with a certificate for `name`, which is put in place of the one before.
pub(crate) fn put(setup: &Setup, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("certificate");
    let certificate = setup.dir.file("cert.pem", &made.cert.pem());
    let key = setup.dir.file("key.pem", &made.signing_key.serialize_pem());
    format!(
        "[tls]\ncertificate = \"{}\"\nprivate_key = \"{}\"\n",
        certificate.display(),
        key.display()
    )
}

#[test]
fn a_certificate_replaced_by_a_bad_and_then_a_good_one_touches_no_connection() {
    let setup = Setup::new();
    let tls = put(&setup, "old.example.org");
    let mut server = Server::start(&setup.write(&format!("{}{tls}", setup.with_secret_file())));
    let (username, password) = credential(SECRET);
    let mut live = Stream(support::tls(connect(local(setup.tls))));
    assert!(matches!(live.allocate(&username, &password), Outcome::Allocated(_)));
    // Whatever it is answered: the connection carries a request and its response.
    let mut still_alive = || live.allocate(&username, &password) == Outcome::Refused(437);

    // Looked at every five seconds, and tried when it has been at rest for one look.
    let patience = Duration::from_secs(40);
    setup.dir.file("key.pem", "no key at all");
    server.wait_for_log_within("a certificate cannot be used", patience);
    assert!(still_alive());
    assert_eq!(support::name_shown(local(setup.tls)), "old.example.org");
    let over_dtls = || DtlsClient::connect(local(setup.tls)).certificate_names();
    assert_eq!(over_dtls(), ["old.example.org"]);

    put(&setup, "new.example.org");
    server.wait_for_log_within("new.example.org", patience);
    assert!(still_alive());
    assert_eq!(support::name_shown(local(setup.tls)), "new.example.org");
    let deadline = Instant::now() + patience;
    while over_dtls() != ["new.example.org"] {
        assert!(Instant::now() < deadline, "DTLS shows {:?}", over_dtls());
    }
    setup.wait_for_metric("relay_allocations{transport=\"tls\"}", 1.0);
    setup.wait_for_metric("relay_certificate_updates_total{outcome=\"failure\"}", 1.0);
    setup.wait_for_metric("relay_certificate_updates_total{outcome=\"success\"}", 1.0);
    // Clients are sent to the address, which neither has: said at start, and of the new one again.
    let log = server.errors();
    for name in ["old.example.org", "new.example.org"] {
        let told = format!("clients are sent to 127.0.0.1 with TLS, and the certificate there is for {name}");
        assert_eq!(log.matches(&told).count(), 1, "{name}: {log}");
    }
    let said: Vec<&str> = log.lines().filter(|line| line.contains("cannot be used")).collect();
    assert!(
        said.len() == 1 && said[0].contains("key.pem") && said[0].contains("PRIVATE KEY"),
        "{said:?}"
    );
}

#[test]
fn a_certificate_whose_name_is_routed_to_another_server_is_told_of_at_start_and_when_it_comes_later() {
    let setup = Setup::new();
    let route = "[[front_door.route]]\nnames = [\"www.example.org\"]\nbackend = \"192.0.2.1:443\"\n";
    let told = "leads every name of a certificate of this server elsewhere: www.example.org";
    let config = |tls: &str| setup.write(&format!("{}{tls}{route}", setup.with_secret_file()));

    let mut server = Server::start(&config(&put(&setup, "turn.example.org")));
    assert!(!server.errors().contains(told), "{}", server.errors());
    put(&setup, "www.example.org");
    // Looked at every five seconds, and tried when it has been at rest for one look.
    server.wait_for_log_within(told, Duration::from_secs(40));
    drop(server);

    let mut server = Server::start(&config(&put(&setup, "www.example.org")));
    server.wait_for_log(told);
    assert_eq!(server.errors().matches(told).count(), 1, "{}", server.errors());
}

/// A STUN server that says what it is told to; nothing while that is `None`.
pub(crate) fn stun_server() -> (u16, Arc<Mutex<Option<SocketAddr>>>) {
    let socket = UdpSocket::bind(local(0)).expect("bind");
    let port = socket.local_addr().expect("bound").port();
    let says = Arc::new(Mutex::new(None));
    let said = Arc::clone(&says);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        // Until the test's process ends.
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let Some(mapped) = *said.lock().expect("lock") else {
                continue;
            };
            let request = Message::parse(&buffer[..len]).expect("a STUN message");
            let mut answer = [0; 64];
            let mut writer = MessageWriter::new(&mut answer, Class::Success, Method::Binding, request.transaction_id());
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, mapped);
            let len = writer.finish().expect("fits");
            let _ = socket.send_to(&answer[..len], from);
        }
    });
    (port, says)
}

#[test]
fn an_external_address_that_changes_is_followed_and_one_that_cannot_be_found_again_stays() {
    let setup = Setup::new();
    let (port, says) = stun_server();
    let say = |address: Option<&str>| *says.lock().expect("lock") = address.map(|it| it.parse().expect("an address"));
    say(Some("192.0.2.1:1"));
    let text = setup.with_secret_file().replace(
        "ipv4 = \"127.0.0.1\"\nipv6",
        &format!("ipv4 = \"stun:127.0.0.1:{port}\"\nstun_timeout = \"1s\"\nrecheck = \"5s\"\nipv6"),
    );
    let mut server = Server::start(&setup.write(&text));
    let (username, password) = credential(SECRET);
    let mut first = Udp::new(local(setup.turn));
    let relayed = |outcome| match outcome {
        Outcome::Allocated(relayed) => relayed.ip().to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(relayed(first.allocate(&username, &password)), "192.0.2.1");

    say(Some("192.0.2.2:1"));
    server.wait_for_log("external address changed");
    assert_eq!(relayed(setup.allocate(SECRET)), "192.0.2.2");
    // The live one is still there: another Allocate on its five-tuple is a mismatch.
    assert_eq!(first.allocate(&username, &password), Outcome::Refused(437));

    say(None);
    server.wait_for_log("The previous address stays in use");
    assert_eq!(relayed(setup.allocate(SECRET)), "192.0.2.2");
    let checks = |outcome| format!("relay_external_address_checks_total{{outcome=\"{outcome}\"}}");
    setup.wait_for_metric(&checks("changed"), 1.0);
    setup.wait_for_metric_of_at_least(&checks("failure"), 1.0);
}
