//! ICMP about relayed datagrams (RFC 8656 §11.5).

use std::sync::Arc;

use relay_proto::base::address::Family;
use relay_proto::turn::config::{IcmpReports, Mobility};
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, StaticUser};
use relay_proto::turn::types::{PeerAddr, RelayId};
use relay_proto::turn::{DropReason, QuotedIcmp, Response};
use relay_proto::wire::attribute::{self, AttributeType};
use relay_proto::wire::integrity::{Integrity, PasswordAlgorithm};
use relay_proto::wire::message::{Class, Message, Method};

use crate::every_client::{challenge, every_client, md5_key, raw_allocate, story, userhash};
use relay_testkit::world::*;

fn report(
    world: &mut World,
    relay: RelayId,
    peer: std::net::SocketAddr,
    icmp: QuotedIcmp,
) -> Option<(Client, Vec<u8>)> {
    let (now, mut response) = (world.now(), Response::new());
    let to = world.shards[0].handle_icmp(now, relay, PeerAddr(peer), icmp, &mut response)?;
    let mut client = client(0);
    client.client = to;
    Some((client, response.bytes().to_vec()))
}

fn relay_of(world: &World, family: Family) -> RelayId {
    let found = world.sockets.keys().find(|(_, relay)| relay.family == family);
    found.expect("a relay socket").1
}

const fn icmp(icmp_type: u8, code: u8, data: u32) -> QuotedIcmp {
    QuotedIcmp { icmp_type, code, data }
}

/// A client that logs in with PASSWORD-ALGORITHM.
fn modern() -> Client {
    choosing(client(1), PasswordAlgorithm::Sha256)
}

fn choosing(mut client: Client, algorithm: PasswordAlgorithm) -> Client {
    (client.algorithm, client.integrity) = (Some(algorithm), Integrity::Sha256);
    client
}

fn is_told(world: &mut World, peer: std::net::SocketAddr) -> bool {
    let relay = relay_of(world, Family::V4);
    report(world, relay, peer, icmp(3, 3, 0)).is_some()
}

//= TURN-NET-01
//= TURN-NET-04
//= TURN-CHAN-19
#[test]
fn the_types_the_rfc_names_are_reported_with_their_data() {
    /// IPv6 or not, the reported message, and the client's indication: type, code, data.
    type Case = (bool, QuotedIcmp, Option<(u8, u16, u32)>);
    const CASES: [Case; 12] = [
        (false, icmp(3, 3, 77), Some((3, 3, 0))),
        (false, icmp(3, 4, 1400), Some((3, 4, 1400))),
        (false, icmp(11, 0, 77), Some((11, 0, 0))),
        (false, icmp(0, 0, 0), None),
        (false, icmp(5, 1, 0), None),
        (false, icmp(8, 0, 0), None),
        (true, icmp(1, 4, 77), Some((1, 4, 0))),
        (true, icmp(2, 0, 1280), Some((2, 0, 1280))),
        (true, icmp(3, 1, 77), Some((3, 1, 0))),
        (true, icmp(4, 1, 0), None),
        (true, icmp(11, 0, 0), None),
        (true, icmp(128, 0, 0), None),
    ];
    for (v6, message, told) in CASES {
        let mut world = World::new();
        let mut client = modern();
        client.request(&mut world, &allocate().also(2));
        let peer = addr(if v6 { "[2001:db8::1]:7000" } else { "192.0.2.1:7000" });
        client.bind(&mut world, 0x4000, peer);
        let relay = relay_of(&world, if v6 { Family::V6 } else { Family::V4 });
        let reported = report(&mut world, relay, peer, message);
        assert_eq!(reported.is_some(), told.is_some(), "{message:?}");
        let (Some((to, bytes)), Some((icmp_type, code, data))) = (reported, told) else {
            continue;
        };
        assert_eq!(to.client, client.client);
        let indication = Message::parse(&bytes).unwrap();
        assert_eq!(
            (indication.class(), indication.method()),
            (Class::Indication, Some(Method::Data))
        );
        assert_eq!(indication.xor_address(AttributeType::XOR_PEER_ADDRESS), Ok(Some(peer)));
        assert!(indication.attribute(AttributeType::DATA).is_none());
        let value = indication.attribute(AttributeType::ICMP).expect("ICMP");
        assert_eq!(
            attribute::Icmp::decode(value),
            Ok(attribute::Icmp { icmp_type, code, data })
        );
    }
}

//= TURN-NET-02
//= TURN-NET-03
#[test]
fn only_destinations_with_a_permission_are_reported_and_the_port_may_be_unknown() {
    let mut world = World::new();
    let (mut client, peer) = (modern(), addr("192.0.2.1:7000"));
    client.allocate(&mut world);
    let relay = relay_of(&world, Family::V4);
    let unreachable = icmp(3, 3, 0);
    assert!(report(&mut world, relay, peer, unreachable).is_none());
    client.permit(&mut world, &[peer]);
    let (_, bytes) = report(&mut world, relay, peer, unreachable).expect("a report");
    assert!(!bytes.is_empty());
    assert!(report(&mut world, relay, (peer.ip(), 0).into(), unreachable).is_some());
    world.pass_unnoticed(secs(300));
    assert!(report(&mut world, relay, peer, unreachable).is_none());
}

//= TURN-NET-05
#[test]
fn reports_are_rate_limited_and_change_nothing_else() {
    let mut world = World::new();
    let (mut client, peer) = (modern(), addr("192.0.2.1:7000"));
    let relayed = client.allocate(&mut world);
    client.permit(&mut world, &[peer]);
    let relay = relay_of(&world, Family::V4);
    let told = (0..1000)
        .filter(|_| report(&mut world, relay, peer, icmp(3, 3, 0)).is_some())
        .count();
    assert_eq!(told, 10);
    world.pass(secs(1));
    let told = (0..1000)
        .filter(|_| report(&mut world, relay, peer, icmp(3, 3, 0)).is_some())
        .count();
    assert_eq!(told, 10);
    assert!(world.peer(peer, relayed, b"x").is_data(peer, b"x"));
    client.send(&mut world, peer, b"x").sent();
}

#[test]
fn of_an_allocation_that_has_run_out_nothing_is_reported_however_late_the_timer() {
    let mut world = World::new();
    let (mut client, peer) = (modern(), addr("192.0.2.1:7000"));
    client.allocate(&mut world);
    world.pass(just_before(secs(600)));
    client.permit(&mut world, &[peer]);
    assert!(is_told(&mut world, peer));
    world.pass_unnoticed(std::time::Duration::from_nanos(1));
    assert!(!is_told(&mut world, peer));
}

#[test]
fn after_the_allocation_nothing_is_reported() {
    let mut world = World::new();
    let (mut client, peer) = (modern(), addr("192.0.2.1:7000"));
    client.allocate(&mut world);
    client.permit(&mut world, &[peer]);
    let relay = relay_of(&world, Family::V4);
    client.request(&mut world, &refresh(0));
    assert!(report(&mut world, relay, peer, icmp(3, 3, 0)).is_none());
    assert_eq!(
        world.peer_at(0, relay, peer, b"x"),
        Delivered::Dropped(DropReason::Gone)
    );
}

//= TURN-NET-08
#[test]
fn only_clients_whose_login_shows_rfc_8489_are_told_unless_configured_otherwise() {
    use PasswordAlgorithm::{Md5, Sha256};
    let peer = addr("192.0.2.1:7000");
    for icmp in [IcmpReports::Auto, IcmpReports::Always, IcmpReports::Never] {
        for client in every_client() {
            let logins = [
                (client.clone(), icmp == IcmpReports::Always),
                (choosing(client.clone(), Md5), icmp != IcmpReports::Never),
                (choosing(client.clone(), Sha256), icmp != IcmpReports::Never),
            ];
            for (mut client, told) in logins {
                let mut world = World::with(|config| config.icmp = icmp);
                client.allocate(&mut world);
                client.permit(&mut world, &[peer]);
                let login = client.algorithm;
                assert_eq!(
                    is_told(&mut world, peer),
                    told,
                    "{icmp:?}, {login:?}, {}",
                    story(&client)
                );
            }
        }
    }
}

//= TURN-NET-08
#[test]
fn a_user_named_by_userhash_alone_is_told() {
    let mut world = World::with(|config| {
        let user = StaticUser {
            name: "alice".into(),
            password: "wonderland".to_owned().into(),
            forced: false,
        };
        let credentials = CredentialsConfig {
            realm: REALM.into(),
            users: vec![user],
            ..CredentialsConfig::default()
        };
        config.credentials = Arc::new(Credentials::new(credentials).unwrap());
    });
    let (mut client, peer) = (client(1), addr("192.0.2.1:7000"));
    challenge(&mut world, &mut client);
    let allocate = raw_allocate()
        .attribute(AttributeType::USERHASH, userhash(&client))
        .attribute(AttributeType::REALM, REALM)
        .attribute(AttributeType::NONCE, client.nonce.as_ref().unwrap());
    let key = md5_key(&client);
    assert_eq!(world.packet(&client, &allocate.sha1(&key).bytes()).code(), 0);
    client.permit(&mut world, &[peer]);
    assert!(is_told(&mut world, peer));
}

/// Later requests and other logins of the same user change nothing. A client that moves the
/// allocation brings its own login.
//= TURN-NET-08
#[test]
fn it_is_the_login_of_the_allocation_that_counts() {
    let mut world = World::with(|config| config.mobility = Some(Mobility { grace: secs(60) }));
    let (mut old, peer) = (client(1), addr("192.0.2.1:7000"));
    let ticket = |answer: Answer| answer.attribute(AttributeType::MOBILITY_TICKET).expect("a ticket");
    let first = ticket(old.request(&mut world, &allocate().with(AttributeType::MOBILITY_TICKET, [])));
    old.permit(&mut world, &[peer]);
    let mut same = choosing(old.clone(), PasswordAlgorithm::Sha256);
    assert_eq!(same.request(&mut world, &refresh(600)).code(), 0);
    assert!(!is_told(&mut world, peer));

    let resume = |ticket: &[u8]| request(Method::Refresh).with(AttributeType::MOBILITY_TICKET, ticket);
    let mut new = choosing(client(2), PasswordAlgorithm::Sha256);
    let second = ticket(new.request(&mut world, &resume(&first)));
    new.send(&mut world, peer, b"x").sent();
    assert!(is_told(&mut world, peer));

    let mut newest = client(3);
    ticket(newest.request(&mut world, &resume(&second)));
    newest.send(&mut world, peer, b"x").sent();
    assert!(!is_told(&mut world, peer));
}
