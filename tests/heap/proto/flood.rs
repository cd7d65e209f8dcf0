//! Strangers leave nothing behind: whatever a flood of spoofed sources sends over UDP, no memory is kept of it.
//!
//! `FLOOD_REQUESTS=1000000` makes it as large as one likes.

use std::net::SocketAddr;

use relay_proto::turn::{DropReason, Response, Verdict};
use relay_proto::wire::message::Method;

use relay_testkit::heap::live_bytes;
use relay_testkit::world::*;

/// Source `n` of 2^24, of both IP versions.
fn source(n: u32) -> SocketAddr {
    let (low, port) = (n & 0x00FF_FFFF, 1024 + (n % 60_000) as u16);
    if n.is_multiple_of(4) {
        SocketAddr::from((
            std::net::Ipv6Addr::from((0x2A00_0001_u128 << 96) | (u128::from(low) << 64)),
            port,
        ))
    } else {
        SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0B00_0000 | low), port))
    }
}

//= STUN-AUTH-24
//= STUN-BIND-01
#[test]
fn a_flood_from_a_hundred_thousand_sources_leaves_not_one_byte_and_others_are_served() {
    let requests: u32 = std::env::var("FLOOD_REQUESTS").map_or(100_000, |text| text.parse().unwrap());
    // The limits are those of a real server.
    let mut world = World::with(|config| config.limits = relay_proto::turn::config::limits::Limits::default());
    let mut honest = client(1);
    honest.allocate(&mut world);
    let mut guesser = client(2).user("alice", "guess");
    guesser.nonce = honest.nonce.clone();
    // Bare, with a nonce of somebody else's, with garbage for a signature, and what needs no login at all.
    let packets = [
        allocate().plain(),
        guesser.signed(&allocate()),
        guesser.clone().user("1900000000:x", "guess").signed(&allocate()),
        guesser.signed(&refresh(600)),
        request(Method::Binding).plain(),
        send_indication(addr("192.0.2.1:7000"), b"x").plain(),
        channel_data(0x4000, b"x"),
    ];
    let mut response = Response::new();
    let mut answered = 0;
    let mut flood = |world: &mut World, from: u32, to: u32| {
        for n in from..to {
            let mut stranger = guesser.client;
            stranger.five_tuple.client = source(n % 100_000);
            let now = world.now();
            let packet = &packets[(n / 7 % 7) as usize];
            match world.shards[0].handle_client(now, &stranger, packet, &mut response) {
                Verdict::Respond => answered += 1,
                Verdict::Drop(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    flood(&mut world, 0, 1000);
    let before = live_bytes();
    flood(&mut world, 1000, requests);
    let grown = live_bytes() - before;
    assert_eq!(grown, 0, "bytes left behind by {requests} requests");
    assert!(answered > 0 && world.dropped(DropReason::NoAllocation) > 0);
    assert_eq!(world.shards[0].allocations(), 1);
    // Whoever is in stays in, and whoever wants in gets in.
    assert_eq!(honest.request(&mut world, &refresh(600)).code(), 0);
    world.pass(secs(1));
    client(3).allocate(&mut world);
}
