//! Address families (RFC 8656 §7.2 steps 6, 7 and 9).

use relay_proto::turn::{Config, OpenError, Refusal, RefusalReason};
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use crate::refusals::only;
use relay_testkit::world::*;

const V4: u8 = 1;
const V6: u8 = 2;

fn only_v4(config: &mut Config) {
    config.relay.ipv6 = None;
}

fn only_v6(config: &mut Config) {
    config.relay.ipv4 = None;
}

//= TURN-ALLOC-13
//= TURN-ALLOC-14
//= TURN-ALLOC-15
//= TURN-ALLOC-22
//= TURN-ALLOC-23
//= TURN-ALLOC-24
//= D5
#[test]
fn every_combination_of_what_is_asked_for_and_what_is_served() {
    type Serve = fn(&mut Config);
    const BOTH: Serve = |_| {};
    /// Served, requested, additional, code, families of XOR-RELAYED-ADDRESS, ADDRESS-ERROR-CODE.
    type Case = (Serve, Option<u8>, Option<u8>, u16, &'static [bool], Option<(u8, u8)>);
    const CASES: [Case; 17] = [
        (BOTH, None, None, 0, &[true], None),
        (BOTH, Some(V4), None, 0, &[true], None),
        (BOTH, Some(V6), None, 0, &[false], None),
        (BOTH, Some(0), None, 440, &[], None),
        (BOTH, Some(3), None, 440, &[], None),
        (BOTH, Some(0xFF), None, 440, &[], None),
        (BOTH, Some(V4), Some(V6), 400, &[], None),
        (BOTH, Some(V6), Some(V6), 400, &[], None),
        (BOTH, None, Some(V6), 0, &[true, false], None),
        (BOTH, None, Some(V4), 400, &[], None),
        (BOTH, None, Some(9), 400, &[], None),
        (only_v4, Some(V6), None, 440, &[], None),
        (only_v4, None, Some(V6), 0, &[true], Some((V6, 40))),
        (only_v6, None, None, 440, &[], None),
        (only_v6, Some(V4), None, 440, &[], None),
        (only_v6, Some(V6), None, 0, &[false], None),
        (only_v6, None, Some(V6), 0, &[false], Some((V4, 40))),
    ];
    for (n, (serve, requested, additional, code, families, unavailable)) in CASES.into_iter().enumerate() {
        for source in ["192.0.2.77:5000", "[2001:db8:7::1]:5000"] {
            let mut world = World::with(serve);
            let mut client = client(1);
            client.client.five_tuple.client = addr(source);
            let mut message = allocate();
            message = requested.map_or(message.clone(), |family| message.family(family));
            message = additional.map_or(message.clone(), |family| message.also(family));
            let answer = client.request(&mut world, &message);
            assert_eq!(answer.code(), code, "case {n} from {source}");
            let relayed: Vec<bool> = answer.relayed().iter().map(|relayed| relayed.is_ipv4()).collect();
            assert_eq!(relayed, families, "case {n} from {source}");
            let error = answer.attribute(AttributeType::ADDRESS_ERROR_CODE);
            assert_eq!(
                error,
                unavailable.map(|(family, number)| vec![family, 0, 4, number]),
                "case {n} from {source}"
            );
            assert_eq!(world.ports_used(), families.len() as u64);
            let refused = world.refusals(RefusalReason::FamilyNotSupported);
            let expected = code == 440 || error.is_some();
            assert_eq!(refused, u64::from(expected), "case {n} from {source}");
            // If the client gets the other family, the refusal of a disabled one is routine.
            let news = world.refused.iter().filter(|refused| !refused.routine).count();
            assert_eq!(news, usize::from(code != 0), "case {n} from {source}");
        }
    }
}

//= TURN-ALLOC-14
#[test]
fn family_attributes_have_four_bytes_of_which_one_counts() {
    let mut world = World::new();
    for kind in [
        AttributeType::REQUESTED_ADDRESS_FAMILY,
        AttributeType::ADDITIONAL_ADDRESS_FAMILY,
    ] {
        for value in [&[V6][..], &[V6, 0], &[V6; 8], &[]] {
            assert_eq!(client(1).request(&mut world, &allocate().with(kind, value)).code(), 400);
        }
    }
    let reserved = allocate().with(AttributeType::REQUESTED_ADDRESS_FAMILY, [V6, 0xFF, 0xFF, 0xFF]);
    assert!(client(1).request(&mut world, &reserved).relayed()[0].is_ipv6());
}

//= TURN-ALLOC-24
#[test]
fn half_a_dual_allocation_whose_socket_cannot_be_opened_is_reported_and_the_other_given() {
    for (results, v4, missing) in [
        ([Err(OpenError::Exhausted), Ok(())], false, V4),
        ([Ok(()), Err(OpenError::Exhausted)], true, V6),
    ] {
        let mut world = World::new();
        world.open_results = results.into();
        let mut client = client(1);
        let answer = client.request(&mut world, &allocate().also(V6));
        assert_eq!(answer.relayed().iter().map(|it| it.is_ipv4()).collect::<Vec<_>>(), [v4]);
        assert_eq!(
            answer.attribute(AttributeType::ADDRESS_ERROR_CODE),
            Some(vec![missing, 0, 5, 8])
        );
        assert_eq!(world.ports_used(), 1);
        let refused = only(&mut world);
        assert_eq!(refused.refusal, Refusal::NoDescriptor);
        assert_eq!(
            (refused.half, refused.routine, refused.method),
            (true, false, Method::Allocate)
        );
        assert_eq!(refused.username.as_deref(), Some(client.username.as_str()));
        assert_eq!(world.refusals(RefusalReason::NoDescriptor), 1);
        client.request(&mut world, &refresh(0));
        world.assert_empty();
    }
}

//= TURN-ALLOC-24
#[test]
fn a_dual_allocation_of_which_nothing_can_be_had_fails() {
    let mut world = World::new();
    world.open_results = [Err(OpenError::Exhausted), Err(OpenError::Exhausted)].into();
    assert_eq!(client(1).request(&mut world, &allocate().also(V6)).code(), 508);
    world.assert_empty();
    let mut world = World::with(|config| (config.relay.ipv4, config.relay.ipv6) = (None, None));
    assert_eq!(client(1).request(&mut world, &allocate().also(V6)).code(), 508);
}

//= TURN-ALLOC-23
#[test]
fn both_sockets_of_a_dual_allocation_are_awaited() {
    let mut world = World::new();
    let mut client = client(1);
    client.request(&mut world, &refresh(600));
    world.hold = Some(Vec::new());
    assert_eq!(client.request(&mut world, &allocate().also(V6)), Answer::Waiting);
    let held = world.hold.take().unwrap();
    assert_eq!(held.len(), 2);
    assert!(world.opened(0, held[1].1, Ok(())).is_none());
    assert!(world.opened(0, held[0].1, Ok(())).is_some());
    world.settle(0);
    assert_eq!(world.events.len(), 1);
}

//= TURN-PERM-06
#[test]
fn one_create_permission_may_name_peers_of_both_families() {
    let mut world = World::new();
    let mut client = client(1);
    let relayed = client.request(&mut world, &allocate().also(V6)).relayed();
    let peers = [addr("192.0.2.1:7000"), addr("[2001:db8::1]:7000")];
    client.permit(&mut world, &peers);
    for (peer, relayed) in peers.into_iter().zip(relayed) {
        assert!(world.peer(peer, relayed, b"x").is_data(peer, b"x"));
    }
}
