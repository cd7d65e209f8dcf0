//! Random sequences: whatever clients do, nothing leaks, and nothing is relayed that must not be.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use relay_proto::base::address::Transport;
use relay_proto::turn::OpenError;

use relay_testkit::world::*;

#[derive(Clone, Debug)]
enum Op {
    Allocate { who: u8, kind: u8, fail: bool },
    Token { who: u8 },
    Refresh { who: u8, lifetime: u32, family: Option<u8> },
    Permit { who: u8, peer: u8 },
    Bind { who: u8, number: u16, peer: u8 },
    Send { who: u8, peer: u8 },
    Channel { who: u8, number: u16 },
    Peer { relayed: u8, peer: u8 },
    Disconnect { who: u8 },
    Pass { seconds: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (who, peer, number) = (|| 0u8..6, || 0u8..4, || 0x4000u16..0x4003);
    let lifetime = prop_oneof![Just(0u32), Just(600), Just(1200)];
    let family = prop_oneof![Just(None), Just(Some(1u8)), Just(Some(2))];
    prop_oneof![
        8 => (who(), 0u8..6, proptest::bool::weighted(0.1)).prop_map(|(who, kind, fail)| Op::Allocate { who, kind, fail }),
        2 => who().prop_map(|who| Op::Token { who }),
        4 => (who(), lifetime, family).prop_map(|(who, lifetime, family)| Op::Refresh { who, lifetime, family }),
        6 => (who(), peer()).prop_map(|(who, peer)| Op::Permit { who, peer }),
        6 => (who(), number(), peer()).prop_map(|(who, number, peer)| Op::Bind { who, number, peer }),
        6 => (who(), peer()).prop_map(|(who, peer)| Op::Send { who, peer }),
        6 => (who(), number()).prop_map(|(who, number)| Op::Channel { who, number }),
        8 => (any::<u8>(), peer()).prop_map(|(relayed, peer)| Op::Peer { relayed, peer }),
        1 => who().prop_map(|who| Op::Disconnect { who }),
        4 => (1u64..200).prop_map(|seconds| Op::Pass { seconds }),
    ]
}

fn peer(n: u8) -> SocketAddr {
    if n < 2 {
        addr(&format!("192.0.2.{n}:7000"))
    } else {
        addr(&format!("[2001:db8::{n}]:7000"))
    }
}

/// When each client last successfully requested each peer: an upper bound on what may be relayed.
type Granted = BTreeMap<(u8, u8), u64>;

/// A changed byte: its position and its value.
type Change = (proptest::sample::Index, u8);

proptest! {
    /// Every packet is counted once and answered at most once (`World::packet` checks both).
    #[test]
    fn no_bytes_break_anything(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..40),
    ) {
        let mut world = World::new();
        let mut client = client(1);
        let relayed = client.allocate(&mut world);
        client.bind(&mut world, 0x4000, peer(1));
        for packet in packets {
            // One first byte in four is of a kind that gets further.
            for first in [None, Some(0x00), Some(0x40)] {
                let mut packet = packet.clone();
                if let (Some(first), Some(byte)) = (first, packet.first_mut()) {
                    *byte = first;
                }
                world.packet(&client, &packet);
            }
        }
        prop_assert!(world.peer(peer(1), relayed, b"x").is_channel(0x4000, b"x"));
    }

    //= STUN-AUTH-11
    #[test]
    fn a_changed_request_never_does_what_it_was_changed_to(
        kind in 0u8..4, changes in proptest::collection::vec((any::<proptest::sample::Index>(), 1u8..), 1..4),
    ) {
        let mut world = World::new();
        let mut client = client(1);
        let relayed = client.allocate(&mut world);
        let message = match kind {
            0 => refresh(0),
            1 => create_permission(&[peer(1)]),
            2 => channel_bind(0x4000, peer(1)),
            _ => refresh(3600),
        };
        let good = client.signed(&message);
        let mut packet = good.clone();
        for (at, change) in &changes as &[Change] {
            packet[at.index(good.len())] ^= change;
        }
        proptest::prop_assume!(packet != good);
        let answer = world.packet(&client, &packet);
        // A change in the signed part makes it fail, and all of this message is signed.
        prop_assert!(answer.code_or_success() != Some(0) || world.requests("binding") == 1, "{answer:?}");
        let unheard = Delivered::Dropped(relay_proto::turn::DropReason::NoPermission);
        prop_assert_eq!(world.peer(peer(1), relayed, b"x"), unheard);
        world.pass(secs(599));
        prop_assert!(world.shards[0].allocations() == 1);
        world.pass(secs(1));
        world.assert_empty();
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 200, ..Default::default() })]

    #[test]
    fn nothing_passes_without_a_grant_and_nothing_is_left_at_the_end(
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut world = World::sharded(2, |config| {
            config.relay.ports = 50_000..=50_011;
            config.limits.allocations_per_user = 4;
        });
        let transport = |n: u8| if n.is_multiple_of(3) { Transport::Tcp } else { Transport::Udp };
        let mut clients: Vec<Client> = (0..6u8)
            .map(|n| client_over(n.into(), transport(n)).at_shard(usize::from(n) % 2))
            .collect();
        let (mut relays, mut token) = (Vec::new(), None);
        let (mut permissions, mut channels) = (Granted::new(), Granted::new());
        for op in ops {
            let now = world.now.as_secs();
            match op {
                Op::Allocate { who, kind, fail } => {
                    if fail {
                        world.open_results = vec![Err(OpenError::AddressInUse); 8].into();
                    }
                    let message = match kind {
                        0 => allocate().even_port(true),
                        1 => allocate().even_port(false),
                        2 => allocate().family(2),
                        3 => allocate().also(2),
                        _ => allocate(),
                    };
                    let answer = clients[usize::from(who)].request(&mut world, &message);
                    world.open_results.clear();
                    if answer.code() == 0 {
                        permissions.retain(|&(client, _), _| client != who);
                        channels.retain(|&(client, _), _| client != who);
                        relays.extend(answer.relayed().into_iter().map(|relayed| (who, relayed)));
                        token = answer.token().or(token);
                    }
                }
                Op::Token { who } => {
                    if let Some(token) = &token {
                        let kind = relay_proto::wire::attribute::AttributeType::RESERVATION_TOKEN;
                        clients[usize::from(who)].request(&mut world, &allocate().with(kind, token));
                    }
                }
                Op::Refresh { who, lifetime, family } => {
                    let message = family.map_or(refresh(lifetime), |family| refresh(lifetime).family(family));
                    clients[usize::from(who)].request(&mut world, &message);
                }
                Op::Permit { who, peer: to } => {
                    let message = create_permission(&[peer(to)]);
                    if clients[usize::from(who)].request(&mut world, &message).code() == 0 {
                        permissions.insert((who, to), now);
                    }
                }
                Op::Bind { who, number, peer: to } => {
                    let message = channel_bind(number, peer(to));
                    if clients[usize::from(who)].request(&mut world, &message).code() == 0 {
                        permissions.insert((who, to), now);
                        channels.insert((who, to), now);
                    }
                }
                Op::Send { who, peer: to } => {
                    if let Answer::Sent(sent) = clients[usize::from(who)].send(&mut world, peer(to), b"x") {
                        prop_assert!(sent.to == peer(to) && permissions.get(&(who, to)).is_some_and(|at| now < at + 300));
                    }
                }
                Op::Channel { who, number } => {
                    if let Answer::Sent(sent) = clients[usize::from(who)].channel_data(&mut world, number, b"x") {
                        let granted = channels.iter().any(|(&(client, to), at)| {
                            client == who && peer(to) == sent.to && now < at + 600
                        });
                        prop_assert!(granted);
                    }
                }
                Op::Peer { relayed, peer: from } if !relays.is_empty() => {
                    let (_, to) = relays[usize::from(relayed) % relays.len()];
                    if let Delivered::Channel { client, .. } | Delivered::Data { client, .. } =
                        world.peer(peer(from), to, b"x")
                    {
                        let who = clients.iter().position(|it| it.client == client).expect("one of ours") as u8;
                        prop_assert!(permissions.get(&(who, from)).is_some_and(|at| now < at + 300));
                    }
                }
                Op::Peer { .. } => {}
                Op::Disconnect { who } => {
                    if transport(who).is_stream() {
                        clients[usize::from(who)].disconnect(&mut world);
                    }
                }
                Op::Pass { seconds } => world.pass(secs(seconds)),
            }
        }
        world.pass(secs(1201));
        world.pass(secs(41));
        // A port lent to another shard returns when its own shard next wakes up, for whatever
        // reason.
        world.wake();
        world.assert_empty();
        for shard in &world.shards {
            prop_assert!(shard.poll_timeout().is_none());
        }
        // Every port and the whole quota are available again.
        let mut last: Vec<Client> = (10..14).map(|n| client(n).at_shard(0)).collect();
        for client in &mut last {
            client.allocate(&mut world);
        }
    }
}
