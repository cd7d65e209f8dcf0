use std::sync::Arc;

use super::super::tests::lines;
use super::*;
use crate::base::address::{Family, FiveTuple, Transport};
use crate::turn::SessionId;
use crate::turn::policy::Denied;
use crate::turn::types::RelayedAddr;
use crate::turn::{Refusal, RefusalReason};
use crate::wire::message::Method;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn refused(source: u32, refusal: Refusal) -> Refused {
    Refused {
        method: Method::Allocate,
        five_tuple: FiveTuple {
            client: (std::net::Ipv4Addr::from_bits(source), 5000).into(),
            server: "192.0.2.1:3478".parse().unwrap(),
            transport: Transport::Udp,
        },
        username: Some(Arc::from("1700000000:bob")),
        refusal,
        routine: false,
        half: false,
    }
}

#[test]
fn a_thousand_wrong_logins_a_second_from_a_thousand_sources_write_150_lines_in_the_first_minute_and_120_in_each_later()
{
    let log = RefusalLog::new(1, Vec::new(), 1000);
    let minute = |from: u64| {
        let events = (0..60_000_u64).map(|n| (Instant::ZERO + seconds(from) + Duration::from_millis(n), n % 1000));
        events
            .filter(|&(now, source)| {
                let refused = refused(source as u32, Refusal::WrongPassword { secrets: 1 });
                log.log(now, &refused, LogClient::Full)
            })
            .count()
    };
    let lines = [minute(0), minute(60), minute(120)];
    assert!(lines[0] <= 150, "{lines:?}");
    assert!(lines[1] <= 121 && lines[2] <= 121, "{lines:?}");
    assert!(
        lines[2] > 100,
        "the others are told again as the budget comes back: {lines:?}"
    );
}

#[test]
fn one_source_has_five_lines_and_then_six_a_minute_and_leaves_the_others_theirs() {
    let log = RefusalLog::new(1, Vec::new(), 1000);
    let lines = |source: u32, now| {
        let one = refused(source, Refusal::UnknownUser);
        (0..1000).filter(|_| log.log(now, &one, LogClient::Full)).count()
    };
    assert_eq!(lines(1, at(0)), 5);
    assert_eq!(lines(1, at(9)), 0);
    assert_eq!(lines(1, at(10)), 1);
    assert_eq!(lines(2, at(10)), 5);
}

#[test]
fn a_routine_refusal_takes_nothing_of_the_budget_for_the_others() {
    let log = RefusalLog::new(1, Vec::new(), 1000);
    let mut routine = refused(1, Refusal::UnknownUser);
    routine.routine = true;
    for _ in 0..1000 {
        assert!(log.log(at(0), &routine, LogClient::Full));
    }
    assert!(log.log(at(0), &refused(1, Refusal::UnknownUser), LogClient::Full));
}

#[test]
fn what_was_left_out_is_said_once_a_minute() {
    let log = RefusalLog::new(1, Vec::new(), 1000);
    let left = || log.left_out.count();
    log.leave_out(7);
    log.summarise(at(0));
    assert_eq!(left(), 0);
    log.leave_out(3);
    log.summarise(at(59));
    assert_eq!(left(), 3, "not yet");
    log.summarise(at(60));
    assert_eq!(left(), 0);
    log.leave_out(1);
    log.report_left_out();
    assert_eq!(left(), 0, "the last word");
}

#[test]
fn a_client_from_this_machine_is_a_proxys_unless_the_server_is_for_this_machine_alone() {
    const ELSEWHERE: &str = "198.51.100.9:50000";
    const HERE: &str = "127.0.0.4:50000";
    for (client, transport, server, relayed, hidden) in [
        ("127.0.0.1:4000", Transport::Tcp, "127.0.0.1:5349", ELSEWHERE, true),
        ("127.8.0.1:4000", Transport::Tls, "127.0.0.1:5349", ELSEWHERE, true),
        ("[::1]:4000", Transport::Tcp, "[::1]:5349", ELSEWHERE, true),
        // Bound to loopback, as is wise behind a proxy, and relays to others.
        ("127.0.0.1:4000", Transport::Tcp, "127.0.0.1:5350", ELSEWHERE, true),
        // For tests on one machine.
        ("127.0.0.1:4000", Transport::Tcp, "127.0.0.1:5350", HERE, false),
        ("127.0.0.1:4000", Transport::Tcp, "127.0.0.1:5349", HERE, true),
        ("192.0.2.7:4000", Transport::Tcp, "192.0.2.1:5349", ELSEWHERE, false),
        // A program on this machine; proxies in front of the relay carry streams.
        ("127.0.0.1:4000", Transport::Udp, "127.0.0.1:5349", ELSEWHERE, false),
        ("127.0.0.1:4000", Transport::Dtls, "127.0.0.1:5349", ELSEWHERE, false),
    ] {
        let log = RefusalLog::new(1, vec!["127.0.0.1:5350".parse().unwrap()], 1000);
        let began = Event::AllocationBegan {
            id: SessionId::from_random([1; 12]),
            five_tuple: FiveTuple {
                client: client.parse().unwrap(),
                server: server.parse().unwrap(),
                transport,
            },
            username: Arc::from("bob"),
            relayed: [Some(RelayedAddr(relayed.parse().unwrap())), None],
        };
        let said = [0, 1, 86_399, 86_400].map(|n| log.warn_of_hidden_client(at(n), &began));
        assert_eq!(
            said,
            [hidden, false, false, hidden],
            "{client} {transport} {server} {relayed}"
        );
    }
}

fn peer(text: &str, rule: Denied) -> Refusal {
    let peer = text.parse().unwrap();
    Refusal::PeerDenied { peer, rule }
}

#[test]
fn a_refusal_reads_as_what_is_the_case_and_what_to_do() {
    for (refusal, why, help) in [
        (
            Refusal::CredentialExpired {
                ago: seconds(3 * 3600 + 12 * 60 + 9),
            },
            "credential expired 3 h 12 min ago",
            "caches it",
        ),
        (
            Refusal::CredentialExpired {
                ago: seconds(1_700_000_000),
            },
            "credential expired 53 years ago",
            "not with its lifetime",
        ),
        (
            Refusal::CredentialExpired {
                ago: seconds(10 * 365 * 86_400),
            },
            "credential expired 10 years ago",
            "caches it",
        ),
        (
            Refusal::WrongPassword { secrets: 0 },
            "username is time-limited, and this server has no secret",
            "credentials.secret_file",
        ),
        (
            Refusal::NoFreePort {
                family: Family::V6,
                even: true,
                ports: 7,
            },
            "no free even relay port for IPv6: there are 7",
            "relay.ports",
        ),
        (
            Refusal::FamilyMismatch { peer: None },
            "the allocation has no address of this IP version",
            "the client's fault",
        ),
        (
            Refusal::ExpiryTooFar { beyond: seconds(90) },
            "credential ends 1 min 30 s later than it may",
            "credentials.max_ttl",
        ),
        (
            Refusal::CredentialRevoked { left: seconds(60) },
            "the user is revoked for 1 min",
            "relay revoke",
        ),
        (
            Refusal::ExpiryMilliseconds { digits: 13 },
            "the time in the username has 13 digits: milliseconds?",
            "in seconds",
        ),
        (
            Refusal::UsernameReversed,
            "username is `id:expiry`, expected `expiry:id`",
            "swap",
        ),
        (
            Refusal::WrongPassword { secrets: 2 },
            "password matches none of 2 secrets",
            "credentials.secrets",
        ),
        (
            Refusal::WrongPassword { secrets: 1 },
            "password does not match the secret",
            "credentials.secrets",
        ),
        (
            Refusal::UserQuota { held: 50, limit: 50 },
            "user has 50 of 50 allocations",
            "limits.allocations_per_user",
        ),
        (
            Refusal::ForcedPath { port: 3478 },
            "forced login on port 3478",
            "forced_relay.ports",
        ),
        (
            Refusal::NoFreePort {
                family: Family::V4,
                even: false,
                ports: 200,
            },
            "no free relay port for IPv4: there are 200",
            "relay.ports",
        ),
        (
            peer("10.0.3.4:9000", Denied::Private),
            "peer 10.0.3.4 is private",
            "peers.allow",
        ),
        (
            peer("8.8.8.8:53", Denied::Port),
            "peer 8.8.8.8:53 has a port in peers.denied_ports",
            "",
        ),
    ] {
        let explained = explain(&refusal, LogClient::Full);
        assert_eq!(explained.why, why);
        assert!(explained.help.contains(help), "{}", explained.help);
    }
}

#[test]
fn a_peer_that_may_be_a_person_is_hidden_as_clients_are_and_a_private_one_is_not() {
    let person = peer("81.2.69.142:9000", Denied::NotAllowed);
    let machine = peer("10.0.3.4:9000", Denied::Private);
    for (show, hidden) in [
        (LogClient::Full, "81.2.69.142"),
        (LogClient::Truncated, "81.2.69.0/24"),
        (LogClient::Off, "-"),
    ] {
        let why = |refusal| explain(refusal, show).why;
        assert_eq!(why(&person), format!("peer {hidden} is not in peers.allow"));
        assert_eq!(why(&machine), "peer 10.0.3.4 is private");
    }
}

#[test]
fn a_span_is_told_in_its_two_largest_units() {
    for (n, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (3660, "1 h 1 min"),
        (86_400 + 7200, "1 d 2 h"),
        (3 * 31_536_000, "3 years"),
        (86_399, "23 h 59 min"),
        (90_000, "1 d 1 h"),
        (400 * 86_400, "1 years"),
    ] {
        assert_eq!(text::Span(seconds(n)).to_string(), text);
    }
}

#[test]
fn every_rule_of_the_peer_policy_and_every_reason_has_words() {
    for &rule in Denied::ALL {
        let Explanation { why, help } = explain(&peer("10.0.0.1:1", rule), LogClient::Full);
        assert!(!why.ends_with("is refused") && !help.is_empty(), "{rule}");
    }
    let words = |refusal: Refusal| {
        let Explanation { why, help } = explain(&refusal, LogClient::Full);
        assert!(!why.ends_with("is refused") && !help.is_empty(), "{refusal:?}");
        refusal.reason()
    };
    let told: std::collections::HashSet<RefusalReason> = every_refusal().into_iter().map(words).collect();
    assert_eq!(told.len(), RefusalReason::ALL.len(), "the list below has every one");
}

fn every_refusal() -> Vec<Refusal> {
    let peer: SocketAddr = "192.0.2.9:9000".parse().unwrap();
    let to = crate::turn::config::redirect::Alternate {
        server: peer,
        other: None,
        domain: None,
    };
    vec![
        Refusal::CredentialExpired { ago: seconds(1) },
        Refusal::ExpiryTooFar { beyond: seconds(1) },
        Refusal::CredentialRevoked { left: seconds(1) },
        Refusal::Draining,
        Refusal::ExpiryMilliseconds { digits: 13 },
        Refusal::UsernameReversed,
        Refusal::UsernameMalformed,
        Refusal::WrongPassword { secrets: 0 },
        Refusal::WrongStaticPassword,
        Refusal::UnknownUser,
        Refusal::WrongRealm,
        Refusal::LoginLimited,
        Refusal::AlgorithmsChanged,
        Refusal::BadRequest,
        Refusal::UnknownAttributes {
            types: Default::default(),
        },
        Refusal::ForcedPath { port: 3478 },
        Refusal::ClientDenied {
            rule: Denied::Transition,
        },
        Refusal::ClientIsRelayed,
        Refusal::Redirected { to },
        Refusal::TransportNotSupported { protocol: 6 },
        Refusal::FamilyNotSupported,
        Refusal::MobilityForbidden,
        Refusal::UserQuota { held: 1, limit: 1 },
        Refusal::AddressQuota { held: 1, limit: 1 },
        Refusal::NetworkQuota { held: 1, limit: 1 },
        Refusal::TotalLimit { limit: 1 },
        Refusal::ReservationQuota { limit: 1 },
        Refusal::NoFreePort {
            family: Family::V6,
            even: true,
            ports: 1,
        },
        Refusal::PortsInUse,
        Refusal::NoDescriptor,
        Refusal::SocketFailed,
        Refusal::ReservationUnknown,
        Refusal::AllocationExists,
        Refusal::NoAllocation,
        Refusal::TicketUnknown,
        Refusal::WrongUser,
        Refusal::FamilyMismatch { peer: Some(peer) },
        Refusal::PeerDenied {
            peer,
            rule: Denied::Private,
        },
        Refusal::PeerIsItself { peer },
        Refusal::PeerPortDenied { peer },
        Refusal::ChannelConflict { number: 1 },
        Refusal::PermissionsFull { limit: 1 },
        Refusal::ChannelsFull {
            channels: 1,
            permissions: 1,
        },
        Refusal::PermissionLimited,
        Refusal::ConnectionExists { peer },
        Refusal::ConnectionsFull,
        Refusal::AllocationRate,
        Refusal::UserRate,
        Refusal::PeerUnreachable { peer },
        Refusal::ConnectionUnknown,
    ]
}

#[test]
fn a_refusal_has_a_line_at_info_and_a_routine_one_at_debug() {
    let log = RefusalLog::new(1, Vec::new(), 1000);
    let mut one = refused(0xC000_0207, Refusal::UnknownUser);
    one.half = true;
    let said = lines(|| assert!(log.log(at(0), &one, LogClient::Full)));
    let [line] = &said[..] else { panic!("{said:?}") };
    let begins = "INFO relay::refusal: Allocate refused in half: no such user, and not a time-limited username either \
                  reason=\"unknown_user\" user=1700000000:bob client=192.0.2.7:5000 transport=\"udp\" help=";
    assert!(line.starts_with(begins), "{line}");
    let mut routine = refused(0xC000_0207, peer("10.0.3.4:9000", Denied::Private));
    routine.routine = true;
    let said = lines(|| {
        for _ in 0..40 {
            assert!(log.log(at(0), &routine, LogClient::Off));
        }
    });
    assert_eq!(said.len(), 30, "its own budget");
    let begins = "DEBUG relay::refusal: Allocate refused: peer 10.0.3.4 is private reason=";
    assert!(
        said[0].starts_with(begins) && said[0].contains(" client=- "),
        "{}",
        said[0]
    );
}

#[test]
fn how_many_refusals_have_no_line_is_said_and_nothing_where_all_have() {
    let log = RefusalLog::new(1, Vec::new(), 1000);
    assert_eq!(lines(|| log.summarise(at(0))), [""; 0]);
    log.leave_out(7);
    let said = lines(|| log.summarise(at(0)));
    let [line] = &said[..] else { panic!("{said:?}") };
    assert!(
        line.starts_with("INFO relay::refusal: more requests were refused than have a line count=7 "),
        "{line}"
    );
    assert_eq!(lines(|| log.report_left_out()), [""; 0]);
    log.leave_out(1);
    assert_eq!(lines(|| log.report_left_out()).len(), 1);
}
