//! An attacker that forges a live client's address cannot affect its session. The client's own
//! requests are still answered.

use relay_proto::base::address::Transport;
use relay_proto::turn::config::Config;
use relay_proto::turn::config::limits::Limits;
use relay_proto::turn::login::nonce::NonceKey;
use relay_proto::turn::{DropReason, RefusalReason};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

/// With the default limits of a server, and nonces that expire soon.
fn strict(config: &mut Config) {
    config.limits = Limits::default();
    config.nonce_lifetime = secs(100);
}

/// A second of a flood: 3,000 packets with the client's address as their source.
struct Forger {
    next: u32,
    /// Forges the port too.
    exact: bool,
    /// Another source for each packet, which uses up the budget of all sources together.
    everywhere: bool,
}

impl Forger {
    fn second(&mut self, world: &mut World, victim: &Client) {
        for _ in 0..3_000 {
            self.next += 1;
            let mut forged = victim.clone();
            if !self.exact {
                forged
                    .client
                    .five_tuple
                    .client
                    .set_port(1024 + (self.next % 40_000) as u16);
            }
            if self.everywhere {
                let host = std::net::Ipv4Addr::from_bits(0x3000_0000 + self.next);
                forged.client.five_tuple.client = (host, 4000).into();
            }
            forged.nonce = Some(b"obMatJos2AAAB_a_nonce_of_no_one_".to_vec());
            forged.password = "a guess".into();
            let packet = match self.next % 4 {
                0 => allocate().plain(),
                1 => request(Method::Binding).plain(),
                2 => request(Method::Refresh)
                    .with(AttributeType::MESSAGE_INTEGRITY, [0; 20])
                    .plain(),
                _ => forged.signed(&refresh(0)),
            };
            let _ = world.packet(&forged, &packet);
        }
    }
}

/// Sends requests as clients do: answers a 438 with the new nonce. Fails if there is no response.
fn ask(world: &mut World, client: &mut Client, message: &Message) {
    let mut answer = client.request(world, message);
    if answer.code_or_success() == Some(438) {
        client.nonce = answer.attribute(AttributeType::NONCE);
        answer = client.request(world, message);
    }
    assert_eq!(answer.code_or_success(), Some(0), "{answer:?} at {:?}", world.now);
}

/// A session of twenty minutes until its natural end. Its nonce expires before every Refresh.
fn session(mut forger: Forger, v6: bool) {
    let mut world = World::with(|config| {
        strict(config);
        config.limits.all_challenges_per_second = 1_000;
    });
    let mut client = client_of(1, Transport::Udp, v6);
    let peers = [addr("192.0.2.1:7000"), addr("192.0.2.2:7000")];
    client.allocate(&mut world);
    client.permit(&mut world, &peers);
    client.bind(&mut world, 0x4000, peers[0]);
    for _ in 0..5 {
        world.pass(secs(239));
        forger.second(&mut world, &client);
        ask(&mut world, &mut client, &refresh(600));
        forger.second(&mut world, &client);
        ask(&mut world, &mut client, &create_permission(&peers));
        ask(&mut world, &mut client, &channel_bind(0x4000, peers[0]));
        assert!(matches!(
            client.channel_data(&mut world, 0x4000, b"media"),
            Answer::Sent(_)
        ));
        assert_eq!(
            client
                .send_plain(&mut world, &request(Method::Binding))
                .code_or_success(),
            (!forger.exact).then_some(0)
        );
        world.pass(secs(1));
    }
    world.pass(secs(100));
    forger.second(&mut world, &client);
    ask(&mut world, &mut client, &refresh(0));
    world.assert_empty();
    let limited = if forger.everywhere {
        DropReason::AllChallengesLimited
    } else {
        DropReason::ChallengeLimited
    };
    assert!(world.dropped(limited) > 10_000);
    assert_eq!(world.dropped(DropReason::AllocationRate), 0);
}

//= STUN-AUTH-05
//= TURN-REFR-01
#[test]
fn a_session_lives_to_its_end_under_a_flood_from_its_address() {
    for v6 in [false, true] {
        let (next, everywhere) = (0, false);
        session(
            Forger {
                next,
                exact: false,
                everywhere,
            },
            v6,
        );
        session(
            Forger {
                next,
                exact: true,
                everywhere,
            },
            v6,
        );
    }
}

//= STUN-AUTH-05
#[test]
fn a_session_lives_to_its_end_while_the_budget_of_all_strangers_is_used_up() {
    session(
        Forger {
            next: 0,
            exact: false,
            everywhere: true,
        },
        false,
    );
}

//= STUN-AUTH-05
#[test]
fn every_answer_to_a_live_client_is_out_of_its_own_budget_whatever_is_wrong_with_its_request() {
    let mut world = World::with(|config| {
        strict(config);
        config.nonce_key = Some(NonceKey::random([1; 32]));
    });
    let mut client = client_over(1, Transport::Udp);
    client.allocate(&mut world);
    let mut forger = Forger {
        next: 0,
        exact: true,
        everywhere: false,
    };
    let codes = |world: &mut World, client: &mut Client, forger: &mut Forger, message: &Message| {
        forger.second(world, client);
        client.request(world, message).code_or_success()
    };
    // 438 to a request with its previous nonce: one of many that were in flight when it expired.
    world.pass(secs(101));
    let old = client.nonce.clone();
    ask(&mut world, &mut client, &refresh(600));
    let mut late = client.clone();
    late.nonce = old;
    assert_eq!(codes(&mut world, &mut late, &mut forger, &refresh(600)), Some(438));
    // 438 because the realm has changed.
    world.reload(|config| config.realm = "new.example".into());
    assert_eq!(
        codes(&mut world, &mut client, &mut forger, &refresh(600)),
        Some(438),
        "nonces are bound to the realm"
    );
    world.reload(|config| config.realm = REALM.into());
    // 438 because the key of nonces has changed.
    world.reload(|config| config.nonce_key = Some(NonceKey::random([2; 32])));
    assert_eq!(codes(&mut world, &mut client, &mut forger, &refresh(600)), Some(438));
    ask(&mut world, &mut client, &refresh(600));
    // The errors after the login.
    for (message, code) in [
        (allocate(), 437),
        (refresh(600).with(AttributeType(0x7001), []), 420),
        (refresh(600).family(9), 443),
        (create_permission(&[]), 400),
        (create_permission(&[addr("10.0.0.1:1")]), 403),
    ] {
        assert_eq!(codes(&mut world, &mut client, &mut forger, &message), Some(code));
    }
    assert!(world.dropped(DropReason::ChallengeLimited) > 1000);
}

//= STUN-AUTH-05
#[test]
fn a_live_client_with_a_nonce_nobody_knows_is_looked_at_some_times_a_second_and_forgers_cost_no_more() {
    let mut world = World::with(strict);
    let mut client = client_over(1, Transport::Udp);
    client.allocate(&mut world);
    // Unauthenticated senders at this address get no further responses.
    let mut elsewhere = Forger {
        next: 0,
        exact: false,
        everywhere: false,
    };
    elsewhere.second(&mut world, &client);
    client.nonce = Some(b"obMatJos2AAAB_a_nonce_of_no_one_".to_vec());
    let answered = |world: &mut World, client: &mut Client| {
        let answers = (0..100).map(|_| client.request(world, &refresh(600)).code_or_success());
        answers.filter(|code| *code == Some(438)).count()
    };
    let most = Limits::default().login_failures_per_second as usize;
    assert_eq!(
        answered(&mut world, &mut client),
        most,
        "each costs an HMAC over the packet"
    );
    world.pass(secs(1));
    elsewhere.second(&mut world, &client);
    assert_eq!(answered(&mut world, &mut client), most);
}

//= TURN-REFR-01
#[test]
fn requests_are_rate_limited_by_allocation_whatever_they_are() {
    let mut world = World::with(|config| {
        config.limits.allocation_requests_per_second = 10;
        (config.limits.permissions, config.limits.channels) = (1, 1);
    });
    let (mut client, mut other) = (client(1), client(2));
    client.allocate(&mut world);
    other.allocate(&mut world);
    let answered = |world: &mut World, client: &mut Client| {
        let answers = (0..100).map(|n| {
            let message = match n % 3 {
                0 => allocate(),
                1 => refresh(600),
                _ => refresh(600).family(9),
            };
            client.request(world, &message)
        });
        let limited = Answer::Dropped(DropReason::AllocationRate);
        answers.filter(|answer| *answer != limited).count()
    };
    // Twice what it may have to renew, and one second of the rate.
    assert_eq!(answered(&mut world, &mut client), 14);
    assert_eq!(answered(&mut world, &mut other), 14, "each has its own budget");
    world.pass(secs(1));
    assert_eq!(answered(&mut world, &mut client), 10);
    assert_eq!(world.refusals(RefusalReason::AllocationRate), 86 + 86 + 90);
    world.pass(secs(1));
    assert_eq!(client.request(&mut world, &refresh(0)).code(), 0);
}

#[test]
fn allocations_made_and_released_again_and_again_are_rate_limited_by_user_wherever_it_is() {
    let mut world = World::sharded(2, |config| {
        config.limits.user_requests_per_second = 10;
        config.limits.allocations_per_user = 20;
    });
    let mut made = 0;
    for n in 0..200 {
        let mut client = client_over(n, Transport::Udp).at_shard(usize::from(n % 2));
        match client.request(&mut world, &allocate()) {
            Answer::Dropped(reason) => assert_eq!(reason, DropReason::UserRate),
            answer => {
                assert_eq!(answer.code(), 0);
                made += 1;
                assert_eq!(client.request(&mut world, &refresh(0)).code(), 0);
            }
        }
    }
    // As many as replace all allocations that it may have, and one second of the rate.
    assert_eq!(made, 50);
    assert_eq!(world.refusals(RefusalReason::UserRate), 150);
    let mut stranger = client_over(201, Transport::Udp);
    let answer = stranger.request(&mut world, &refresh(600));
    assert_eq!(
        answer,
        Answer::Dropped(DropReason::UserRate),
        "nor is it told that there is no allocation"
    );
    client_over(202, Transport::Udp)
        .user("bob", "builder")
        .allocate(&mut world);
    world.pass(secs(1));
    client_over(203, Transport::Udp).allocate(&mut world);
}

/// A browser's worst case: everything it has must be renewed at once, with a nonce that has just
/// expired.
//= TURN-PERM-05
#[test]
fn a_client_with_all_permissions_and_channels_there_may_be_renews_them_at_once_by_default() {
    let mut world = World::with(|config| {
        strict(config);
        config.limits.permission_requests_per_second = 1000;
    });
    let mut client = client_over(1, Transport::Udp);
    client.allocate(&mut world);
    let peers: Vec<_> = (1..=128).map(|n| addr(&format!("192.0.2.{n}:7000"))).collect();
    let renew = |world: &mut World, client: &mut Client| {
        let nonce = client.nonce.clone();
        for (n, &peer) in peers.iter().enumerate() {
            for message in [create_permission(&[peer]), channel_bind(0x4000 + n as u16, peer)] {
                // Each was sent before the first 438 arrived.
                client.nonce.clone_from(&nonce);
                ask(world, client, &message);
            }
        }
    };
    renew(&mut world, &mut client);
    world.pass(secs(240));
    renew(&mut world, &mut client);
    ask(&mut world, &mut client, &refresh(0));
    assert_eq!(world.dropped(DropReason::AllocationRate), 0);
}
