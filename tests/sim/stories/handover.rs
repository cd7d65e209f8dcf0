//! Hand-overs to another process at critical moments.

use super::*;

#[test]
fn all_that_a_client_has_goes_on_in_another_process() {
    let mut story = Story::new(2);
    let alice = story.client(ALICE);
    let relayed = story.allocate(alice);
    assert_eq!(story.permit(alice, peer()), Some(0));
    assert_eq!(story.bind(alice, 0x4000, peer()), Some(0));
    story.world.hand_over();
    assert!(story.sends(alice, peer()) && story.sends_on(alice, 0x4000));
    assert!(story.receives(relayed, peer()));
    // And in every following one.
    for _ in 0..3 {
        story.pass(secs(60));
        story.world.hand_over();
    }
    assert!(story.receives(relayed, peer()));
    story.pass(secs(120));
    assert!(
        !story.receives(relayed, peer()),
        "the permission has ended when it was due"
    );
    assert!(story.sends_on(alice, 0x4000), "the channel has not");
    assert_eq!(story.refresh(alice, 600), Some(0));
    story.end();
}

#[test]
fn a_call_between_two_clients_of_one_server_goes_on() {
    let mut story = Story::new(2);
    let alice = story.client(ALICE);
    let bob = story.client_elsewhere(BOB, alice);
    let (from, to) = (story.allocate(alice), story.allocate(bob));
    assert_eq!(story.bind(alice, 0x4000, to), Some(0));
    assert_eq!(story.bind(bob, 0x4001, from), Some(0));
    for _ in 0..2 {
        let before = story.mark("from client to client");
        story.world.send_channel(alice, 0x4000, b"application data");
        story.pass(millis(50));
        assert_eq!(story.mark("from client to client"), before + 1);
        story.world.hand_over();
    }
    story.end();
}

#[test]
fn a_copy_of_an_allocate_finds_its_allocation_in_the_next_process() {
    let mut story = Story::new(1);
    let alice = story.client(ALICE);
    let relayed = story.allocate(alice);
    let (packet, from) = (story.allocate_packet(alice), story.world.clients[alice].addr);
    story.world.hand_over();
    story.arrives(millis(1), from, packet);
    story.pass(secs(1));
    assert_eq!(story.mark("a copy of an Allocate"), 1);
    assert_eq!(story.last(alice).relayed, [relayed]);
    story.end();
}

#[test]
fn an_allocate_on_its_way_is_lost_and_asked_for_again() {
    let mut story = Story::new(1);
    let alice = story.client(ALICE);
    story.world.site.stuck = true;
    story.ask(alice, Ask::Allocate(Wanted::default()));
    assert!(story.held(alice).is_some_and(|held| held.opening.is_some()));
    story.world.hand_over();
    assert!(story.held(alice).is_none());
    story.pass(secs(5));
    assert!(story.held(alice).is_some(), "its client has sent it again");
    story.end();
}

#[test]
fn a_reload_that_lowers_limits_takes_nothing_away_at_a_hand_over() {
    let mut story = Story::new(1);
    let all: Vec<usize> = (0..3).map(|_| story.client(ALICE)).collect();
    for &client in &all {
        story.allocate(client);
        assert_eq!(story.permit(client, peer()), Some(0));
    }
    let mut rules = story.world.site.rules.clone();
    (rules.limits.allocations_per_user, rules.limits.permissions) = (1, 1);
    (rules.ports, rules.ipv6) = (60_000..=60_010, false);
    story.world.reload(0, &rules);
    story.world.hand_over();
    for &client in &all {
        assert!(story.sends(client, peer()));
        assert_eq!(story.permit(client, peer()), Some(0));
    }
    let late = story.client(ALICE);
    assert_eq!(story.ask(late, Ask::Allocate(Wanted::default())), Some(486));
    story.end();
}
