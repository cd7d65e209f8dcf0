//! Allocations as records: what another process imports, and what it refuses.

use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use relay_proto::base::address::Family;
use relay_proto::base::time::Instant;
use relay_proto::turn::{AllocationRecord, Exported, ImportError, RECORD_VERSION, ReservationRecord, SessionId};
use serde_json::Value;

use crate::tcp_allocations;
use relay_testkit::world::*;

const NUMBER: u16 = 0x4000;
const PEER: &str = "192.0.2.1:7000";

/// A client with a dual allocation, a channel and a permission beside it.
fn settled(world: &mut World) -> (Client, Exported) {
    let mut client = client(1);
    let both = allocate().with(
        relay_proto::wire::attribute::AttributeType::ADDITIONAL_ADDRESS_FAMILY,
        [2, 0, 0, 0],
    );
    assert_eq!(client.request(world, &both).code(), 0);
    client.bind(world, NUMBER, addr(PEER));
    assert_eq!(
        client
            .request(world, &create_permission(&[addr("[2001:db8::7]:1")]))
            .code(),
        0
    );
    let exported = world.exported(0).pop().expect("one allocation");
    (client, exported)
}

#[test]
fn an_allocation_goes_on_in_another_process_and_ends_when_it_must() {
    let mut world = World::new();
    let (mut client, exported) = settled(&mut world);
    world.pass(secs(100));
    world.hand_over();
    let sent = client.channel_data(&mut world, NUMBER, b"x").sent();
    assert_eq!(sent.from.port(), exported.record.relayed[0].unwrap().port);
    // First the permission, to the nanosecond, then the allocation.
    let relayed = exported.record.relayed[0].unwrap().address;
    world.pass(just_before(secs(200)));
    assert!(matches!(
        world.peer(addr(PEER), relayed, b"x"),
        Delivered::Channel { .. }
    ));
    world.pass_unnoticed(std::time::Duration::from_nanos(1));
    assert!(matches!(world.peer(addr(PEER), relayed, b"x"), Delivered::Dropped(_)));
    assert_eq!(client.request(&mut world, &refresh(0)).code(), 0);
    world.assert_empty();
    let [began, ended] = &world.events[..] else {
        panic!("{:?}", world.events)
    };
    let id = |event: &relay_proto::turn::Event| match event {
        relay_proto::turn::Event::AllocationBegan { id, .. } | relay_proto::turn::Event::AllocationEnded { id, .. } => {
            *id
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((id(began), id(ended)), (exported.record.id, exported.record.id));
}

#[test]
fn a_record_as_text_holds_neither_key_nor_password() {
    let mut world = World::new();
    let (_, Exported { record, .. }) = settled(&mut world);
    let text = serde_json::to_string(&record).unwrap();
    assert!(text.starts_with(&format!(r#"{{"version":{RECORD_VERSION},"id":"{}""#, record.id)));
    assert!(!text.contains("wonderland") && !text.contains("key"), "{text}");
    assert_eq!(serde_json::from_str::<AllocationRecord>(&text).unwrap(), record);
}

#[test]
fn a_reserved_port_is_still_reserved_and_only_so_long() {
    let mut world = World::new();
    let mut owner = client(1);
    let even = allocate().with(relay_proto::wire::attribute::AttributeType::EVEN_PORT, [0x80]);
    let answer = owner.request(&mut world, &even);
    let token = answer
        .attribute(relay_proto::wire::attribute::AttributeType::RESERVATION_TOKEN)
        .unwrap();
    let next = answer.relayed()[0].port() + 1;
    world.pass(secs(20));
    world.hand_over();
    let with_token = allocate().with(relay_proto::wire::attribute::AttributeType::RESERVATION_TOKEN, token);
    // Another user's login is refused, as before.
    assert_eq!(
        client(2).user("bob", "builder").request(&mut world, &with_token).code(),
        508
    );
    world.hand_over();
    let answer = client(3).request(&mut world, &with_token);
    assert_eq!((answer.code(), answer.relayed()[0].port()), (0, next));

    let mut world = World::new();
    assert_eq!(owner_again(&mut world, &even), 0);
    world.hand_over();
    assert_eq!(world.ports_used(), 2);
    world.pass(secs(31));
    assert_eq!(world.ports_used(), 1, "the reservation ends in the new process");
}

fn owner_again(world: &mut World, message: &Message) -> u16 {
    client(1).request(world, message).code()
}

#[test]
fn tcp_allocations_and_allocates_on_their_way_stay_behind() {
    let mut world = tcp_allocations::world();
    let _tcp = tcp_allocations::owner(&mut world, 1);
    world.hold = Some(Vec::new());
    assert_eq!(client(2).request(&mut world, &allocate()), Answer::Waiting);
    assert_eq!(world.shards[0].allocations(), 2);
    assert!(world.exported(0).is_empty());
}

/// An invalid record, and its error.
fn spoiled(good: &AllocationRecord, now: Instant) -> Vec<(ImportError, AllocationRecord)> {
    let mut all = Vec::new();
    let mut spoil = |error, spoil: &dyn Fn(&mut AllocationRecord)| {
        let mut record = good.clone();
        spoil(&mut record);
        all.push((error, record));
    };
    let far = now + secs(86_401);
    spoil(ImportError::Version(2), &|it| it.version = 2);
    spoil(ImportError::NoTicket, &|it| it.away = true);
    spoil(ImportError::WrongRelayed, &|it| it.relayed.swap(0, 1));
    spoil(ImportError::WrongRelayed, &|it| it.given.swap(0, 1));
    spoil(ImportError::WrongRelayed, &|it| it.given[0] = None);
    spoil(ImportError::WrongRelayed, &|it| {
        it.relayed[0].as_mut().unwrap().port = 0
    });
    spoil(ImportError::Expired, &|it| it.relayed = [None; 2]);
    spoil(ImportError::Expired, &|it| {
        it.relayed.iter_mut().flatten().for_each(|relayed| relayed.until = now);
    });
    spoil(ImportError::Time, &|it| it.relayed[1].as_mut().unwrap().until = far);
    spoil(ImportError::Time, &|it| it.requested = now + secs(1));
    spoil(ImportError::Time, &|it| it.permissions[0].until = now + secs(301));
    spoil(ImportError::Time, &|it| it.channels[0].until = now + secs(601));
    spoil(ImportError::TooMany, &|it| {
        it.permissions = vec![it.permissions[0]; 4097]
    });
    spoil(ImportError::TooMany, &|it| it.channels = vec![it.channels[0]; 4097]);
    spoil(ImportError::Channel, &|it| it.channels = vec![it.channels[0]; 2]);
    spoil(ImportError::Channel, &|it| it.channels[0].number = 0x3FFF);
    spoil(ImportError::Channel, &|it| it.channels[0].number = 0x8000);
    spoil(ImportError::Peer, &|it| it.channels[0].peer.set_port(0));
    spoil(ImportError::Peer, &|it| {
        it.channels[0].peer = addr("[::ffff:192.0.2.1]:7000")
    });
    spoil(ImportError::Peer, &|it| it.permissions[0].peer = ip("::ffff:192.0.2.1"));
    spoil(ImportError::WrongLogin, &|it| it.owner.username = "bob".into());
    all
}

#[test]
fn a_record_that_cannot_be_is_refused_for_a_reason_and_leaves_nothing() {
    let mut old = World::new();
    let (_, Exported { record, handles, .. }) = settled(&mut old);
    let mut world = World::new();
    for (error, record) in spoiled(&record, world.now().mono) {
        assert_eq!(world.take_up(0, &record, handles.clone()), Err(error), "{record:?}");
        assert_eq!((world.shards[0].allocations(), world.shared.allocations()), (0, 0));
        assert_eq!(world.ports_used(), 0);
    }
    // What is already in use here. The other of two ports is released.
    let mut other = record.clone();
    other.client.client.set_port(9);
    other.relayed[0] = None;
    world.take_up(0, &other, handles.clone()).unwrap();
    let (family, port) = (Family::V6, record.relayed[1].unwrap().port);
    let taken = Err(ImportError::PortTaken { family, port });
    assert_eq!(world.take_up(0, &record, handles.clone()), taken);
    assert_eq!((world.shared.allocations(), world.ports_used()), (1, 1));
    let mut rest = record.clone();
    rest.relayed[1] = None;
    world.take_up(0, &rest, handles.clone()).unwrap();
    assert_eq!(world.take_up(0, &rest, handles.clone()), Err(ImportError::ClientTaken));
    let now = world.now();
    world.shards[0].shutdown(now);
    world.settle(0);
    world.assert_empty();
    assert_eq!(world.take_up(0, &record, handles), Err(ImportError::Stopping));
}

#[test]
fn a_reservation_that_cannot_be_is_refused() {
    let mut world = World::new();
    let even = allocate().with(relay_proto::wire::attribute::AttributeType::EVEN_PORT, [0x80]);
    assert_eq!(owner_again(&mut world, &even), 0);
    let now = world.now();
    let good = world.shards[0].export_reservations(now).pop().unwrap();
    let spoil = |spoil: &dyn Fn(&mut ReservationRecord)| {
        let mut record = good.clone();
        spoil(&mut record);
        World::new().shards[0].import_reservation(now, &record)
    };
    assert_eq!(spoil(&|_| {}), Ok(()));
    assert_eq!(spoil(&|it| it.version = 0), Err(ImportError::Version(0)));
    assert_eq!(spoil(&|it| it.until = now.mono), Err(ImportError::Expired));
    assert_eq!(spoil(&|it| it.until = now.mono + secs(31)), Err(ImportError::Time));
    assert_eq!(spoil(&|it| it.port = 0), Err(ImportError::WrongRelayed));
    assert_eq!(
        world.shards[0].import_reservation(now, &good),
        Err(ImportError::TicketTaken)
    );
}

/// Every value in a JSON document that is neither an object nor a list.
fn leaves<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| leaves(item, found)),
        Value::Object(fields) => fields.values_mut().for_each(|field| leaves(field, found)),
        leaf => found.push(leaf),
    }
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        (0..70_000_u64).prop_map(Value::from),
        (1_000_000..1_001_000_u64).prop_map(|seconds| Value::from(seconds * 1_000_000_000)),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        ".{0,30}".prop_map(Value::from),
        any::<std::net::SocketAddr>().prop_map(|it| Value::from(it.to_string())),
        any::<std::net::IpAddr>().prop_map(|it| Value::from(it.to_string())),
        any::<[u8; 12]>().prop_map(|it| Value::from(SessionId::from_random(it).to_string())),
        proptest::strategy::Just(Value::Null),
    ]
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 400, ..Default::default() })]

    #[test]
    fn no_bytes_that_are_read_as_a_record_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = serde_json::from_slice::<AllocationRecord>(&bytes);
        let _ = serde_json::from_slice::<ReservationRecord>(&bytes);
    }

    #[test]
    fn whatever_a_record_says_it_is_refused_or_lives_and_ends(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), leaf()), 0..4),
    ) {
        let mut old = World::new();
        let (_, Exported { record, handles, .. }) = settled(&mut old);
        let mut value = serde_json::to_value(&record).unwrap();
        for (at, leaf) in changes {
            let mut found = Vec::new();
            leaves(&mut value, &mut found);
            let at = at.index(found.len());
            *found[at] = leaf;
        }
        let mut world = World::new();
        if let Ok(record) = serde_json::from_value::<AllocationRecord>(value)
            && world.take_up(0, &record, handles).is_ok()
        {
            assert_eq!(world.exported(0).len(), 1);
            world.pass(secs(86_402));
        }
        world.assert_empty();
    }
}

#[test]
fn reservations_end_each_in_its_time_in_whatever_order_they_are_taken_up() {
    let mut world = World::with(|config| config.limits.reservations_per_user = 3);
    let even = allocate().with(relay_proto::wire::attribute::AttributeType::EVEN_PORT, [0x80]);
    for n in 1..=3 {
        assert_eq!(client(n).request(&mut world, &even).code(), 0);
        world.pass(secs(5));
    }
    let now = world.now();
    let records = world.shards[0].export_reservations(now);
    assert_eq!(records.len(), 3);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut next = World::new();
        next.pass(secs(15));
        for index in order {
            let now = next.now();
            next.shards[0].import_reservation(now, &records[index]).unwrap();
        }
        next.wake();
        // Reserved at 0, 5 and 10 s, for 30 s each; now it is 15 s.
        for left in [2, 1, 0] {
            let until = if left == 2 { secs(15) } else { secs(5) };
            next.pass(just_before(until));
            assert_eq!(next.ports_used(), left + 1, "{order:?}");
            next.pass(std::time::Duration::from_nanos(1));
            assert_eq!(next.ports_used(), left, "{order:?}");
        }
    }
}

#[test]
fn each_reason_for_refusing_a_record_is_said_in_its_own_words() {
    use ImportError::*;
    let (family, port) = (Family::V6, 50_001);
    let all = [
        Version(7),
        Stopping,
        WrongLogin,
        WrongRelayed,
        Expired,
        Time,
        TooMany,
        Peer,
        Channel,
        NoTicket,
        ClientTaken,
        PortTaken { family, port },
        TicketTaken,
    ];
    let said: std::collections::BTreeSet<String> = all.iter().map(ImportError::to_string).collect();
    assert_eq!(said.len(), all.len(), "{said:?}");
    assert!(said.iter().all(|text| !text.is_empty()));
    assert!(PortTaken { family, port }.to_string().contains("V6 port 50001"));
}
