//! Events while a migration is in transit: nothing exists twice, and nothing is lost.

use relay_proto::turn::EndReason;
use relay_proto::turn::types::RelayId;
use relay_proto::turn::{Event, Handled, Response};

use super::*;

/// A client on shard 0, the same client on shard 1, and the Refresh that moves its allocation.
struct Leaving {
    world: World,
    old: Client,
    new: Client,
    relayed: SocketAddr,
    refresh: Vec<u8>,
    ticket: Vec<u8>,
}

fn leaving_over(from: Transport, to: Transport) -> Leaving {
    let mut world = mobile(3);
    let (mut old, mut new) = (over(1, from, 0), over(2, to, 1));
    let (relayed, ticket) = settled(&mut world, &mut old);
    new.request(&mut world, &refresh(600));
    let refresh = new.signed(&with_ticket(&ticket));
    Leaving {
        world,
        old,
        new,
        relayed,
        refresh,
        ticket,
    }
}

fn leaving() -> Leaving {
    leaving_over(Transport::Udp, Transport::Udp)
}

fn ended(world: &World) -> Vec<EndReason> {
    let why = |event: &Event| match event {
        Event::AllocationEnded { why, .. } => Some(*why),
        _ => None,
    };
    world.events.iter().filter_map(why).collect()
}

//= MOB-02
#[test]
fn copies_of_the_refresh_get_the_same_answer_before_and_after_the_move() {
    let Leaving {
        mut world,
        mut new,
        relayed,
        refresh,
        ..
    } = leaving();
    world.hold_migrations = true;
    assert_eq!(world.packet(&new, &refresh), Answer::Waiting);
    let copy = Answer::Dropped(DropReason::Retransmission);
    assert_eq!(world.packet(&new, &refresh), copy);
    world.hold_migrations = false;
    let (to, response) = world.carry().unwrap();
    assert_eq!(to, new.client);
    let first = Answer::of(&response, &refresh);
    let ticket = ticket_of(&first);
    world.pass(secs(10));
    let again = world.packet(&new, &refresh);
    assert_eq!((ticket_of(&again), again.lifetime()), (ticket.clone(), secs(590)));
    assert_sends(&mut world, &mut new, relayed);
    world.pass(just_before(secs(40)));
    let after = world.packet(&new, &refresh);
    assert_eq!(ticket_of(&after), ticket);
    world.pass(std::time::Duration::from_nanos(1));
    assert_eq!(world.packet(&new, &refresh).code(), 437);
    assert_eq!(allocations(&world), 1);
}

/// coturn's client sends its Refresh twice on a stream and expects two responses.
#[test]
fn a_copy_of_the_refresh_on_a_stream_before_its_answer_has_an_answer_of_its_own() {
    let Leaving {
        mut world,
        new,
        refresh,
        ..
    } = leaving_over(Transport::Tcp, Transport::Tcp);
    world.hold_migrations = true;
    assert_eq!(world.packet(&new, &refresh), Answer::Waiting);
    assert_eq!(world.packet(&new, &refresh), Answer::Waiting);
    let (to, response) = world.carry().unwrap();
    assert_eq!(to, new.client);
    let (packet, copy) = world.released.pop().expect("the copy");
    assert_eq!(packet, refresh);
    assert_eq!(ticket_of(&copy), ticket_of(&Answer::of(&response, &refresh)));
    assert_eq!(allocations(&world), 1);
}

#[test]
fn a_client_that_lost_every_response_asks_anew_from_the_same_place() {
    let Leaving {
        mut world,
        mut new,
        relayed,
        refresh,
        ticket,
        ..
    } = leaving();
    let lost = ticket_of(&world.packet(&new, &refresh));
    let second = resumed(&mut world, &mut new, &ticket);
    assert_ne!(second, lost);
    assert_sends(&mut world, &mut new, relayed);
    assert_reached(&mut world, relayed, &new);
}

//= MOB-05
#[test]
fn of_two_places_the_latest_counts_and_there_is_never_more_than_one_pending() {
    let Leaving {
        mut world,
        old,
        mut new,
        relayed,
        refresh,
        ticket,
    } = leaving();
    world.packet(&new, &refresh);
    let mut flood: Vec<Client> = (100..300).map(|n| udp(n, usize::from(n) % 3)).collect();
    for client in &mut flood {
        resumed(&mut world, client, &ticket);
    }
    let waiting = flood
        .iter()
        .filter(|client| world.shards[client.shard].has_or_awaits_allocation(&client.client));
    assert_eq!(waiting.count(), 1);
    assert_eq!(new.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
    assert_reached(&mut world, relayed, &old);
    let mut last = flood.pop().unwrap();
    assert_sends(&mut world, &mut last, relayed);
    assert_eq!(allocations(&world), 1);
}

#[test]
fn two_places_ask_at_the_same_time() {
    let Leaving {
        mut world,
        mut new,
        relayed,
        refresh,
        ticket,
        ..
    } = leaving();
    let mut third = udp(3, 2);
    third.request(&mut world, &super::refresh(600));
    world.hold_migrations = true;
    world.packet(&new, &refresh);
    third.request(&mut world, &with_ticket(&ticket));
    world.hold_migrations = false;
    world.carry();
    assert_eq!(new.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
    assert_sends(&mut world, &mut third, relayed);
}

#[test]
fn a_question_follows_an_allocation_that_has_just_left() {
    let Leaving {
        mut world,
        mut new,
        relayed,
        refresh,
        ..
    } = leaving();
    let ticket = ticket_of(&world.packet(&new, &refresh));
    let mut third = udp(3, 2);
    third.request(&mut world, &super::refresh(600));
    world.hold_migrations = true;
    // Fetch from shard 1, then an `Ask` from shard 2, both to shard 0.
    assert_eq!(new.channel_data(&mut world, NUMBER, b"first"), Answer::Waiting);
    let asked = third.signed(&with_ticket(&ticket));
    assert_eq!(world.packet(&third, &asked), Answer::Waiting);
    world.hold_migrations = false;
    let (to, response) = world.carry().unwrap();
    assert_eq!((to, Answer::of(&response, &asked).code()), (third.client, 0));
    assert_eq!(world.released.len(), 1);
    assert!(matches!(&world.released[0].1, Answer::Sent(sent) if sent.data == b"first"));
    assert_reached(&mut world, relayed, &new);
    assert_sends(&mut world, &mut third, relayed);
    assert_reached(&mut world, relayed, &third);
}

//= MOB-04
#[test]
fn what_comes_while_the_allocation_is_on_the_way_is_held_in_order_and_within_bounds() {
    let Leaving {
        mut world,
        mut new,
        relayed,
        refresh,
        ..
    } = leaving();
    world.packet(&new, &refresh);
    world.hold_migrations = true;
    for n in 0..64_u8 {
        assert_eq!(new.channel_data(&mut world, NUMBER, &[n]), Answer::Waiting, "{n}");
    }
    let full = Answer::Dropped(DropReason::Moving);
    assert_eq!(new.channel_data(&mut world, NUMBER, b"one too many"), full);
    assert_eq!(new.request(&mut world, &super::refresh(600)), full);
    world.hold_migrations = false;
    world.carry();
    let sent: Vec<Vec<u8>> = world.released.drain(..).map(|(_, answer)| answer.sent().data).collect();
    assert_eq!(sent, (0..64).map(|n| vec![n]).collect::<Vec<_>>());
    assert_sends(&mut world, &mut new, relayed);
}

#[test]
fn bytes_that_are_held_are_bounded_too() {
    let Leaving {
        mut world,
        mut new,
        refresh,
        ..
    } = leaving();
    world.packet(&new, &refresh);
    world.hold_migrations = true;
    assert_eq!(new.channel_data(&mut world, NUMBER, &[1; 40_000]), Answer::Waiting);
    assert_eq!(
        new.channel_data(&mut world, NUMBER, &[2; 40_000]),
        Answer::Dropped(DropReason::Moving)
    );
    assert_eq!(new.channel_data(&mut world, NUMBER, &[3; 1000]), Answer::Waiting);
}

#[test]
fn an_allocation_that_ends_before_it_is_asked_for_is_a_mismatch() {
    let Leaving {
        mut world,
        mut old,
        new,
        refresh,
        ..
    } = leaving();
    world.hold_migrations = true;
    world.packet(&new, &refresh);
    old.request(&mut world, &super::refresh(0));
    world.hold_migrations = false;
    let (_, response) = world.carry().unwrap();
    assert_eq!(Answer::of(&response, &refresh).code(), 437);
    world.assert_empty();
}

#[test]
fn an_allocation_expires_while_it_is_asked_for_and_no_timer_has_noticed() {
    for (late, code) in [(false, 0), (true, 437)] {
        let Leaving {
            mut world,
            new,
            refresh,
            ..
        } = leaving();
        world.pass_unnoticed(secs(if late { 600 } else { 599 }));
        world.hold_migrations = true;
        world.packet(&new, &refresh);
        world.hold_migrations = false;
        let (_, response) = world.carry().unwrap();
        assert_eq!(Answer::of(&response, &refresh).code(), code, "late: {late}");
    }
}

//= MOB-04
#[test]
fn an_allocation_that_ends_on_its_old_path_is_not_waited_for_any_more() {
    for released in [true, false] {
        let Leaving {
            mut world,
            mut old,
            mut new,
            refresh,
            ..
        } = leaving();
        world.packet(&new, &refresh);
        assert!(world.shards[1].has_or_awaits_allocation(&new.client));
        if released {
            old.request(&mut world, &super::refresh(0));
        } else {
            world.pass(secs(601));
        }
        assert!(!world.shards[1].has_or_awaits_allocation(&new.client));
        assert_eq!(new.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
        world.assert_empty();
    }
}

#[test]
fn data_that_called_for_an_allocation_which_ends_meanwhile_is_dropped_and_counted() {
    let Leaving {
        mut world,
        mut old,
        mut new,
        refresh,
        ..
    } = leaving();
    world.packet(&new, &refresh);
    world.hold_migrations = true;
    assert_eq!(new.channel_data(&mut world, NUMBER, b"x"), Answer::Waiting);
    old.request(&mut world, &super::refresh(0));
    let before = world.dropped(DropReason::NoAllocation);
    world.hold_migrations = false;
    world.carry();
    assert_eq!(world.released.len(), 1);
    assert_eq!(world.released[0].1, NO_ALLOCATION);
    assert_eq!(world.dropped(DropReason::NoAllocation), before + 1);
    world.assert_empty();
}

#[test]
fn lifetime_zero_with_a_ticket_ends_the_allocation_from_anywhere() {
    let Leaving {
        mut world,
        mut old,
        mut new,
        ticket,
        ..
    } = leaving();
    let packet = new.signed(&with_ticket(&ticket).lifetime(0));
    let answer = world.packet(&new, &packet);
    assert_eq!((answer.code(), answer.lifetime()), (0, secs(0)));
    assert_eq!(answer.attribute(AttributeType::MOBILITY_TICKET), None);
    world.assert_empty();
    assert_eq!(ended(&world), [EndReason::Released]);
    let copy = world.packet(&new, &packet);
    assert_eq!((copy.code(), copy.lifetime()), (0, secs(0)), "a copy is answered again");
    assert_eq!(old.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
    assert_eq!(new.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
}

//= D11
#[test]
fn a_new_path_that_closes_before_it_is_used_leaves_the_old_one_as_it_was() {
    for asked in [true, false] {
        let Leaving {
            mut world,
            mut old,
            mut new,
            relayed,
            refresh,
            ticket,
        } = leaving_over(Transport::Udp, Transport::Tcp);
        world.hold_migrations = asked;
        world.packet(&new, &refresh);
        new.disconnect(&mut world);
        world.hold_migrations = false;
        assert!(world.carry().is_none() || !asked);
        assert!(!world.shards[1].has_or_awaits_allocation(&new.client));
        assert_reached(&mut world, relayed, &old);
        assert_sends(&mut world, &mut old, relayed);
        let mut third = udp(3, 2);
        resumed(&mut world, &mut third, &ticket);
        assert_sends(&mut world, &mut third, relayed);
    }
}

//= D11
#[test]
fn a_move_whose_client_left_before_the_answer_is_not_pending_any_more() {
    let Leaving {
        mut world,
        mut old,
        mut new,
        relayed,
        refresh,
        ..
    } = leaving_over(Transport::Tcp, Transport::Tcp);
    world.hold_migrations = true;
    world.packet(&new, &refresh);
    new.disconnect(&mut world);
    world.hold_migrations = false;
    assert!(world.carry().is_none(), "there is nobody to answer");
    old.disconnect(&mut world);
    assert_eq!((world.shards[0].allocations(), world.shards[1].allocations()), (1, 0));
    assert_eq!(world.peer(peer(), relayed, b"x"), AWAY);
}

//= TURN-ALLOC-05
#[test]
fn a_late_copy_of_the_allocate_makes_no_second_allocation_where_the_first_has_left() {
    let mut world = mobile(2);
    let (mut old, mut new) = (udp(1, 0), udp(2, 1));
    old.request(&mut world, &refresh(600));
    let packet = old.signed(&wanting_ticket());
    let ticket = ticket_of(&world.packet(&old, &packet));
    resumed(&mut world, &mut new, &ticket);
    new.permit(&mut world, &[peer()]);
    assert_eq!(world.packet(&old, &packet).code(), 437);
    assert_eq!(allocations(&world), 1);
}

//= D11
#[test]
fn an_allocation_that_arrives_after_its_client_left_again_waits_for_it_there() {
    let Leaving {
        mut world,
        mut new,
        relayed,
        refresh,
        ..
    } = leaving_over(Transport::Tcp, Transport::Tcp);
    let ticket = ticket_of(&world.packet(&new, &refresh));
    world.hold_migrations = true;
    assert_eq!(new.channel_data(&mut world, NUMBER, b"x"), Answer::Waiting);
    world.carry_one();
    new.disconnect(&mut world);
    world.hold_migrations = false;
    world.carry();
    assert_eq!(world.peer(peer(), relayed, b"x"), AWAY);
    assert_eq!((allocations(&world), world.counters[1].away.get()), (1, 1));
    let mut third = udp(3, 2);
    resumed(&mut world, &mut third, &ticket);
    assert_reached(&mut world, relayed, &third);
    third.request(&mut world, &super::refresh(0));
    world.wake();
    world.assert_empty();
}

#[test]
fn what_is_on_its_way_when_the_server_stops_ends_where_it_arrives() {
    let Leaving {
        mut world,
        mut new,
        refresh,
        ..
    } = leaving();
    world.packet(&new, &refresh);
    world.hold_migrations = true;
    new.channel_data(&mut world, NUMBER, b"x");
    world.carry_one();
    assert_eq!(world.migrations.len(), 1, "the allocation");
    let now = world.now();
    for shard in 0..3 {
        world.shards[shard].shutdown(now);
        world.settle(shard);
    }
    world.hold_migrations = false;
    world.carry();
    assert_eq!(ended(&world), [EndReason::Shutdown]);
    world.wake();
    world.assert_empty();
}

#[test]
fn a_relay_socket_that_cannot_be_watched_ends_what_it_was_for() {
    let Leaving {
        mut world,
        mut new,
        refresh,
        ..
    } = leaving();
    world.packet(&new, &refresh);
    world.hold_migrations = true;
    new.channel_data(&mut world, NUMBER, b"x");
    world.carry_one();
    let (_, arriving) = world.migrations.pop_front().unwrap();
    let now = world.now();
    let handled: Handled = world.shards[1].handle_migration(now, arriving, &mut Response::new());
    let lost: RelayId = handled.arrived[0].unwrap();
    world.shards[1].handle_relay_lost(now, lost);
    while let Some((client, packet)) = world.shards[1].poll_held() {
        assert_eq!((client, &packet[4..]), (new.client, &b"x"[..]));
    }
    world.settle(1);
    assert_eq!((ended(&world), allocations(&world)), (vec![EndReason::SocketLost], 0));
}

//= MOB-05
#[test]
fn the_quota_is_held_to_the_end_and_the_share_of_an_address_moves() {
    let mut world = mobile_with(2, |config| {
        config.limits.allocations_per_ip = 1;
        config.limits.allocations_per_user = 2;
    });
    let (mut old, mut new) = (udp(1, 0), udp(2, 1));
    let (relayed, ticket) = settled(&mut world, &mut old);
    let at = |n: u16, client: &Client| {
        let mut other = udp(n, 0).user("bob", "builder");
        other.client.five_tuple.client.set_ip(client.addr().ip());
        other
    };
    assert_eq!(at(300, &new).request(&mut world, &refresh(600)).code(), 437);
    let ticket = resumed(&mut world, &mut new, &ticket);
    // Pending: both addresses are counted.
    assert_eq!(at(301, &new).request(&mut world, &allocate()).code(), 486);
    assert_eq!(at(302, &old).request(&mut world, &allocate()).code(), 486);
    assert_sends(&mut world, &mut new, relayed);
    // Moved: the old one is released, and the user still holds one unit.
    assert_eq!(at(303, &new).request(&mut world, &allocate()).code(), 486);
    let mut neighbour = at(304, &old);
    neighbour.allocate(&mut world);
    let mut second = udp(5, 0);
    second.allocate(&mut world);
    assert_eq!(udp(6, 0).request(&mut world, &allocate()).code(), 486);
    // The old address belongs to another client now. A move there fails and changes nothing.
    let mut back = udp(1, 1);
    assert_eq!(back.request(&mut world, &with_ticket(&ticket)).code(), 486);
    assert_reached(&mut world, relayed, &new);
    new.request(&mut world, &refresh(0));
    udp(7, 0).allocate(&mut world);
}

//= MOB-05
#[test]
fn asking_from_many_ports_of_one_address_takes_its_share_once() {
    let mut world = mobile_with(2, |config| config.limits.allocations_per_ip = 2);
    let mut old = udp(1, 0);
    let (_, ticket) = settled(&mut world, &mut old);
    let mut ticket = ticket;
    for n in 400..440 {
        let mut new = udp(n, usize::from(n) % 2);
        new.client.five_tuple.client = (ip("203.0.113.77"), n).into();
        ticket = resumed(&mut world, &mut new, &ticket);
    }
    let mut neighbour = udp(500, 0);
    neighbour.client.five_tuple.client = (ip("203.0.113.77"), 500).into();
    neighbour.allocate(&mut world);
    old.request(&mut world, &refresh(0));
    let mut second = udp(501, 0);
    second.client.five_tuple.client = (ip("203.0.113.77"), 501).into();
    second.allocate(&mut world);
}

#[test]
fn ports_go_back_to_the_pool_they_came_from() {
    let mut world = mobile_with(2, |config| config.relay.ports = 50_000..=50_003);
    for round in 0..20_u16 {
        let (mut old, mut new) = (udp(10 + round, 0), udp(40 + round, 1));
        let (relayed, ticket) = settled(&mut world, &mut old);
        resumed(&mut world, &mut new, &ticket);
        assert_sends(&mut world, &mut new, relayed);
        new.request(&mut world, &refresh(0));
    }
    world.wake();
    world.assert_empty();
}
