//! Limits on what clients and unauthenticated senders can make grow, and how fast.

use relay_proto::base::address::Transport;
use relay_proto::turn::DropReason;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

//= TURN-ALLOC-25
#[test]
fn a_user_has_so_many_allocations_wherever_it_is() {
    let mut world = World::with(|config| config.limits.allocations_per_user = 2);
    client(1).allocate(&mut world);
    let mut second = client(2);
    second.allocate(&mut world);
    assert_eq!(client(3).request(&mut world, &allocate()).code(), 486);
    client(4).user("bob", "builder").allocate(&mut world);
    second.request(&mut world, &refresh(0));
    client(3).allocate(&mut world);
}

#[test]
fn an_address_has_so_many_allocations_whoever_asks() {
    let mut world = World::with(|config| config.limits.allocations_per_ip = 1);
    let behind_one_address = |n: u16, user: (&str, &str)| {
        let mut client = client(n).user(user.0, user.1);
        client.client.five_tuple.client = (ip("203.0.113.200"), 5000 + n).into();
        client
    };
    behind_one_address(1, ("alice", "wonderland")).allocate(&mut world);
    let mut bob = behind_one_address(2, ("bob", "builder"));
    assert_eq!(bob.request(&mut world, &allocate()).code(), 486);
    client(3).allocate(&mut world);
}

//= TURN-ALLOC-26
#[test]
fn the_server_has_so_many_allocations_over_all_shards() {
    let mut world = World::sharded(2, |config| config.limits.allocations = 2);
    client(1).at_shard(0).allocate(&mut world);
    client(2).at_shard(1).allocate(&mut world);
    assert_eq!(client(3).at_shard(0).request(&mut world, &allocate()).code(), 508);
}

#[test]
fn quotas_follow_the_configuration() {
    let mut world = World::with(|config| config.limits.allocations_per_user = 1);
    client(1).allocate(&mut world);
    assert_eq!(client(2).request(&mut world, &allocate()).code(), 486);
    world.reload(|config| config.limits.allocations_per_user = 2);
    client(2).allocate(&mut world);
}

//= TURN-PERM-05
//= TURN-PERM-09
#[test]
fn what_was_given_before_a_limit_was_lowered_can_be_refreshed_and_nothing_added() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    let peers = [addr("192.0.2.1:7000"), addr("192.0.2.2:7000")];
    client.permit(&mut world, &peers);
    client.bind(&mut world, 0x4000, peers[0]);
    client.bind(&mut world, 0x4001, peers[1]);
    world.reload(|config| (config.limits.permissions, config.limits.channels) = (1, 1));
    client.permit(&mut world, &peers);
    client.bind(&mut world, 0x4000, peers[0]);
    let more = addr("192.0.2.3:7000");
    assert_eq!(client.request(&mut world, &create_permission(&[more])).code(), 508);
    assert_eq!(client.request(&mut world, &channel_bind(0x4002, more)).code(), 508);
}

#[test]
fn challenges_over_udp_are_rate_limited_by_source() {
    let mut world = World::with(|config| {
        (config.limits.challenges_per_second, config.limits.challenge_burst) = (20, 60);
    });
    let mut challenged = |from: &Client, times: usize| {
        (0..times)
            .filter(|_| {
                from.clone()
                    .send_plain(&mut world, &allocate())
                    .code_or_success()
                    .is_some()
            })
            .count()
    };
    assert_eq!(challenged(&client_over(1, Transport::Udp), 1000), 60);
    assert_eq!(challenged(&client_over(2, Transport::Udp), 10), 10, "another source");
    assert_eq!(
        challenged(&client_over(1, Transport::Tcp), 100),
        100,
        "a stream's source is no forgery"
    );
    assert!(world.dropped(DropReason::ChallengeLimited) >= 940);
}

#[test]
fn challenges_over_udp_have_a_limit_for_all_sources_together_that_streams_do_not_feel() {
    let mut world = World::with(|config| config.limits.all_challenges_per_second = 50);
    let mut answered = |transport, from: std::ops::Range<u16>| {
        let answers = from.map(|n| client_over(n, transport).send_plain(&mut world, &allocate()));
        answers.filter(|answer| answer.code_or_success().is_some()).count()
    };
    assert_eq!(answered(Transport::Udp, 0..200), 50);
    assert_eq!(answered(Transport::Udp, 200..300), 0);
    assert_eq!(answered(Transport::Tls, 300..400), 100);
    assert_eq!(world.dropped(DropReason::AllChallengesLimited), 250);
    assert_eq!(world.dropped(DropReason::ChallengeLimited), 0);
    world.pass(secs(1));
    let answer = client(500).send_plain(&mut world, &allocate());
    assert_eq!(answer.code(), 401, "a second later newcomers are answered again");
}

#[test]
fn the_signed_answers_of_a_client_are_not_limited_as_challenges() {
    let mut world = World::with(|config| {
        (config.limits.challenges_per_second, config.limits.challenge_burst) = (1, 1);
    });
    let mut client = client(1);
    client.allocate(&mut world);
    for _ in 0..100 {
        assert_eq!(client.request(&mut world, &allocate()).code(), 437);
    }
}

#[test]
fn binding_responses_over_udp_are_rate_limited_by_source() {
    let mut world = World::with(|config| config.limits.bindings_per_second = 5);
    let mut answered = |from: &Client| {
        let mut from = from.clone();
        (0..100)
            .filter(|_| {
                from.send_plain(&mut world, &request(Method::Binding))
                    .code_or_success()
                    .is_some()
            })
            .count()
    };
    assert_eq!(answered(&client_over(1, Transport::Udp)), 5);
    assert_eq!(answered(&client_over(2, Transport::Udp)), 5);
    assert_eq!(answered(&client_over(1, Transport::Tls)), 100);
    assert_eq!(world.dropped(DropReason::BindingLimited), 190);
}

#[test]
fn guessing_passwords_is_rate_limited_on_every_transport() {
    for (transport, realm) in Transport::ALL
        .into_iter()
        .flat_map(|it| [(it, REALM), (it, "other.example")])
    {
        let mut world = World::with(|config| config.limits.login_failures_per_second = 5);
        let mut guesser = client_over(1, transport);
        guesser.request(&mut world, &refresh(600));
        let mut guesser = guesser.user("alice", "guess");
        guesser.realm = realm.into();
        let told = (0..100)
            .filter(|_| guesser.request(&mut world, &allocate()).code_or_success().is_some())
            .count();
        assert_eq!(told, 5, "{transport}");
        assert_eq!(world.dropped(DropReason::LoginLimited), 95);
        world.pass(secs(1));
        guesser.realm = REALM.into();
        guesser.user("alice", "wonderland").allocate(&mut world);
    }
}

#[test]
fn who_guesses_behind_an_address_does_not_lock_out_the_clients_there() {
    let mut world = World::with(|config| config.limits.login_failures_per_second = 5);
    let (mut alice, mut guesser) = (client(1), client(2));
    guesser.client.five_tuple.client = (alice.addr().ip(), 9).into();
    alice.allocate(&mut world);
    guesser.request(&mut world, &refresh(600));
    guesser.password = "guess".into();
    for _ in 0..100 {
        guesser.request(&mut world, &allocate());
    }
    assert!(world.dropped(DropReason::LoginLimited) > 0);
    assert_eq!(alice.request(&mut world, &refresh(600)).code(), 0);
    alice.bind(&mut world, 0x4000, addr("192.0.2.1:7000"));
}

#[test]
fn permission_requests_are_rate_limited_by_allocation_and_come_back() {
    let mut world = World::with(|config| config.limits.permission_requests_per_second = 5);
    let (mut client, mut other) = (client(1), client(2));
    client.allocate(&mut world);
    other.allocate(&mut world);
    let peer = addr("192.0.2.1:7000");
    let mut done = |who: &mut Client, message: Message| {
        let answers: Vec<_> = (0..20).map(|_| who.request(&mut world, &message)).collect();
        let limited = Answer::Dropped(DropReason::PermissionLimited);
        assert!(answers.iter().all(|answer| *answer == limited || answer.code() == 0));
        answers.iter().filter(|answer| **answer != limited).count()
    };
    assert_eq!(done(&mut client, create_permission(&[peer])), 5);
    assert_eq!(done(&mut client, channel_bind(0x4000, peer)), 0);
    assert_eq!(done(&mut other, channel_bind(0x4000, peer)), 5);
    world.pass(secs(1));
    client.permit(&mut world, &[peer]);
    assert_eq!(client.request(&mut world, &refresh(600)).code(), 0);
}
