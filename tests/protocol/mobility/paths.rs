//! Which of the old and the new path carries what, and for how long.

use relay_proto::base::time::UnixTime;
use relay_proto::turn::login::credential::Secret;
use relay_proto::turn::types::Path;
use relay_proto::turn::{Event, Verdict};

use super::*;

/// Every way to move: shards, transports, IP versions.
fn every_move(mut story: impl FnMut(World, Client, Client)) {
    for (count, home, visited) in [(1, 0, 0), (2, 0, 1), (3, 2, 1)] {
        for from in crate::every_client::every_client() {
            for to in Transport::ALL {
                for v6 in [false, true] {
                    let to = client_of(100, to, v6).at_shard(visited);
                    story(mobile(count), from.clone().at_shard(home), to);
                }
            }
        }
    }
}

//= MOB-02
//= MOB-04
#[test]
fn an_allocation_moves_with_everything_it_has_whatever_the_transports_and_shards() {
    every_move(|mut world, mut old, mut new| {
        let (relayed, ticket) = settled(&mut world, &mut old);
        let other = addr("192.0.2.77:1");
        old.permit(&mut world, &[other]);
        let next = resumed(&mut world, &mut new, &ticket);
        assert_ne!(next, ticket);
        assert_sends(&mut world, &mut new, relayed);
        assert_reached(&mut world, relayed, &new);
        assert!(world.peer(other, relayed, b"x").is_data(other, b"x"));
        assert_eq!(old.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
        assert_eq!(old.request(&mut world, &refresh(600)).code(), 437);
        assert_eq!(world.counters[old.shard].away.get(), 0);
        new.bind(&mut world, 0x4001, other);
        assert_eq!(new.request(&mut world, &refresh(0)).code(), 0);
        world.wake();
        world.assert_empty();
    });
}

//= MOB-04
#[test]
fn the_old_path_works_until_the_first_data_by_the_new_one_and_that_data_is_not_lost() {
    every_move(|mut world, mut old, mut new| {
        let (relayed, ticket) = settled(&mut world, &mut old);
        resumed(&mut world, &mut new, &ticket);
        for _ in 0..3 {
            world.pass(secs(90));
            old.nonce = None;
            old.permit(&mut world, &[peer()]);
            assert_reached(&mut world, relayed, &old);
            assert_sends(&mut world, &mut old, relayed);
        }
        // A Binding request is not data.
        assert_eq!(new.send_plain(&mut world, &request(Method::Binding)).code(), 0);
        assert_reached(&mut world, relayed, &old);
        let sent = new.send(&mut world, peer(), b"first").sent();
        assert_eq!((sent.from.port(), &sent.data[..]), (relayed.port(), &b"first"[..]));
        assert_reached(&mut world, relayed, &new);
    });
}

//= MOB-04
#[test]
fn requests_of_the_owner_by_the_new_path_are_for_its_allocation_too() {
    for shards in [1, 2] {
        let mut world = mobile(shards);
        let (mut old, mut new) = (client(1), udp(2, shards - 1));
        let (relayed, ticket) = settled(&mut world, &mut old);
        resumed(&mut world, &mut new, &ticket);
        let mut thief = new.clone().user("bob", "builder");
        assert_eq!(thief.request(&mut world, &refresh(0)).code(), 437);
        assert_reached(&mut world, relayed, &old);
        new.permit(&mut world, &[peer()]);
        assert_reached(&mut world, relayed, &new);
    }
}

//= MOB-04
#[test]
fn when_the_old_stream_closes_the_new_path_is_the_only_one() {
    for shards in [1, 2] {
        let mut world = mobile(shards);
        let (mut old, mut new) = (tcp(1, 0), udp(2, shards - 1));
        let (relayed, ticket) = settled(&mut world, &mut old);
        resumed(&mut world, &mut new, &ticket);
        assert_reached(&mut world, relayed, &old);
        old.disconnect(&mut world);
        assert_reached(&mut world, relayed, &new);
        assert_sends(&mut world, &mut new, relayed);
    }
}

//= D11
#[test]
fn an_allocation_with_a_ticket_waits_for_its_client_and_no_longer_than_the_grace() {
    for (lifetime, until) in [(3600, GRACE), (600, GRACE)] {
        let mut world = mobile(1);
        let mut client = tcp(1, 0);
        let (relayed, _) = settled(&mut world, &mut client);
        client.request(&mut world, &refresh(lifetime));
        client.disconnect(&mut world);
        assert_eq!(world.peer(peer(), relayed, b"x"), AWAY);
        assert_eq!(
            (world.dropped(DropReason::ClientAway), world.counters[0].away.get()),
            (1, 1)
        );
        world.pass(just_before(secs(until)));
        assert_eq!(world.peer(peer(), relayed, b"x"), AWAY);
        world.pass_unnoticed(std::time::Duration::from_nanos(1));
        assert_eq!(
            world.peer(peer(), relayed, b"x"),
            Delivered::Dropped(DropReason::NoAllocation)
        );
        world.wake();
        world.pass(secs(1));
        world.assert_empty();
        assert_eq!(world.counters[0].away.get(), 0);
    }
}

//= D11
#[test]
fn an_allocation_that_waits_for_its_client_still_ends_with_its_lifetime() {
    let mut world = mobile(1);
    let mut client = tcp(1, 0);
    settled(&mut world, &mut client);
    world.pass(secs(500));
    client.disconnect(&mut world);
    world.pass(just_before(secs(100)));
    assert_eq!(allocations(&world), 1);
    world.pass(secs(1));
    world.assert_empty();
}

//= D11
#[test]
fn without_a_ticket_or_with_mobility_switched_off_an_allocation_goes_with_its_stream() {
    let mut world = mobile(1);
    let (mut plain, mut moving) = (tcp(1, 0), tcp(2, 0));
    plain.allocate(&mut world);
    settled(&mut world, &mut moving);
    plain.disconnect(&mut world);
    assert_eq!(allocations(&world), 1);
    world.reload(|config| config.mobility = None);
    moving.disconnect(&mut world);
    world.assert_empty();
}

//= D11
//= MOB-02
#[test]
fn a_client_that_comes_back_is_reached_at_once() {
    for shards in [1, 2] {
        let mut world = mobile(shards);
        let (mut old, mut new) = (tcp(1, 0), tcp(2, shards - 1));
        let (relayed, ticket) = settled(&mut world, &mut old);
        old.disconnect(&mut world);
        world.pass(secs(GRACE - 1));
        let answer = new.request(&mut world, &with_ticket(&ticket));
        assert_eq!(answer.lifetime(), secs(600));
        assert_reached(&mut world, relayed, &new);
        assert_sends(&mut world, &mut new, relayed);
        let away: u64 = world.counters.iter().map(|counters| counters.away.get()).sum();
        assert_eq!(away, 0);
        // The grace period is over, and the lifetime counts again.
        world.pass(secs(300));
        assert_eq!(allocations(&world), 1);
        new.disconnect(&mut world);
        world.pass(secs(GRACE + 1));
        world.wake();
        world.assert_empty();
    }
}

//= MOB-02
#[test]
fn a_client_that_came_back_and_never_heard_of_it_has_forty_seconds_with_its_old_ticket() {
    for (wait, code) in [(just_before(secs(40)), 0), (secs(40), 437)] {
        let mut world = mobile(2);
        let (mut old, mut lost, mut new) = (tcp(1, 0), tcp(2, 1), udp(3, 0));
        let (_, ticket) = settled(&mut world, &mut old);
        old.disconnect(&mut world);
        resumed(&mut world, &mut lost, &ticket);
        lost.disconnect(&mut world);
        world.pass(wait);
        assert_eq!(new.request(&mut world, &with_ticket(&ticket)).code(), code, "{wait:?}");
    }
}

#[test]
fn the_same_addresses_on_another_connection_are_free_while_the_first_ones_allocation_waits() {
    let mut world = mobile(1);
    let mut first = tcp(1, 0);
    let (relayed, ticket) = settled(&mut world, &mut first);
    let mut second = first.clone();
    second.client.link = relay_proto::turn::types::Link(77);
    assert_eq!(
        second.channel_data(&mut world, NUMBER, b"x").sent().to,
        peer(),
        "not noticed yet"
    );
    assert_eq!(second.request(&mut world, &with_ticket(&ticket)).code(), 0);
    assert_reached(&mut world, relayed, &second);
    let mut third = second.clone();
    third.client.link = relay_proto::turn::types::Link(78);
    let other = third.allocate(&mut world);
    assert_ne!(other, relayed);
    assert_eq!(world.peer(peer(), relayed, b"x"), AWAY);
}

#[test]
fn what_two_clients_send_each_other_follows_whoever_moves() {
    let mut world = mobile(3);
    let (mut a, mut b) = (udp(1, 0), udp(2, 1));
    let (answer_a, relayed_b) = (a.request(&mut world, &wanting_ticket()), b.allocate(&mut world));
    let (relayed_a, mut ticket) = (answer_a.relayed()[0], ticket_of(&answer_a));
    a.bind(&mut world, NUMBER, relayed_b);
    b.bind(&mut world, NUMBER, relayed_a);
    for (n, shard) in [(10, 2), (11, 1), (12, 0), (13, 0)] {
        let late = world
            .shards
            .iter()
            .position(|shard| shard.allocations() > 0 && shard.has_or_awaits_allocation(&a.client));
        let mut new = udp(n, shard);
        ticket = resumed(&mut world, &mut new, &ticket);
        assert!(
            b.channel_data(&mut world, NUMBER, b"before")
                .delivered()
                .is_channel(NUMBER, b"before")
        );
        assert!(
            new.channel_data(&mut world, NUMBER, b"after")
                .delivered()
                .is_channel(NUMBER, b"after")
        );
        assert!(
            b.channel_data(&mut world, NUMBER, b"back")
                .delivered()
                .is_channel(NUMBER, b"back")
        );
        // A packet in flight to the old shard is forwarded to the new one.
        let old = late.unwrap();
        let now = world.now();
        let (to, from) = (
            relay_proto::turn::types::RelayedAddr(relayed_a),
            relay_proto::turn::types::PeerAddr(relayed_b),
        );
        let verdict = world.shards[old].handle_relayed(now, to, from, 4);
        match verdict {
            Verdict::ToAllocation { shard: next, data, .. } if old != shard => {
                assert_eq!((usize::from(next), data.as_range()), (shard, 0..4));
            }
            Verdict::ToClient { .. } if old == shard => {}
            other => panic!("{old} -> {shard}: {other:?}"),
        }
        a = new;
    }
}

#[test]
fn the_policy_of_the_shard_it_came_to_is_asked() {
    let mut world = mobile(2);
    let (mut old, mut new) = (client(1), udp(2, 1));
    let (relayed, ticket) = settled(&mut world, &mut old);
    let denied = std::sync::Arc::new(Config {
        policy: policy(&["192.0.2.1/32"]),
        ..world.config.clone()
    });
    let now = world.now();
    world.shards[1].set_config(now, denied);
    let allowed = std::sync::Arc::new(world.config.clone());
    world.shards[0].set_config(now, allowed);
    // Allowed once in each direction, by the policy of as many reloads as the other shard has had.
    assert_sends(&mut world, &mut old, relayed);
    assert_reached(&mut world, relayed, &old);
    resumed(&mut world, &mut new, &ticket);
    assert_eq!(
        new.channel_data(&mut world, NUMBER, b"x"),
        Answer::Dropped(DropReason::PeerDenied)
    );
    assert_eq!(
        world.peer(peer(), relayed, b"x"),
        Delivered::Dropped(DropReason::PeerDenied)
    );
}

#[test]
fn the_operator_hears_of_a_move_and_the_counters_know_it() {
    let mut world = mobile(2);
    let (mut old, mut new) = (tcp(1, 0), udp(2, 1));
    let (relayed, ticket) = settled(&mut world, &mut old);
    assert_sends(&mut world, &mut old, relayed);
    resumed(&mut world, &mut new, &ticket);
    assert_sends(&mut world, &mut new, relayed);
    let moved = world.events.iter().find_map(|event| match event {
        Event::AllocationMoved {
            from,
            was,
            client,
            username,
            relayed,
            ..
        } => Some((*from, *was, *client, username.to_string(), relayed[0].unwrap().0)),
        _ => None,
    });
    let expected = (
        0,
        old.client.five_tuple,
        Some(new.client.five_tuple),
        "alice".to_owned(),
        relayed,
    );
    assert_eq!(moved, Some(expected));
    let [home, visited] = [&world.counters[0], &world.counters[1]];
    assert_eq!(
        (home.migrations_granted.get(), visited.migrations_granted.get()),
        (1, 0)
    );
    assert_eq!((home.allocations_left.get(), visited.allocations_arrived.get()), (1, 1));
    let live = |shard: usize, transport: Transport| world.counters[shard].allocations[transport as usize].get();
    assert_eq!((live(0, Transport::Tcp), live(1, Transport::Udp)), (0, 1));
    new.request(&mut world, &refresh(0));
    let ended = world.events.iter().find_map(|event| match event {
        Event::AllocationEnded {
            five_tuple, traffic, ..
        } => Some((*five_tuple, traffic.up_packets)),
        _ => None,
    });
    assert_eq!(ended, Some((new.client.five_tuple, 2)), "traffic of its whole life");
}

//= FORCED-02
#[test]
fn a_forced_login_moves_along_the_forced_path_alone() {
    let minted = Secret::new(SECRET)
        .mint_forced(UnixTime(START + 1000), Some("u"))
        .unwrap();
    let at = |mut client: Client, port| {
        client.client.five_tuple.server.set_port(port);
        client.user(&minted.username, &minted.password)
    };
    for shard in [0, 1] {
        let mut world = mobile(2);
        let mut old = at(client(1), 443);
        let (relayed, ticket) = settled(&mut world, &mut old);
        let mut off = at(udp(2, shard), 3478);
        assert_eq!(off.request(&mut world, &with_ticket(&ticket)).code(), 403);
        assert_eq!(off.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
        assert_reached(&mut world, relayed, &old);
        let mut on = at(tcp(3, shard), 443);
        resumed(&mut world, &mut on, &ticket);
        assert_sends(&mut world, &mut on, relayed);
        let refused: u64 = world
            .counters
            .iter()
            .map(|c| c.forced_refused[Transport::Udp as usize].get())
            .sum();
        assert_eq!(refused, 1);
    }
}

#[test]
fn traffic_counts_by_the_path_the_client_has_moved_to() {
    let mut world = mobile(1);
    let mut old = client(1);
    let (relayed, ticket) = settled(&mut world, &mut old);
    assert_sends(&mut world, &mut old, relayed);
    let mut new = tcp(2, 0);
    new.client.five_tuple.server.set_port(443);
    resumed(&mut world, &mut new, &ticket);
    assert_sends(&mut world, &mut new, relayed);
    assert_reached(&mut world, relayed, &new);
    let mut counted = Vec::new();
    for path in [Path::Other, Path::Forced] {
        for transport in Transport::ALL {
            let packets = world.counters[0].up[path as usize][transport as usize].packets.get();
            counted.extend((packets > 0).then_some((path, transport, packets)));
        }
    }
    let before = (Path::Other, old.client.five_tuple.transport, 1);
    assert_eq!(counted, [before, (Path::Forced, Transport::Tcp, 1)]);
}
