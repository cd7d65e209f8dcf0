//! Calls during changes of the world around them.

use super::*;

//= STUN-AUTH-05
#[test]
fn a_client_whose_nat_rebinds_in_mid_call_is_a_stranger_until_it_allocates_again() {
    let mut story = Story::new(2);
    let client = story.client(ALICE);
    let old = story.allocate(client);
    assert_eq!(story.bind(client, 0x4000, peer()), Some(0));
    assert!(story.sends_on(client, 0x4000) && story.receives(old, peer()));
    let before = story.world.clients[client].addr;
    story.world.clients[client].addr = story.world.public_address(Family::V4);
    assert!(!story.sends_on(client, 0x4000), "a channel belongs to a five-tuple");
    let stale = story.mark("438");
    assert_eq!(story.refresh(client, 600), Some(437), "after a new nonce");
    assert_eq!(story.mark("438"), stale + 1, "the nonce was for the old address");
    let new = story.allocate(client);
    assert!(!story.receives(new, peer()), "permissions do not move");
    // For the server, the old address still belongs to a client until the allocation ends.
    assert!(story.receives(old, peer()));
    let old_key: Key = (before, places::server(Family::V4), Transport::Udp);
    assert!(story.world.oracle.held.contains_key(&old_key));
    story.pass(secs(602));
    assert!(!story.world.oracle.held.contains_key(&old_key));
    story.end();
}

//= TURN-GEN-03
#[test]
fn who_inherits_an_address_from_a_nat_can_do_nothing_with_the_allocation_on_it() {
    let mut story = Story::new(1);
    let (first, second) = (story.client(ALICE), story.client(BOB));
    let relayed = story.allocate(first);
    assert_eq!(story.permit(first, peer()), Some(0));
    story.world.clients[second].scripted = true;
    story.world.clients[second].addr = story.world.clients[first].addr;
    story.world.clients[first].addr = story.world.public_address(Family::V4);
    assert_eq!(story.refresh(second, 0), Some(401), "a challenge");
    assert_eq!(story.refresh(second, 0), Some(441));
    assert_eq!(story.permit(second, places::peers()[2]), Some(441));
    assert_eq!(story.bind(second, 0x4000, peer()), Some(441));
    assert_eq!(story.ask(second, Ask::Allocate(Wanted::default())), Some(437));
    assert!(story.receives(relayed, peer()), "and the allocation is as it was");
    story.end();
}

#[test]
fn two_clients_in_different_shards_call_each_other_through_their_relayed_addresses() {
    let mut story = Story::new(2);
    let alice = story.client(ALICE);
    let bob = story.client_elsewhere(BOB, alice);
    let (a, b) = (story.allocate(alice), story.allocate(bob));
    let delivered = |story: &Story| story.mark("from client to client");
    story.permit(alice, b);
    story.world.send_to(alice, b);
    story.pass(millis(50));
    assert_eq!(delivered(&story), 0, "bob has not permitted the relay's address");
    story.bind(bob, 0x4000, a);
    story.world.send_to(alice, b);
    story.world.send_channel(bob, 0x4000, b"answer");
    story.pass(millis(50));
    assert_eq!(delivered(&story), 2);
    assert_eq!(story.mark("to an allocation in another shard"), 3);
    story.refresh(bob, 0);
    story.world.send_to(alice, b);
    story.pass(millis(50));
    assert_eq!(delivered(&story), 2, "nobody is there any more");
    story.end();
}

//= TURN-CHAN-08
//= TURN-CHAN-10
#[test]
fn a_channel_outlives_its_permission_one_way_only() {
    let mut story = Story::new(1);
    let client = story.client(ALICE);
    let relayed = story.allocate_for(client, Some(3600));
    let bound = story.world.mono;
    assert_eq!(story.bind(client, 0x4000, peer()), Some(0));
    let at = |story: &mut Story, age: Duration| {
        let until = bound + age;
        story.world.run_until(until);
    };
    at(&mut story, secs(299));
    assert!(story.sends_on(client, 0x4000) && story.receives(relayed, peer()));
    at(&mut story, secs(301));
    assert!(story.sends_on(client, 0x4000) && !story.receives(relayed, peer()));
    assert!(!story.sends(client, peer()), "a Send indication needs the permission");
    at(&mut story, secs(599));
    assert!(story.sends_on(client, 0x4000));
    at(&mut story, secs(601));
    assert!(!story.sends_on(client, 0x4000));
    assert_eq!(
        story.bind(client, 0x4000, places::peers()[2]),
        Some(0),
        "the number is free"
    );
    assert_eq!(story.bind(client, 0x4001, peer()), Some(0), "and so is the peer");
    story.end();
}

//= TURN-PERM-13
#[test]
fn a_reload_that_denies_a_peer_stops_a_call_and_one_that_allows_it_lets_it_go_on() {
    let mut story = Story::new(1);
    let client = story.client(ALICE);
    let relayed = story.allocate(client);
    let shifty = places::peers()[7];
    assert_eq!(story.bind(client, 0x4000, shifty), Some(0));
    assert_eq!(story.permit(client, shifty), Some(0));
    for denied in [false, true, false] {
        let mut rules = story.world.site.rules.clone();
        rules.peers.shifty_denied = denied;
        story.world.reload(0, &rules);
        assert_eq!(story.sends_on(client, 0x4000), !denied);
        assert_eq!(story.sends(client, shifty), !denied);
        assert_eq!(story.receives(relayed, shifty), !denied);
        assert_eq!(story.permit(client, shifty), Some(if denied { 403 } else { 0 }));
    }
    story.end();
}

//= REST-06
//= REST-07
#[test]
fn a_login_that_is_no_longer_good_keeps_its_allocation_and_gets_no_other() {
    let mut story = Story::new(1);
    let (client, other) = (story.client(CAROL), story.client(CAROL));
    story.allocate(client);
    let mut rules = story.world.site.rules.clone();
    rules.secrets = vec!["another secret".into()];
    let login = Rc::clone(&story.world.clients[client].login);
    story.world.reload(0, &rules);
    assert_eq!(story.refresh(client, 600), Some(0), "its key is remembered");
    story.world.clients[other].login = login;
    story.world.clients[other].scripted = true;
    assert_eq!(
        story.ask(other, Ask::Allocate(Wanted::default())),
        Some(401),
        "a challenge"
    );
    assert_eq!(
        story.ask(other, Ask::Allocate(Wanted::default())),
        Some(401),
        "and no more"
    );
    story.end();
}

//= STUN-AUTH-06
//= REST-05
#[test]
fn a_jump_of_the_wall_clock_moves_nonces_and_logins_but_no_lifetime() {
    for jump in [100_000, -100_000] {
        let mut story = Story::new(1);
        let (client, other) = (story.client(CAROL), story.client(CAROL));
        let relayed = story.allocate(client);
        story.permit(client, peer());
        let login = Rc::clone(&story.world.clients[client].login);
        story.world.jumped += jump;
        assert!(story.receives(relayed, peer()), "the call goes on");
        let stale = story.mark("438");
        assert_eq!(story.refresh(client, 600), Some(0));
        assert_eq!(story.mark("438"), stale + 1, "after a new nonce");
        story.world.clients[other].login = login;
        story.world.clients[other].scripted = true;
        story.ask(other, Ask::Allocate(Wanted::default()));
        assert_eq!(
            story.ask(other, Ask::Allocate(Wanted::default())),
            Some(401),
            "expired, or good for too long"
        );
        story.pass(secs(599));
        assert!(story.held(client).is_some());
        story.pass(secs(2));
        assert!(
            story.held(client).is_none(),
            "600 s after the Refresh, whatever the wall clock says"
        );
        story.end();
    }
}

#[test]
fn after_a_restart_clients_find_their_way_back_by_themselves() {
    let mut story = Story::new(2);
    let (udp, tcp) = (story.client(ALICE), story.stream(BOB));
    let old = story.allocate(udp);
    story.allocate(tcp);
    story.permit(udp, peer());
    story.world.restart();
    story.pass(secs(1));
    assert!(!story.receives(old, peer()));
    assert!(!story.sends(udp, peer()));
    assert_eq!(story.world.clients[tcp].conn, None, "its stream is closed");
    let stale = story.mark("438");
    assert_eq!(story.refresh(udp, 600), Some(437));
    assert_eq!(
        story.mark("438"),
        stale,
        "nonces are made with a secret, which the old run had as well"
    );
    story.allocate(udp);
    story.connect(tcp);
    story.allocate(tcp);
    story.end();
}

//= XPORT-18
#[test]
fn a_client_that_stops_reading_loses_media_and_no_answer() {
    let mut story = Story::new(1);
    let client = story.stream(ALICE);
    let relayed = story.allocate(client);
    assert_eq!(story.bind(client, 0x4000, peer()), Some(0));
    let conn = story.world.clients[client].conn.expect("a stream");
    story.world.conns.get_mut(&conn).expect("a stream").reading = false;
    for round in 0..400 {
        story
            .world
            .send_to_relay(peer(), relayed, vec![round as u8; 1200].into());
        story.pass(millis(10));
    }
    story.world.clients[client].last = None;
    story.world.ask(
        client,
        Ask::Refresh {
            lifetime: Some(900),
            family: None,
        },
        0,
    );
    story.pass(millis(500));
    assert!(story.world.clients[client].last.is_none(), "it does not read");
    story.world.stream_event(conn, StreamEvent::Resume);
    story.pass(millis(500));
    assert_eq!(story.last(client).code, 0);
    assert!(story.mark("application data too late for a slow client") > 0);
    assert!(story.receives(relayed, peer()), "and what is fresh comes through again");
    story.end();
}

//= XPORT-07
#[test]
fn a_closed_stream_frees_what_its_client_held_at_once() {
    let mut story = Story::new(2);
    let most = story.world.setup.limits.allocations_per_user;
    let clients: Vec<usize> = (0..most).map(|_| story.stream(ALICE)).collect();
    for &client in &clients {
        story.allocate(client);
    }
    let late = story.stream(ALICE);
    assert_eq!(story.ask(late, Ask::Allocate(Wanted::default())), Some(486));
    let conn = story.world.clients[clients[0]].conn.expect("a stream");
    story.world.stream_event(conn, StreamEvent::End);
    story.allocate(late);
    story.end();
}
