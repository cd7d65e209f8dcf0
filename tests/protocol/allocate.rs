//! Allocate (RFC 8656 §7.2) with one relayed address and any port.

use relay_proto::base::address::Transport;
use relay_proto::turn::{DropReason, OpenError};
use relay_proto::wire::attribute::AttributeType;

use relay_testkit::world::*;

//= TURN-ALLOC-01
//= STUN-AUTH-01
#[test]
fn an_allocate_without_login_is_challenged() {
    let mut world = World::new();
    let answer = client(1).send_plain(&mut world, &allocate());
    assert_eq!(answer.code(), 401);
    assert_eq!(
        answer.attribute(AttributeType::REALM).as_deref(),
        Some(REALM.as_bytes())
    );
    assert!(answer.attribute(AttributeType::NONCE).is_some());
    world.assert_empty();
}

//= TURN-ALLOC-30
#[test]
fn a_success_response_holds_just_what_the_rfc_lists() {
    let mut world = World::new();
    let mut client = client(1);
    let answer = client.request(&mut world, &allocate());
    assert_eq!(answer.kinds(), [0x0016, 0x000D, 0x0020, 0x0008]);
    assert_eq!(answer.mapped(), client.addr());
    assert_eq!(answer.lifetime(), secs(600));
}

//= TURN-ALLOC-31
//= TURN-ALLOC-32
#[test]
fn the_client_is_told_the_announced_address_of_the_socket_that_is_bound() {
    let mut world = World::new();
    let relayed = client(1).allocate(&mut world);
    assert_eq!(relayed.ip(), ip(RELAY_V4));
    assert_eq!(world.binds, [(ip("10.1.2.3"), relayed.port()).into()]);
    assert!((50_000..=50_399).contains(&relayed.port()));
}

#[test]
fn success_is_not_said_before_the_socket_is_bound() {
    let mut world = World::new();
    let mut client = client(1);
    client.request(&mut world, &refresh(600));
    world.hold = Some(Vec::new());
    assert_eq!(client.request(&mut world, &allocate()), Answer::Waiting);
    assert!(world.events.is_empty());
    let (shard, id) = world.hold.take().unwrap()[0];
    let (to, response) = world.opened(shard, id, Ok(())).expect("the response");
    assert_eq!(to, client.client);
    assert!(!response.bytes().is_empty());
    assert!(world.opened(shard, id, Ok(())).is_none(), "once");
}

//= TURN-ALLOC-27
//= TURN-ALLOC-28
//= TURN-ALLOC-29
#[test]
fn lifetime_is_what_was_asked_for_within_bounds() {
    const CASES: [(Option<u32>, u64); 9] = [
        (None, 600),
        (Some(0), 600),
        (Some(1), 600),
        (Some(599), 600),
        (Some(600), 600),
        (Some(601), 601),
        (Some(3600), 3600),
        (Some(3601), 3600),
        (Some(u32::MAX), 3600),
    ];
    let mut world = World::new();
    for (n, (asked, granted)) in (1..).zip(CASES) {
        let message = asked.map_or(allocate(), |seconds| allocate().lifetime(seconds));
        let answer = client(n).request(&mut world, &message);
        assert_eq!(answer.lifetime(), secs(granted), "{asked:?}");
    }
}

//= TURN-ALLOC-36
//= TURN-GEN-06
//= TURN-GEN-08
#[test]
fn an_allocation_ends_with_its_lifetime_whatever_is_relayed() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.allocate(&mut world);
    let peer = addr("192.0.2.1:7000");
    client.bind(&mut world, 0x4000, peer);
    world.pass(secs(299));
    client.bind(&mut world, 0x4000, peer);
    world.pass_unnoticed(just_before(secs(301)));
    client.bind(&mut world, 0x4000, peer);
    assert_eq!(client.channel_data(&mut world, 0x4000, b"last").sent().to, peer);
    assert!(world.peer(peer, relayed, b"last").is_channel(0x4000, b"last"));
    // To the nanosecond, although no timer has fired.
    world.pass_unnoticed(std::time::Duration::from_nanos(1));
    assert_eq!(
        client.channel_data(&mut world, 0x4000, b"late"),
        Answer::Dropped(DropReason::NoAllocation)
    );
    assert_eq!(
        world.peer(peer, relayed, b"late"),
        Delivered::Dropped(DropReason::NoAllocation)
    );
    assert_eq!(world.ports_used(), 1);
    world.pass(secs(1));
    world.assert_empty();
    assert_eq!(client.request(&mut world, &refresh(600)).code(), 437);
}

//= TURN-ALLOC-02
#[test]
fn a_second_allocate_on_a_five_tuple_is_a_mismatch_and_harms_nothing() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    assert_eq!(client.request(&mut world, &allocate()).code(), 437);
    assert_eq!(client.request(&mut world, &refresh(600)).code(), 0);
    assert_eq!(world.ports_used(), 1);
}

#[test]
fn an_expired_allocation_does_not_stand_in_the_way_of_a_new_one() {
    let mut world = World::new();
    let mut client = client(1);
    client.allocate(&mut world);
    world.pass_unnoticed(secs(600));
    client.nonce = None;
    client.allocate(&mut world);
    assert_eq!(world.ports_used(), 1);
}

//= TURN-ALLOC-07
#[test]
fn requested_transport_must_be_there_and_four_bytes_long() {
    let mut world = World::new();
    let without = allocate().without(AttributeType::REQUESTED_TRANSPORT);
    let mut client = client(1);
    assert_eq!(client.request(&mut world, &without).code(), 400);
    for len in [0, 1, 3, 5, 8] {
        let message = without
            .clone()
            .with(AttributeType::REQUESTED_TRANSPORT, &[17; 8][..len]);
        assert_eq!(client.request(&mut world, &message).code(), 400, "{len} bytes");
    }
    let reserved = without.with(AttributeType::REQUESTED_TRANSPORT, [17, 0xFF, 0xFF, 0xFF]);
    assert_eq!(client.request(&mut world, &reserved).code(), 0);
}

//= TURN-ALLOC-08
//= TCP-ALLOC-01
#[test]
fn only_udp_is_relayed() {
    let mut world = World::new();
    let without = allocate().without(AttributeType::REQUESTED_TRANSPORT);
    for protocol in [0, 1, 6, 16, 18, 132, 255] {
        let message = without
            .clone()
            .with(AttributeType::REQUESTED_TRANSPORT, [protocol, 0, 0, 0]);
        assert_eq!(
            client(1).request(&mut world, &message).code(),
            442,
            "protocol {protocol}"
        );
    }
}

//= TURN-ALLOC-09
#[test]
fn dont_fragment_is_supported_and_has_no_value() {
    let mut world = World::new();
    let message = |value: &[u8]| allocate().with(AttributeType::DONT_FRAGMENT, value);
    assert_eq!(client(1).request(&mut world, &message(&[0; 4])).code(), 400);
    assert_eq!(client(1).request(&mut world, &message(&[])).code(), 0);
}

//= TURN-ALLOC-28
#[test]
fn a_lifetime_of_a_wrong_length_is_refused() {
    let mut world = World::new();
    for value in [&[0, 0, 2][..], &[0; 5], &[]] {
        let message = allocate().with(AttributeType::LIFETIME, value);
        assert_eq!(client(1).request(&mut world, &message).code(), 400);
    }
}

//= STUN-MSG-13
#[test]
fn of_two_lifetimes_the_first_counts() {
    let mut world = World::new();
    let answer = client(1).request(&mut world, &allocate().lifetime(1200).lifetime(700));
    assert_eq!(answer.lifetime(), secs(1200));
}

//= TURN-ALLOC-34
//= TURN-ALLOC-26
#[test]
fn every_port_is_used_once_and_then_there_is_no_capacity() {
    let mut world = World::with(|config| config.relay.ports = 50_000..=50_003);
    let ports: std::collections::BTreeSet<u16> = (1..=4).map(|n| client(n).allocate(&mut world).port()).collect();
    assert_eq!(ports.len(), 4);
    let mut fifth = client(5);
    assert_eq!(fifth.request(&mut world, &allocate()).code(), 508);
    assert_eq!(world.shards[0].allocations(), 4, "nothing of the failed one is left");
    world.pass(secs(600));
    fifth.nonce = None;
    fifth.allocate(&mut world);
}

#[test]
fn a_port_in_use_by_someone_else_is_replaced_by_another() {
    let mut world = World::new();
    world.open_results = [Err(OpenError::AddressInUse), Err(OpenError::AddressInUse), Ok(())].into();
    let relayed = client(1).allocate(&mut world);
    assert_eq!(world.binds.len(), 3);
    assert_eq!(world.binds[2].port(), relayed.port());
    assert!(world.binds[..2].iter().all(|bind| bind.port() != relayed.port()));
    assert_eq!(world.ports_used(), 1, "those tried in vain are free again");
}

//= TURN-ALLOC-26
#[test]
fn tries_for_a_port_are_bounded_and_each_port_is_tried_once() {
    for (ports, tries) in [(50_000..=50_399, 8), (50_000..=50_002, 3)] {
        let mut world = World::with(|config| config.relay.ports = ports);
        world.open_results = vec![Err(OpenError::AddressInUse); 100].into();
        let mut client = client(1);
        assert_eq!(client.request(&mut world, &allocate()).code(), 508);
        let tried: std::collections::BTreeSet<_> = world.binds.iter().collect();
        assert_eq!((world.binds.len(), tried.len()), (tries, tries));
        world.assert_empty();
        assert!(world.events.is_empty());
        world.open_results.clear();
        client.allocate(&mut world);
    }
}

//= TURN-ALLOC-26
//= TURN-ALLOC-36
#[test]
fn a_failed_allocate_leaks_nothing() {
    for error in [OpenError::Exhausted, OpenError::Other] {
        let mut world = World::with(|config| {
            config.limits.allocations_per_user = 1;
            config.relay.ports = 50_000..=50_001;
        });
        let mut client = client(1);
        for _ in 0..1000 {
            world.open_results = [Err(error)].into();
            assert_eq!(client.request(&mut world, &allocate()).code(), 508);
            world.assert_empty();
        }
        assert_eq!(world.binds.len(), 1000, "no second try");
        world.pass(secs(100));
        client.allocate(&mut world);
    }
}

//= TURN-ALLOC-35
//= TURN-CHAN-18
#[test]
fn the_next_owner_of_a_port_hears_nothing_from_the_previous_owners_peers() {
    let mut world = World::with(|config| config.relay.ports = 50_000..=50_000);
    let (mut first, peer) = (client(1), addr("192.0.2.1:7000"));
    let relayed = first.allocate(&mut world);
    first.bind(&mut world, 0x4000, peer);
    first.request(&mut world, &refresh(0));
    let mut second = client(2);
    assert_eq!(second.allocate(&mut world), relayed);
    assert_eq!(
        world.peer(peer, relayed, b"for the first"),
        Delivered::Dropped(DropReason::NoPermission)
    );
    // Nor does the next allocation on the same five-tuple.
    second.request(&mut world, &refresh(0));
    first.allocate(&mut world);
    assert_eq!(
        world.peer(peer, relayed, b"stale"),
        Delivered::Dropped(DropReason::NoPermission)
    );
    assert_eq!(
        first.channel_data(&mut world, 0x4000, b"stale"),
        Answer::Dropped(DropReason::NoChannel)
    );
}

//= TURN-ALLOC-37
#[test]
fn while_the_socket_is_opened_other_requests_find_no_allocation() {
    let mut world = World::new();
    let mut client = client_over(1, Transport::Udp);
    client.request(&mut world, &refresh(600));
    world.hold = Some(Vec::new());
    let first = client.signed(&allocate());
    assert_eq!(world.packet(&client, &first), Answer::Waiting);
    assert_eq!(
        world.packet(&client, &first),
        Answer::Dropped(DropReason::Retransmission)
    );
    assert_eq!(client.request(&mut world, &allocate()).code(), 437);
    assert_eq!(client.request(&mut world, &refresh(600)).code(), 437);
    assert_eq!(
        client
            .request(&mut world, &create_permission(&[addr("192.0.2.1:1")]))
            .code(),
        437
    );
    assert_eq!(
        client.send(&mut world, addr("192.0.2.1:1"), b"x"),
        Answer::Dropped(DropReason::NoAllocation)
    );
    assert_eq!(
        client.channel_data(&mut world, 0x4000, b"x"),
        Answer::Dropped(DropReason::NoAllocation)
    );
    let held = world.hold.take().unwrap();
    assert_eq!(held.len(), 1);
    assert!(world.opened(0, held[0].1, Ok(())).is_some());
    assert_eq!(client.request(&mut world, &refresh(600)).code(), 0);
}

#[test]
fn a_shard_that_never_opens_the_socket_does_not_keep_the_allocation() {
    let mut world = World::new();
    let mut client = client(1);
    client.request(&mut world, &refresh(600));
    world.hold = Some(Vec::new());
    assert_eq!(client.request(&mut world, &allocate()), Answer::Waiting);
    world.pass(secs(31));
    world.assert_empty();
    let (_, id) = world.hold.take().unwrap()[0];
    assert!(world.opened(0, id, Ok(())).is_none(), "the answer comes too late");
}

//= XPORT-17
//= TURN-GEN-04
#[test]
fn the_same_addresses_over_another_transport_are_another_client() {
    let mut world = World::new();
    let mut relayed = std::collections::BTreeSet::new();
    for transport in Transport::ALL {
        relayed.insert(client_over(1, transport).allocate(&mut world));
    }
    let mut elsewhere = client(1);
    elsewhere.client.five_tuple.server = addr("198.51.100.2:3478");
    relayed.insert(elsewhere.allocate(&mut world));
    assert_eq!(relayed.len(), 5);
}

//= TURN-GEN-10
#[test]
fn clients_behind_6to4_and_teredo_are_refused() {
    let mut world = World::new();
    for source in ["[2002:c000:201::1]:5000", "[2001:0:4136:e378::1]:5000"] {
        let mut client = client(1);
        client.client.five_tuple.client = addr(source);
        assert_eq!(client.request(&mut world, &allocate()).code(), 403, "{source}");
    }
    world.assert_empty();
}

#[test]
fn a_client_at_one_of_our_relayed_addresses_is_refused_because_it_would_be_a_loop() {
    let mut world = World::new();
    let relayed = client(1).allocate(&mut world);
    let mut loops = client(2);
    loops.client.five_tuple.client = relayed;
    assert_eq!(loops.request(&mut world, &allocate()).code(), 403);
    // At a port without an allocation it is a program on this machine like any other.
    let mut neighbour = client(3);
    let port = if relayed.port() == 50_000 { 50_001 } else { 50_000 };
    neighbour.client.five_tuple.client = (relayed.ip(), port).into();
    neighbour.allocate(&mut world);
}

#[test]
fn a_session_is_not_refreshed_beyond_its_cap() {
    let mut world = World::with(|config| config.max_session = Some(secs(1000)));
    let mut client = client(1);
    assert_eq!(
        client.request(&mut world, &allocate().lifetime(3600)).lifetime(),
        secs(1000)
    );
    world.pass(secs(500));
    assert_eq!(client.request(&mut world, &refresh(600)).lifetime(), secs(500));
    world.pass(secs(500));
    world.assert_empty();
}

/// A NAT that maps both port and address: clients and peers know the outside, and the socket is
/// bound to the inside.
//= TURN-ALLOC-31
#[test]
fn where_a_nat_maps_ports_the_client_is_told_the_port_outside() {
    let mut world = World::with(|config| config.relay.port_shift = -30_000);
    let mut client = client(1);
    let relayed = client.allocate(&mut world);
    assert!((20_000..=20_399).contains(&relayed.port()), "{relayed}");
    assert_eq!(world.binds, [(ip("10.1.2.3"), relayed.port() + 30_000).into()]);
    let peer = addr("192.0.2.9:7000");
    client.permit(&mut world, &[peer]);
    let inside = (relayed.ip(), relayed.port() + 30_000).into();
    assert!(world.peer(peer, inside, b"in").is_data(peer, b"in"));
    client.request(&mut world, &refresh(0));
    world.assert_empty();
}

/// Clients from number `first` on, each at another shard than the previous one, until one gets 508.
/// Returns those that got an allocation, and their ports in order.
fn until_508(world: &mut World, first: u16, message: &Message) -> (Vec<Client>, Vec<u16>) {
    let (mut clients, mut ports) = (Vec::new(), Vec::new());
    loop {
        let n = first + clients.len() as u16;
        let mut client = client(n).at_shard(usize::from(n) % world.shards.len());
        let answer = client.request(world, message);
        if answer.code() != 0 {
            assert_eq!(answer.code(), 508);
            ports.sort_unstable();
            return (clients, ports);
        }
        ports.push(answer.relayed()[0].port());
        clients.push(client);
    }
}

//= TURN-ALLOC-34
#[test]
fn a_range_is_used_to_its_last_port_by_any_number_of_shards() {
    for (shards, last, family) in [
        (8, 50_099, 1),
        (8, 50_099, 2),
        (2, 50_003, 1),
        (2, 50_003, 2),
        (7, 50_000, 1),
    ] {
        let mut world = World::sharded(shards, |config| config.relay.ports = 50_000..=last);
        let message = allocate().family(family);
        let (clients, ports) = until_508(&mut world, 1, &message);
        let all: Vec<u16> = (50_000..=last).collect();
        assert_eq!(ports, all, "{shards} shards, family {family}");
        // A port that one shard has released is available to every other.
        for (n, mut before) in (1000..).zip(clients) {
            before.request(&mut world, &refresh(0));
            let elsewhere = (before.shard + 1) % shards;
            let mut other = client(n).at_shard(elsewhere);
            assert_eq!(other.request(&mut world, &message).code(), 0);
            other.request(&mut world, &refresh(0));
        }
        world.assert_empty();
    }
}

//= TURN-ALLOC-17
//= TURN-ALLOC-34
#[test]
fn pairs_of_ports_are_reserved_to_the_last_by_any_number_of_shards() {
    let mut world = World::sharded(3, |config| {
        config.relay.ports = 50_001..=50_010;
        config.limits.reservations_per_user = 1000;
    });
    let (clients, ports) = until_508(&mut world, 1, &allocate().even_port(true));
    assert_eq!(ports, [50_002, 50_004, 50_006, 50_008]);
    assert_eq!(world.ports_used(), 8);
    let (others, ports) = until_508(&mut world, 100, &allocate());
    assert_eq!(ports, [50_001, 50_010], "no halves of such a pair");
    for mut client in clients.into_iter().chain(others) {
        client.request(&mut world, &refresh(0));
    }
    assert_eq!(world.ports_used(), 4, "reserved ones");
    world.pass(secs(30));
    assert_eq!(world.ports_used(), 0);
}
