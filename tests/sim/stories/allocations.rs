//! How allocations begin, are refreshed and end.

use super::*;

/// Copies of an Allocate continue until its response arrives, `dark` after the first was sent.
fn allocate_through(dark: Duration) -> (Story, usize) {
    let mut story = Story::new(1);
    let client = story.client(ALICE);
    // The nonce is known, so the response to the Allocate is the first packet that is lost.
    assert_eq!(story.refresh(client, 600), Some(437));
    story.world.ask(client, Ask::Allocate(Wanted::default()), 0);
    story.world.clients[client].dark_until = story.world.mono + dark;
    story.pass(secs(60));
    (story, client)
}

//= TURN-ALLOC-03
#[test]
fn an_answer_lost_for_as_long_as_a_client_asks_is_given_again() {
    // The last copy is sent 31.5 s after the first.
    let (story, client) = allocate_through(secs(31));
    assert_eq!(story.last(client).code, 0);
    let held = story.held(client).expect("an allocation");
    assert_eq!(story.last(client).relayed, held.given);
    assert_eq!(story.world.site.sockets.len(), 1, "one relay socket for all copies");
    story.end();
}

//= TURN-ALLOC-02
#[test]
fn a_client_that_never_hears_the_answer_begins_again_and_gets_a_new_allocation() {
    let (mut story, client) = allocate_through(secs(32));
    assert!(
        story.world.clients[client]
            .last
            .as_ref()
            .is_none_or(|reply| reply.code != 0),
        "no copy is left to answer"
    );
    story.world.clients[client].scripted = true;
    let lost = story
        .held(client)
        .expect("an allocation its client knows nothing of")
        .given
        .clone();
    assert_eq!(story.ask(client, Ask::Allocate(Wanted::default())), Some(437));
    assert_eq!(story.refresh(client, 0), Some(0));
    story.allocate(client);
    assert!(!story.receives(lost[0], peer()));
    story.end();
}

//= TURN-ALLOC-03
#[test]
fn a_copy_of_an_allocate_is_recognised_for_forty_seconds() {
    for (late, copies) in [(secs(40) - millis(600), 1), (secs(41), 0)] {
        let mut story = Story::new(1);
        let client = story.client(ALICE);
        let relayed = story.allocate(client);
        let (packet, from) = (story.allocate_packet(client), story.world.clients[client].addr);
        let refused = story.mark("437");
        story.arrives(late, from, packet);
        story.pass(secs(42));
        assert_eq!(
            (story.mark("a copy of an Allocate"), story.mark("437") - refused),
            (copies, 1 - copies)
        );
        assert_eq!(story.held(client).expect("the allocation").given, [relayed]);
        story.end();
    }
}

//= TURN-ALLOC-05
#[test]
fn a_copy_of_an_allocate_that_arrives_after_the_release_makes_nothing_for_forty_seconds() {
    for (late, made) in [(secs(40) - NANO, false), (secs(61), true)] {
        let mut story = Story::new(1);
        let client = story.client(ALICE);
        story.allocate(client);
        let (packet, from) = (story.allocate_packet(client), story.world.clients[client].addr);
        story.world.ask(
            client,
            Ask::Refresh {
                lifetime: Some(0),
                family: None,
            },
            0,
        );
        story.arrives(late, from, packet);
        story.pass(late + millis(1));
        assert_eq!(story.held(client).is_some(), made, "{late:?} after the release");
        // The client does not know of it and does not refresh it, so it ends after its lifetime.
        story.pass(secs(602));
        assert!(story.held(client).is_none());
        story.end();
    }
}

//= TURN-REFR-02
#[test]
fn a_copy_of_a_refresh_that_released_one_allocation_does_not_release_the_next() {
    for (late, survives) in [(secs(40) - NANO, true), (secs(40) + NANO, false)] {
        let mut story = Story::new(1);
        let client = story.client(ALICE);
        story.allocate(client);
        let (id, from) = (story.world.transaction(), story.world.clients[client].addr);
        let release = Rc::new(Request {
            id,
            ask: Ask::Refresh {
                lifetime: Some(0),
                family: None,
            },
            login: Some(Rc::clone(&story.world.clients[client].login)),
            nonce: story.world.clients[client].nonce.clone(),
            flaw: None,
            fingerprint: false,
        });
        story.arrives(Duration::ZERO, from, Packet::request(&release));
        story.arrives(late, from, Packet::request(&release));
        story.pass(millis(1));
        assert!(story.held(client).is_none());
        story.allocate(client);
        story.pass(late);
        assert_eq!(story.held(client).is_some(), survives, "{late:?} after the first");
        story.end();
    }
}

//= TURN-REFR-07
#[test]
fn a_refresh_a_moment_before_expiry_saves_the_allocation_and_a_moment_after_finds_none() {
    for saved in [true, false] {
        let mut story = Story::new(1);
        let client = story.client(ALICE);
        let relayed = story.allocate(client);
        story.permit(client, peer());
        let until = story.held(client).expect("an allocation").halves[0]
            .expect("IPv4")
            .until
            .at;
        let left = until - story.world.mono;
        story.pass(if saved { left - NANO } else { left + NANO });
        assert_eq!(story.refresh(client, 900), Some(if saved { 0 } else { 437 }));
        assert_eq!(story.permit(client, peer()), Some(if saved { 0 } else { 437 }));
        assert_eq!(story.receives(relayed, peer()), saved);
        story.end();
    }
}

//= TURN-ALLOC-12
//= TURN-ALLOC-18
#[test]
fn a_reserved_port_is_used_from_another_shard_over_tcp_and_is_free_when_its_stream_ends() {
    let mut story = Story::new(3);
    let first = story.client(ALICE);
    let even = Wanted {
        even: Some(true),
        ..Wanted::default()
    };
    assert_eq!(story.ask(first, Ask::Allocate(even)), Some(0));
    let (rtp, token) = (story.last(first).relayed[0], story.last(first).token.expect("a token"));
    let with_token = || {
        Ask::Allocate(Wanted {
            token: Some(token),
            ..Wanted::default()
        })
    };
    let stranger = story.client(BOB);
    assert_eq!(story.ask(stranger, with_token()), Some(508), "another user's token");
    let second = story.stream(ALICE);
    let conn = story.world.clients[second].conn.expect("a stream");
    let elsewhere = (story.shard(first) + 1) % 3;
    story.world.conns.get_mut(&conn).expect("a stream").shard = elsewhere;
    story.pass(secs(29));
    assert_eq!(story.ask(second, with_token()), Some(0));
    assert_eq!(story.last(second).relayed, [SocketAddr::new(rtp.ip(), rtp.port() + 1)]);
    let third = story.client(ALICE);
    assert_eq!(story.ask(third, with_token()), Some(508), "a token is good once");
    story.permit(second, peer());
    assert!(story.receives(story.last_relayed(second), peer()));
    story.world.stream_event(conn, StreamEvent::Reset);
    assert!(story.world.site.sockets.len() == 1);
    story.end();
}

//= TURN-ALLOC-18
#[test]
fn a_reservation_ends_after_thirty_seconds() {
    for (late, code) in [(secs(30) - millis(51), 0), (secs(30), 508)] {
        let mut story = Story::new(1);
        let (first, second) = (story.client(ALICE), story.client(ALICE));
        assert_eq!(story.refresh(second, 600), Some(437), "it has a nonce");
        let even = Wanted {
            even: Some(true),
            ..Wanted::default()
        };
        assert_eq!(story.ask(first, Ask::Allocate(even)), Some(0));
        let token = story.last(first).token;
        story.pass(late);
        assert_eq!(
            story.ask(
                second,
                Ask::Allocate(Wanted {
                    token,
                    ..Wanted::default()
                })
            ),
            Some(code),
            "{late:?}"
        );
        story.end();
    }
}

//= TURN-ALLOC-26
//= TURN-ALLOC-36
#[test]
fn ports_that_other_programs_hold_are_passed_over_and_none_is_lost() {
    let mut story = Story::new(1);
    let client = story.client(ALICE);
    for port in story.world.site.rules.ports.clone() {
        let bound = SocketAddr::new(places::BOUND_V4, port - places::PORTS_APART);
        story.world.site.foreign.insert(bound);
    }
    for _ in 0..20 {
        assert_eq!(story.ask(client, Ask::Allocate(Wanted::default())), Some(508));
        let even = Wanted {
            even: Some(true),
            ..Wanted::default()
        };
        assert_eq!(story.ask(client, Ask::Allocate(even)), Some(508));
    }
    assert_eq!(story.world.site.shared.port_gauges().used(), 0);
    let free: SocketAddr = (places::BOUND_V4, 50_010 - places::PORTS_APART).into();
    story.world.site.foreign.remove(&free);
    let mut tries = 0;
    while story.ask(client, Ask::Allocate(Wanted::default())) == Some(508) {
        tries += 1;
        assert!(tries < 200, "the free port is never found");
    }
    assert_eq!(story.last(client).relayed[0], places::announced_for(free));
    story.end();
}

//= TURN-REFR-05
#[test]
fn one_half_of_a_dual_allocation_ends_and_the_other_does_not_notice() {
    let mut story = Story::new(1);
    let client = story.client(ALICE);
    assert_eq!(
        story.ask(
            client,
            Ask::Allocate(Wanted {
                dual: true,
                ..Wanted::default()
            })
        ),
        Some(0)
    );
    let given = story.last(client).relayed.clone();
    let (v4, v6) = (given[0], given[1]);
    let v6_peer = places::peers()[4];
    assert_eq!(
        story.ask(
            client,
            Ask::CreatePermission {
                peers: vec![peer(), v6_peer]
            }
        ),
        Some(0)
    );
    assert_eq!(story.bind(client, 0x4006, v6_peer), Some(0));
    assert!(story.receives(v4, peer()) && story.receives(v6, v6_peer));
    assert_eq!(
        story.ask(
            client,
            Ask::Refresh {
                lifetime: None,
                family: Some(Family::V4)
            }
        ),
        Some(0)
    );
    assert_eq!(
        story.ask(
            client,
            Ask::Refresh {
                lifetime: Some(0),
                family: Some(Family::V6)
            }
        ),
        Some(0)
    );
    assert!(story.receives(v4, peer()) && !story.receives(v6, v6_peer));
    assert!(!story.sends_on(client, 0x4006));
    assert_eq!(story.permit(client, v6_peer), Some(443));
    assert_eq!(
        story.ask(
            client,
            Ask::Refresh {
                lifetime: None,
                family: Some(Family::V6)
            }
        ),
        Some(443)
    );
    story.pass(secs(590));
    assert_eq!(story.permit(client, peer()), Some(0));
    story.end();
}
