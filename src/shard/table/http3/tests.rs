//! Flows in virtual time.

use std::time::Duration;

use super::*;
use crate::base::address::Transport;
use crate::shard::config::SharedBackend;
use crate::shard::token::Token;

const BACKEND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8443);
const CHOSEN: [u8; 8] = *b"answered";

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn config(flows: u32, flows_per_ip: u32, new_flows_per_second: u32) -> Http3Config {
    Http3Config {
        limits: Http3Limits {
            flows,
            flows_per_ip,
            new_flows_per_second,
            ..Http3Limits::default()
        },
        ..Http3Config::new(SharedBackend::default())
    }
}

fn flows(flows: u32, flows_per_ip: u32, new_flows_per_second: u32) -> Http3 {
    let config = config(flows, flows_per_ip, new_flows_per_second);
    Http3::new(config, Http3Shared::new(5), 7)
}

fn client(host: u8, port: u16) -> Client {
    Client {
        five_tuple: FiveTuple {
            client: SocketAddr::from(([192, 0, 2, host], port)),
            server: SocketAddr::from(([198, 51, 100, 1], 443)),
            transport: Transport::Udp,
        },
        link: Token::Listener(0).link(),
    }
}

/// A long header of version 1.
fn long(destination: &[u8], source: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0xC0, 0, 0, 0, 1];
    for id in [destination, source] {
        bytes.push(id.len() as u8);
        bytes.extend(id);
    }
    bytes.resize(len, 0);
    bytes
}

/// The client's first and the server's answer.
fn answered(flow: &mut Http3Flow, now: Instant) {
    assert!(!flow.receive_from_client(now, &long(b"original", b"client", 1200)));
    assert!(flow.receive_from_backend(now, &long(b"client", &CHOSEN, 1200)));
}

/// Shows that it has heard the backend.
fn prove(http3: &mut Http3, slot: u32, now: Instant) {
    let flow = http3.at(slot).unwrap();
    answered(flow, now);
    assert!(http3.receive_from_client(now, slot, &long(&CHOSEN, b"client", 1200)));
}

#[test]
fn a_flow_is_found_by_its_five_tuple_until_it_ends_and_its_name_is_not_used_again() {
    let mut http3 = flows(9, 9, 9);
    let begun = http3.begin(at(0), client(1, 1000), BACKEND).unwrap();
    assert_eq!(http3.find(&client(1, 1000).five_tuple), Some(begun.slot));
    assert_eq!(http3.find(&client(1, 1001).five_tuple), None);
    let (ended, _) = http3.remove(begun.slot).unwrap();
    assert_eq!((ended.client, ended.backend), (client(1, 1000), BACKEND));
    assert!(http3.is_empty() && http3.find(&client(1, 1000).five_tuple).is_none());
    let next = http3.begin(at(0), client(2, 1000), BACKEND).unwrap();
    assert_eq!(next.slot, begun.slot);
    assert!(http3.by_token(begun.slot, begun.generation).is_none());
    assert!(http3.by_token(next.slot, next.generation).is_some());
}

#[test]
fn without_proof_three_times_as_many_bytes_go_to_a_client_as_have_come_from_it() {
    let mut http3 = flows(9, 9, 9);
    let slot = http3.begin(at(0), client(1, 1000), BACKEND).unwrap().slot;
    let flow = http3.at(slot).unwrap();
    assert!(!flow.receive_from_backend(at(0), &[0x40]), "nothing has come from it");
    flow.receive_from_client(at(0), &long(b"original", b"client", 1200));
    let answer = long(b"client", &CHOSEN, 1200);
    for _ in 0..3 {
        assert!(flow.receive_from_backend(at(1), &answer));
    }
    assert!(!flow.receive_from_backend(at(1), &[0x40]));
    // Whoever forges its address can send more, and guess.
    for guess in [&b"original"[..], b"answere", b"Answered", b""] {
        assert!(!flow.receive_from_client(at(2), &long(guess, b"client", 100)));
    }
    assert!(!flow.receive_from_client(at(2), &[0x40; 30]));
    assert!(!flow.is_proven());
    assert!(flow.receive_from_backend(at(2), &answer));
    assert!(!flow.receive_from_backend(at(2), &answer), "{flow:?}");
    assert_eq!((flow.to_backend, flow.to_client), (1200 + 4 * 100 + 30, 4 * 1200));
}

#[test]
fn naming_the_backends_connection_id_is_proof_in_a_long_and_in_a_short_header() {
    let short = [&[0x4F][..], &CHOSEN, b"protected"].concat();
    for second in [long(&CHOSEN, b"client", 1200), short] {
        let mut http3 = flows(9, 9, 9);
        let slot = http3.begin(at(0), client(1, 1000), BACKEND).unwrap().slot;
        let flow = http3.at(slot).unwrap();
        answered(flow, at(0));
        assert!(flow.receive_from_client(at(1), &second));
        assert!(!flow.receive_from_client(at(1), &second), "it is news once");
        for _ in 0..1000 {
            assert!(flow.receive_from_backend(at(2), &[0x40; 1400]));
        }
    }
}

#[test]
fn a_retry_is_an_answer_as_well_and_the_latest_connection_id_counts() {
    let mut http3 = flows(9, 9, 9);
    let slot = http3.begin(at(0), client(1, 1000), BACKEND).unwrap().slot;
    let flow = http3.at(slot).unwrap();
    answered(flow, at(0));
    assert!(flow.receive_from_backend(at(1), &long(b"client", b"by retry", 100)));
    assert!(!flow.receive_from_client(at(2), &long(&CHOSEN, b"client", 1200)));
    assert!(flow.receive_from_client(at(2), &long(b"by retry", b"client", 1200)));
}

#[test]
fn who_proves_nothing_is_forgotten_soon_and_who_has_after_the_idle_time() {
    let mut http3 = flows(9, 9, 9);
    let (handshake, idle) = (10_000, 120_000);
    let silent = http3.begin(at(0), client(1, 1000), BACKEND).unwrap().slot;
    let proven = http3.begin(at(0), client(1, 1001), BACKEND).unwrap().slot;
    prove(&mut http3, proven, at(5));
    // More of the same is no proof, and buys no time.
    http3
        .at(silent)
        .unwrap()
        .receive_from_client(at(9000), &long(b"original", b"client", 1200));
    assert_eq!(http3.expired(at(handshake - 1), silent), None);
    assert_eq!(http3.expired(at(handshake), silent), Some(Http3End::Unproven));
    assert_eq!(http3.expired(at(5 + idle - 1), proven), None);
    assert_eq!(http3.expired(at(5 + idle), proven), Some(Http3End::Idle));
    // Something from either side keeps it.
    assert!(http3.at(proven).unwrap().receive_from_backend(at(60_000), &[0x40]));
    assert_eq!(http3.expired(at(5 + idle), proven), None);
    http3.at(proven).unwrap().receive_from_client(at(90_000), &[0x40]);
    assert_eq!(http3.expired(at(90_000 + idle - 1), proven), None);
    assert_eq!(http3.expired(at(90_000 + idle), proven), Some(Http3End::Idle));
    assert_eq!(http3.expired(at(1_000_000), 99), None);
}

#[test]
fn at_the_limit_of_equal_sources_the_oldest_without_proof_gives_way_and_nobody_else() {
    let mut http3 = flows(3, 9, 100);
    let proven = http3.begin(at(0), client(1, 1000), BACKEND).unwrap().slot;
    let older = http3.begin(at(1), client(2, 1000), BACKEND).unwrap();
    let younger = http3.begin(at(2), client(3, 1000), BACKEND).unwrap();
    prove(&mut http3, proven, at(3));
    let begun = http3.begin(at(4), client(4, 1000), BACKEND).unwrap();
    let (slot, ended) = begun.displaced.unwrap();
    assert_eq!((slot, ended.client), (older.slot, client(2, 1000)));
    prove(&mut http3, begun.slot, at(5));
    prove(&mut http3, younger.slot, at(5));
    let refused = http3.begin(at(6), client(5, 1000), BACKEND).unwrap_err();
    assert_eq!(refused, Http3Drop::TooMany);
    drop(http3.remove(proven));
    assert!(
        http3
            .begin(at(7), client(5, 1000), BACKEND)
            .unwrap()
            .displaced
            .is_none()
    );
}

#[test]
fn one_source_gets_no_more_than_its_share_and_uses_up_nobody_elses() {
    let mut http3 = flows(100, 2, 4);
    for port in [1000, 1001] {
        http3.begin(at(0), client(1, port), BACKEND).unwrap();
    }
    for port in 1002..1100 {
        let refused = http3.begin(at(0), client(1, port), BACKEND).unwrap_err();
        assert_eq!(refused, Http3Drop::TooManyFromSource);
    }
    // The rate is for all sources; what was refused before did not count.
    for host in [2, 3] {
        http3.begin(at(0), client(host, 1000), BACKEND).unwrap();
    }
    let refused = http3.begin(at(0), client(4, 1000), BACKEND).unwrap_err();
    assert_eq!(refused, Http3Drop::TooFast);
    http3.begin(at(400), client(4, 1000), BACKEND).unwrap();
}

/// A client of its own network, at n.n.n.n.
fn afar(n: u8, port: u16) -> Client {
    let mut client = client(0, port);
    client.five_tuple.client = SocketAddr::from(([n, n, n, n], port));
    client
}

#[test]
fn in_a_flood_from_64_addresses_a_client_with_one_flow_keeps_it_and_a_new_one_gets_one() {
    let mut http3 = flows(256, 9000, 200);
    let honest = http3.begin(at(0), afar(200, 1), BACKEND).unwrap();
    // Each of them begins 40 flows a second, which is within its own limits, and all together 13
    // times what may begin.
    let mut served = 0;
    for n in 0..25_600_u64 {
        let now = at(1 + n * 10 / 26);
        let _ = http3.begin(now, afar((n % 64) as u8, (n / 64) as u16), BACKEND);
        if n % 512 == 0 {
            served += u32::from(http3.begin(now, afar(100 + (n / 512) as u8, 1), BACKEND).is_ok());
        }
    }
    assert!(http3.by_token(honest.slot, honest.generation).is_some());
    assert_eq!(served, 50, "of 50 that came in the flood");
    for n in 100..150 {
        assert!(http3.find(&afar(n, 1).five_tuple).is_some(), "{n} has its flow");
    }
}

#[test]
fn one_network_has_no_more_than_its_share() {
    let mut http3 = flows(100, 2, 1000);
    http3.config.limits.flows_per_network = 3;
    for host in 1..=3 {
        http3.begin(at(0), client(host, 1), BACKEND).unwrap();
    }
    let refused = http3.begin(at(0), client(4, 1), BACKEND).unwrap_err();
    assert_eq!(refused, Http3Drop::TooManyFromSource);
    http3.begin(at(0), afar(1, 1), BACKEND).unwrap();
}

#[test]
fn the_limits_hold_for_all_shards_together() {
    let shared = Http3Shared::new(5);
    let mut shards = [1, 2].map(|seed| Http3::new(config(2, 9, 100), shared.clone(), seed));
    shards[0].begin(at(0), client(1, 1000), BACKEND).unwrap();
    shards[0].begin(at(0), client(1, 1001), BACKEND).unwrap();
    // No shard ends a flow of another.
    let refused = shards[1].begin(at(0), client(1, 1002), BACKEND).unwrap_err();
    assert_eq!(refused, Http3Drop::TooMany);
    let slot = shards[0].find(&client(1, 1000).five_tuple).unwrap();
    drop(shards[0].remove(slot));
    shards[1].begin(at(0), client(1, 1002), BACKEND).unwrap();
}

/// A forged flood for an hour: no more slots than flows, and no more memory.
#[test]
fn a_flood_makes_nothing_grow() {
    let mut http3 = flows(50, 50, 1_000_000);
    let mut port = 0_u16;
    for ms in 0..36_000 {
        port = port.wrapping_add(1);
        let host = (ms % 200) as u8;
        let proven = http3.begin(at(ms * 100), client(host, port), BACKEND).unwrap().slot;
        if ms % 3 == 0 {
            prove(&mut http3, proven, at(ms * 100));
            drop(http3.remove(proven));
        }
        for slot in 0..http3.slots() {
            if http3.expired(at(ms * 100), slot).is_some() {
                drop(http3.remove(slot));
            }
        }
    }
    assert!(
        http3.slots() <= 50 && http3.unproven.len() <= 50,
        "{}",
        http3.unproven.len()
    );
}
