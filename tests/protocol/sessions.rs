//! The operator's requests about sessions: listing, ending, revoking.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use relay_proto::base::address::Transport;
use relay_proto::base::time::UnixTime;
use relay_proto::turn::sessions::{Revocation, SessionCursor, SessionFilter, SessionQuery, SessionSummary};
use relay_proto::turn::types::Path;
use relay_proto::turn::{EndReason, Event, RefusalReason, SessionId};

use crate::time_limited::minted;
use relay_testkit::world::*;

const PEER: &str = "192.0.2.1:7000";

/// A whole listing in pieces that examine `examine` sessions each; `between` runs after each piece.
fn listed(
    world: &mut World,
    filter: SessionFilter,
    examine: usize,
    mut between: impl FnMut(&mut World),
) -> Vec<SessionSummary> {
    let filter = Arc::new(filter);
    let mut all = Vec::new();
    let mut after: Option<SessionCursor> = None;
    loop {
        let query = SessionQuery {
            after,
            filter: Arc::clone(&filter),
            examine,
        };
        let page = world.shards[0].sessions(world.now(), &query);
        assert!(page.sessions.len() <= examine);
        all.extend(page.sessions);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
        between(world);
    }
}

fn all(world: &mut World) -> Vec<SessionSummary> {
    listed(world, SessionFilter::default(), usize::MAX, |_| {})
}

fn why_ended(world: &World) -> Vec<EndReason> {
    let why = |event: &Event| match event {
        Event::AllocationEnded { why, .. } => Some(*why),
        _ => None,
    };
    world.events.iter().filter_map(why).collect()
}

#[test]
fn a_session_that_lives_throughout_a_listing_appears_in_it_exactly_once() {
    let mut world = World::with(|config| config.limits.allocations_per_user = 1000);
    let mut clients: Vec<Client> = (1..=40).map(client).collect();
    for client in &mut clients {
        client.allocate(&mut world);
        world.pass(Duration::from_millis(3));
    }
    let steady: Vec<SessionId> = all(&mut world)[20..].iter().map(|it| it.id).collect();
    let mut comers = 100..;
    let mut leaving = clients.into_iter().take(20);
    let seen = listed(&mut world, SessionFilter::default(), 3, |world| {
        // After each piece a session begins and an old one ends; slots of the table are reused.
        if let Some(mut client) = leaving.next() {
            assert_eq!(client.request(world, &refresh(0)).code(), 0);
        }
        client(comers.next().unwrap()).allocate(world);
        world.pass(Duration::from_millis(3));
    });
    let mut times: BTreeMap<SessionId, usize> = BTreeMap::new();
    for session in &seen {
        *times.entry(session.id).or_default() += 1;
    }
    assert!(steady.iter().all(|id| times.get(id) == Some(&1)));
    assert!(times.values().all(|&times| times == 1), "none twice");
    assert!(
        seen.windows(2).all(|pair| pair[0].requested <= pair[1].requested),
        "the oldest first"
    );
}

#[test]
fn a_line_says_who_it_is_where_it_relays_and_how_much() {
    let mut world = World::new();
    let mut client = client_over(1, Transport::Tls);
    let relayed = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, addr(PEER));
    client.permit(&mut world, &[addr("192.0.2.9:1")]);
    client.channel_data(&mut world, 0x4000, &[0; 100]).sent();
    let [session] = &all(&mut world)[..] else { panic!() };
    assert_eq!(session.client.client, client.addr());
    assert_eq!(session.client.transport, Transport::Tls);
    assert_eq!(
        (session.user.id(), session.away, session.path),
        ("alice", false, Path::Other)
    );
    assert_eq!(session.relayed[0], Some(relayed));
    assert_eq!(
        (session.permissions, session.channels, session.connections),
        (2, 1, None)
    );
    assert_eq!((session.traffic.up_packets, session.traffic.up_bytes), (1, 100));
    let detail = world.shards[0].session(world.now(), session.id).expect("it lives");
    assert_eq!(&detail.summary, session);
    assert_eq!(
        detail.channels.iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(),
        [(0x4000, addr(PEER))]
    );
    assert_eq!(detail.permissions.len(), 2);
    // Expired sessions are not listed, even before they are swept.
    world.pass_unnoticed(secs(301));
    let detail = world.shards[0].session(world.now(), session.id).expect("it lives");
    assert!(detail.permissions.is_empty());
    assert_eq!((detail.summary.permissions, detail.summary.channels), (0, 1));
}

#[test]
fn filters_admit_by_user_client_peer_transport_and_path() {
    let mut world = World::new();
    let mut one = client_over(1, Transport::Udp);
    let end = world.now().unix.0 + 600;
    let mut other = minted(client_over(2, Transport::Tcp), SECRET, end, Some("bob"));
    one.allocate(&mut world);
    one.permit(&mut world, &[addr(PEER)]);
    other.allocate(&mut world);
    let count = |world: &mut World, filter| listed(world, filter, 1, |_| {}).len();
    let by = SessionFilter::default;
    let net = |text: &str| Some(text.parse().unwrap());
    for (filter, expected) in [
        (by(), 2),
        (
            SessionFilter {
                user: Some("bob".into()),
                ..by()
            },
            1,
        ),
        (
            SessionFilter {
                user: Some("nobody".into()),
                ..by()
            },
            0,
        ),
        (
            SessionFilter {
                transport: Some(Transport::Tcp),
                ..by()
            },
            1,
        ),
        (
            SessionFilter {
                peer: net("192.0.2.0/24"),
                ..by()
            },
            1,
        ),
        (
            SessionFilter {
                peer: net("192.0.3.0/24"),
                ..by()
            },
            0,
        ),
        (
            SessionFilter {
                client: Some(one.addr().ip().into()),
                user: Some("alice".into()),
                ..by()
            },
            1,
        ),
        (
            SessionFilter {
                path: Some(Path::Forced),
                ..by()
            },
            0,
        ),
    ] {
        assert_eq!(count(&mut world, filter.clone()), expected, "{filter:?}");
    }
    world.pass_unnoticed(secs(301));
    assert_eq!(
        count(
            &mut world,
            SessionFilter {
                peer: net("192.0.2.0/24"),
                ..by()
            }
        ),
        0,
        "expired"
    );
}

#[test]
fn a_session_that_is_ended_relays_nothing_more_over_any_transport() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut world = World::new();
        let mut client = client_over(1, transport);
        let relayed = client.allocate(&mut world);
        client.bind(&mut world, 0x4000, addr(PEER));
        let id = all(&mut world)[0].id;
        let now = world.now();
        assert!(world.shards[0].end_session(now, id));
        assert!(!world.shards[0].end_session(now, id), "it is gone");
        assert_eq!(world.shards[0].session(now, id), None);
        world.settle(0);
        assert!(matches!(
            client.channel_data(&mut world, 0x4000, b"x"),
            Answer::Dropped(_)
        ));
        assert!(matches!(world.peer(addr(PEER), relayed, b"x"), Delivered::Unreachable));
        assert_eq!(why_ended(&world), [EndReason::Operator]);
        assert_eq!(world.closed_streams.len(), usize::from(transport.is_stream()));
        world.assert_empty();
    }
}

/// Revokes as the control plane does: refuses first, then ends existing sessions in pieces.
fn revoke(world: &mut World, user: &str, until: u64) -> usize {
    let now = world.now();
    let revocation = Revocation {
        user: user.into(),
        until: UnixTime(until),
    };
    world.shared.revoke(now.unix, &revocation).expect("room");
    let (mut ended, mut after) = (0, None);
    loop {
        let (some, next) = world.shards[0].end_revoked(now, after, 1);
        ended += some;
        after = next;
        if after.is_none() {
            world.settle(0);
            return ended;
        }
    }
}

#[test]
fn a_revoked_user_is_refused_with_403_and_its_sessions_end_but_no_others() {
    let mut world = World::new();
    let end = world.now().unix.0 + 600;
    let mut eve = minted(client_over(1, Transport::Udp), SECRET, end, Some("eve"));
    let mut bob = minted(client_over(2, Transport::Udp), SECRET, end, Some("bob"));
    eve.allocate(&mut world);
    bob.allocate(&mut world);
    assert_eq!(revoke(&mut world, "eve", end), 1);
    assert_eq!(why_ended(&world), [EndReason::Revoked]);
    for message in [allocate(), refresh(600), create_permission(&[addr(PEER)])] {
        let answer = eve.request(&mut world, &message);
        assert_eq!(answer.code(), 403);
        assert!(answer.is_signed(&eve.key(), relay_proto::wire::integrity::Integrity::Sha1));
    }
    assert_eq!(world.refusals(RefusalReason::CredentialRevoked), 3);
    assert_eq!(bob.request(&mut world, &refresh(600)).code(), 0);
    // A name with a later expiry was minted later.
    let mut anew = minted(client_over(3, Transport::Udp), SECRET, end + 1, Some("eve"));
    anew.allocate(&mut world);
    // A static user with the same name is revoked too, until then.
    assert_eq!(revoke(&mut world, "alice", end), 0);
    assert_eq!(client(4).request(&mut world, &allocate()).code(), 403);
    world.pass(secs(601));
    client(4).allocate(&mut world);
}

#[test]
fn an_allocate_that_waits_for_its_sockets_ends_with_its_revoked_user_and_none_comes_of_it() {
    let mut world = World::new();
    let mut eve = client(1);
    eve.request(&mut world, &refresh(600));
    world.hold = Some(Vec::new());
    assert_eq!(eve.request(&mut world, &allocate()), Answer::Waiting);
    assert!(all(&mut world).is_empty(), "no session yet");
    let end = world.now().unix.0 + 600;
    assert_eq!(revoke(&mut world, "alice", end), 1);
    world.hold = None;
    world.assert_empty();
    assert!(world.events.iter().all(|event| matches!(event, Event::Refused(_))));
}
