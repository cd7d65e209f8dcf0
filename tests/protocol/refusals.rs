//! Why a client could not connect: a client causes each reason, which is counted once and reported
//! with its facts.

use std::sync::Arc;

use relay_proto::base::address::{Family, Transport};
use relay_proto::turn::config::{Mobility, TcpConfig};
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, Secret};
use relay_proto::turn::policy::{Denied, PeerPolicy, PolicyConfig};
use relay_proto::turn::refusal::QUEUED_REFUSALS;
use relay_proto::turn::types::ConnectionId;
use relay_proto::turn::{DropReason, OpenError, Refusal, RefusalReason, Refused};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use crate::every_client::*;
use crate::time_limited::minted;
use relay_testkit::world::*;

const PEER: &str = "192.0.2.7:9000";

/// The only refusal since the last call.
pub(crate) fn only(world: &mut World) -> Refused {
    assert_eq!(world.refused.len(), 1, "{:?}", world.refused);
    let refused = world.refused.remove(0);
    assert!(world.refusals(refused.refusal.reason()) > 0);
    refused
}

fn why(world: &mut World) -> Refusal {
    only(world).refusal
}

/// The reason why `client`'s Allocate is refused.
fn not_let_in(world: &mut World, client: &mut Client) -> Refusal {
    let answer = client.request(world, &allocate());
    let refused = only(world);
    assert_eq!(answer.code(), refused.refusal.code());
    assert_eq!(refused.method, Method::Allocate);
    assert_eq!(refused.five_tuple, client.client.five_tuple);
    assert_eq!(refused.username.as_deref(), Some(client.username.as_str()));
    assert!(!refused.routine);
    refused.refusal
}

/// A client named `username`, with the password that our secret produces for it.
fn signed(username: &str) -> Client {
    use base64::Engine as _;
    use hmac::{KeyInit as _, Mac as _};
    let mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(SECRET).unwrap();
    let tag = mac.chain_update(username.as_bytes()).finalize().into_bytes();
    client(1).user(username, &base64::prelude::BASE64_STANDARD.encode(tag))
}

#[test]
fn a_healthy_login_is_no_refusal_from_its_first_401_to_a_stale_nonce() {
    for client in every_client() {
        let mut world = World::with(|config| config.nonce_lifetime = secs(60));
        let mut client = client.clone();
        client.allocate(&mut world);
        world.pass(secs(61));
        assert_eq!(client.request(&mut world, &refresh(600)).code(), 438);
        assert!(world.refused.is_empty(), "{}", story(&client));
        assert!(RefusalReason::ALL.iter().all(|&reason| world.refusals(reason) == 0));
    }
}

#[test]
fn who_has_no_good_nonce_is_not_told_of_for_its_address_may_be_forged() {
    let mut world = World::new();
    let mut client = client(1).user("alice", "wrong");
    client.nonce = Some(b"obMatJos2AAABmade-up-by-somebody".to_vec());
    assert_eq!(client.request(&mut world, &allocate()).code(), 438);
    // Without even a nonce: 400 before any address is proved.
    let odd = raw_allocate().sha1(&md5_key(&client));
    assert_eq!(world.packet(&client, &odd.bytes()).code(), 400);
    assert!(world.refused.is_empty());
}

#[test]
fn an_expired_credential_says_how_long_ago_it_ended() {
    for client in every_client() {
        let mut world = World::new();
        world.pass(secs(100_000));
        let mut client = minted(client, SECRET, START + 10, Some("bob"));
        let expected = Refusal::CredentialExpired { ago: secs(99_990) };
        assert_eq!(not_let_in(&mut world, &mut client), expected);
    }
}

#[test]
fn a_credential_that_ends_too_late_says_by_how_much() {
    let mut world = World::new();
    let mut late = minted(client(1), SECRET, START + 86_400 + 60 + 3600, Some("bob"));
    let expected = Refusal::ExpiryTooFar { beyond: secs(3600) };
    assert_eq!(not_let_in(&mut world, &mut late), expected);
}

#[test]
fn a_credential_of_another_secret_says_how_many_were_tried() {
    let two = CredentialsConfig {
        realm: REALM.into(),
        secrets: vec![Secret::new(SECRET), Secret::new(b"the other one")],
        ..CredentialsConfig::default()
    };
    let two = Arc::new(Credentials::new(two).unwrap());
    let mut world = World::with(|config| config.credentials = two);
    // Possibly expired as well: an attacker without our secret can write any time.
    for expiry in [START + 60, START - 60] {
        let mut other = minted(client(1), b"not a secret of this server", expiry, Some("bob"));
        let expected = Refusal::WrongPassword { secrets: 2 };
        assert_eq!(not_let_in(&mut world, &mut other), expected);
    }
}

#[test]
fn a_static_user_with_a_wrong_password_is_told_from_a_name_nobody_has() {
    for (name, expected) in [
        ("alice", Refusal::WrongStaticPassword),
        ("carol", Refusal::UnknownUser),
        ("1000", Refusal::UnknownUser),
        ("carol:7", Refusal::UnknownUser),
        ("\u{e9}\n\u{202e}", Refusal::UnknownUser),
    ] {
        let mut world = World::new();
        let mut client = client(1).user(name, "wrong");
        assert_eq!(not_let_in(&mut world, &mut client), expected, "{name}");
    }
}

#[test]
fn a_user_named_by_its_hash_stays_without_a_name() {
    let only_users = CredentialsConfig {
        realm: REALM.into(),
        users: vec![relay_proto::turn::login::credential::StaticUser {
            name: "alice".into(),
            password: "wonderland".to_owned().into(),
            forced: false,
        }],
        ..CredentialsConfig::default()
    };
    let only_users = Arc::new(Credentials::new(only_users).unwrap());
    let mut world = World::with(|config| config.credentials = only_users);
    let mut client = client(1);
    challenge(&mut world, &mut client);
    let request = raw_allocate()
        .attribute(AttributeType::USERHASH, [7; 32])
        .attribute(AttributeType::REALM, REALM)
        .attribute(AttributeType::NONCE, client.nonce.as_deref().unwrap())
        .sha1(&md5_key(&client));
    assert_eq!(world.packet(&client, &request.bytes()).code(), 401);
    let refused = only(&mut world);
    assert_eq!((refused.username, refused.refusal), (None, Refusal::UnknownUser));
}

#[test]
fn a_username_that_is_nearly_one_of_ours_says_what_is_wrong_with_it() {
    use Refusal::*;
    for (name, expected) in [
        // Its times are in the far future and in 1970, so the order is wrong.
        ("bob:1800000600", UsernameReversed),
        ("42:1800000600", UsernameReversed),
        ("a:b:1800000600", UsernameReversed),
        ("bob:1800000600000", UsernameReversed),
        ("1800000600000:bob", ExpiryMilliseconds { digits: 13 }),
        ("1800000600000", ExpiryMilliseconds { digits: 13 }),
        ("1800000600000000+forced:bob", ExpiryMilliseconds { digits: 16 }),
        ("1800000600.25:bob", UsernameMalformed),
        ("1800000600-bob", UsernameMalformed),
        ("1800000600+enforced:bob", UsernameMalformed),
        ("1800000600:b\nob", UsernameMalformed),
        ("180000060000:b\nob", UsernameMalformed),
    ] {
        // Whether or not the minting service has our secret, the form is wrong.
        for mut client in [signed(name), client(1).user(name, "wrong")] {
            assert_eq!(not_let_in(&mut World::new(), &mut client), expected, "{name}");
        }
    }
    // With our secret, every name is meant for us.
    assert_eq!(not_let_in(&mut World::new(), &mut signed("bob")), UsernameMalformed);
    // A lifetime in place of the time.
    let expected = CredentialExpired {
        ago: secs(START - 3600),
    };
    assert_eq!(not_let_in(&mut World::new(), &mut signed("3600:bob")), expected);
}

#[test]
fn a_login_for_another_realm_says_so() {
    let mut world = World::new();
    let mut client = client(1);
    client.realm = "other.example".into();
    assert_eq!(not_let_in(&mut world, &mut client), Refusal::WrongRealm);
}

#[test]
fn an_offer_of_algorithms_that_came_back_changed_says_so() {
    let mut world = World::new();
    let mut client = client(1);
    challenge(&mut world, &mut client);
    let changed = raw_allocate()
        .login(&client)
        .attribute(AttributeType::PASSWORD_ALGORITHMS, [0, 1, 0, 0])
        .sha1(&md5_key(&client));
    assert_eq!(world.packet(&client, &changed.bytes()).code(), 400);
    assert_eq!(why(&mut world), Refusal::AlgorithmsChanged);
}

#[test]
fn too_many_failed_logins_are_refused_without_an_answer_and_counted_all_the_same() {
    let mut world = World::with(|config| config.limits.login_failures_per_second = 2);
    let mut client = client(1).user("alice", "wrong");
    for _ in 0..2 {
        assert_eq!(client.request(&mut world, &allocate()).code(), 401);
    }
    let answer = client.request(&mut world, &allocate());
    assert_eq!(answer, Answer::Dropped(DropReason::LoginLimited));
    assert_eq!(world.refusals(RefusalReason::WrongStaticPassword), 2);
    assert_eq!(world.refused.pop().unwrap().refusal, Refusal::LoginLimited);
}

#[test]
fn a_long_name_is_cut() {
    let mut world = World::new();
    let mut client = client(1).user(&"x".repeat(2000), "wrong");
    assert_eq!(client.request(&mut world, &allocate()).code(), 401);
    assert_eq!(only(&mut world).username.unwrap().len(), Refused::USERNAME);
}

#[test]
fn the_quotas_and_the_limits_say_how_many_of_how_many() {
    let limited = |alter: fn(&mut relay_proto::turn::config::limits::Limits)| {
        let mut world = World::with(|config| alter(&mut config.limits));
        client(1).allocate(&mut world);
        let mut second = client(1);
        second.client.five_tuple.client.set_port(50_000);
        not_let_in(&mut world, &mut second)
    };
    let (held, limit) = (1, 1);
    assert_eq!(
        limited(|limits| limits.allocations_per_user = 1),
        Refusal::UserQuota { held, limit }
    );
    assert_eq!(
        limited(|limits| limits.allocations_per_ip = 1),
        Refusal::AddressQuota { held, limit }
    );
    assert_eq!(
        limited(|limits| limits.allocations_per_network = 1),
        Refusal::NetworkQuota { held, limit }
    );
    assert_eq!(limited(|limits| limits.allocations = 1), Refusal::TotalLimit { limit });

    let mut world = World::with(|config| config.limits.reservations_per_user = 0);
    assert_eq!(client(1).request(&mut world, &allocate().even_port(true)).code(), 508);
    assert_eq!(why(&mut world), Refusal::ReservationQuota { limit: 0 });
}

#[test]
fn ports_and_sockets_that_cannot_be_had_are_told_apart() {
    let mut world = World::with(|config| config.relay.ports = 50_000..=50_001);
    for n in 1..=2 {
        client(n).allocate(&mut world);
    }
    let none = |even| Refusal::NoFreePort {
        family: Family::V4,
        even,
        ports: 2,
    };
    assert_eq!(not_let_in(&mut world, &mut client(3)), none(false));
    assert_eq!(client(4).request(&mut world, &allocate().even_port(false)).code(), 508);
    assert_eq!(why(&mut world), none(true));

    for (error, expected) in [
        (OpenError::AddressInUse, Refusal::PortsInUse),
        (OpenError::Exhausted, Refusal::NoDescriptor),
        (OpenError::Other, Refusal::SocketFailed),
    ] {
        let mut world = World::new();
        world.open_results = vec![Err(error); 20].into();
        assert_eq!(not_let_in(&mut world, &mut client(1)), expected);
    }
}

#[test]
fn a_reservation_token_nobody_has_says_so() {
    let mut world = World::new();
    let message = allocate().with(AttributeType::RESERVATION_TOKEN, [7; 8]);
    assert_eq!(client(1).request(&mut world, &message).code(), 508);
    assert_eq!(why(&mut world), Refusal::ReservationUnknown);
}

#[test]
fn what_an_allocate_asks_for_in_vain_is_named() {
    for (message, expected) in [
        (
            allocate().without(AttributeType::REQUESTED_TRANSPORT),
            Refusal::BadRequest,
        ),
        (
            request(Method::Allocate).with(AttributeType::REQUESTED_TRANSPORT, [6, 0, 0, 0]),
            Refusal::TransportNotSupported { protocol: 6 },
        ),
        (allocate().family(9), Refusal::FamilyNotSupported),
        (
            allocate().with(AttributeType::MOBILITY_TICKET, []),
            Refusal::MobilityForbidden,
        ),
    ] {
        let mut world = World::new();
        let answer = client(1).request(&mut world, &message);
        assert_eq!(answer.code(), expected.code());
        assert_eq!(why(&mut world), expected);
    }
    let mut world = World::new();
    assert_eq!(
        client(1)
            .request(&mut world, &allocate().with(AttributeType(0x7FFE), []))
            .code(),
        420
    );
    assert!(matches!(why(&mut world), Refusal::UnknownAttributes { .. }));
}

#[test]
fn a_forced_login_off_its_path_says_on_which_port_it_came() {
    let mut world = World::with(|config| config.forced.everyone = true);
    assert_eq!(
        not_let_in(&mut world, &mut client(1)),
        Refusal::ForcedPath { port: 3478 }
    );
}

#[test]
fn a_client_that_must_not_be_one_says_why() {
    let mut world = World::new();
    let mut transition = client(1);
    transition.client.five_tuple.client = addr("[2002:c000:0204::1]:5000");
    let rule = Denied::Transition;
    assert_eq!(not_let_in(&mut world, &mut transition), Refusal::ClientDenied { rule });
    let mut looped = client(2);
    looped.client.five_tuple.client = client(3).allocate(&mut world);
    assert_eq!(not_let_in(&mut world, &mut looped), Refusal::ClientIsRelayed);
}

#[test]
fn a_request_about_an_allocation_that_is_not_there_or_not_its_own_says_which() {
    let mut world = World::new();
    let mut alice = client(1);
    assert_eq!(alice.request(&mut world, &refresh(600)).code(), 437);
    assert_eq!(why(&mut world), Refusal::NoAllocation);
    alice.allocate(&mut world);
    assert_eq!(alice.request(&mut world, &allocate()).code(), 437);
    assert_eq!(why(&mut world), Refusal::AllocationExists);
    let mut bob = alice.clone().user("bob", "builder");
    assert_eq!(bob.request(&mut world, &refresh(600)).code(), 441);
    let refused = only(&mut world);
    assert_eq!(
        (refused.refusal, refused.username.as_deref()),
        (Refusal::WrongUser, Some("bob"))
    );

    let mut world = World::with(|config| config.mobility = Some(Mobility { grace: secs(60) }));
    let ticket = refresh(600).with(AttributeType::MOBILITY_TICKET, [7; 32]);
    assert_eq!(client(1).request(&mut world, &ticket).code(), 437);
    assert_eq!(why(&mut world), Refusal::TicketUnknown);
}

/// A denied peer, the rule, and how it is requested.
fn denied_peers() -> Vec<(&'static str, Denied)> {
    vec![
        ("10.0.3.4:9000", Denied::Private),
        ("100.64.1.1:9000", Denied::Shared),
        ("127.0.0.1:9000", Denied::Loopback),
        ("169.254.169.254:80", Denied::Metadata),
        ("169.254.1.1:9000", Denied::LinkLocal),
        ("198.51.100.1:9000", Denied::OwnAddress),
        ("224.0.0.1:9000", Denied::Multicast),
        ("81.2.69.142:9000", Denied::Configured),
    ]
}

#[test]
fn a_denied_peer_is_told_with_its_address_and_the_rule() {
    for (text, rule) in denied_peers() {
        let peer = addr(text);
        for message in [create_permission(&[addr(PEER), peer]), channel_bind(0x4000, peer)] {
            let mut world = World::with(|config| config.policy = policy(&["81.2.69.0/24"]));
            let mut client = client(1);
            client.allocate(&mut world);
            assert_eq!(client.request(&mut world, &message).code(), 403);
            let refused = only(&mut world);
            assert_eq!(refused.refusal, Refusal::PeerDenied { peer, rule });
            assert_eq!(refused.refusal.peer(), Some(peer));
            assert_eq!(world.counters[0].refusals.peer_rules[rule as usize].get(), 1);
        }
    }
    // Only a channel has a port.
    let mut world = World::new();
    let mut client = client(1);
    let own = client.allocate(&mut world);
    for (peer, expected) in [
        (
            addr("192.0.2.7:53"),
            Refusal::PeerDenied {
                peer: addr("192.0.2.7:53"),
                rule: Denied::Port,
            },
        ),
        (own, Refusal::PeerIsItself { peer: own }),
    ] {
        assert_eq!(client.request(&mut world, &channel_bind(0x4000, peer)).code(), 403);
        assert_eq!(why(&mut world), expected);
    }
}

#[test]
fn where_only_listed_peers_are_allowed_another_is_told_as_such() {
    let config = PolicyConfig {
        only_allowed: true,
        ..PolicyConfig::default()
    };
    let listed = Arc::new(PeerPolicy::new(config).unwrap());
    let mut world = World::with(|config| config.policy = listed);
    let mut client = client(1);
    client.allocate(&mut world);
    let peer = addr("81.2.69.142:9000");
    assert_eq!(client.request(&mut world, &create_permission(&[peer])).code(), 403);
    assert_eq!(
        why(&mut world),
        Refusal::PeerDenied {
            peer,
            rule: Denied::NotAllowed
        }
    );
}

#[test]
fn of_the_candidates_a_browser_tries_in_vain_one_is_news_and_only_before_another_was_granted() {
    let private = create_permission(&[addr("192.168.1.5:9000")]);
    let shared = channel_bind(0x4001, addr("100.64.1.1:9000"));
    let v6 = create_permission(&[addr("[2001:db8::1]:9000")]);
    // No peer is ever granted: the SFU is private and not opened, and one line reports that.
    let mut world = World::new();
    let mut client_1 = client(1);
    client_1.allocate(&mut world);
    for message in [&private, &private, &shared, &v6] {
        assert!([403, 443].contains(&client_1.request(&mut world, message).code()));
    }
    let routine: Vec<bool> = world.refused.iter().map(|it| it.routine).collect();
    assert_eq!(routine, [false, true, true, true]);
    assert_eq!(world.refusals(RefusalReason::PeerDenied), 3, "counted all the same");
    // The SFU is public: a browser's own candidates are routine.
    for grant in [create_permission(&[addr(PEER)]), channel_bind(0x4000, addr(PEER))] {
        let mut world = World::new();
        let mut client = client(2);
        client.allocate(&mut world);
        assert_eq!(client.request(&mut world, &grant).code(), 0);
        assert_eq!(client.request(&mut world, &private).code(), 403);
        assert!(only(&mut world).routine);
    }
}

#[test]
fn a_peer_of_the_other_family_says_so() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    let peer = addr("[2001:db8::7]:9000");
    assert_eq!(client.request(&mut world, &create_permission(&[peer])).code(), 443);
    assert_eq!(why(&mut world), Refusal::FamilyMismatch { peer: Some(peer) });
    assert_eq!(client.request(&mut world, &refresh(600).family(2)).code(), 443);
    assert_eq!(why(&mut world), Refusal::FamilyMismatch { peer: None });
}

#[test]
fn permissions_and_channels_say_what_is_full_or_in_the_way() {
    let mut world = World::with(|config| (config.limits.permissions, config.limits.channels) = (2, 1));
    let mut client = client(1);
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, addr(PEER));
    assert_eq!(
        client
            .request(&mut world, &channel_bind(0x4000, addr("192.0.2.8:1")))
            .code(),
        400
    );
    assert_eq!(why(&mut world), Refusal::ChannelConflict { number: 0x4000 });
    assert_eq!(
        client
            .request(&mut world, &channel_bind(0x4001, addr("192.0.2.8:1")))
            .code(),
        508
    );
    let expected = Refusal::ChannelsFull {
        channels: 1,
        permissions: 2,
    };
    assert_eq!(why(&mut world), expected);
    let many = create_permission(&[addr("192.0.2.8:1"), addr("192.0.2.9:1")]);
    assert_eq!(client.request(&mut world, &many).code(), 508);
    assert_eq!(why(&mut world), Refusal::PermissionsFull { limit: 2 });
}

#[test]
fn too_many_permission_requests_are_counted_though_not_answered() {
    let mut world = World::with(|config| config.limits.permission_requests_per_second = 1);
    let mut client = client(1);
    client.allocate(&mut world);
    client.permit(&mut world, &[addr(PEER)]);
    let answer = client.request(&mut world, &create_permission(&[addr(PEER)]));
    assert_eq!(answer, Answer::Dropped(DropReason::PermissionLimited));
    assert_eq!(why(&mut world), Refusal::PermissionLimited);
}

#[test]
fn tcp_connections_say_what_is_wrong_with_the_peer() {
    let mut world = World::with(|config| {
        config.tcp = Some(TcpConfig {
            peer_ports: vec![1024..=65_535],
            connections_per_allocation: 1,
            connections: 10,
            max_bytes: None,
        });
    });
    let mut client = client_over(1, Transport::Tcp);
    let tcp = request(Method::Allocate).with(AttributeType::REQUESTED_TRANSPORT, [6, 0, 0, 0]);
    assert_eq!(client.request(&mut world, &tcp).code(), 0);
    let connect = |peer: &str| request(Method::Connect).peer(addr(peer));
    let (low, peer) = (addr("192.0.2.7:80"), addr(PEER));
    assert_eq!(client.request(&mut world, &connect("192.0.2.7:80")).code(), 403);
    assert_eq!(why(&mut world), Refusal::PeerPortDenied { peer: low });
    assert_eq!(client.request(&mut world, &connect(PEER)), Answer::Waiting);
    assert_eq!(client.request(&mut world, &connect(PEER)).code(), 446);
    assert_eq!(why(&mut world), Refusal::ConnectionExists { peer });
    assert_eq!(client.request(&mut world, &connect("192.0.2.8:9000")).code(), 508);
    assert_eq!(why(&mut world), Refusal::ConnectionsFull);
    world.peer_answers(false);
    let refused = only(&mut world);
    assert_eq!(
        (refused.refusal, refused.routine),
        (Refusal::PeerUnreachable { peer }, true)
    );
    let [a, b, c, d] = ConnectionId(77).0.to_be_bytes();
    let bind = request(Method::ConnectionBind).with(AttributeType::CONNECTION_ID, [a, b, c, d]);
    assert_eq!(client_over(2, Transport::Tcp).request(&mut world, &bind).code(), 400);
    assert_eq!(why(&mut world), Refusal::ConnectionUnknown);
}

#[test]
fn events_that_nobody_takes_are_bounded_and_the_rest_is_counted() {
    let mut world = World::new();
    let mut client = client(1).user("alice", "wrong");
    challenge(&mut world, &mut client);
    let packet = client.signed(&allocate());
    let (now, mut response) = (world.now(), relay_proto::turn::Response::new());
    let server = &mut world.shards[0];
    for _ in 0..QUEUED_REFUSALS + 10 {
        let _ = server.handle_client(now, &client.client, &packet, &mut response);
    }
    assert_eq!(server.take_unreported_refusals(), 10);
    assert_eq!(server.take_unreported_refusals(), 0);
    assert_eq!(std::iter::from_fn(|| server.poll_event()).count(), QUEUED_REFUSALS);
    let _ = server.handle_client(now, &client.client, &packet, &mut response);
    assert!(server.poll_event().is_some(), "there is room again");
    let all = QUEUED_REFUSALS as u64 + 11;
    assert_eq!(world.refusals(RefusalReason::WrongStaticPassword), all);
}

#[test]
fn a_client_learns_nothing_from_its_401_of_why() {
    let length = |mut client: Client| {
        let mut world = World::new();
        let Answer::Response(bytes) = client.request(&mut world, &allocate()) else {
            panic!("no answer")
        };
        let kinds = Answer::Response(bytes.clone()).kinds();
        (bytes.len(), kinds)
    };
    let expired = minted(client(1), SECRET, START - 1, Some("bob"));
    let expected = length(client(1).user("nobody", "wrong"));
    for other in [
        client(1).user("alice", "wrong"),
        expired,
        signed("bob:1800000600"),
        signed("1800000600000:bob"),
    ] {
        assert_eq!(length(other), expected);
    }
}
