//! Why a client could not connect: the real program logs one line with user, client, reason and the
//! fix, and counts it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use relay::wire::attribute::AttributeType;
use relay::wire::message::Method;

use crate::client::{Client, Login};
use crate::harness::{OTHER_SECRET, SECRET, Server, minted};

/// Lines about refusals: those about one request each.
fn lines(server: &Server) -> Vec<String> {
    let log = server.log();
    let lines = log
        .lines()
        .filter(|line| line.contains(" relay::refusal: ") && line.contains("reason="));
    lines.map(str::to_owned).collect()
}

/// Waits for the only line of `reason`; it contains all of `texts`, and the counter has increased
/// by one.
fn assert_told(server: &Server, reason: &str, texts: &[&str]) {
    server.wait_for_log(&format!("reason=\"{reason}\""));
    let told = lines(server);
    let told: Vec<&String> = told
        .iter()
        .filter(|line| line.contains(&format!("reason=\"{reason}\"")))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    for text in texts
        .iter()
        .chain(&[" INFO ", "client=127.0.0.1:", "transport=\"udp\""])
    {
        assert!(told[0].contains(text), "no {text:?} in {}", told[0]);
    }
    let label = format!("reason=\"{reason}\"");
    server.wait_for_metric("relay_refusals_total", &label, 1.0);
}

fn allocate(server: &Server, login: &Login) -> Result<Client, u16> {
    let mut client = Client::udp(server.plain).with_login(login);
    client.allocate().map(|_| client)
}

/// A user id that would reverse the rest of the line.
fn nasty() -> String {
    format!("eve\u{202e}{}", "x".repeat(100))
}

#[test]
fn a_healthy_call_leaves_no_line_and_every_reason_is_counted_from_the_start() {
    let server = Server::start();
    let text = server.admin_get("/metrics").expect("metrics").1;
    for &reason in relay::turn::RefusalReason::ALL {
        let zero = format!("relay_refusals_total{{reason=\"{reason}\"}} 0");
        assert!(text.contains(&zero), "{zero}");
    }
    let mut client = allocate(&server, &minted(SECRET, 600, "bob")).expect("an allocation");
    client.refresh(0);
    server.wait_for_log("allocation ended");
    assert_eq!(lines(&server), Vec::<String>::new());
    assert_eq!(server.metric("relay_refusals_total", ""), 0.0);
}

#[test]
fn a_wrong_login_says_what_is_wrong_with_it() {
    let server = Server::start_custom(&format!(
        "[credentials]\nsecrets = [\"{SECRET}\", \"{OTHER_SECRET}\"]\n\
         users = [{{ name = \"guard\", password = \"a long enough password\" }}]\n"
    ));
    let expired = minted(SECRET, -(3 * 3600 + 12 * 60 + 1), "bob");
    let user = format!("user={}", expired.username);
    // Five: as many lines as one address may cause at once.
    assert_eq!(allocate(&server, &expired).err(), Some(401));
    let texts = [
        "credential expired 3 h 12 min ago",
        "the application caches it",
        "Allocate refused",
        &user,
    ];
    assert_told(&server, "credential_expired", &texts);
    assert_eq!(allocate(&server, &minted(SECRET, 2 * 86_400, "bob")).err(), Some(401));
    assert_told(&server, "expiry_too_far", &["later than it may", "credentials.max_ttl"]);
    let other = minted("a secret this server has never heard of", 600, &nasty());
    assert_eq!(allocate(&server, &other).err(), Some(401));
    assert_told(
        &server,
        "wrong_password",
        &["password matches none of 2 secrets", "\\u{202e}"],
    );
    assert_eq!(allocate(&server, &Login::new("guard", "wrong")).err(), Some(401));
    assert_told(&server, "wrong_static_password", &["user=guard"]);
    assert_eq!(allocate(&server, &Login::new("nobody", "wrong")).err(), Some(401));
    assert_told(&server, "unknown_user", &["user=nobody", "credentials.users"]);
    assert_eq!(lines(&server).len(), 5, "and no others");
}

#[test]
fn a_username_in_another_order_or_unit_says_so() {
    let server = Server::start();
    let Login { username, password } = minted(SECRET, 600, "bob");
    let (expiry, _) = username.split_once(':').expect("a colon");
    let reversed = Login::new(&format!("bob:{expiry}"), &password);
    assert_eq!(allocate(&server, &reversed).err(), Some(401));
    assert_told(&server, "username_reversed", &["expected `expiry:id`"]);
    let milliseconds = Login::new(&format!("{expiry}000:bob"), &password);
    assert_eq!(allocate(&server, &milliseconds).err(), Some(401));
    assert_told(&server, "expiry_milliseconds", &["13 digits", "in seconds"]);
}

#[test]
fn a_quota_says_how_many_of_how_many() {
    let server = Server::start_with("[limits]\nallocations_per_user = 2\n");
    let login = minted(SECRET, 600, "bob");
    let _held = [(); 2].map(|()| allocate(&server, &login).expect("an allocation"));
    assert_eq!(allocate(&server, &login).err(), Some(486));
    assert_told(
        &server,
        "user_quota",
        &["user has 2 of 2 allocations", "limits.allocations_per_user"],
    );
}

#[test]
fn no_free_port_says_how_many_there_are() {
    let server = Server::start_overridden(&[("RELAY__RELAY__PORTS", "30000-30003"), ("RELAY__WORKERS", "1")]);
    let login = minted(SECRET, 600, "bob");
    let _held = [(); 4].map(|()| allocate(&server, &login).expect("an allocation"));
    assert_eq!(allocate(&server, &login).err(), Some(508));
    assert_told(
        &server,
        "no_free_port",
        &["no free relay port for IPv4: there are 4", "relay.ports"],
    );
}

#[test]
fn a_forced_login_elsewhere_says_on_which_port() {
    let server = Server::start_with("[forced_relay]\nports = [@DOOR@]\neveryone = true\n");
    assert_eq!(allocate(&server, &minted(SECRET, 600, "bob")).err(), Some(403));
    let port = format!("forced login on port {}", server.plain.port());
    assert_told(&server, "forced_path", &[&port, "forced_relay.ports"]);
}

#[test]
fn a_denied_peer_is_one_line_with_its_address_and_the_next_ones_are_counted() {
    let server = Server::start();
    let mut client = allocate(&server, &minted(SECRET, 600, "bob")).expect("an allocation");
    for peer in ["10.0.3.4:9000", "10.0.3.5:9000", "192.168.1.7:9000"] {
        let answer = client.request(Method::CreatePermission, |writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer.parse().expect("an address"));
        });
        assert_eq!(answer.code(), 403);
    }
    server.wait_for_log("reason=\"peer_denied\"");
    let told = lines(&server);
    assert_eq!(told.len(), 1, "{told:?}");
    for text in [
        "CreatePermission refused: peer 10.0.3.4 is private",
        "peer=10.0.3.4",
        "add it to peers.allow if it is your SFU",
    ] {
        assert!(told[0].contains(text), "no {text:?} in {}", told[0]);
    }
    server.wait_for_metric("relay_refusals_total", "reason=\"peer_denied\"", 3.0);
    server.wait_for_metric("relay_peers_refused_total", "rule=\"private\"", 3.0);
}

#[test]
fn the_client_is_shown_as_far_as_the_configuration_allows() {
    let server = Server::start_with("[log]\nclient_ip = \"off\"\n");
    assert_eq!(allocate(&server, &Login::new("nobody", "wrong")).err(), Some(401));
    server.wait_for_log("reason=\"unknown_user\"");
    let told = lines(&server);
    assert!(
        told[0].contains("client=-") && !told[0].contains("127.0.0.1"),
        "{told:?}"
    );
}

/// 30 lines at once and two per second: the most that a flood of wrong logins from a thousand
/// addresses can write.
#[test]
fn a_flood_of_wrong_logins_writes_a_bounded_number_of_lines_and_says_what_it_left_out() {
    const SOURCES: u32 = 1000;
    let server = Server::start();
    let began = Instant::now();
    let login = Login::new("nobody", "wrong");
    for n in 0..SOURCES {
        let source = Ipv4Addr::from_bits(0x7F20_0001 + n);
        let mut client = Client::udp_from(source, server.plain).with_login(&login);
        assert_eq!(client.allocate().err(), Some(401));
    }
    server.wait_for_metric("relay_refusals_total", "reason=\"unknown_user\"", f64::from(SOURCES));
    server.wait_for_log("more requests were refused than have a line");
    let most = 30 + 2 * (began.elapsed() + Duration::from_secs(1)).as_secs();
    let told = lines(&server).len() as u64;
    assert!((30..=most).contains(&told), "{told} lines, at most {most}");
    // A separate thread writes the log, so the lines may lag behind the counters, but never precede
    // them.
    let left_out = server.metric("relay_refusals_left_out_total", "") as u64;
    assert!(
        left_out + most >= u64::from(SOURCES) && left_out + told <= u64::from(SOURCES),
        "{left_out} + {told}"
    );
}

#[test]
fn clients_that_a_proxy_on_this_machine_hides_are_warned_of_once_and_those_with_a_header_never() {
    const WARNING: &str = "a proxy without PROXY header hides its clients";
    let login = minted(SECRET, 600, "bob");
    let server = Server::start_overridden(&[("RELAY__EXTERNAL__IPV4", "203.0.113.9")]);
    // A health check that asks for its address, and UDP, cause no warning.
    assert!(Client::tcp(server.plain).binding().is_some());
    allocate(&server, &login).expect("an allocation").refresh(0);
    server.wait_for_log("allocation ended");
    assert!(!server.log().contains(WARNING));
    for _ in 0..3 {
        let mut client = Client::tcp(server.plain).with_login(&login);
        assert!(client.allocate().is_ok());
        client.refresh(0);
    }
    server.wait_for_log(WARNING);
    server.wait_for_log("trusted_proxies");
    assert_eq!(server.log().matches(WARNING).count(), 1);

    let server = Server::start_overridden(&[
        ("RELAY__EXTERNAL__IPV4", "203.0.113.9"),
        ("RELAY__LISTENER__0__PROXY_PROTOCOL", "required"),
        ("RELAY__LISTENER__0__TRUSTED_PROXIES", "[\"127.0.0.1\"]"),
    ]);
    let outside = "192.0.2.50:50000".parse().expect("an address");
    let mut client = Client::tcp_of(outside, server.plain).with_login(&login);
    assert!(client.allocate().is_ok());
    client.refresh(0);
    server.wait_for_log("allocation ended");
    assert!(server.log().contains("client=192.0.2.50:50000"));
    assert!(!server.log().contains(WARNING));
}
