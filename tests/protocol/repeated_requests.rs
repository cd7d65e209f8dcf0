//! Requests that arrive twice, and who may send requests at all, over every transport and both IP
//! versions.

use relay_proto::wire::message::Method;

use crate::every_client::*;
use relay_testkit::world::*;

//= TURN-ALLOC-03
//= TURN-ALLOC-06
//= TURN-GEN-05
#[test]
fn a_copy_of_an_allocate_is_answered_again_where_copies_can_be_and_is_a_mismatch_on_a_stream() {
    for client in every_client() {
        let (mut world, mut client) = (World::new(), client);
        challenge(&mut world, &mut client);
        let packet = client.signed(&allocate().also(2));
        let first = world.packet(&client, &packet);
        for n in 1..=7u32 {
            world.pass(secs(5));
            let again = world.packet(&client, &packet);
            if client.client.five_tuple.transport.is_stream() {
                assert_eq!(again.code(), 437, "{}", story(&client));
            } else {
                assert_eq!(
                    (again.code(), again.relayed()),
                    (0, first.relayed()),
                    "{}",
                    story(&client)
                );
                assert_eq!(again.lifetime(), secs(600 - 5 * u64::from(n)));
                assert_eq!(again.kinds(), first.kinds());
            }
        }
        assert_eq!((world.shards[0].allocations(), world.ports_used()), (1, 2));
        // Another transaction id is another request.
        assert_eq!(client.request(&mut world, &allocate().also(2)).code(), 437);
    }
}

//= TURN-ALLOC-05
#[test]
fn for_forty_seconds_a_copy_of_an_allocate_makes_no_second_one() {
    for client in every_client().filter(|client| !client.client.five_tuple.transport.is_stream()) {
        for (wait, code) in [(secs(0), 437), (just_before(secs(40)), 437), (secs(40), 0)] {
            let (mut world, mut client) = (World::new(), client.clone());
            challenge(&mut world, &mut client);
            let packet = client.signed(&allocate());
            assert_eq!(world.packet(&client, &packet).code(), 0);
            assert_eq!(client.request(&mut world, &refresh(0)).code(), 0);
            world.pass(wait);
            assert_eq!(
                world.packet(&client, &packet).code(),
                code,
                "{wait:?}, {}",
                story(&client)
            );
        }
    }
}

//= TURN-ALLOC-04
#[test]
fn a_copy_that_was_tampered_with_is_no_copy() {
    for client in every_client().filter(|client| !client.client.five_tuple.transport.is_stream()) {
        let (mut world, mut client) = (World::with(|config| config.nonce_lifetime = secs(10)), client);
        challenge(&mut world, &mut client);
        let packet = client.signed(&allocate().lifetime(700));
        assert_eq!(world.packet(&client, &packet).code(), 0);
        for (at, code) in [(20, 401), (packet.len() - 1, 401)] {
            let mut tampered = packet.clone();
            tampered[at + 7 * usize::from(at == 20)] ^= 1;
            assert_eq!(
                world.packet(&client, &tampered).code(),
                code,
                "byte {at}, {}",
                story(&client)
            );
        }
        world.pass(secs(11));
        assert_eq!(
            world.packet(&client, &packet).code(),
            0,
            "a stale nonce does not matter to a copy"
        );
        assert_eq!(
            client.request(&mut world, &refresh(600)).code(),
            438,
            "and does to everything else"
        );
    }
}

//= TURN-REFR-02
//= TURN-GEN-01
//= TURN-GEN-05
//= COMPAT-05
#[test]
fn copies_of_every_other_request_change_nothing() {
    let peer = addr("192.0.2.1:7000");
    for client in every_client() {
        let (mut world, mut client) = (World::new(), client);
        let relayed = client.allocate(&mut world);
        for message in [refresh(900), create_permission(&[peer]), channel_bind(0x4000, peer)] {
            let packet = client.signed(&message);
            let first = world.packet(&client, &packet);
            for _ in 0..3 {
                assert_eq!(world.packet(&client, &packet), first, "{}", story(&client));
            }
        }
        assert!(world.peer(peer, relayed, b"x").is_channel(0x4000, b"x"));
        let release = client.signed(&refresh(0));
        assert_eq!(world.packet(&client, &release).code(), 0);
        assert_eq!(world.packet(&client, &release).code(), 437, "{}", story(&client));
        for message in [refresh(900), create_permission(&[peer]), channel_bind(0x4000, peer)] {
            assert_eq!(client.request(&mut world, &message).code(), 437);
        }
    }
}

//= TURN-REFR-02
//= TURN-GEN-05
//= COMPAT-05
#[test]
fn a_late_copy_of_the_refresh_that_ended_an_allocation_does_not_end_the_next() {
    for client in every_client().filter(|client| !client.client.five_tuple.transport.is_stream()) {
        for (wait, ends) in [(secs(0), false), (just_before(secs(40)), false), (secs(40), true)] {
            let (mut world, mut client) = (World::new(), client.clone());
            client.allocate(&mut world);
            let release = client.signed(&refresh(0));
            assert_eq!(world.packet(&client, &release).code(), 0);
            client.request(&mut world, &allocate().also(2));
            world.pass(wait);
            // The counters advance as if it were answered again.
            let copy = world.packet(&client, &release);
            assert_eq!((copy.code(), copy.lifetime()), (0, secs(0)), "{}", story(&client));
            assert_eq!(
                world.shards[0].allocations(),
                usize::from(!ends),
                "{wait:?}, {}",
                story(&client)
            );
            if ends {
                continue;
            }
            // The same for one family: copies delete it only once, and get the success response
            // each time.
            let half = client.signed(&refresh(0).family(1));
            for _ in 0..2 {
                assert_eq!(world.packet(&client, &half).lifetime(), secs(0));
                assert_eq!(world.ports_used(), 1);
            }
            assert_eq!(client.request(&mut world, &refresh(0)).lifetime(), secs(0));
            world.assert_empty();
        }
    }
}

//= TURN-ALLOC-37
//= TURN-ALLOC-02
#[test]
fn of_two_allocates_at_once_one_makes_an_allocation() {
    for client in every_client() {
        let (mut world, mut client) = (World::new(), client);
        challenge(&mut world, &mut client);
        world.hold = Some(Vec::new());
        let (first, second) = (client.signed(&allocate()), client.signed(&allocate()));
        assert_eq!(world.packet(&client, &first), Answer::Waiting);
        assert_eq!(world.packet(&client, &second).code(), 437, "{}", story(&client));
        let held = world.hold.take().unwrap();
        assert_eq!(held.len(), 1);
        let (to, _) = world.opened(0, held[0].1, Ok(())).expect("the response");
        assert_eq!(to, client.client);
        assert_eq!(world.packet(&client, &second).code(), 437);
        assert_eq!((world.shards[0].allocations(), world.ports_used()), (1, 1));
    }
}

//= TURN-GEN-03
//= D8
#[test]
fn another_user_can_do_nothing_to_an_allocation() {
    let peer = addr("192.0.2.1:7000");
    for client in every_client() {
        let (mut world, mut alice) = (World::new(), client);
        let relayed = alice.allocate(&mut world);
        let requests = [
            refresh(0),
            refresh(3600),
            create_permission(&[peer]),
            channel_bind(0x4000, peer),
        ];
        for message in &requests {
            let mut bob = alice.clone().user("bob", "builder");
            assert_eq!(bob.request(&mut world, message).code(), 441, "{}", story(&alice));
            let mut liar = alice.clone().user("alice", "builder");
            assert_eq!(liar.request(&mut world, message).code(), 401);
            let nobody = alice.clone().send_plain(&mut world, message);
            assert_eq!(nobody.code(), 401);
        }
        assert_eq!(
            alice
                .clone()
                .user("bob", "builder")
                .request(&mut world, &allocate())
                .code(),
            437
        );
        assert!(matches!(world.peer(peer, relayed, b"x"), Delivered::Dropped(_)));
        world.pass(just_before(secs(600)));
        assert_eq!(world.shards[0].allocations(), 1);
        world.pass(secs(1));
        world.assert_empty();
    }
}

//= TURN-GEN-10
#[test]
fn neither_clients_nor_peers_behind_6to4_or_teredo_are_accepted() {
    let behind = ["2002:c000:201::1", "2002::1", "2001:0:4136:e378::1", "2001::1"];
    for client in every_client() {
        let (mut world, mut client) = (World::new(), client);
        for source in behind {
            let mut tunnelled = client.clone();
            tunnelled.client.five_tuple.client = (ip(source), 40_000).into();
            assert_eq!(tunnelled.request(&mut world, &allocate()).code(), 403, "{source}");
        }
        world.assert_empty();
        client.request(&mut world, &allocate().also(2));
        for peer in behind.map(|peer| (ip(peer), 7000).into()) {
            assert_eq!(
                client.request(&mut world, &create_permission(&[peer])).code(),
                403,
                "{peer}"
            );
            assert_eq!(
                client.request(&mut world, &channel_bind(0x4000, peer)).code(),
                403,
                "{peer}"
            );
        }
    }
}

//= STUN-BIND-05
//= STUN-AUTH-23
#[test]
fn signatures_are_ignored_where_none_is_asked_for() {
    let peer = "192.0.2.1:7000";
    for client in every_client() {
        let (mut world, mut client) = (World::new(), client);
        client.allocate(&mut world);
        client.permit(&mut world, &[addr(peer)]);
        // As ICE agents sign: a short-term credential of their own.
        let binding =
            raw(Method::Binding).attribute(relay_proto::wire::attribute::AttributeType::USERNAME, "evtj:h6vY");
        let answer = world.packet(&client, &binding.sha1(b"VOkJxbRl1RmTxUk/WvJxBt").fingerprint(0).bytes());
        assert_eq!(
            (answer.code(), answer.kinds()),
            (0, vec![0x0020, 0x8028]),
            "{}",
            story(&client)
        );
        let send = Raw::with_id(0x0016, [1; 12])
            .peer(peer)
            .attribute(relay_proto::wire::attribute::AttributeType::DATA, b"x");
        assert_eq!(
            world.packet(&client, &send.sha1(b"wrong").bytes()).sent().data,
            b"x",
            "{}",
            story(&client)
        );
    }
}
