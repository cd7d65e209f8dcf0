//! MOBILITY-TICKET: which clients get one, what it is valid for, and how long.

use super::*;

//= MOB-01
#[test]
fn who_asks_with_an_empty_ticket_gets_one_and_nobody_else() {
    let mut world = mobile(1);
    let mut asking = client(1);
    let answer = asking.request(&mut world, &wanting_ticket());
    assert_eq!(ticket_of(&answer).len(), 32);
    let plain = client(2).request(&mut world, &allocate());
    assert_eq!(
        (plain.code(), plain.attribute(AttributeType::MOBILITY_TICKET)),
        (0, None)
    );
    // A Refresh on the unchanged path is not a move, and gets no ticket.
    let refreshed = asking.request(&mut world, &refresh(600));
    assert_eq!(refreshed.attribute(AttributeType::MOBILITY_TICKET), None);
}

//= MOB-01
#[test]
fn a_retransmitted_allocate_is_told_the_same_ticket() {
    let mut world = mobile(1);
    let mut client = client_over(1, Transport::Udp);
    client.request(&mut world, &refresh(600));
    let packet = client.signed(&wanting_ticket());
    let (first, again) = (world.packet(&client, &packet), world.packet(&client, &packet));
    assert_eq!(ticket_of(&first), ticket_of(&again));
}

//= MOB-01
#[test]
fn a_ticket_with_something_in_it_is_no_request_for_one() {
    for on in [true, false] {
        let mut world = World::with(|config| config.mobility = on.then_some(Mobility { grace: secs(60) }));
        for value in [&[0][..], &[0; 4], &[7; 32], &[7; 400]] {
            let asked = allocate().with(AttributeType::MOBILITY_TICKET, value);
            assert_eq!(client(1).request(&mut world, &asked).code(), 400, "{value:?}");
        }
        world.assert_empty();
    }
}

//= MOB-01
#[test]
fn switched_off_who_asks_is_told_so_and_can_go_on_without() {
    let mut world = World::new();
    let mut client = client_over(1, Transport::Udp);
    let answer = client.request(&mut world, &wanting_ticket());
    assert_eq!(answer.code(), 405);
    assert_eq!(
        answer.attribute(AttributeType::ERROR_CODE).as_deref(),
        Some(&[0, 0, 4, 5][..])
    );
    world.assert_empty();
    client.allocate(&mut world);
    assert_eq!(client.request(&mut world, &with_ticket(&[7; 32])).code(), 405);
    assert_eq!(client.request(&mut world, &with_ticket(&[])).code(), 400);
    client.disconnect(&mut world);
    world.assert_empty();
}

//= MOB-02
#[test]
fn every_ticket_is_another_and_the_old_one_is_dead_once_the_new_one_is_used() {
    let mut world = mobile(2);
    let mut old = client(1);
    let (_, first) = settled(&mut world, &mut old);
    let mut tickets = vec![first];
    for n in 2..12 {
        let mut new = udp(n, usize::from(n) % 2);
        let ticket = resumed(&mut world, &mut new, tickets.last().unwrap());
        new.channel_data(&mut world, NUMBER, b"x").sent();
        let mut thief = udp(100 + n, 0);
        for dead in &tickets {
            assert_eq!(thief.request(&mut world, &with_ticket(dead)).code(), 437);
        }
        assert!(!tickets.contains(&ticket));
        tickets.push(ticket);
    }
}

//= MOB-02
#[test]
fn until_it_is_used_both_tickets_are_good_because_a_response_may_be_lost() {
    let mut world = mobile(2);
    let (mut old, mut lost, mut third) = (client(1), udp(2, 1), udp(3, 0));
    let (relayed, first) = settled(&mut world, &mut old);
    let second = resumed(&mut world, &mut lost, &first);
    // The client never received `second`; it asks again from elsewhere.
    let last = resumed(&mut world, &mut third, &first);
    let mut stranger = udp(4, 1);
    assert_eq!(
        stranger.request(&mut world, &with_ticket(&second)).code(),
        437,
        "replaced"
    );
    third.channel_data(&mut world, NUMBER, b"x").sent();
    assert_reached(&mut world, relayed, &third);
    assert_eq!(
        stranger.request(&mut world, &with_ticket(&first)).code(),
        437,
        "used up"
    );
    // A client that did receive its ticket continues with it.
    let next = resumed(&mut world, &mut stranger, &last);
    let mut fifth = udp(5, 1);
    resumed(&mut world, &mut fifth, &next);
    assert_eq!(
        udp(6, 0).request(&mut world, &with_ticket(&last)).code(),
        437,
        "shown its successor"
    );
}

//= MOB-03
#[test]
fn only_the_owner_may_move_an_allocation_and_a_refusal_changes_nothing() {
    let mut world = mobile(2);
    let mut owner = client(1);
    let (relayed, ticket) = settled(&mut world, &mut owner);
    world.pass(secs(100));
    for shard in [0, 1] {
        let mut other = udp(2, shard).user("bob", "builder");
        assert_eq!(
            other.request(&mut world, &with_ticket(&ticket).lifetime(3600)).code(),
            441
        );
        assert_eq!(other.request(&mut world, &with_ticket(&ticket).lifetime(0)).code(), 441);
        assert_eq!(other.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
        let mut other = udp(3, shard);
        assert_eq!(other.request(&mut world, &with_ticket(&ticket).family(2)).code(), 443);
        assert_eq!(other.channel_data(&mut world, NUMBER, b"x"), NO_ALLOCATION);
    }
    assert_reached(&mut world, relayed, &owner);
    world.pass(just_before(secs(500)));
    assert_eq!(allocations(&world), 1);
    world.pass(secs(1));
    world.assert_empty();
}

//= MOB-03
#[test]
fn a_ticket_that_is_not_ours_or_not_any_more_is_a_mismatch() {
    let mut world = mobile(2);
    let mut owner = client(1);
    let (_, ticket) = settled(&mut world, &mut owner);
    let mut new = udp(2, 1);
    for at in 0..ticket.len() {
        let mut changed = ticket.clone();
        changed[at] ^= 1;
        assert_eq!(new.request(&mut world, &with_ticket(&changed)).code(), 437, "byte {at}");
    }
    for len in [1, 16, 31] {
        assert_eq!(new.request(&mut world, &with_ticket(&ticket[..len])).code(), 437);
    }
    assert_eq!(new.request(&mut world, &with_ticket(&[])).code(), 400);
    owner.request(&mut world, &refresh(0));
    assert_eq!(
        new.request(&mut world, &with_ticket(&ticket)).code(),
        437,
        "its allocation is gone"
    );
    world.wake();
    world.assert_empty();
}

//= MOB-06
#[test]
fn a_five_tuple_has_one_allocation_also_after_a_move() {
    let mut world = mobile(2);
    let (mut owner, mut new) = (client(1), udp(2, 1));
    let (relayed, ticket) = settled(&mut world, &mut owner);
    new.allocate(&mut world);
    assert_eq!(new.request(&mut world, &with_ticket(&ticket)).code(), 437);
    assert_eq!(
        owner.request(&mut world, &with_ticket(&ticket)).code(),
        437,
        "it has not moved"
    );
    assert_reached(&mut world, relayed, &owner);
    // Nor may one be created where another is awaited.
    let mut waiting = udp(3, 1);
    let next = resumed(&mut world, &mut waiting, &ticket);
    assert_eq!(waiting.request(&mut world, &allocate()).code(), 437);
    let (mut second, mut other) = (client(4), udp(3, 1));
    let (_, others) = settled(&mut world, &mut second);
    other.nonce = waiting.nonce.clone();
    assert_eq!(waiting.request(&mut world, &with_ticket(&others)).code(), 437);
    assert_sends(&mut world, &mut waiting, relayed);
    assert_ne!(next, ticket);
}

#[test]
fn a_refresh_with_a_ticket_is_a_refresh() {
    let mut world = mobile(2);
    let mut client = client(1);
    let answer = client.request(&mut world, &wanting_ticket().also(2));
    let ticket = ticket_of(&answer);
    let mut new = udp(2, 1);
    let one_half = with_ticket(&ticket).family(1).lifetime(1200);
    let answer = new.request(&mut world, &one_half);
    assert_eq!((answer.code(), answer.lifetime()), (0, secs(1200)));
    new.permit(&mut world, &[peer()]);
    world.pass(secs(601));
    // The other relayed address kept its lifetime.
    let six = addr("[2001:db8::1]:7000");
    new.nonce = None;
    assert_eq!(new.request(&mut world, &create_permission(&[six])).code(), 443);
    assert_eq!(new.request(&mut world, &create_permission(&[peer()])).code(), 0);
    world.pass(secs(600));
    world.wake();
    world.assert_empty();
}

#[test]
fn both_relayed_addresses_move() {
    let mut world = mobile(2);
    let mut old = client(1);
    let answer = old.request(&mut world, &wanting_ticket().also(2));
    let six = addr("[2001:db8::1]:7000");
    old.permit(&mut world, &[peer(), six]);
    let mut new = udp(2, 1);
    resumed(&mut world, &mut new, &ticket_of(&answer));
    new.send(&mut world, six, b"x").sent();
    for (from, to) in [peer(), six].into_iter().zip(answer.relayed()) {
        assert!(world.peer(from, to, b"x").is_data(from, b"x"));
    }
    assert!(world.sockets.keys().all(|&(shard, _)| shard == 1));
    new.request(&mut world, &refresh(0));
    world.wake();
    world.assert_empty();
}

//= MOB-05
#[test]
fn the_rate_of_moves_of_one_allocation_is_limited() {
    let mut world = mobile_with(1, |config| config.limits.permission_requests_per_second = 2);
    let mut client = client(1);
    let ticket = ticket_of(&client.request(&mut world, &wanting_ticket()));
    let mut granted = 0;
    for n in 2..22 {
        match udp(n, 0).request(&mut world, &with_ticket(&ticket)) {
            Answer::Waiting => {}
            answer => granted += u32::from(answer.code() == 0),
        }
    }
    assert!((1..20).contains(&granted), "{granted}");
    assert_eq!(world.dropped(DropReason::PermissionLimited), u64::from(20 - granted));
}
